"""What world() and launch() promise, with processes that raise, hang, are killed, or lose their parent.

The functions that the ranks run are defined inside the tests: what is at the top of this module would be imported
by its name in the ranks, and pytest with it.
"""

import atexit
import contextlib
import ctypes
import json
import logging
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from pytorch_course import _agent, _worker, distributed
from pytorch_course.distributed import LaunchError, World, launch, world

SRC = Path(distributed.__file__).parents[1]


def ranks_of(pid):
    """Return the ranks that the process `pid` has started and that still run, wherever they are in the tree."""
    mark = ["-m", "pytorch_course._worker"]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if line[-1:] == [str(pid)] and line[-4:-2] == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture(autouse=True)
def leaves_nothing(monkeypatch, tmp_path_factory):
    """Fail a test that leaves a process, a folder, or a changed signal handler or logger behind."""
    folder = tmp_path_factory.mktemp("launches")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    log = logging.getLogger("torch.distributed.elastic")
    handlers = [signal.getsignal(number) for number in _agent.SIGNALS]
    before = log.propagate, list(log.handlers)
    yield
    assert not ranks_of(os.getpid())
    assert not list(folder.iterdir())
    assert handlers == [signal.getsignal(number) for number in _agent.SIGNALS]
    assert (log.propagate, log.handlers) == before


@pytest.fixture
def run_script(tmp_path):
    """Return a function that runs a program in an empty folder, warnings being errors, and returns what it printed."""

    def run(code, *before, arguments=()):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(code))
        command = [sys.executable, "-W", "error", *before, str(path), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done

    return run


# ---------------------------------------------------------------------------------------------------------------------
# launch: what comes back
# ---------------------------------------------------------------------------------------------------------------------


def test_values_and_output_come_back_in_the_order_of_the_ranks(capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    factor = 10

    class Box:
        def __init__(self, content):
            self.content = content

    def work(base, *, step):
        number = int(os.environ["RANK"])
        time.sleep(0.2 * (1 - number))  # rank 1 is done first
        print("first", number)
        print("on stderr", file=sys.stderr)
        os.write(1, b"from C\n")
        print("no newline\u2028ü", end="")
        return Box(base + step * number * factor)

    before = dict(os.environ)
    boxes = launch(work, 1, step=2)

    assert dict(os.environ) == before
    assert [type(box) is Box for box in boxes] == [True, True]
    assert [box.content for box in boxes] == [1, 21]
    printed = capsys.readouterr()
    assert printed.out == "".join(
        f"[rank {r}] {line}\n" for r in (0, 1) for line in (f"first {r}", "from C", "no newline\u2028ü")
    )
    assert printed.err == ""


def test_a_rank_finds_the_environment_it_needs_and_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLOUR", "blue")
    (tmp_path / "neighbour.py").write_text("value = 41\n")
    root = Path(tempfile.gettempdir())

    def work():
        import neighbour  # found through the parent's sys.path

        try:
            answer = input()
        except EOFError:
            answer = None
        (folder,) = root.iterdir()
        mode = stat.S_IMODE(folder.stat().st_mode)
        names = ("OMP_NUM_THREADS", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "GLOO_SOCKET_IFNAME", "COLOUR", "MASTER_ADDR")
        session = os.getpid() == os.getpgid(0) == os.getsid(0)
        return [os.environ[name] for name in names], neighbour.value, answer, mode, str(Path.cwd()), session

    loopback = "lo0" if sys.platform == "darwin" else "lo"
    expected = (["1", "1", loopback, "blue", "127.0.0.1"], 41, None, 0o700, str(tmp_path), True)
    assert launch(work, nproc=3) == [expected] * 3


def test_one_process_lambdas_and_threads():
    assert launch(lambda: os.environ["WORLD_SIZE"], nproc=1) == ["1"]
    results = []
    thread = threading.Thread(target=lambda: results.append(launch(lambda x: x, 5, nproc=1)))
    thread.start()
    thread.join()
    assert results == [[5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nproc": 0}, "nproc is 0, expected a whole number from 1"),
        ({"nproc": 1.5}, "nproc is 1.5, expected a whole number from 1"),
        ({"max_restarts": -1}, "max_restarts is -1, expected a whole number from 0"),
        ({"timeout": 0}, "timeout is 0, expected a number of seconds above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        launch(print, **arguments)


# ---------------------------------------------------------------------------------------------------------------------
# launch: what cannot be sent
# ---------------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_pickled_is_named():
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"argument 1 cannot be sent to other processes: .*lock"):
        launch(print, 1, lock)
    with pytest.raises(TypeError, match=r"argument 'key' cannot be sent to other processes: .*lock"):
        launch(print, 1, key=lock)
    with pytest.raises(TypeError, match=r"fn cannot be sent to other processes: .*lock"):
        launch(lambda: lock)
    with pytest.raises(TypeError, match="fn is a int, expected a function"):
        launch(3)


def test_too_large_a_call_is_refused_with_its_size_and_culprit():
    with pytest.raises(ValueError, match=r"take 65\.0 MiB, most of it argument 1, and the limit is 64 MiB: make the"):
        launch(print, 1, bytes(65 * 2**20))


def test_a_call_that_a_rank_cannot_read_says_so(monkeypatch):
    module = type(sys)("made_up_module")
    exec("def function(): pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "made_up_module", module)
    with pytest.raises(LaunchError) as caught:
        launch(module.function, nproc=1)
    assert str(caught.value).startswith(
        "rank 0 of 1 could not read the function and its arguments: ModuleNotFoundError: No module named 'made_up_module'"
    )


def test_a_result_that_cannot_be_pickled_is_named():
    with pytest.raises(LaunchError) as caught:
        launch(lambda: threading.Lock() if os.environ["RANK"] == "1" else 0)
    assert caught.value.rank == 1
    assert str(caught.value).startswith("rank 1 of 2 returned a lock that cannot be pickled: TypeError: cannot pickle")


def test_a_result_that_cannot_be_read_here_is_named():
    def work():
        module = type(sys)("only_in_the_rank")
        exec("class Thing: pass", module.__dict__)
        sys.modules["only_in_the_rank"] = module
        module.Thing.__module__ = "only_in_the_rank"
        return module.Thing()

    with pytest.raises(LaunchError, match="the result of rank 0 cannot be read here: ModuleNotFoundError") as caught:
        launch(work)
    assert caught.value.rank == 0


# ---------------------------------------------------------------------------------------------------------------------
# launch: ranks that fail
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch):
    """Let slow ranks tell their story too, so that a crowded machine changes no message."""
    monkeypatch.setattr(_agent, "PATIENCE", 60)


def test_a_rank_that_raises_is_named_with_its_traceback(capsys, tmp_path):
    def unlucky():
        print("working")
        print("worried", file=sys.stderr)
        (tmp_path / os.environ["RANK"]).touch()
        if os.environ["RANK"] == "1":
            while not (tmp_path / "0").exists():
                time.sleep(0.01)
            raise ValueError("bad luck\nand more of it")
        time.sleep(600)

    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        launch(unlucky)
    assert time.monotonic() - started < 30
    assert caught.value.rank == 1
    headline, other, *lines = filter(None, str(caught.value).split("\n"))
    assert headline == "rank 1 of 2 raised ValueError: bad luck"
    assert other == "rank 0 was still running"
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{__file__}", line ') and lines[1].endswith("in unlucky")
    assert lines[-2:] == ["ValueError: bad luck", "and more of it"]
    assert _worker.__file__ not in str(caught.value)
    printed = capsys.readouterr()
    assert printed.out == "[rank 0] working\n[rank 1] working\n"
    assert printed.err == "[rank 0] worried\n[rank 1] worried\n"


@pytest.mark.usefixtures("patient")
def test_ranks_that_fail_alike_are_reported_the_same_way_every_time():
    def work():
        time.sleep(0.3 * (os.environ["RANK"] == "0"))
        raise KeyError("x")

    with pytest.raises(LaunchError) as caught:
        launch(work)
    assert caught.value.rank == 0
    assert str(caught.value).startswith("rank 0 of 2 raised KeyError: 'x'\n\nrank 1 raised KeyError: 'x'\n\nTraceback")


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "rank 1 of 2 was killed by SIGKILL"),
        (lambda: ctypes.string_at(0), "rank 1 of 2 was killed by SIGSEGV"),
        (lambda: os._exit(3), "rank 1 of 2 ended with exit code 3 before it returned"),
        (lambda: os._exit(0), "rank 1 of 2 ended with exit code 0 before it returned"),
        (lambda: sys.exit(0), "rank 1 of 2 raised SystemExit: 0"),
        (lambda: input(), "rank 1 of 2 raised EOFError: EOF when reading a line"),
        (lambda: atexit.register(os._exit, 5) and None, "rank 1 of 2 returned, and then ended with exit code 5"),
    ],
)
def test_a_rank_that_ends_without_a_result_is_named(end, message):
    def work():
        print("here", os.environ["RANK"])
        return end() if os.environ["RANK"] == "1" else None

    with pytest.raises(LaunchError) as caught:
        launch(work)
    assert caught.value.rank == 1
    lines = str(caught.value).splitlines()
    assert lines[0] == message
    assert "rank 0 returned" in lines
    assert ("last output of rank 1:\n  here 1" in str(caught.value)) == ("raised" not in message)


def test_a_rank_that_hangs_is_killed_with_all_it_started(tmp_path, capsys):
    def stuck():
        print("rank", os.environ["RANK"])
        if os.environ["RANK"] == "1":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "600"])
            (tmp_path / "pid").write_text(str(child.pid))
            child.wait()

    started = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        launch(stuck, timeout=4)
    assert 4 <= time.monotonic() - started < 30
    assert caught.value.rank == 1
    text = str(caught.value)
    assert text.startswith("rank 1 was still running after 4 s, and all 2 ranks were killed\n\nrank 0 returned\n\n")
    assert f'  File "{__file__}", line ' in text and "in stuck" in text
    assert _worker.__file__ not in text
    assert text.endswith("last output of rank 0:\n  rank 0\n\nlast output of rank 1:\n  rank 1")
    assert capsys.readouterr().out == "[rank 0] rank 0\n[rank 1] rank 1\n"
    assert_dead(int((tmp_path / "pid").read_text()))


def test_what_a_finished_rank_left_running_is_killed(tmp_path):
    def careless():
        return subprocess.Popen(["sleep", "600"]).pid

    for pid in launch(careless):
        assert_dead(pid)


def test_a_rank_that_ignores_the_polite_signal_is_killed_too(monkeypatch):
    monkeypatch.setattr(_agent, "GRACE", 1)

    def work():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.environ["RANK"] == "0":
            raise ValueError("over")
        time.sleep(600)

    started = time.monotonic()
    with pytest.raises(LaunchError, match="rank 0 of 2 raised ValueError: over"):
        launch(work)
    assert time.monotonic() - started < 20


def test_all_ranks_late_name_no_single_one():
    with pytest.raises(
        LaunchError, match="ranks 0, 1 were still running after 1 s, and all 2 ranks were killed"
    ) as caught:
        launch(time.sleep, 600, timeout=1)
    assert caught.value.rank is None


def test_restarts_run_all_ranks_again(capsys):
    def work():
        attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        print("attempt", attempt)
        if attempt < 2 and os.environ["RANK"] == str(attempt):
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt

    assert launch(work, max_restarts=2) == [2, 2]
    lines = capsys.readouterr().out.splitlines()
    attempts = [int(line[-1]) for line in lines]
    assert attempts == sorted(attempts)
    assert "[rank 0] attempt 0" in lines and "[rank 1] attempt 1" in lines
    assert lines[-2:] == ["[rank 0] attempt 2", "[rank 1] attempt 2"]
    with pytest.raises(LaunchError, match=r"^rank 1 of 2 \(attempt 2\) was killed by SIGKILL"):
        launch(work, max_restarts=1)
    with pytest.raises(LaunchError, match="rank 0 was still running after 1 s"):
        launch(time.sleep, 600, nproc=1, max_restarts=5, timeout=1)


@pytest.mark.usefixtures("patient")
def test_a_failure_before_the_timeout_is_the_cause_and_not_the_timeout():
    def work():
        if os.environ["RANK"] == "1":
            raise ValueError("x")
        time.sleep(600)

    with pytest.raises(LaunchError, match=r"^rank 1 of 2 raised ValueError: x\n\nrank 0 was still running\n\nTrace"):
        launch(work, timeout=3, max_restarts=3)


def test_who_is_to_blame(tmp_path):
    lost = "raised RuntimeError: [/gloo/transport/tcp/pair.cc:1] Connection closed by peer"

    def told(*stories):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        outcome = _agent.Outcome(place, codes=dict(enumerate(code for code, _ in stories)))
        for number, (_, error) in enumerate(stories):
            outcome.place(number).mkdir(parents=True)
            for name in (_worker.STDOUT, _worker.STDERR):
                (outcome.place(number) / name).touch()
            if error:
                report = {"when": 9.0 - number, "headline": error, "traceback": "T"}
                (outcome.place(number) / _worker.ERROR).write_text(json.dumps(report))
        return _agent.explain(outcome)

    assert told((1, lost), (1, "raised ValueError: x")) == (
        1,
        "rank 1 of 2 raised ValueError: x\n\nrank 0 lost contact with another rank\n\nT",
    )
    assert told((1, "raised A: x"), (1, "raised B: x"))[0] == 1  # the earlier one
    assert told((-signal.SIGABRT, None), (-signal.SIGKILL, None), (1, lost))[0] == 1
    assert told((1, lost), (-signal.SIGABRT, None), (None, None))[0] == 1
    assert told((None, None), (1, lost)) == (1, f"rank 1 of 2 {lost}\n\nrank 0 was still running\n\nT")


# ---------------------------------------------------------------------------------------------------------------------
# launch: the parent is interrupted
# ---------------------------------------------------------------------------------------------------------------------


def interrupt(number):
    """Return a function whose rank 0 sends a signal to the launching process, while rank 1 sleeps."""

    def work():
        if os.environ["RANK"] == "0":
            os.kill(os.getppid(), number)
        time.sleep(600)

    return work


def test_ctrl_c_ends_the_ranks_and_is_a_keyboard_interrupt():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(interrupt(signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_that_the_caller_handles_reaches_its_handler(monkeypatch):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(len(ranks_of(os.getpid()))))
    try:
        with pytest.raises(RuntimeError, match="ended by SIGTERM"):
            launch(interrupt(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [0]  # the ranks were gone by then


def test_a_signal_that_the_caller_ignores_stays_ignored():
    def work():
        if os.environ["RANK"] == "0":
            os.kill(os.getppid(), signal.SIGHUP)
        return "done"

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert launch(work) == ["done", "done"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ranks_end_themselves_when_their_parent_is_killed(tmp_path):
    code = """
        import pathlib, sys, time
        from pytorch_course.distributed import launch
        launch(lambda: (pathlib.Path(sys.argv[1], "up").touch(), time.sleep(600)))
    """
    code = textwrap.dedent(code).replace("sys.argv[1]", repr(str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        wait_for((tmp_path / "up").exists)
        assert len(ranks_of(parent.pid)) == 2
        parent.kill()
        parent.wait()
        wait_for(lambda: not ranks_of(parent.pid), seconds=10)
        assert not list(tmp_path.glob("pytorch-course-*"))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ranks_end_themselves_when_the_agent_could_not_start_them_all(monkeypatch):
    from torch.distributed.elastic.multiprocessing import api

    start, pids = api.get_subprocess_handler, []

    def start_only_rank_0(**arguments):
        if arguments["local_rank_id"] == 1:
            raise OSError("no more processes")
        handler = start(**arguments)
        pids.append(handler.proc.pid)
        return handler

    monkeypatch.setattr(api, "get_subprocess_handler", start_only_rank_0)
    with pytest.raises(OSError, match="no more processes"):
        launch(time.sleep, 600)
    assert_dead(pids[0])


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def assert_dead(pid):
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, seconds=5)


# ---------------------------------------------------------------------------------------------------------------------
# the program of a rank, run here
# ---------------------------------------------------------------------------------------------------------------------


def test_a_rank_leaves_a_result_or_an_error(tmp_path):
    call = tmp_path / _worker.CALL
    call.write_bytes(pickle.dumps((divmod, (7, 2), {})))
    assert _worker.run(call, tmp_path)
    assert pickle.loads((tmp_path / _worker.RESULT).read_bytes()) == (3, 1)
    call.write_bytes(pickle.dumps((divmod, (7, 0), {})))
    assert not _worker.run(call, tmp_path)
    error = json.loads((tmp_path / _worker.ERROR).read_text())
    assert error["headline"].startswith("raised ZeroDivisionError")
    assert not list(tmp_path.glob("*.part"))


def test_a_rank_ends_itself_when_the_folder_or_the_parent_is_gone(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(_worker, "WATCH", 0.01)
    monkeypatch.setattr(os, "killpg", lambda *arguments: ended.append(arguments))
    monkeypatch.setattr(os, "_exit", ended.append)
    for name in ("orphan", "child"):
        (tmp_path / name).mkdir()
    _worker._watch(tmp_path / "gone", os.getppid())
    _worker._watch(tmp_path / "orphan", os.getppid() + 1)
    assert ended == [(os.getpid(), signal.SIGKILL), 1] * 2
    assert not (tmp_path / "orphan").exists()
    thread = threading.Thread(target=_worker._watch, args=(tmp_path / "child", os.getppid()), daemon=True)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive() and (tmp_path / "child").exists() and len(ended) == 4
    monkeypatch.setattr(os, "getppid", lambda: 0)
    thread.join(10)
    assert len(ended) == 6


# ---------------------------------------------------------------------------------------------------------------------
# world
# ---------------------------------------------------------------------------------------------------------------------


def test_a_world_of_one_needs_no_group():
    model = torch.nn.Linear(2, 2)
    with world() as w:
        assert w == World() == World(0, 1, torch.device("cpu"), 0)
        assert w.main and not World(rank=1, size=2).main
        assert w.wrap(model) is model
        tensor = torch.ones(2)
        assert w.mean(tensor) is tensor
        assert w.mean(2.5) == 2.5
        assert w.gather(model) == [model]
        w.barrier()
        assert not dist.is_initialized()
    with pytest.raises(TypeError, match=r"x has dtype torch.int64, and a mean needs a floating point one"):
        World().mean(torch.arange(3))
    with pytest.raises(AttributeError):
        w.rank = 3
    assert world("meta").__enter__().device == torch.device("meta")


def announce(monkeypatch, **variables):
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in {**defaults, **variables}.items():
        monkeypatch.setenv(name, value)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_world_joins_an_announced_group_and_leaves_it_whatever_happens(monkeypatch):
    announce(monkeypatch, TORCHELASTIC_RESTART_COUNT="4")
    with world() as w:
        assert dist.is_initialized() and dist.get_backend() == "gloo"
        assert w == World(restarts=4)
        with pytest.raises(RuntimeError, match=r"a process group exists already: leave its world\(\) block"), world():
            pass
    assert not dist.is_initialized()
    announce(monkeypatch)
    with pytest.raises(KeyError), world():
        raise KeyError
    assert not dist.is_initialized()
    announce(monkeypatch)
    with world():
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "", "MASTER_PORT": ""}, r"RANK=0 announces a group, but WORLD_SIZE, MASTER_PORT is not set"),
        ({"RANK": "first"}, "RANK is 'first', expected a whole number from 0"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1', expected a whole number from 0"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2, expected a rank from 0 to 1"),
    ],
)
def test_half_an_announcement_is_refused(monkeypatch, variables, message):
    announce(monkeypatch, **variables)
    with pytest.raises(RuntimeError, match=message), world():
        pass


@pytest.mark.parametrize("number", ["0", "1"])
def test_ranks_that_do_not_come_are_not_waited_for_for_ever(monkeypatch, number):
    announce(monkeypatch, RANK=number, WORLD_SIZE="2")
    message = rf"rank {number} of 2 could not join the group at 127.0.0.1:\d+ within 1 s, do all 2 ranks enter world"
    with pytest.raises(RuntimeError, match=message), world(timeout=1):
        pass
    assert not dist.is_initialized()


def test_a_port_in_use_is_named(monkeypatch):
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        announce(monkeypatch, MASTER_PORT=str(port))
        with (
            pytest.raises(RuntimeError, match=f"port {port} of 127.0.0.1 is taken by another program: choose"),
            world(),
        ):
            pass


def test_devices(monkeypatch):
    def gpus(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    gpus(0)
    assert distributed._device(None, 0, 1) == torch.device("cpu")
    with pytest.raises(RuntimeError, match="device is 'cuda', but torch finds no CUDA GPU here: pass device='cpu' or"):
        distributed._device("cuda", 0, 1)
    gpus(2)
    assert distributed._device(None, 1, 2) == torch.device("cuda", 1)
    assert distributed._device(None, 1, 3) == torch.device("cpu")
    assert distributed._device("cpu", 1, 2) == torch.device("cpu")
    assert distributed._device("cuda", 1, 2) == torch.device("cuda", 1)
    assert distributed._device("cuda:0", 0, 1) == torch.device("cuda", 0)
    with pytest.raises(
        RuntimeError, match="device is 'cuda' for 3 ranks, but there are 2 GPUs, and each rank needs one"
    ):
        distributed._device("cuda", 0, 3)


def test_cuda_joins_through_nccl_on_its_own_gpu(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **options: calls.append((backend, options)))
    announce(monkeypatch)
    with world() as w:
        assert w.device == torch.device("cuda", 0)
    assert calls[0] == torch.device("cuda", 0)
    assert calls[1][0] == "nccl" and calls[1][1]["device_id"] == torch.device("cuda", 0)
    wrapped = []
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", lambda model, **options: wrapped.append(options))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    World(size=2, device=torch.device("cuda", 1)).wrap(torch.nn.Identity())
    assert wrapped == [{"device_ids": [1]}]


def test_two_processes_are_one_program():
    """One launch for all that needs a group: its operations, DDP, FSDP2, and who listens where."""

    def train(model, batches):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for inputs, targets in batches:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    class Note:
        pass

    def work():
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        facts = {}
        with world("cpu") as w:
            facts["place"] = (w.rank, w.size, str(w.device), w.restarts, w.main, dist.get_backend())
            facts["mean"] = w.mean(float(w.rank)), w.mean(w.rank)
            part = torch.full((2, 3), float(w.rank), requires_grad=True).t()
            average = w.mean(part)
            facts["tensor"] = average.tolist(), average.requires_grad, part[0, 0].item()
            facts["types"] = [type(note) is Note for note in w.gather(Note())]
            facts["gather"] = w.gather({"rank": w.rank})
            w.barrier()
            processes = (psutil.Process(), psutil.Process(os.getppid()))
            sockets = [c for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            facts["listening"] = w.gather({c.laddr.ip for c in sockets})

            generator = torch.Generator().manual_seed(1)
            batches = [(torch.randn(8, 4, generator=generator), torch.randn(8, 2, generator=generator)) for _ in "123"]
            mine = [(inputs[w.rank :: 2], targets[w.rank :: 2]) for inputs, targets in batches]
            alone, ddp, fsdp = fresh(), w.wrap(fresh()), fresh()
            train(alone, batches)
            train(ddp, mine)
            fully_shard(fsdp, mesh=init_device_mesh("cpu", (w.size,)))
            train(fsdp, mine)
            sharded = [parameter.full_tensor() for parameter in fsdp.parameters()]
            facts["models"] = list(alone.parameters()), list(ddp.module.parameters()), sharded, type(ddp).__name__
        facts["left"] = dist.is_initialized()
        try:
            with world("cpu") as w:
                raise KeyError(w.mean(1.0))
        except KeyError:
            facts["raised"] = dist.is_initialized()
        with world("cpu") as w:
            facts["again"] = w.mean(float(w.rank))
        dist.init_process_group("gloo")  # without our help, as in the first lesson
        facts["by hand"] = dist.get_world_size()
        dist.destroy_process_group()
        return facts

    results = launch(work)
    assert [facts.pop("place") for facts in results] == [
        (0, 2, "cpu", 0, True, "gloo"),
        (1, 2, "cpu", 0, False, "gloo"),
    ]
    assert [facts.pop("tensor") for facts in results] == [([[0.5] * 2] * 3, False, 0.0), ([[0.5] * 2] * 3, False, 1.0)]
    for facts in results:
        alone, ddp, fsdp, wrapper = facts.pop("models")
        assert wrapper == "DistributedDataParallel"
        torch.testing.assert_close(ddp, alone)
        torch.testing.assert_close(fsdp, alone)
        listening = set().union(*facts.pop("listening"))
        assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert facts == {
            "mean": (0.5, 0.5),
            "types": [True, True],
            "gather": [{"rank": 0}, {"rank": 1}],
            "left": False,
            "raised": False,
            "again": 0.5,
            "by hand": 2,
        }


@pytest.mark.usefixtures("patient")
def test_the_rank_that_raised_is_named_and_not_the_one_that_lost_it():
    def work():
        with world("cpu") as w:
            w.barrier()
            if w.rank == 1:
                raise ValueError("one is bad")
            w.mean(1.0)

    with pytest.raises(LaunchError) as caught:
        launch(work)
    assert str(caught.value).startswith("rank 1 of 2 raised ValueError: one is bad\n\nrank 0 lost contact with another")


def test_restarts_recover_from_kills_slow(capsys):
    """The regression test of the restart bug (pytorch issue 135712): a rank is killed in a group, again and again."""
    kills = int(os.environ.get("PYTORCH_COURSE_KILLS", "5"))

    def work():
        with world("cpu") as w:
            first = w.mean(float(w.rank))
            if w.restarts < kills and w.rank == w.restarts % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            w.barrier()
            return w.restarts, first, w.gather(w.rank)

    assert launch(work, max_restarts=kills, timeout=60 + 60 * kills) == [(kills, 0.5, [0, 1])] * 2


# ---------------------------------------------------------------------------------------------------------------------
# where launch and world run
# ---------------------------------------------------------------------------------------------------------------------

LESSON = '''
"""
Lesson
======
"""

import torch
from pytorch_course.distributed import launch, world

(torch.ones(600, 600) @ torch.ones(600, 600)).sum()  # OpenMP has run in this process
scale = 10


class Net(torch.nn.Module):
    """A class of the lesson."""

    def forward(self, x):
        return x * scale


def work(net, offset=lambda x: x + 1):
    with world() as w:
        print("hello from", w.rank)
        return net, offset(net(w.mean(float(w.rank))))


results = launch(work, Net())
assert all(isinstance(net, Net) for net, _ in results), results
print("results", [value for _, value in results])
'''


def test_a_plain_script_without_a_guard_and_without_a_network(run_script):
    refuse = """
import sys

def refuse(event, arguments):
    if event.startswith("socket.get") and event != "socket.gethostname":
        raise SystemExit(f"asked a name server: {event} {arguments}")
    if event in {"socket.bind", "socket.connect", "socket.sendto"} and "127.0.0.1" not in str(arguments):
        raise SystemExit(f"left the machine: {event} {arguments}")

sys.addaudithook(refuse)
"""
    done = run_script(refuse + LESSON)
    assert done.stdout == "[rank 0] hello from 0\n[rank 1] hello from 1\nresults [6.0, 6.0]\n"
    assert done.stderr == ""


def test_sphinx_gallery_shows_values_and_output(tmp_path):
    source, lessons = tmp_path / "docs", tmp_path / "gallery"
    source.mkdir()
    lessons.mkdir()
    (lessons / "README.rst").write_text("Gallery\n=======\n")
    (lessons / "plot_lesson.py").write_text(LESSON.lstrip())
    (source / "index.rst").write_text("Site\n====\n\n.. toctree::\n\n   lessons/index\n")
    (source / "conf.py").write_text(
        'extensions = ["sphinx_gallery.gen_gallery"]\n'
        f'sphinx_gallery_conf = {{"examples_dirs": {str(lessons)!r}, "gallery_dirs": "lessons", '
        '"abort_on_example_error": True}\n'
    )
    command = [sys.executable, "-m", "sphinx", "-q", str(source), str(tmp_path / "html")]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (source / "lessons" / "plot_lesson.rst").read_text()
    shown = "    [rank 0] hello from 0\n    [rank 1] hello from 1\n    results [6.0, 6.0]\n"
    assert shown in page
    assert "[W" not in page and "Warning" not in page and "elastic" not in page


def test_a_notebook_shows_values_and_output(tmp_path):
    code = LESSON.replace("with world() as w:", "if True:\n        w = World()").replace(
        "launch, world", "launch, World"
    )
    cells = [{"cell_type": "code", "metadata": {}, "source": code, "outputs": [], "execution_count": None}]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
    (tmp_path / "lesson.ipynb").write_text(json.dumps(notebook))
    execute = (
        "import nbclient, nbformat; notebook = nbformat.read('lesson.ipynb', 4); "
        "nbclient.NotebookClient(notebook).execute(); nbformat.write(notebook, 'done.ipynb')"
    )
    command = [sys.executable, "-c", execute]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    outputs = json.loads((tmp_path / "done.ipynb").read_text())["cells"][0]["outputs"]
    text = "".join("".join(output["text"]) for output in outputs)
    assert text == "[rank 0] hello from 0\n[rank 1] hello from 0\nresults [1.0, 1.0]\n"


def test_torchrun_starts_the_same_function(run_script):
    code = """
        from pytorch_course.distributed import world

        with world() as w:
            print(f"{w.gather((w.rank, w.size, w.restarts))} {w.mean(float(w.rank))}\\n", end="", flush=True)
    """
    done = run_script(code, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    assert done.stdout == "[(0, 2, 0), (1, 2, 0)] 0.5\n" * 2
