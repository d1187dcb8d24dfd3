"""The book's files: valid HTML, links that lead somewhere, proof that every lesson ran, captions and downloads."""

import json
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import html5lib
import pytest

pytestmark = pytest.mark.site

# Seconds of CPU time that a lesson may take with all its processes, where it is not 30; and how much slower a machine may be.
BUDGET = dict.fromkeys(("distributed", "vision", "text", "deployment"), 60)
SLOWER = 1.5
# What html5lib calls an error and the HTML standard allows today.
TOLERATED = {"expected-doctype-but-got-quirky-doctype"}


class Page(HTMLParser):
    """Ids, links and images of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Collect."""
        attrs = dict(attrs)
        self.ids |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)


@cache
def parse(path):
    """Parse a page once."""
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages(html):
    """Return every page of the book."""
    return sorted(html.rglob("*.html"))


def test_every_internal_link_and_anchor_resolves(pages, html):
    """No link of the book leads nowhere."""
    broken = []
    for path in pages:
        for link in parse(path).links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file():
                broken.append(f"{path.relative_to(html)}: {link}")
            elif url.fragment and target.suffix == ".html" and unquote(url.fragment) not in parse(target).ids:
                broken.append(f"{path.relative_to(html)}: {link} (no such anchor)")
    assert not broken, "\n".join(broken)


def test_every_page_is_valid_html(pages, html):
    """Every page parses as HTML5 without an error."""
    wrong = []
    for path in pages:
        parser = html5lib.HTMLParser()
        parser.parse(path.read_text(encoding="utf-8"))
        wrong += [f"{path.relative_to(html)}:{at[0]}: {code}" for at, code, _ in parser.errors if code not in TOLERATED]
    assert not wrong, "\n".join(wrong[:40])


def test_every_image_has_text(pages, html):
    """Every picture says in words what it shows, but for the small ones beside a link; those in lessons have a caption too."""
    silent = [
        f"{path.relative_to(html)}: {image.get('src')}"
        for path in pages
        for image in parse(path).images
        if not image.get("alt") and not ("lesson-thumb" in image.get("class", "") and image.get("alt") == "")
    ]
    assert not silent
    for path in html.glob("lessons/*/[0-9]*.html"):
        text = path.read_text(encoding="utf-8")
        assert text.count("<figcaption") >= 1, path
        figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
        assert sum(figure.count("<img") for figure in figures) == len(parse(path).images), path


def test_every_lesson_ran(html):
    """lessons.json names every lesson of the gallery, and each page shows the same facts."""
    lessons = {lesson["id"]: lesson for lesson in json.loads((html / "lessons.json").read_text())["lessons"]}
    scripts = {f"{path.parent.name}/{path.stem}" for path in (html.parents[2] / "gallery").glob("*/[0-9]*.py")}
    assert set(lessons) == scripts
    timings = (html / "timings.html").read_text()
    for name, lesson in lessons.items():
        assert lesson["cells"] > 0
        assert lesson["checks"] >= 3
        part = name.partition("/")[0]
        assert lesson["cpu"] <= SLOWER * BUDGET.get(part, 30), f"{name} takes {lesson['cpu']} s of CPU time"
        assert f"{lesson['seconds']} s on torch {lesson['torch']}" in (html / f"lessons/{name}.html").read_text()
        assert re.search(rf"<td>.*?lessons/{name}\.html.*?</td>\s*<td><p>{lesson['seconds']}", timings, flags=re.DOTALL)


def test_downloads(html):
    """Each lesson offers its script, its notebook and the wheel, and script and notebook say how to install it."""
    wheel = next((html / "_downloads").glob("*.whl")).name
    for path in html.glob("lessons/*/[0-9]*.html"):
        files = [(path.parent / link).resolve() for link in parse(path).links if "_downloads" in link]
        assert {file.suffix for file in files} == {".py", ".ipynb", ".whl"}
        for file in files:
            if file.suffix == ".py":
                assert wheel in "".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:4])
            if file.suffix == ".ipynb":
                first = "".join(json.loads(file.read_text(encoding="utf-8"))["cells"][0]["source"])
                assert wheel in first
                assert "lesson::" not in first


@pytest.mark.parametrize(
    "name", ["torch.tensor", "torch.Tensor.view", "torch.nn.Linear", "torch.optim.SGD", "numpy.zeros"]
)
def test_names_link_to_official_pages(name, html):
    """Names used in lessons lead to their official pages, in prose or in code."""
    text = "".join(path.read_text(encoding="utf-8") for path in html.glob("lessons/*/*.html"))
    assert re.search(rf'href="https://[^"]+#{re.escape(name)}"', text), name


def test_code_in_lessons_and_chapters_is_linked(html):
    """Code blocks hold links, in both kinds of pages."""
    for path in (*html.glob("lessons/*/[0-9]*.html"), Path(html / "start/vocabulary.html")):
        blocks = re.findall(r'<div class="highlight.*?</pre>', path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert any('href="https://docs.pytorch.org' in block for block in blocks), path
