"""Run one lesson in a process of its own, see what it leaves behind, and write down that it ran.

`run` is what the process does. Sphinx-Gallery executes the cells and calls `scrape` after each.
The record lies beside the lesson's generated page as ``NN_name.record.json``.
"""

import ast
import contextlib
import ctypes
import importlib.util
import io
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pages
import psutil
import sources
from course import MARK, read_lesson, stub
from guard import sitecustomize as guard
from guard.kinds import kinds_of
from sphinx_gallery.gen_rst import generate_file_rst
from sphinx_gallery.scrapers import matplotlib_scraper

SENTINEL = 20_011_003  # generators start here; a lesson that draws from this stream never set a seed
MANY_PIXELS = 20_000  # a picture with more is stored as WebP
STRICT = "PYTORCH_COURSE_STRICT"  # where it is set, a wrong answer to an exercise raises
LONGEST_SIDE = 16_383  # pixels, of a WebP
LONGEST_OUTPUT = 100_000  # characters on the page, of one cell
PATIENCE = 2.0  # seconds that a lesson's processes and threads have to end after its last line

KERNEL = """
c.IPKernelApp.log_level = "ERROR"  # the kernel warns that it talks over the loopback in plain text
c.InlineBackend.figure_formats = {"retina"}
c.InteractiveShellApp.exec_lines = ["__import__('sitecustomize').be_strict()", "__import__('kinds').watch_kernel()"]
"""

_run = {}


def setup(app):
    """Guard the build and every process that it starts, and configure the kernels of chapters."""
    build = Path(app.outdir).parent
    profile = build / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL)
    kinds = build / "kinds"
    kinds.mkdir(exist_ok=True)
    os.environ |= {
        "OMP_NUM_THREADS": "1",  # before any library is loaded
        "IPYTHONDIR": str(profile.parent),
        "BOOK_KINDS": str(kinds),
        "BOOK_GUARD": "network",
        STRICT: "1",
        "BOOK_ROOT": str(Path(app.srcdir).parent),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(guard.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
    }
    guard.refuse_network()
    app.connect("env-updated", ask_for_links)
    return {"parallel_read_safe": True}


def ask_for_links(app, env):
    """Let Sphinx's link check, which begins now that everything has run, leave this machine."""
    sys._book_guarded = app.builder.name != "linkcheck"


def run(lesson, target, folder, conf, line, made):
    """Run a lesson in an empty folder, write its page and its record, and end this process.

    ``line`` is shared with the parent, who reads in it where the last finished cell began; ``made`` goes into the record.
    """
    script, journal = folder / "empty" / lesson.name, folder / "journal"
    shutil.copy(lesson, script)
    _settle(folder / "log", journal)
    blocks = sources.cells(script)
    _run.update(line=line, cells=0, checks=0, kinds=[], exercises=[], problems=[], cpu=sum(os.times()[:4]))
    _run["started"] = _run["ended"] = time.perf_counter()
    own = {"plot_gallery": True, "filename_pattern": "", "image_srcset": []}
    own |= {"reset_modules": (), "image_scrapers": ("harness.scrape",)}
    try:
        *_, result = generate_file_rst(script.name, target.parent, script.parent, {**conf, **own})
    except BaseException as error:  # SystemExit too
        _run["problems"].append(f"{place(blocks, line.value)} ended the lesson with {type(error).__name__}: {error}")
    else:
        if "formatted_exception" in result:
            trace = result["formatted_exception"].replace(str(script), str(lesson))
            _run["problems"].append(f"{place(blocks, line.value)} raised an exception\n{trace}")
        made |= _made(target, blocks)
        if not _run["problems"]:
            _run["problems"] += _stub_problems(script)
        number, size = read_lesson(script).thumbnail, conf["thumbnail_size"]
        _run["problems"] += pages.choose_thumbnail(target, number, size)
    new = sorted(path.name for path in script.parent.iterdir() if path.name not in (script.name, "__pycache__"))
    if new:
        _run["problems"].append(f"wrote files beside the lesson: {', '.join(new)}; use a temporary folder")
    _run["problems"] += [f"asked for the network: {line}" for line in sources.notes(journal, "refused")]
    _run["problems"] += [*_seed_problems(), *_thread_problems(), *_process_problems()]
    facts = {name: _run[name] for name in ("cells", "checks", "problems")}
    facts["seconds"] = round(_run["ended"] - _run["started"], 2)
    facts["cpu"] = round(sum(os.times()[:4]) - _run["cpu"], 2)
    made["files"] = sources.files_read(journal, os.environ["BOOK_ROOT"])
    target.with_suffix(".kinds.json").write_text(json.dumps(_run["kinds"]) + "\n", encoding="utf-8")
    pages.write(target.with_suffix(".record.json"), blank() | facts | made)
    os._exit(0)  # whatever threads there still are


def blank():
    """Return the record of a lesson that came to nothing."""
    return {
        "seconds": 0.0,
        "cpu": 0.0,
        "cells": 0,
        "checks": 0,
        "problems": [],
        "python": sys.version.split()[0],
        "torch": getattr(sys.modules.get("torch"), "__version__", "").split("+")[0],
        "at": time.time(),
    }


def place(blocks, line):
    """Name the cell of code that follows a line."""
    for number, block in enumerate((block for block in blocks if block.type == "code"), start=1):
        if block.lineno > line:
            return f"cell {number} (line {block.lineno})"
    return "what was left of the lesson after its last cell"


def _settle(log, journal):
    """Make this process a place where a lesson starts as in a new interpreter, and from which nothing gets out."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the build
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: a process that was left alone is seen below
    multiprocessing.current_process().name = "MainProcess"
    logging.getLogger("sphinx").handlers[:] = [logging.NullHandler()]  # the parent says what is wrong
    os.environ["BOOK_JOURNAL"] = str(journal)
    guard.watch()
    _set_style()
    _set_seeds()
    guard.be_strict()


def count_checks(code):
    """Count the assertions that a cell itself executes: not those inside functions it only defines."""
    queue, checks = list(ast.parse(code).body), 0
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
        checks += isinstance(node, ast.Assert) or name == "expect" or name.startswith("assert_")
        queue += ast.iter_child_nodes(node)
    return checks


def scrape(block, block_vars, gallery_conf):
    """Count a cell that has just run, and save its figures."""
    _run["ended"] = time.perf_counter()
    _run["globals"] = block_vars["example_globals"]
    if MARK in block.content or _run["exercises"]:
        _run["exercises"].append(block)
    _run["kinds"].append(kinds_of(block_vars["example_globals"]))
    if Path.cwd() != Path(block_vars["src_file"]).parent:  # where Sphinx-Gallery starts each cell, and no notebook does
        _run["problems"].append("changed the working directory and did not put it back")
    rst = _figures(block, block_vars, gallery_conf)
    if block_vars["execute_script"]:
        _run["line"].value = block.lineno
        _run["cells"] += bool(ast.parse(block.content).body)
        _run["checks"] += count_checks(block.content)
    return rst


def _figures(block, block_vars, gallery_conf):
    """Save each figure once, with twice the pixels that it takes on the page, where its width is set."""
    import matplotlib.pyplot as plt
    from PIL import Image

    figures = [plt.figure(number) for number in plt.get_fignums()]
    dpi = 2 * max((figure.dpi for figure in figures), default=0)
    for figure in figures:
        width, height = map(round, figure.get_size_inches() * dpi)
        if max(width, height) > LONGEST_SIDE:
            _run["problems"].append(
                f"the cell at line {block.lineno} draws a figure of {width:,} x {height:,} pixels, "
                f"and no side may have more than {LONGEST_SIDE:,}"
            )
            plt.close("all")
            return ""
    pixels = [image.get_array().size for figure in figures for ax in figure.axes for image in ax.images]
    # As PNG, a page of photographs would weigh ten megabytes.
    webp = {"format": "webp", "pil_kwargs": {"quality": 90}} if max(pixels, default=0) > MANY_PIXELS else {}
    rst = matplotlib_scraper(block, block_vars, gallery_conf, dpi=dpi, **webp)

    def with_width(match):
        with Image.open(Path(gallery_conf["src_dir"], match[1])) as picture:
            return f".. image:: /{match[1]}\n{match[2]}:width: {picture.width // 2}px\n"

    return re.sub(r"\.\. image-sg:: /(.*)\n((?:.*\n)*?\s*):srcset: .*\n", with_width, rst)


def _stub_problems(script):
    """Run the exercises as the reader first does, without answers: only `expect` may meet what is not written yet."""
    os.environ.pop(STRICT, None)
    try:
        for block in _run["exercises"]:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(stub(block.content), str(script), "exec"), _run["globals"])
    except Exception as error:
        how = f"{type(error).__name__}: {error}".rstrip(": ")
        return [
            f"the cell at line {block.lineno} stops the script of a reader who has not answered yet ({how}); "
            "call what is still a stub inside expect: expect(lambda: ..., right)"
        ]
    finally:
        os.environ[STRICT] = "1"
        sys.modules["matplotlib.pyplot"].close("all")
    return []


def _made(target, blocks):
    """Return what a later page of the same code takes from this run; cut an output that would make a page endless."""
    page = target.with_suffix(".rst")
    head, parts, foot = pages.pieces(page.read_text(encoding="utf-8"), blocks)
    outputs, room = [], LONGEST_OUTPUT
    for number, part in enumerate((part for block, part in parts if block.type == "code"), start=1):
        if len(part) > room:
            _run["problems"].append(
                f"cell {number} makes the outputs longer than {LONGEST_OUTPUT:,} characters, by {len(part) - room:,}"
            )
            part = part[:room].rpartition("\n")[0] + "\n\n"
        room -= len(part)
        outputs.append(part)
    page.chmod(0o644)
    page.write_text(pages.joined(head, parts, foot, outputs), encoding="utf-8")
    return {
        "text": sources.file(target),
        "outputs": outputs,
        "shows_lines": any(target.name in output for output in outputs),
    }


def _set_style():
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcdefaults()
    mpl.use("agg")
    if importlib.util.find_spec("pytorch_course"):
        mpl.style.use("pytorch_course.book")


def _set_seeds():
    """Start every generator at the sentinel; one draw makes Python's and NumPy's compute the state of that seed."""
    random.seed(SENTINEL)
    random.random()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SENTINEL)
        sys.modules["numpy"].random.random()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(SENTINEL)


def _draws():
    """Return, per generator, its seed's mark and its position in the stream of that seed."""
    marks = {"random": (random.getstate()[1][:-1], random.getstate()[1][-1])}
    if "numpy" in sys.modules:
        _, key, position, *_ = sys.modules["numpy"].random.get_state()
        marks["numpy.random"] = (key.tobytes(), position)
    if "torch" in sys.modules:
        generator = sys.modules["torch"].default_generator
        marks["torch"] = (generator.initial_seed(), generator.get_state().numpy().tobytes())
    return marks


def _seed_problems():
    now = _draws()
    _set_seeds()
    start = _draws()
    return [
        f"drew random numbers from {name} without setting a seed first"
        for name, (mark, position) in now.items()
        if name in start and mark == start[name][0] and position != start[name][1]
    ]


def _thread_problems():
    """Name the threads that the lesson left; those of libraries are of their own classes."""
    end = time.monotonic() + PATIENCE
    left = [thread for thread in threading.enumerate() if type(thread) in (threading.Thread, threading.Timer)]
    for thread in left:
        thread.join(max(0.0, end - time.monotonic()))
    return [f"left a thread running: {thread.name}" for thread in left if thread.is_alive()]


def _command(process):
    """Return the command line of a process, or nothing if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # a zombie too: its parent ended before it
        return ""


def _process_problems():
    left = {child: _command(child) for child in psutil.Process().children(recursive=True)}
    left = {child: command for child, command in left.items() if command and "resource_tracker" not in command}
    _, alive = psutil.wait_procs(left, timeout=PATIENCE if left else 0)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
            child.wait(PATIENCE)
    return [f"left a process running: {left[child][:80]}" for child in alive]
