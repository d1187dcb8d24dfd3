"""Link the library names in the code of lessons, chapters and examples to their pages.

All the Python on a page is read as one program. What `name_finder` understands and an inventory or this book describes becomes
a link; the longest dotted name wins. Each page remembers its links, for the index of names and for the lists of lessons.
"""

import ast
import importlib.util
import json
import os
from pathlib import Path

import inventories
import name_finder
from docutils import nodes
from guard.kinds import digest
from pygments.lexers import PythonConsoleLexer, PythonLexer
from pygments.token import STANDARD_TYPES, Whitespace
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

LANGUAGES = ("python", "ipython3", "pycon")


class linked_code(nodes.General, nodes.TextElement):
    """A highlighted block whose tokens are nodes, so that links can stand among them."""


def setup(app):
    """Connect to the build."""
    app.add_node(linked_code, html=(visit, depart))
    app.add_post_transform(CodeLinks)
    app.connect("doctree-read", remember, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 2}


def visit(self, node):
    """Open what Sphinx puts around a highlighted block."""
    named = nodes.inline(ids=node["ids"])
    self.body.append(self.starttag(named, "div", suffix="", CLASS=f"highlight-{node['language']} notranslate"))
    self.body.append('<div class="highlight"><pre>')


def depart(self, node):
    """Close it."""
    self.body.append("</pre></div></div>\n")


def remember(app, doctree):
    """Note with a page what each name in its code may mean."""
    found = {use.meanings for use in Page(app.env, app.env.docname, doctree).uses()}
    app.env.metadata[app.env.docname]["names"] = sorted(found)  # Sphinx forgets it with the page


def names_of(env, page):
    """Return every name in a page's code that this book or a library's documentation describes."""
    return dict.fromkeys(filter(None, (described(env, meanings) for meanings in env.metadata[page].get("names", ()))))


def described(env, meanings):
    """Return the first of some names that this book or a library's documentation describes, as it is spelled there; or None."""
    own = env.domains.python_domain.objects
    for name in meanings:
        if name in own:
            return name
        if entry := inventories.find(name):
            return entry.name
    return None


class CodeLinks(SphinxPostTransform):
    """Replace each block of Python by tokens and links, before references are resolved."""

    default_priority = 4  # before Sphinx-Gallery's own links (5), which know no method written in C
    formats = ("html",)

    def run(self, **kwargs):
        """Link the code of one page."""
        page = Page(self.env, self.env.docname, self.document)
        links = {}
        for use in page.uses():
            name = described(self.env, use.meanings)
            if name and (use.line, use.start) not in links:  # a dotted name comes before its parts
                about = {"refdomain": "py", "reftype": "obj", "reftarget": name, "refdoc": self.env.docname}
                links[use.line, use.start] = use.end, addnodes.pending_xref("", **about, refexplicit=True, refwarn=True)
        for (node, _), start in zip(page.blocks, page.starts, strict=True):
            tokens = linked(node, lambda line, at, start=start: links.get((start + line, at)))
            node.replace_self(linked_code("", "", *tokens, language=node.get("language", "pycon")))


class Page:
    """The Python on a page, as one program."""

    def __init__(self, env, docname, document):
        self.env, self.docname = env, docname
        self.blocks = [(node, source) for node in document.findall(is_code) if (source := python_of(node)) is not None]
        self.code = prelude(docname)
        self.starts = []
        for _, source in self.blocks:
            self.starts.append(self.code.count("\n") + 1)
            self.code += source + "\n"

    def uses(self):
        """Return the uses of names."""
        kinds = list(zip(self.starts, self.kinds(), strict=True))
        return name_finder.uses(self.code, lambda line, name: kind_of(kinds, line, name)) if self.blocks else []

    def kinds(self):
        """Return what the variables were after each block of a lesson or of a chapter; an answer stands in its cell."""
        sources = [source for node, source in self.blocks if "answer" not in node["classes"]]
        lesson = Path(self.env.srcdir, f"{self.docname}.kinds.json")
        if lesson.exists():
            found = json.loads(lesson.read_text(encoding="utf-8"))
            found = found if len(found) == len(sources) else [{}] * len(sources)
        else:
            cells = [digest(sources[:end]) for end in range(1, len(sources) + 1)]
            paths = [Path(os.environ["BOOK_KINDS"], f"{cell}.json") for cell in cells]
            found = [json.loads(path.read_text(encoding="utf-8")) if path.exists() else {} for path in paths]
        cell, after = -1, []
        for node, _ in self.blocks:
            cell += "answer" not in node["classes"]
            after.append(found[cell])
        return after


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


def kind_of(kinds, line, name):
    """Return the class of a variable in the block of a line, unless the block changes it."""
    before = after = None
    for start, known in kinds:
        if start > line:
            break
        before, after = after, known.get(name)
    return after if before in (None, after) else None


def linked(block, link_at):
    """Return the tokens of a block as nodes; `link_at` says, for a line from 0 and a column, what link starts there."""
    text, options = block.astext(), block.get("highlight_args", {})
    first, marked = options.get("linenostart", 1), options.get("hl_lines", ())
    console = text.startswith(">>>")
    lexer, prompt = (PythonConsoleLexer(), 4) if console else (PythonLexer(stripnl=False, ensurenl=False), 0)
    lines, at, end, link = [nodes.inline()], 0, 0, None
    for kind, piece in lexer.get_tokens(text):
        for part in piece.splitlines(keepends=True):
            if link is None and (target := link_at(len(lines) - 1, at - prompt)):
                end, link = target[0] + prompt, target[1].deepcopy()
                link += nodes.inline()
                lines[-1] += link
            (lines[-1] if link is None else link[0]).append(token(kind, part))
            at += len(part)
            if at >= end or part.endswith("\n"):
                link = None
            if part.endswith("\n"):
                lines.append(nodes.inline())
                at = 0
    width = len(str(first + len(lines) - 1))
    found = []
    for number, line in enumerate(lines if lines[-1].children else lines[:-1]):
        if block.get("linenos"):
            shown = f"{first + number:{width}}"
            line.insert(0, nodes.inline(shown, shown, classes=["linenos"]))
        line["classes"] += ["hll"] if number + 1 in marked else []
        found += [line] if line["classes"] else line.children
    return found


def token(kind, text):
    """Return one token with the class that Pygments gives its kind."""
    while kind not in STANDARD_TYPES:
        kind = kind.parent
    if kind in Whitespace:
        return nodes.Text(text)
    return nodes.inline(text, text, classes=[STANDARD_TYPES[kind]]) if STANDARD_TYPES[kind] else nodes.Text(text)
