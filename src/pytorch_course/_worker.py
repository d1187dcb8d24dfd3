"""The program that :func:`pytorch_course.distributed.launch` starts: it forks the ranks, and each runs the function.

Torch, if the function needs it, is imported once before the fork: in every rank it would cost seconds again.
"""

import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle

# The files of a launch: one call in its folder, the others in <folder>/<attempt>/<rank>/.
CALL = "call.pickle"
RESULT = "result.pickle"
ERROR = "error.json"
EXIT = "exit.txt"
STACK = "stack.txt"
STDOUT = "stdout.txt"
STDERR = "stderr.txt"

POLL = 0.01  # seconds between two looks at the ranks
WATCH = 0.5  # seconds between two looks of a rank at its parent


def main(attempt: Path, nproc: int, parent: int) -> None:
    """Fork the ranks, write down how each ends, and kill all when told to or once the process `parent` is gone."""
    folder, told = attempt.parent, threading.Event()
    call = (folder / CALL).read_bytes()
    gc.disable()  # importing torch makes objects that stay; to look through them takes nearly half of the time
    _import(call)
    gc.freeze()
    running: dict[int, Path] = {}
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    signal.signal(signal.SIGUSR1, lambda *_: _ask(running))
    try:
        for rank in range(nproc):
            place = attempt / str(rank)
            place.mkdir()
            pid = os.fork()
            if pid == 0:
                running.clear()  # the others are not this one's to kill
                _run(place, call)
                return
            running[pid] = place
            with suppress(PermissionError, ProcessLookupError):  # the child does the same, whoever is first
                os.setpgid(pid, pid)
        while running and not told.is_set() and os.getppid() == parent and folder.exists():
            time.sleep(POLL)
            for pid, place in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    _kill(pid)  # what it left running; later its number may belong to somebody else
                    _write(place / EXIT, str(os.waitstatus_to_exitcode(status)).encode())
    finally:
        for pid in running:
            _kill(pid)
            os.waitpid(pid, 0)
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # there is nothing to tidy up


def _import(call: bytes) -> None:
    """Import for all ranks what the call names."""
    if sys.platform == "linux" and b"torch" in call:  # Apple's frameworks do not survive a fork
        import torch.distributed

        # The first optimizer imports half of torch. It also looks for GPUs, and after a fork they are out of reach.
        if b"optim" in call and not torch.cuda.device_count():
            torch.optim.SGD([torch.zeros(1)], lr=0.1)


def _ask(running: dict[int, Path]) -> None:
    """Have each rank that knows the signal write down the line it is at."""
    for pid, place in running.items():
        if (place / STACK).exists():
            os.kill(pid, signal.SIGUSR1)


def _kill(pid: int) -> None:
    """Kill the process group of a rank."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _run(place: Path, call: bytes) -> None:
    """Be the rank with the folder `place`, in a process group of its own, to be killed with all that it starts."""
    with suppress(PermissionError):
        os.setpgid(0, 0)
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    for stream, name in ((0, os.devnull), (1, place / STDOUT), (2, place / STDERR)):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), stream)
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = place.name
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # as in a process that was not forked
    faulthandler.enable(all_threads=False)
    stack = os.open(place / STACK, os.O_WRONLY | os.O_CREAT, 0o600)
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)
    stage = "could not read the function and its arguments"
    try:
        fn, args, kwargs = cloudpickle.loads(call)
        gc.freeze()
        gc.enable()
        stage = "raised"
        value = fn(*args, **kwargs)
        stage = f"returned a {type(value).__name__} that cannot be pickled"
        _write(place / RESULT, cloudpickle.dumps(value))
    except BaseException as error:  # SystemExit too: leaving early is no result
        _write(place / ERROR, json.dumps(_describe(stage, error)).encode())
        os._exit(1)  # a broken group may hang in its destructors, and everything worth knowing is written


def _describe(stage: str, error: BaseException) -> dict[str, Any]:
    """Put an exception into words, without the frames of this file."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    summary = traceback.format_exception_only(error)[0].splitlines()[0]
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    headline = f"{stage} {summary}" if stage == "raised" else f"{stage}: {summary}"
    return {"when": time.time(), "text": headline, "traceback": "" if stage.startswith("returned") else text}


def _write(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent."""
    draft = path.with_suffix(".part")
    draft.write_bytes(content)
    draft.replace(path)


def _watch(parent: int) -> None:
    """End this rank and all it started once the process that forked it is gone."""
    while os.getppid() == parent:
        time.sleep(WATCH)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
