"""The package stays what it is: small modules in layers that import only from above, and nothing dangerous."""

import ast
import re
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "pytorch_course"
MODULES = sorted(SRC.rglob("*.py"))
LAYERS = (
    {"tensors", "autograd", "convolution", "rng", "checkpoint", "distributed", "_agent", "_worker"},
    {"data", "datasets", "models"},
    {"train", "evaluate"},
    {"plots", "export"},
)
HEAVY = {"matplotlib", "onnxruntime", "openvino", "pandas", "pypdfium2", "sklearn", "torchmetrics", "torchvision"}


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
            private = {own, other} <= {"distributed", "_agent", "_worker"}
            inside = own == other == "datasets"
            same_step = own == "datasets" and other in {"rng"}
            assert below or private or inside or same_step, f"{own} imports {full}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_heavy_libraries_wait_until_they_are_needed(path):
    """Importing a module of the package imports no library that only some of its functions need."""
    assert not {full.split(".")[0] for full in imports(path, everywhere=False)} & HEAVY


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_functions_fit_a_screen(path):
    """No function has more than 40 lines of code; the docstring does not count."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{path.name}: {node.name} has {lines} lines"


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
    """``import pytorch_course`` imports nothing."""
    for path in MODULES:
        if path.name == "__init__.py":
            assert not list(imports(path, everywhere=True)), path
