"""Link the library names in the code of lessons, chapters and examples to their pages.

All the Python on a page is read as one program. What `name_finder` understands and an inventory or this book describes becomes
a link; the longest dotted name wins. The answers are kept beside the doctrees, because they are slow to find.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from dataclasses import astuple
from pathlib import Path

import jedi
import name_finder
from docutils import nodes
from guard.kinds import digest
from pygments.lexers import PythonConsoleLexer, PythonLexer
from pygments.token import STANDARD_TYPES, Whitespace
from sphinx import addnodes
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.transforms.post_transforms import SphinxPostTransform

LANGUAGES = ("python", "ipython3", "pycon")


class linked_code(nodes.General, nodes.TextElement):
    """A highlighted block whose tokens are nodes, so that links can stand among them."""


def setup(app):
    """Connect to the build."""
    jedi.settings.cache_directory = str(Path(app.doctreedir) / "jedi")  # not the reader's home
    app.add_node(linked_code, html=(visit, depart))
    app.add_post_transform(CodeLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}


def visit(self, node):
    """Open what Sphinx puts around a highlighted block."""
    self.body.append(f'<div class="highlight-{node["language"]} notranslate"><div class="highlight"><pre>')


def depart(self, node):
    """Close it."""
    self.body.append("</pre></div></div>\n")


class CodeLinks(SphinxPostTransform):
    """Replace each block of Python by tokens and links, before references are resolved."""

    default_priority = 4  # before Sphinx-Gallery's own links (5), which know no method written in C
    formats = ("html",)

    def run(self, **kwargs):
        """Link the code of one page."""
        blocks = [(node, source) for node in self.document.findall(is_code) if (source := python_of(node)) is not None]
        code = prelude(self.env.docname)
        first, starts = code.count("\n") + 1, []
        for _, source in blocks:
            starts.append(first)
            code += source + "\n"
            first = code.count("\n") + 1
        kinds = self.kinds(blocks)
        links = self.links(code, list(zip(starts, kinds, strict=True))) if blocks else {}
        for (node, _), start in zip(blocks, starts, strict=True):
            language = node.get("language", "pycon")
            tokens = linked(node.astext(), lambda line, at, start=start: links.get((start + line, at)))
            node.replace_self(linked_code("", "", *tokens, language=language))

    def links(self, code, kinds):
        """Return, for the place where each documented name starts, its end and a reference to it."""
        found = {}
        for line, start, end, meanings in understood(self.app.doctreedir, code, kinds):
            name = next((name for name in meanings if self.described(name)), None)
            if name and (line, start) not in found:  # a dotted name comes before its parts
                about = {"refdomain": "py", "reftype": "obj", "reftarget": name, "refdoc": self.env.docname}
                found[line, start] = end, addnodes.pending_xref("", **about, refexplicit=True, refwarn=True)
        return found

    def kinds(self, blocks):
        """Return what the variables were after each block of a lesson or of a chapter; an answer stands in its cell."""
        sources = [source for node, source in blocks if "answer" not in node["classes"]]
        lesson = Path(self.env.srcdir, f"{self.env.docname}.kinds.json")
        if lesson.exists():
            found = json.loads(lesson.read_text(encoding="utf-8"))
            found = found if len(found) == len(sources) else [{}] * len(sources)
        else:
            cells = [digest(sources[:end]) for end in range(1, len(sources) + 1)]
            paths = [Path(os.environ["BOOK_KINDS"], f"{cell}.json") for cell in cells]
            found = [json.loads(path.read_text(encoding="utf-8")) if path.exists() else {} for path in paths]
        cell, after = -1, []
        for node, _ in blocks:
            cell += "answer" not in node["classes"]
            after.append(found[cell])
        return after

    def described(self, name):
        """Say whether this book or an inventory describes a name."""
        if name in self.env.domains.python_domain.objects:
            return True
        inventory = InventoryAdapter(self.env).main_inventory
        return any(name in names for kind, names in inventory.items() if kind.startswith("py:"))


def is_code(node):
    """Say whether a node is a block of Python that is shown."""
    if isinstance(node, nodes.doctest_block):
        return True
    return isinstance(node, nodes.literal_block) and node.get("language", "").lower() in LANGUAGES


def python_of(node):
    """Return the Python of a block, line by line as it is shown; None when it is not Python."""
    text = node.astext()
    if text.startswith(">>>"):  # without prompts and what was printed
        text = "\n".join(line[4:] if line[:3] in (">>>", "...") else "" for line in text.split("\n"))
    try:
        ast.parse(text)
    except SyntaxError:
        return None
    return text


def prelude(page):
    """Return the imports that a page need not spell: on a module's page, what its modules import and define."""
    if page == "cheatsheet":  # its pieces begin in the middle of lessons
        return "import numpy as np\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
    path = Path(page).relative_to("api") if page.startswith("api/") else None
    try:
        spec = importlib.util.find_spec(".".join(path.parts)) if path else None
    except ImportError:  # an API page about no module
        spec = None
    if spec is None:
        return ""
    package, lines = spec.submodule_search_locations, []
    for file in sorted(Path(package[0]).glob("[!_]*.py")) if package else [Path(spec.origin)]:
        module = f"{spec.name}.{file.stem}" if package else spec.name
        body = ast.parse(file.read_text(encoding="utf-8"), filename=str(file)).body
        lines += [ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        lines += [f"from {module} import {name}" for name in names if name[0] != "_"]
    return "".join(f"{line}\n" for line in lines)


def understood(folder, code, kinds):
    """Return the uses of names in the code, as plain lists, from the folder if they are known there."""
    versions = [importlib.metadata.version(name) for name in ("jedi", "torch", "numpy", "matplotlib")]
    rules = Path(name_finder.__file__).read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps([code, kinds, versions, rules]).encode()).hexdigest()
    path = Path(folder, "names", f"{key}.json")
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        uses = [astuple(use) for use in name_finder.uses(code, lambda line, name: kind_of(kinds, line, name))]
        part = path.with_suffix(".part")  # a file cut short by a full disk would be believed for ever
        part.write_text(json.dumps(uses), encoding="utf-8")
        part.replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def kind_of(kinds, line, name):
    """Return the class of a variable in the block of a line, unless the block changes it."""
    before = after = None
    for start, known in kinds:
        if start > line:
            break
        before, after = after, known.get(name)
    return after if before in (None, after) else None


def linked(text, link_at):
    """Yield the tokens of a block as nodes; `link_at` says, for a line from 0 and a column, what link starts there."""
    console = text.startswith(">>>")
    lexer, prompt = (PythonConsoleLexer(), 4) if console else (PythonLexer(stripnl=False, ensurenl=False), 0)
    line, at, end, link = 0, 0, 0, None
    for kind, piece in lexer.get_tokens(text):
        for part in piece.splitlines(keepends=True):
            if link is None and (target := link_at(line, at - prompt)):
                end, link = target[0] + prompt, target[1].deepcopy()
                link += nodes.inline()
            at += len(part)
            if link is None:
                yield token(kind, part)
            else:
                link[0] += token(kind, part)
                if at >= end:
                    yield link
                    link = None
            if part.endswith("\n"):
                line, at = line + 1, 0
    if link is not None:
        yield link


def token(kind, text):
    """Return one token with the class that Pygments gives its kind."""
    while kind not in STANDARD_TYPES:
        kind = kind.parent
    if kind in Whitespace:
        return nodes.Text(text)
    return nodes.inline(text, text, classes=[STANDARD_TYPES[kind]]) if STANDARD_TYPES[kind] else nodes.Text(text)
