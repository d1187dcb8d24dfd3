"""The launching side of :func:`pytorch_course.distributed.launch`: torch's elastic agent for one machine.

Only ``launch`` imports this module, so importing ``pytorch_course.distributed`` does not import torch's agent.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.events.api import Event, EventSource
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from pytorch_course import _worker

POLL = 0.05  # seconds between two looks at the ranks
PATIENCE = 0.5  # seconds in which the other ranks may still tell their own story after one has failed
GRACE = 5  # seconds a rank has to end itself after SIGTERM
LAST = 20  # lines of output that an error repeats
CAUSE, LIKELY, CONSEQUENCE, INNOCENT = range(4)  # how a rank's end weighs when one is to blame for all
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)  # those that torch's agent handles
# Errors of a rank whose neighbour is gone or late: consequences, rarely the cause.
LOST = re.compile(r"gloo/transport|torch\.distributed\.Dist\w+Error|could not join the group")


@dataclass
class Outcome:
    """How the last attempt ended.

    ``codes`` holds the exit code of every rank when the first failure, the end or the deadline was seen: None for a
    rank that was still running, negative for one that a signal ended.
    """

    folder: Path
    timeout: float = 0
    attempt: int = 0
    late: bool = False
    codes: dict[int, int | None] = field(default_factory=dict)

    def place(self, rank: int) -> Path:
        """Return the folder of one rank in the last attempt."""
        return self.folder / str(self.attempt) / str(rank)


class _Meeting(RendezvousHandler):
    """A rendezvous of one agent, which has nobody to wait for.

    A store that outlives an attempt hands the addresses of dead processes to the next one
    (https://github.com/pytorch/pytorch/issues/135712), so the agent shares none: ``world`` meets in a file of the
    attempt, and a function that calls ``init_process_group`` itself finds a loopback address where rank 0 opens a
    store. The port is reserved by a socket that never listens: the kernel gives it to nobody who asks for any port.
    """

    def __init__(self, folder: Path) -> None:
        self._run_id = f"{_worker.RUN}{folder}"
        self._reserved = socket.socket()

    def next_rendezvous(self) -> RendezvousInfo:
        self._reserved.close()
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        port = self._reserved.getsockname()[1]
        return RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", port))

    def shutdown(self) -> bool:
        self._reserved.close()
        return True

    @property
    def use_agent_store(self) -> bool:
        return False

    def get_backend(self) -> str:
        return "loopback"

    def get_run_id(self) -> str:
        return self._run_id

    def num_nodes_waiting(self) -> int:
        return 0

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass


class _Files(LogsSpecs):
    """Gives every rank of every attempt its folder, and its environment."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        super().__init__(str(folder))
        self._environment = environment

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        logs = LogsDest()
        for rank, environment in envs.items():
            place = Path(self.root_log_dir, environment["TORCHELASTIC_RESTART_COUNT"], str(rank))
            place.mkdir(parents=True)
            environment.update(self._environment)
            environment["TORCHELASTIC_ERROR_FILE"] = str(place / "record.json")
            logs.stdouts[rank] = str(place / _worker.STDOUT)
            logs.stderrs[rank] = str(place / _worker.STDERR)
            logs.error_files[rank] = environment["TORCHELASTIC_ERROR_FILE"]
        return logs


class _Agent(LocalElasticAgent):
    """Torch's agent with a deadline, that notes how each rank ended before it ends the others."""

    def __init__(self, folder: Path, nproc: int, max_restarts: int, timeout: float) -> None:
        spec = WorkerSpec(
            role="launch",
            local_world_size=nproc,
            entrypoint=sys.executable,
            args=("-u", "-P", "-m", _worker.__name__, str(folder), str(os.getpid())),
            rdzv_handler=_Meeting(folder),
            max_restarts=max_restarts,
            monitor_interval=POLL,
        )
        super().__init__(spec, _Files(folder, _environment()))
        self.outcome = Outcome(folder, timeout)
        self._deadline = time.monotonic() + timeout
        self._failed_at: float | None = None
        self._ended: dict[int, int] = {}

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.outcome.attempt = worker_group.spec.max_restarts - self._remaining_restarts
        self._failed_at = None
        self._ended = {}
        ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]
        pids: dict[int, Any] = super()._start_workers(worker_group)
        for number in ignored if threading.current_thread() is threading.main_thread() else []:
            signal.signal(number, signal.SIG_IGN)  # torch has just taken them over; nohup must keep its meaning
        return pids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        codes = self._poll()
        self.outcome.codes = codes
        if all(code == 0 for code in codes.values()):
            return RunResult(WorkerState.SUCCEEDED, return_values=dict.fromkeys(codes))
        now = time.monotonic()
        late = now > self._deadline
        if late:
            self._remaining_restarts = 0
        if any(codes.values()):
            self._failed_at = self._failed_at or now
            if None not in codes.values() or late or now > self._failed_at + PATIENCE:
                return RunResult(WorkerState.FAILED)
        elif late:
            self.outcome.late = True
            self._ask_where()
            self._kill_all()
            return RunResult(WorkerState.FAILED)
        return RunResult(WorkerState.HEALTHY)

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = GRACE) -> None:
        try:
            super()._shutdown(death_sig, min(timeout, GRACE))
        finally:
            self._kill_all()

    def _construct_event(self, *args: Any, **kwargs: Any) -> Event:
        """Report nothing: torch would look up this machine's name, and may wait long for a name server."""
        return Event("launch", EventSource.AGENT)

    def _handlers(self) -> dict[int, Any]:
        return self._pcontext.subprocess_handlers if isinstance(self._pcontext, SubprocessContext) else {}

    def _poll(self) -> dict[int, int | None]:
        """Return the exit code of every rank. What an ended rank leaves running is killed on the spot.

        Later would be too late: the number of a process that is gone may soon belong to somebody else.
        """
        for rank, handler in self._handlers().items():
            if rank not in self._ended and (code := handler.proc.poll()) is not None:
                self._ended[rank] = code
                self._kill(handler)
        return {rank: self._ended.get(rank) for rank in sorted(self._handlers())}

    def _ask_where(self) -> None:
        """Have every rank that still runs write down the line it is at."""
        asked = []
        for rank, handler in self._handlers().items():
            stack = self.outcome.place(rank) / _worker.STACK
            if handler.proc.poll() is None and stack.exists():  # the file says that the rank understands the signal
                handler.proc.send_signal(signal.SIGUSR1)
                asked.append(stack)
        limit = time.monotonic() + 1
        while time.monotonic() < limit and not all(stack.stat().st_size for stack in asked):
            time.sleep(POLL)

    def _kill_all(self) -> None:
        for rank, handler in self._handlers().items():
            if rank not in self._ended:
                self._kill(handler)

    def _kill(self, handler: Any) -> None:
        """Kill a rank and whatever it started, and close its files."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(handler.proc.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            handler.proc.wait(GRACE)
        for stream in (handler._stdout, handler._stderr):
            if stream is not None:
                stream.close()


def run(folder: Path, nproc: int, max_restarts: int, timeout: float) -> Outcome:
    """Run the call in `folder` on `nproc` processes; when this returns or raises, none of them is left.

    Parameters
    ----------
    folder : pathlib.Path
        Folder with the call.
    nproc : int
        Number of processes.
    max_restarts : int
        How often all of them are started again after one has failed.
    timeout : float
        Seconds for all attempts together.

    Returns
    -------
    Outcome
        How the last attempt ended.
    """
    agent = _Agent(folder, nproc, max_restarts, timeout)
    try:
        agent.run()
    finally:
        agent.get_worker_group().spec.rdzv_handler.shutdown()
    return agent.outcome


def _environment() -> dict[str, str]:
    """Return what the ranks find in their environment besides the parent's."""
    environment = {
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
        "PYTHONIOENCODING": "utf-8",
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # see _Meeting; for an agent that a rank may start itself
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    names = {name for _, name in socket.if_nameindex()}
    loopback = next((name for name in ("lo", "lo0") if name in names), None)  # Linux, macOS
    return environment | ({"GLOO_SOCKET_IFNAME": loopback} if loopback else {})


@contextmanager
def signals() -> Iterator[None]:
    """Put the caller's signal handlers back at the end, and pass on to them the signal that ended the launch."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    caught = None
    try:
        yield
    except SignalException as error:
        caught = error.sigval
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if caught is not None:
        signal.raise_signal(caught)
        raise RuntimeError(f"the launch was ended by {caught.name}")


def explain(outcome: Outcome) -> tuple[int | None, str] | None:
    """Say what went wrong in the last attempt.

    Parameters
    ----------
    outcome : Outcome
        How it ended.

    Returns
    -------
    tuple of int and str, or None
        The rank to blame (None if there is no single one) and the message, or None if every rank has a result.
    """
    size = len(outcome.codes)
    stories = {rank: _story(outcome, rank) for rank in range(size)}
    if outcome.late:
        return _explain_late(outcome, stories)
    failed = {rank: story for rank, story in stories.items() if story["weight"] < INNOCENT}
    if not failed:
        return None
    blamed = min(failed, key=lambda rank: (failed[rank]["weight"], failed[rank]["when"]))
    # Ranks that fail alike fail together: name the first, so that the same mistake reads the same every time.
    blamed = min(rank for rank, story in failed.items() if story["headline"] == failed[blamed]["headline"])
    attempt = f" (attempt {outcome.attempt + 1})" if outcome.attempt else ""
    lines = [f"rank {blamed} of {size}{attempt} {failed[blamed]['headline']}"]
    lines += [f"rank {rank} {story['short']}" for rank, story in stories.items() if rank != blamed]
    detail = failed[blamed].get("traceback", _last_output(outcome))
    return blamed, "\n\n".join(filter(None, [*lines, detail]))


def _story(outcome: Outcome, rank: int) -> dict[str, Any]:
    """Return what one rank did, in full and in short, and how likely that is the cause of all."""
    place, code = outcome.place(rank), outcome.codes[rank]
    if (place / _worker.ERROR).exists():
        story: dict[str, Any] = json.loads((place / _worker.ERROR).read_text())
        lost = LOST.search(story["headline"])
        short = "lost contact with another rank" if lost else story["headline"]
        return story | {"short": short, "weight": CONSEQUENCE if lost else CAUSE}
    if code is None:
        headline, weight = "was still running", INNOCENT
    elif code < 0:  # a rank without company may abort
        headline = f"was killed by {signal.Signals(-code).name}"
        weight = CONSEQUENCE if code == -signal.SIGABRT else LIKELY
    elif not (place / _worker.RESULT).exists():
        headline, weight = f"ended with exit code {code} before it returned", LIKELY
    elif code:
        headline, weight = f"returned, and then ended with exit code {code}", LIKELY
    else:
        headline, weight = "returned", INNOCENT
    return {"headline": headline, "short": headline, "weight": weight, "when": 0.0}


def _explain_late(outcome: Outcome, stories: dict[int, dict[str, Any]]) -> tuple[int | None, str]:
    """Say who was still running at the deadline, where, and what every rank had printed."""
    late = [rank for rank, code in outcome.codes.items() if code is None]
    who = f"rank {late[0]} was" if len(late) == 1 else f"ranks {', '.join(map(str, late))} were"
    lines = [f"{who} still running after {outcome.timeout:g} s, and all {len(stories)} ranks were killed"]
    lines += [f"rank {rank} {story['short']}" for rank, story in stories.items() if rank not in late]
    lines += [f"rank {rank} was at\n{where}" for rank in late if (where := _where(outcome.place(rank)))]
    return (late[0] if len(late) == 1 else None), "\n\n".join([*lines, _last_output(outcome)])


def _where(place: Path) -> str:
    """Return the frames of a late rank, newest first, without those of the worker itself."""
    stack = place / _worker.STACK
    frames = stack.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if stack.exists() else []
    inner = [frame for frame in frames if _worker.__file__ not in frame and "<frozen runpy>" not in frame]
    return "\n".join(inner[:LAST])


def _last_output(outcome: Outcome) -> str:
    """Return the last lines that each rank printed."""
    parts = []
    for rank in outcome.codes:
        place = outcome.place(rank)
        files = [place / name for name in (_worker.STDOUT, _worker.STDERR)]
        texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
        lines = [line for text in texts for line in text.splitlines()[-LAST:]]
        parts.append(f"last output of rank {rank}:" + "".join(f"\n  {line}" for line in lines or ["(none)"]))
    return "\n\n".join(parts)
