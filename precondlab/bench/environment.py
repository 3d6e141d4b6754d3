"""What timings depend on: machine, threads, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from precondlab.bench.pool import PINNED, Failed, Worker, core

__all__ = ["machine", "own_versions", "peer_versions"]

_OWN = ("precondlab", "torch", "numpy", "scipy")
_PEERS = ("curvlinops-for-pytorch", "hessian-eigenthings", "matfree", "jax", "jaxlib", "torch", "numpy", "scipy")


def machine() -> dict[str, Any]:
    """Return the class of machine and how processes are pinned; no host name and no path."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": cores,
        "memory_gb": round(int((_first("/proc/meminfo", "MemTotal") or "0").split()[0]) / 2**20, 1),
        "threads": 1,
        "pinned_to_one_core": core() >= 0,
        "settings": PINNED,
        "load": round(os.getloadavg()[0], 2),
    }


def own_versions() -> dict[str, str]:
    """Return the versions in this interpreter."""
    found = {"python": platform.python_version()}
    for name in _OWN:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree that was never installed
            continue
    return found


def peer_versions(python: Path | None) -> dict[str, str]:
    """Return the versions in the other libraries' interpreter, or nothing if there is none."""
    if python is None:
        return {}
    with Worker(str(python), timeout=60) as worker:
        try:
            return worker.ask("versions", names=list(_PEERS))["versions"]
        except Failed:
            return {}


def _first(path: str, key: str) -> str | None:
    file = Path(path)
    if not file.exists():
        return None
    lines = (line.partition(":") for line in file.read_text().splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() == key), None)
