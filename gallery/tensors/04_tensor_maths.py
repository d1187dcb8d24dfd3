r"""
Tensor maths
============

Compute with tensors element by element and along any axis, and say the shape and the dtype of a result before you run it.

.. lesson::
   :needs: tensors/03_tensor_creation
   :data: none
"""

# %%
# Does PyTorch round like your school did?
# ----------------------------------------
#
# Three words that you have known since school: round, median, standard deviation. We ask PyTorch and NumPy.

import numpy as np
import torch

halves = torch.tensor([0.5, 1.5, 2.5, 3.5])
numbers = torch.tensor([1.0, 2.0, 3.0, 4.0])
print("round  ", halves.round().tolist())
print(f"median  torch {numbers.median():.3f}   numpy {np.median(numbers.numpy()):.3f}")
print(f"std     torch {numbers.std():.3f}   numpy {np.std(numbers.numpy()):.3f}")

assert halves.round().tolist() == [0, 2, 2, 4]  # not 1, 2, 3, 4
assert numbers.median() == 2 and np.median(numbers.numpy()) == 2.5
assert numbers.std() - np.std(numbers.numpy()) > 0.1

# %%
# Nothing is broken. ``round`` sends a half to the *even* neighbour, because always going up would push every sum upwards. ``median``
# returns an element of the tensor, the lower of the two in the middle. And ``std`` divides by :math:`m - 1`, where NumPy divides by
# :math:`m`:
#
# .. math:: s^2 = \frac{1}{m - c} \sum_{i=1}^{m} (x_i - \bar x)^2 \qquad \text{with the correction } c = 1 \text{ unless you say otherwise}

school = (halves + 0.5).floor()
assert school.sum() - halves.sum() == 2 and halves.round().sum() == halves.sum()

assert numbers.quantile(0.5) == 2.5  # the median of the textbooks

squares = (numbers - numbers.mean()).square().sum()
for c in (0, 1):
    by_hand = squares / (len(numbers) - c)
    torch.testing.assert_close(numbers.var(correction=c), by_hand)
    torch.testing.assert_close(numbers.std(correction=c), by_hand.sqrt())
    assert abs(by_hand - np.var(numbers.numpy(), ddof=c)) < 1e-6

# %%
# Which way is down?
# ------------------
#
# Four functions make whole numbers. They differ where you look least: below zero.

roundings = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "trunc": torch.trunc,
    "round": torch.round,
}
grid = torch.arange(-2.5, 3)
print("x     ", "".join(f"{value:6.1f}" for value in grid))
for name, function in roundings.items():
    print(f"{name:<7}", "".join(f"{value:6d}" for value in function(grid).int().tolist()))

assert torch.equal(grid.trunc(), grid.sign() * grid.abs().floor())  # towards zero
assert torch.equal(grid.ceil(), -(-grid).floor())

# %%
# The same four as pictures:

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
x = torch.linspace(-2.99, 2.99, 1196)  # no whole number among them, no half
fig, axes = plt.subplots(1, 4, figsize=(6.4, 2.1), sharey=True)
for ax, (name, function) in zip(axes, roundings.items(), strict=True):
    ax.axline((0, 0), slope=1, color="0.8", linewidth=1)
    ax.plot(x, function(x), ".", markersize=2)
    ax.plot(grid, function(grid), "o", color="C3", markersize=4)
    ax.set(title=name, xticks=range(-2, 3, 2), yticks=range(-3, 4), aspect="equal")

# %%
# .. caption:: The staircase of each function over the grey line of ``x`` itself; dots show where the halves go. ``trunc`` has a step of
#       double width around zero. Only ``round`` sends its halves up and down in turn.
#    :alt: Four staircases between -3 and 3. Floor lies below the diagonal and ceil above it. Trunc lies above it for negative numbers and
#       below it for positive ones, with a step of double width at zero. Round crosses it, and its dots sit at even heights only.
#
# Division has the same choice to make, and the remainder follows from it: :math:`a = b \cdot q + r`, whichever way you round the quotient
# :math:`q`. Python's ``//`` and ``%`` round down, C's towards zero. PyTorch has both.

a, b = torch.tensor([7, -7, 7, -7]), torch.tensor([3, 3, -3, -3])
table = {
    "a / b": a / b,
    "div floor": torch.div(a, b, rounding_mode="floor"),
    "remainder": torch.remainder(a, b),
    "div trunc": torch.div(a, b, rounding_mode="trunc"),
    "fmod": torch.fmod(a, b),
}
for name, values in table.items():
    row = "".join(f"{value:7.4g}" for value in values.tolist())
    print(f"{name:<10} {row}   {values.dtype}")

assert torch.equal(a // b, table["div floor"]) and torch.equal(a % b, table["remainder"])
assert torch.equal(b * table["div floor"] + table["remainder"], a)
assert torch.equal(b * table["div trunc"] + table["fmod"], a)

# %%
# ``remainder`` takes the sign of ``b``, ``fmod`` that of ``a``. Look at the first row, too: ``/`` between integers gives floats.
#
# What does one function do to every element?
# -------------------------------------------
#
# Most functions work **element by element**: same shape out as in. To check PyTorch, we ask Python's :mod:`math` one number at a time.

import math

element_wise = {
    "abs": (torch.abs, abs),
    "sqrt": (torch.sqrt, math.sqrt),
    "exp": (torch.exp, math.exp),
    "log": (torch.log, math.log),
    "pow(2)": (lambda x: x.pow(2), lambda v: v * v),
    "clamp(-1, 2)": (lambda x: x.clamp(-1, 2), lambda v: min(max(v, -1), 2)),
    "sin": (torch.sin, math.sin),
    "cos": (torch.cos, math.cos),
    "asin": (torch.asin, math.asin),
    "cosh": (torch.cosh, math.cosh),
    "sigmoid": (torch.sigmoid, lambda v: 1 / (1 + math.exp(-v))),
    "tanh": (torch.tanh, math.tanh),
}

# %%
# Some numbers have no square root. Python raises an error there. What will PyTorch do when such numbers hide among 600?


def or_nan(function, value):
    """Return function(value), or nan where Python has no answer."""
    try:
        return function(value)
    except ValueError:  # math domain error
        return math.nan


x = torch.linspace(-3, 3, 600, dtype=torch.float64)
for name, (function, by_hand) in element_wise.items():
    y = function(x)
    expected = [or_nan(by_hand, value) for value in x.tolist()]
    torch.testing.assert_close(y, torch.tensor(expected, dtype=x.dtype), equal_nan=True)
    if y.isnan().any():
        print(f"{name:<5} nan for {y.isnan().sum()} of {len(x)}, and the mean of all is {y.mean()}")

# %%
# It answers ``nan`` (:term:`NaN`, "not a number"), says nothing, and goes on. One ``nan`` is enough to spoil every sum and mean that it
# reaches.

fig, axes = plt.subplots(3, 4, figsize=(6.4, 4.6), sharex=True)
for ax, (name, (function, _)) in zip(axes.flat, element_wise.items(), strict=True):
    y = function(x)
    ax.axhline(0, color="0.8", linewidth=0.8)
    ax.axvline(0, color="0.8", linewidth=0.8)
    full_height = ax.get_xaxis_transform()
    ax.fill_between(x, 0, 1, where=y.isnan(), transform=full_height, color="0.85", linewidth=0)
    ax.plot(x, y)
    ax.set(title=name, xlim=(-3, 3), xticks=(-3, 0, 3))

# %%
# .. caption:: Twelve functions between -3 and 3, each on its own height scale. Grey: where the answer is ``nan``.
#    :alt: Twelve small curves. Sqrt and log are shaded grey for negative numbers, asin outside -1 to 1. Clamp is flat, rises, and is flat
#       again. Sigmoid and tanh are S-shaped: sigmoid from nearly 0 to nearly 1, tanh from nearly -1 to nearly 1.
#
# Two of the curves are one: stretch the sigmoid and move it down, and you have tanh. Every function is also a method, and ``**`` is
# ``pow``. At the edges, floats decide: :math:`\log 0` is :math:`-\infty`, and a sigmoid that never reaches 1 on paper does so here.

torch.testing.assert_close(x.tanh(), 2 * (2 * x).sigmoid() - 1)
torch.testing.assert_close((-x).sigmoid(), 1 - x.sigmoid())
assert torch.equal(x.pow(2), x**2) and torch.equal(torch.pow(x, 2), x * x)

assert torch.tensor(0.0).log() == -math.inf and torch.tensor(100.0).exp() == math.inf
assert torch.tensor(20.0).sigmoid() == 1
assert torch.tensor(20.0, dtype=torch.float64).sigmoid() < 1

w = torch.tensor([-3.0, 0.5, 3.0], requires_grad=True)
assert w.clamp(min=0).tolist() == [0, 0.5, 3]  # one limit will do
w.clamp(-1, 2).sum().backward()
assert w.grad.tolist() == [0, 1, 0]  # outside the limits, clamp passes no gradient on

# %%
# That gradient is why a value stuck outside the limits stays stuck; :doc:`/lessons/optimization/01_autograd_graph` tells where it comes
# from. One function needs two tensors: :func:`torch.atan2` takes :math:`y` and :math:`x` apart, because their quotient forgets the
# quadrant.

points = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])  # x, y
from_quotient = (points[:, 1] / points[:, 0]).atan().rad2deg()
from_both = torch.atan2(points[:, 1], points[:, 0]).rad2deg()
print("atan ", [round(angle) for angle in from_quotient.tolist()])
print("atan2", [round(angle) for angle in from_both.tolist()])
torch.testing.assert_close(from_both, torch.tensor([45.0, 135.0, -135.0, -45.0]))

# %%
# Which axis does dim=0 mean?
# ---------------------------
#
# Rows come first in a shape, so ``dim=0`` must mean "per row". Must it?

grades = torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 10.0]])
print("dim=0", grades.sum(dim=0).tolist(), "  dim=1", grades.sum(dim=1).tolist())

rows = grades.tolist()
assert grades.sum(dim=0).tolist() == [sum(row[j] for row in rows) for j in range(3)]
assert grades.sum(dim=1).tolist() == [sum(row) for row in rows]
assert grades.mean(dim=0).tolist() == [3, 4, 6.5]  # one mean for each column

# %%
# It means the opposite. ``dim`` names the :term:`axis` that is **walked along and disappears**: ``(2, 3)`` without axis 0 is ``(3,)``.
# To see it, we draw cells, one colour for all that end in the same sum.


def draw(ax, values, left, top, colour_of):
    """Draw a matrix as coloured cells."""
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            x, y, colour = left + j, top + i, f"C{colour_of(i, j)}"
            ax.add_patch(plt.Rectangle((x, y), 0.94, 0.94, color=colour, alpha=0.3, linewidth=0))
            ax.text(x + 0.47, y + 0.47, f"{value:g}", ha="center", va="center", fontsize=13)


# %%
# In the picture, ``keepdim=True`` keeps the sums where they belong: a row under the columns, a column beside the rows.

arrow = {"arrowprops": {"arrowstyle": "-|>", "color": "0.3"}}
fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.6))
for dim, ax in enumerate(axes):
    picked = (lambda i, j: j) if dim == 0 else (lambda i, j: i)
    draw(ax, grades, 0, 0, picked)
    draw(ax, grades.sum(dim, keepdim=True), 4 * (dim == 1), 3 * (dim == 0), picked)
    for k in range(grades.shape[1 - dim]):
        at = k + 0.47
        start, end = ((at, 2), (at, 3)) if dim == 0 else ((3, at), (4, at))
        ax.annotate("", end, start, **arrow)
    ax.set_title(f"sum(dim={dim})", loc="left")
    ax.set(xlim=(-0.1, 5.1), ylim=(4.1, -0.1), aspect="equal")
    ax.axis("off")

# %%
# .. caption:: Cells of one colour become one number. With ``dim=0`` the sum runs down the columns and the rows are gone; with ``dim=1``
#       it runs along the rows and the columns are gone.
#    :alt: The matrix 1 2 3, 5 6 10, twice. On the left each column has a colour and an arrow down to its sum: 6, 8, 13. On the right each
#       row has a colour and an arrow to the right to its sum: 6 and 21.
#
# With three axes, "rows" and "columns" stop helping, and the rule goes on working. Strike the named axes out of the shape;
# ``keepdim=True`` leaves a 1 where each one was. NumPy's word ``axis`` is understood, too.

t = torch.arange(60.0).reshape(5, 4, 3)
choices = [{}, {"dim": 1}, {"dim": -1}, {"dim": (0, 2)}, {"dim": 1, "keepdim": True}, {"axis": 1}]
for options in choices:
    result = t.sum(**options)
    print(f"{options!s:<27} {tuple(t.shape)} -> {tuple(result.shape)}")
    assert result.sum() == t.sum()  # nothing is lost

assert t.sum(dim=1).shape == (5, 3) and t.sum(dim=1, keepdim=True).shape == (5, 1, 3)
np.testing.assert_array_equal(t.mean(dim=(0, 2)).numpy(), t.numpy().mean(axis=(0, 2)))

# %%
# Three families, then. Some functions fold an axis into one number. Some fold it and also say *where*: with ``dim``, ``max``, ``median``
# and ``mode`` return values and indices. And the cumulative ones keep the axis and insist on ``dim``.

best = grades.max(dim=1)
print("values", best.values.tolist(), " indices", best.indices.tolist())
assert best.values.tolist() == [3, 10] and torch.equal(best.indices, grades.argmax(dim=1))
assert grades.max() == 10 and grades.argmax() == 5  # counted through all rows
assert torch.unravel_index(grades.argmax(), grades.shape) == (1, 2)
assert grades.median(dim=1).values.tolist() == [2, 6]

votes = torch.tensor([3, 1, 1, 3, 2])
winner = votes.mode().values
assert (votes == winner).sum() == 2  # 1 or 3: nobody promises which one you get

# %%
# The cumulative sum and product keep every intermediate result.

assert votes.cumsum(dim=0).tolist() == [3, 4, 5, 8, 10]
assert votes.cumprod(dim=0).tolist() == [3, 3, 3, 9, 18]
assert grades.cumsum(dim=1).tolist() == [[1, 3, 6], [5, 11, 21]]
try:
    votes.cumsum()
except TypeError as error:
    print("TypeError:", error)
else:
    raise AssertionError("cumsum guessed an axis")

# %%
# A **norm** folds an axis into a length, :math:`\lVert \mathbf{x} \rVert_p = (\sum_i |x_i|^p)^{1/p}`, and a distance is the norm of a
# difference. New code says :func:`torch.linalg.vector_norm`; ``norm`` and ``dist`` are the older spellings.

u, v = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 8.0])
for p in (1, 2, 3, math.inf):
    gaps = (u - v).abs()
    by_hand = gaps.max() if p == math.inf else gaps.pow(p).sum().pow(1 / p)
    print(f"p = {p:<4} distance {by_hand:.3f}")
    torch.testing.assert_close(torch.linalg.vector_norm(u - v, ord=p), by_hand)
    torch.testing.assert_close((u - v).norm(p=p), by_hand)
    torch.testing.assert_close(torch.dist(u, v, p=p), by_hand)

# %%
# Must the shapes be equal?
# -------------------------
#
# "Two tensors must have the same shape to be added." You will read it often. Here we take each row's mean away from the row, which
# should leave rows with mean 0. The shapes are ``(3, 3)`` and ``(3,)``.

square = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [13.0, 14.0, 15.0]])
wrong = square - square.mean(dim=1)
right = square - square.mean(dim=1, keepdim=True)
print("wrong", wrong.mean(dim=1).tolist(), "  right", right.mean(dim=1).tolist())
assert wrong.shape == right.shape and not wrong.mean(dim=1).eq(0).any()
assert right.mean(dim=1).eq(0).all()

# %%
# Nobody complained: shapes need to *fit*, not to be equal, and ``(3,)`` fits a square matrix as a row. What you wanted was a column, and
# ``keepdim=True`` keeps it one. The rule is called :term:`broadcasting` and has its own lesson, :doc:`/lessons/tensors/08_broadcasting`.
#
# Why do my probabilities not sum to 1?
# -------------------------------------
#
# The :term:`softmax` turns scores into probabilities: exponentials, divided by their sum *along one axis*. Each row below holds the scores
# of one sample.

scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
across_classes = scores.softmax(dim=1)
across_samples = scores.softmax(dim=0)
for name, result in {"dim=1": across_classes, "dim=0": across_samples}.items():
    print(name, " sums of the rows:", *(f"{total:.2f}" for total in result.sum(dim=1)))

exponentials = scores.exp()
torch.testing.assert_close(across_classes, exponentials / exponentials.sum(dim=1, keepdim=True))
torch.testing.assert_close(across_classes.sum(dim=1), torch.ones(2))
assert (across_samples.sum(dim=1) - 1).abs().min() > 0.2  # no distribution over the classes
torch.testing.assert_close(across_samples.sum(dim=0), torch.ones(3))  # but one over the samples

# %%
# The wrong ``dim`` has the right shape and numbers between 0 and 1, so no later line will fail. One old form lets you leave ``dim`` out,
# warns, and then guesses. The guess depends on how many axes there are.

import warnings

from torch.nn import functional as F

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    two_axes, three_axes = F.softmax(scores), F.softmax(scores.reshape(1, 2, 3))
print(caught[0].category.__name__, "-", str(caught[0].message).split(".")[0])
assert len(caught) == 2 and "deprecated" in str(caught[0].message)
torch.testing.assert_close(two_axes, across_classes)  # it guessed dim=1
assert three_axes.eq(1).all()  # it guessed dim=0, which has size 1: certainty everywhere

# %%
# What dtype comes out?
# ---------------------
#
# When two dtypes meet, PyTorch **promotes** both to one that it looks up in a table. The table is short enough to print.

kinds = [torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64]
kinds += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def short(dtype):
    """Return f32 for torch.float32."""
    name = str(dtype).removeprefix("torch.")
    return name.replace("float", "f").replace("uint", "u").replace("int", "i")


print("      ", *(f"{short(column):>5}" for column in kinds))
for row in kinds:
    promoted = [torch.promote_types(row, column) for column in kinds]
    print(f"{short(row):<6}", *(f"{short(dtype):>5}" for dtype in promoted))
    for column, dtype in zip(kinds, promoted, strict=True):
        assert (torch.ones(1, dtype=row) + torch.ones(1, dtype=column)).dtype == dtype

# %%
# Any float beats any integer, however wide: ``int64`` with ``float16`` gives ``float16``. So a large integer can vanish into infinity
# without a word. Two of one kind that cannot hold each other meet in a larger one: ``uint8`` and ``int8`` in ``int16``, the two half
# precisions in ``float32``. A plain Python number is more polite: a float turns integers into the default dtype, but it never widens a
# tensor that has its kind already. Nor does a tensor without axes.

half = torch.zeros(1, dtype=torch.float16)
print(torch.tensor([70_000]) + half)
assert (torch.tensor([70_000]) + half).isinf()

lone = torch.tensor(1.0, dtype=torch.float64)  # a double, but without axes
whole = torch.tensor([1, 2])
assert torch.result_type(half, 1.0) == torch.result_type(half, lone) == torch.float16
assert torch.result_type(whole, 1.0) == torch.float32 == (whole / 2).dtype == whole.exp().dtype
assert (whole > 1).dtype == torch.bool and (whole > 1).sum().dtype == torch.int64

bytes_ = torch.tensor([200, 100], dtype=torch.uint8)
assert bytes_[0] + bytes_[1] == 44  # an addition wraps
assert bytes_.sum() == 300  # a sum is made in int64

# %%
# A trailing underscore means :term:`in place`: the method writes its result into the tensor itself. There the dtype is
# fixed, so nothing can be promoted. Functions whose answer is a fraction refuse integers altogether. Both kinds of error below are a
# ``RuntimeError`` to Python.

counts = torch.tensor([1, 2])
assert counts.add_(1) is counts and counts.tolist() == [2, 3]
assert counts.add(1).tolist() == [3, 4]
assert counts.tolist() == [2, 3]  # no underscore, no change

for attempt in (lambda: counts.add_(0.5), lambda: counts.div_(2), counts.mean, counts.std):
    try:
        attempt()
    except RuntimeError as error:
        print(f"{type(error).__name__}: {str(error).split('.')[0]}")
    else:
        raise AssertionError("an integer tensor took a fraction")
assert counts.float().mean() == 2.5 == counts.mean(dtype=torch.float32)

# %%
# Change something
# ----------------
#
# * Round ``torch.tensor([15.0, 25.0, 35.0])`` to tens, with ``decimals=-1``. Which of them becomes 20, and why two?
# * Draw ``grades.max(dim, keepdim=True).values`` instead of the sum in the picture of ``dim``. Which five numbers appear?
# * Take ``square`` with four rows, shape ``(4, 3)``. Does the wrong subtraction still pass in silence? (No: it fails, and you are lucky.)
#
# Exercises
# ---------
#
# 1. An image batch has the shape ``(N, C, H, W)``. Write one call that returns the mean of each channel, in a shape that can be
#    subtracted from the batch.
# 2. Write ``wrap(angle)`` that brings any angle into the range from :math:`-\pi` up to, but not including, :math:`\pi`, with one call of
#    :func:`torch.remainder`. Why not ``fmod``?
# 3. ``x.std()`` of a tensor with one element is ``nan``, and PyTorch warns. Explain it with the formula. Which argument gives 0?
#
# .. dropdown:: Answers
#
#    1. ``batch.mean(dim=(0, 2, 3), keepdim=True)``, of shape ``(1, C, 1, 1)``.
#    2. ``torch.remainder(angle + math.pi, 2 * math.pi) - math.pi``. ``fmod`` keeps the sign of its first argument, so negative angles
#       would land below the range.
#    3. With :math:`m = 1` and :math:`c = 1` it divides 0 by 0. ``correction=0``.
