"""Link every public name of torch, torchvision, NumPy, scikit-learn, Matplotlib and Python to its official page, offline.

Intersphinx wants an inventory for each library, and the build may not fetch one. So it is written here by looking at the
installed library: names come from its public modules, pages from the rules in ``inventories.toml``. A library is looked at
once, in a process of its own; its inventory is kept until the library's version or the rules change.
"""

import hashlib
import importlib
import inspect
import os
import platform
import re
import subprocess
import sys
import tomllib
import zlib
from importlib import metadata
from pathlib import Path

from sphinx.errors import ExtensionError

RULES = Path(__file__).with_suffix(".toml")
HEADER = """\
# Sphinx inventory version 2
# Project: {title}
# Version: {version}
# The remainder of this file is compressed using zlib.
"""
METHODS = (staticmethod, classmethod)


def setup(app):
    """Connect to the build."""
    app.setup_extension("sphinx.ext.intersphinx")
    app.add_config_value("inventories", [], "")  # the libraries to link to; all of inventories.toml when empty
    app.add_config_value("inventories_path", "", "")  # where to keep them; beside the output folder when empty
    app.connect("config-inited", connect, priority=700)  # intersphinx checks its mapping at 800
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def connect(app, config):
    """Write what is missing and give every inventory to intersphinx."""
    rules = load_rules()
    unknown = set(config.inventories) - rules.keys()
    if unknown:
        raise ExtensionError(f"inventories: no rules for {', '.join(sorted(unknown))}; there are {', '.join(rules)}")
    folder = Path(config.inventories_path or Path(app.outdir).parent / "inventories")
    paths = write_missing({name: rules[name] for name in config.inventories or rules}, folder)
    made = {name: (rules[name]["base"], str(path)) for name, path in paths.items()}
    config.intersphinx_mapping = made | config.intersphinx_mapping


def load_rules():
    """Read the rules of all libraries."""
    return tomllib.loads(RULES.read_text(encoding="utf-8"))


def version_of(rules):
    """Return the version of the installed library; Python itself is the library without a package."""
    return metadata.version(rules["package"]) if "package" in rules else platform.python_version()


def write_missing(rules, folder):
    """Write each inventory that ``folder`` does not hold for this version and these rules; return where all are."""
    digest = hashlib.sha256(Path(__file__).read_bytes() + RULES.read_bytes()).hexdigest()[:12]
    paths = {name: folder / f"{name}-{version_of(rules[name])}-{digest}.inv" for name in rules}
    folder.mkdir(parents=True, exist_ok=True)
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if missing:
        # Another process looks at the libraries, so that lessons meet the same interpreter with and without this work.
        command = [sys.executable, "-W", "ignore", __file__, *(word for pair in missing.items() for word in pair)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ExtensionError(f"inventories: a library could not be looked at:\n{done.stderr}")
    for name, path in missing.items():
        for old in set(folder.glob(f"{name}-*.inv")) - {path}:
            old.unlink(missing_ok=True)
    return paths


def write(name, path):
    """Write the inventory of one library in Sphinx's format."""
    rules = load_rules()[name]
    lines = []
    for kind, full, place in sorted(set(entries(rules))):
        place = f"{place.removesuffix(full)}$" if place.endswith(full) else place
        lines.append(f"{full} py:{kind} 1 {place} -\n")
    head = HEADER.format(title=rules["title"], version=version_of(rules))
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(head.encode() + zlib.compress("".join(lines).encode(), 9))
    unfinished.replace(path)


def entries(rules):
    """Yield the kind ("class", "function" ...), full name and place of everything public in a library."""
    for module, (page, place) in rules["modules"].items():
        yield "module", module, page
        prefix = "" if module == "builtins" else f"{module}."
        for last, obj in public_names(importlib.import_module(module), prefix, rules):
            yield from describe(obj, prefix + last, place, rules)
    yield from (tuple(entry) for entry in rules.get("extra", []))


def public_names(module, prefix, rules):
    """Yield what a module offers, without its submodules and without what it took from elsewhere."""
    root = module.__name__.partition(".")[0]
    listed = getattr(module, "__all__", None)
    homes = (root,) if listed else (module.__name__, f"_{module.__name__}", f"{root}._C")
    for last in dict.fromkeys([*vars(module), *(listed or ())]):
        obj = module if last.startswith("_") else look_up(module, last)
        if inspect.ismodule(obj):
            continue
        home = getattr(obj, "__module__", None) or module.__name__
        own = any(home == place or home.startswith(f"{place}.") for place in homes)
        own |= inspect.isbuiltin(obj) and home == root
        described = callable(obj) and own and has_doc(obj) and last in (listed or vars(module))
        # Python's own modules document what they list, with a docstring or without.
        described |= callable(obj) and "package" not in rules and last in (listed or ())
        if described or re.fullmatch(rules.get("public", ""), prefix + last):
            yield last, obj


def look_up(module, name):
    """Return an attribute of a module; the module itself when it only announces the name."""
    try:
        return getattr(module, name)
    except (AttributeError, ImportError):
        return module


def describe(obj, name, place, rules):
    """Yield the entries of one public name, and of its members when it is a class."""
    place = place_of(obj, name, place, rules)
    last = name.rpartition(".")[2]
    names = {name, full_name(obj)} if place.endswith(f"#{full_name(obj)}") else {name}  # both are in use
    if place:
        # Signatures name a class by the module that defines it, torch.nn.modules.module.Module.
        home = full_name(obj)
        elsewhere = inspect.isclass(obj) and obj.__module__ != name.rpartition(".")[0]
        public = home.split(".")[0] == name.split(".")[0] and "._" not in home
        everywhere = names | {home} if elsewhere and public else names
        yield from ((kind, known, place) for kind in kinds(obj, last) for known in everywhere)
    # Another name of a class does not repeat its members.
    if not place or not inspect.isclass(obj) or obj.__name__ != last:
        return
    for member, value in members(obj, rules.get("inherit", "$^")):
        kind = "method" if inspect.isroutine(value) or isinstance(value, METHODS) else "attribute"
        follows = f"{place}.{member}" if place.endswith(last) else place
        where = place_of(value, f"{name}.{member}", follows, rules)
        if where:
            yield from ((kind, f"{known}.{member}", where) for known in names)


def place_of(obj, name, place, rules):
    """Return page and anchor of a name, or an empty string when the rules leave it out."""
    place = next((found for pattern, found in rules.get("places", []) if re.fullmatch(pattern, name)), place)
    if not place or ("{" not in place and "#" in place):
        return place
    module, _, last = name.rpartition(".")
    builder = f"{module}.{re.sub('_Weights$', '', last).lower()}"
    filled = place.format(name=name, last=last, home=full_name(obj), builder=builder, lower=last.lower())
    return filled if "#" in filled else f"{filled}#{name}"


def kinds(obj, last):
    """Return the kinds under which readers of a name may look for it."""
    if not inspect.isclass(obj):
        if type(obj).__module__ in ("typing", "types") and not inspect.isroutine(obj):
            return ("class", "data", "attribute")  # what stands in annotations: NDArray, Optional
        return ("function",) if callable(obj) else ("data", "attribute")
    if issubclass(obj, BaseException):
        return ("exception",)
    # no_grad, autocast, enumerate: classes that are called like functions
    return ("class", "function") if last[0].islower() else ("class",)


def members(cls, inherit):
    """Yield the documented members of a class, with those of the bases that match ``inherit``."""
    seen = set()
    for base in cls.__mro__:
        if base is not cls and not re.match(inherit, f"{full_name(cls)} {full_name(base)}"):
            continue
        for member, value in vars(base).items():
            described = has_doc(value) and (inspect.isroutine(value) or hasattr(value, "__get__"))
            if not member.startswith("_") and member not in seen and (described or isinstance(value, cls)):
                seen.add(member)
                yield member, value


def full_name(obj):
    """Return the name under which an object was defined."""
    return f"{getattr(obj, '__module__', None)}.{getattr(obj, '__qualname__', None)}"


def has_doc(obj):
    """Return whether an object carries a docstring."""
    return isinstance(getattr(obj.__func__ if isinstance(obj, METHODS) else obj, "__doc__", None), str)


if __name__ == "__main__":
    for library, file in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            write(library, Path(file))
        except Exception as error:
            error.add_note(f"while looking at {library}")
            raise
