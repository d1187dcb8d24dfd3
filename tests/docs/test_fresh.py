"""A change runs again what it can have changed, and nothing else."""

import pytest

STAMP = "import time\nprint('stamp', time.time_ns())"


@pytest.fixture(scope="module")
def built(shared_site):
    """Build a book whose first lesson and chapter import the package indirectly, and whose second do not."""
    site = shared_site
    site.write("src/tool/inner.py", "VALUE = 1\n")
    site.write("src/tool/outer.py", "from .inner import VALUE\n")
    site.write("src/tool/other.py", "VALUE = 5\n")
    site.lesson("01_uses", f"from tool.outer import VALUE\nprint('value', VALUE)\n{STAMP}")
    site.lesson("02_alone", STAMP)
    site.chapter("uses", f"import tool.outer\nprint('value', tool.outer.VALUE)\n{STAMP}")
    site.chapter("alone", STAMP)
    done = site.build()
    assert done.returncode == 0, done.stderr
    return site


def stamps(site):
    """Return the line with the time stamp of every page that ran code."""
    pages = ("lessons/one/01_uses", "lessons/one/02_alone", "start/uses", "start/alone")
    return {name: site.page(name).split("stamp")[-1][:20] for name in pages if (site.html / f"{name}.html").exists()}


def rebuilt(site, **environment):
    """Build and return the pages whose code ran again."""
    before = stamps(site)
    done = site.build(**environment)
    assert done.returncode == 0, done.stderr
    return {name for name, stamp in stamps(site).items() if before.get(name) != stamp}


def test_nothing_changed_nothing_runs(built):
    """A second build runs no code."""
    assert rebuilt(built) == set()
    assert not any(lesson["ran_now"] for lesson in built.proof().values())


def test_one_lesson_changed(built):
    """A change in a lesson runs that lesson."""
    path = built.root / "gallery/one/02_alone.py"
    path.write_text(path.read_text() + "\nprint('changed')\n")
    assert rebuilt(built) == {"lessons/one/02_alone"}


def test_package_changed(built):
    """A change two imports away runs the lesson and the chapter that depend on it."""
    built.write("src/tool/inner.py", "VALUE = 2\n")
    assert rebuilt(built) == {"lessons/one/01_uses", "start/uses"}
    assert "value 2" in built.page("lessons/one/01_uses")
    assert "value 2" in built.page("start/uses")


def test_unused_module_changed(built):
    """A change in a module that no page imports runs nothing."""
    built.write("src/tool/other.py", "VALUE = 6\n")
    assert rebuilt(built) == set()


def test_one_lesson_picked(built):
    """A partial build runs the picked lesson alone; the next full build runs what is still stale."""
    built.write("src/tool/inner.py", "VALUE = 3\n")
    path = built.root / "gallery/one/02_alone.py"
    path.write_text(path.read_text() + "\nprint('again')\n")
    assert rebuilt(built, BOOK_ONLY="one/02") >= {"lessons/one/02_alone"}
    assert "value 3" not in built.page("lessons/one/01_uses")
    assert rebuilt(built) >= {"lessons/one/01_uses"}
    assert "value 3" in built.page("lessons/one/01_uses")
    assert "value 3" in built.page("start/uses")


def test_unknown_name_picked(built):
    """A name that no lesson has is refused with the names that there are."""
    done = built.build(BOOK_ONLY="one/77")
    assert done.returncode != 0
    assert "one/77" in done.stderr
    assert "one/01_uses" in done.stderr


def test_deleted_lesson_leaves_no_page(built):
    """The page, its downloads and its record go with the lesson."""
    (built.root / "gallery/one/02_alone.py").unlink()
    (built.root / "docs/start/alone.md").unlink()
    done = built.build()
    assert done.returncode == 0, done.stderr
    assert not list(built.html.rglob("*02_alone*.html"))
    assert not list((built.root / "docs/lessons").rglob("*02_alone*"))
    assert not (built.html / "start/alone.html").exists()
    assert "02_alone" not in built.page("index")
    assert set(built.proof()) == {"01_uses"}
