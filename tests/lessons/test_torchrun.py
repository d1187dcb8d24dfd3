"""What a lesson on several processes gives its readers to take along runs under torchrun, without the package."""

import ast
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import sources
from course import read_lesson

FOLDER = Path(__file__).parents[2] / "gallery" / "distributed"
LESSONS = [read_lesson(path) for path in sorted(FOLDER.glob("[0-9]*.py"))]
LIMIT = 120  # seconds


def program_of(lesson):
    """Return the imports of a lesson, but for the package's, the cell of *Take this with you*, and its call."""
    blocks = sources.cells(lesson.path)
    body = [node for block in blocks if block.type == "code" for node in ast.parse(block.content).body]
    imports = [ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom))]
    imports = [line for line in imports if "pytorch_course" not in line]
    taken = [code for text, code in pairwise(blocks) if re.search("^Take this with you\n---", text.content, re.M)]
    return "\n".join([*imports, taken[0].content, "main()\n"])


@pytest.mark.parametrize("taken", LESSONS, ids=lambda lesson: lesson.id)
def test_take_home(taken, tmp_path):
    """Two processes end well, rank 0 prints something, and none of them is left."""
    script = tmp_path / "script.py"
    script.write_text(program_of(taken), encoding="utf-8")
    options = ["--standalone", "--nproc-per-node=2", "--local-ranks-filter=0"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, str(script)]
    own = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", "MPLBACKEND": "agg"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, **pipes) as torchrun:
        try:
            printed, complaints = torchrun.communicate(timeout=LIMIT)
        finally:
            torchrun.terminate()  # if it still runs, it ends its processes
    assert torchrun.returncode == 0, complaints
    assert printed
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(script) in (process.info["cmdline"] or ())
    ]
