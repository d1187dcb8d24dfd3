"""Several processes as one program: the group they form, and a way to start them from anywhere."""

import io
import itertools
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import CodeType
from typing import Any, TextIO, TypeVar, overload

import cloudpickle
import torch
import torch.distributed as dist
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from pytorch_course import _worker

T = TypeVar("T")

PAYLOAD_LIMIT = 64 * 2**20  # bytes of function and arguments that launch sends to its processes
POLL = 0.02  # seconds between two looks at the ranks
PATIENCE = 0.5  # seconds in which the other ranks may still tell their own story after one has failed
LAST = 20  # lines of output that an error repeats
RUN = "launch:"  # the run's id in the environment is this and the folder of the attempt
CAUSE, LIKELY, CONSEQUENCE, INNOCENT = range(4)  # how a rank's end weighs when one is to blame for all
# Errors of a rank whose neighbour is gone or late: consequences, rarely the cause.
LOST = re.compile(r"gloo/transport|torch\.distributed\.Dist\w+Error|could not join the group")

_CPU = torch.device("cpu")
_joined = itertools.count()  # every group that this process joins gets a store of its own


class LaunchError(RuntimeError):
    """A process that :func:`launch` started failed; ``rank`` failed first, None if no single one is to blame."""

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


@dataclass(frozen=True)
class World:
    """Who this process is among all processes of a run; ``World()`` is alone, and :func:`world` makes the others.

    ``rank`` is its number, from 0 to ``size - 1``; it computes on ``device``. All processes have been started again
    ``restarts`` times after a failure.

    Examples
    --------
    >>> alone = World()
    >>> alone.main, alone.mean(3.0), alone.gather("hello")
    (True, 3.0, ['hello'])
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    restarts: int = 0

    @property
    def main(self) -> bool:
        """Whether this is rank 0, the one that prints and writes files."""
        return self.rank == 0

    def wrap(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device and, if there are other ranks, have its gradients averaged over all.

        With one rank this returns the model itself, otherwise a :class:`torch.nn.parallel.DistributedDataParallel`
        around it.
        """
        model = model.to(self.device)
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)

    @overload
    def mean(self, x: torch.Tensor) -> torch.Tensor: ...
    @overload
    def mean(self, x: float) -> float: ...
    def mean(self, x: torch.Tensor | float) -> torch.Tensor | float:
        """Average a number, or a tensor of one shape, over the ranks. Every rank must call this, and gets the mean.

        The mean has the type of `x` and is detached from the graph; with one rank it is `x` itself. A tensor of
        integers or booleans, which has no mean of its own type, raises TypeError.
        """
        if not isinstance(x, torch.Tensor):
            return float(self.mean(torch.tensor(x, dtype=torch.float64))) if self.size > 1 else x
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"x has dtype {x.dtype}, and a mean needs a floating point one: pass x.float()")
        if self.size == 1:
            return x
        total = x.detach().to(self.device).clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return (total / self.size).to(x.device)

    def gather(self, obj: T) -> list[T]:
        """Collect an object that can be pickled from each rank, in their order. Every rank must call this."""
        if self.size == 1:
            return [obj]
        # Plain pickle, which torch uses, cannot send what was defined in a lesson or a notebook.
        parts: list[bytes] = [b""] * self.size
        dist.all_gather_object(parts, cloudpickle.dumps(obj))
        return [cloudpickle.loads(part) for part in parts]

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world(device: str | torch.device | None = None, timeout: float = 60) -> Iterator[World]:
    """Join the group that ``torchrun`` or :func:`launch` announces, or be the whole world alone.

    The announcement is in the environment: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``,
    ``MASTER_PORT``. Without ``RANK`` there is no group. Inside the ``with`` block :mod:`torch.distributed` is
    ready; the group is destroyed at the end of the block, whichever way it ends.

    In plain torch, with ``import torch.distributed as dist``, that is::

        rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
        device = torch.device("cpu")
        if torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"]):
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            ...  # the block
        finally:
            dist.destroy_process_group()

    One more thing: ``torchrun`` keeps one store for all its attempts, and after a restart a rank may read there the
    address of a process that is dead (https://github.com/pytorch/pytorch/issues/135712), so every attempt uses keys of
    its own. Restarts are counted per machine: on several machines set ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` too.

    Fewer GPUs than asked for, a group that exists already, half an announcement, and other ranks that cannot be reached are
    a RuntimeError.

    Parameters
    ----------
    device : str or torch.device, optional
        ``"cpu"`` (the ranks talk through gloo) or ``"cuda"`` (NCCL, one GPU per local rank). By default CUDA if there
        is a GPU for each local rank, otherwise the CPU.
    timeout : float
        Seconds to wait for the other ranks, when joining and in every collective operation.

    Examples
    --------
    >>> with world("cpu") as w:
    ...     w
    World(rank=0, size=1, device=device(type='cpu'), restarts=0)
    """
    if "RANK" not in os.environ:
        yield World(device=_device(device, 0, 1))
        return
    rank, size, local_rank, local_size, restarts = _announced()
    here = _device(device, local_rank, local_size)
    _join(here, rank, size, restarts, timedelta(seconds=timeout))
    try:
        yield World(rank, size, here, restarts)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _announced() -> tuple[int, ...]:
    """Read rank, size, local rank, local size and restarts from the environment."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    rank, size = os.environ["RANK"], os.environ.get("WORLD_SIZE", "")
    values = [os.environ.get(name, default) for name, default in zip(names, (rank, size, rank, size, "0"), strict=True)]
    if not all(map(str.isdecimal, values)) or not int(rank) < int(size):
        raise RuntimeError(
            f"RANK announces a group, but the environment has {dict(zip(names, values, strict=True))}, "
            "expected whole numbers, RANK below WORLD_SIZE: start with torchrun or launch, or unset RANK to run alone"
        )
    return tuple(map(int, values))


def _device(device: str | torch.device | None, local_rank: int, local_size: int) -> torch.device:
    """Choose the device of a local rank."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(device or ("cuda" if gpus >= local_size else "cpu"))
    if device.type == "cuda" and gpus < local_size:
        raise RuntimeError(
            f"device is 'cuda' for {local_size} ranks, but torch finds {gpus} GPUs here, and each rank needs one: "
            "pass device='cpu' or leave it out"
        )
    return torch.device("cuda", local_rank) if device == torch.device("cuda") else device


def _join(device: torch.device, rank: int, size: int, restarts: int, timeout: timedelta) -> None:
    """Form the group, or say who could not be reached where."""
    if dist.is_initialized():
        raise RuntimeError("a process group exists already: leave its world() block before you enter another")
    backend, bound = "gloo", None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend, bound = "nccl", device
    run, name = os.environ.get("TORCHELASTIC_RUN_ID", ""), f"restart-{restarts}-group-{next(_joined)}"
    try:
        if run.startswith(RUN):  # all ranks are on this machine, and a file needs no port
            store: Store = FileStore(str(Path(run.removeprefix(RUN), name)), size)
        else:
            store = PrefixStore(name, next(rendezvous("env://", timeout=timeout))[0])
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=bound)
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {rank} of {size} could not join the group at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} within {timeout.total_seconds():g} s, "
            f"do all {size} ranks enter world()? {str(error).splitlines()[0]}"
        ) from error


def launch(
    fn: Callable[..., T], /, *args: Any, nproc: int = 2, max_restarts: int = 0, timeout: float = 120, **kwargs: Any
) -> list[T]:
    """Run a function on several processes of this machine, and return what each returned, in the order of the ranks.

    It is for learning and for tests. ``torchrun`` starts real runs, and the same function runs unchanged there; it
    joins the others with :func:`world`, or with :func:`torch.distributed.init_process_group`. The function and its
    arguments are copied with cloudpickle: it may be defined in a script (no ``__main__`` guard is needed), in a
    notebook or inside another function. Changes it makes to its arguments or to global variables stay in its process.

    What a rank prints is printed here after the run, rank by rank, each line behind ``[rank 0]``. What it writes to
    the standard error stream is shown only if the run fails. The processes find ``OMP_NUM_THREADS=1`` in their
    environment, and talk to each other over the loopback interface only. Ctrl-C ends all of them. Needs Linux or macOS.

    Parameters
    ----------
    fn : callable
        The function; every rank calls ``fn(*args, **kwargs)``.
    nproc : int
        Number of processes.
    max_restarts : int
        How often all of them are started again after one has failed.
    timeout : float
        Seconds after which all processes are killed, restarts included.

    Raises
    ------
    LaunchError
        If a rank raises, is killed, ends without a result, returns what cannot be pickled, or still runs at the
        timeout, or if this process is told to end. No process is left then. All arguments together may have 64 MiB.

    Examples
    --------
    >>> def who(greeting):
    ...     print(greeting)
    ...     return int(os.environ["RANK"]) ** 2
    >>> launch(who, "hello", nproc=2)
    [rank 0] hello
    [rank 1] hello
    [0, 1]
    """
    if sys.platform == "win32":  # no process groups to kill, no way to ask a process where it is
        raise OSError("launch needs Linux or macOS, and this is Windows: use its subsystem for Linux (WSL)")
    for what, value, least in (("nproc", nproc, 1), ("max_restarts", max_restarts, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{what} is {value!r}, expected a whole number from {least}")
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}, expected a number of seconds above 0")
    call = _pack(fn, args, kwargs)
    with _signals() as caught, tempfile.TemporaryDirectory(None, "pytorch-course-", ignore_cleanup_errors=True) as name:
        folder, deadline = Path(name), time.monotonic() + timeout
        (folder / _worker.CALL).write_bytes(call)
        for attempt in range(max_restarts + 1):
            ranks = _attempt(folder / str(attempt), nproc, max_restarts, deadline, caught)
            failure = _explain(ranks, attempt, timeout)
            if failure is None or caught or time.monotonic() > deadline or not folder.exists():
                break
        if not folder.exists():
            raise LaunchError(f"{folder}, the folder of this launch, was removed while it ran, and all ranks ended")
        _echo(folder, _worker.STDOUT, sys.stdout)
        if failure is None:
            return [_result(rank.place, number) for number, rank in enumerate(ranks)]
        _echo(folder, _worker.STDERR, sys.stderr)
    if caught:
        raise LaunchError(f"the launch was ended by {signal.Signals(caught[0]).name}")
    raise failure


def _pack(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a call, or say which part of it cannot be pickled or is too large."""
    if not callable(fn):
        raise TypeError(f"fn is a {type(fn).__name__}, expected a function")
    sizes = {}
    parts = {"fn": fn} | {f"argument {key!r}": part for key, part in (*enumerate(args), *kwargs.items())}
    for name, part in parts.items():
        try:
            sizes[name] = len(cloudpickle.dumps(part))
        except Exception as error:
            raise TypeError(f"{name} cannot be sent to other processes: {error}") from error
    if sum(sizes.values()) > PAYLOAD_LIMIT:
        raise ValueError(
            f"the function and its arguments take {sum(sizes.values()) / 2**20:.1f} MiB, most of it "
            f"{max(sizes, key=sizes.__getitem__)}, and the limit is {PAYLOAD_LIMIT / 2**20:g} MiB: "
            "make the data inside the function, or pass the path of a file"
        )
    stream = io.BytesIO()
    _Pickler(stream).dump((fn, args, kwargs))
    return stream.getvalue()


def _with_file(code: CodeType) -> tuple[Any, ...]:
    """Reduce code with the name of its file, without which tracebacks show no lines; cloudpickle 3.1.3 leaves it out."""
    make, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if part == "<dynamic-code>" else part for part in parts)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = cloudpickle.Pickler.dispatch_table.new_child({CodeType: _with_file})


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Note the signals that ask this process to end, and hand them to the caller's own handlers in the end."""
    caught: list[int] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python hands signals to no other
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in handlers.items():
            if handler is not signal.SIG_IGN:  # nohup keeps its meaning
                signal.signal(number, lambda number, frame: caught.append(number))
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in dict.fromkeys(caught):
            signal.raise_signal(number)


@dataclass(frozen=True)
class _End:
    """How a rank ended, and how likely that is the cause of all."""

    text: str
    weight: int
    when: float = 0.0
    traceback: str = ""


@dataclass
class _Rank:
    """One process of one attempt, and its end once that is seen."""

    place: Path
    end: _End | None = None


def _start(place: Path, nproc: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process that forks the ranks of an attempt, in a session of its own: Ctrl-C is for this process."""
    place.mkdir(parents=True)
    command = [sys.executable, "-u", "-P", _worker.__file__, str(place), str(nproc), str(os.getpid())]
    with (place / _worker.STDERR).open("wb") as err:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=err, stderr=err, start_new_session=True
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process that forked the ranks; it kills them first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):  # a broken disk or driver can hold a dead process for ever
            process.wait(5)
            return


def _attempt(place: Path, nproc: int, max_restarts: int, deadline: float, caught: list[int]) -> list[_Rank]:
    """Run all ranks once. When this returns or raises, none of them is left."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC_")}
    ranks = [_Rank(place / str(rank)) for rank in range(nproc)]
    # Functions that call init_process_group themselves find an address where rank 0 opens a store. This socket never
    # listens: it only keeps the kernel from giving the port to somebody else.
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        environment = {
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            **inherited,
            "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
            "PYTHONIOENCODING": "utf-8",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            "WORLD_SIZE": str(nproc),
            "LOCAL_WORLD_SIZE": str(nproc),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(reserved.getsockname()[1]),
            "TORCHELASTIC_RESTART_COUNT": place.name,
            "TORCHELASTIC_MAX_RESTARTS": str(max_restarts),
            "TORCHELASTIC_RUN_ID": f"{RUN}{place}",
        }
        process = _start(place, nproc, environment)
        try:
            _wait(ranks, process, deadline, caught)
        finally:
            _stop(process)
    return ranks


def _wait(ranks: list[_Rank], process: subprocess.Popen[bytes], deadline: float, caught: list[int]) -> None:
    """Wait until all ranks have ended, or one has failed and the others had time to say why, or time is up."""
    # A rank that lost contact knows who is gone, but not why: that one may still be writing it down.
    patience = {CAUSE: PATIENCE, LIKELY: PATIENCE, CONSEQUENCE: 10 * PATIENCE, INNOCENT: math.inf}
    while not caught and time.monotonic() < deadline and (running := [rank for rank in ranks if rank.end is None]):
        time.sleep(POLL)
        code = process.poll()
        for rank in running:
            if (rank.place / _worker.EXIT).exists():
                rank.end = _end(rank.place, int((rank.place / _worker.EXIT).read_bytes()))
                deadline = min(deadline, time.monotonic() + patience[rank.end.weight])
        if code is not None and any(rank.end is None for rank in ranks):
            time.sleep(2 * _worker.WATCH)  # until the ranks have seen it
            place = ranks[0].place.parent
            if place.exists():
                raise LaunchError(_output(f"the process that starts the ranks {_ending(code)}", place))
            return
    if caught or any(rank.end and rank.end.weight < CONSEQUENCE for rank in ranks):
        return
    late = [rank for rank in ranks if rank.end is None and (rank.place / _worker.STACK).exists()]
    if late:
        process.send_signal(signal.SIGUSR1)  # have them write down the lines they are at
    limit = time.monotonic() + 1
    while time.monotonic() < limit and not all(_lines(rank.place / _worker.STACK) for rank in late):
        time.sleep(POLL)


def _end(place: Path, code: int) -> _End:
    """Say how the rank in a folder ended; `code` is its exit code, or less than 0 for a signal."""
    if (place / _worker.ERROR).exists():
        error = json.loads((place / _worker.ERROR).read_bytes())
        return _End(**error, weight=CONSEQUENCE if LOST.search(error["text"]) else CAUSE)
    if code < 0:  # a rank without company may abort
        return _End(_ending(code), CONSEQUENCE if code == -signal.SIGABRT else LIKELY)
    if not (place / _worker.RESULT).exists():
        return _End(f"{_ending(code)} before it returned", LIKELY)
    return _End(f"returned, and then {_ending(code)}", LIKELY) if code else _End("returned", INNOCENT)


def _ending(code: int) -> str:
    """Put the exit code of a process into words; below 0 it is a signal."""
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was killed by {next((number.name for number in signal.Signals if number == -code), f'signal {-code}')}"


def _explain(ranks: list[_Rank], attempt: int, timeout: float) -> LaunchError | None:
    """Say what went wrong and who is to blame, or return None if every rank has a result."""
    ends = [rank.end or _End("was still running", INNOCENT) for rank in ranks]
    running = [number for number, rank in enumerate(ranks) if rank.end is None]
    worst = min(ends, key=lambda end: (end.weight, end.when))
    if worst.weight < INNOCENT:
        # Ranks that fail alike fail together: name the first, so that the same mistake reads the same every time.
        first = next(number for number, end in enumerate(ends) if end.text == worst.text)
        named, detail, again = [first], ends[first].traceback, f" (attempt {attempt + 1})" if attempt else ""
        parts = [f"rank {first} of {len(ranks)}{again} {worst.text}"]
    elif running:
        named, detail = running, ""
        who = f"rank {running[0]} was" if len(running) == 1 else f"ranks {', '.join(map(str, running))} were"
        parts = [f"{who} still running after {timeout:g} s, and all {len(ranks)} ranks were killed"]
    else:
        return None
    for number, end in enumerate(ends):
        if number not in named:
            parts.append(f"rank {number} {'lost contact with another rank' if LOST.search(end.text) else end.text}")
    parts += [f"rank {number} was at\n{where}" for number in running if (where := _where(ranks[number].place))]
    last = [_output(f"last output of rank {rank.place.name}:", rank.place) for rank in ranks]
    parts += [detail] if detail else last
    return LaunchError("\n\n".join(parts), named[0] if len(named) == 1 else None)


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file, none if it is not there."""
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def _where(place: Path) -> str:
    """Return the frames of a late rank, newest first, without those of the worker itself."""
    frames = _lines(place / _worker.STACK)[1:]
    return "\n".join([frame for frame in frames if _worker.__file__ not in frame][:LAST])


def _output(title: str, place: Path) -> str:
    """Return the last lines that the process with a folder has printed, below a title."""
    lines = [line for name in (_worker.STDOUT, _worker.STDERR) for line in _lines(place / name)[-LAST:]]
    return title + "".join(f"\n  {line}" for line in lines or ["(none)"])


def _echo(folder: Path, name: str, stream: TextIO) -> None:
    """Print what the ranks wrote, attempt by attempt and rank by rank."""
    for path in sorted(folder.glob(f"*/*/{name}"), key=lambda path: tuple(map(int, path.parts[-3:-1]))):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                print(f"[rank {path.parent.name}] {line.removesuffix(chr(10))}", file=stream)


def _result(place: Path, rank: int) -> Any:
    """Read what a rank returned."""
    try:
        return cloudpickle.loads((place / _worker.RESULT).read_bytes())
    except Exception as error:
        raise LaunchError(f"the result of rank {rank} cannot be read here: {error!r}", rank) from error
