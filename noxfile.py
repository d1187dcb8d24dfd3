"""Every command of the project. ``python -m nox --list`` names them; README.md says when to use which."""

import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"PyTorch in Practice needs Python 3.11 or newer; this is {sys.version.split()[0]}. Start nox with a newer one."
    )

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests", "docs", "lessons", "site"]

ROOT = Path(__file__).parent
BUILD = ROOT / "docs" / "_build"
HTML = BUILD / "html"
ARCHIVE = BUILD / "pytorch-in-practice.zip"
LOCKS = {"docs": ["docs"], "tests": ["tests"], "site": ["site"], "lint": ["lint"], "serve": ["serve"]}
FULL_DISK_BYTES = 50e6
ENVIRONMENT_BYTES, LINKED_BYTES = 7e9, 1e9  # what an environment takes on disk: nearly all of it is torch
UNCHECKED = r"https://doi\.org/"  # publishers turn machines away


def install(session, name):
    """Install one locked requirement file with its hashes, and the package itself."""
    session.env["PYTHONDONTWRITEBYTECODE"] = ""  # compiling torch anew in every process would cost seconds each
    cpu = os.environ.get("BOOK_CPU") == "1"
    lock_file = f"requirements/{name}-cpu.txt" if cpu else f"requirements/{name}.txt"
    if not (ROOT / lock_file).exists():
        session.error(
            f"BOOK_CPU=1 asks for {lock_file}, which is not there: `python -m nox -s lock -- cpu` writes it; "
            "without BOOK_CPU the session installs the usual torch"
        )
    installed = Path(session.virtualenv.location) / ".installed"
    free, needed = shutil.disk_usage(ROOT).free, LINKED_BYTES if torch_is_linked() else ENVIRONMENT_BYTES
    if not installed.exists() and free < needed:
        session.error(
            f"the disk holds {free / 1e9:.1f} GB free, and a new environment with torch needs up to "
            f"{needed / 1e9:.0f} GB: free some space (old environments: .nox/) and run this again"
        )
    backend = ["--torch-backend", "cpu"] if cpu else []
    session.install(*backend, "--require-hashes", "-r", lock_file)
    if name != "site":
        session.install("--no-deps", "--no-build-isolation", "-e", ".")
    installed.touch()


def torch_is_linked():
    """Return whether an environment shares torch with uv's cache, as a new one then will."""
    places = ("*/lib/python*/site-packages/torch/version.py", "*/Lib/site-packages/torch/version.py")
    return any(file.stat().st_nlink > 1 for place in places for file in (ROOT / ".nox").glob(place))


def build(session, only):
    """Build the book; ``only`` names one lesson (tensors/07) or chapter, all others keep what they have."""
    proof = HTML / "lessons.json"
    proof.unlink(missing_ok=True)
    ARCHIVE.unlink(missing_ok=True)
    started = time.monotonic()
    try:
        done = session.run(
            *("python", "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q"),
            *("-d", BUILD / "doctrees", ROOT / "docs", HTML),
            env={"BOOK_ONLY": only},
        )
    except nox.command.CommandFailed:
        if shutil.disk_usage(ROOT).free < FULL_DISK_BYTES:
            session.error("the disk is full: free some space and run this again; what was built so far is kept")
        session.error("the book is not built: the messages above name each page and what is wrong with it")
    if done is None:  # nox --install-only
        return
    lessons = json.loads(proof.read_text())["lessons"]
    ran = [lesson for lesson in lessons if lesson["ran_now"]]
    session.log(f"book     {(HTML / 'index.html').as_uri()}")
    if not only:
        pack(HTML, ARCHIVE)
        session.log(f"offline  {ARCHIVE} ({ARCHIVE.stat().st_size / 1e6:.1f} MB): the book with its downloads")
    session.log(f"time     {time.monotonic() - started:.0f} s")
    session.log(
        f"lessons  {len(lessons)} in the book, {len(ran)} run in this build, the others unchanged since their last run"
    )


def pack(folder, archive):
    """Write the files of a folder that a reader can reach into an archive: the same bytes for the same files."""
    part, unread = archive.with_suffix(".part"), ("_sources", "objects.inv", "sitemap.xml")
    with zipfile.ZipFile(part, "w") as book:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if path.is_file() and name.parts[0][0] != "." and name.parts[0] not in unread:
                entry = zipfile.ZipInfo(f"{archive.stem}/{name.as_posix()}")  # no date but ZIP's first, 1980
                entry.external_attr = 0o644 << 16
                book.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    part.replace(archive)


@nox.session
def docs(session):
    """Build the whole book; ``-- tensors/07`` builds one lesson and leaves the others as they are."""
    install(session, "docs")
    build(session, " ".join(session.posargs))


@nox.session
def tests(session):
    """Check the package and the extensions: everything that needs no lesson and no browser. Arguments go to pytest."""
    install(session, "tests")
    whole = ["--numprocesses=2", "--dist=loadscope", "--no-loadscope-reorder"]  # the tests of a module share its book
    whole += ["--cov", "--cov-report=term", "--cov-fail-under=95"]
    ignored = ("--ignore=tests/site", "--ignore=tests/lessons")
    session.run("pytest", *ignored, *(session.posargs or whole), env={"OMP_NUM_THREADS": "1"})


@nox.session
def lessons(session):
    """Check every lesson: form, run, exercises, page; ``-- tensors/07`` picks some, ``--notebooks`` runs all notebooks, too."""
    install(session, "tests")
    only = [name if name.startswith("-") else f"--lesson={name}" for name in session.posargs]
    two = ["--numprocesses=2", "--dist=worksteal"] if only in ([], ["--notebooks"]) else []
    session.run("pytest", "tests/lessons", *two, *only, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lowest(session):
    """Run package tests and lessons on the oldest versions that pyproject.toml allows (weekly in the workflow)."""
    session.install("--resolution", "lowest-direct", "-e", ".[lessons]")
    session.install("-e", ".[tests]")  # the newest tools, and what is installed already stays
    two = ["--numprocesses=2", "--dist=worksteal"]
    session.run("pytest", "tests/package", "tests/lessons", *(session.posargs or two), env={"OMP_NUM_THREADS": "1"})


@nox.session
def site(session):
    """Check the built book in headless Chromium: accessibility, links, search, requests."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        session.error("no Chromium found: install it (Debian: apt-get install chromium) or name it in CHROMIUM=/path")
    if not (HTML / "lessons.json").exists():
        session.error("no built book to check: run `python -m nox -s docs` first")
    install(session, "site")
    session.run("pytest", "tests/site", *session.posargs, env={"CHROMIUM": browser})


@nox.session
def lint(session):
    """Check style and types."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def serve(session):
    """Build the book, open it in a browser and rebuild what changes."""
    install(session, "serve")
    session.run(
        *("sphinx-autobuild", "--host", "127.0.0.1", "--port", "0", "--open-browser", "-n"),
        *("--watch", "gallery", "--watch", "src", "--ignore", "docs/lessons/*", "--ignore", "docs/_build/*"),
        *("-d", BUILD / "doctrees", ROOT / "docs", HTML),
        env={"BOOK_ONLY": " ".join(session.posargs)},
    )


@nox.session
def links(session):
    """Ask every address in the book whether it answers; needs a network (weekly in the workflow)."""
    install(session, "docs")
    session.run(
        *("python", "-m", "sphinx", "-b", "linkcheck", "-q", "-D", f"linkcheck_ignore={UNCHECKED}"),
        *("-D", "linkcheck_timeout=30", "-D", "linkcheck_retries=3"),
        *("-d", BUILD / "doctrees", ROOT / "docs", BUILD / "links"),
    )


@nox.session(venv_backend="none")
def lock(session):
    """Write requirements/*.txt anew: newest versions, with hashes, without addresses.

    ``-- cpu`` writes requirements/*-cpu.txt instead: the versions of requirements/*.txt, torch without CUDA.
    """
    cpu = session.posargs == ["cpu"]
    if session.posargs and not cpu:
        session.error(f"lock takes no argument but cpu, not {' '.join(session.posargs)}")
    for name, extras in LOCKS.items():
        usual = f"requirements/{name}.txt"
        try:
            session.run(
                *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
                *("--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-emit-package", "pytorch-course"),
                *("--custom-compile-command", f"python -m nox -s lock{' -- cpu' if cpu else ''}"),
                *(("--torch-backend", "cpu", "--constraint", usual) if cpu else ("--upgrade",)),
                *(part for extra in extras for part in ("--extra", extra)),
                *("pyproject.toml", "--output-file", f"requirements/{name}-cpu.txt" if cpu else usual),
                external=True,
            )
        except nox.command.CommandFailed:
            where = "the index of torch's CPU builds, which only uv knows the address of," if cpu else "a package index"
            session.error(
                f"the lock of {name} is as it was: see uv's message above; it has to reach {where} to write one"
            )


@nox.session
def benchmarks(session):
    """Measure what the book claims about speed; ``-- loop_overhead`` picks one. ``mnist_99`` takes an hour: only if picked."""
    install(session, "tests")
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        if path.stem in (session.posargs or {path.stem} - {"mnist_99"}):
            session.run("python", path)
