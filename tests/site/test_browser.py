"""The book in a browser: nothing is loaded from elsewhere, everybody can use it, search and navigation work."""

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.site

TEMPLATES = {
    "first page": "index.html",
    "part": "lessons/tensors/index.html",
    "lesson": "lessons/tensors/07_views_and_storage.html",
    "chapter": "start/vocabulary.html",
    "API": "api/pytorch_course/tensors.html",
    "names": "api/names.html",
    "glossary": "glossary.html",
    "search": "search.html?q=stride",
    "not found": "404.html",
}
LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS, ids=str)
@pytest.mark.parametrize("kind", TEMPLATES)
def test_accessible(kind, width, scheme, open_page):
    """Axe finds no violation on any kind of page, wide and narrow, light and dark."""
    page = open_page(TEMPLATES[kind].split("?")[0], width=width, scheme=scheme)
    violations = Axe().run(page).response["violations"]
    found = [(rule["id"], node["target"], node["html"][:200]) for rule in violations for node in rule["nodes"]]
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_no_request_leaves_and_the_console_is_quiet(kind, open_page, html):
    """Every request is for a file of the book, and no script complains."""
    page = open_page(TEMPLATES[kind].split("?")[0])
    page.wait_for_timeout(200)
    foreign = [url for url in page.requests if not url.startswith((html.as_uri(), "data:"))]
    assert not foreign
    assert not page.errors


def test_no_page_names_a_foreign_resource(html):
    """No page, style or script loads anything from elsewhere, on any page of the book, run or not."""
    loads = re.compile(
        r"""<(?:script|img|iframe|source|video|audio|embed)[^>]+src=["']?(?:https?:)?//|<link[^>]+(?:stylesheet|preload|icon)[^>]+href=["']?(?:https?:)?//|@import\s+(?:url\()?["']?(?:https?:)?//|url\(["']?(?:https?:)?//"""
    )
    found = [
        f"{path.relative_to(html)}: {match[0][:120]}"
        for path in html.rglob("*")
        if path.suffix in {".html", ".css"}
        for match in loads.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize("query", ["stride", "broadcast", "gradient", "DataLoader", "all_reduce"])
def test_search_finds(query, open_page):
    """Search works from the disk and shows pages for the words of the book."""
    page = open_page("search.html", width=1280)
    page.goto(page.url + f"?q={query}")
    page.wait_for_selector("ul.search li a", timeout=20_000)
    titles = page.locator("ul.search li a").all_inner_texts()
    assert titles
    if query == "stride":
        assert any("storage" in title.lower() or "glossary" in title.lower() for title in titles)
    assert not page.errors


def test_phone_needs_no_sideways_scrolling(open_page, html):
    """On a phone the page itself never scrolls sideways; wide things scroll inside themselves."""
    for name in TEMPLATES.values():
        page = open_page(name.split("?")[0], width=390)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 0, name


def test_keyboard_reaches_content_and_navigation(open_page):
    """The first Tab stops at 'Skip to content'; further ones reach the search field, the sidebar and a code block."""
    page = open_page(TEMPLATES["lesson"])
    page.keyboard.press("Tab")
    assert "skip-to-content" in page.evaluate("document.activeElement.className")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert any("sidebar-search" in element for element in seen)
    assert any(element.startswith("PRE") for element in seen)


def test_dark_and_light_differ_and_the_button_switches(open_page):
    """The page follows the system's colours, and the button overrides them."""
    light, dark = (open_page("index.html", scheme=scheme) for scheme in ("light", "dark"))
    background = "getComputedStyle(document.body).backgroundColor"
    assert light.evaluate(background) != dark.evaluate(background)
    before = light.evaluate("document.body.dataset.theme")
    light.locator("button.theme-toggle:visible").click()
    assert light.evaluate("document.body.dataset.theme") != before


def test_copy_button(open_page):
    """Code has a button that copies it."""
    assert open_page(TEMPLATES["lesson"]).locator("button.copybtn").count() > 3


def test_one_linear_order(open_page, html):
    """From the first page, 'next' visits every lesson and chapter once, and 'previous' leads back."""
    visited, page = ["index.html"], open_page("index.html", script=False)
    while page.locator("a.next-page").count():
        page.goto(page.evaluate("document.querySelector('a.next-page').href"))
        name = page.url.removeprefix(html.as_uri() + "/")
        assert name not in visited
        visited.append(name)
        back = page.evaluate("document.querySelector('a.prev-page').href").removeprefix(html.as_uri() + "/")
        assert back == visited[-2]
    lessons = [lesson["id"] for lesson in json.loads((html / "lessons.json").read_text())["lessons"]]
    order = [name.removeprefix("lessons/").removesuffix(".html") for name in visited]
    assert [name for name in order if name in lessons] == lessons


def test_weight(open_page, html):
    """The first page weighs less than 400 kB, a lesson less than 1.5 MB with its figures."""
    for name, limit in (("index.html", 400_000), (TEMPLATES["lesson"], 1_500_000)):
        page = open_page(name)
        files = {url.split("#")[0].split("?")[0] for url in page.requests if url.startswith("file:")}
        weight = sum((html / url.removeprefix(html.as_uri() + "/")).stat().st_size for url in files)
        print(f"{name}: {weight / 1000:.0f} kB in {len(files)} requests")
        assert weight <= limit


def test_without_script_the_page_reads(open_page):
    """Text, code, output and figures are there without JavaScript."""
    page = open_page(TEMPLATES["lesson"], script=False)
    assert page.locator("figure img").first.is_visible()
    assert page.locator("div.highlight pre").first.is_visible()
