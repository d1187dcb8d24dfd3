"""Run every stale lesson in a process of its own.

The libraries are loaded once; each lesson is then a fork of that process, so all start alike and none can reach another.
Where there is no safe fork, each starts a new interpreter.
"""

import gc
import importlib
import multiprocessing
import shutil
import signal
import sys
import time
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

import harness
import pages
import psutil
import sources

TOGETHER = 2  # lessons that run at the same time
PATIENCE = 10  # times the limit of CPU time by the clock, after which a lesson
IDLE = 0.05  # that has not had this share of it as CPU time waits for ever, on however busy a machine
POLL = 0.5  # seconds
SECONDS = 60  # of CPU time, at which a lesson is stopped: it should take half, and machines differ

context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")


def setup(app):
    """Connect to the build, before Sphinx-Gallery."""
    app.add_config_value("book_libraries", [], "")
    app.add_config_value("book_seconds", {}, "")
    app.connect("builder-inited", run_stale, priority=400)
    return {"parallel_read_safe": True}


def run_stale(app):
    """Run what is stale; those that want the machine for themselves come last."""
    if app.stale_lessons:
        load(app.config.book_libraries)
    for alone, lanes in ((False, TOGETHER), (True, 1)):
        run_all(app, [lesson for lesson in app.stale_lessons if lesson.alone == alone], lanes)
    gc.unfreeze()


def load(libraries):
    """Load what lessons use, on one thread: a fork of a process that has started others would wait for them for ever."""
    for name in libraries:
        importlib.import_module(name)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "matplotlib.pyplot" in sys.modules:  # the first drawing looks for fonts
        plt = sys.modules["matplotlib.pyplot"]
        plt.figure().add_subplot().set_title("first")
        plt.gcf().canvas.draw()
        plt.close("all")
    gc.collect()
    gc.freeze()


def run_all(app, lessons, lanes):
    """Run lessons, so many at a time; none of them outlives this call."""
    waiting, running = list(lessons), []
    try:
        while waiting or running:
            while waiting and len(running) < lanes:
                running.append(Run(app, waiting.pop(0)))
            wait([run.process.sentinel for run in running], timeout=POLL)
            running = [run for run in running if not run.is_over()]
    finally:
        for run in running:
            run.kill()


class Run:
    """One lesson that runs in a process of its own."""

    def __init__(self, app, lesson):
        self.lesson, self.limit = lesson, float(app.config.book_seconds.get(lesson.part, SECONDS))
        self.target = Path(app.srcdir, f"{lesson.docname}.py")
        self.folder = Path(app.outdir).parent / "runs" / lesson.part / lesson.path.stem
        self.blocks = sources.cells(lesson.path)
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "empty").mkdir(parents=True)
        self.target.parent.joinpath("images", "thumb").mkdir(parents=True, exist_ok=True)
        self.line = context.RawValue("i")
        conf = app.config.sphinx_gallery_conf
        made = {"environment": app.environment, "code": sources.code_of_lesson(self.blocks)}
        job = (lesson.path, self.target, self.folder, conf, self.line, made)
        self.process = context.Process(target=harness.run, args=job)
        self.process.start()
        self.started = time.monotonic()

    def is_over(self):
        """Return whether the process is gone; one that takes too long is ended here."""
        if self.process.is_alive():
            used, passed = cpu_seconds(self.process.pid), time.monotonic() - self.started
            if used > self.limit:
                self.stop(f"took more than {self.limit:g} s of CPU time and was stopped")
            elif passed > PATIENCE * self.limit and used < IDLE * passed:
                self.stop(f"was stopped after {passed:.0f} s: it waited for something that did not come")
            else:
                return False
        elif not self.target.with_suffix(".record.json").exists():
            code = self.process.exitcode
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            self.stop(f"ended the lesson's process {how}")
        self.process.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

    def stop(self, why):
        """End the process and all below it; record the cell and the cause."""
        self.kill()
        log = (self.folder / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        problem = "\n    ".join([f"{harness.place(self.blocks, self.line.value)} {why}", *log])
        record = harness.blank() | {"problems": [problem]}
        pages.write(self.target.with_suffix(".record.json"), record)

    def kill(self):
        """End the process and all below it."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        self.process.join()


def cpu_seconds(pid):
    """Return the CPU time of a process, of all below it, and of those that they have waited for."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += sum(each.cpu_times()[:4])
    return total
