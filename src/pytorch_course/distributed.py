"""Several processes as one program: the group they form, and a way to start them from anywhere."""

import itertools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO, TypeVar, overload

import cloudpickle
import torch
import torch.distributed as dist
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from pytorch_course import _worker

T = TypeVar("T")

PAYLOAD_LIMIT = 64 * 2**20  # bytes of function and arguments that launch sends to its processes

_CPU = torch.device("cpu")
_joined = itertools.count()  # every group that this process joins gets keys of its own in the store


class LaunchError(RuntimeError):
    """A process that :func:`launch` started failed.

    Attributes
    ----------
    rank : int or None
        The rank that failed first; None if no single one is to blame.
    """

    def __init__(self, message: str, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank


@dataclass(frozen=True)
class World:
    """Who this process is among all processes of a run.

    ``World()`` is the world of a single process without a group. :func:`world` makes the others.

    Attributes
    ----------
    rank : int
        Number of this process, from 0 to ``size - 1``.
    size : int
        How many processes take part.
    device : torch.device
        Where this process computes.
    restarts : int
        How often all processes have been started again after a failure.

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

        Parameters
        ----------
        model : torch.nn.Module
            The model, the same on every rank.

        Returns
        -------
        torch.nn.Module
            The model itself if ``size`` is 1, otherwise a
            :class:`torch.nn.parallel.DistributedDataParallel` around it.
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
        """Average a value over the ranks. Every rank must call this, and every rank gets the same answer.

        Parameters
        ----------
        x : torch.Tensor or float
            This rank's value; a tensor must have the same shape on every rank.

        Returns
        -------
        torch.Tensor or float
            The average, of the type of `x` and detached from the graph. With one rank, `x` itself.

        Raises
        ------
        TypeError
            If `x` is a tensor of integers or booleans, which have no mean of their own type.
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
        """Collect one object from each rank. Every rank must call this, and every rank gets the whole list.

        Parameters
        ----------
        obj : object
            Anything that can be pickled.

        Returns
        -------
        list
            The objects in the order of the ranks.
        """
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

    ``torchrun`` keeps one store for all its attempts, and after a restart a rank may read there the address of a
    process that is dead (https://github.com/pytorch/pytorch/issues/135712). Therefore every attempt uses keys of its
    own. Restarts are counted per machine, so on several machines set ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1`` too.

    Parameters
    ----------
    device : str or torch.device, optional
        ``"cpu"`` (the ranks talk through gloo) or ``"cuda"`` (NCCL, one GPU per local rank). By default CUDA if there
        is a GPU for each local rank, otherwise the CPU.
    timeout : float
        Seconds to wait for the other ranks, when joining and in every collective operation.

    Yields
    ------
    World
        This process's place among the others.

    Raises
    ------
    RuntimeError
        If there are fewer GPUs than asked for, a group exists already, the environment announces half a group, or
        the other ranks cannot be reached.

    Examples
    --------
    >>> with world("cpu") as w:
    ...     w
    World(rank=0, size=1, device=device(type='cpu'), restarts=0)
    """
    if "RANK" not in os.environ:
        yield World(device=_device(device, 0, 1))
        return
    rank, size, local_rank, local_size, restarts = _announced(os.environ)
    here = _device(device, local_rank, local_size)
    _join(here, rank, size, restarts, timedelta(seconds=timeout))
    try:
        yield World(rank, size, here, restarts)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _announced(environment: Mapping[str, str]) -> tuple[int, int, int, int, int]:
    """Read rank, size, local rank, local size and restarts from the environment."""
    missing = [name for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
    if missing:
        raise RuntimeError(
            f"RANK={environment['RANK']} announces a group, but {', '.join(missing)} is not set: start the program with "
            "torchrun or launch, or unset RANK to run it alone"
        )
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
    defaults = {"LOCAL_RANK": environment["RANK"], "LOCAL_WORLD_SIZE": environment["WORLD_SIZE"]}
    values = {name: environment.get(name, defaults.get(name, "0")) for name in names}
    for name, value in values.items():
        if not value.isdecimal():
            raise RuntimeError(f"{name} is {value!r}, expected a whole number from 0")
    rank, size, *rest = map(int, values.values())
    if not rank < size:
        raise RuntimeError(f"RANK is {rank} and WORLD_SIZE {size}, expected a rank from 0 to {size - 1}")
    return rank, size, rest[0], rest[1], rest[2]


def _device(device: str | torch.device | None, local_rank: int, local_size: int) -> torch.device:
    """Choose the device of a local rank."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda", local_rank) if gpus >= local_size else _CPU
    device = torch.device(device)
    if device.type != "cuda":
        return device
    if gpus == 0:
        raise RuntimeError("device is 'cuda', but torch finds no CUDA GPU here: pass device='cpu' or leave it out")
    if gpus < local_size:
        raise RuntimeError(
            f"device is 'cuda' for {local_size} ranks, but there are {gpus} GPUs, and each rank needs one"
        )
    return torch.device("cuda", local_rank) if device.index is None else device


def _join(device: torch.device, rank: int, size: int, restarts: int, timeout: timedelta) -> None:
    """Form the group, or say who could not be reached where."""
    if dist.is_initialized():
        raise RuntimeError("a process group exists already: leave its world() block before you enter another")
    backend, bound = "gloo", None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend, bound = "nccl", device
    try:
        store = PrefixStore(f"restart-{restarts}/group-{next(_joined)}", _store(size, restarts, timeout))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout, device_id=bound)
    except RuntimeError as error:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        if "EADDRINUSE" in str(error):
            raise RuntimeError(
                f"port {port} of {address} is taken by another program: choose another MASTER_PORT, or let torchrun "
                "choose a free one with --rdzv-backend=c10d --rdzv-endpoint=localhost:0"
            ) from error
        raise RuntimeError(
            f"rank {rank} of {size} could not join the group at {address}:{port} within {timeout.total_seconds():g} s, "
            f"do all {size} ranks enter world()? {str(error).splitlines()[0]}"
        ) from error


def _store(size: int, restarts: int, timeout: timedelta) -> Store:
    """Open the store through which the ranks find each other."""
    run = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if run.startswith(_worker.RUN):  # all ranks are on this machine, and a file needs no port
        path = Path(run.removeprefix(_worker.RUN), str(restarts), _worker.STORE)
        return FileStore(str(path), size)
    store: Store = next(rendezvous("env://", timeout=timeout))[0]
    return store


def launch(
    fn: Callable[..., T],
    /,
    *args: Any,
    nproc: int = 2,
    max_restarts: int = 0,
    timeout: float = 120,
    **kwargs: Any,
) -> list[T]:
    """Run a function on several processes of this machine, and return what each of them returned.

    The processes are started by the elastic agent that also works inside ``torchrun``, so the same function runs
    unchanged there; it joins the others with :func:`world`. The function and its arguments are copied with
    cloudpickle: it may be defined in a script (no ``__main__`` guard is needed), in a notebook or inside another
    function. Changes it makes to its arguments or to global variables stay in its process.

    What a rank prints is printed here after the run, rank by rank, each line behind ``[rank 0]``. What it writes to
    the standard error stream is shown only if the run fails. The processes find ``OMP_NUM_THREADS=1`` in their
    environment, and talk to each other over the loopback interface only. Needs Linux or macOS.

    Parameters
    ----------
    fn : callable
        The function; it is called as ``fn(*args, **kwargs)`` on every rank.
    *args, **kwargs
        Its arguments.
    nproc : int
        Number of processes.
    max_restarts : int
        How often all of them are started again after one has failed.
    timeout : float
        Seconds after which all processes are killed, restarts included.

    Returns
    -------
    list
        One result per rank, in the order of the ranks.

    Raises
    ------
    LaunchError
        If a rank raises, is killed, ends without a result, returns what cannot be pickled, or still runs at the
        timeout. No process is left then.
    TypeError
        If the function or an argument cannot be pickled.
    ValueError
        If a number is out of range, or function and arguments together exceed 64 MiB.

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
    _check(nproc=(nproc, 1), max_restarts=(max_restarts, 0))
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout}, expected a number of seconds above 0")
    call = _pack(fn, args, kwargs)
    with _quiet():
        from pytorch_course import _agent

        with (
            _agent.signals(),
            tempfile.TemporaryDirectory(prefix="pytorch-course-", ignore_cleanup_errors=True) as name,
        ):
            folder = Path(name)
            (folder / _worker.CALL).write_bytes(call)
            outcome = _agent.run(folder, nproc, max_restarts, timeout)
            failure = _agent.explain(outcome)
            _echo(folder, _worker.STDOUT, sys.stdout)
            if failure is None:
                return [_result(outcome.place(rank), rank) for rank in range(nproc)]
            _echo(folder, _worker.STDERR, sys.stderr)
    rank, message = failure
    raise LaunchError(message, rank)


def _check(**numbers: tuple[int, int]) -> None:
    for name, (value, least) in numbers.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}, expected a whole number from {least}")


def _pack(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a call, or say which part of it cannot be pickled or is too large."""
    if not callable(fn):
        raise TypeError(f"fn is a {type(fn).__name__}, expected a function")
    parts = {"fn": fn} | {f"argument {i}": arg for i, arg in enumerate(args)}
    parts |= {f"argument {name!r}": arg for name, arg in kwargs.items()}
    try:
        call: bytes = cloudpickle.dumps((fn, args, kwargs))
    except Exception as error:
        name = next((name for name, part in parts.items() if not _size(part)), "the call")
        raise TypeError(f"{name} cannot be sent to other processes: {error}") from error
    if len(call) > PAYLOAD_LIMIT:
        sizes = {name: _size(part) for name, part in parts.items()}
        largest = max(sizes, key=sizes.__getitem__)
        raise ValueError(
            f"the function and its arguments take {len(call) / 2**20:.1f} MiB, most of it {largest}, and the limit is "
            f"{PAYLOAD_LIMIT / 2**20:g} MiB: make the data inside the function, or pass the path of a file"
        )
    return call


def _size(part: Any) -> int:
    """Return how many bytes an object takes when pickled, or 0 if it cannot be."""
    try:
        return len(cloudpickle.dumps(part))
    except Exception:
        return 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log lines of torch's agent, which tell what launch tells in its errors, off the page."""
    log = logging.getLogger("torch.distributed.elastic")
    silence, propagate = logging.NullHandler(), log.propagate
    log.addHandler(silence)
    log.propagate = False
    try:
        yield
    finally:
        log.propagate = propagate
        log.removeHandler(silence)


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
