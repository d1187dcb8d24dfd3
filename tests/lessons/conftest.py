"""Every lesson of the gallery as a parameter, and the ways to run one."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import sources
from course import read_lesson
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
PLAY = Path(__file__).with_name("play.py")
GUARD = ROOT / "docs" / "_ext" / "guard"
LESSONS = sorted((ROOT / "gallery").glob("*/[0-9]*.py"))
LIMIT = 500  # seconds
collect_ignore = ["play.py"]  # a program
# Warnings and wrong answers are errors, other machines are out of reach.
STRICT = {
    "PYTHONPATH": f"{GUARD}{os.pathsep}{ROOT / 'src'}",
    "BOOK_GUARD": "strict",
    "PYTORCH_COURSE_STRICT": "1",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "agg",
}
OWN_INTERPRETER = re.compile(r"__file__|subprocess|multiprocessing|num_workers|launch\(|torchrun")


def needs_own_interpreter(path):
    """Return whether a lesson starts processes or uses its own file; every other may run in a fork, where there is one."""
    return sys.platform != "linux" or bool(OWN_INTERPRETER.search(path.read_text(encoding="utf-8")))


def pytest_generate_tests(metafunc):
    """Give every lesson to each test that asks for ``lesson``."""
    if "lesson" in metafunc.fixturenames:
        metafunc.parametrize("lesson", list(map(read_lesson, LESSONS)), ids=lambda lesson: lesson.id)


def pytest_collection_modifyitems(config, items):
    """Keep, where lessons are picked with --lesson, the tests that have one of them as a parameter."""
    picked = tuple(config.getoption("lesson"))
    if picked:
        left = {item for item in items if not any(name.startswith(picked) for name in lessons_of(item))}
        if len(left) == len(items):
            raise pytest.UsageError(f"no lesson begins with {', '.join(picked)}")
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]


def lessons_of(item):
    """Return the names of the lessons that a test has as parameters."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [name for name in (getattr(value, "id", value) for value in values) if isinstance(name, str)]


@dataclass
class Played:
    """What came of a lesson that was played: see `play`."""

    returncode: int
    stdout: str
    stderr: str
    problems: list  # with its exercises


@pytest.fixture(scope="session")
def fork(forks):
    """Return a function that plays a lesson in a fork."""
    return forks(PLAY, STRICT | {"BOOK_GUARD": "network"})


@pytest.fixture(scope="session")
def play(request, tmp_path_factory):
    """Return a function that plays a lesson in an empty folder."""

    def run(path, package=ROOT / "src", **environment):
        base = tmp_path_factory.mktemp("play")
        folder, report = base / "empty", base / "report"
        folder.mkdir()
        env = environment | STRICT | {"PYTHONPATH": f"{GUARD}{os.pathsep}{package}"}
        if needs_own_interpreter(path):
            command, options = (
                [sys.executable, PLAY, path, report],
                {"capture_output": True, "text": True, "check": False},
            )
            done = subprocess.run(command, cwd=folder, env=os.environ | env, timeout=LIMIT, **options)
        else:
            done = request.getfixturevalue("fork")(path, report, cwd=folder, env=env, timeout=LIMIT)
        assert not list(folder.iterdir()), "the lesson left files in the folder it ran in"
        problems = json.loads(report.read_text()) if report.exists() else ["did not run to its end"]
        return Played(done.returncode, done.stdout, done.stderr, problems)

    return run


@pytest.fixture
def run_notebook(tmp_path, pytestconfig):
    """Return a function that runs the cells of a lesson in a notebook in an empty folder and returns what they print.

    It is for lessons that start processes or use their own file, and with --notebooks for all; for others it returns None.
    """

    def run(path):
        if not (needs_own_interpreter(path) or pytestconfig.getoption("notebooks")):
            return None
        code = [block.content for block in sources.cells(path) if block.type == "code"]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
        resources = {"metadata": {"path": str(tmp_path)}}
        client = NotebookClient(notebook, kernel_name="python3", timeout=LIMIT, resources=resources)
        client.execute(env=os.environ | STRICT)
        assert not list(tmp_path.iterdir()), "the notebook left files in the folder it ran in"
        streams = [out for cell in notebook.cells for out in cell.outputs if out.output_type == "stream"]
        assert not [out.text for out in streams if out.name == "stderr"]
        return "".join(out.text for out in streams)

    return run
