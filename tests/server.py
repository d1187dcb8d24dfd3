"""Run a program many times, each time in a fork of this process, which loads the program and its libraries once.

``python server.py PROGRAM``: each line of standard input, a JSON object of the arguments of `child`, asks for one run of
the program's `main`; the answer is a line with its exit code and the file of its output. So a run costs no import of torch
or of Sphinx.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

context = multiprocessing.get_context("fork")


def child(main, arguments, cwd, env, out, err, timeout):
    """Make this process like one that was just started, and run the program."""
    del timeout  # the parent looks at it
    os.setsid()
    os.chdir(cwd)
    for stream, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ |= env
    sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
    multiprocessing.current_process().name = "MainProcess"
    main(*arguments)


def serve(path):
    """Answer every line."""
    sys.path.append(str(path.parent))
    program = importlib.import_module(path.stem)
    program.load()
    for line in sys.stdin:
        job = json.loads(line)
        process = context.Process(target=child, args=(program.main,), kwargs=job)
        process.start()
        try:
            process.join(job["timeout"])
        finally:
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
        process.join()
        print(process.exitcode, job["out"], flush=True)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
    os._exit(0)  # libraries complain at a regular end, for the garbage collector is frozen
