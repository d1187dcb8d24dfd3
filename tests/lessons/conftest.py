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
LIMIT = 300  # seconds
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
    """Give every lesson to each test that asks for ``lesson``; the tests of one stay in one process, for they share its run."""
    if "lesson" in metafunc.fixturenames:
        few = "run_notebook" in metafunc.fixturenames and not metafunc.config.getoption("notebooks")
        lessons = [read_lesson(path) for path in LESSONS if not few or needs_own_interpreter(path)]
        marked = [pytest.param(each, id=each.id, marks=pytest.mark.xdist_group(each.id)) for each in lessons]
        metafunc.parametrize("lesson", marked)


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


@pytest.fixture(scope="session")
def played(play):
    """Return a function that plays a lesson of the gallery, once for all tests."""
    known = {}

    def get(lesson):
        if lesson.id not in known:
            known[lesson.id] = play(lesson.path)
        return known[lesson.id]

    return get


@pytest.fixture
def run_notebook(tmp_path):
    """Return a function that runs the cells of a lesson in a notebook in an empty folder and returns what they print."""

    def run(path):
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


@pytest.fixture(scope="session")
def repeatable():
    """Return a function that gives the lines of a text, without those that are blank or, as the first word says, measured."""

    def lines(text):
        return [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("measured")]

    return lines
