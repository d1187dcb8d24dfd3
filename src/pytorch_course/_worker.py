"""The program of one rank that :func:`pytorch_course.distributed.launch` starts.

It imports torch only when the function it runs does, so a rank that needs no torch starts in a tenth of a second.
"""

import contextlib
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
from pathlib import Path
from typing import Any

import cloudpickle

RUN = "launch:"  # the run's id in the environment is this and the folder of the launch
# The files of a launch: one call in its folder, a store for each attempt, the others in <folder>/<attempt>/<rank>/.
CALL = "call.pickle"
STORE = "store"
RESULT = "result.pickle"
ERROR = "error.json"
STACK = "stack.txt"
STDOUT = "stdout.txt"
STDERR = "stderr.txt"

WATCH = 0.5  # seconds between two looks at the parent


def main(folder: Path, parent: int) -> None:
    """Run the call in `folder` as the rank the environment names, and leave its result or its error beside it.

    Parameters
    ----------
    folder : pathlib.Path
        The folder of the launch.
    parent : int
        Process number of the launching process. This one ends itself when that one is gone.
    """
    threading.Thread(target=_watch, args=(folder, parent), daemon=True).start()
    place = folder / os.environ["TORCHELASTIC_RESTART_COUNT"] / os.environ["RANK"]
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # input() raises EOFError here; it would wait for ever at a terminal
    faulthandler.enable(all_threads=False)
    stack = os.open(place / STACK, os.O_WRONLY | os.O_CREAT, 0o600)
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)  # the parent asks where a late rank is
    if not run(folder / CALL, place):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # a broken group may hang in its destructors, and everything worth knowing is written


def run(call: Path, place: Path) -> bool:
    """Run a pickled call. Whatever happens, `place` then holds either its result or its error.

    Parameters
    ----------
    call : pathlib.Path
        File with the pickled function, positional and keyword arguments.
    place : pathlib.Path
        Folder for the result or the error.

    Returns
    -------
    bool
        Whether there is a result.
    """
    stage = "could not read the function and its arguments"
    try:
        fn, args, kwargs = _load(call)
        stage = "raised"
        value = fn(*args, **kwargs)
        stage = f"returned a {type(value).__name__} that cannot be pickled"
        _write(place / RESULT, cloudpickle.dumps(value))
    except BaseException as error:  # SystemExit too: leaving early is no result
        _write(place / ERROR, json.dumps(_describe(stage, error)).encode())
        return False
    return True


def _load(path: Path) -> Any:
    """Unpickle a call, which imports what it needs.

    Importing torch makes objects that live as long as the process. Looking for garbage among them, while they are
    made and once more at exit, takes nearly half of the time a rank needs to start and stop.
    """
    gc.disable()
    try:
        return cloudpickle.loads(path.read_bytes())
    finally:
        gc.freeze()
        gc.enable()


def _describe(stage: str, error: BaseException) -> dict[str, Any]:
    """Put an exception into words, without the frames of this file."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    summary = traceback.format_exception_only(error)[0].splitlines()[0]
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    headline = f"{stage} {summary}" if stage == "raised" else f"{stage}: {summary}"
    return {"when": time.time(), "headline": headline, "traceback": "" if stage.startswith("returned") else text}


def _write(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent."""
    draft = path.with_suffix(".part")
    draft.write_bytes(content)
    draft.replace(path)


def _watch(folder: Path, parent: int) -> None:
    """End this process and all it started, and remove the folder, once the launching process or the folder is gone."""
    while os.getppid() == parent and folder.exists():
        time.sleep(WATCH)
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
