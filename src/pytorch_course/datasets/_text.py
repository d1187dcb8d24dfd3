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

_RUN = 8
_CHANGING = {"numpy.sinc"}  # SciPy replaces its docstring when somebody imports it


def docstrings(packages: Sequence[str] = tuple(LIBRARIES), *, train: bool | None = None) -> list[tuple[str, int]]:
    """Collect the docstrings of libraries, labelled by library: a text classification that needs no download.

    Public functions, classes, and what a class defines itself are read, so an inherited docstring does not come again.
    Libraries also copy docstrings with small changes. So one stays only if at least half of its runs of eight words have
    not occurred before, in any library. Docstrings of under eight words are left out.

    The texts depend on the installed versions, and so does any accuracy you reach.

    Parameters
    ----------
    packages : sequence of str
        Names out of ``LIBRARIES``, each once. They are imported, which takes seconds.
    train : bool, optional
        None for all; True for about four fifths of the objects, False for the others. All methods of a class are on the
        same side, as they resemble each other. An object stays on its side when a library's version changes.

    Returns
    -------
    list of tuple
        Pairs of a text and its label, the position in `packages`.

    Raises
    ------
    ValueError
        If `packages` is empty or names a library twice or one that is not in ``LIBRARIES``.

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
            runs = {" ".join(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)}
            if runs and len(runs - known) >= len(runs) / 2:
                known |= runs
                if train is None or train != _held_out(name):
                    rows.append((text, label))
    return rows


def topics() -> str:
    """Read Python's help pages on the language: half a million characters of English, to model letter by letter.

    They are what ``help("WITH")`` prints, one page after the other in the order of their names. They change with Python's
    version.

    Returns
    -------
    str
        Licence of the text: PSF, as Python itself.

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
            if id(member) not in seen and f"{module_name}.{name}" not in _CHANGING:
                seen.add(id(member))
                for text in _texts(member):
                    yield f"{module_name}.{name}", text


def _members(module: ModuleType, package: str) -> list[tuple[str, Any]]:
    space = vars(module)  # not getattr, which would wake up deprecated and experimental names
    names = sorted(space.get("__all__", [name for name in space if not name.startswith("_")]))
    return [(name, space[name]) for name in names if name in space and _belongs(space[name], package)]


def _belongs(member: Any, package: str) -> bool:
    if isinstance(member, np.ufunc):  # says numpy, whoever made it
        return True
    home = getattr(member, "__module__", None) or package
    return (inspect.isclass(member) or inspect.isroutine(member)) and home.split(".")[0] == package


def _texts(member: Any) -> Iterator[str]:
    own = [part for name, part in sorted(vars(member).items()) if name[0] != "_"] if inspect.isclass(member) else []
    for part in [member, *own]:
        documented = part is member or inspect.isroutine(part) or isinstance(part, property)
        if documented and isinstance(part.__doc__, str):
            yield inspect.cleandoc(part.__doc__)


def _held_out(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[0] < 51  # of 256: a fifth
