"""Write states to a folder atomically, and read back only what was written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from precondlab.checkpoint.tree import decode, encode
from precondlab.errors import CheckpointError, CheckpointWarning

__all__ = ["load", "save", "saved"]

_SCHEMA = 1
_META, _TENSORS, _SUMS, _LATEST = "meta.json", "state.safetensors", "SHA256SUMS", "latest"
_LARGEST_META = 2**26  # bytes
_NAME = re.compile(r"checkpoint-(\d{6,18})")


def save(
    folder: str | os.PathLike[str],
    state: Mapping[str, Any],
    /,
    *,
    keep: int = 2,
    fingerprint: str | None = None,
) -> Path:
    """Add a checkpoint of a nested state to a folder, all of it or nothing, and return its path.

    ``checkpoint-000001/`` holds ``state.safetensors`` (tensors named by their path), ``meta.json`` (everything
    else, versions, threads) and ``SHA256SUMS`` (as ``sha256sum -c`` reads it). It is written beside its place,
    flushed to the disk and renamed; then the file ``latest`` names it, and all but the last ``keep`` are removed.
    A process killed at any moment leaves the checkpoints of before, or this one too. One process writes to a
    folder, any number may read.

    Parameters
    ----------
    folder
        Made if missing. What an interrupted save left in it is removed.
    state
        Nested dicts, lists and tuples of dense tensors, int, float, str, bool and None, such as
        ``optimizer.state_dict()`` or ``KrylovSchur.state_dict()``. Random state:
        ``generator.get_state()``, ``torch.get_rng_state()``.
    keep
        How many checkpoints stay, the new one included. With 1 there is none to fall back to.
    fingerprint
        What the state belongs to, from :func:`~precondlab.checkpoint.fingerprint`; :func:`load` compares it.

    Raises
    ------
    TypeError, ValueError
        For a state with anything else in it; nothing is written.
    OSError
        If the folder cannot be written or the disk is full; the checkpoints of before stay.

    Cost: the state is written once and hashed once. Memory: nothing for dense tensors on the host, else a copy of
    the tensor.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(folder, {"step": 7, "x": torch.tensor([1.0, -0.0])})
    ...     path.name, load(folder)
    ('checkpoint-000001', {'step': 7, 'x': tensor([1., -0.])})
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if not isinstance(state, Mapping):
        raise TypeError(f"checkpoint.save: the state should be a dict, got {type(state).__name__}; name its parts")
    if keep < 1:
        raise ValueError(f"checkpoint.save: keep should be ≥ 1, got {keep}")
    tree, tensors = encode(state)
    meta = json.dumps(
        {"schema": _SCHEMA, **_environment(), "precondlab": _version(), "fingerprint": fingerprint, "state": tree},
        allow_nan=False,
        indent=1,
    ).encode()
    if len(meta) > _LARGEST_META:
        raise ValueError(
            f"checkpoint.save: the state has {len(meta):,} bytes of numbers and strings outside of tensors, more than "
            f"{_LARGEST_META:,}; put long lists into tensors"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".tmp-*"):
        _remove(stale)
    number = max([_number(path.name) for path in saved(folder)] + [_pointer(folder) or 0]) + 1
    path = folder / f"checkpoint-{number:06d}"
    new = folder / f".tmp-{path.name}"
    try:
        new.mkdir()
        (new / _META).write_bytes(meta)
        save_file(tensors, new / _TENSORS)
        (new / _TENSORS).chmod((new / _META).stat().st_mode)  # safetensors does not ask the umask
        (new / _SUMS).write_bytes(_sums(new))
        for name in (_META, _TENSORS, _SUMS, "."):
            _flush(new / name)
        new.replace(path)
    except SafetensorError as error:
        raise OSError(f"checkpoint.save: {path} could not be written: {error}") from error
    finally:
        _remove(new)
    _flush(folder)
    pointer = folder / f".tmp-{_LATEST}"
    pointer.write_text(f"{path.name}\n")
    _flush(pointer)
    pointer.replace(folder / _LATEST)
    _flush(folder)
    for old in saved(folder)[:-keep]:
        _remove(old.replace(folder / f".tmp-{old.name}"))
    return path


def load(folder: str | os.PathLike[str], /, *, fingerprint: str | None = None) -> dict[str, Any]:
    """Return the state of the last checkpoint in a folder that is as it was written.

    Checksums come first, then the schema; nothing in the files is executed. Tensors are on the host, with the bits,
    the memory layout and the sharing they had; dicts of any kind are dicts.

    Parameters
    ----------
    folder
        As given to :func:`save`.
    fingerprint
        What the state should belong to; None accepts any.

    Raises
    ------
    CheckpointError
        If there is no checkpoint that is as it was written, or if the fingerprint is another one. No other exception
        comes from files, whatever is in them.

    Warns
    -----
    CheckpointWarning
        If the last checkpoint is damaged or missing, naming each that was passed over, and if versions of torch, the
        number of threads or the default dtype differ, so that a run will not go on bit for bit.

    Cost: the state is read twice. Memory: the state, and one tensor more.
    """
    folder = Path(folder)
    before: list[Path] | None = None
    problems: list[str] = []
    while True:
        pointer = _pointer(folder)  # read first: what it names is there before it is named
        paths = saved(folder)
        if paths == before:
            break
        before, problems = paths, []
        if pointer is None:
            problems.append(f"{folder / _LATEST} is damaged")
        elif paths and pointer > _number(paths[-1].name):
            problems.append(f"checkpoint {pointer}, the last one, is missing")
        for path in reversed(paths):
            try:
                meta, state = _read(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if fingerprint is not None and meta["fingerprint"] != fingerprint:
                raise CheckpointError(
                    f"checkpoint.load: {path} belongs to something else: its fingerprint is {meta['fingerprint']}, "
                    f"expected {fingerprint}; use another folder, or load without fingerprint if you know better"
                )
            _warn(path, meta, problems)
            return state
    raise CheckpointError("; ".join([f"checkpoint.load: {folder} has no checkpoint that can be read", *problems]))


def saved(folder: str | os.PathLike[str], /) -> list[Path]:
    """Return the paths of the checkpoints in a folder, the last one last; none if there is no such folder.

    They are listed, not verified: ``state = load(folder) if saved(folder) else None``.

    >>> saved("/nowhere")
    []
    """
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except OSError:
        return []
    return [Path(folder) / name for name in sorted(names, key=_number)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return meta.json and the state of one checkpoint."""
    from safetensors import SafetensorError, safe_open

    try:
        with os.scandir(path) as entries:
            kinds = {entry.name: entry.is_file(follow_symlinks=False) for entry in entries}
        if path.is_symlink() or kinds != dict.fromkeys((_META, _TENSORS, _SUMS), True):
            raise CheckpointError(f"{path} should hold the files {_META}, {_TENSORS}, {_SUMS}, got {sorted(kinds)}")
        if (path / _META).stat().st_size > _LARGEST_META:
            raise CheckpointError(f"{path / _META} has more than {_LARGEST_META:,} bytes")
        sums = _sums(path)
        if (path / _SUMS).stat().st_size != len(sums) or (path / _SUMS).read_bytes() != sums:
            raise CheckpointError(f"{path} is damaged: its files do not have the checksums in {_SUMS}")
        meta = json.loads((path / _META).read_bytes())
        if not isinstance(meta, dict) or meta.get("schema") != _SCHEMA:
            raise CheckpointError(f"{path} is not of schema {_SCHEMA}; was it written by another version?")
        if not {*_environment(), "fingerprint"} <= meta.keys() or not isinstance(meta.get("state"), dict):
            raise CheckpointError(f"{path / _META} lacks entries of schema {_SCHEMA}")
        with safe_open(path / _TENSORS, framework="pt") as file:
            # a copy is aligned as in the run that wrote it, and needs the file no longer
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        state = decode(meta["state"], tensors)
    except CheckpointError:
        raise
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / _META} holds a state that is no dict")
    return meta, state


def _warn(path: Path, meta: dict[str, Any], problems: list[str]) -> None:
    if problems:
        warnings.warn(f"checkpoint.load: took {path}: " + "; ".join(problems), CheckpointWarning, stacklevel=3)
    changed = [f"{name} {meta[name]} → {now}" for name, now in _environment().items() if meta[name] != now]
    if changed:
        warnings.warn(
            f"checkpoint.load: {path} was written with other settings ({', '.join(changed)}): the run goes on, but the "
            "last bits may differ from an uninterrupted one",
            CheckpointWarning,
            stacklevel=3,
        )


def _sums(path: Path) -> bytes:
    lines = []
    for name in (_META, _TENSORS):
        with open(path / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines).encode()


def _pointer(folder: Path) -> int | None:
    """Return the number of the checkpoint that ``latest`` names, 0 if there is no such file, None if it is damaged."""
    path = folder / _LATEST
    if not os.path.lexists(path):
        return 0
    try:
        text = path.read_bytes().decode("ascii", "replace").removesuffix("\n") if path.is_file() else ""
    except OSError:
        return None
    return _number(text) if _NAME.fullmatch(text) else None


def _number(name: str) -> int:
    return int(name.removeprefix("checkpoint-"))


def _environment() -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()).removeprefix("torch."),
    }


def _version() -> str:
    try:
        return version("precondlab")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0"


def _flush(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
