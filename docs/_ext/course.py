"""What lessons there are: their order and their facts. Standard library only."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

OPTIONS = {"needs", "data", "keywords", "thumbnail", "alone"}
MARK = "### BEGIN SOLUTION"
SOLUTION = re.compile(rf"^([ \t]*){MARK}\n(.*?)^[ \t]*### END SOLUTION$", flags=re.M | re.S)


class CourseError(Exception):
    """A lesson or a part that does not follow the rules of the book."""


@dataclass(frozen=True)
class Lesson:
    """One script of the gallery and the facts that its first lines state."""

    path: Path
    number: int
    title: str
    goal: str
    needs: tuple[str, ...]
    data: str
    keywords: str = ""
    thumbnail: int = 1
    alone: bool = False  # it measures or starts processes, so nothing else runs beside it

    @property
    def part(self) -> str:
        """Name of the folder."""
        return self.path.parent.name

    @property
    def id(self) -> str:
        """Folder and file name, as ``:needs:`` writes it."""
        return f"{self.part}/{self.path.stem}"

    @property
    def docname(self) -> str:
        """Name of its page in Sphinx."""
        return f"lessons/{self.id}"


@dataclass(frozen=True)
class Part:
    """One folder of the gallery: its title and its lessons in reading order."""

    path: Path
    title: str
    lessons: tuple[Lesson, ...]

    @property
    def docname(self) -> str:
        """Name of its opening page in Sphinx."""
        return f"lessons/{self.path.name}/index"


def read_lesson(path: Path) -> Lesson:
    """Read title, goal and the ``lesson`` directive from a script's docstring."""
    match = re.fullmatch(r"(\d\d)_[a-z0-9_]+", path.stem)
    if match is None:
        raise CourseError(f"{path}: a lesson is named NN_subject.py, two digits and lower-case words")
    try:
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except SyntaxError as error:
        raise CourseError(f"{path}, line {error.lineno}: {error.msg}: {(error.text or '').strip()}") from None
    if not doc:
        raise CourseError(f"{path}: a lesson begins with a docstring: title, goal, lesson directive")
    title, *rest = doc.split("\n")
    body = "\n".join(rest[1:]).strip()
    goal = " ".join(body.split("\n\n")[0].split())
    directive = re.search(r"^\.\. lesson::\n((?:   .*\n?)+)", body, flags=re.MULTILINE)
    if directive is None or not goal or goal.startswith(".."):
        raise CourseError(f"{path}: after the title come one paragraph, the goal, and the directive '.. lesson::'")
    found = re.findall(r"^   :(\w+):((?:.*)(?:\n    +.*)*)", directive[1], flags=re.M)
    options = {name: " ".join(value.split()) for name, value in found}
    if not {"needs", "data"} <= options.keys() <= OPTIONS or not options["data"]:
        raise CourseError(f"{path}: '.. lesson::' has the options {sorted(OPTIONS)}, not {sorted(options)}")
    number = options.get("thumbnail", "1")
    if not number.isdecimal():
        raise CourseError(f"{path}: :thumbnail: is the number of a figure, counted from 1, not {number!r}")
    needs, keywords = tuple(options["needs"].split()), options.get("keywords", "")
    facts = (
        path,
        int(match[1]),
        title.strip(),
        goal,
        needs,
        options["data"],
        keywords,
        int(number),
        "alone" in options,
    )
    return Lesson(*facts)


def stub(code: str) -> str:
    """Return a cell as the reader gets it: each solution is an exception to replace, or ``...`` for a guess."""
    return SOLUTION.sub(lambda match: _beginning(match[1], match[2]), code)


def _beginning(indent: str, solution: str) -> str:
    body = ast.parse(dedent(solution)).body
    if not indent and all(isinstance(node, ast.Assign) for node in body):
        inner = [node for statement in body for node in ast.walk(statement)]
        names = [node.id for node in inner if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        return "\n".join(f"{name} = ..." for name in dict.fromkeys(names))
    return f"{indent}raise NotImplementedError  # your code"


def solutions(code: str) -> str:
    """Return what stands between a cell's markers."""
    return "\n\n".join(dedent(match[2]).strip() for match in SOLUTION.finditer(code))


def read_course(gallery: Path, parts: list[str]) -> tuple[Part, ...]:
    """Read every part in the given order; a file or folder outside the order is an error."""
    folders = {path.name for path in gallery.iterdir() if path.is_dir() and path.name[0] not in "._"}
    if folders != set(parts):
        wrong = sorted(folders ^ set(parts))
        raise CourseError(f"{gallery}: folders and the list of parts in conf.py differ in {', '.join(wrong)}")
    course = []
    for name in parts:
        lessons = tuple(sorted(map(read_lesson, (gallery / name).glob("*.py")), key=lambda lesson: lesson.number))
        twins = {lesson.number for lesson in lessons if sum(other.number == lesson.number for other in lessons) > 1}
        if twins:
            raise CourseError(f"{gallery / name}: several lessons have the number {sorted(twins)}")
        opening = gallery / name / "index.rst"
        if not opening.exists():
            raise CourseError(f"{opening} is missing: every part opens with a page")
        course.append(Part(gallery / name, opening.read_text(encoding="utf-8").lstrip().split("\n")[0], lessons))
    _check_needs([lesson for part in course for lesson in part.lessons])
    return tuple(course)


def _check_needs(lessons: list[Lesson]) -> None:
    """Every need is an earlier lesson: so the needs have no cycle and the book reads from front to back."""
    seen: set[str] = set()
    for lesson in lessons:
        late = [need for need in lesson.needs if need not in seen]
        if late:
            raise CourseError(f"{lesson.path}: needs {', '.join(late)}, which is no earlier lesson of the book")
        seen.add(lesson.id)
