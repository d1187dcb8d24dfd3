"""Say where the official documentation describes a name, without a network: for code, for prose, for signatures.

Five libraries come with the inventory that their documentation publishes. For torch and its relatives ``inventories.toml``
holds patterns. What the installed library does not have any more has no page here: a wrong link is worse than none.
"""

import inspect
import re
import tomllib
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docutils import nodes
from name_finder import full_name, locate, spellings

RULES = Path(__file__).with_suffix(".toml")
FOLDER = Path(__file__).parents[1] / "_inventories"
ENTRY = re.compile(r"^(\S+) py:(\w+) -?\d+ (\S+) ", re.M)


@dataclass(frozen=True)
class Entry:
    """One name that an official documentation describes."""

    library: str  # the library's title, "PyTorch"
    module: str  # the module that it belongs to, "torch.nn"
    name: str
    address: str


def setup(app):
    """Connect to the build."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def resolve(app, env, node, shown):
    """Link a name in prose or in a signature, whatever its role says that it is."""
    entry = find(node["reftarget"]) if node.get("refdomain") == "py" else None
    if entry is None:
        return None
    return nodes.reference("", "", shown, internal=False, refuri=entry.address, reftitle=f"(in {entry.library})")


@cache
def libraries():
    """Return what is known of each library, by the first part of its names."""
    return tomllib.loads(RULES.read_text(encoding="utf-8"))


@cache
def official():
    """Return the kind and the place of every name in the published inventories."""
    found = {}
    for library in libraries():
        path = FOLDER / f"{library}.inv"
        _, _, packed = path.read_bytes().partition(b"zlib.\n") if path.exists() else (b"", b"", zlib.compress(b""))
        for name, kind, place in ENTRY.findall(zlib.decompress(packed).decode()):
            found.setdefault(name, (kind, f"{place[:-1]}{name}" if place.endswith("$") else place))
    return found


@cache
def find(name):
    """Return where a name, or the same thing under another name, is described; or None."""
    for spelled in sorted(
        spellings(name) if re.fullmatch(r"\w+(\.\w+)*", name) else (), key=lambda known: "._" in known
    ):
        root = spelled.partition(".")[0]
        library = libraries().get(root, libraries()["python"])
        place = place_in(library, spelled) if "places" in library else official_place(root, spelled)
        if place:
            return Entry(library["title"], module_of(spelled), spelled, library["base"] + place)
    return None


def official_place(root, name):
    """Return the place of a name in its library's inventory; an empty string when the installed library lacks it."""
    kind, place = official().get(name, ("", ""))
    if root == "numpy" and type(locate(name)).__name__ == "ufunc":  # their pages are not in the inventory
        return f"reference/generated/{name}.html#{name}"
    if root in libraries() and kind not in ("data", "attribute", "property", "module") and locate(name) is None:
        return ""
    return place


def place_in(library, name):
    """Return page and anchor of a name of a library that has patterns, or an empty string."""
    thing, (module, _, last) = locate(name), name.rpartition(".")
    if inspect.ismodule(thing):
        return page_of(library, name)
    if thing is None or last.startswith("_"):
        return ""
    place = next((found for pattern, found in library["places"] if re.fullmatch(pattern, name)), None)
    place = ruled(library, name, thing) if place is None else place
    metric = re.sub("^(Binary|Multiclass|Multilabel)", "", last)
    filled = place.format(
        name=name,
        last=last,
        home=full_name(thing),
        page=page_of(library, module),
        builder=f"{module}.{last.removesuffix('_Weights').lower()}",
        metric=re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", metric).lower(),
    )
    return filled if "#" in filled or not filled else f"{filled}#{name}"


def ruled(library, name, thing):
    """Return the place that a name has because of the module or class that it belongs to."""
    owner, _, last = name.rpartition(".")
    holder, within = locate(owner), owner.partition(".")[2] or owner
    if not isinstance(thing.__doc__, str):
        return ""
    if isinstance(holder, type):
        if within in library.get("members", "").split():
            return "generated/{name}.html"
        own = last in vars(holder) or within.startswith(library.get("inherited", "-"))
        above = place_in(library, owner) if own and hasattr(type(thing), "__get__") else ""
        return f"{above}.{last}" if above.endswith(f".{holder.__name__}") else above
    if not (inspect.ismodule(holder) and is_offered(holder, last, thing)):
        return ""
    if within in library["each"].split():
        return "generated/{name}.html"
    return page_of(library, owner) if within in library.get("one", "").split() else ""


def is_offered(module, name, thing):
    """Say whether a name is a module's own, and for its users."""
    root, home = module.__name__.partition(".")[0], getattr(thing, "__module__", None) or module.__name__
    listed = getattr(module, "__all__", None)
    own = name in listed if listed else home.startswith((module.__name__, f"{root}._C", f"{root}._tensor"))
    return callable(thing) and own and home.partition(".")[0] == root


def page_of(library, module):
    """Return the page of a module, or an empty string."""
    within = module.partition(".")[2]
    known = {*library["each"].split(), *library.get("one", "").split()}
    return library.get("pages", {}).get(module, f"{within}.html" if within in known else "")


def module_of(name):
    """Return the module that a name belongs to."""
    module = name
    while module and not inspect.ismodule(locate(module)):
        module = module.rpartition(".")[0]
    return module or "builtins"
