"""Every lesson runs as a script in an empty folder, offline, and prints the same text there, in a notebook and on its page."""

import ast
import json
from importlib.metadata import version

import nbformat
import pytest
import sources
from bs4 import BeautifulSoup
from course import stub

HTML = "docs/_build/html"


def repeatable(text):
    """Return the lines of a text, without those that are blank or, as the first word says, measured."""
    return [
        line.expandtabs().rstrip() for line in text.splitlines() if line.strip() and not line.startswith("measured")
    ]


def test_script(lesson, play, run_notebook, root):
    """It ends well and warns of nothing, its exercises know right from wrong, and it prints the same wherever it runs."""
    run = play(lesson.path)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.problems == []
    printed = repeatable(run.stdout)
    assert printed, "a lesson shows something"
    in_notebook = run_notebook(lesson.path)
    if in_notebook is not None:
        assert repeatable(in_notebook) == printed
    page = page_of(lesson, root)
    if page is not None:
        outputs = read(page).select(".sphx-glr-script-out pre")
        shown = repeatable("\n".join(output.get_text() for output in outputs))
        assert shown == printed, f"if the lesson is newer than its page: nox -s docs -- {lesson.id}"


def test_published_notebook(lesson, root):
    """The notebook that the page offers has the cells of the script, with stubs for solutions, in their order."""
    page = page_of(lesson, root)
    if page is None:
        pytest.skip("there is no page, built on this torch, to compare with")
    link = read(page).select_one("a[href$='.ipynb']")["href"]
    notebook = nbformat.read(page.parent / link, as_version=4)
    published = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    script = [stub(block.content) for block in sources.cells(lesson.path) if block.type == "code"]
    assert list(map(syntax, published)) == list(map(syntax, script))


def page_of(lesson, root):
    """Return the path of a lesson's page, or None where no build, on the torch that is here, has proved that it ran."""
    proof, torch = root / HTML / "lessons.json", version("torch").split("+")[0]
    lessons = json.loads(proof.read_text())["lessons"] if proof.exists() else []
    proved = any(each["id"] == lesson.id and each["torch"] == torch for each in lessons)
    return root / HTML / f"{lesson.docname}.html" if proved else None


def read(page):
    """Return the elements of a page."""
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def syntax(code):
    """Return code without comments and layout."""
    return ast.unparse(ast.parse(code))
