"""Start workers, talk to them, and end them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

__all__ = ["PINNED", "Absent", "Failed", "Worker", "core"]

#: Settings under which every library computes in one thread.
PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "1",
}
# A peer's environment has no precondlab, and must not see the packages beside ours: this makes the package's
# folder importable, its __init__ not run, whatever the interpreter.
_START = (
    "import sys, types; package = types.ModuleType('precondlab'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['precondlab'] = package; from precondlab.bench.worker import main; main(int(sys.argv[2]))"
)
_PACKAGE = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A worker raised an error, died or took too long; the message says what."""


class Absent(Failed):
    """A worker says that its way cannot be taken here."""


def core() -> int:
    """Return the core that all workers share, or −1 where processes cannot be pinned."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else -1


class Worker:
    """A process that answers the requests of :mod:`precondlab.bench.worker`.

    Parameters
    ----------
    python
        Interpreter.
    timeout
        Seconds allowed for one answer; the process is killed after that.
    pinned_to
        Core, −1 for none; :func:`core` if None.
    """

    def __init__(self, python: str, *, timeout: float = 900.0, pinned_to: int | None = None) -> None:
        self.timeout = timeout
        # -P: the current folder must not be importable; PYTHONPATH would mix two environments
        environment: Mapping[str, str] = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | PINNED
        self._process = subprocess.Popen(
            [python, "-P", "-c", _START, str(_PACKAGE), str(core() if pinned_to is None else pinned_to)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self._requests, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and return the answer.

        Raises
        ------
        Absent, Failed
            If the worker says so, dies or exceeds its time.
        """
        late = threading.Timer(self.timeout, self._process.kill)
        late.start()
        try:
            self._requests.write(json.dumps({"do": verb, **arguments}) + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timed_out = not late.is_alive()
            late.cancel()
        if not line:
            code = self._process.wait()
            why = f"took longer than {self.timeout:g} s" if timed_out else f"ended with exit code {code}"
            raise Failed(f"the process {why} while asked to {verb}")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise {"absent": Absent, "failed": Failed}[answer["kind"]](answer["reason"])
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
