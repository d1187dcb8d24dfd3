"""Show of a code cell what the reader needs: stubs with folded answers instead of solutions, drawing code folded.

The build runs every cell as it stands; only what is shown changes, after Sphinx has read the page.
"""

import re

from course import MARK, solutions, stub
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.locale import get_translation
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
_ = get_translation("book")

FOLD = re.compile(r"\s*# fold: *(.+)\n+")


def setup(app):
    """Register the directive and the transform."""
    app.add_node(fold, html=(visit_fold, depart_fold), gettext=(_pass, _pass), text=(_pass, _pass))
    app.add_directive("exercise", Exercise)
    app.connect("doctree-read", show, priority=450)  # after captions have found their figures
    return {"parallel_read_safe": True, "env_version": 1}


def _pass(visitor, node):
    pass


class fold(nodes.General, nodes.Element):
    """What the reader opens by its title; the title is an attribute."""


def visit_fold(self, node):
    """Open it: the browser folds without a script."""
    self.body.append(f'<details class="book-fold"><summary>{self.encode(node["title"])}</summary>\n')


def depart_fold(self, node):
    """Close it."""
    self.body.append("</details>\n")


def anchor(title):
    """Return the identifier of an exercise on its page, which stays when others come before it."""
    return nodes.make_id(f"exercise-{title}")


class Exercise(SphinxDirective):
    """``.. exercise:: Title`` with the task; the code cell below holds stub, solution and checks."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True
    option_spec = {"kind": directives.unchanged_required}

    def run(self):
        """Make the box, and its name for references: page#anchor."""
        self.assert_has_content()
        title = " ".join(self.arguments[0].split())
        words, messages = self.parse_inline(title)
        kind = (
            [nodes.inline("", f" ({self.options['kind']})", classes=["exercise-kind"])]
            if "kind" in self.options
            else []
        )
        box = nodes.admonition("", nodes.title("", "", *words, *kind), classes=["exercise"], ids=[anchor(title)])
        self.set_source_info(box)
        box["names"] = [f"{self.env.docname}#{anchor(title)}"]
        self.state.document.note_explicit_target(box)
        box += self.parse_content_to_nodes()
        return [box, *messages]


def is_cell(node):
    """Say whether a node is a code cell of a lesson, not code in its text."""
    return isinstance(node, nodes.literal_block) and node.get("language") == "Python"


def show(app, doctree):
    """Fold and stub the cells of one page."""
    task = None
    for node in list(doctree.findall(lambda node: is_cell(node) or isinstance(node, nodes.admonition))):
        if isinstance(node, nodes.admonition):
            if "exercise" in node["classes"]:
                _complain_about(task)
                task = node
            continue
        text = node.astext()
        if title := FOLD.match(text):
            folded = fold(title=_("Code: %s") % title[1])
            node.replace_self(folded)
            folded += _with_text(node, FOLD.sub("", text, count=1))
        if MARK in text:
            if task is None:
                logger.warning("a solution without '.. exercise::' above its cell", location=node)
            task = None
            _hide_solution(node)
    _complain_about(task)


def _complain_about(task):
    if task is not None:
        logger.warning("an exercise without a cell that holds its solution", location=task)


def _hide_solution(cell):
    """Put the stub in the cell's place, and below it, folded, the answer with what it prints."""
    text = cell.astext()
    if MARK in stub(text):
        logger.warning("a solution begins and does not end with '### END SOLUTION'", location=cell)
    answer = fold(title=_("Answer"))
    answer += _with_text(cell.copy(), solutions(text))
    answer[0]["classes"] += ["answer"]
    siblings, place = cell.parent, cell.parent.index(cell) + 1
    while place < len(siblings) and "sphx-glr-script-out" in getattr(siblings[place], "attributes", {}).get(
        "classes", ()
    ):
        answer += siblings.pop(place)
    siblings.insert(place, answer)
    _with_text(cell, stub(text))


def _with_text(block, text):
    block.rawsource = text  # Sphinx highlights a block whose text is its source
    block.children = []
    block += nodes.Text(text)
    return block
