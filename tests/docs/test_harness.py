"""What a lesson may not do is seen, named and stops the book; no lesson meets what another did."""

import re

import pytest
from harness import count_checks

BAD = {
    "02_warns": ("import warnings; warnings.warn('careful')", "cell 1 (line 16) raised an exception"),
    "03_network": (
        "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 80), timeout=1)\nexcept OSError:\n    pass",
        "asked for the network",
    ),
    "04_process": (
        "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        "left a process running",
    ),
    "05_orphan": (
        "import subprocess\nsubprocess.run(['sh', '-c', 'sleep 61 >/dev/null 2>&1 &'], check=True)",
        "left a process running: sleep 61",
    ),
    "06_empty": ("# nothing but a comment", "was not run"),
    "07_raises": ("x = 1\n\n# %%\n# More text\n\nx / 0", "cell 2 (line 21) raised an exception"),
    "08_folder": ("import os, tempfile\nos.chdir(tempfile.gettempdir())", "changed the working directory"),
    "09_unseeded": ("import torch\nprint(torch.rand(1))", "drew random numbers from torch without setting a seed"),
    "10_unseeded": ("import random\nprint(random.random())", "drew random numbers from random without setting a seed"),
    "11_file": (
        "from pathlib import Path\nPath('left.txt').write_text('x')",
        "wrote files beside the lesson: left.txt",
    ),
    "12_network_in_child": (
        "import subprocess, sys\n"
        "code = \"import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)\"\n"
        "subprocess.run([sys.executable, '-c', code], check=False, capture_output=True)",
        "asked for the network",
    ),
    "13_daemon": (
        "import threading, time\n"
        "def talk():\n    while True:\n        print('spoken by a thread')\n        time.sleep(0.01)\n"
        "threading.Thread(target=talk, daemon=True, name='talker').start()",
        "left a thread running: talker",
    ),
    "14_thread": (
        "import threading\nthreading.Thread(target=threading.Event().wait, name='sleeper').start()",
        "left a thread running: sleeper",
    ),
    "15_leaves": (
        "import sys\n\n# %%\n# More text\n\nsys.exit(0)",
        "cell 2 (line 21) ended the lesson with SystemExit: 0",
    ),
    "16_leaves": ("import os\nos._exit(0)", "cell 1 (line 16) ended the lesson's process with exit code 0"),
    "17_crashes": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)",
        "cell 1 (line 16) ended the lesson's process by SIGSEGV",
    ),
    "18_endless": ("while True:\n    pass", "cell 1 (line 16) took more than 2 s of CPU time"),
    "19_busy_child": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])",
        "cell 1 (line 16) took more than 2 s of CPU time",
    ),
    "20_waits": ("import threading\nthreading.Event().wait()", "cell 1 (line 16) was stopped after 20 s: it waited"),
    "21_talks": ("print(('x' * 99 + '\\n') * 5_000)", "cell 1 makes the outputs longer than 100,000 characters"),
    "22_wide": (
        "import matplotlib.pyplot as plt\nplt.figure(figsize=(200, 1))",
        "line 16 draws a figure of 45,000 x 225 pixels",
    ),
    "23_module": ("import tool.broken", "cell 1 (line 16) raised an exception"),
}
CHANGES = """
import math, os, matplotlib, numpy, torch
numpy.set_printoptions(precision=1)
math.sqrt = lambda x: 42
os.environ["A_LEAK"] = "1"
matplotlib.rcParams["lines.linewidth"] = 9
torch.set_default_dtype(torch.float64)
"""
FINDS = """
import math, os, subprocess, time, matplotlib, numpy, torch
subprocess.run(["sh", "-c", "sleep 0.1 &"])  # an orphan, which has ended, and for whose end nobody waits
time.sleep(0.5)
print("last is here", numpy.array([1.234]), math.sqrt(4), torch.ones(1).dtype, matplotlib.rcParams["lines.linewidth"])
assert "A_LEAK" not in os.environ
torch.manual_seed(0)
torch.rand(1)
"""


@pytest.fixture(scope="module")
def broken(shared_site):
    """Build one book in which every lesson but three breaks one rule."""
    shared_site.write("src/tool/broken.py", "x = 1\ny = = 2\n")
    shared_site.lesson("01_changes", CHANGES)
    for name, (code, _) in BAD.items():
        shared_site.lesson(name, code)
    shared_site.lesson("99_last", FINDS)
    done = shared_site.build("-D", "book_libraries=torch,matplotlib.pyplot", "-D", "book_seconds.one=2")
    return shared_site, done


@pytest.mark.parametrize("name", BAD)
def test_each_breach_is_named(broken, name):
    """The message names the lesson, the cell where there is one, and the cause."""
    _, done = broken
    assert re.search(rf"{name}\.py: .*{re.escape(BAD[name][1])}", done.stderr), done.stderr


def test_a_broken_book_fails_and_proves_nothing(broken):
    """The exit code is not zero and lessons.json is not written."""
    site, done = broken
    assert done.returncode != 0
    assert site.proof() is None


def test_no_lesson_meets_what_another_did(broken):
    """Two lessons do nothing wrong; neither is blamed, and the last finds all as if no other had run."""
    site, done = broken
    assert "01_changes.py: " not in done.stderr
    assert "99_last.py: " not in done.stderr
    page = site.page("lessons/one/99_last")
    assert "last is here [1.234] 2.0 torch.float32 2.0" in page
    assert "spoken by a thread" not in page


def test_messages_say_no_more_than_they_must(broken):
    """A lesson has one message, however it ended; its traceback shows the lesson's own path and the faulty module's."""
    site, done = broken
    lessons = [line.partition(".py: ")[0] for line in done.stderr.splitlines() if ".py: " in line]
    assert sorted(lessons) == sorted(set(lessons))
    assert f'"{site.root}/gallery/one/07_raises.py", line 22' in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert re.search(r"src/tool/broken\.py\", line 2", done.stderr)
    assert "docs/_build/runs" not in done.stderr


def test_no_output_makes_a_page_endless(broken):
    """A page of half a million characters is cut."""
    site, _ = broken
    assert 50_000 < len(site.page("lessons/one/21_talks")) < 200_000


def test_a_broken_lesson_runs_again(broken):
    """A lesson with a problem is not taken from the cache as if it had passed."""
    site, _ = broken
    for name in BAD:
        (site.root / f"gallery/one/{name}.py").unlink()
    site.lesson("08_folder", BAD["08_folder"][0])
    for _ in range(2):
        done = site.build()
        assert "08_folder.py: changed the working directory" in done.stderr
        assert done.stderr.count(".py: ") == 1


def test_a_lesson_runs_alone_when_it_says_so(site):
    """Lessons run two at a time, but for those that measure."""
    note = "import time\nprint('started', time.time())\ntime.sleep(1)\nprint('ended', time.time())"
    for name in ("01_a", "02_b"):
        site.lesson(name, note)
    alone = site.lesson("03_alone", note)
    alone.write_text(alone.read_text().replace("   :data: none\n", "   :data: none\n   :alone:\n"))
    assert site.build().returncode == 0
    (a, b), (c, d), (e, f) = (
        map(float, re.findall(r"(?:started|ended) ([\d.]+)", site.page(f"lessons/one/{name}")))
        for name in ("01_a", "02_b", "03_alone")
    )
    assert a < d and c < b, "two at a time"
    assert f < min(a, c) or e > max(b, d), "alone"


def test_a_lesson_runs_in_a_new_interpreter_where_there_is_no_fork(site):
    """On Windows and macOS each lesson starts from nothing, and everything else is the same."""
    site.lesson("01_a", "import sys\nprint('on', sys.platform)\nassert True")
    site.lesson("02_leaves", "import os\nos._exit(0)")
    conf = site.root / "docs/conf.py"
    conf.write_text(
        conf.read_text() + "\nimport multiprocessing, runner\nrunner.context = multiprocessing.get_context('spawn')\n"
    )
    done = site.build()
    assert "02_leaves.py: cell 1 (line 16) ended" in done.stderr
    assert "01_a.py" not in done.stderr
    assert "on linux" in site.page("lessons/one/01_a")


def test_checks_are_counted_where_they_run():
    """An assertion inside a function counts only when something calls it, which a static count cannot promise: so it does not."""
    code = "assert 1\ndef f():\n    assert 2\nfor i in 1, 2:\n    assert i\ntorch.testing.assert_close(1, 1)\nf = lambda: assert_x()"
    assert count_checks(f"{code}\nexpect(lambda: f(), 1)") == 4
