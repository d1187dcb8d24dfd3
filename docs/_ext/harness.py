"""Run each lesson in a clean state, see what it leaves behind, and write down that it ran.

Sphinx-Gallery calls `reset` before and after every lesson and `scrape` after every code cell (both are named in conf.py).
The record lies beside the lesson's generated page as ``NN_name.record.json``.
"""

import ast
import contextlib
import ctypes
import importlib.util
import io
import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import psutil
from course import MARK, Sources, read_lesson, stub
from guard import sitecustomize as guard
from guard.kinds import kinds_of
from sphinx_gallery.scrapers import matplotlib_scraper
from sphinx_gallery.utils import scale_image

SENTINEL = 20_011_003  # generators start here; a lesson that draws from this stream never set a seed
MANY_PIXELS = 20_000  # a picture with more is stored as WebP
STRICT = "PYTORCH_COURSE_STRICT"  # where it is set, a wrong answer to an exercise raises
PATIENCE = 2.0  # seconds that a lesson's processes have to end after its last line

KERNEL = """
c.IPKernelApp.log_level = "ERROR"  # the kernel warns that it talks over the loopback in plain text
c.InlineBackend.figure_formats = {"retina"}
c.InteractiveShellApp.exec_lines = ["__import__('sitecustomize').be_strict()", "__import__('kinds').watch_kernel()"]
"""

_run = {}


def setup(app):
    """Guard the build and every process that it starts, and configure the kernels of chapters."""
    profile = Path(app.outdir).parent / "ipython" / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text(KERNEL)
    os.environ["IPYTHONDIR"] = str(profile.parent)
    journal = Path(app.outdir).parent / "refused.txt"
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.write_text("")
    os.environ["BOOK_REFUSED"] = str(journal)
    kinds = Path(app.outdir).parent / "kinds"
    kinds.mkdir(exist_ok=True)
    os.environ["BOOK_KINDS"] = str(kinds)
    os.environ["BOOK_GUARD"] = "network"
    os.environ[STRICT] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(guard.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    guard.refuse_network()
    return {"parallel_read_safe": True}


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


def global_state():
    """Return everything that one lesson could change for the next."""
    # Without what libraries set for themselves when they are imported: scikit-learn for OpenMP, torch for its compiler.
    own = {name: value for name, value in os.environ.items() if not name.startswith(("KMP_", "TORCHINDUCTOR_"))}
    state = {"working directory": str(Path.cwd()), "environment": own}
    if "matplotlib" in sys.modules:
        state["Matplotlib's rcParams"] = dict(sys.modules["matplotlib"].rcParams)
    if "numpy" in sys.modules:
        state["NumPy's error settings"] = sys.modules["numpy"].geterr()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        state |= {
            "default dtype": torch.get_default_dtype(),
            "default device": str(torch.get_default_device()),
            "number of threads": torch.get_num_threads(),
            "gradient mode": torch.is_grad_enabled(),
            "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        }
    return state


def reset(gallery_conf, fname, when):
    """Put every global setting to its start (before), or report what the lesson left behind (after)."""
    if when == "before":
        if importlib.util.find_spec("torch") and not os.environ.get("BOOK_WITHOUT_TORCH"):
            import torch

            torch.set_num_threads(1)
        _set_style()
        _set_seeds()
        _adopt_orphans()
        _run.clear()
        _run.update(
            cells=0,
            checks=0,
            kinds=[],
            exercises=[],
            problems=[],
            state=global_state(),
            children=_children(),
            refused=_refused(),
            target=None,
        )
        _run["files"] = _files(gallery_conf)
        _run["filters"] = warnings.filters[:]
        guard.be_strict()
        _run["started"] = _run["ended"] = time.perf_counter()
        return
    if _run["target"] is not None and not _run["problems"]:
        _run["problems"] += [*_stub_problems(), *_thumbnail_problems(gallery_conf["thumbnail_size"])]
    warnings.filters[:] = _run["filters"]
    new = sorted(path.name for path in _files(gallery_conf) - _run["files"])
    if new:
        _run["problems"].append(f"wrote files beside the lesson: {', '.join(new)}; use a temporary folder")
    _run["problems"] += [*_state_problems(), *_seed_problems(), *_process_problems(), *_network_problems()]
    if _run["target"] is not None:
        _write_record(_run["target"])


def scrape(block, block_vars, gallery_conf):
    """Count a cell that has just run, and save its figures."""
    _run["ended"] = time.perf_counter()
    target = Path(block_vars["target_file"])
    _run.update(target=target, source=Path(block_vars["src_file"]))
    _run["globals"] = block_vars["example_globals"]
    if MARK in block.content or _run["exercises"]:
        _run["exercises"].append(block)
    _run["kinds"].append(kinds_of(block_vars["example_globals"]))
    if Path.cwd() != _run["source"].resolve().parent:  # where Sphinx-Gallery starts each cell
        _run["problems"].append("changed the working directory and did not put it back")
    if not block_vars["execute_script"]:
        _run["problems"].append(f"cell {_run['cells'] + 1} (line {block.lineno}) raised an exception")
    elif ast.parse(block.content).body:
        _run["cells"] += 1
        _run["checks"] += count_checks(block.content)
    return matplotlib_scraper(block, block_vars, gallery_conf, **_format())


def _format():
    """Choose how this cell's figures are stored: as PNG, a page of photographs would weigh ten megabytes."""
    import matplotlib.pyplot as plt

    figures = [plt.figure(number) for number in plt.get_fignums()]
    pixels = [image.get_array().size for figure in figures for ax in figure.axes for image in ax.images]
    return {"format": "webp", "pil_kwargs": {"quality": 90}} if max(pixels, default=0) > MANY_PIXELS else {}


def _stub_problems():
    """Run the exercises as the reader first does, without answers: only `expect` may meet what is not written yet."""
    os.environ.pop(STRICT, None)
    try:
        for block in _run["exercises"]:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(stub(block.content), str(_run["source"]), "exec"), _run["globals"])
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


def _thumbnail_problems(size):
    """Put the figure that the lesson chose for lists in the place of the first."""
    number = read_lesson(_run["source"]).thumbnail
    images, stem = _run["target"].parent / "images", f"sphx_glr_{_run['target'].stem}"
    figure = next(images.glob(f"{stem}_{number:03}.*"), None)
    if number == 1:
        return []
    if figure is None:
        return [f"draws no figure {number}, which ':thumbnail:' names"]
    for first in images.glob(f"thumb/{stem}_thumb.*"):
        first.unlink()
    scale_image(figure, images / "thumb" / f"{stem}_thumb{figure.suffix}", *size)
    return []


def _write_record(target):
    source = _run["source"]
    record = {
        "lesson": f"{target.parent.name}/{target.stem}",
        "seconds": round(_run["ended"] - _run["started"], 2),
        "cells": _run["cells"],
        "checks": _run["checks"],
        "problems": _run["problems"],
        "python": sys.version.split()[0],
        "torch": getattr(sys.modules.get("torch"), "__version__", "").split("+")[0],
        "key": Sources(source.parents[2] / "src").key(source.read_text(encoding="utf-8")),
        "at": time.time(),
    }
    target.with_suffix(".record.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    target.with_suffix(".kinds.json").write_text(json.dumps(_run["kinds"]) + "\n", encoding="utf-8")


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


def _state_problems():
    state = global_state()
    changed = []
    for name, value in _run["state"].items():
        if state[name] == value:
            continue
        if isinstance(value, dict):
            keys = sorted(key for key in value.keys() | state[name].keys() if value.get(key) != state[name].get(key))
            name = f"{name} ({', '.join(keys)})"
        changed.append(f"changed the {name} and did not put it back")
    _restore(_run["state"])
    return changed


def _restore(state):
    os.chdir(state["working directory"])
    for name in global_state()["environment"].keys() - state["environment"].keys():
        del os.environ[name]
    os.environ.update(state["environment"])
    if "default dtype" in state:
        torch = sys.modules["torch"]
        torch.set_default_dtype(state["default dtype"])
        torch.set_default_device(None if state["default device"] == "cpu" else state["default device"])
        torch.set_num_threads(state["number of threads"])
        torch.set_grad_enabled(state["gradient mode"])
        torch.use_deterministic_algorithms(state["deterministic algorithms"])


def _adopt_orphans():
    """Make this process the parent of any orphan below it, so that a daemonised process is seen too (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def _process_problems():
    from multiprocessing import resource_tracker

    keep = {*_run["children"], resource_tracker._resource_tracker._pid}
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in keep]
    _, alive = psutil.wait_procs(left, timeout=PATIENCE if left else 0)
    problems = []
    for child in alive:
        try:
            problems.append(f"left a process running: {' '.join(child.cmdline())[:80]}")
            child.send_signal(signal.SIGKILL)
            child.wait(PATIENCE)
        except psutil.NoSuchProcess:
            continue
    return problems


def _refused():
    journal = Path(os.environ["BOOK_REFUSED"])
    return journal.read_text().splitlines() if journal.exists() else []


def _network_problems():
    return [f"asked for the network: {line}" for line in _refused()[len(_run["refused"]) :]]


def _files(gallery_conf):
    """Return every file of the gallery's folders, where Sphinx-Gallery runs the lessons."""
    folders = [Path(gallery_conf["src_dir"], folder) for folder in gallery_conf["examples_dirs"]]
    return {path for folder in folders for path in folder.iterdir() if path.name != "__pycache__"}
