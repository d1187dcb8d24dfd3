"""The package stays what it is: small modules in layers that import only from above, and nothing dangerous."""

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "pytorch_course"
MODULES = sorted(SRC.rglob("*.py"))
LAYERS = (
    {"_draw_memory", "_draw_graph", "tensors", "autograd", "rng", "checkpoint", "_worker", "distributed", "exercises"},
    {"data", "datasets", "models"},
    {"state"},
    {"train", "evaluate"},
    {"plots"},
)
PRIVATE = {
    "tensors": {"_draw_memory"},
    "autograd": {"_draw_graph"},
    "_draw_graph": {"_draw_memory"},
    "distributed": {"_worker"},
}
HEAVY = {
    "fontTools",
    "matplotlib",
    "pandas",
    "pooch",
    "pypdfium2",
    "reportlab",
    "sklearn",
    "torchmetrics",
    "torchvision",
}
LINES = 5000


def layer_of(name):
    """Return the layer of a module by the first part of its name."""
    return next(number for number, layer in enumerate(LAYERS) if name in layer)


def imports(path, *, everywhere):
    """Yield the full names that a file imports, at the top of the module or everywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree) if everywhere else tree.body:
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path):
    """Return the first part of a module's name inside the package."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent != SRC or path.stem != "__init__"], ids=str)
def test_layers(path):
    """A module imports from its own package folder and from layers above its own, nothing else of the package."""
    own = name_of(path)
    for full in imports(path, everywhere=True):
        if full.startswith("pytorch_course."):
            other = full.split(".")[1]
            below = layer_of(other) < layer_of(own)
            inside = own == other == "datasets" or other in PRIVATE.get(own, ())
            assert below or inside, f"{own} imports {full}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_libraries_wait_until_they_are_needed(path):
    """Importing a module of the package imports no library that only some of its functions need."""
    assert not {full.split(".")[0] for full in imports(path, everywhere=False)} & HEAVY


def test_the_package_is_small():
    """What no lesson needs goes."""
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES) <= LINES


def test_no_private_names_of_other_libraries():
    """Every release of a library may change what begins with an underscore."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(torch|dist|np|numpy|nn|F|plt|mpl|matplotlib)(\.\w+)*\._[a-z]", text), path


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_everything_public_is_documented(path):
    """Public modules, classes, functions and methods have docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), path
    places = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))]
    for place in places:
        for node in place.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                overload = any(ast.unparse(item) == "overload" for item in node.decorator_list)
                assert overload or ast.get_docstring(node), f"{path.name}: {node.name}"


def test_no_code_from_files():
    """Nothing in the package reads a pickle that could run code, or teaches torch to."""
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"weights_only\s*=\s*False|add_safe_globals", text), path


def test_no_re_exports():
    """``import pytorch_course`` imports nothing; data sets alone come from one place."""
    for path in MODULES:
        if path.name == "__init__.py" and path.parent.name != "datasets":
            assert not list(imports(path, everywhere=True)), path
