"""Every lesson runs as a script in an empty folder, offline, and prints the same text there, in a notebook and on its page."""

import ast

import nbformat
import pytest
import sources
from bs4 import BeautifulSoup
from course import stub


def test_script(lesson, played):
    """It ends well, shows something and warns of nothing."""
    run = played(lesson)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout.strip(), "a lesson shows something"


def test_exercises(lesson, played):
    """Answers pass, wrong answers do not, and without any the script runs to its end."""
    assert played(lesson).problems == []


def test_notebook(lesson, played, run_notebook, repeatable):
    """Those that start processes or use their own file, or with --notebooks all, print the same text in a notebook."""
    assert repeatable(run_notebook(lesson.path)) == repeatable(played(lesson).stdout)


@pytest.fixture
def page(lesson, root):
    """Return the path of a lesson's published page."""
    html = root / "docs" / "_build" / "html"
    if not (html / "lessons.json").exists():
        pytest.skip("there is no built book to compare with")
    return html / f"{lesson.docname}.html"


def read(page):
    """Return the elements of a page."""
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def test_page(lesson, played, page, repeatable):
    """The page shows what the script prints: no output is of another lesson, of another version or of chance."""
    shown = "\n".join(output.get_text() for output in read(page).select(".sphx-glr-script-out pre"))
    assert repeatable(shown) == repeatable(played(lesson).stdout), f"build the page again: nox -s docs -- {lesson.id}"


def test_published_notebook(lesson, page):
    """The notebook that the page offers has the cells of the script, with stubs for solutions, in their order."""
    link = read(page).select_one("a[href$='.ipynb']")["href"]
    notebook = nbformat.read(page.parent / link, as_version=4)
    published = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    script = [stub(block.content) for block in sources.cells(lesson.path) if block.type == "code"]
    assert list(map(syntax, published)) == list(map(syntax, script))


def syntax(code):
    """Return code without comments and layout."""
    return ast.unparse(ast.parse(code))
