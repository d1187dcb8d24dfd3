"""Run one lesson as a script does, then try its exercises: with the answers, with wrong ones, and without any.

``python play.py LESSON REPORT`` does so in a new interpreter, ``server.py`` in a fork. What the lesson prints stays on
standard output; what is wrong with its exercises goes to the file REPORT, as JSON.
"""

import contextlib
import io
import json
import os
import random
import runpy
import sys
import traceback
import types
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "docs" / "_ext"))
import sources
from course import MARK, stub

CONF = Path(__file__).parents[2] / "docs" / "conf.py"
STRICT = "PYTORCH_COURSE_STRICT"


def wrong_answers(right):
    """Yield the name and the value of answers that are not the right one."""
    if right is not None:
        yield "None", None
    if isinstance(right, (torch.Tensor, np.ndarray)):
        yield "one axis too many", right[None]
        if isinstance(right, torch.Tensor):
            yield "another dtype", right.to(torch.float64 if right.dtype != torch.float64 else torch.float32)
            if right.requires_grad:
                yield "detached", right.detach()
        changed = {"zeros": right * 0, "doubled": right * 2, "transposed": right.mT if right.ndim > 1 else right}
        for name, other in changed.items():
            if other.shape != right.shape or not (other == right).all():
                yield name, other
    elif isinstance(right, (bool, np.bool_)):
        yield "the opposite", not right
    elif isinstance(right, (int, float, complex, np.number)):
        yield "one more", right + 1
        yield "a tensor", torch.tensor(right)
    elif isinstance(right, (list, tuple)):
        yield "one item too many", [*right, 0]
        if right:
            yield from ((f"{name} in front", [other, *right[1:]]) for name, other in wrong_answers(right[0]))
    else:
        yield "another string", f"{right}?"


def play(path, report):
    """Run the whole script, then its exercises without answers; write down what is wrong with these."""
    from pytorch_course import exercises

    problems, expect = [], exercises.expect

    def try_wrong_answers(yours, right, rtol=None, atol=None):
        answer, wanted = (value() if callable(value) else value for value in (yours, right))
        expect(answer, wanted, rtol=rtol, atol=atol)
        for name, other in wrong_answers(wanted):
            with contextlib.suppress(AssertionError), contextlib.redirect_stdout(io.StringIO()):
                expect(other, wanted, rtol=rtol, atol=atol)
                problems.append(f"a wrong answer passes where {wanted!r} is right: {name}")

    script = sys.modules["__main__"] = types.ModuleType("__main__")
    script.__file__, sys.argv = path, [path]
    exercises.expect, os.environ[STRICT] = try_wrong_answers, "1"
    exec(compile(Path(path).read_text(encoding="utf-8"), path, "exec"), vars(script))

    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    exercises.expect = script.expect = expect
    del os.environ[STRICT]
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
    problems += stub_problems(path, script)
    Path(report).write_text(json.dumps(problems), encoding="utf-8")


def stub_problems(path, script):
    """Run all cells from the first exercise on as a reader does who has not begun; return what is wrong."""
    problems = []
    cells = [block for block in sources.cells(path) if block.type == "code"]
    first = next((number for number, cell in enumerate(cells) if MARK in cell.content), len(cells))
    for cell in cells[first:]:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                exec(compile("\n" * (cell.lineno - 1) + stub(cell.content), path, "exec"), vars(script))
            except Exception:
                return [*problems, f"line {cell.lineno}: the stub stops the script: {traceback.format_exc(limit=-1)}"]
        said = out.getvalue().splitlines()
        if MARK in cell.content and not any(line.startswith("not done yet") for line in said):
            problems.append(f"line {cell.lineno}: nothing is 'not done yet', but {said}")
        if any(line.startswith(("right", "not right yet")) for line in said):
            problems.append(f"line {cell.lineno}: judged without an answer: {said}")
    return problems


def load():
    """Load the libraries that lessons use, as the build does."""
    import runner

    runner.load(runpy.run_path(str(CONF))["book_libraries"])


def main(path, report):
    """Play a lesson in a fork; without a seed it prints something else each time, and a warning is an error."""
    import sitecustomize

    for seed in (random.seed, np.random.seed, torch.seed):
        seed()
    sitecustomize.be_strict()
    play(path, report)


if __name__ == "__main__":
    play(*sys.argv[1:])
