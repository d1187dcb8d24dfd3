"""A tiny book, built for real in a temporary folder with the extensions of the real one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

collect_ignore = ["sphinx_build.py"]  # a program
EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"

CONF = """
import os, sys
sys.path.insert(0, {extensions!r})
project = "tiny"
release = "0.1"
extensions = ["harness", "fresh", "runner", "pages", "myst_nb", "sphinx_gallery.gen_gallery", "sphinx_design", "proof", "wheel",
    "lesson_page", "cells", "notebooks", "course_map", "collected"]
exclude_patterns = ["_build", "lessons/**.ipynb", "sg_execution_times.rst"]
book_parts = ["one"]
book_only = os.environ.get("BOOK_ONLY", "").split()
sphinx_gallery_conf = dict(
    examples_dirs=["../gallery/one"], gallery_dirs=["lessons/one"], copyfile_regex=r"index\\.rst",
    within_subsection_order="FileNameSortKey", show_signature=False, min_reported_time=1e9,
    write_computation_times=False, download_all_examples=False,
)
nb_execution_mode = "cache"
nb_execution_cache_path = os.path.join(os.path.dirname(__file__), "_build", "chapters")
nb_execution_raise_on_error = True
html_theme = "basic"
html_copy_source = False
"""

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "pytorch-course"
version = "0.1"
requires-python = ">=3.11"
[tool.hatch.build.targets.wheel]
packages = ["src/tool"]
"""


class Site:
    """A book with one part; lessons and chapters are added by name and body."""

    fork = None  # a function that runs Sphinx

    def __init__(self, root, write=True):
        self.root, self.html = root, root / "docs" / "_build" / "html"
        if not write:
            return
        self.write("docs/conf.py", CONF.format(extensions=str(EXTENSIONS)))
        self.write(
            "docs/index.rst",
            "Tiny\n====\n\n.. course-map::\n\n.. timings::\n\n.. toctree::\n   :glob:\n\n   lessons/one/index\n   start/*\n",
        )
        self.write("pyproject.toml", PYPROJECT)
        self.write("docs/start/index.rst", "Start\n=====\n")
        self.write("src/tool/__init__.py", "")
        self.write("gallery/one/index.rst", "Part one\n========\n\n.. lessons::\n")

    def write(self, name, text):
        """Write one file of the book."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
        return path

    def lesson(self, name, body, needs="", title=None):
        """Write a lesson: a complete docstring and the given code."""
        title = title or f"Lesson {name}"
        facts = f".. lesson::\n   :needs: {needs}\n   :data: none\n   :keywords: word\n"
        head = f'"""\n{title}\n{"=" * len(title)}\n\nDo a thing.\n\n{facts}"""\n'
        return self.write(f"gallery/one/{name}.py", f"{head}\n# %%\n# Text\n# ----\n\n{dedent(body).strip()}\n")

    def chapter(self, name, code):
        """Write a chapter with one code cell."""
        head = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n  display_name: Python 3\n---\n"
        return self.write(
            f"docs/start/{name}.md", f"{head}# Chapter {name}\n\n```{{code-cell}} python\n{dedent(code).strip()}\n```\n"
        )

    def start(self, *options, **environment):
        """Start to build the book in a process of its own, as nox does."""
        (self.html / "lessons.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "sphinx", *self.arguments(options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.root, env=os.environ | self.environment(environment), **pipes)

    def arguments(self, options):
        """Return what Sphinx is told."""
        fixed = ["-b", "html", "-q", "-W", "--keep-going", "-d", "docs/_build/doctrees"]
        return [*fixed, *options, "docs", self.html]

    def environment(self, more):
        """Return the variables that a build needs."""
        return {"PYTHONPATH": str(self.root / "src")} | more

    def build(self, *options, **environment):
        """Build the book in a fork of a process that has loaded Sphinx, in which each build is a second or two faster."""
        (self.html / "lessons.json").unlink(missing_ok=True)
        return self.fork(*self.arguments(options), cwd=self.root, env=self.environment(environment))

    def sources(self):
        """Return every page that the book is made of."""
        folders = [self.root / "docs" / name for name in ("", "start", "lessons/one")]
        return [path for folder in folders for path in folder.glob("*.*") if path.suffix in (".rst", ".md")]

    def proof(self):
        """Return what the build says of its lessons, by name; None when it proved nothing."""
        path = self.html / "lessons.json"
        if not path.exists():
            return None
        return {lesson["id"].removeprefix("one/"): lesson for lesson in json.loads(path.read_text())["lessons"]}

    def page(self, name):
        """Return the HTML of a page."""
        return (self.html / f"{name}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def fork_of_sphinx(forks):
    """Have every book built in a fork."""
    Site.fork = staticmethod(forks(Path(__file__).with_name("sphinx_build.py"), {"OMP_NUM_THREADS": "1"}))


@pytest.fixture
def site(tmp_path):
    """Return an empty tiny book."""
    return Site(tmp_path)


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory):
    """Return an empty tiny book that all tests of a module share."""
    return Site(tmp_path_factory.mktemp("site"))
