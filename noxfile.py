"""Every command of the project. ``python -m nox --list`` names them; README.md says when to use which."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"PyTorch in Practice needs Python 3.11 or newer; this is {sys.version.split()[0]}. Start nox with a newer one."
    )

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests", "docs", "site"]

ROOT = Path(__file__).parent
BUILD = ROOT / "docs" / "_build"
HTML = BUILD / "html"
LOCKS = {"docs": ["docs"], "tests": ["tests"], "site": ["site"], "lint": ["lint"], "serve": ["serve"]}
FULL_DISK_BYTES = 50e6
ENVIRONMENT_BYTES = 7e9  # what one environment takes on disk, nearly all of it torch


def install(session, name):
    """Install one locked requirement file with its hashes, and the package itself."""
    session.env["PYTHONDONTWRITEBYTECODE"] = ""  # compiling torch anew in every process would cost seconds each
    folder = Path(session.virtualenv.location)
    free = shutil.disk_usage(ROOT).free
    fresh = not (folder / ".installed").exists()
    if fresh and name != "site" and free < ENVIRONMENT_BYTES:
        session.error(
            f"the disk holds {free / 1e9:.1f} GB free, and a new environment with torch needs up to "
            f"{ENVIRONMENT_BYTES / 1e9:.0f} GB: free some space (old environments: .nox/) and run this again"
        )
    session.install("--require-hashes", "-r", f"requirements/{name}.txt")
    if name != "site":
        session.install("--no-deps", "--no-build-isolation", "-e", ".")
    (folder / ".installed").touch()


def build(session, only):
    """Build the book; ``only`` names one lesson (tensors/07) or chapter, all others keep what they have."""
    proof = HTML / "lessons.json"
    proof.unlink(missing_ok=True)
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
    session.log(f"time     {time.monotonic() - started:.0f} s")
    session.log(
        f"lessons  {len(lessons)} in the book, {len(ran)} run in this build, the others unchanged since their last run"
    )


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
        *("--ignore", "docs/api/_uses/*", "-d", BUILD / "doctrees", ROOT / "docs", HTML),
        env={"BOOK_ONLY": " ".join(session.posargs)},
    )


@nox.session(venv_backend="none")
def lock(session):
    """Write requirements/*.txt anew: newest versions, with hashes, without addresses."""
    for name, extras in LOCKS.items():
        session.run(
            *(
                sys.executable,
                "-m",
                "uv",
                "pip",
                "compile",
                "--quiet",
                "--universal",
                "--upgrade",
                "--python-version",
                "3.11",
            ),
            *("--generate-hashes", "--no-emit-index-url", "--no-annotate", "--no-emit-package", "pytorch-course"),
            *("--custom-compile-command", "python -m nox -s lock"),
            *(part for extra in extras for part in ("--extra", extra)),
            *("pyproject.toml", "--output-file", f"requirements/{name}.txt"),
            external=True,
        )


@nox.session
def benchmarks(session):
    """Measure what the book claims about speed; ``-- loop_overhead`` picks one."""
    install(session, "tests")
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        if not session.posargs or path.stem in session.posargs:
            session.run("python", path)
