"""Pages made from parts of all lessons: the cheat sheet, and the list of exercises."""

import re
from itertools import pairwise

from cells import anchor
from sphinx.util.docutils import SphinxDirective
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

EXERCISE = re.compile(r"^\.\. exercise:: (.+)\n(?:   :kind: *(.+)\n)?", flags=re.M)


def setup(app):
    """Connect to the build."""
    app.add_directive("cheat-sheet", CheatSheet)
    app.add_directive("exercises", Exercises)
    return {"parallel_read_safe": True, "env_version": 1}


class Collected(SphinxDirective):
    """A directive that lists something of each lesson, by parts; `lines` says what, as reST."""

    def run(self):
        """Write one section for each part that has something to list."""
        app = self.env.app
        for path in ("lessons/course.json", *(lesson.path for lesson in app.lessons)):
            self.env.note_dependency(path)
        text = []
        for part in app.course:
            lines = [line for lesson in part.lessons for line in self.lines(lesson)]
            text += [part.title, "-" * len(part.title), "", *lines, ""] if lines else []
        return self.parse_text_to_nodes("\n".join(text), allow_section_headings=True)


class CheatSheet(Collected):
    """``.. cheat-sheet::`` shows what each lesson gives to take along."""

    def lines(self, lesson):
        """Return title, sentences and code of *Take this with you*."""
        for text, code in pairwise(split_code_and_text_blocks(str(lesson.path))[1]):
            words = re.search(r"^Take this with you\n-+\n(.*)", text.content, flags=re.M | re.S)
            if text.type == "text" and words and code.type == "code":
                inside = [f".. rubric:: :doc:`/{lesson.docname}`", "", *words[1].strip().split("\n"), ""]
                inside += [".. code-block:: python", "", *(f"   {line}" for line in code.content.strip().split("\n"))]
                return [".. container:: cheat", "", *(f"   {line}" for line in inside), ""]
        return []


class Exercises(Collected):
    """``.. exercises::`` links every exercise of the book."""

    def lines(self, lesson):
        """Return the lesson's title and, below it, its exercises."""
        text = "\n".join(
            block.content for block in split_code_and_text_blocks(str(lesson.path))[1] if block.type == "text"
        )
        items = []
        for title, kind in EXERCISE.findall(text):
            plain = title.replace("`", "")
            items.append(f"  * :ref:`{plain} <{lesson.docname}#{anchor(title)}>`{f' ({kind})' if kind else ''}")
        return [f"* :doc:`/{lesson.docname}`", "", *items, ""] if items else []
