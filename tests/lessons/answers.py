"""Run one lesson and try its exercises: with the answers, with wrong ones, and without any. Prints what is wrong as JSON.

``python answers.py LESSON`` in an empty folder; the test starts it, one process for each lesson.
"""

import contextlib
import io
import json
import os
import sys
import traceback
import types
from pathlib import Path

import numpy as np
import torch

from pytorch_course import exercises

sys.path.append(str(Path(__file__).parents[2] / "docs" / "_ext"))
from course import MARK, stub
from sphinx_gallery.py_source_parser import split_code_and_text_blocks

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


def main(path):
    """Try the exercises of one script and return what is wrong."""
    problems, expect = [], exercises.expect

    def try_wrong_answers(yours, right, rtol=None, atol=None):
        answer, wanted = (value() if callable(value) else value for value in (yours, right))
        expect(answer, wanted, rtol=rtol, atol=atol)
        for name, other in wrong_answers(wanted):
            with contextlib.suppress(AssertionError), contextlib.redirect_stdout(io.StringIO()):
                expect(other, wanted, rtol=rtol, atol=atol)
                problems.append(f"a wrong answer passes where {wanted!r} is right: {name}")

    def run(cell, text):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile("\n" * (cell.lineno - 1) + text, path, "exec"), vars(module))
        return out.getvalue().splitlines()

    module = sys.modules["__main__"] = types.ModuleType("__main__")
    cells = [block for block in split_code_and_text_blocks(path)[1] if block.type == "code"]
    exercises.expect, os.environ[STRICT] = try_wrong_answers, "1"
    for cell in cells:
        run(cell, cell.content)

    module.expect = expect
    del os.environ[STRICT]
    first = next((number for number, cell in enumerate(cells) if MARK in cell.content), len(cells))
    for cell in cells[first:]:
        try:
            said = run(cell, stub(cell.content))
        except Exception:
            return [*problems, f"line {cell.lineno}: the stub stops the script: {traceback.format_exc(limit=-1)}"]
        if MARK in cell.content and not any(line.startswith("not done yet") for line in said):
            problems.append(f"line {cell.lineno}: nothing is 'not done yet', but {said}")
        if any(line.startswith(("right", "not right yet")) for line in said):
            problems.append(f"line {cell.lineno}: judged without an answer: {said}")
    return problems


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
