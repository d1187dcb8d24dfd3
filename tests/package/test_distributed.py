"""What world() and launch() promise, with processes that raise, hang, are killed, or lose their parent.

The functions that the ranks run are defined inside the tests: what is at the top of this module would be imported
by its name in the ranks, and pytest with it.
"""

import atexit
import contextlib
import ctypes
import inspect
import json
import os
import shutil
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

from pytorch_course import _worker, distributed
from pytorch_course.distributed import LaunchError, World, launch, world

SRC = Path(distributed.__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ranks_of(pid):
    """Return the ranks that the process `pid` has started and that still run, and the process that forked them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            ours = line[-1:] == [str(pid)] and line[-4:-3] == [_worker.__file__]
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def assert_dead(pid):
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, seconds=5)


def failure_of(fn, *args, **options):
    """Return the error of a launch that fails."""
    with pytest.raises(LaunchError) as caught:
        launch(fn, *args, **options)
    return caught.value


@pytest.fixture(autouse=True)
def leaves_nothing(monkeypatch, tmp_path_factory):
    """Fail a test that leaves a process, a folder, or a changed signal handler behind."""
    folder = tmp_path_factory.mktemp("launches")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    handlers = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert not ranks_of(os.getpid())
    assert not list(folder.iterdir())
    assert handlers == [signal.getsignal(number) for number in SIGNALS]


@pytest.fixture
def patient(monkeypatch):
    """Let slow ranks tell their story too, so that a crowded machine changes no message."""
    monkeypatch.setattr(distributed, "PATIENCE", 60)


@pytest.fixture
def run(tmp_path):
    """Return a function that runs Python in an empty folder and returns what it printed."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "2", "IPYTHONDIR": str(tmp_path / "i")}
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


def test_values_and_output_come_back_in_the_order_of_the_ranks(capsys):
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
    lines = [f"[rank {r}] {line}\n" for r in (0, 1) for line in (f"first {r}", "from C", "no newline\u2028ü")]
    assert capsys.readouterr() == ("".join(lines), "")


def test_a_rank_finds_the_environment_it_needs_and_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("COLOUR", "blue")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # as in a rank of torchrun
    (tmp_path / "neighbour.py").write_text("value = 41\n")
    root = Path(tempfile.gettempdir())

    def work():
        import neighbour  # found through the parent's sys.path

        with contextlib.suppress(EOFError):
            input()
        (folder,) = root.iterdir()
        mode = stat.S_IMODE(folder.stat().st_mode)
        names = ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "COLOUR", "MASTER_ADDR", "LOCAL_WORLD_SIZE", "RANK")
        heavy = "".join(["tor", "ch"])  # in one piece the name would announce that this function needs it
        unwanted = "TORCHELASTIC_USE_AGENT_STORE" in os.environ or heavy in sys.modules
        group = os.getpid() == os.getpgid(0)
        return [os.environ[name] for name in names], (neighbour.value, mode, str(Path.cwd()), group, unwanted)

    loopback = "lo0" if sys.platform == "darwin" else "lo"
    facts = (41, 0o700, str(tmp_path), True, False)
    expected = [(["1", loopback, "blue", "127.0.0.1", "3", rank], facts) for rank in "012"]
    assert launch(work, nproc=3) == expected


def test_lambdas_threads_and_launches_inside_launches(capsys):
    results = []
    thread = threading.Thread(target=lambda: results.append(launch(lambda x: x, 5, nproc=1)))
    thread.start()
    thread.join()
    assert results == [[5]]
    assert launch(lambda: launch(lambda: print("inner") or os.environ["RANK"]), nproc=1) == [["0", "1"]]
    assert capsys.readouterr().out == "[rank 0] [rank 0] inner\n[rank 0] [rank 1] inner\n"


def test_ranks_without_torch_start_in_less_than_a_second():
    times = []
    for _ in range(5):  # the fastest, as the machine may be crowded
        started = time.monotonic()
        launch(os.getpid)
        times.append(time.monotonic() - started)
    assert min(times) < 1


def test_windows_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(OSError, match="launch needs Linux or macOS, and this is Windows"):
        launch(print)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nproc": 0}, "nproc is 0, expected a whole number from 1"),
        ({"nproc": 1.5}, "nproc is 1.5, expected a whole number from 1"),
        ({"max_restarts": -1}, "max_restarts is -1, expected a whole number from 0"),
        ({"timeout": 0}, "timeout is 0, expected a number of seconds above 0"),
        ({"big": bytes(65 * 2**20)}, r"take 65\.0 MiB, most of it argument 'big', and the limit is 64 MiB: make the"),
    ],
)
def test_numbers_out_of_range_and_too_large_calls_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        launch(print, **arguments)


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


def test_what_only_one_side_can_import_is_named(monkeypatch):
    def foreign():
        module = sys.modules["made_up"] = type(sys)("made_up")
        exec("class Thing: pass", module.__dict__)
        return module.Thing

    monkeypatch.setitem(sys.modules, "made_up", None)
    here = failure_of(foreign(), nproc=1)
    assert "could not read the function and its arguments: ModuleNotFoundError: No module named 'made_up'" in str(here)
    monkeypatch.setitem(sys.modules, "made_up", None)
    there = failure_of(foreign)
    assert there.rank == 0
    assert str(there).startswith("the result of rank 0 cannot be read here: ModuleNotFoundError")


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

    error = failure_of(unlucky, timeout=60)
    assert error.rank == 1
    headline, other, *lines = filter(None, str(error).split("\n"))
    assert headline == "rank 1 of 2 raised ValueError: bad luck"
    assert other == "rank 0 was still running"
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith(f'  File "{__file__}", line ') and lines[1].endswith("in unlucky")
    assert lines[-2:] == ["ValueError: bad luck", "and more of it"]
    assert _worker.__file__ not in str(error)
    streams = "[rank 0] working\n[rank 1] working\n", "[rank 0] worried\n[rank 1] worried\n"
    assert capsys.readouterr() == streams


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("end", "message"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "rank 1 of 2 was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), 40), "rank 1 of 2 was killed by signal 40"),
        (lambda: ctypes.string_at(0), "rank 1 of 2 was killed by SIGSEGV"),
        (lambda: os._exit(3), "rank 1 of 2 ended with exit code 3 before it returned"),
        (lambda: os._exit(0), "rank 1 of 2 ended with exit code 0 before it returned"),
        (lambda: sys.exit(0), "rank 1 of 2 raised SystemExit: 0"),
        (lambda: input(), "rank 1 of 2 raised EOFError: EOF when reading a line"),
        (lambda: atexit.register(os._exit, 5) and None, "rank 1 of 2 returned, and then ended with exit code 5"),
        (threading.Lock, "rank 1 of 2 returned a lock that cannot be pickled: TypeError: cannot pickle"),
    ],
)
def test_a_rank_that_ends_without_a_result_is_named(end, message):
    def work():
        print("here", os.environ["RANK"])
        return end() if os.environ["RANK"] == "1" else None

    error = failure_of(work)
    assert error.rank == 1
    assert str(error).startswith(message)
    assert "\n\nrank 0 returned\n\n" in str(error)
    assert ("last output of rank 1:\n  here 1" in str(error)) == ("raised" not in message)


def test_a_rank_that_hangs_is_killed_with_all_it_started(tmp_path, capsys):
    def stuck():
        print("rank", os.environ["RANK"])
        if os.environ["RANK"] == "1":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen(["sleep", "600"])
            (tmp_path / "pid").write_text(str(child.pid))
            child.wait()

    started = time.monotonic()
    error = failure_of(stuck, timeout=4)
    assert 4 <= time.monotonic() - started < 30
    assert error.rank == 1
    text = str(error)
    assert text.startswith("rank 1 was still running after 4 s, and all 2 ranks were killed\n\nrank 0 returned\n\n")
    assert f'  File "{__file__}", line ' in text and "in stuck" in text
    assert _worker.__file__ not in text
    assert text.endswith("last output of rank 0:\n  rank 0\n\nlast output of rank 1:\n  rank 1")
    assert capsys.readouterr().out == "[rank 0] rank 0\n[rank 1] rank 1\n"
    assert_dead(int((tmp_path / "pid").read_text()))


def test_what_a_finished_rank_left_running_is_killed():
    for pid in launch(lambda: subprocess.Popen(["sleep", "600"]).pid):
        assert_dead(pid)


def test_a_rank_that_ends_early_ends_the_others_at_once():
    error = failure_of(lambda: os._exit(0) if os.environ["RANK"] == "1" else time.sleep(600), timeout=20)
    assert str(error).startswith("rank 1 of 2 ended with exit code 0 before it returned")


def test_ranks_of_an_inner_launch_end_with_the_outer_one(tmp_path):
    def outer():
        if os.environ["RANK"] == "0":
            launch(lambda: (tmp_path / str(os.getpid())).touch() or time.sleep(600))
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        raise ValueError("enough")

    assert str(failure_of(outer)).startswith("rank 1 of 2 raised ValueError: enough")
    for path in tmp_path.iterdir():
        assert_dead(int(path.name))
    wait_for(lambda: not list(Path(tempfile.gettempdir()).iterdir()))


def test_a_folder_that_disappears_ends_the_launch():
    root = Path(tempfile.gettempdir())

    def work():
        if os.environ["RANK"] == "0":
            shutil.rmtree(next(root.iterdir()))
        time.sleep(600)

    error = failure_of(work, max_restarts=3, timeout=60)
    assert "the folder of this launch, was removed while it ran, and all ranks ended" in str(error)


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
    assert str(failure_of(work, max_restarts=1)).startswith("rank 1 of 2 (attempt 2) was killed by SIGKILL")


def test_thirty_launches_in_a_row_survive_a_killed_rank():
    def work():
        attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
        if attempt == "0" and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return attempt

    assert [launch(work, max_restarts=1) for _ in range(30)] == [["1", "1"]] * 30


def test_a_timeout_is_not_tried_again():
    error = failure_of(time.sleep, 600, max_restarts=5, timeout=1)
    assert str(error).startswith("ranks 0, 1 were still running after 1 s, and all 2 ranks were killed")
    assert error.rank is None


@pytest.mark.usefixtures("patient")
def test_a_failure_before_the_timeout_is_the_cause_and_not_the_timeout():
    error = failure_of(lambda: 1 / 0 if os.environ["RANK"] == "1" else time.sleep(600), timeout=3, max_restarts=3)
    assert str(error).startswith("rank 1 of 2 raised ZeroDivisionError: division by zero\n\nrank 0 was still running\n")


def test_who_is_to_blame(tmp_path):
    lost = "raised RuntimeError: [/gloo/transport/tcp/pair.cc:1] Connection closed by peer"

    def told(*stories):
        ranks = []
        for number, (code, error) in enumerate(stories):
            place = Path(tempfile.mkdtemp(dir=tmp_path), str(number))
            place.mkdir()
            if error:
                report = {"when": 9.0 - number, "text": error, "traceback": "T"}
                (place / _worker.ERROR).write_text(json.dumps(report))
            ranks.append(distributed._Rank(place, None if code is None else distributed._end(place, code)))
        error = distributed._explain(ranks, 0, 1)
        return error.rank, str(error)

    both = "rank 1 of 2 raised ValueError: x\n\nrank 0 lost contact with another rank\n\nT"
    assert told((1, lost), (1, "raised ValueError: x")) == (1, both)
    assert told((1, "raised A: x"), (1, "raised B: x"))[0] == 1  # the earlier one
    assert told((1, "raised A: x"), (1, "raised A: x"))[0] == 0  # failing alike, always the first
    assert told((-signal.SIGABRT, None), (-signal.SIGKILL, None), (1, lost))[0] == 1
    assert told((1, lost), (-signal.SIGABRT, None), (None, None))[0] == 1
    assert told((None, None), (1, lost)) == (1, f"rank 1 of 2 {lost}\n\nrank 0 was still running\n\nT")


@pytest.mark.parametrize(("patience", "seconds"), [(5, 2), (0.5, 600)])
def test_a_rank_that_lost_contact_waits_for_the_one_that_knows_why(monkeypatch, patience, seconds):
    monkeypatch.setattr(distributed, "PATIENCE", patience)

    def elsewhere():
        time.sleep(seconds)
        raise ValueError("slow to die")

    def work():
        if os.environ["RANK"] == "1":
            elsewhere()
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")

    error = str(failure_of(work))
    if seconds == 2:
        assert error.startswith("rank 1 of 2 raised ValueError: slow to die\n\nrank 0 lost contact with another rank")
    else:
        assert error.startswith("rank 0 of 2 raised RuntimeError: [gloo/transport/tcp/pair.cc:1] Connection closed")
        assert "rank 1 was still running\n\nrank 1 was at\n" in error and "in elsewhere" in error


def interrupt(number):
    """Return a function whose rank 0 sends a signal to the launching process, while rank 1 sleeps."""
    launching = os.getpid()

    def work():
        if os.environ["RANK"] == "0":
            print("interrupting")
            os.kill(launching, number)
        time.sleep(600 if number != signal.SIGHUP else 0.5)

    return work


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_ranks_and_reaches_the_callers_handler(number, capsys):
    """Ctrl-C raises KeyboardInterrupt, SIGTERM finds no rank alive, and SIGHUP stays ignored."""
    seen = []
    handlers = {
        signal.SIGINT: signal.default_int_handler,  # a shell's background job ignores Ctrl-C
        signal.SIGTERM: lambda number, frame: seen.append(len(ranks_of(os.getpid()))),
        signal.SIGHUP: signal.SIG_IGN,
    }
    before = signal.signal(number, handlers[number])
    try:
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                launch(interrupt(number))
        elif number == signal.SIGTERM:
            assert str(failure_of(interrupt(number))) == "the launch was ended by SIGTERM"
            assert seen == [0]  # the ranks were gone by then
        else:
            assert launch(interrupt(number)) == [None, None]
    finally:
        signal.signal(number, before)
    assert "[rank 0] interrupting\n" in capsys.readouterr().out


def test_ranks_end_themselves_when_their_parent_is_killed(tmp_path):
    code = f"""
import pathlib, time
from pytorch_course.distributed import launch
launch(lambda: (pathlib.Path({str(tmp_path)!r}, "up").touch(), time.sleep(600)))
"""
    environment = {**os.environ, "PYTHONPATH": str(SRC), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as parent:
        wait_for((tmp_path / "up").exists)
        assert len(ranks_of(parent.pid)) == 3
        parent.kill()
        parent.wait()
        wait_for(lambda: not ranks_of(parent.pid), seconds=10)
        assert not list(tmp_path.glob("pytorch-course-*"))


def test_no_rank_is_left_when_the_process_that_forks_them_is_killed():
    error = failure_of(lambda: os.kill(os.getppid(), signal.SIGKILL) if os.environ["RANK"] == "1" else time.sleep(600))
    assert str(error).startswith("the process that starts the ranks was killed by SIGKILL\n")
    assert not ranks_of(os.getpid())


def test_no_rank_is_left_when_another_could_not_be_started(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("""
import os
fork, done = os.fork, []
def fork_once():
    if done:
        raise OSError("no more processes")
    done.append(fork())
    return done[0]
os.fork = fork_once
""")
    monkeypatch.syspath_prepend(tmp_path)
    lines = str(failure_of(time.sleep, 600)).splitlines()
    assert lines[0] == "the process that starts the ranks ended with exit code 1"
    assert lines[-1] == "  OSError: no more processes"
    assert not ranks_of(os.getpid())


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
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    defaults = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in {**defaults, **variables}.items():
        monkeypatch.setenv(name, value)


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
        (
            {"WORLD_SIZE": ""},
            "RANK announces a group, but the environment has {'RANK': '0', 'WORLD_SIZE': '', 'LOCAL_RANK'",
        ),
        ({"RANK": "first"}, "'RANK': 'first'"),
        ({"LOCAL_RANK": "-1"}, "'LOCAL_RANK': '-1', .* expected whole numbers, RANK below WORLD_SIZE"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "'RANK': '2', 'WORLD_SIZE': '2'"),
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
        with pytest.raises(RuntimeError, match=f"could not join the group at 127.0.0.1:{port} .*in use"), world():
            pass


def test_devices(monkeypatch):
    def gpus(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    gpus(0)
    assert distributed._device(None, 0, 1) == torch.device("cpu")
    with pytest.raises(RuntimeError, match="device is 'cuda' for 1 ranks, but torch finds 0 GPUs here"):
        distributed._device("cuda", 0, 1)
    gpus(2)
    assert distributed._device(None, 1, 2) == torch.device("cuda", 1)
    assert distributed._device(None, 1, 3) == torch.device("cpu")
    assert distributed._device("cpu", 1, 2) == torch.device("cpu")
    assert distributed._device("cuda", 1, 2) == torch.device("cuda", 1)
    assert distributed._device("cuda:0", 0, 1) == torch.device("cuda", 0)
    with pytest.raises(RuntimeError, match="but torch finds 2 GPUs here, and each rank needs one: pass device='cpu'"):
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
        for inputs, targets in batches:
            model.zero_grad()
            torch.nn.functional.mse_loss(model(inputs), targets).backward()
            torch.optim.SGD(model.parameters(), lr=0.1).step()

    def fresh():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    class Note:
        pass

    (by_hand,) = (part for part in inspect.getdoc(world).split("\n\n") if part.startswith("    rank, local_rank"))
    by_hand = textwrap.dedent(by_hand).replace("...", "answer['size'] = dist.get_world_size()")

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
        answer = {}
        exec(by_hand, {"os": os, "torch": torch, "dist": dist, "answer": answer})
        facts["by hand"] = answer["size"], dist.is_initialized()
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
            "by hand": (2, False),
        }


@pytest.mark.usefixtures("patient")
def test_the_rank_that_raised_is_named_and_not_the_one_that_lost_it():
    def work():
        with world("cpu") as w:
            w.barrier()
            if w.rank == 1:
                raise ValueError("one is bad")
            w.mean(1.0)

    error = failure_of(work)
    assert str(error).startswith("rank 1 of 2 raised ValueError: one is bad\n\nrank 0 lost contact with another")


def test_restarts_recover_from_kills_in_a_group():
    """The regression test of the restart bug (pytorch issue 135712)."""
    kills = 2

    def work():
        with world("cpu") as w:
            first = w.mean(float(w.rank))
            if w.restarts < kills and w.rank == w.restarts % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            w.barrier()
            return w.restarts, first, w.gather(w.rank)

    assert launch(work, max_restarts=kills, timeout=240) == [(kills, 0.5, [0, 1])] * 2


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


def test_a_plain_script_without_a_guard_and_without_a_network(run, tmp_path):
    refuse = """
import sys

def refuse(event, arguments):
    if event.startswith("socket.get") and event != "socket.gethostname":
        raise SystemExit(f"asked a name server: {event} {arguments}")
    if event in {"socket.bind", "socket.connect", "socket.sendto"} and "127.0.0.1" not in str(arguments):
        raise SystemExit(f"left the machine: {event} {arguments}")

sys.addaudithook(refuse)
"""
    (tmp_path / "script.py").write_text(refuse + LESSON)
    done = run("-W", "error", "script.py")
    assert done.stdout == "[rank 0] hello from 0\n[rank 1] hello from 1\nresults [6.0, 6.0]\n"
    assert done.stderr == ""


def test_a_notebook_shows_values_and_output(run, tmp_path):
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
    run("-c", execute)
    outputs = json.loads((tmp_path / "done.ipynb").read_text())["cells"][0]["outputs"]
    text = "".join("".join(output["text"]) for output in outputs)
    assert text == "[rank 0] hello from 0\n[rank 1] hello from 0\nresults [1.0, 1.0]\n"


def test_torchrun_starts_the_same_function(run, tmp_path):
    (tmp_path / "script.py").write_text("""
from pytorch_course.distributed import world

with world() as w:
    print(f"{w.gather((w.rank, w.size, w.restarts))} {w.mean(float(w.rank))}\\n", end="", flush=True)
""")
    done = run("-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "script.py")
    assert done.stdout == "[(0, 2, 0), (1, 2, 0)] 0.5\n" * 2
