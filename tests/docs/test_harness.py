"""What a lesson may not do is seen, named and stops the book; the other lessons still run."""

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
    "09_style": ("import matplotlib\nmatplotlib.rcParams['lines.linewidth'] = 9", "rcParams (lines.linewidth)"),
    "10_environment": ("import os\nos.environ['A_LEAK'] = '1'", "environment (A_LEAK)"),
    "11_dtype": ("import torch\ntorch.set_default_dtype(torch.float64)", "changed the default dtype"),
    "12_threads": ("import torch\ntorch.set_num_threads(2)", "changed the number of threads"),
    "13_unseeded": ("import torch\nprint(torch.rand(1))", "drew random numbers from torch without setting a seed"),
    "14_unseeded": ("import random\nprint(random.random())", "drew random numbers from random without setting a seed"),
    "15_file": (
        "from pathlib import Path\nPath('left.txt').write_text('x')",
        "wrote files beside the lesson: left.txt",
    ),
    "16_network_in_child": (
        "import subprocess, sys\n"
        "code = \"import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)\"\n"
        "subprocess.run([sys.executable, '-c', code], check=False, capture_output=True)",
        "asked for the network",
    ),
}


@pytest.fixture(scope="module")
def broken(shared_site):
    """Build one book in which every lesson but two breaks one rule."""
    shared_site.lesson("01_good", "x = 2\nassert x == 2\nprint('first is here')")
    for name, (code, _) in BAD.items():
        shared_site.lesson(name, code)
    shared_site.lesson("99_good", "import torch\ntorch.manual_seed(0)\nprint('last is here', torch.rand(1).item() < 1)")
    done = shared_site.build(BOOK_WITHOUT_TORCH="")
    return shared_site, done


@pytest.mark.parametrize("name", BAD)
def test_each_breach_is_named(broken, name):
    """The message names the lesson and what it did."""
    _, done = broken
    lines = [line for line in done.stderr.splitlines() if f"{name}.py: " in line]
    assert any(BAD[name][1] in line for line in lines), done.stderr


def test_a_broken_book_fails_and_proves_nothing(broken):
    """The exit code is not zero and lessons.json is not written."""
    site, done = broken
    assert done.returncode != 0
    assert site.proof() is None


def test_good_lessons_pass_and_run_after_bad_ones(broken):
    """Two lessons do nothing wrong; neither is blamed, and the last ran although many before it failed."""
    site, done = broken
    assert "01_good.py: " not in done.stderr
    assert "99_good.py: " not in done.stderr
    assert "last is here True" in site.page("lessons/one/99_good")


def test_an_exception_shows_its_traceback(broken):
    """The message of an exception and its line are there."""
    _, done = broken
    assert "ZeroDivisionError" in done.stderr
    assert "07_raises.py" in done.stderr


def test_a_broken_lesson_runs_again(broken):
    """A lesson with a problem is not taken from the cache as if it had passed."""
    site, _ = broken
    for name in BAD:
        (site.root / f"gallery/one/{name}.py").unlink()
    site.lesson("08_folder", BAD["08_folder"][0])
    assert "changed the working directory" in site.build().stderr
    assert "changed the working directory" in site.build().stderr


def test_a_lesson_that_leaves_ends_no_build_in_silence(site):
    """``sys.exit(0)`` in a lesson ends the build with exit code 0, so what counts is lessons.json, which is missing."""
    site.lesson("01_leaves", "import sys\nsys.exit(0)")
    site.build()
    assert site.proof() is None


def test_checks_are_counted_where_they_run():
    """An assertion inside a function counts only when something calls it, which a static count cannot promise: so it does not."""
    code = "assert 1\ndef f():\n    assert 2\nfor i in 1, 2:\n    assert i\ntorch.testing.assert_close(1, 1)\nf = lambda: assert_x()"
    assert count_checks(f"{code}\nexpect(lambda: f(), 1)") == 4
