"""The program of one rank that :func:`pytorch_course.distributed.launch` starts.

It imports torch only when the function it runs does, so a rank that needs no torch starts in a tenth of a second.
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
from pathlib import Path
from typing import Any

import cloudpickle

# The files of a launch: one call in its folder, the others in <folder>/<attempt>/<rank>/.
CALL = "call.pickle"
RESULT = "result.pickle"
ERROR = "error.json"
STACK = "stack.txt"
STDOUT = "stdout.txt"
STDERR = "stderr.txt"

WATCH = 0.5  # seconds between two looks at the parent


def main(place: Path, parent: int) -> None:
    """Run the call of a launch as the rank with the folder `place`, until it is done or the process `parent` is gone."""
    folder = place.parents[1]
    threading.Thread(target=_watch, args=(folder, parent), daemon=True).start()
    faulthandler.enable(all_threads=False)
    stack = os.open(place / STACK, os.O_WRONLY | os.O_CREAT, 0o600)
    faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)  # the parent asks where a late rank is
    stage = "could not read the function and its arguments"
    gc.disable()  # importing torch makes objects that stay; to look through them takes nearly half of a rank's time
    try:
        fn, args, kwargs = cloudpickle.loads((folder / CALL).read_bytes())
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


def _watch(folder: Path, parent: int) -> None:
    """End this process and all it started, and remove the folder, once the launching process or the folder is gone."""
    while os.getppid() == parent and folder.exists():
        time.sleep(WATCH)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
