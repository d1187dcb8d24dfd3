"""Play lessons, each in a fork of this process, which loads the libraries once and has one thread.

Each line of standard input asks for one: a JSON object with the arguments of `child`. The answer is its exit code.
"""

import json
import multiprocessing
import os
import random
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import play
import runner
import sitecustomize
import torch

CONF = Path(__file__).parents[2] / "docs" / "conf.py"
LIMIT = 300  # seconds


def child(path, folder, report, out, err, environment):
    """Make this process like one that ``python PATH`` has just started in a folder, and play the lesson."""
    os.setsid()
    os.chdir(folder)
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.environ |= environment
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    multiprocessing.current_process().name = "MainProcess"
    for start_anew in (
        random.seed,
        np.random.seed,
        torch.seed,
    ):  # a lesson without a seed prints something else each time
        start_anew()
    sitecustomize.be_strict()
    play.play(path, report)


def main():
    """Answer every line."""
    runner.load(runpy.run_path(str(CONF))["book_libraries"])
    for line in sys.stdin:
        process = runner.context.Process(target=child, kwargs=json.loads(line))
        process.start()
        process.join(LIMIT)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        print(process.exitcode, flush=True)


if __name__ == "__main__":
    main()
