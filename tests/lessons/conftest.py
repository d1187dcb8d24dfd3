"""Every lesson of the gallery as a parameter, and the ways to run one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from course import read_lesson
from nbclient import NotebookClient
from sphinx_gallery.notebook import jupyter_notebook
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "gallery").glob("*/[0-9]*.py"))


def pytest_generate_tests(metafunc):
    """Give each test that asks for ``lesson`` every lesson, or those picked with --lesson."""
    if "lesson" in metafunc.fixturenames:
        picked = metafunc.config.getoption("lesson")
        lessons = [read_lesson(path) for path in LESSONS]
        chosen = [lesson for lesson in lessons if not picked or lesson.id.startswith(tuple(picked))]
        if not chosen:
            raise pytest.UsageError(f"no lesson begins with {', '.join(picked)}")
        metafunc.parametrize("lesson", chosen, ids=lambda lesson: lesson.id)


def pytest_collection_modifyitems(config, items):
    """With --lesson, run nothing but that lesson."""
    if config.getoption("lesson"):
        items[:] = [item for item in items if "lesson" in getattr(item, "fixturenames", ())]


@pytest.fixture
def strict_environment():
    """Return an environment in which warnings and wrong answers are errors and other machines are out of reach."""
    paths = [str(ROOT / "docs" / "_ext" / "guard"), str(ROOT / "src")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "BOOK_GUARD": "strict",
        "PYTORCH_COURSE_STRICT": "1",
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }


@pytest.fixture
def run_script(tmp_path, strict_environment):
    """Return a function that runs a script in an empty folder and returns the finished process."""

    def run(path, *arguments, **environment):
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(path), *arguments]
        done = subprocess.run(
            command,
            cwd=folder,
            env=strict_environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not list(folder.iterdir()), "the lesson left files in the folder it ran in"
        return done

    return run


@pytest.fixture
def run_notebook(tmp_path, strict_environment):
    """Return a function that runs the notebook that Sphinx-Gallery makes of a script and returns what it prints."""

    def run(path):
        folder = tmp_path / "notebook"
        folder.mkdir()
        _, blocks = split_code_and_text_blocks(str(path))
        conf = {"first_notebook_cell": None, "last_notebook_cell": None, "notebook_images": False, "pypandoc": False}
        conf |= {"promote_jupyter_magic": False, "jupyterlite": None}
        notebook = nbformat.reads(json.dumps(jupyter_notebook(blocks, conf, str(folder))), as_version=4)
        client = NotebookClient(
            notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": str(folder)}}
        )
        client.execute(env=strict_environment)
        streams = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "stream"]
        assert not [out.text for out in streams if out.name == "stderr"]
        return "".join(out.text for out in streams)

    return run
