"""Exercises that answer back: compare what you wrote with what is right, and say what is wrong with it."""

import math
import os
import re
import sysconfig
import traceback
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["expect"]

KINDS: dict[str, tuple[type, ...]] = {  # in the order of the checks: a bool is an int too
    "a tensor": (torch.Tensor,),
    "a NumPy array": (np.ndarray,),
    "a bool": (bool, np.bool_),
    "a number": (int, float, complex, np.number),
    "a string": (str,),
    "a list or tuple": (list, tuple),
    "a dtype": (torch.dtype, np.dtype),
    "a device": (torch.device,),
    "None": (type(None),),
}
# rtol and atol of torch.testing.assert_close; every other dtype must be equal
TOLERANCES = {torch.float16: (1e-3, 1e-5), torch.bfloat16: (1.6e-2, 1e-5)}
TOLERANCES |= dict.fromkeys((torch.float32, torch.complex64), (1.3e-6, 1e-5))
TOLERANCES |= dict.fromkeys((torch.float64, torch.complex128), (1e-7, 1e-7))
SMALL = 24  # so many values are shown side by side
LIBRARIES = (str(Path(__file__).parent), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def expect(yours: Any, right: Any, *, rtol: float | None = None, atol: float | None = None) -> None:
    """Compare an answer with the right one and print "right", "not done yet", or the first difference, explained.

    Kind, shape, dtype, device, graph, finiteness and values are compared in this order; nothing is broadcast.

    Where the environment variable ``PYTORCH_COURSE_STRICT`` is set, as in the build of the book, a wrong or missing answer
    is an AssertionError, and what the answer itself raises is raised. A `right` that cannot be compared is a TypeError.

    Parameters
    ----------
    yours, right : object
        The answer and the right result: tensors, NumPy arrays, numbers, strings, dtypes, devices, lists or tuples of these,
        or functions without arguments that return them. A bare `NotImplementedError`, ``...`` and None are not done yet.
    rtol, atol : float, optional
        Relative and absolute tolerance; by dtype those of `torch.testing.assert_close`.

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(3.0)
    >>> expect(lambda: x.sum(), torch.tensor(3.0))
    right
    """
    strict = bool(os.environ.get("PYTORCH_COURSE_STRICT"))
    try:
        answer = yours() if callable(yours) else yours
        wanted = right() if callable(right) else right
    except Exception as error:
        if not _is_stub(error):
            if strict:
                raise
            print(_stopped(error))
            return
        problem: str | None = "not done yet"
    else:
        if _kind(wanted) not in KINDS:
            raise TypeError(f"right is {_kind(wanted)}, expected {', '.join(KINDS)}")
        if answer is None and wanted is not None and not callable(yours):
            problem = "not done yet: this is None (did you forget `return`?)"
        else:
            found = _difference(answer, wanted, rtol, atol)
            problem = "not done yet" if _unfinished(answer) else found and f"not right yet: {found}"
    if problem and strict:
        raise AssertionError(problem)
    print(problem or "right")


def _is_stub(error: Exception) -> bool:
    """Tell an empty stub, or the use of a guess that is still ``...``, from an error."""
    if isinstance(error, NotImplementedError):  # those of libraries say what they miss
        return not error.args
    return bool(re.search(r"'ellipsis'|^rank \d+.* raised NotImplementedError$", str(error), re.M))  # here, or launched


def _unfinished(value: Any) -> bool:
    return value is ... or (isinstance(value, (list, tuple)) and any(map(_unfinished, value)))


def _stopped(error: Exception) -> str:
    """Say what was raised, and at which line of the reader's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    last = ([frame for frame in frames if not frame.filename.startswith((*LIBRARIES, "<frozen"))] or frames)[-1]
    where = f"    line {last.lineno}, in {last.name}: {last.line}"
    return f"not right yet: your code stopped with {type(error).__name__}: {error}\n{where}"


def _kind(value: Any) -> str:
    named = (name for name, types in KINDS.items() if isinstance(value, types))
    return next(named, f"a value of type {type(value).__name__}")


def _difference(yours: Any, right: Any, rtol: float | None, atol: float | None) -> str | None:
    """Explain the first difference, or return None if there is none."""
    kind = _kind(right)
    if yours is None and right is not None:
        return f"nothing came back (None), expected {kind}: did you forget `return`?"
    if _kind(yours) != kind:
        hint = ": `.item()` takes the number out" if kind == "a number" and _kind(yours) == "a tensor" else ""
        return f"yours is {_kind(yours)}, expected {kind}{hint}"
    if kind in ("a tensor", "a NumPy array"):
        return _array_difference(yours, right, rtol, atol)
    if kind == "a number" and (rtol or atol or not isinstance(yours + right, (int, np.integer))):
        return _value_difference(torch.from_numpy(np.array(yours)), torch.from_numpy(np.array(right)), rtol, atol)
    if kind == "a list or tuple":
        if len(yours) != len(right):
            return f"yours has length {len(yours)}, expected {len(right)}: yours {yours!r}, expected {right!r}"
        parts = (_difference(*pair, rtol, atol) for pair in zip(yours, right, strict=True))
        return next((f"at position {i}: {part}" for i, part in enumerate(parts) if part), None)
    return None if yours == right else f"yours {yours!r}, expected {right!r}"


def _array_difference(yours: Any, right: Any, rtol: float | None, atol: float | None) -> str | None:
    """Compare two tensors, or two arrays, from the shape to the values."""
    if yours.shape != right.shape:
        return _shape_difference(yours, right)
    if yours.dtype != right.dtype:
        cast = "astype" if isinstance(right, np.ndarray) else "to"
        return f"yours has dtype {yours.dtype}, expected {right.dtype}: `.{cast}(...)` changes it"
    if isinstance(right, np.ndarray):
        if right.dtype.kind not in "biufc":
            return _difference(yours.tolist(), right.tolist(), rtol, atol)
        return _value_difference(torch.from_numpy(yours.copy()), torch.from_numpy(right.copy()), rtol, atol)
    if yours.device != right.device:
        return f"yours is on device {yours.device}, expected {right.device}: `.to(device)` moves it"
    if right.requires_grad and not yours.requires_grad:
        return "yours is cut off from the graph: no gradient flows back (`detach`, `item`, `no_grad`, `torch.tensor(...)`?)"
    return _value_difference(yours.detach().cpu(), right.detach().cpu(), rtol, atol)


def _shape_difference(yours: Any, right: Any) -> str:
    mine, wanted = tuple(yours.shape), tuple(right.shape)
    text = f"yours has shape {mine}, expected {wanted}"
    if [n for n in mine if n != 1] == [n for n in wanted if n != 1]:
        text += ": they differ by axes of size 1 (`squeeze`, `unsqueeze`, `keepdim`)"
    elif sorted(mine) == sorted(wanted):
        text += ": the same sizes in another order, so an axis is transposed"
    try:
        common = tuple(np.broadcast_shapes(mine, wanted))
    except ValueError:
        return text
    return f"{text}; an operation on both would silently broadcast to {common}"


def _value_difference(yours: torch.Tensor, right: torch.Tensor, rtol: float | None, atol: float | None) -> str | None:
    """Compare values of the same shape, where integers and booleans must be equal unless a tolerance is given."""
    bounds = zip(*(TOLERANCES.get(t.dtype, (0.0, 0.0)) for t in (yours, right)), strict=True)
    rtol, atol = (max(bound) if given is None else given for bound, given in zip(bounds, (rtol, atol), strict=True))
    common = torch.promote_types(yours.dtype, right.dtype)
    wide = (
        torch.complex128 if common.is_complex else torch.float64 if common.is_floating_point or rtol or atol else common
    )
    a, b = yours.to(wide), right.to(wide)
    lost = ~a.isfinite() & b.isfinite()
    wrong = lost if lost.any() else a.isclose(b, rtol, atol, equal_nan=True).logical_not()
    if not wrong.any():
        return None
    first = tuple(wrong.nonzero()[0].tolist())
    mine, wanted = _texts(yours[first].item(), right[first].item())
    pattern = "" if lost.any() or wide.is_complex else _pattern(a.double(), b.double())
    text = f"{pattern}yours is {mine}{f' at index {list(first)}' if first else ''}, expected {wanted}"
    if a.dim():
        text += f"; {int(wrong.sum())} of {a.numel()} values are {'not finite' if lost.any() else 'wrong'}"
    return text + (_side_by_side(a, b) if 1 < a.numel() <= SMALL and a.dim() <= 2 else "")


def _pattern(a: torch.Tensor, b: torch.Tensor) -> str:
    """Name a rule by which all values are wrong, if there is one."""
    every = "every value" if b.numel() > 1 else "the value"
    varied = bool((b != b.flatten()[0]).any())  # for equal values, factor and offset are one guess among many
    largest, slack = b.abs().argmax(), 1e-6 * b.abs().max().item()
    ratio = (a.flatten()[largest] / b.flatten()[largest]).item()
    if math.isfinite(ratio) and ratio and a.allclose(ratio * b, 1e-4, slack):
        factor = max(abs(ratio), 1 / abs(ratio))
        if ratio < 0 and factor < 1.001:
            return f"{every} has the wrong sign: "
        if ratio > 0 and factor > 1.001 and (varied or abs(factor - round(factor)) < 1e-4):
            return f"{every} is {factor:.4g} times too {'large' if ratio > 1 else 'small'}: "
    shift = (a - b).flatten()[0]
    if varied and shift.abs() > slack and (a - b).allclose(shift, 1e-4, slack):
        return f"every value is {abs(shift.item()):.4g} too {'large' if shift > 0 else 'small'}: "
    for i, j in combinations(range(b.dim()), 2):
        if b.shape[i] == b.shape[j] and a.allclose(b.transpose(i, j), 1e-4, slack, equal_nan=True):
            return f"axes {i} and {j} are swapped (transposed): "
    return ""


def _texts(*values: Any) -> tuple[str, ...]:
    """Write values with as few digits as tell them apart."""
    for digits in (6, 9, 17):
        texts = tuple(f"{value:.{digits}g}" if isinstance(value, (float, complex)) else str(value) for value in values)
        if len(set(texts)) > 1:
            break
    return texts


def _side_by_side(*tensors: torch.Tensor) -> str:
    blocks = [np.array2string(tensor.numpy(), precision=4).splitlines() for tensor in tensors]
    width = max(len("yours"), *map(len, blocks[0]))
    rows = zip_longest(["yours", *blocks[0]], ["expected", *blocks[1]], fillvalue="")
    return "".join(f"\n    {left:<{width}}   {right}".rstrip() for left, right in rows)
