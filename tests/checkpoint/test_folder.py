"""Checkpoints on disk: atomic, verified, pruned, and never anything but ours when they are damaged."""

import contextlib
import json
import os
import random
import shutil
import stat
import subprocess
import warnings
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from precondlab.checkpoint import CheckpointError, CheckpointWarning, fingerprint, load, save, saved

FILES = ["SHA256SUMS", "meta.json", "state.safetensors"]


def state(step):
    return {"step": step, "x": torch.full((20,), float(step), dtype=torch.float64), "z": [torch.tensor(1j * step)]}


def is_state(found, step):
    return found["step"] == step and torch.equal(found["x"], state(step)["x"]) and found["z"][0].item() == 1j * step


@pytest.fixture
def two(tmp_path):
    for step in (1, 2):
        save(tmp_path, state(step))
    return tmp_path


def expect_fallback(folder, step=1, match=None):
    with pytest.warns(CheckpointWarning, match=match):
        assert is_state(load(folder), step)


def test_the_last_checkpoints_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in range(1, 6):
        path = save(tmp_path, state(step), keep=3)
        assert path.name == f"checkpoint-{step:06d}" and saved(tmp_path)[-1] == path
        assert is_state(load(tmp_path), step)
    assert sorted(os.listdir(tmp_path)) == [f"checkpoint-{n:06d}" for n in (3, 4, 5)] + ["latest"]
    assert (tmp_path / "latest").read_text() == "checkpoint-000005\n"
    assert sorted(os.listdir(path)) == FILES


def test_the_manifest_is_what_sha256sum_reads(two):
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=saved(two)[-1], check=True)


def test_other_programs_read_the_tensors_by_name(two):
    from safetensors.torch import load_file

    assert torch.equal(load_file(saved(two)[-1] / "state.safetensors")["x"], state(2)["x"])


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        path = save(tmp_path, state(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    assert {stat.S_IMODE((path / name).stat().st_mode) for name in FILES} == {0o666 & ~umask}


def test_what_an_interrupted_save_left_is_ignored_and_removed(two):
    shutil.copytree(saved(two)[-1], two / ".tmp-checkpoint-000003")
    (two / ".tmp-latest").write_text("checkp")
    assert is_state(load(two), 2)
    save(two, state(3))
    assert sorted(os.listdir(two)) == ["checkpoint-000002", "checkpoint-000003", "latest"]


def test_a_save_that_fails_changes_nothing(two, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save(two, state(3))
    with pytest.raises(TypeError, match=r"builtins.complex"):
        save(two, {"a": 1j})
    assert is_state(load(two), 2) and len(os.listdir(two)) == 3


def test_everything_is_on_the_disk_before_it_is_named(tmp_path, monkeypatch):
    events = []
    replace = Path.replace

    def renamed(old, new):
        events.append(new.name)
        return replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(Path, "replace", renamed)
    path = save(tmp_path, state(1))
    files = {(path / name).stat().st_ino for name in [*FILES, "."]}
    folder, pointer = tmp_path.stat().st_ino, (tmp_path / "latest").stat().st_ino
    assert set(events[:4]) == files
    assert events[4:] == [path.name, folder, pointer, "latest", folder]


def test_killed_before_the_pointer_moved(two):
    (two / "latest").write_text("checkpoint-000001\n")
    assert is_state(load(two), 2)
    (two / "latest").unlink()
    assert is_state(load(two), 2)
    assert save(two, state(3)).name == "checkpoint-000003"


def test_a_lost_checkpoint_is_noticed_and_its_number_not_used_again(two):
    shutil.rmtree(two / "checkpoint-000002")
    expect_fallback(two, match="2, the last one, is missing")
    assert save(two, state(3)).name == "checkpoint-000003"


def test_a_damaged_pointer_is_noticed(two):
    for text in ["", "../../etc/passwd", "checkpoint-000002/..", "checkpoint-²²²²²²"]:
        (two / "latest").write_text(text)
        expect_fallback(two, step=2, match="latest is damaged")


def test_every_flipped_byte_is_noticed(two):
    """Every byte of the manifest, of meta.json and of the header, and the whole payload."""
    undetected, flips = 0, 0
    for name in FILES:
        path = saved(two)[-1] / name
        good = path.read_bytes()
        for position in range(len(good)):
            path.write_bytes(
                good[:position] + bytes([good[position] ^ 1 << random.randrange(8)]) + good[position + 1 :]
            )
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                undetected += not (is_state(load(two), 1) and "checksums" in str(caught[-1].message))
            flips += 1
        path.write_bytes(good)
    assert undetected == 0 and flips > 700
    assert is_state(load(two), 2)


@pytest.mark.parametrize("name", FILES)
def test_truncated_removed_replaced_and_added_files_are_noticed(two, name):
    path = saved(two)[-1] / name
    good = path.read_bytes()
    for size in [*random.sample(range(len(good)), 20), 0, len(good) - 1]:
        path.write_bytes(good[:size])
        expect_fallback(two)
    path.write_bytes(good + b"\0")
    expect_fallback(two)
    path.unlink()
    expect_fallback(two, match="should hold the files")
    path.symlink_to(saved(two)[0] / name)
    expect_fallback(two, match="should hold the files")
    path.unlink()
    os.mkfifo(path)
    expect_fallback(two, match="should hold the files")
    path.unlink()
    path.write_bytes(good)
    (path.parent / "more").touch()
    expect_fallback(two, match="should hold the files")


def test_a_checkpoint_that_is_a_link_or_a_file_is_noticed(two):
    shutil.rmtree(two / "checkpoint-000002")
    (two / "checkpoint-000002").symlink_to(two / "checkpoint-000001")
    expect_fallback(two)
    (two / "checkpoint-000002").unlink()
    (two / "checkpoint-000002").touch()
    expect_fallback(two)


def test_nothing_readable_is_one_error_that_names_each(two, tmp_path):
    for path in saved(two):
        (path / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no checkpoint that can be read.*000002 is damaged.*000001 is damaged"):
        load(two)
    for nothing in (tmp_path / "missing", tmp_path / "latest"):
        assert saved(nothing) == []
        with pytest.raises(CheckpointError, match="no checkpoint"):
            load(nothing)


def forge(path, **files):
    """Overwrite files and make the manifest agree, as only a program could."""
    from precondlab.checkpoint.folder import _sums

    for name, data in files.items():
        (path / {"meta": "meta.json", "tensors": "state.safetensors"}[name]).write_bytes(data)
    (path / "SHA256SUMS").write_bytes(_sums(path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["x", "float64"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["$tensor", "dtype", "order", "$dict", "$tuple", "$float"]), inner
        )
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    """Loads a checkpoint with some files replaced."""
    folder = tmp_path_factory.mktemp("forged")
    path = save(folder, state(2))
    good = {"meta": (path / "meta.json").read_bytes(), "tensors": (path / "state.safetensors").read_bytes()}

    def load_or_refuse(**files):
        forge(path, **{**good, **files})
        with warnings.catch_warnings(), contextlib.suppress(CheckpointError):
            warnings.simplefilter("ignore", CheckpointWarning)
            assert isinstance(load(folder), dict)

    return load_or_refuse, good


@given(st.binary(max_size=300))
def test_random_bytes_with_right_checksums_raise_nothing_else(forged, data):
    load_or_refuse, _ = forged
    load_or_refuse(meta=data)
    load_or_refuse(tensors=data)
    load_or_refuse(tensors=len(data).to_bytes(8, "little") + data)


@given(st.data())
def test_mutated_files_with_right_checksums_raise_nothing_else(forged, data):
    """What no checksum can catch still loads as a dict or is refused."""
    load_or_refuse, good = forged
    for name in good:
        mutated = bytearray(good[name])
        for _ in range(data.draw(st.integers(1, 3))):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
        load_or_refuse(**{name: bytes(mutated)})
    meta = json.loads(good["meta"])
    load_or_refuse(meta=json.dumps({**meta, data.draw(st.sampled_from(sorted(meta))): data.draw(JSON)}).encode())
    load_or_refuse(meta=json.dumps({**meta, "state": {"a": data.draw(JSON)}}).encode())


@pytest.mark.parametrize("meta", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 100_000, b"\xff\xfe", b"", b"null"])
def test_hostile_json_is_refused(two, meta):
    forge(saved(two)[-1], meta=meta)
    expect_fallback(two)


def test_sizes_are_compared_with_the_file_before_anything_is_allocated(two):
    header = json.dumps({"x": {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}}).encode()
    forge(saved(two)[-1], tensors=len(header).to_bytes(8, "little") + header)
    expect_fallback(two)
    forge(saved(two)[-1], tensors=(2**62).to_bytes(8, "little") + header)
    expect_fallback(two)
    (saved(two)[-1] / "meta.json").open("wb").truncate(2**40)
    expect_fallback(two, match="bytes")


def test_the_state_of_something_else_is_refused(tmp_path):
    mine, other = (fingerprint({"w": torch.tensor(w)}) for w in (1.0, 2.0))
    save(tmp_path, state(1), fingerprint=mine)
    assert is_state(load(tmp_path, fingerprint=mine), 1) and is_state(load(tmp_path), 1)
    with pytest.raises(CheckpointError, match="belongs to something else"):
        load(tmp_path, fingerprint=other)
    save(tmp_path, state(2))
    with pytest.raises(CheckpointError, match="its fingerprint is None"):
        load(tmp_path, fingerprint=mine)


def test_other_settings_are_said(two):
    torch.set_num_threads(2)
    try:
        with pytest.warns(CheckpointWarning, match="threads 1 → 2"):
            assert is_state(load(two), 2)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [(([1],), TypeError, "name its parts"), (({},), ValueError, "keep should be ≥ 1")],
)
def test_mistakes_are_explained(tmp_path, arguments, kind, message):
    with pytest.raises(kind, match=message):
        save(tmp_path, *arguments, keep=0)
    assert not os.listdir(tmp_path)


def test_a_reader_beside_a_writer_sees_whole_states_that_only_advance(tmp_path):
    save(tmp_path, state(0))
    done = False

    def read():
        steps = [0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            while not done:
                found = load(tmp_path)
                assert is_state(found, found["step"])
                steps.append(found["step"])
        return steps

    with ThreadPool(1) as pool:
        reading = pool.apply_async(read)
        for step in range(1, 40):
            save(tmp_path, state(step))
        done = True
        steps = reading.get(timeout=60)
    assert steps == sorted(steps) and len(set(steps)) > 5
