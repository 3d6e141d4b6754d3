"""Resident memory of this process: now, and at its peak since a mark."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

__all__ = ["mark", "peak"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def mark() -> tuple[int, bool]:
    """Give free memory back to the system, forget the peak; return bytes in use, and whether it was forgotten.

    Where the system does not let a process forget its peak (anything but Linux), the peak stays that of the
    whole life of the process, and differences to the mark are not exact.
    """
    gc.collect()
    if not _STATUS.exists():
        return peak(), False
    with contextlib.suppress(AttributeError, OSError):  # a C library without malloc_trim keeps free memory
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5")
    except OSError:
        return _field("VmRSS"), False
    return _field("VmRSS"), True


def peak() -> int:
    """Return the largest number of bytes in use since the mark."""
    if _STATUS.exists():
        return _field("VmHWM")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no line {name}")
