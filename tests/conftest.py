"""Shared by all tests: where things are, and the options for lessons."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
collect_ignore = ["server.py"]  # a program


def pytest_addoption(parser):
    """Let `nox -s lessons -- tensors/07` pick lessons by the beginning of their names."""
    parser.addoption("--lesson", action="append", default=[], help="run only lessons whose name begins so")
    parser.addoption("--notebooks", action="store_true", help="run every lesson as a notebook, too")


@pytest.fixture(scope="session")
def root():
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(autouse=True)
def close_figures():
    """Close what a test or a doctest has drawn: Matplotlib warns when twenty figures stay open."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Return a function that starts a program's server and returns a function that runs the program: see `server`."""
    with contextlib.ExitStack() as stack:

        def start(path, env):
            command = [sys.executable, str(ROOT / "tests" / "server.py"), str(path)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            server = stack.enter_context(subprocess.Popen(command, env=os.environ | env, **pipes))
            stack.callback(server.stdin.close)

            def run(*arguments, cwd, env, timeout=300):
                folder = tmp_path_factory.mktemp("fork")
                out, err = folder / "out", folder / "err"
                job = {"cwd": str(cwd), "env": os.environ | env, "timeout": timeout, "out": str(out), "err": str(err)}
                print(json.dumps({"arguments": list(map(str, arguments)), **job}), file=server.stdin, flush=True)
                for line in server.stdout:
                    code, done = line.rstrip("\n").split(" ", 1)
                    if done == str(out):  # not that of a test that did not wait for it
                        return subprocess.CompletedProcess(arguments, int(code), out.read_text(), err.read_text())
                raise RuntimeError(f"the server of {path} is gone; what it said stands above")

            return run

        yield start
