"""The list of names is made of the lessons' code, and follows it."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

EXTENSIONS = Path(__file__).parents[2] / "docs" / "_ext"

CONF = """
import sys
sys.path.insert(0, {extensions!r})
extensions = ["inventories", "sphinx_gallery.gen_gallery", "api_names"]
inventories = ["numpy", "python"]
inventories_path = {folder!r}
sphinx_gallery_conf = dict(
    examples_dirs=["gallery/start", "gallery/more"], gallery_dirs=["lessons/start", "lessons/more"],
    filename_pattern=r"/\\d\\d_", ignore_pattern="__init__", image_scrapers=(), reset_modules=(), show_signature=False,
    write_computation_times=False, inspect_global_variables=True,
)
exclude_patterns = ["out", "gallery", "lessons/**.ipynb", "sg_execution_times.rst"]
nitpicky = True
html_theme = "basic"
"""

FIRST = '''
"""
Numbers
=======

This text names :func:`numpy.argsort`, which the code does not use.
"""

import contextlib
import numpy as np
from numpy.linalg import norm as length
from pathlib import Path as File

here = File(".")
generator = np.random.default_rng(0)
count = 3
values = np.ones(count)
spread = np.std(values)
middle = values.mean()
long = length(values)
found = here.exists()
with contextlib.suppress(ValueError):
    kind = np.float32(1.5)
'''

SECOND = '''
"""
Files
=====

Read and sort.
"""

import numpy as np
from pathlib import Path

home = Path("x")
ordered = np.sort([3, 1, 2])
again = np.std(ordered)
'''


class Site:
    """A gallery with two parts of one lesson each, and a page that lists the names."""

    def __init__(self, root, folder):
        self.root = root
        self.write("conf.py", CONF.format(extensions=str(EXTENSIONS), folder=str(folder)))
        self.write(
            "index.rst",
            "Site\n====\n\n.. toctree::\n   :glob:\n\n   names\n   other*\n   lessons/start/index\n   lessons/more/index\n",
        )
        self.write("names.rst", "Names\n=====\n\n.. api-names::\n")
        for number in range(6):  # Sphinx reads in several processes from six pages on
            self.write(f"other{number}.rst", f"Other {number}\n=======\n")
        for part, name, lesson in (("start", "01_numbers", FIRST), ("more", "02_files", SECOND)):
            self.write(f"gallery/{part}/README.rst", f"Part {part}\n==========\n")
            self.write(f"gallery/{part}/{name}.py", lesson)

    def write(self, name, text):
        """Write one file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip(), encoding="utf-8")

    def build(self, *options):
        """Build in a process of its own; return what Sphinx says."""
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--no-color",
            "--keep-going",
            *options,
            str(self.root),
            str(self.root / "out"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def names(self):
        """Return, for each module in the order of the page, its names with their address and their lessons."""
        page = (self.root / "out" / "names.html").read_text(encoding="utf-8")
        found = {}
        for section in re.findall(r'<h3>.*?<span class="pre">([\w.]+)</span>.*?</h3>(.*?)</section>', page, flags=re.S):
            found[section[0]] = {}
            for item in re.findall(r"<li>(.*?)</li>", section[1], flags=re.S):
                links = re.findall(r'href="(.*?)".*?>(?:<.*?>)*([^<]+)<', item)
                found[section[0]][links[0][1]] = [links[0][0], *links[1:]]
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory, pytestconfig):
    """Build the site once."""
    site = Site(tmp_path_factory.mktemp("site"), pytestconfig.cache.mkdir("inventories"))
    site.build()
    return site


NUMBERS = ("lessons/start/01_numbers.html", "Numbers")
FILES = ("lessons/more/02_files.html", "Files")


def test_names_with_their_pages_and_lessons(site):
    """Every name of a library that the code spells, methods in C too; no variable, no module, no name of the prose."""
    numpy = "https://numpy.org/doc/stable/reference/"
    python = "https://docs.python.org/3/library/"
    assert site.names() == {
        "numpy": {
            "numpy.float32": [f"{numpy}arrays.scalars.html#numpy.float32", NUMBERS],
            "numpy.ndarray.mean": [f"{numpy}generated/numpy.ndarray.mean.html#numpy.ndarray.mean", NUMBERS],
            "numpy.ones": [f"{numpy}generated/numpy.ones.html#numpy.ones", NUMBERS],
            "numpy.sort": [f"{numpy}generated/numpy.sort.html#numpy.sort", FILES],
            "numpy.std": [f"{numpy}generated/numpy.std.html#numpy.std", NUMBERS, FILES],
        },
        "numpy.linalg": {"numpy.linalg.norm": [f"{numpy}generated/numpy.linalg.norm.html#numpy.linalg.norm", NUMBERS]},
        "numpy.random": {
            "numpy.random.default_rng": [f"{numpy}random/generator.html#numpy.random.default_rng", NUMBERS],
        },
        "contextlib": {"contextlib.suppress": [f"{python}contextlib.html#contextlib.suppress", NUMBERS]},
        "pathlib": {
            "pathlib.Path": [f"{python}pathlib.html#pathlib.Path", NUMBERS, FILES],
            "pathlib.Path.exists": [f"{python}pathlib.html#pathlib.Path.exists", NUMBERS],
        },
    }


def test_order(site):
    """Libraries stand in the order of the configuration, modules and names in that of the alphabet."""
    assert list(site.names()) == ["numpy", "numpy.linalg", "numpy.random", "contextlib", "pathlib"]
    listed = [list(names) for names in site.names().values()]
    assert listed == [sorted(names, key=str.casefold) for names in listed]
    page = (site.root / "out" / "names.html").read_text(encoding="utf-8")
    assert re.findall(r"<h2>([^<]+)", page) == ["NumPy", "Python"]


def test_nothing_changed(site):
    """A second build reads no page."""
    assert "0 added, 0 changed, 0 removed" in site.build()


def test_the_list_follows_the_code(site):
    """A name that a lesson begins to use appears, one that it stops using goes; other pages are left alone."""
    site.write("gallery/more/02_files.py", SECOND.replace("np.sort", "np.unique"))
    said = site.build()
    assert re.search(r"reading sources.*\] names", said)
    assert not re.search(r"reading sources.*\] other0", said)
    names = site.names()["numpy"]
    assert names["numpy.unique"][1:] == [FILES]
    assert "numpy.sort" not in names


def test_read_in_two_processes(site):
    """The list is the same, and still followed, when Sphinx reads with several processes."""
    before = site.names()
    site.build("-E", "-j", "2")
    assert site.names() == before
    site.write("gallery/more/02_files.py", SECOND.replace("np.sort", "np.flip"))
    site.build("-j", "2")
    assert site.names()["numpy"]["numpy.flip"][1:] == [FILES]


def test_a_lesson_that_is_gone(site):
    """Its names go with it."""
    for path in (*site.root.glob("gallery/more/02*"), *site.root.glob("lessons/more/02*")):
        path.unlink()
    site.build()
    assert site.names()["numpy"]["numpy.std"][1:] == [NUMBERS]
    assert "numpy.flip" not in site.names()["numpy"]
