"""A change runs again what it can have changed, and nothing else; whatever happened before, the book is complete."""

import json
import random
import re
import shutil
import signal
import time
from types import SimpleNamespace

import fresh
import pytest
import sources

STAMP = "import time\nprint('stamp', time.time_ns())"
DRAWS = """
import matplotlib.pyplot as plt
from tool.outer import VALUE
plt.plot([1, 2])
print("value", VALUE)

# %%
# .. caption:: A line.
#    :alt: A line.

import time
print("stamp", time.time_ns())
"""
READS = """
import importlib, subprocess, sys
from importlib.resources import files
late = importlib.import_module("tool." + "late")
print("late", late.VALUE, "data", files("tool").joinpath("numbers.txt").read_text())
code = "import tool.below; print(tool.below.VALUE)"
print("below", subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
import time
print("stamp", time.time_ns())
"""
PAGES = ("lessons/one/01_uses", "lessons/one/02_alone", "lessons/one/03_reads", "start/uses", "start/alone")
FIRST, ALONE, READING, CHAPTER = PAGES[:4]


@pytest.fixture(scope="module")
def built(shared_site):
    """Build a book whose first lesson and chapter import the package indirectly, and whose second do not."""
    site = shared_site
    for name in ("inner", "late", "below", "other"):
        site.write(f"src/tool/{name}.py", "VALUE = 1\n")
    site.write("src/tool/outer.py", "from .inner import VALUE\n")
    site.write("src/tool/numbers.txt", "1")
    site.write("src/pytorch_course/__init__.py", "")
    site.write("src/pytorch_course/book.mplstyle", "lines.linewidth: 2\n")
    site.lesson("01_uses", DRAWS)
    site.lesson("02_alone", STAMP)
    site.lesson("03_reads", READS, needs="one/02_alone")
    site.chapter("uses", f"import tool.outer\nprint('value', tool.outer.VALUE)\n{STAMP}")
    site.chapter("alone", STAMP)
    done = site.build()
    assert done.returncode == 0, done.stderr
    return site


def stamps(site):
    """Return the time stamp of every page that ran code."""
    found = {name: site.html / f"{name}.html" for name in PAGES}
    return {name: re.findall(r"stamp (\d+)", path.read_text()) for name, path in found.items() if path.exists()}


def rebuilt(site, *options, **environment):
    """Build and return the pages whose code ran again."""
    before = stamps(site)
    done = site.build(*options, **environment)
    assert done.returncode == 0, done.stderr
    return {name for name, stamp in stamps(site).items() if before.get(name) != stamp}


def change(site, name, old, new):
    """Replace a text in a file."""
    path = site.root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nothing_changed_nothing_runs(built):
    """A second build runs no code and writes no page, but those that Sphinx makes each time."""
    pages = [page for page in built.html.rglob("*.html") if page.stem not in fresh.GENERATED]
    before = {page: page.stat().st_mtime_ns for page in pages}
    assert rebuilt(built) == set()
    assert not any(lesson["ran_now"] for lesson in built.proof().values())
    assert {page.name for page, time in before.items() if page.stat().st_mtime_ns != time} == set()


def test_one_lesson_changed(built):
    """A change in a lesson runs that lesson."""
    change(built, "gallery/one/02_alone.py", STAMP, f"{STAMP}\nprint('changed')")
    assert rebuilt(built) == {ALONE}


def test_package_changed(built):
    """A change two imports away runs the lesson and the chapter that depend on it, and no other."""
    built.write("src/tool/inner.py", "VALUE = 2\n")
    built.write("src/tool/other.py", "VALUE = 2\n")
    assert rebuilt(built) == {FIRST, CHAPTER}
    assert "value 2" in built.page(FIRST)
    assert "value 2" in built.page(CHAPTER)


@pytest.mark.parametrize("name", ["late.py", "below.py", "numbers.txt"])
def test_what_no_import_shows(built, name):
    """A module whose name is put together, one that a child process imports, and a file of data count too."""
    path = built.root / "src/tool" / name
    path.write_text(path.read_text().replace("1", "2"))
    assert rebuilt(built) == {READING}


def test_the_look_of_figures_changed(built):
    """Every figure depends on the style sheet, whether its lesson imports the package or not."""
    built.write("src/pytorch_course/book.mplstyle", "lines.linewidth: 3\n")
    assert rebuilt(built) == {FIRST, ALONE, READING}


def test_settings_changed(built):
    """A setting that shapes outputs runs everything."""
    change(built, "docs/conf.py", "show_signature=False", "show_signature=False, capture_repr=()")
    assert rebuilt(built) == set(PAGES)


def test_every_installed_package_counts(monkeypatch):
    """Another version of any package is another environment."""

    package, config = SimpleNamespace(name="seldom", version="1"), SimpleNamespace(sphinx_gallery_conf={})
    monkeypatch.setattr(sources, "distributions", lambda: [package])
    before = sources.environment(config)
    package.version = "2"
    assert sources.environment(config) != before


def test_a_changed_sentence_runs_nothing(built):
    """The page shows the new text around the old outputs, as if it had run again."""
    change(
        built,
        "gallery/one/01_uses.py",
        "# Text\n# ----\n",
        "# More text\n# ---------\n#\n# See :func:`print`.\n\n# %%\n# A cell.\n",
    )
    assert rebuilt(built) == set()
    page = built.page(FIRST)
    assert "More text" in page
    assert len(re.findall(r"value \d", page)) == 1
    assert page.count("<figcaption") == 1
    (built.root / "docs/lessons/one/01_uses.record.json").unlink()
    assert rebuilt(built) == {FIRST}

    def timeless(text):
        return re.sub(r"stamp \d+|Ran in.*|[\d.]+ s on", "", text)

    assert timeless(page) == timeless(built.page(FIRST))


def test_a_new_title_reaches_every_page(built):
    """It stands on the map, in the list of its part, and in the box of the lesson that needs it; nothing runs."""
    change(built, "gallery/one/02_alone.py", "Lesson 02_alone\n===============", "Renamed lesson\n==============")
    assert rebuilt(built) == set()
    for page in ("index", "lessons/one/index", ALONE, READING):
        assert "Renamed lesson" in built.page(page)
        assert "Lesson 02_alone" not in built.page(page)


def test_a_lesson_comes_and_goes(built):
    """A new lesson is in all lists although one page alone was asked for; a deleted one leaves nothing."""
    built.lesson("04_new", STAMP, title="A new lesson")
    assert rebuilt(built, BOOK_ONLY="one/04") == set()
    assert built.proof()["04_new"]["ran_now"]
    for page in ("index", "lessons/one/index"):
        assert "A new lesson" in built.page(page)
    (built.root / "gallery/one/04_new.py").unlink()
    (built.root / "docs/start/alone.md").unlink()
    assert rebuilt(built) == set()
    assert not [path for path in built.root.rglob("*04_new*") if "doctrees" not in path.parts]
    assert not (built.html / "start/alone.html").exists()
    for page in ("index", "lessons/one/index", FIRST):
        assert "A new lesson" not in built.page(page)
    assert set(built.proof()) == {"01_uses", "02_alone", "03_reads"}


def test_one_lesson_picked(built):
    """A partial build runs the picked lesson alone and leaves the others as they are; the next runs what is stale."""
    built.write("src/tool/inner.py", "VALUE = 3\n")
    change(built, "gallery/one/02_alone.py", STAMP, f"print('again')\n{STAMP}")
    assert rebuilt(built, BOOK_ONLY="one/02") - {CHAPTER} == {ALONE}
    assert re.search(r"value [12]", built.page(FIRST))
    assert rebuilt(built) - {CHAPTER} == {FIRST}
    assert "value 3" in built.page(FIRST)
    assert "value 3" in built.page(CHAPTER)


def test_unknown_name_picked(built):
    """A name that no lesson has is refused with the names that there are."""
    done = built.build(BOOK_ONLY="one/77")
    assert done.returncode == 1
    assert done.stderr.startswith("no lesson or chapter begins with one/77; there are one/01_uses, ")
    assert done.stderr.count("\n") == 1


def test_a_lesson_that_is_no_python(site):
    """A syntax error is told in one line, with the file and its line."""
    site.lesson("01_a", "x = (1,")
    done = site.build()
    assert done.returncode == 1
    assert done.stderr == f"{site.root}/gallery/one/01_a.py, line 17: '(' was never closed: x = (1,\n"


def test_a_moved_book(built):
    """A copy in another place, as a restored cache is, runs nothing; a space in the path is no harm."""
    moved = type(built)(built.root.parent / "moved book", write=False)
    shutil.copytree(built.root, moved.root)
    moved.write("src/tool/late.py", "VALUE = 7\n")
    built.write("src/tool/late.py", "VALUE = 9\n")
    assert rebuilt(moved) == {READING}
    assert "late 7" in moved.page(READING)
    change(moved, "src/tool/outer.py", "VALUE\n", "VALUE  # the same\n")
    assert rebuilt(moved) == {FIRST, CHAPTER}


def test_lines_that_an_output_shows(site):
    """An output that names lines of its own script is made again when a sentence moves them."""
    body = "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    print(traceback.format_exc().splitlines()[1])"
    site.lesson("01_a", body)
    assert site.build().returncode == 0
    assert "line 19" in site.page("lessons/one/01_a")
    change(site, "gallery/one/01_a.py", "# Text\n", "# A\n# -\n#\n# Text\n")
    assert site.build().returncode == 0
    assert "line 22" in site.page("lessons/one/01_a")


def complete(site):
    """Assert that pages, search and proof hold the whole book."""
    index = json.loads((site.html / "searchindex.js").read_text().removeprefix("Search.setIndex(").removesuffix(")"))
    names = {path.relative_to(site.root / "docs").with_suffix("").as_posix() for path in site.sources()}
    assert set(index["docnames"]) == names
    assert set(site.proof()) == {path.stem for path in (site.root / "gallery/one").glob("*.py")}
    for name in names:
        assert site.page(name).rstrip().endswith("</html>")


def test_killed_builds(site):
    """Whatever a killed build leaves, the next one ends with the whole book and every output that it should have."""
    rng = random.Random(0)
    site.write("src/tool/inner.py", "VALUE = 0\n")
    for name in ("01_a", "02_b", "03_c"):
        site.lesson(name, "from tool.inner import VALUE\nprint('value', VALUE)")
    site.chapter("d", "import tool.inner\nprint('value', tool.inner.VALUE)")
    started = time.monotonic()
    with site.start() as process:
        process.communicate()
    assert process.returncode == 0
    whole = time.monotonic() - started
    for number in range(10):
        site.write("src/tool/inner.py", f"VALUE = {number}\n")
        site.lesson("02_b", "print('of no module')", title=f"Title {number}")
        with site.start() as process:
            time.sleep(rng.uniform(0.2, 1.2) * whole)
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGINT]))
            process.communicate()
        if number % 3 == 0 or number == 9:
            done = site.build()
            assert done.returncode == 0, done.stderr
            complete(site)
            for page in ("lessons/one/01_a", "lessons/one/03_c", "start/d"):
                assert f"value {number}" in site.page(page)
            for page in ("index", "lessons/one/index", "lessons/one/02_b"):
                assert f"Title {number}" in site.page(page)


def test_a_broken_cache_of_chapters(site):
    """What a kill in the wrong millisecond leaves of MyST-NB's cache is thrown away."""
    site.lesson("01_a", "assert True")
    site.chapter("b", "print('from', 'b')")
    assert site.build().returncode == 0
    for path in (site.root / "docs/_build/chapters").rglob("*.ipynb"):
        path.write_text("{")
    assert site.build("-E").returncode == 0
    assert "from b" in site.page("start/b")
    (site.root / "docs/_build/chapters/global.db").write_bytes(b"")
    assert site.build("-E").returncode == 0
    assert "from b" in site.page("start/b")


def test_a_chapter_that_failed_once(site):
    """What a chapter reads is known although its first run failed in the middle."""
    site.lesson("01_a", "assert True")
    site.chapter("b", "import pathlib, tool.inner\nprint('value', tool.inner.VALUE)")
    assert site.build().returncode != 0
    for value in (1, 2):
        site.write("src/tool/inner.py", f"VALUE = {value}\n")
        assert site.build().returncode == 0
        assert f"value {value}" in site.page("start/b")


def test_a_dead_kernel(site):
    """A chapter that kills its kernel is named."""
    site.lesson("01_a", "assert True")
    site.chapter("dies", "import os\nos._exit(1)")
    done = site.build()
    assert done.returncode != 0
    assert "start/dies.md" in done.stderr
