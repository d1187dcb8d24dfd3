"""The order of the book is read from the gallery, and what does not follow it is refused by name."""

import pytest
from course import CourseError, read_course, read_lesson, solutions, stub

HEAD = '"""\n{title}\n=====\n\n{goal}\n\n.. lesson::\n   :needs: {needs}\n   :data: {data}\n"""\n'


@pytest.fixture
def gallery(tmp_path):
    """Return a gallery with one part and a function that adds lessons to it."""

    def add(name, part="one", **facts):
        folder = tmp_path / "gallery" / part
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.rst").write_text("Part one\n========\n")
        facts = {"title": "Title", "goal": "Do it.", "needs": "", "data": "none"} | facts
        (folder / f"{name}.py").write_text(HEAD.format(**facts))
        return folder / f"{name}.py"

    add.root = tmp_path / "gallery"
    return add


def test_facts_are_read(gallery):
    """Title, goal, needs and data come from the first lines."""
    lesson = read_lesson(gallery("02_second", goal="Do two\nthings.", needs="one/01_first", data="digits"))
    assert (lesson.id, lesson.number, lesson.title) == ("one/02_second", 2, "Title")
    assert (lesson.goal, lesson.needs, lesson.data) == ("Do two things.", ("one/01_first",), "digits")
    assert not lesson.alone
    assert read_lesson(gallery("03_third", data="none\n   :alone:")).alone


def test_options_are_read(gallery):
    """Keywords may take several lines; the thumbnail is the first figure unless the lesson says another."""
    lesson = read_lesson(gallery("01_a", data="none\n   :keywords: argsort, order a\n      table\n   :thumbnail: 2"))
    assert (lesson.data, lesson.keywords, lesson.thumbnail) == ("none", "argsort, order a table", 2)
    assert read_lesson(gallery("02_b")).thumbnail == 1


CELL = """
def f(x):
    if x:
        ### BEGIN SOLUTION
        y = 2
        return y
        ### END SOLUTION

### BEGIN SOLUTION
first, second = 3, [4]
first = 5
### END SOLUTION
print(first)
"""


def test_stubs():
    """A solution in a function becomes an exception, one that only assigns becomes an open guess."""
    stubbed = "\ndef f(x):\n    if x:\n        raise NotImplementedError  # your code\n\nfirst = ...\nsecond = ...\nprint(first)\n"
    assert stub(CELL) == stubbed
    assert stub(stubbed) == stubbed
    assert stub("### BEGIN SOLUTION\nprint(1)\n### END SOLUTION") == "raise NotImplementedError  # your code"
    assert solutions(CELL) == "y = 2\nreturn y\n\nfirst, second = 3, [4]\nfirst = 5"


def test_lessons_come_in_the_order_of_their_numbers(gallery):
    """Ten comes after two."""
    for name in ("10_last", "02_first"):
        gallery(name)
    (gallery.root / ".ruff_cache").mkdir()
    (part,) = read_course(gallery.root, ["one"])
    assert [lesson.path.stem for lesson in part.lessons] == ["02_first", "10_last"]
    assert part.title == "Part one"


@pytest.mark.parametrize(
    ("lessons", "parts", "message"),
    [
        ([("1_one", {})], ["one"], "NN_subject"),
        ([("01_Upper", {})], ["one"], "NN_subject"),
        ([("01_a", {}), ("01_b", {})], ["one"], "have the number"),
        ([("01_a", {"needs": "one/02_b"}), ("02_b", {})], ["one"], "no earlier lesson"),
        ([("01_a", {"needs": "one/99_none"})], ["one"], "one/99_none"),
        ([("01_a", {"data": ""})], ["one"], "has the options"),
        ([("01_a", {"data": "none\n   :colour: red"})], ["one"], "has the options .* not .*colour"),
        ([("01_a", {"data": "none\n   :thumbnail: last"})], ["one"], "number of a figure"),
        ([("01_a", {"goal": ".. note::"})], ["one"], "one paragraph, the goal"),
        ([("01_a", {})], ["one", "two"], "differ in two"),
        ([("01_a", {"part": "stray"})], [], "differ in stray"),
    ],
)
def test_what_breaks_the_order_is_named(gallery, lessons, parts, message):
    """The message says which file or name is wrong."""
    for name, facts in lessons:
        gallery(name, **facts)
    with pytest.raises(CourseError, match=message):
        read_course(gallery.root, parts)


def test_a_part_without_opening(gallery):
    """Every part has a page of its own."""
    gallery("01_a").with_name("index.rst").unlink()
    with pytest.raises(CourseError, match=r"index\.rst is missing"):
        read_course(gallery.root, ["one"])


def test_a_lesson_that_is_no_python(gallery):
    """The message names the file, the line and what stands there."""
    path = gallery("01_a")
    path.write_text(path.read_text() + "\nx = (1,\ny = 2\n")
    with pytest.raises(CourseError, match=r"01_a\.py, line 12: .*x = \(1,"):
        read_course(gallery.root, ["one"])
