"""Write each lesson's notebook: Markdown from the finished page, code from the script, with stubs for solutions."""

import json
import os
import re
from pathlib import Path
from textwrap import indent
from urllib.parse import urljoin

import pages
from cells import FOLD
from course import MARK, solutions, stub
from docutils import nodes
from lesson_page import INSTALL, lesson_facts
from sphinx.locale import admonitionlabels, get_translation
from sphinx_design.dropdown import dropdown_main
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

_ = get_translation("book")

KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
CODE = ("literal_block", "doctest_block", "linked_code", "code_links_block")  # the last is Sphinx-Gallery's


def setup(app):
    """Connect to the build."""
    app.connect("doctree-resolved", write, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write(app, doctree, docname):
    """Replace the notebook of Sphinx-Gallery, whose text cells hold reStructuredText."""
    lesson = next((lesson for part in app.course for lesson in part.lessons if lesson.docname == docname), None)
    if lesson is None or app.builder.format != "html" or pages.is_rewritten(app, lesson):  # by a build of other pages
        return
    writer = Markdown(docname, app.config.html_baseurl, INSTALL.format(version=app.config.release))
    blocks = split_code_and_text_blocks(str(lesson.path))[1]
    notebook = {"cells": cells(blocks, pieces(doctree), writer), "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 4}
    path = Path(app.srcdir, f"{docname}.ipynb")
    before = path.stat()
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a page whose download is newer would be read again


def pieces(doctree):
    """Return the nodes of each block of the script: Sphinx-Gallery's comments stand between them."""
    found = [[]]

    def collect(parent):
        for node in parent:
            if isinstance(node, nodes.comment) and "PYTHON SOURCE LINES" in node.astext():
                found.append([])
            elif isinstance(node, nodes.section):
                collect(node)
            else:
                found[-1].append(node)

    collect(doctree)
    return found


def cells(blocks, texts, writer):
    """Return the notebook's cells; the caption of a cell's figure opens the text below it."""
    done, captions = [], ""
    for block, text in zip(blocks, texts, strict=True):
        if block.type == "text":
            words, captions = captions + writer.blocks(text), ""
            done += [markdown_cell(words)] if words else []
            continue
        figures = [figure for node in text for figure in node.findall(nodes.figure)]
        captions = writer.blocks(figures)
        done.append(code_cell(block.content))
        if MARK in block.content:
            answer = f"```python\n{solutions(block.content)}\n```"
            done.append(markdown_cell(details(_("Answer"), answer)))
    return done


def markdown_cell(text):
    """Return a cell of text."""
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip().splitlines(keepends=True)}


def code_cell(code):
    """Return a cell of code, hidden if it only draws."""
    folded = FOLD.match(code)
    metadata = {"jupyter": {"source_hidden": True}} if folded else {}
    source = FOLD.sub(r"# \1\n", code, count=1) if folded else stub(code)
    source = source.strip().splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}


def details(summary, body):
    """Return what a reader opens; Markdown inside needs blank lines around it."""
    return f"<details><summary>{summary}</summary>\n\n{body.strip()}\n\n</details>\n\n"


def hanging(mark, text):
    """Return a list's item: the mark, and what follows as far in as the mark is wide."""
    return mark + indent(text.strip(), " " * len(mark))[len(mark) :] + "\n"


class Markdown:
    """Turn the resolved nodes of a page into Markdown."""

    def __init__(self, page, base, install):
        self.page, self.base, self.install = page, base, install

    def blocks(self, children):
        """Return nodes that stand below each other."""
        return "".join(self.block(child) for child in children)

    def block(self, node):
        """Return one node with the blank line after it."""
        match node:
            case lesson_facts():
                return self.facts(node)
            case nodes.title():
                depth, place = 0, node.parent
                while place is not None:
                    depth, place = depth + isinstance(place, nodes.section), place.parent
                return f"{'#' * depth} {self.inline(node)}\n\n"
            case nodes.paragraph() | nodes.term():
                return f"{self.inline(node)}\n\n"
            case nodes.rubric():
                return f"**{self.inline(node)}**\n\n"
            case nodes.caption():
                return f"_Figure: {self.inline(node)}_\n\n"
            case _ if node.tagname in CODE:
                language, code = node.get("language", node.get("lang", "")), node.astext().strip("\n")
                return f"```{'' if language in ('default', 'none') else language}\n{code}\n```\n\n"
            case nodes.math_block():
                text = node.astext().strip()
                if r"\\" in text and r"\begin" not in text:  # as Sphinx does
                    text = rf"\begin{{aligned}}{text}\end{{aligned}}"
                return f"$$\n{text}\n$$\n\n"
            case nodes.bullet_list():
                return "".join(hanging("* ", self.blocks(item)) for item in node) + "\n"
            case nodes.enumerated_list():
                items = enumerate(node, start=node.get("start", 1))
                return "".join(hanging(f"{number}. ", self.blocks(item)) for number, item in items) + "\n"
            case nodes.definition():
                return hanging(": ", self.blocks(node)) + "\n"
            case nodes.block_quote():
                return self.quote(self.blocks(node))
            case nodes.Admonition():
                titled = isinstance(node[0], nodes.title)
                title = self.inline(node[0]) if titled else admonitionlabels[node.tagname]
                return self.quote(f"**{title}**\n\n{self.blocks(node[titled:])}")
            case dropdown_main():
                return details(self.inline(node[0]), self.blocks(node[1:]))
            case nodes.table():
                return self.table(node)
            case nodes.Invisible() | nodes.raw() | nodes.image() | nodes.meta():
                return ""
            case _:  # a container of no form of its own
                return self.blocks(node.children)

    def quote(self, text):
        """Return text set off from the rest."""
        return indent(text.strip(), "> ", lambda line: True) + "\n\n"

    def table(self, node):
        """Return a table; Markdown knows one row of headings and one line per cell."""
        rows = [[self.blocks(entry).strip() for entry in row] for row in node.findall(nodes.row)]
        lines = [" | ".join(" ".join(cell.split()).replace("|", r"\|") for cell in row) for row in rows]
        head = lines.pop(0) if any(node.findall(nodes.thead)) else " | ".join(" " for _ in rows[0])
        return "\n".join(f"| {line} |" for line in (head, " | ".join("---" for _ in rows[0]), *lines)) + "\n\n"

    def facts(self, node):
        """Return what the lesson needs and how its package is installed."""
        needs = ", ".join(node["needs"]) or _("nothing but Python")
        facts = {_("You need"): needs, _("Data"): node["data"], _("Install once"): f"`{self.install}`"}
        return "".join(f"**{name}:** {value}\n\n" for name, value in facts.items())

    def inline(self, node):
        """Return what is inside a line of text."""
        return "".join(self.word(child) for child in node.children)

    def word(self, node):
        """Return one piece of a line."""
        match node:
            case nodes.Text():
                return re.sub(r"([\\`*_<\[\]$])", r"\\\1", node.astext().replace("\n", " "))
            case nodes.literal():
                return f"`{node.astext()}`"
            case nodes.emphasis() | nodes.title_reference():
                return f"*{self.inline(node)}*"
            case nodes.strong():
                return f"**{self.inline(node)}**"
            case nodes.math():
                return f"${node.astext()}$"
            case nodes.reference():
                return self.link(node)
            case nodes.raw() | nodes.image():
                return ""
            case _:
                return self.inline(node)

    def link(self, node):
        """Return a link to the web; a page of this book is one only if the book is published somewhere."""
        address = urljoin(f"{self.base}{self.page}", node.get("refuri", f"#{node.get('refid', '')}"))
        return f"[{self.inline(node)}]({address})" if "://" in address else self.inline(node)
