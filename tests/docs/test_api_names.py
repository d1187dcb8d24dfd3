"""The index of names is made of the lessons' code, and follows it."""

import html
import re

import pytest

CONF = """
extensions += ["inventories", "sphinx.ext.autodoc", "code_links", "api_names"]
nitpicky = True
"""

FIRST = """
# :func:`numpy.argsort` is in the text only.
import contextlib
import numpy as np
from numpy.linalg import norm as length
from pathlib import Path as File
from tool.inner import double

here = File(".")
values = np.ones(double(3))
spread = np.std(values)
middle = values.mean()
long = length(values)
with contextlib.suppress(ValueError):
    kind = np.float32(1.5)
assert here.exists()
"""

SECOND = """
import numpy as np

ordered = np.sort([3, 1, 2])
again = np.std(ordered)
assert again > 0
"""

NUMPY = "https://numpy.org/doc/stable/reference/"
PYTHON = "https://docs.python.org/3/library/"
NUMBERS = ("lessons/one/01_numbers.html", "Numbers")
FILES = ("lessons/one/02_files.html", "Files")


def names(site):
    """Return, for each module in the order of the page, its names with their address and their lessons."""
    found = {}
    for module, items in re.findall(r"<h3>(<.*?)</h3>(.*?)</section>", site.page("names"), flags=re.S):
        found[re.search(r'class="pre">([\w.]+)', module)[1]] = names = {}
        for item in re.findall(r"<li>(.*?)</li>", items, flags=re.S):
            links = re.findall(r'href="(.*?)".*?>(?:<.*?>)*([^<]+)<', item)
            names[links[0][1]] = [links[0][0], *links[1:]]
    return found


@pytest.fixture(scope="module")
def site(shared_site):
    """Build a book of two lessons once."""
    site = shared_site
    conf = site.root / "docs/conf.py"
    conf.write_text(conf.read_text() + CONF)
    site.write("src/tool/inner.py", 'def double(x):\n    """Twice x."""\n    return 2 * x\n')
    site.write("docs/inner.rst", "Inner\n=====\n\n.. automodule:: tool.inner\n   :members:\n")
    site.write("docs/names.rst", "Names\n=====\n\n.. api-names::\n")
    index = site.root / "docs/index.rst"
    index.write_text(index.read_text() + "   names\n   inner\n")
    site.lesson("01_numbers", FIRST, title="Numbers")
    site.lesson("02_files", SECOND, title="Files")
    done = site.build()
    assert done.returncode == 0, done.stderr
    return site


def test_names_with_their_pages_and_lessons(site):
    """Every name that the code is linked by; no variable, no name of the prose."""
    assert names(site) == {
        "numpy": {
            "numpy.float32": [f"{NUMPY}arrays.scalars.html#numpy.float32", NUMBERS],
            "numpy.ndarray.mean": [f"{NUMPY}generated/numpy.ndarray.mean.html#numpy.ndarray.mean", NUMBERS],
            "numpy.ones": [f"{NUMPY}generated/numpy.ones.html#numpy.ones", NUMBERS],
            "numpy.sort": [f"{NUMPY}generated/numpy.sort.html#numpy.sort", FILES],
            "numpy.std": [f"{NUMPY}generated/numpy.std.html#numpy.std", NUMBERS, FILES],
        },
        "numpy.linalg": {"numpy.linalg.norm": [f"{NUMPY}generated/numpy.linalg.norm.html#numpy.linalg.norm", NUMBERS]},
        "contextlib": {"contextlib.suppress": [f"{PYTHON}contextlib.html#contextlib.suppress", NUMBERS]},
        "pathlib": {
            "pathlib.Path": [f"{PYTHON}pathlib.html#pathlib.Path", NUMBERS],
            "pathlib.Path.exists": [f"{PYTHON}pathlib.html#pathlib.Path.exists", NUMBERS],
        },
        "tool.inner": {"tool.inner.double": ["inner.html#tool.inner.double", NUMBERS]},
    }


def test_every_link_stands_in_the_index(site):
    """Whatever the code of a lesson links, the index links too."""
    index = set(re.findall(r'href="([^"]+)"', site.page("names")))
    for lesson in ("01_numbers", "02_files"):
        code = re.findall(r"<pre>(.*?)</pre>", site.page(f"lessons/one/{lesson}"), flags=re.S)
        linked = set(re.findall(r'href="([^"]+)"', "".join(code)))
        assert len(linked) > 2
        assert {link.removeprefix("../../") for link in linked} - index == set()


def test_libraries(site):
    """Libraries stand in the order of the rules, this book last; each is in the page's table of contents."""
    page = html.unescape(site.page("names"))
    titles = re.findall(r"<h2>([^<]+)", page)
    assert titles[0] == "PyTorch" and titles[-2:] == ["Python", "tiny"]
    assert "No lesson uses it yet." in page
    assert all(f'#names-{title.lower()}">{title}<' in page for title in ("PyTorch", "NumPy", "Python"))


def test_the_list_follows_the_code(site):
    """A name that a lesson begins to use appears, one that it stops using goes, and so does a lesson's own."""
    site.lesson("02_files", SECOND.replace("np.sort", "np.unique"), title="Files")
    done = site.build()
    assert done.returncode == 0, done.stderr
    assert names(site)["numpy"]["numpy.unique"][1:] == [FILES]
    assert "numpy.sort" not in names(site)["numpy"]
    before = (site.html / "names.html").stat().st_mtime_ns
    assert site.build().returncode == 0
    assert (site.html / "names.html").stat().st_mtime_ns == before

    (site.root / "gallery/one/02_files.py").unlink()
    done = site.build()
    assert done.returncode == 0, done.stderr
    assert names(site)["numpy"]["numpy.std"][1:] == [NUMBERS]
    assert "numpy.unique" not in names(site)["numpy"]
