"""Fingerprints: what the output of a lesson or of a chapter was made from, and whether that is still what is there.

Nothing is guessed from imports. The run itself notes which files of the project were opened, by it and by every process it
started (`guard.sitecustomize.watch`): modules, however they are imported, the style sheet, data. What lies outside the
project is known by the versions of all installed packages.
"""

import hashlib
import importlib.util
import json
import platform
import re
from importlib.metadata import distributions
from pathlib import Path

from sphinx_gallery.py_source_parser import split_code_and_text_blocks

HERE = Path(__file__).parent
RUNNERS = (Path(__file__), *(HERE / f"{name}.py" for name in ("harness", "runner", "pages")), *HERE.glob("guard/*.py"))
ELSEWHERE = ("examples_dirs", "gallery_dirs", "titles")  # settings that shape none


def digest(*parts):
    """Return the SHA-256 of texts or bytes, none of which can pass for the end of another."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()


def environment(config):
    """Return the fingerprint of what every run depends on: interpreter, packages, settings and this machinery."""
    packages = sorted({f"{package.name} {package.version}" for package in distributions()})
    settings = {name: value for name, value in config.sphinx_gallery_conf.items() if name not in ELSEWHERE}
    settings = json.dumps(settings, sort_keys=True, default=str)
    machinery = [path.read_bytes() for path in sorted(RUNNERS)]
    return digest(platform.python_version(), *packages, settings, *machinery)


def cells(path):
    """Return the cells of a script as Sphinx-Gallery sees them."""
    return split_code_and_text_blocks(str(path))[1]


def code_of_lesson(blocks):
    """Return the fingerprint of a script's code; where it stands in the file and what the text says does not count."""
    short = "short" if len(blocks) < 3 else "long"  # Sphinx-Gallery lays out a script of one cell in another way
    return digest(short, *(block.content for block in blocks if block.type == "code"))


def chapters(source):
    """Return every executed MyST page of a folder, and the code of its cells."""
    found = {}
    for path in (*source.glob("*.md"), *source.glob("*/*.md")):
        code = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        if code:
            code = [re.sub(r"\A(---\n.*?---\n|(:.*\n)*)", "", cell, flags=re.S) for cell in code]
            found[path.relative_to(source).with_suffix("").as_posix()] = code
    return found


def notes(journal, kind):
    """Return what a run noted of one kind, "opened" or "refused"."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]


def files_read(journal, root):
    """Return every file of the project that a run opened, with its fingerprint."""
    paths = [Path(root, name) for name in notes(journal, "opened")]
    paths = {Path(importlib.util.source_from_cache(path)) if path.suffix == ".pyc" else path for path in paths}
    return {path.relative_to(root).as_posix(): file(path) for path in sorted(paths) if path.is_file()}


def file(path):
    """Return the fingerprint of a file, or None when there is no such file."""
    return digest(path.read_bytes()) if path.is_file() else None


def is_current(made, root):
    """Return whether each file that a run opened is as it was."""
    return all(file(Path(root, name)) == known for name, known in made["files"].items())
