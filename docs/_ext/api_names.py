"""List every library name that the lessons' code uses, with its official page and the lessons that use it.

Sphinx-Gallery writes the names of a lesson's code beside its page, as ``<lesson>.codeobj.json``. Each is looked up in the
inventories that intersphinx holds; what is in none of them (our own package, plain variables) is not listed.
"""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.ext.intersphinx import InventoryAdapter
from sphinx.util.docutils import SphinxDirective

SUFFIX = ".codeobj.json"
ROLES = {
    "class": "class",
    "function": "func",
    "method": "meth",
    "attribute": "attr",
    "data": "data",
    "exception": "exc",
}


def setup(app):
    """Connect to the build."""
    app.add_directive("api-names", ApiNames)
    app.connect("env-get-outdated", outdated)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}


@dataclass(frozen=True)
class Name:
    """One documented name: where it is listed and how it is referred to."""

    library: str  # title of the library's inventory, "PyTorch"
    module: str  # the module it is listed under, "torch.nn"
    full: str
    role: str


class ApiNames(SphinxDirective):
    """``.. api-names::`` lists the names by library and module, each with links to its page and to its lessons."""

    def run(self):
        """Build one section for each library, with one list for each of its modules."""
        pages_of(self.env)[self.env.docname] = digest(self.env)
        uses = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
        for name, lessons in sorted(names_used(self.env).items(), key=lambda use: use[0].full.casefold()):
            uses[name.library][name.module][name] = lessons
        order = [item[0] for item in titles(self.env)]
        return [self.section(library, uses[library]) for library in sorted(uses, key=order.index)]

    def section(self, library, modules):
        """Return the section of one library."""
        section = nodes.section("", nodes.title("", library), ids=[nodes.make_id(f"names-{library}")])
        for module, names in sorted(modules.items()):
            title = nodes.title("", "", nodes.literal("", module))
            items = [self.item(name, lessons) for name, lessons in names.items()]
            uses = nodes.bullet_list("", *items, classes=["api-names"])
            section += nodes.section("", title, uses, ids=[nodes.make_id(f"names-{library}-{module}")])
        return section

    def item(self, name, lessons):
        """Return one name, linked, and the titles of the lessons that use it, linked."""
        parts = [self.link("py", name.role, name.full, nodes.literal("", name.full))]
        for number, lesson in enumerate(lessons):
            between = ", " if number else ": "
            parts += [nodes.Text(between), self.link("std", "doc", f"/{lesson}", nodes.inline("", lesson))]
        return nodes.list_item("", nodes.paragraph("", "", *parts))

    def link(self, domain, role, target, shown):
        """Return a reference that Sphinx resolves like a role in the text."""
        shown["classes"] += ["xref", domain, f"{domain}-{role}"]
        about = {"refdomain": domain, "reftype": role, "reftarget": target, "refdoc": self.env.docname}
        return addnodes.pending_xref("", shown, **about, refexplicit=domain == "py", refwarn=True)


def names_used(env):
    """Return every documented name in the lessons' code and, in reading order, the lessons that use it."""
    libraries = [(title, InventoryAdapter(env).named_inventory[key]) for title, key in titles(env)]
    uses = defaultdict(list)
    for lesson, path in records(env).items():
        code = json.loads(path.read_text(encoding="utf-8"))
        for name in {find(libraries, written, code) for written in code} - {None}:
            uses[name].append(lesson)
    return uses


def find(libraries, written, code):
    """Return the first documented name among what a piece of code may mean, or None."""
    for full, spelled in meanings(written, code):
        for title, inventory in libraries:
            role = next((role for kind, role in ROLES.items() if full in inventory.get(f"py:{kind}", ())), None)
            if role and (spelled or role not in ("class", "exc")):
                return Name(title, module_of(full, inventory), full, role)
    return None


def meanings(written, code):
    """Yield the full names that a piece of code may mean, and whether the code spells them.

    Sphinx-Gallery records a variable as the class of its value, which the code does not spell. It does not record methods
    that are written in C, as most of a tensor's are: they are looked for in the class of the variable that they follow.
    """
    owner, _, last = written.rpartition(".")
    for key, member in ((written, ""), (owner, f".{last}")):
        for candidate in code.get(key, ()):
            if candidate["is_explicit"]:  # mentioned in the prose, not used by the code
                continue
            name = candidate["name"] + member
            spelled = candidate["is_class"] or name.rpartition(".")[2] == last
            for module in (candidate["module_short"], candidate["module"]):
                yield name if module == "builtins" else f"{module}.{name}", spelled


def module_of(full, inventory):
    """Return the documented module a name belongs to."""
    module = full.rpartition(".")[0]
    while module and module not in inventory["py:module"]:
        module = module.rpartition(".")[0]
    return module or "builtins"


def titles(env):
    """Return title and key of every inventory, in the order of the configuration."""
    inventories = InventoryAdapter(env).named_inventory
    found = []
    for key in env.config.intersphinx_mapping:
        modules = inventories.get(key, {}).get("py:module", {})
        found += [(item.project_name, key) for item in list(modules.values())[:1]]
    return found


def records(env):
    """Return, in reading order, the record of names of every lesson that is part of the book."""
    folders = env.config.sphinx_gallery_conf["gallery_dirs"]
    folders = [folders] if isinstance(folders, str) else folders
    root = Path(env.srcdir)
    paths = (path for folder in folders for path in sorted((root / folder).rglob(f"*{SUFFIX}")))
    found = {path.relative_to(root).as_posix().removesuffix(SUFFIX): path for path in paths}
    return {lesson: path for lesson, path in found.items() if lesson in env.found_docs}


def digest(env):
    """Return a digest of everything the list is made of."""
    parts = (f"{lesson}\n".encode() + path.read_bytes() for lesson, path in records(env).items())
    return hashlib.sha256(b"\n".join(parts)).hexdigest()


def pages_of(env):
    """Return the pages that show the list, with the digest they were made from."""
    if not hasattr(env, "api_names_pages"):
        env.api_names_pages = {}
    return env.api_names_pages


def outdated(app, env, added, changed, removed):
    """Read the pages again when the names changed."""
    now = digest(env)
    return [page for page, made_from in pages_of(env).items() if made_from != now and page not in removed]


def purge(app, env, docname):
    """Forget a page that is about to be read again, or gone."""
    pages_of(env).pop(docname, None)


def merge(app, env, docnames, other):
    """Take over what another reading process found."""
    pages_of(env).update({page: made for page, made in pages_of(other).items() if page in docnames})
