"""Text that is installed already: the docstrings of five libraries, and Python's own help pages."""

import hashlib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np

LIBRARIES = {
    "torch": "autograd distributions fft fx linalg nn nn.functional nn.init nn.utils optim optim.lr_scheduler special",
    "numpy": "fft linalg ma polynomial random testing",
    "sklearn": "cluster datasets decomposition ensemble linear_model metrics model_selection neighbors preprocessing svm",
    "matplotlib": "axes collections colors dates figure patches pyplot text ticker transforms",
    "pandas": "api.extensions api.indexers api.types errors io.formats.style plotting tseries.offsets",
}
"""The libraries, and the modules of each that are read besides the library itself."""


def docstrings(packages: Sequence[str] = tuple(LIBRARIES), *, train: bool | None = None) -> list[tuple[str, int]]:
    """Collect pairs of a docstring and the position of its library in `packages`: to classify, without a download.

    Public functions, classes, and what a class defines itself are read, so an inherited docstring does not come again.
    Libraries also copy docstrings with small changes. So one stays only if it has runs of eight words, and half of them
    have not occurred before, in any library. The texts, and any accuracy you reach, depend on the installed versions.

    Parameters
    ----------
    packages : sequence of str
        Names out of torch, numpy, sklearn, matplotlib and pandas, each once, else a ValueError. They are imported.
    train : bool, optional
        None for all; True for about four fifths of the objects, False for the others. All methods of a class are on the
        same side, as they resemble each other. An object stays on its side when a library's version changes.

    Examples
    --------
    >>> text, label = docstrings(["numpy", "torch"])[-1]
    >>> len(text.split()) >= 8, label
    (True, 1)
    """
    if not packages or set(packages) - set(LIBRARIES) or len(set(packages)) < len(packages):
        raise ValueError(f"packages is {packages}, expected names out of {', '.join(LIBRARIES)}, each once")
    rows, known = [], set[str]()
    for label, package in enumerate(packages):
        for name, text in _walk(package):
            words = text.split()
            runs = {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}
            if runs and len(runs - known) >= len(runs) / 2:
                known |= runs
                if train is None or train == (hashlib.sha256(name.encode()).digest()[0] >= 51):  # of 256: four fifths
                    rows.append((text, label))
    return rows


def topics() -> str:
    """Read Python's help pages on the language: half a million characters of English, to model letter by letter.

    They are what ``help("WITH")`` prints; they change with Python's version, and have its licence (PSF).

    Examples
    --------
    >>> text = topics()
    >>> len(text) > 300_000, "generator" in text
    (True, True)
    """
    from pydoc_data.topics import topics as pages

    return "\n\n".join(pages[name].strip() for name in sorted(pages)) + "\n"


def _walk(package: str) -> Iterator[tuple[str, str]]:
    """Name of an object and a docstring of it or of one of its methods, for all of a package, in a fixed order."""
    seen = set()
    for module_name in [package, *(f"{package}.{name}" for name in LIBRARIES[package].split())]:
        for name, member in _members(importlib.import_module(module_name), package):
            if id(member) not in seen and f"{module_name}.{name}" != "numpy.sinc":  # SciPy replaces that docstring
                seen.add(id(member))
                for text in _texts(member):
                    yield f"{module_name}.{name}", text


def _members(module: ModuleType, package: str) -> Iterator[tuple[str, Any]]:
    space = vars(module)  # not getattr, which would wake up deprecated and experimental names
    for name in sorted(space.get("__all__", [name for name in space if not name.startswith("_")])):
        member = space.get(name)
        home = getattr(member, "__module__", None) or package
        ours = (inspect.isclass(member) or inspect.isroutine(member)) and home.split(".")[0] == package
        if ours or isinstance(member, np.ufunc):  # a ufunc says numpy, whoever made it
            yield name, member


def _texts(member: Any) -> Iterator[str]:
    own = [part for name, part in sorted(vars(member).items()) if name[0] != "_"] if inspect.isclass(member) else []
    for part in [member, *own]:
        documented = part is member or inspect.isroutine(part) or isinstance(part, property)
        if documented and isinstance(part.__doc__, str):
            yield inspect.cleandoc(part.__doc__)
