"""Every lesson has the form that readers rely on."""

import ast
import re
import sys

import pytest
from course import read_course
from harness import count_checks
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

ALLOWED = {
    "matplotlib", "numpy", "pandas", "pytorch_course", "sklearn", "torch", "torchmetrics", "torchvision",
} | set(sys.stdlib_module_names)  # fmt: skip
FORBIDDEN = (  # what no lesson may contain: it hides a danger or a warning, or waits for a window
    "weights_only=False",
    "add_safe_globals",
    'filterwarnings("ignore")',
    'simplefilter("ignore")',
    "plt.show()",
)


def blocks(lesson):
    """Return the text and code cells of a lesson."""
    return split_code_and_text_blocks(str(lesson.path))[1]


def code_lines(text):
    """Count lines that are neither blank nor comment."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def test_order(root):
    """The gallery follows the list of parts in conf.py, and every need is an earlier lesson."""
    parts = re.search(r"^book_parts = (\[.*?\])", (root / "docs/conf.py").read_text(), flags=re.M | re.S)
    assert read_course(root / "gallery", ast.literal_eval(parts[1]))


def test_title_fits_the_sidebar(lesson):
    """A title is short."""
    assert len(lesson.title) <= 40


def test_length(lesson):
    """A lesson can be read in one sitting, a cell at one glance."""
    code = [block.content for block in blocks(lesson) if block.type == "code"]
    prose = " ".join(block.content for block in blocks(lesson) if block.type == "text")
    assert sum(map(code_lines, code)) <= 250
    assert len(prose.split()) <= 1500
    long = [cell.splitlines()[0] for cell in code if code_lines(cell) > 15]
    assert not long, f"cells of more than 15 lines begin with {long}"


def test_claims_are_checked(lesson):
    """At least three assertions run, and the reader sees them."""
    code = "\n".join(block.content for block in blocks(lesson) if block.type == "code")
    assert count_checks(code) >= 3
    assert "sphinx_gallery_start_ignore" not in code


def test_sections(lesson):
    """A lesson ends with something to change and something to work out, three edits and answers."""
    prose = "\n".join(block.content for block in blocks(lesson) if block.type == "text")
    change = re.search(r"^Change something\n-+\n(.*?)^Exercises\n-+\n(.*)", prose, flags=re.M | re.S)
    assert change, "the last sections are 'Change something' and 'Exercises'"
    assert len(re.findall(r"^\* ", change[1], flags=re.M)) == 3
    questions, _, answers = change[2].partition(".. dropdown:: Answers")
    assert len(re.findall(r"^\d\. ", questions, flags=re.M)) in (2, 3)
    assert len(re.findall(r"^   \d\. ", answers, flags=re.M)) == len(re.findall(r"^\d\. ", questions, flags=re.M))


def test_imports_only_what_readers_have(lesson):
    """A lesson runs after the one install line of its page."""
    tree = ast.parse(lesson.path.read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in modules} <= ALLOWED


@pytest.mark.parametrize("phrase", FORBIDDEN)
def test_never(lesson, phrase):
    """Some things no lesson does."""
    assert phrase not in lesson.path.read_text(encoding="utf-8")
