"""Tests of `pytorch_course.checkpoint`: every fault is injected for real.

Faults that kill or limit a process need processes that are cheap to lose. This file, run as a program, imports torch
once and forks one child per request (`serve`, at the end); the functions of `SCENARIOS` run there.
"""

import copy
import fcntl
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections import Counter
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import pytorch_course
from pytorch_course import checkpoint
from pytorch_course.checkpoint import CheckpointError, Checkpoints, load, save
from pytorch_course.rng import rng_state, seed_everything, set_rng_state


class Run:
    """A small training run that draws random numbers, the stand-in for the state of a real one."""

    def __init__(self, width=16):
        seed_everything(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Dropout(0.3), torch.nn.Linear(width, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.step = 0

    def advance(self):
        loss = (self.model(torch.randn(16, 8)) - random.random()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return self

    def state_dict(self):
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": rng_state(),
            "step": self.step,
        }

    def load_state_dict(self, state):
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        set_rng_state(state["rng"])
        self.step = state["step"]

    def __eq__(self, other):
        return same(self.state_dict(), other.state_dict())

    __hash__ = None


def same(one, other):
    """Whether two nested values are equal, bit for bit and type for type."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bytes_of(one) == bytes_of(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def bytes_of(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def payload(version, numbers=100_000):
    return {"version": version, "weights": [torch.full((numbers,), float(version)) for _ in range(4)]}


def is_whole(data):
    return all(bool((weights == data["version"]).all()) for weights in data["weights"])


def flip(path, position=None):
    """Flip one bit; by default one that belongs to a tensor."""
    data = bytearray(path.read_bytes())
    if position is None:
        with zipfile.ZipFile(path) as archive:
            entry = max(archive.infolist(), key=lambda entry: entry.file_size)
            with archive.open(entry) as file:
                position = data.index(file.read(64)) + 5
    data[position] ^= 4
    path.write_bytes(data)


def cut(path, length):
    os.truncate(path, length)


def strays(folder):
    return [path.name for path in Path(folder).iterdir() if "unfinished" in path.name]


def everything(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def names(folder):
    return sorted(path.name for path in Path(folder).glob("*.pt"))


@pytest.fixture(autouse=True)
def _same_random_numbers_afterwards():
    before = rng_state()
    yield
    set_rng_state(before)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


def trained(steps):
    run = Run()
    for _ in range(steps):
        run.advance()
    return run


def filled(root, steps, keep=10):
    """A folder with checkpoints of the steps 1 to `steps`; the object that wrote them is gone, its lock too."""
    checkpoints, run = Checkpoints(root, keep), Run()
    for _ in range(steps):
        checkpoints.save(run.advance())
    return run


# save and load

NUMBERS = st.integers(-(2**200), 2**200) | st.floats() | st.booleans() | st.none() | st.complex_numbers()
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=5) | st.binary(
    min_size=1, max_size=5
)  # A weights-only load refuses empty bytes.
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    return tensor.to(draw(st.sampled_from(DTYPES)))


OBJECTS = st.recursive(
    NUMBERS | TEXTS | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(obj=OBJECTS)
def test_what_is_saved_is_loaded(obj):
    with tempfile.TemporaryDirectory() as folder:
        path = save(obj, Path(folder, "a.pt"))
        assert same(load(path), obj)
        assert everything(folder) == ["a.pt"]


def test_the_path_may_be_text_and_may_hold_any_letter(tmp_path):
    path = save(payload(1, 5), str(tmp_path / "été 1.x.pt"))
    assert path == tmp_path / "été 1.x.pt"
    assert load(str(path))["version"] == 1


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_and_shared_tensors_survive(tmp_path):
    weight = torch.arange(6.0)
    back = load(save({"sparse": torch.eye(3).to_sparse(), "a": weight, "view": weight[2:]}, tmp_path / "a.pt"))
    assert torch.equal(back["sparse"].to_dense(), torch.eye(3))
    assert back["a"].untyped_storage().data_ptr() == back["view"].untyped_storage().data_ptr()


def test_the_bytes_are_a_function_of_the_object(tmp_path):
    first = save(payload(1, 5), tmp_path / "a.pt").read_bytes()
    assert save(payload(1, 5), tmp_path / "b.pt").read_bytes() == first


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    path = save(1, tmp_path / "a.pt")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_torch_reads_the_file(tmp_path):
    assert torch.load(save(payload(3, 5), tmp_path / "a.pt"), weights_only=True)["version"] == 3


def test_tensors_go_where_they_are_asked_to(tmp_path):
    path = save({"a": torch.ones(2)}, tmp_path / "a.pt")
    assert load(path, map_location="meta")["a"].device.type == "meta"
    assert load(path, torch.device("cpu"))["a"].device.type == "cpu"


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "a.pt")


def test_the_order_is_write_sync_rename_sync(tmp_path, monkeypatch):
    calls, real_sync, real_replace = [], os.fsync, Path.replace

    def sync(descriptor):
        calls.append(("sync", os.fstat(descriptor).st_ino))
        real_sync(descriptor)

    def replace(source, target):
        assert load(source)["version"] == 1
        calls.append(("rename", source.stat().st_ino))
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    path = save(payload(1, 5), tmp_path / "a.pt")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("sync", file), ("rename", file), ("sync", folder)]


def test_threads_that_write_one_file_do_not_mix_it(tmp_path):
    path, failures = tmp_path / "a.pt", []

    def write(version):
        try:
            for _ in range(15):
                save(payload(version, 1000), path)
                assert is_whole(load(path))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(version,)) for version in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert everything(tmp_path) == ["a.pt"]


# Damaged files


@pytest.fixture
def small(tmp_path):
    """A file with one tensor, and what it holds."""
    obj = {"weight": torch.arange(48.0), "step": 7}
    return save(obj, tmp_path / "small.pt"), obj


@contextmanager
def flipped(path, position, bit):
    """The file with one bit changed. In place, because writing it anew thousands of times is slow."""
    with path.open("r+b", buffering=0) as file:
        file.seek(position)
        old = file.read(1)[0]
        for byte in (old ^ 1 << bit, old):
            file.seek(position)
            file.write(bytes([byte]))
            if byte != old:
                yield


def test_every_shorter_file_is_refused(small):
    path, _ = small
    for length in reversed(range(path.stat().st_size)):
        cut(path, length)
        with pytest.raises(CheckpointError, match=r"small\.pt is damaged"):
            load(path)


def test_every_flipped_bit_of_a_tensor_is_noticed(small):
    path, obj = small
    start = path.read_bytes().index(bytes_of(obj["weight"]))
    for position, bit in itertools.product(range(start, start + 192), range(8)):
        with (
            flipped(path, position, bit),
            pytest.raises(CheckpointError, match="wrong checksum or header in the entry checkpoint/data/0"),
        ):
            load(path)
    assert same(load(path), obj)


def test_no_flipped_bit_changes_what_is_read(small):
    # Elsewhere, a flip in padding or in a date is harmless, and then the content must be right. The directory at the
    # end is tried bit by bit: there, torch would read a flipped folder mark as "nothing to read".
    path, obj = small
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    generator = random.Random(0)
    flips = [(position, generator.randrange(8)) for position in range(directory)]
    flips += itertools.product(range(directory, len(data)), range(8))
    outcomes = Counter()
    for position, bit in flips:
        with flipped(path, position, bit):
            try:
                assert same(load(path), obj), f"silently different after flipping bit {bit} of byte {position}"
                outcomes["harmless"] += 1
            except CheckpointError as error:
                outcomes["refused" if str(path) in str(error) else "unnamed"] += 1
    assert outcomes["unnamed"] == 0
    assert min(outcomes["harmless"], outcomes["refused"]) > 500


def test_torch_alone_would_not_notice(small):
    # The reason for our own check. If this fails, torch has begun to check, and ours may go.
    path, obj = small
    flip(path)
    assert not same(torch.load(path, weights_only=True), obj)


def test_a_file_without_checksums_is_not_written(tmp_path):
    path = save(payload(1, 5), tmp_path / "a.pt")
    torch.serialization.set_crc32_options(False)
    try:
        with pytest.raises(CheckpointError, match="wrong checksum"):
            save(payload(2, 5), path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert load(path)["version"] == 1
    assert everything(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5000, b"PK\x03\x04" * 50, b"PK\x05\x06" + b"\0" * 18])
def test_files_of_other_kinds_are_refused(tmp_path, content):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt is (damaged|not a file that torch\.save wrote)"):
        load(path)


def test_another_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("document.xml", "<text/>")
    with pytest.raises(CheckpointError, match=r"a\.pt is not a file that torch\.save wrote"):
        load(tmp_path / "a.pt")


# Files with code


class Evil:
    """Creates a file when a pickle with it is read by a careless reader."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def evil_pickle(path, evil):
    path.write_bytes(pickle.dumps(evil))


def evil_zip(path, evil):
    torch.save({"evil": evil, "weight": torch.ones(3)}, path)


def evil_new_protocol(path, evil):
    torch.save([evil], path, pickle_protocol=4)


def evil_legacy(path, evil):
    torch.save({"evil": evil}, path, _use_new_zipfile_serialization=False)


def evil_by_hand(path, evil):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(evil, protocol=2))
        archive.writestr("archive/version", "3\n")


def evil_dynamic(path, evil):
    """The name of the function is built while the pickle runs, so that no scan sees it."""
    code = b"\x80\x04\x8c\x02os" + b"\x8c\x06system" + b"\x93" + b"\x8c"
    command = f"touch {evil.marker}".encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code + bytes([len(command)]) + command + b"\x85R.")
        archive.writestr("archive/version", "3\n")


EVIL = [evil_pickle, evil_zip, evil_new_protocol, evil_legacy, evil_by_hand, evil_dynamic]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("write", EVIL)
def test_no_code_is_run(tmp_path, monkeypatch, write, scan):
    if not scan:  # The scan gives the clearer message; the load must be safe without it.
        monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda _: [])
    marker, path = tmp_path / "m", tmp_path / "a.pt"
    write(path, Evil(marker))
    with pytest.raises(CheckpointError, match=r"a\.pt") as caught:
        load(path)
    assert not marker.exists()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search("trust|arbitrary|add_safe_globals", text), "torch's advice to run the code must not be shown"


def test_the_evil_files_would_run_their_code_elsewhere(tmp_path):
    # Without this, the test above could pass because its files are harmless.
    for number, write in enumerate(EVIL):
        marker, path = tmp_path / f"m{number}", tmp_path / f"{number}.pt"
        write(path, Evil(marker))
        careless_read(path)
        assert marker.exists(), write.__name__


def careless_read(path):
    """Read a file as a program without any care would: unpickle whatever is inside."""
    data = path.read_bytes()
    if data[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    file = io.BytesIO(data)
    while file.tell() < len(data):  # The old format is a row of pickles.
        with suppress(Exception):
            pickle.load(file)
            continue
        break


@pytest.mark.parametrize(
    ("obj", "name"),
    [(Path("x"), "pathlib"), (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"), ({1: slice(3)}, "slice")],
)
def test_what_load_would_refuse_is_not_written(tmp_path, obj, name):
    path = save(payload(1, 5), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"a\.pt would need code to be read, which is refused: .*{name}"):
        save(obj, path)
    assert load(path)["version"] == 1
    assert everything(tmp_path) == ["a.pt"]


def test_a_number_too_long_for_a_safe_load_is_not_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"not a file that torch\.save wrote"):
        save(2**5000, tmp_path / "a.pt")
    assert everything(tmp_path) == []


def test_what_cannot_be_pickled_raises_as_pickle_does(tmp_path):
    path = save(payload(1, 5), tmp_path / "a.pt")
    with pytest.raises(TypeError, match="pickle"):
        save((i for i in range(3)), path)
    assert load(path)["version"] == 1
    assert everything(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("code", [b"\x80\x02K\x01K\x02R.", b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R."])
def test_a_pickle_that_passes_the_scan_and_fails_to_load(tmp_path, code):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", code)  # Calls the number 1; makes a dictionary of the number 1.
        archive.writestr("archive/version", "3\n")
    with pytest.raises(CheckpointError, match=r"a\.pt cannot be read"):
        load(tmp_path / "a.pt")


def test_too_little_memory_is_not_called_damage(small, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        load(small[0])


# Disks and folders that refuse


def assert_refused(path, match, obj=None):
    """A save fails with a helpful error, the old file is whole, and nothing is left behind."""
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        save(payload(2) if obj is None else obj, path)
    assert path.read_bytes() == before
    assert strays(path.parent) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_device(tmp_path, monkeypatch):
    path = save(payload(1), tmp_path / "a.pt")
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda obj, _: real(obj, "/dev/full"))
    assert_refused(path, r"cannot write .*a\.pt \([\d,]+ bytes are free\): ")


def test_a_file_that_may_not_grow(forge, tmp_path):
    path = save(payload(1), tmp_path / "a.pt")
    error = forge("limited_size", path)
    assert "cannot write" in error
    assert "bytes are free" in error
    assert load(path)["version"] == 1
    assert everything(tmp_path) == ["a.pt"]


@contextmanager
def tiny_disk(folder, size):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        # Only root may mount. Elsewhere the limit on a file's size, tested above, stands in for a full disk.
        pytest.skip("mounting a small disk needs more rights")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(tmp_path):
    with tiny_disk(tmp_path / "disk", "2m") as folder:
        path = save(payload(1), folder / "a.pt")
        assert_refused(path, r"cannot write .*a\.pt \([\d,]+ bytes are free\): ")
        assert is_whole(load(save(payload(3, 1000), path)))


def test_checkpoints_on_a_full_disk_keep_the_old_ones(tmp_path):
    with tiny_disk(tmp_path / "disk", "120k") as folder:
        run, error = Run(), ""
        while not error and run.step < 100:
            error = refusal(Checkpoints(folder, keep=100).save, run.advance())
        assert "bytes are free" in error
        assert run.step > 2
        again = Run()
        assert Checkpoints(folder).resume(again) == run.step - 1
        assert again == trained(run.step - 1)


@contextmanager
def read_only_folder():
    """A folder without the right to write, which root would have anyway: so root becomes nobody inside."""
    folder = Path(tempfile.mkdtemp())
    save(payload(1, 5), folder / "a.pt")
    folder.chmod(0o555)
    (folder / "a.pt").chmod(0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_folder():
    with read_only_folder() as folder:
        assert_refused(folder / "a.pt", r"cannot write .*a\.pt .*Permission denied", payload(2, 5))
        with pytest.raises(CheckpointError, match=r"cannot use .*Permission denied"):
            Checkpoints(folder).resume(Run())
        with pytest.raises(CheckpointError, match=r"cannot use .*Permission denied"):
            Checkpoints(folder / "new").save(Run())


def test_a_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.pt: .*No such file"):
        save(1, tmp_path / "no" / "a.pt")


@pytest.mark.parametrize("kind", ["folder", "device", "pipe"])
def test_only_regular_files_are_replaced(tmp_path, kind):
    path = tmp_path / "a.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.pt: it is not a regular file"):
        save(1, path)
    assert everything(tmp_path) == ["a.pt"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(CheckpointError, match=r"cannot use .*run"):
        Checkpoints(tmp_path / "run").save(Run())


# Temporary files


def test_strays_are_swept_and_other_files_are_not(tmp_path):
    others = [".a.pt.tmp", "b.tmp", "checkpoint.pt", "checkpoint.zip"]
    for name in ["checkpoint.0123-unfinished", "checkpoint.4567-unfinished", *others]:
        (tmp_path / name).touch()
    (tmp_path / "checkpoint.folder-unfinished").mkdir()
    save(1, tmp_path / "a.pt")
    assert everything(tmp_path) == sorted(["a.pt", "checkpoint.folder-unfinished", *others])


def test_the_file_of_a_living_writer_is_spared(tmp_path):
    with checkpoint._temporary_beside(tmp_path / "b.pt") as (temporary, _):
        save(1, tmp_path / "a.pt")
        assert temporary.exists()
    assert everything(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("locked", [True, False])
def test_a_writer_whose_file_was_swept_too_early_takes_another(tmp_path, monkeypatch, locked):
    real, attempts = checkpoint._try_lock, []

    def late(file):
        attempts.append(file.name)
        if len(attempts) == 1:
            Path(file.name).unlink()
            return locked
        return real(file)

    monkeypatch.setattr(checkpoint, "_try_lock", late)
    assert load(save(payload(1, 5), tmp_path / "a.pt"))["version"] == 1
    assert len(set(attempts)) == 2


def test_without_locks_as_on_windows_files_are_still_whole(tmp_path, monkeypatch):
    (tmp_path / "checkpoint.0123-unfinished").touch()
    monkeypatch.setattr(sys, "platform", "win32")
    path = save(payload(1, 5), tmp_path / "a.pt")
    assert load(path)["version"] == 1
    assert everything(tmp_path) == ["a.pt", "checkpoint.0123-unfinished"]


# Checkpoints in one process


def test_a_resumed_run_continues_bit_for_bit(root):
    filled(root, 5)
    again = Run()
    assert Checkpoints(root).resume(again) == 5
    assert again == trained(5)
    assert again.advance() == trained(6)


def test_an_empty_folder_starts_at_zero(root):
    run = Run()
    assert Checkpoints(root).resume(run) == 0
    assert run == Run()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(root, keep):
    checkpoints, run = Checkpoints(root, keep=keep), Run()
    for _ in range(12):
        path = checkpoints.save(run.advance())
        assert path.name == f"step-{run.step:09d}.pt"
        assert names(root) == [f"step-{step:09d}.pt" for step in range(max(1, run.step - keep + 1), run.step + 1)]
    assert strays(root) == []


def test_three_are_kept_unless_told_otherwise(root):
    assert Checkpoints(root).keep == 3


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_is_kept(root, keep):
    with pytest.raises(ValueError, match=f"keep is {keep}, expected at least 1"):
        Checkpoints(root, keep=keep)


def test_steps_are_ordered_as_numbers(root):
    checkpoints, run = Checkpoints(root, keep=2), Run()
    for run.step in (9, 10, 999_999_999, 1_000_000_000):
        checkpoints.save(run)
    assert Checkpoints(root).resume(Run()) == 1_000_000_000
    assert names(root) == ["step-1000000000.pt", "step-999999999.pt"]


def test_files_of_others_are_left_alone(root):
    root.mkdir()
    for name in ("notes.txt", "step-5.pt.bak", "best.pt", "step-x.pt"):
        (root / name).write_text("mine")
    filled(root, 5, keep=1)
    assert Checkpoints(root).resume(Run()) == 5
    assert names(root) == ["best.pt", "step-000000005.pt", "step-x.pt"]
    assert (root / "notes.txt").read_text() == "mine"


def test_the_same_step_may_be_saved_twice(root):
    run = filled(root, 3)
    with torch.no_grad():
        run.model[0].weight.zero_()
    Checkpoints(root).save(run)
    again = Run()
    assert Checkpoints(root).resume(again) == 3
    assert again == run


def test_a_run_that_was_not_resumed_may_not_overwrite_a_later_one(root):
    filled(root, 5)
    before = names(root)
    with pytest.raises(CheckpointError, match=r"run holds step 5, later than step 1: resume from it, or choose"):
        Checkpoints(root, keep=1).save(trained(1))
    assert names(root) == before


DAMAGES = {"empty": lambda path: cut(path, 0), "cut": lambda path: cut(path, 1234), "flip": flip}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_stepped_over(root, damage):
    filled(root, 5)
    for step in (4, 5):
        DAMAGES[damage](root / f"step-00000000{step}.pt")
    again = Run()
    with pytest.warns(UserWarning, match=r"stepped over damaged .*step-000000005\.pt .*step-000000004\.pt ") as caught:
        assert Checkpoints(root).resume(again) == 3
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert again == trained(3)


def test_damaged_files_do_not_count_as_kept(root):
    filled(root, 6)
    for step in (5, 6):
        flip(root / f"step-00000000{step}.pt")
    checkpoints, run = Checkpoints(root, keep=2), Run()
    with pytest.warns(UserWarning, match="stepped over"):
        checkpoints.resume(run)
    run.step = 4
    checkpoints.save(run)  # The damaged ones are later than this step, and do not forbid it.
    assert names(root) == [f"step-00000000{step}.pt" for step in (3, 4, 5, 6)]
    checkpoints.save(run.advance())
    assert names(root) == [f"step-00000000{step}.pt" for step in (4, 5, 6)]
    run.step = 7
    checkpoints.save(run)
    assert names(root) == [f"step-00000000{step}.pt" for step in (5, 6, 7)]
    assert load(root / "step-000000005.pt")["step"] == 5
    run.step = 8
    checkpoints.save(run)
    assert names(root) == [f"step-00000000{step}.pt" for step in (7, 8)]


def test_all_damaged_is_an_error_and_not_a_new_start(root):
    filled(root, 3)
    for path in root.glob("*.pt"):
        cut(path, 500)
    run = trained(1)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .*run is damaged, move them away") as caught:
        Checkpoints(root).resume(run)
    assert all(f"step-00000000{step}.pt" in str(caught.value) for step in (1, 2, 3))
    assert run == trained(1)
    assert len(names(root)) == 3


def test_an_unreadable_file_is_stepped_over(root):
    filled(root, 2)
    (root / "step-000000003.pt").mkdir()
    with pytest.warns(UserWarning, match=r"step-000000003\.pt"):
        assert Checkpoints(root).resume(Run()) == 2


def test_a_malicious_checkpoint_is_stepped_over(root, tmp_path):
    filled(root, 2)
    evil_zip(root / "step-000000009.pt", Evil(tmp_path / "marker"))
    with pytest.warns(UserWarning, match=r"step-000000009\.pt would need code to be read, .*pathlib"):
        assert Checkpoints(root).resume(Run()) == 2
    assert not (tmp_path / "marker").exists()


class Other(Run):
    """Another architecture: one layer has another shape, one is new, one is gone."""

    def __init__(self):
        super().__init__(width=4)
        self.model.append(torch.nn.Linear(1, 1))
        self.model[0].bias = None
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)


def test_another_architecture_is_one_error_and_changes_nothing(root):
    filled(root, 3)
    run = Other().advance()
    before = copy.deepcopy(run.state_dict())
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(root).resume(run)
    assert str(caught.value).splitlines() == [
        f"{root}/step-000000003.pt is of another architecture, nothing was changed",
        "  missing: 3.bias, 3.weight",
        "  unexpected: 0.bias",
        "  of another shape: 0.weight (16, 8) instead of (4, 8), 2.weight (1, 16) instead of (1, 4)",
    ]
    assert same(run.state_dict(), before)


def test_only_the_problems_there_are_get_named(root):
    filled(root, 1)
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(root).resume(Run(width=3))
    assert "missing" not in str(caught.value)
    assert "unexpected" not in str(caught.value)


@pytest.mark.parametrize("obj", [{"step": 1}, [1, 2], {"model": 5}])
def test_a_file_of_something_else_is_an_error(root, obj):
    filled(root, 1)
    save(obj, root / "step-000000009.pt")
    with pytest.raises(CheckpointError, match=r"step-000000009\.pt is not the checkpoint of a training state"):
        Checkpoints(root).resume(Run())


def test_an_error_of_the_state_itself_names_the_file(root):
    filled(root, 1)
    data = load(root / "step-000000001.pt")
    del data["optimizer"]
    save(data, root / "step-000000001.pt")
    with pytest.raises(KeyError) as caught:
        Checkpoints(root).resume(Run())
    assert caught.value.__notes__ == [f"while resuming from {root}/step-000000001.pt"]


# The folder belongs to one process


def test_one_process_may_open_its_folder_twice(root):
    first, second = Checkpoints(root), Checkpoints(root)
    first.save(trained(1))
    second.save(trained(2))
    assert first.resume(Run()) == 2


@pytest.mark.parametrize("content", [b"", b"process 1 on elsewhere\n", b"process %d on here\n", b"\xff"])
def test_a_lock_file_that_nobody_holds_is_taken_over(root, content):
    # One of these processes lives, and one is ourselves, as after a restart in a container.
    root.mkdir()
    (root / ".lock").write_bytes(content.replace(b"%d", str(os.getpid()).encode()))
    Checkpoints(root).save(trained(1))
    assert (root / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_locked_folder_is_refused_with_the_name_of_its_owner(root):
    # A second open file conflicts with the first one even in one process, so this needs no other.
    root.mkdir()
    with (root / ".lock").open("w") as file:
        file.write("process 123 on the moon\n")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match=r"another run uses .*run \(process 123 on the moon\): stop it, or"):
            Checkpoints(root).save(trained(1))
        file.truncate(0)
        with pytest.raises(CheckpointError, match=r"another run uses .*run \(unknown\)"):
            Checkpoints(root).resume(Run())
    assert (root / ".lock").read_bytes() == b""
    assert names(root) == []
    Checkpoints(root).save(trained(1))


def test_a_lock_that_was_forgotten_is_taken_again(root):
    checkpoints = Checkpoints(root)
    checkpoints.save(trained(1))
    checkpoint._forget_locks()  # What happens in a forked child.
    checkpoints.save(trained(2))
    with (root / ".lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_second_run_is_refused_until_the_first_is_killed(forge, root):
    result = forge("second_run", root, "kill", False)
    for error in result["errors"]:
        assert f"another run uses {root.resolve()} (process {result['pid']} on " in error
    assert result["resumed"] == 1


def test_an_orphan_of_a_killed_run_does_not_keep_the_lock(forge, root):
    # Data workers notice only after seconds that the run is gone. The next run must not wait for them.
    result = forge("second_run", root, "kill", True)
    assert len(result["errors"]) == 2
    assert result["resumed"] == 1


def test_a_run_that_lets_go_frees_the_folder(forge, root):
    result = forge("second_run", root, "release", False)
    assert len(result["errors"]) == 2
    assert result["resumed"] == 1


def test_a_child_does_not_own_the_folder_of_its_parent(forge, root):
    assert "another run uses" in forge("child_of_owner", root)


def test_a_folder_made_anew_is_locked_anew(forge, root):
    assert "another run uses" in forge("folder_made_anew", root)


# Kills and signals


def test_a_kill_at_any_instant_leaves_a_whole_file(forge, tmp_path):
    result = forge("kill_saves", tmp_path, 60, True)
    assert result["damaged"] == result["wrong"] == 0
    # The test must have struck within saves, or it shows nothing.
    assert result["strays"] >= 5
    assert everything(tmp_path) == ["state.pt"]


def test_the_same_kills_damage_a_file_that_is_written_in_place(forge, tmp_path):
    # The control: without it, the test above could be blind.
    assert forge("kill_saves", tmp_path, 12, False)["damaged"] >= 3


def test_a_run_killed_again_and_again_ends_bit_identical(forge, root):
    result = forge("kill_runs", root, 20, 120)
    assert result["identical"]
    assert result["kills"] == 20
    assert result["damaged"] >= 5
    assert names(root) == ["step-000000118.pt", "step-000000119.pt", "step-000000120.pt"]
    assert strays(root) == []


@pytest.mark.parametrize("kind", ["SIGINT", "SIGTERM", "SIGTERM handled"])
def test_a_signal_between_and_during_saves(forge, tmp_path, kind):
    result = forge("signals", tmp_path, kind, 15)
    assert result["wrong"] == 0
    assert set(result["endings"]) == {
        {"SIGINT": "KeyboardInterrupt", "SIGTERM": "signal 15", "SIGTERM handled": "SystemExit"}[kind]
    }
    assert everything(tmp_path) == ["state.pt"]


# Several ranks


def test_two_ranks_agree(forge, root):
    zero, one = forge("ranks", root)
    assert zero["saved"] == one["saved"] == [f"{root}/step-00000000{step}.pt" for step in (1, 2, 3, 4)]
    assert zero["writes"] == 4
    assert one["writes"] == 0
    assert zero["names"] == ["step-000000003.pt", "step-000000004.pt"]
    assert zero["empty"] == one["empty"] == 0
    assert zero["resumed"] == one["resumed"] == 4
    assert zero["equal"]
    assert one["equal"]
    assert zero["after damage"] == one["after damage"] == 3
    assert zero["warnings"] == 1
    assert one["warnings"] == 0


@pytest.mark.parametrize(
    ("fault", "at_zero", "at_one"),
    [
        ("load on rank 1", "CheckpointError: rank 1 failed with FileNotFoundError: gone", "FileNotFoundError: gone"),
        ("load on rank 0", "FileNotFoundError: gone", "CheckpointError: rank 0 failed with FileNotFoundError: gone"),
        ("save", "CheckpointError: cannot write", "CheckpointError: rank 0 failed with CheckpointError: cannot write"),
        ("architecture", "another architecture", "another architecture"),
        ("all damaged", "CheckpointError: every checkpoint", "rank 0 failed with CheckpointError: every checkpoint"),
        ("lock", "CheckpointError: another run", "rank 0 failed with CheckpointError: another run"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_all(forge, root, fault, at_zero, at_one):
    zero, one = forge("rank_faults", root, fault)
    assert at_zero in zero
    assert at_one in one


@pytest.fixture
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_group_of_one_behaves_as_no_group(root):
    filled(root, 2)
    again = Run()
    assert Checkpoints(root).resume(again) == 2
    assert again == trained(2)
    with pytest.raises(CheckpointError, match="later than"):
        Checkpoints(root).save(trained(1))


@pytest.mark.usefixtures("alone")
def test_a_group_of_one_raises_what_a_load_raises(root, monkeypatch):
    filled(root, 1)
    monkeypatch.setattr(checkpoint.Checkpoints, "_newest", lambda self: (root / "gone.pt", None))
    with pytest.raises(FileNotFoundError):
        Checkpoints(root).resume(Run())


# What runs in the other program


def victim(action, *args):
    """Fork a process that runs `action(report, ...)`. Returns its id and the file with its reports."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        ending = "end"

        def report(text):
            os.write(writer, f"{text}\n".encode())

        try:
            action(report, *args)
        except BaseException as error:
            ending = f"{type(error).__name__}: {error}"
        report(ending.replace("\n", " "))
        os._exit(0)
    os.close(writer)
    return pid, os.fdopen(reader)


def finish(pid, reports, number=None):
    """End a victim, by a signal if one is given; what it reported that nobody has read yet, and how it ended.

    Python loses an exception that a signal's handler raises within a `__del__`: so the signal comes again, as a user's would.
    """
    ended = 0
    while number is not None and not ended:
        os.kill(pid, number)
        for _ in range(1000):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.002)
    if not ended:
        _, status = os.waitpid(pid, 0)
    with reports:
        lines = reports.read().splitlines()
    return lines, f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else lines.pop()


def save_forever(report, path, version, write):
    report("ready")
    for number in itertools.count(version + 1):
        write(payload(number), path)
        report(number)


def kill_saves(folder, kills, atomic):
    path, write, chance = Path(folder, "state.pt"), save if atomic else torch.save, random.Random(0)
    started = time.perf_counter()
    write(payload(0), path)
    duration, version, result = time.perf_counter() - started, 0, Counter(damaged=0, wrong=0)
    for _ in range(kills):
        pid, reports = victim(save_forever, path, version, write)
        reports.readline()
        time.sleep(chance.uniform(0, 3 * duration))
        done, _ = finish(pid, reports, signal.SIGKILL)
        confirmed = int(done[-1]) if done else version
        result["strays"] += len(strays(folder))
        try:
            data = load(path)
        except CheckpointError:
            result["damaged"] += 1
            data = payload(confirmed)
            write(data, path)
        # What save() has returned for is there; at most the next one may be, too.
        result["wrong"] += not (is_whole(data) and confirmed <= data["version"] <= confirmed + 1)
        version = data["version"]
    write(payload(version), path)
    return result


def train_to(report, root, steps):
    run, checkpoints = Run(), Checkpoints(root)
    report(checkpoints.resume(run))
    while run.step < steps:
        checkpoints.save(run.advance())
        report(run.step)


def kill_runs(root, kills, steps):
    chance, result, reached = random.Random(1), Counter(kills=0, damaged=0), 0
    for number in range(kills):
        pid, reports = victim(train_to, root, steps - 5)
        resumed = int(reports.readline())
        # One file may be damaged on purpose; else what was reported is there.
        result["lost"] += resumed < reached
        for _ in range(chance.randrange(8)):
            reports.readline()
        time.sleep(chance.uniform(0, 0.01))
        done, _ = finish(pid, reports, signal.SIGKILL)
        result["kills"] += 1
        reached = max([resumed] + [int(line) for line in done if line.isdigit()])
        files = sorted(Path(root).glob("step-*.pt"))
        if number % 3 == 0 and len(files) > 1:
            chance.choice([flip, lambda path: cut(path, chance.randrange(path.stat().st_size))])(files[-1])
            result["damaged"] += 1
            reached = 0
    finish(*victim(train_to, root, steps))
    again = Run()
    Checkpoints(root).resume(again)
    return {**result, "identical": again == trained(steps) and not result["lost"]}


def signals(folder, kind, times):
    def action(report):
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind == "SIGTERM handled":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        save_forever(report, path, version, save)

    path, chance, version, endings, wrong = Path(folder, "state.pt"), random.Random(2), 0, [], 0
    started = time.perf_counter()
    save(payload(0), path)
    duration = time.perf_counter() - started
    for _ in range(times):
        pid, reports = victim(action)
        reports.readline()
        time.sleep(chance.uniform(0, 3 * duration))
        done, ending = finish(pid, reports, signal.SIGINT if kind == "SIGINT" else signal.SIGTERM)
        endings.append(ending.partition(":")[0])
        confirmed = int(done[-1]) if done else version
        data = load(path)
        wrong += not (is_whole(data) and confirmed <= data["version"] <= confirmed + 1)
        version = data["version"]
    save(payload(version), path)
    return {"wrong": wrong, "endings": endings}


def limited_size(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        save(payload(2), path)
    except CheckpointError as error:
        return str(error)
    return "written"


def second_run(root, how, orphan):
    def first(report):
        checkpoints = Checkpoints(root)
        checkpoints.save(Run().advance())
        if orphan and os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        report("held")
        signal.signal(signal.SIGUSR1, lambda *_: None)
        signal.pause()
        del checkpoints
        report("released")
        signal.pause()

    pid, reports = victim(first)
    reports.readline()
    errors = [refusal(Checkpoints(root).save, Run().advance()), refusal(Checkpoints(root).resume, Run())]
    os.kill(pid, signal.SIGKILL if how == "kill" else signal.SIGUSR1)
    if how == "kill":
        os.waitpid(pid, 0)  # Its reports would end only with its orphan.
    else:
        reports.readline()
    resumed = Checkpoints(root).resume(Run())
    if how != "kill":
        finish(pid, reports, signal.SIGKILL)
    return {"pid": pid, "errors": errors, "resumed": resumed}


def refusal(method, *args):
    """The text of the error, empty if there is none."""
    try:
        method(*args)
    except CheckpointError as error:
        return str(error)
    return ""


def child_of_owner(root):
    checkpoints = Checkpoints(root)
    checkpoints.save(Run().advance())
    lines, _ = finish(*victim(lambda report: report(refusal(checkpoints.save, Run().advance()))))
    checkpoints.save(Run().advance())
    return lines[0]


def folder_made_anew(root):
    checkpoints = Checkpoints(root)
    checkpoints.save(Run().advance())
    shutil.rmtree(root)
    checkpoints.save(Run().advance())
    lines, _ = finish(*victim(lambda report: report(refusal(Checkpoints(root).resume, Run()))))
    return lines[0]


class Shared(Run):
    """A run whose state, as with sharded models, only all ranks together can tell."""

    def state_dict(self):
        dist.all_reduce(torch.ones(1))
        return super().state_dict()


def in_two_ranks(root, action):
    """Run `action(report, rank)` in a group of two; what each rank reported first."""

    def member(report, rank):
        dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=90), world_size=2, rank=rank)
        action(report, rank)
        dist.destroy_process_group()

    store = Path(f"{root}-store")
    members = [victim(member, rank) for rank in range(2)]
    return [finish(*member)[0] for member in members]


def ranks(root):
    def action(report, rank):
        written = []
        real, checkpoint.save = checkpoint.save, lambda obj, path: written.append(path) or real(obj, path)
        run, checkpoints, result = Shared(), Checkpoints(root, keep=2), {}
        result["empty"] = checkpoints.resume(run)
        result["saved"] = [str(checkpoints.save(run.advance())) for _ in range(4)]
        result["writes"] = len(written)
        result["names"] = names(root)
        again = Shared()
        result["resumed"] = checkpoints.resume(again)
        result["equal"] = again == run
        if rank == 0:
            flip(Path(root, "step-000000004.pt"))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result["after damage"] = checkpoints.resume(again)
        result["warnings"] = len(caught)
        report(json.dumps(result))

    return [json.loads(lines[0]) for lines in in_two_ranks(root, action)]


def rank_faults(root, fault):
    def gone(*_):
        raise FileNotFoundError("gone")

    def action(report, rank):
        method = Checkpoints(root).save if fault == "save" else Checkpoints(root).resume
        if fault == "load on rank 1" and rank == 1:
            checkpoint.load = gone
        if fault == "load on rank 0" and rank == 0:
            checkpoint.Checkpoints._newest = gone
        run = Other() if fault == "architecture" else Shared()
        run.step = 3
        try:
            method(run)
        except Exception as error:
            report(f"{type(error).__name__}: {error}".replace("\n", " "))
        else:
            report("no error")

    filled(root, 2)
    if fault == "save":
        Path(root, "step-000000003.pt").mkdir()
    if fault == "all damaged":
        for path in Path(root).glob("*.pt"):
            cut(path, 100)
    holder = Checkpoints(root)
    if fault == "lock":
        holder.resume(Run())
    return [lines[0] for lines in in_two_ranks(root, action)]


SCENARIOS = {
    function.__name__: function
    for function in (
        kill_saves, kill_runs, signals, limited_size, second_run, child_of_owner, folder_made_anew, ranks, rank_faults
    )
}  # fmt: skip


def serve():
    """Answer requests, one line of JSON each. Every answer comes from a forked process of its own group."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    Run().optimizer.step()  # The first step of any optimizer imports much: once here, not in every child.
    for line in sys.stdin:
        name, *args = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            try:
                answer = {"group": os.getpid(), "result": SCENARIOS[name](*args)}
            except BaseException:
                answer = {"group": os.getpid(), "error": traceback.format_exc()}
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        with suppress(PermissionError):  # The child may have done it already.
            os.setpgid(pid, pid)
        print(json.dumps({"group": pid}), flush=True)
        # Until it is waited for, its number and that of its group belong to nobody else.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with os.fdopen(reader) as file:
            print(file.read() or "{}", flush=True)


@pytest.fixture(scope="module")
def forge():
    """Run a function of `SCENARIOS` in another process: `forge(name, *args)` returns its result."""
    source = str(Path(pytorch_course.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment, bufsize=1) as server:

        def answer(seconds=180):
            if not select.select([server.stdout], [], [], seconds)[0]:
                raise TimeoutError(f"no answer within {seconds} s")
            return json.loads(server.stdout.readline())

        def ask(name, *args):
            server.stdin.write(json.dumps([name, *map(plain, args)]) + "\n")
            group = answer()["group"]
            try:
                result = answer()
            except BaseException:
                os.killpg(group, signal.SIGKILL)
                answer()
                raise
            if "error" in result:
                raise AssertionError(result["error"])
            return result["result"]

        yield ask
        server.stdin.close()


def plain(value):
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    serve()
    os._exit(0)  # Taking torch down in good order takes seconds.
