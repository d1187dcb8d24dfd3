"""What readers get of a lesson: stubs and folded answers, folded drawings, notebooks in Markdown, scripts that show figures."""

import ast
import html
import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

RICH = '''
r"""
Rich text
=========

Write *all* there is.

.. lesson::
   :needs: one/01_sorting
   :data: none
   :keywords: color, gray scale,
      ValueError: too many values to unpack
   :thumbnail: 2
"""

# %%
# .. note::
#
#    A note with :math:`a_i`, ``x[0]`` and `a link <https://example.org/a>`_, :doc:`a page <01_sorting>`, 2 * 3 * 4.
#
# .. admonition:: Mind
#
#    It *matters*:
#
#    * one
#    * two
#
#      - deep
#
#    1. first
#    2. second
#
# .. dropdown:: Open **me**
#
#    .. code-block:: python
#
#       x = 1
#
# .. math:: y = x^2
#
# .. math::
#
#    a &= b \\\\
#    c &= d
#
# ===== =====
# Name  Value
# ===== =====
# a     1 | 2
# ===== =====
#
# word
#   What it means.

### BEGIN SOLUTION
guess = 3
### END SOLUTION
from pytorch_course.exercises import expect

expect(guess, 3)

# %%
# .. rubric:: Aside
#
# > quoted

import matplotlib.pyplot as plt

plt.plot([1, 2])
plt.figure(figsize=(1, 3))
plt.plot([2, 1])

# %%
# .. caption:: Two *lines*.
#    :alt: Lines.
'''

PAGES = "\n   cheat\n   list\n"


def build(site, **environment):
    """Build the tiny book with the package of the real one."""
    paths = os.pathsep.join([str(site.root / "src"), os.environ.get("PYTHONPATH", "")])
    return site.build(PYTHONPATH=paths, **environment)


@pytest.fixture(scope="module")
def built(shared_site, pytestconfig):
    """Build a book of the sample lesson and one of much markup."""
    site = shared_site
    sample = (pytestconfig.rootpath / "gallery" / "sample_lesson.py").read_text(encoding="utf-8")
    site.write("gallery/one/01_sorting.py", sample.replace("tensors/06_indexing_and_joining", ""))
    task = "# .. exercise:: Guess a ``number``\n#    :kind: predict\n#\n#    Which?\n#\n# Text.\n\n### BEGIN"
    site.write("gallery/one/02_rich.py", RICH.lstrip().replace("\n### BEGIN", f"\n# %%\n{task}"))
    site.write("docs/cheat.rst", "Sheet\n=====\n\n.. cheat-sheet::\n")
    site.write("docs/list.rst", "List\n====\n\n.. exercises::\n")
    (site.root / "docs/index.rst").write_text((site.root / "docs/index.rst").read_text() + PAGES)
    done = build(site)
    assert done.returncode == 0, done.stderr
    return site


def text_of(page):
    """Return a page as text."""
    return html.unescape(re.sub("<[^>]+>", "", page))


def download(site, name):
    """Return the path of a download."""
    (path,) = site.html.glob(f"_downloads/*/{name}")
    return path


def cells(site, name):
    """Return kind, metadata and text of a notebook's cells."""
    notebook = json.loads(download(site, name).read_text(encoding="utf-8"))
    return [(cell["cell_type"], cell["metadata"], "".join(cell["source"])) for cell in notebook["cells"]]


def test_page_shows_stub_and_folds_answer(built):
    """Task, stub and checks stand open; the solution and what it printed are folded, and highlighted like all code."""
    page = built.page("lessons/one/01_sorting")
    assert re.search(r'<div class="[^"]*admonition[^"]*" id="exercise-undo-a-sort"', page)
    folded = re.findall(r'<details class="book-fold">.*?</details>', page, flags=re.S)
    drawing, first, second = map(text_of, folded)
    assert drawing.startswith("Code: two scatter plots, price against weight\nimport matplotlib.pyplot as plt\n")
    assert first.split() == ["Answer", "return", "table[(table[:,", "0]", "/", "table[:,", "1]).argsort()]", "right"]
    assert second.split() == ["Answer", "return", "order.argsort()", "right"]
    open_page = page
    for part in folded:
        open_page = open_page.replace(part, "")
    assert "def undo(order):\n    raise NotImplementedError  # your code\n\n\nexpect(" in text_of(open_page)
    assert "return order.argsort()" not in text_of(open_page)
    assert "SOLUTION" not in page
    assert '<span class="k">raise</span>' in page
    assert 'sphx_glr_01_sorting_001.png"' in open_page  # the figure of a folded cell


def test_a_guess_is_left_open(built):
    """What a solution assigns outside functions becomes an open place."""
    assert "guess = ...\nfrom" in text_of(built.page("lessons/one/02_rich"))


def test_search_finds_keywords(built):
    """Words that the page does not show are in the index, those of a second line too."""
    index = json.loads((built.html / "searchindex.js").read_text()[len("Search.setIndex(") :].rstrip(")"))
    page = text_of(built.page("lessons/one/02_rich"))
    for word in ("color", "gray", "unpack"):
        assert index["docnames"].index("lessons/one/02_rich") in [index["terms"][word]]
        assert word not in page


def test_thumbnail(built):
    """The figure that the lesson chose, here a narrow one, stands for it in lists."""
    from PIL import Image

    assert "sphx_glr_02_rich_thumb.png" in built.page("lessons/one/index")
    picture = Image.open(built.root / "docs/lessons/one/images/thumb/sphx_glr_02_rich_thumb.png").convert("L")
    assert picture.crop((0, 0, picture.width // 4, picture.height)).getextrema() == (255, 255)


def test_script_runs_without_answers(built, tmp_path):
    """It holds the stubs, says what is not done, and ends in silence where there is no window."""
    script = download(built, "01_sorting.py")
    assert "argsort()]\n    ### END" not in script.read_text()
    for name, backend in (("without display", {}), ("agg", {"MPLBACKEND": "agg", "DISPLAY": ":0"})):
        environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
        done = subprocess.run(
            [sys.executable, script],
            cwd=tmp_path,
            env=environment | backend,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout.count("not done yet\n") == 2
        assert "right" not in done.stdout
    assert not list(tmp_path.iterdir())
    shown = script.read_text().replace('plt.get_backend().lower() != "agg"', "plt.get_fignums() == [1]")
    done = subprocess.run(
        [sys.executable, "-c", shown.replace("plt.show()", "print('shown')")], capture_output=True, text=True
    )
    assert done.stdout.endswith("shown\n"), done.stderr
    assert "get_backend" in download(built, "02_rich.py").read_text()


def test_notebook_holds_stubs(built, tmp_path):
    """Stubs and checks are in its code, answers folded in its text, drawing code is hidden; it runs to its end."""
    found = cells(built, "01_sorting.ipynb")
    code = [text for kind, _, text in found if kind == "code"]
    assert [metadata for kind, metadata, text in found if "two scatter plots" in text] == [
        {"jupyter": {"source_hidden": True}}
    ]
    assert sum("raise NotImplementedError  # your code" in text for text in code) == 2
    assert "SOLUTION" not in "".join(code)
    number = next(number for number, cell in enumerate(found) if "def undo" in cell[2])
    answer = "<details><summary>Answer</summary>\n\n```python\nreturn order.argsort()\n```\n\n</details>"
    assert found[number + 1] == ("markdown", {}, answer)
    notebook = nbformat.read(download(built, "01_sorting.ipynb"), as_version=4)
    NotebookClient(
        notebook, kernel_name="python3", timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert said.count("not done yet") == 2


def test_notebook_text_is_markdown(built):
    """Everything that a lesson writes has a form that notebooks show."""
    text = "\n\n".join(text for kind, _, text in cells(built, "02_rich.ipynb") if kind == "markdown")
    for expected in (
        "# Rich text\n\nWrite *all* there is.\n\n**You need:** one/01_sorting\n\n**Data:** none\n\n**Install once:** `python",
        "> **Note**\n> \n> A note with $a_i$, `x[0]` and [a link](https://example.org/a), a page, 2 \\* 3 \\* 4.\n",
        "> **Mind**\n> \n> It *matters*:\n> \n> * one\n> * two\n> \n>   * deep\n> \n> 1. first\n> 2. second\n",
        "<details><summary>Open **me**</summary>\n\n```python\nx = 1\n```\n\n</details>",
        "$$\ny = x^2\n$$",
        "$$\n\\begin{aligned}a &= b \\\\\nc &= d\\end{aligned}\n$$",
        "| Name | Value |\n| --- | --- |\n| a | 1 \\| 2 |\n",
        "word\n\n: What it means.",
        "> **Guess a `number` (predict)**",
        "**Aside**",
        "_Figure: Two *lines*._",
    ):
        assert expected in text, text
    assert "::" not in text


def test_collected_pages(built):
    """Cheat sheet and list of exercises hold what the lessons hold, and follow a change of one lesson."""
    sheet = built.page("cheat")
    assert "Order by one column, keep rows whole, keep ties in place:" in sheet
    assert "cheapest = parcels[key.topk(10, largest=False).indices]" in text_of(sheet)
    assert 'href="lessons/one/01_sorting.html"' in sheet
    exercises = built.page("list")
    assert 'href="lessons/one/01_sorting.html#exercise-sort-by-price-per-kilogram"' in exercises
    assert "Guess a number (predict)" in text_of(exercises)
    assert "Part one" in text_of(sheet) + text_of(exercises)
    path = built.root / "gallery/one/01_sorting.py"
    path.write_text(
        path.read_text().replace("Order by one column", "Sort by a column").replace("Undo a sort", "Go back")
    )
    done = build(built)
    assert done.returncode == 0, done.stderr
    assert "Sort by a column" in built.page("cheat")
    assert "#exercise-go-back" in built.page("list")


FAULTS = {
    "01_taskless": ("### BEGIN SOLUTION\nx = 1\n### END SOLUTION", "a solution without '.. exercise::'"),
    "02_cellless": ("# %%\n# .. exercise:: One\n#\n#    Do.\n\nx = 1", "an exercise without a cell"),
    "03_endless": (
        "# %%\n# .. exercise:: One\n#\n#    Do.\n\n### BEGIN SOLUTION\nx = 1",
        "does not end with '### END SOLUTION'",
    ),
    "04_stops": (
        "# %%\n# .. exercise:: One\n#\n#    Do.\n\ndef f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n\ny = f()",
        "stops the script of a reader who has not answered yet (NotImplementedError); call what",
    ),
    "05_wrong": (
        "# %%\n# .. exercise:: One\n#\n#    Do.\n\nfrom pytorch_course.exercises import expect\n"
        "### BEGIN SOLUTION\nx = 1\n### END SOLUTION\nexpect(x, 2)",
        "raised an exception",
    ),
    "06_figureless": ("x = 1", "draws no figure 3"),
    "07_wordless": ("x = 1", "has no ':keywords:'"),
    "08_bodiless": ("# %%\n# .. exercise:: One\n\nx = 1", 'the "exercise" directive; none found'),
}


def test_faults_are_named(site):
    """What would leave a reader without task, stub, answer or way on stops the build."""
    for name, (body, _) in FAULTS.items():
        path = site.lesson(name, body)
        if name == "06_figureless":
            path.write_text(path.read_text().replace(":keywords:", ":thumbnail: 3\n   :keywords:"))
        if name == "07_wordless":
            path.write_text(path.read_text().replace("   :keywords: word\n", ""))
    done = build(site)
    assert done.returncode != 0
    for name, (_, said) in FAULTS.items():
        assert any(name in line and said in line for line in done.stderr.splitlines()), (name, done.stderr)


def test_what_a_page_shows_is_python(built):
    """Every stub compiles."""
    for name in ("01_sorting.py", "02_rich.py"):
        ast.parse(download(built, name).read_text())
