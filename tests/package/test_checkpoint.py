"""Tests of `pytorch_course.checkpoint`: every fault is injected for real.

Faults that kill a process need processes that are cheap to lose. This file, run as a program, forks them; it has one
thread, and so may. One run of it gives the fixture `outcome`.
"""

import fcntl
import itertools
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import pytorch_course
from pytorch_course import checkpoint
from pytorch_course.checkpoint import CheckpointError, Checkpoints, load, save


class Run:
    """The stand-in for the state of a training run."""

    def __init__(self):
        self.weight = torch.zeros(1000)
        self.step = 0

    def advance(self):
        self.weight = self.weight * 0.9 + self.step
        self.step += 1
        return self

    def state_dict(self):
        return {"model": {"weight": self.weight}, "step": self.step}

    def load_state_dict(self, state):
        self.weight = state["model"]["weight"]
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


def flip(path):
    """Flip one bit that belongs to a tensor."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        data[data.index(archive.read(entry)[:64]) + 5] ^= 4
    path.write_bytes(data)


def cut(path, length):
    os.truncate(path, length)


def everything(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def strays(folder):
    return [name for name in everything(folder) if "unfinished" in name]


def step_names(*steps):
    return [f"step-{step:09d}.pt" for step in steps]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def path(tmp_path):
    """A path for a file; nothing is there."""
    return tmp_path / "a.pt"


def trained(steps):
    run = Run()
    while run.step < steps:
        run.advance()
    return run


def filled(root, steps, keep=10):
    """The run that has filled a folder with checkpoints of the steps 1 to `steps`."""
    checkpoints, run = Checkpoints(root, keep), Run()
    while run.step < steps:
        checkpoints.save(run.advance())
    return run


# save and load

NUMBERS = st.integers(-(2**200), 2**200) | st.floats() | st.booleans() | st.none() | st.complex_numbers()
# A weights-only load refuses empty bytes.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=5) | st.binary(min_size=1, max_size=5)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    return tensor.to(draw(st.sampled_from(DTYPES)))


def containers(inner):
    lists = st.lists(inner, max_size=3)
    return lists | lists.map(tuple) | st.dictionaries(TEXTS | st.integers(), inner, max_size=3)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(obj=st.recursive(NUMBERS | TEXTS | tensors(), containers, max_leaves=8))
def test_what_is_saved_is_loaded(obj):
    with tempfile.TemporaryDirectory() as folder:
        path = save(obj, Path(folder, "a.pt"))
        assert same(load(path), obj)
        assert everything(folder) == ["a.pt"]


def test_the_path_may_be_text_and_may_hold_any_letter(tmp_path):
    path = save(payload(1, 5), str(tmp_path / "été 1.x.pt"))
    assert path == tmp_path / "été 1.x.pt"
    assert load(str(path))["version"] == torch.load(path, weights_only=True)["version"] == 1


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_sparse_and_shared_tensors_survive(path):
    weight = torch.arange(6.0)
    back = load(save({"sparse": torch.eye(3).to_sparse(), "a": weight, "view": weight[2:]}, path))
    assert torch.equal(back["sparse"].to_dense(), torch.eye(3))
    assert back["a"].untyped_storage().data_ptr() == back["view"].untyped_storage().data_ptr()


def test_the_bytes_are_a_function_of_the_object(tmp_path, path):
    assert save(payload(1, 5), path).read_bytes() == save(payload(1, 5), tmp_path / "b.pt").read_bytes()


def test_tensors_go_where_they_are_asked_to(path):
    save({"a": torch.ones(2)}, path)
    assert load(path, map_location="meta")["a"].device.type == "meta"
    assert load(path, torch.device("cpu"))["a"].device.type == "cpu"


def test_a_missing_file_is_not_called_damaged(path):
    with pytest.raises(FileNotFoundError):
        load(path)


def test_the_order_is_write_sync_rename_sync(path, monkeypatch):
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
    save(payload(1, 5), path)
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    assert calls == [("sync", file), ("rename", file), ("sync", folder)]


def test_threads_that_write_one_file_do_not_mix_it(path):
    def write(version):
        for _ in range(15):
            save(payload(version, 1000), path)
            assert is_whole(load(path))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert everything(path.parent) == ["a.pt"]


def test_no_lock_is_needed(path, monkeypatch):
    # Lustre and some NFS mounts have none.
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert load(save(payload(1, 5), path))["version"] == 1


# Links and modes


@pytest.mark.parametrize("kind", ["relative", "absolute", "chain", "dangling"])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, path, kind):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / "b.pt"
    if kind != "dangling":
        save(payload(1, 5), target)
    if kind == "chain":
        (tmp_path / "hop").symlink_to(target)
    path.symlink_to({"relative": "disk/b.pt", "chain": "hop"}.get(kind, target))
    assert save(payload(2, 5), path) == path
    assert path.is_symlink()
    assert not target.is_symlink()
    assert load(target)["version"] == 2
    assert everything(tmp_path / "disk") == ["b.pt"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755, 0o444])
def test_the_mode_of_a_file_is_kept_and_no_other_is_seen(path, monkeypatch, mode):
    save(payload(1, 5), path).chmod(mode)
    real, seen = torch.save, []

    def spy(obj, temporary):
        real(obj, temporary)
        seen.append(stat.S_IMODE(temporary.stat().st_mode))

    monkeypatch.setattr(torch, "save", spy)
    save(payload(2, 5), path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert seen == [0o600]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_of_a_new_file_follows_the_umask(path, umask):
    before = os.umask(umask)
    try:
        save(1, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


# Damaged files


@pytest.fixture
def small(tmp_path):
    """A file with one tensor, and what it holds."""
    obj = {"weight": torch.arange(48.0), "step": 7}
    return save(obj, tmp_path / "small.pt"), obj


def test_every_shorter_file_is_refused(small):
    path, _ = small
    for length in reversed(range(path.stat().st_size)):
        cut(path, length)
        with pytest.raises(CheckpointError, match=r"small\.pt is damaged"):
            load(path)


def test_no_flipped_bit_changes_what_is_read(small):
    # A flip in padding or in a date is harmless, and then the content must be right. The directory at the end is tried
    # bit by bit: there, torch would read a flipped folder mark as "nothing to read".
    path, obj = small
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    generator = random.Random(0)
    flips = [(position, generator.randrange(8)) for position in range(directory)]
    flips += itertools.product(range(directory, len(data)), range(8))
    outcomes = Counter()
    with path.open("r+b", buffering=0) as file:  # Writing the file anew thousands of times would be slow.
        for position, bit in flips:
            os.pwrite(file.fileno(), bytes([data[position] ^ 1 << bit]), position)
            try:
                assert same(load(path), obj), f"silently different after flipping bit {bit} of byte {position}"
                outcomes["harmless"] += 1
            except CheckpointError as error:
                outcomes["refused" if str(path) in str(error) else "unnamed"] += 1
            os.pwrite(file.fileno(), data[position : position + 1], position)
    assert outcomes["unnamed"] == 0
    assert min(outcomes["harmless"], outcomes["refused"]) > 500


def test_torch_alone_would_not_notice(small):
    # The reason for our own check. If this fails, torch has begun to check, and ours may go.
    path, obj = small
    flip(path)
    assert not same(torch.load(path, weights_only=True), obj)


def test_a_file_without_checksums_is_not_written(path):
    save(payload(1, 5), path)
    torch.serialization.set_crc32_options(False)
    try:
        assert_refused(path, "wrong checksum", payload(2, 5))
    finally:
        torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5000, b"PK\3\4" * 50, b"PK\5\6" + b"\0" * 18])
def test_files_of_other_kinds_are_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged, or not by torch\.save: "):
        load(path)


def test_too_little_memory_is_not_called_damage(small, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(MemoryError):
        load(small[0])


# Files with code


class Evil:
    """Creates a file when a pickle with it is read by a careless reader."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def zipped_pickle(path, code):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/version", "3\n")


def evil_pickle(path, marker):
    path.write_bytes(pickle.dumps(Evil(marker)))


def evil_zip(path, marker):
    torch.save({"evil": Evil(marker), "weight": torch.ones(3)}, path)


def evil_dynamic(path, marker):
    """The name of the function is built while the pickle runs, so that no scan sees it."""
    command = f"touch {marker}".encode()
    zipped_pickle(path, b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(command)]) + command + b"\x85R.")


EVIL = [evil_pickle, evil_zip, evil_dynamic]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("scan", [True, False])
@pytest.mark.parametrize("write", EVIL)
def test_no_code_is_run(tmp_path, path, monkeypatch, write, scan):
    if not scan:  # The scan gives the clearer message; the load must be safe without it.
        monkeypatch.setattr(torch.serialization, "get_unsafe_globals_in_checkpoint", lambda _: [])
    write(path, tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"a\.pt") as caught:
        load(path)
    assert not (tmp_path / "m").exists()
    text = "".join(traceback.format_exception(caught.value))
    assert not re.search("trust|arbitrary|add_safe_globals", text), "torch's advice to run the code must not be shown"


@pytest.mark.parametrize("write", EVIL)
def test_the_evil_files_would_run_their_code_elsewhere(tmp_path, path, write):
    # Without this, the test above could pass because its files are harmless.
    write(path, tmp_path / "m")
    data = path.read_bytes()
    if data[:2] == b"PK":
        with zipfile.ZipFile(path) as archive:
            data = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    with suppress(Exception):
        pickle.loads(data)
    with suppress(Exception):  # Torch's own files refer to tensors outside the pickle, which a bare reader lacks.
        torch.load(path, weights_only=False)
    assert (tmp_path / "m").exists()


def test_another_zip_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("document.xml", "<text/>")
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged, or not by torch\.save: "):
        load(path)


@pytest.mark.parametrize("code", [b"\x80\x02K\x01K\x02R.", b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R."])
def test_a_pickle_that_passes_the_scan_and_fails_to_load(path, code):
    zipped_pickle(path, code)  # Calls the number 1; makes a dictionary of the number 1.
    with pytest.raises(CheckpointError, match=r"a\.pt cannot be read"):
        load(path)


UNSAFE = "needs code to be read, which is refused: "
REFUSED = {
    "path": (Path("x"), f"{UNSAFE}.*pathlib"),
    "module": (torch.nn.Linear(1, 1), f"{UNSAFE}.*torch.nn.modules.linear.Linear"),
    "slice": ({1: slice(3)}, f"{UNSAFE}.*slice"),
    "lambda": ({"schedule": [lambda step: step]}, "pickle.*lambda"),
    "local class": (type("Local", (), {"__qualname__": "test.<locals>.Local"})(), "pickle.*Local"),
    "generator": ((i for i in range(3)), "cannot pickle 'generator' object"),
    "lock": ((1, threading.Lock()), "cannot pickle '_thread.lock' object"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_load_would_refuse_is_not_written(path, kind):
    obj, match = REFUSED[kind]
    save(payload(1, 5), path)
    assert_refused(path, rf"a\.pt.*{match}.*; a checkpoint holds tensors, numbers, strings, and lists, tuples and", obj)


def test_a_number_too_long_for_a_safe_load_is_not_written(path):
    save(payload(1, 5), path)
    assert_refused(path, r"a\.pt is damaged, or not by torch\.save: .*Unsupported", 2**5000)


# Disks and folders that refuse


def assert_refused(path, match, obj):
    """A save fails with a helpful error, the old file is whole, and nothing is left behind."""
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        save(obj, path)
    assert path.read_bytes() == before
    assert strays(path.parent) == []


FULL = r"cannot write .*a\.pt \([\d,]+ bytes are free\): "


def test_a_file_that_may_not_grow(path):
    save(payload(1), path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        assert_refused(path, FULL, payload(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def tiny_disk(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        # Only root may mount. Elsewhere the limit on a file's size, tested above, stands in for a full disk.
        pytest.skip("mounting a small disk needs more rights")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_full_disk(tiny_disk):
    path = save(payload(1), tiny_disk / "a.pt")
    assert_refused(path, FULL, payload(2))
    run, checkpoints = Run(), Checkpoints(tiny_disk)
    checkpoints.save(run.advance())
    (tiny_disk / "rest").write_bytes(bytes(shutil.disk_usage(tiny_disk).free))
    with pytest.raises(CheckpointError, match=r"\(0 bytes are free\): "):
        checkpoints.save(run.advance())
    assert checkpoints.resume(run) == 1


@contextmanager
def without_rights(mode):
    """A folder of this mode, which root could use anyway: so root becomes nobody inside."""
    folder = Path(tempfile.mkdtemp())
    Checkpoints(folder).save(trained(1))
    save(payload(1, 5), folder / "a.pt")
    folder.chmod(mode)
    for file in folder.iterdir():
        file.chmod(0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_folder_can_be_resumed_from_and_not_written_to():
    with without_rights(0o555) as folder:
        assert_refused(folder / "a.pt", r"cannot write .*a\.pt .*Permission denied", payload(2, 5))
        with pytest.raises(CheckpointError, match=r"cannot write .*Permission denied"):
            Checkpoints(folder).save(trained(2))
        with pytest.raises(CheckpointError, match=r"cannot use .*Permission denied"):
            Checkpoints(folder / "new").save(Run())
        assert Checkpoints(folder).resume(Run()) == 1


def test_a_folder_that_cannot_be_read_is_not_called_empty():
    with without_rights(0o333) as folder, pytest.raises(CheckpointError, match=r"cannot use .*Permission denied"):
        Checkpoints(folder).resume(Run())


def test_a_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.pt: .*No such file"):
        save(1, tmp_path / "no" / "a.pt")


@pytest.mark.parametrize(
    "make",
    [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to(path)],
    ids=["folder", "pipe", "device", "link to itself"],
)
def test_only_regular_files_are_replaced(path, make):
    make(path)
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.pt: it is not a regular file"):
        save(1, path)
    assert everything(path.parent) == ["a.pt"]


def test_a_file_in_the_place_of_the_folder(root):
    root.touch()
    with pytest.raises(CheckpointError, match=r"cannot use .*run"):
        Checkpoints(root).save(Run())


# Temporary files


def name_of_temporary(folder):
    """The name of a temporary file of this process, with a field for each part: host, process and token."""
    names, real = [], torch.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", lambda obj, file: (names.extend(strays(folder)), real(obj, file)))
        save(1, folder / "a.pt")
    host, process, token, rest = names[0].removeprefix("checkpoint.").split("-", 3)
    assert process == str(os.getpid())
    return lambda host=host, process=process, token=token: f"checkpoint.{host}-{process}-{token}-{rest}"


def dead_process():
    with subprocess.Popen(["true"]) as process:
        return process.pid


def test_a_stray_is_swept_when_its_writer_is_dead_or_it_is_a_day_old(tmp_path):
    name, dead, day = name_of_temporary(tmp_path), dead_process(), 24 * 60 * 60
    swept = {
        name(process=dead): 0,
        name(token="0123abcd"): 0,  # An earlier process with our number, as in a restarted container.
        name(host="elsewhere"): day + 60,
        name(process=os.getppid()): day + 60,  # Its number belongs to another process by now.
        "checkpoint.0123-unfinished": day + 60,
    }
    spared = {
        name(process=os.getppid()): 0,
        name(process=dead, host="elsewhere"): day - 60,
        name(): day - 60,
        "checkpoint.0123-unfinished.pt": day + 60,
        ".a.pt.tmp": day + 60,
        "checkpoint.zip": day + 60,
    }
    for ages, expected in ((swept, []), (spared, sorted(spared))):
        for stray, age in ages.items():
            (tmp_path / stray).touch()
            os.utime(tmp_path / stray, (time.time() - age,) * 2)
        save(1, tmp_path / "a.pt")
        assert everything(tmp_path) == sorted(["a.pt", *expected])


def test_the_file_of_a_living_writer_is_spared(path, monkeypatch):
    real = torch.save

    def another_save_meanwhile(obj, temporary):
        monkeypatch.setattr(torch, "save", real)
        real(obj, temporary)
        save(2, path.with_name("b.pt"))

    monkeypatch.setattr(torch, "save", another_save_meanwhile)
    assert load(save(1, path)) == 1
    assert everything(path.parent) == ["a.pt", "b.pt"]


def test_a_writer_whose_file_was_swept_fails_and_keeps_the_old_one(path, monkeypatch):
    save(payload(1, 5), path)
    real = torch.save
    monkeypatch.setattr(torch, "save", lambda obj, temporary: (real(obj, temporary), temporary.unlink()))
    assert_refused(path, r"cannot write .*No such file", payload(2, 5))


def test_on_windows_files_are_whole_and_nobody_asks_for_a_process(tmp_path, monkeypatch):
    stray = name_of_temporary(tmp_path)(process=dead_process())
    (tmp_path / stray).touch()
    monkeypatch.setattr(sys, "platform", "win32")  # There, os.kill(process, 0) would be Ctrl-C.
    assert load(save(payload(1, 5), tmp_path / "a.pt"))["version"] == 1
    assert everything(tmp_path) == ["a.pt", stray]


# Checkpoints in one process


def test_a_run_resumes_where_it_was(root):
    again = Run()
    assert Checkpoints(root).resume(again) == 0
    assert again == Run()
    filled(root, 5)
    assert Checkpoints(root).resume(again) == 5
    assert again.advance() == trained(6)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(root, keep):
    checkpoints, run = Checkpoints(root, keep=keep), Run()
    for step in range(1, 9):
        assert checkpoints.save(run.advance()).name == step_names(step)[0]
        assert everything(root) == step_names(*range(max(1, step - keep + 1), step + 1))


@pytest.mark.parametrize("keep", [0, -1])
def test_at_least_one_is_kept(root, keep):
    assert Checkpoints(folder=root).keep == 3
    with pytest.raises(ValueError, match=f"keep is {keep}, expected at least 1"):
        Checkpoints(root, keep=keep)


def test_steps_are_ordered_as_numbers(root):
    checkpoints, run = Checkpoints(root, keep=2), Run()
    for run.step in (9, 10, 999_999_999, 1_000_000_000):
        checkpoints.save(run)
    assert Checkpoints(root).resume(Run()) == 1_000_000_000
    assert everything(root) == ["step-1000000000.pt", "step-999999999.pt"]


def test_files_of_others_are_left_alone(root):
    root.mkdir()
    others = ["best.pt", "notes.txt", "step-5.pt.bak", "step-x.pt"]
    for name in others:
        (root / name).write_text("mine")
    filled(root, 5, keep=1)
    assert Checkpoints(root).resume(Run()) == 5
    assert everything(root) == sorted([*others, *step_names(5)])


def test_the_same_step_may_be_saved_twice(root):
    run = filled(root, 3)
    run.weight.zero_()
    Checkpoints(root).save(run)
    again = Run()
    assert Checkpoints(root).resume(again) == 3
    assert again == run


def test_a_run_that_was_not_resumed_may_not_overwrite_a_later_one(root):
    filled(root, 5)
    with pytest.raises(CheckpointError, match=r"run holds the later step 5: resume from it, or choose another folder"):
        Checkpoints(root, keep=1).save(trained(1))
    assert everything(root) == step_names(1, 2, 3, 4, 5)


DAMAGES = {
    "empty": lambda path: cut(path, 0),
    "cut": lambda path: cut(path, 1234),
    "flip": flip,
    "unreadable": lambda path: (path.unlink(), path.mkdir()),
    "malicious": lambda path: evil_zip(path, path.parent / "marker"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_stepped_over(root, damage):
    filled(root, 5)
    for name in step_names(4, 5):
        DAMAGES[damage](root / name)
    again = Run()
    with pytest.warns(UserWarning, match=r"stepped over damaged .*step-000000005\.pt.*step-000000004\.pt") as caught:
        assert Checkpoints(root).resume(again) == 3
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert again == trained(3)
    assert everything(root) == step_names(1, 2, 3, 4, 5)


def test_damaged_files_do_not_count_as_kept(root):
    filled(root, 6)
    for name in step_names(5, 6):
        flip(root / name)
    checkpoints, run = Checkpoints(root, keep=2), Run()
    with pytest.warns(UserWarning, match="stepped over"):
        checkpoints.resume(run)
    # The damaged 5 and 6 are later than step 4, and do not forbid it. In the end 5 is written anew.
    for run.step, left in ((4, [3, 4, 5, 6]), (5, [4, 5, 6]), (7, [5, 6, 7]), (8, [7, 8])):
        checkpoints.save(run)
        assert everything(root) == step_names(*left)


def test_all_damaged_is_an_error_and_not_a_new_start(root):
    filled(root, 3)
    for path in root.iterdir():
        cut(path, 500)
    run = trained(1)
    with pytest.raises(CheckpointError, match=r"every checkpoint in .*run is damaged, move them away") as caught:
        Checkpoints(root).resume(run)
    assert all(name in str(caught.value) for name in step_names(1, 2, 3))
    assert run == trained(1)
    assert everything(root) == step_names(1, 2, 3)


class Stranger(Run):
    """A state that no checkpoint fits, and that cannot be copied."""

    def load_state_dict(self, state):
        raise self.error

    def state_dict(self):
        raise AssertionError("to resume takes no copy of the state")


@pytest.mark.parametrize("error", [CheckpointError("weight is of another shape"), KeyError("optimizer")])
def test_what_does_not_fit_is_an_error_of_the_state_that_names_the_file(root, error):
    filled(root, 1)
    run = Stranger()
    run.error = error
    with pytest.raises(type(error)) as caught:
        Checkpoints(root).resume(run)
    assert caught.value is error
    assert error.__notes__ == [f"while resuming from {root}/step-000000001.pt"]


# Kills and signals


def test_a_kill_at_any_instant_leaves_a_whole_file(outcome):
    result = outcome["SIGKILL"]
    assert result["damaged"] == result["wrong"] == 0
    assert result["strays"] >= 5  # The test must have struck within saves, or it shows nothing.
    assert result["left"] == ["state.pt"]


def test_the_same_kills_damage_a_file_that_is_written_in_place(outcome):
    # The control: without it, the test above could be blind.
    assert outcome["control"]["damaged"] >= 3


@pytest.mark.parametrize(
    ("kind", "ending"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "signal 15"), ("handled SIGTERM", "SystemExit")]
)
def test_a_signal_between_and_during_saves(outcome, kind, ending):
    result = outcome[kind]
    assert result["damaged"] == result["wrong"] == 0
    assert result["endings"] == [ending]
    assert result["left"] == ["state.pt"]


# Several ranks


def test_two_ranks_agree(outcome):
    zero, one = outcome["ranks"]
    assert zero["saved"] == one["saved"] == step_names(1, 2, 3, 4)
    assert zero["resumed"] == one["resumed"] == [0, 4, 3]
    assert zero["equal"] and one["equal"]
    assert [zero["writes"], one["writes"]] == [4, 0]
    assert [zero["warnings"], one["warnings"]] == [1, 0]
    assert zero["left"] == step_names(3, 4)


@pytest.mark.parametrize(
    ("fault", "culprit", "error"),
    [
        ("save", 0, "CheckpointError: cannot write"),
        ("later", 0, "CheckpointError: .* holds the later step 2"),
        ("load", 1, "FileNotFoundError: gone"),
        ("misfit", 1, "CheckpointError: weight is of another shape"),
        ("damage", 0, "CheckpointError: every checkpoint"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_all(outcome, fault, culprit, error):
    errors = outcome[fault]
    assert re.match(error, errors[culprit])
    assert re.match(f"CheckpointError: rank {culprit} failed with {error}", errors[1 - culprit])


# What runs in another program, which has one thread, and so may fork


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


def save_forever(report, path, version, write, prepare):
    prepare()
    report("ready")
    for number in itertools.count(version + 1):
        write(payload(number), path)
        report(number)


def strike(folder, times, number, write=save, prepare=lambda: None):
    """Send a signal to one process after another that saves without end; what is then in the file."""
    path, chance, result, endings = folder / "state.pt", random.Random(0), Counter(damaged=0, wrong=0), set()
    started = time.perf_counter()
    write(payload(0), path)
    duration, version = time.perf_counter() - started, 0
    for _ in range(times):
        pid, reports = victim(save_forever, path, version, write, prepare)
        reports.readline()
        time.sleep(chance.uniform(0, 3 * duration))
        done, ending = finish(pid, reports, number)
        endings.add(ending.partition(":")[0])
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
    return {**result, "endings": sorted(endings), "left": everything(folder)}


class Shared(Run):
    """A run whose state, as with sharded models, only all ranks together can tell."""

    def state_dict(self):
        dist.all_reduce(torch.ones(1))
        return super().state_dict()


def in_two_ranks(root, action):
    """Run `action(rank)` in a group of two; the result of each rank."""

    def member(report, rank):
        dist.init_process_group("gloo", f"file://{root}-store", timedelta(seconds=90), world_size=2, rank=rank)
        report(json.dumps(action(rank)))
        dist.destroy_process_group()

    members = [victim(member, rank) for rank in range(2)]
    return [json.loads(finish(*member)[0][0]) for member in members]


def ranks(root):
    def action(rank):
        written = []
        real, checkpoint.save = checkpoint.save, lambda obj, path: written.append(path) or real(obj, path)
        run, again, checkpoints = Shared(), Shared(), Checkpoints(root, keep=2)
        resumed = [checkpoints.resume(run)]
        saved = [checkpoints.save(run.advance()) for _ in range(4)]
        resumed.append(checkpoints.resume(again))
        result = {"saved": [path.name for path in saved], "writes": len(written), "equal": again == run}
        if rank == 0:
            flip(saved[-1])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resumed.append(checkpoints.resume(again))
        return {**result, "resumed": resumed, "warnings": len(caught), "left": everything(root)}

    return in_two_ranks(root, action)


def rank_fault(root, fault):
    def gone(*_):
        raise FileNotFoundError("gone")

    def action(rank):
        checkpoints, run = Checkpoints(root), Shared()
        run.step = 1 if fault == "later" else 3
        if fault == "load" and rank == 1:
            checkpoint.load = gone
        if fault == "misfit" and rank == 1:
            run = Stranger()
            run.error = CheckpointError("weight is of another shape")
        try:
            (checkpoints.save if fault in ("save", "later") else checkpoints.resume)(run)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "no error"

    filled(root, 2)
    if fault == "save":
        (root / "step-000000003.pt").mkdir()
    if fault == "damage":
        for path in root.iterdir():
            cut(path, 100)
    return in_two_ranks(root, action)


def handle_sigterm():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))


SCENARIOS = {
    "SIGKILL": lambda folder: strike(folder, 60, signal.SIGKILL),
    "control": lambda folder: strike(folder, 12, signal.SIGKILL, torch.save),
    "SIGINT": lambda folder: strike(folder, 15, signal.SIGINT),
    "SIGTERM": lambda folder: strike(folder, 15, signal.SIGTERM),
    "handled SIGTERM": lambda folder: strike(folder, 15, signal.SIGTERM, prepare=handle_sigterm),
    "ranks": ranks,
    **{fault: partial(rank_fault, fault=fault) for fault in ("save", "later", "load", "misfit", "damage")},
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What the scenarios found, each in a folder of its own; a text where one failed."""
    source = str(Path(pytorch_course.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path_factory.mktemp("scenarios"))]
    with subprocess.Popen(command, stdout=-1, env=environment, start_new_session=True) as program:
        try:
            return json.loads(program.communicate(timeout=400)[0].splitlines()[-1])  # gloo of torch 2.10 talks above
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def main(folder):
    """Print what every scenario finds."""
    outcome = {}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, scenario in SCENARIOS.items():
        (folder / name).mkdir()
        try:
            outcome[name] = scenario(folder / name)
        except Exception:
            outcome[name] = traceback.format_exc()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
