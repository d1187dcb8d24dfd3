"""The code of lessons, chapters and examples is linked, and reads as before."""

import html
import re

import pytest

CONF = """
extensions += ["inventories", "sphinx.ext.autodoc", "code_links"]
nitpicky = True
"""

LESSON = """
from pathlib import Path

place = Path("x")
assert not place.exists(), "ä, \\"<tag>\\"" + str(place.joinpath("y"))

# %%
# More text.

for known in [place]:
    print(known.name)  # .name needs what the loop's variable was
    text = '''two
    lines'''

# %%
# .. exercise:: Read
#
#    Write it.

def read(path):
    ### BEGIN SOLUTION
    return Path(path).read_text()
    ### END SOLUTION

assert not place.is_dir()
"""

EXAMPLE = '''
import math


def root(x):
    """Root.

    >>> root(math.floor(16.5))
    4.0
    """
    return math.sqrt(x)
'''

OPTIONS = """
Options
=======

.. code-block:: python
   :name: named
   :linenos:
   :lineno-start: 9
   :emphasize-lines: 2

   import math
   math.floor(1.5)
   text = 'two'
"""

PYTHON = "https://docs.python.org/3/library/"


def links(page):
    """Return the blocks of code on a page as text, and what each link in them reads and leads to."""
    blocks = re.findall(
        r'<div class="highlight-\w+ notranslate"><div class="highlight"><pre[^>]*>(.*?)</pre>', page, re.S
    )
    found = {}
    for block in blocks:
        for address, shown in re.findall(r'<a class="reference[^>]*href="([^"]*)"[^>]*>(.*?)</a>', block, re.S):
            found[re.sub("<[^>]+>", "", shown)] = address
    return [html.unescape(re.sub("<[^>]+>", "", block)) for block in blocks], found


@pytest.fixture
def linked(site):
    """Return a tiny book with a lesson, a chapter and a module."""
    conf = site.root / "docs/conf.py"
    conf.write_text(conf.read_text() + CONF)
    site.write("src/tool/inner.py", EXAMPLE)
    site.write("docs/api/tool/inner.rst", "Inner\n=====\n\n.. automodule:: tool.inner\n   :members:\n")
    index = site.root / "docs/index.rst"
    index.write_text(index.read_text() + "   api/tool/*\n")
    site.lesson("01_paths", LESSON)
    site.write("docs/start/options.rst", OPTIONS)
    site.chapter("paths", "import pathlib\nfor known in {pathlib.Path('x'): 1}.keys():\n    assert not known.exists()")
    done = site.build()
    assert done.returncode == 0, done.stderr
    return site


def test_every_block_is_linked(linked):
    """Names lead to the page of their library or of this book; variables and unknown names lead nowhere."""
    blocks, found = links(linked.page("lessons/one/01_paths"))
    assert [block.strip() for block in blocks[:2]] == [
        part.split("# %%")[0].strip() for part in LESSON.split("# More text.\n")
    ]
    assert "    raise NotImplementedError  # your code\n\nassert" in blocks[2]
    assert blocks[3] == "return Path(path).read_text()"
    assert found == {
        "pathlib": f"{PYTHON}pathlib.html#module-pathlib",
        "Path": f"{PYTHON}pathlib.html#pathlib.Path",
        "joinpath": f"{PYTHON}pathlib.html#pathlib.PurePath.joinpath",
        "exists": f"{PYTHON}pathlib.html#pathlib.Path.exists",
        "name": f"{PYTHON}pathlib.html#pathlib.PurePath.name",
        "is_dir": f"{PYTHON}pathlib.html#pathlib.Path.is_dir",
        "read_text": f"{PYTHON}pathlib.html#pathlib.Path.read_text",
    }
    _, found = links(linked.page("start/paths"))
    assert found["exists"] == f"{PYTHON}pathlib.html#pathlib.Path.exists"
    blocks, found = links(linked.page("api/tool/inner"))
    assert blocks[0].startswith(">>> root(math.floor(16.5))\n4.0")
    assert found == {"root": "#tool.inner.root", "math.floor": f"{PYTHON}math.html#math.floor"}


def test_a_page_written_again_keeps_its_links(linked):
    """Links do not depend on the page being read in this build."""
    before = links(linked.page("start/paths"))
    assert linked.build("-a").returncode == 0
    assert links(linked.page("start/paths")) == before


def test_options_of_a_block(linked):
    """Line numbers, emphasis and the name of a block stay when its names are linked."""
    page = linked.page("start/options")
    block = re.search(r'<div class="highlight-python notranslate" id="named">.*?</div>', page, re.S)[0]
    assert re.findall(r'<span class="linenos">(.*?)</span>', block) == [" 9", "10", "11"]
    (emphasised,) = re.findall(r'<span class="hll">(.*?\n)</span>', block, re.S)
    assert re.sub("<[^>]+>", "", emphasised) == "10math.floor(1.5)\n"
    assert f'href="{PYTHON}math.html#math.floor"' in emphasised
