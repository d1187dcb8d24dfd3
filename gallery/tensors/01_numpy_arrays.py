r"""
NumPy arrays
============

Make, index, slice, reduce and combine arrays without a loop, say when two of them share memory, and translate what you know into PyTorch.

.. lesson::
   :needs:
   :data: none
"""

# %%
# Who computes all these pixels?
# ------------------------------
#
# Two stones fall into a pond. A few lines compute the height of the water at 115,200 points, and you write no loop.

import matplotlib.pyplot as plt
import numpy as np

plt.style.use("pytorch_course.book")

row = np.arange(240).reshape(240, 1)  # one column of 240 numbers
column = np.arange(480).reshape(1, 480)  # one row of 480 numbers
left = np.hypot(row - 80, column - 150)  # distance of every point from the first stone
right = np.hypot(row - 160, column - 330)
pond = np.cos(left / 5) * np.exp(-left / 150) + np.cos(right / 5) * np.exp(-right / 150)

fig, ax = plt.subplots()
ax.imshow(pond)
ax.set_axis_off()

# %%
# .. caption:: Rings around two stones. Where two crests meet they add up; where a crest meets a trough they cancel.
#    :alt: A rectangle full of two sets of concentric rings, bright for crests and dark for troughs. Between the two centres they
#       cross and form a pattern of small spots.
#
# With :math:`d_k` the distance from stone :math:`k`, the height at row :math:`i` and column :math:`j` is
#
# .. math:: h_{ij} = \sum_k \cos\frac{d_k}{5}\, e^{-d_k/150}, \qquad d_k = \sqrt{(i - i_k)^2 + (j - j_k)^2}
#
# The code says that once, for all points. Do one point by hand, in plain Python, and compare.

import math


def height(i, j):
    """Return the height of the water at one point."""
    distances = [math.sqrt((i - 80) ** 2 + (j - 150) ** 2), math.sqrt((i - 160) ** 2 + (j - 330) ** 2)]
    return sum(math.cos(d / 5) * math.exp(-d / 150) for d in distances)


print(f"by hand {height(100, 200):.4f}   array {pond[100, 200]:.4f}")
for i, j in ((0, 0), (100, 200), (239, 479)):
    assert math.isclose(height(i, j), pond[i, j], abs_tol=1e-12)

# %%
# An **array** is a block of numbers of one kind, its :term:`dtype`, laid out along one or more :term:`axes <axis>`. Its
# :term:`shape` says how many along each. Everything in deep learning is such a block: pictures, sounds, sentences, the weights of a
# network. PyTorch calls its own kind a :term:`tensor`, and nearly all that you learn here about arrays holds for tensors too. You make one
# from a nested list, or by a rule that fills it.

print("pond:", pond.shape, pond.ndim, "axes,", pond.size, "numbers,", pond.dtype)
assert pond.shape == (240, 480) and pond.size == 240 * 480 and pond.nbytes == 8 * pond.size

for made in (np.array([[1, 2, 3], [4, 5, 6]]), np.zeros((2, 3)), np.full((2, 3), 7), np.linspace(0, 1, 5)):
    print(made.shape, made.dtype, made.tolist())

# %%
# Which numbers do I get?
# -----------------------
#
# Square brackets pick. One entry per axis, first the row, then the column: an integer takes one place and **removes** the axis, a slice
# ``start:stop:step`` keeps it, a list takes the places that you name, a condition takes wherever it holds.

a = np.arange(24).reshape(4, 6)
picks = {
    "a[1]": np.s_[1],
    "a[:, 1]": np.s_[:, 1],
    "a[1:, ::2]": np.s_[1:, ::2],
    "a[-1, -2:]": np.s_[-1, -2:],
    "a[[0, 3]]": np.s_[[0, 3]],
    "a[a % 5 == 0]": a % 5 == 0,
}
for name, pick in picks.items():
    print(f"{name:<14} shape {a[pick].shape!s:<8} {a[pick].tolist()}")
assert a[1].shape == (6,) and a[1:2].shape == (1, 6)  # an integer removes the axis, a slice keeps it
assert a[-1, -1] == a[3, 5] == 23 and a[:, 1].tolist() == [1, 7, 13, 19]

# %%
# The picture below paints what each of the six picked, by writing into the same places of an array of zeros.

fig, axes = plt.subplots(2, 3, figsize=(6.4, 3.5))
for ax, (name, pick) in zip(axes.flat, picks.items()):
    chosen = np.zeros(a.shape)
    chosen[pick] = 1
    ax.pcolormesh(chosen, cmap="Blues", vmin=0, vmax=2, edgecolors="white", linewidth=1.5)
    for i, j in np.ndindex(a.shape):
        ax.text(j + 0.5, i + 0.5, a[i, j], ha="center", va="center", fontsize=8, alpha=1 if chosen[i, j] else 0.35)
    ax.set_title(name, family="monospace", fontsize=11)
    ax.set(aspect="equal")
    ax.invert_yaxis()
    ax.set_axis_off()

# %%
# .. caption:: Blue is what each expression picks out of the numbers 0 to 23. Counting begins at 0, and a slice leaves its end out.
#    :alt: Six grids of four rows and six columns. Coloured are, in turn, the second row; the second column; every other column
#       of the last three rows; the last two cells of the last row; the first and last rows; and the five multiples of five.
#
# Which axis disappears?
# ----------------------
#
# ``sum(axis=0)``: does that sum the rows or the columns? Do not learn either; learn that **the axis you name is the one that
# disappears**. By hand, for a matrix with elements :math:`a_{ij}`:
#
# .. math:: \text{sum over axis 0:}\quad s_j = \sum_i a_{ij} \qquad\qquad \text{sum over axis 1:}\quad s_i = \sum_j a_{ij}

small = np.array([[1, 2, 3], [4, 5, 6]])
down = [sum(small[i, j] for i in range(2)) for j in range(3)]
across = [sum(small[i, j] for j in range(3)) for i in range(2)]
assert small.sum(axis=0).tolist() == down == [5, 7, 9]
assert small.sum(axis=1).tolist() == across == [6, 15]

block = np.ones((2, 3, 4))
for axis in range(3):
    gone, kept = block.sum(axis=axis), block.sum(axis=axis, keepdims=True)
    print(f"{block.shape} summed over axis {axis}: {gone.shape}, with keepdims {kept.shape}")
assert block.mean(axis=(1, 2)).shape == (2,) and small.sum() == 21

# %%
# Drawn, the sum over axis 0 presses the matrix flat from above; that over axis 1 presses from the side.

fig, ax = plt.subplots(figsize=(6.4, 3.2))
boxes = {(0, 0): small, (0, 3.2): small.sum(axis=0, keepdims=True), (4.2, 0): small.sum(axis=1, keepdims=True)}
for ((x, y), values), colour in zip(boxes.items(), ("#DCE9F3", "#F9E2B8", "#BFE3D6")):
    for (i, j), value in np.ndenumerate(values):
        ax.add_patch(plt.Rectangle((x + j, y + i), 1, 1, facecolor=colour, edgecolor="white", linewidth=3))
        ax.text(x + j + 0.5, y + i + 0.5, value, ha="center", va="center", fontsize=15)
for tip, tail in (((1.5, 3.1), (1.5, 2.1)), ((4.1, 1), (3.1, 1))):
    ax.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": "0.3"})
ax.text(1.8, 2.6, "axis 0 disappears", va="center")
ax.text(5.4, 1, "axis 1 disappears", va="center")
ax.text(-0.25, 1, "axis 0", rotation=90, ha="center", va="center", color="0.4")
ax.text(1.5, -0.25, "axis 1", ha="center", va="center", color="0.4")
ax.set(xlim=(-0.6, 8), ylim=(4.3, -0.5), aspect="equal")
ax.set_axis_off()

# %%
# .. caption:: Two rows and three columns. Summing over axis 0 leaves three numbers, one per column; over axis 1 two, one per row.
#    :alt: A grid with 1, 2, 3 above 4, 5, 6. An arrow down, labelled axis 0 disappears, leads to a row with 5, 7, 9. An arrow to
#       the right, labelled axis 1 disappears, leads to a column with 6 and 15.
#
# How did a row meet a column?
# ----------------------------
#
# In the pond, ``row`` had shape (240, 1) and ``column`` (1, 480), and what came out had (240, 480). An axis of size 1 is repeated as
# often as the other array needs. That is :term:`broadcasting`; :doc:`/lessons/tensors/08_broadcasting` has the whole rule and its traps.

from pytorch_course.tensors import broadcast

assert np.broadcast_shapes(row.shape, column.shape) == (240, 480) == broadcast(row.shape, column.shape).result
table = np.arange(1, 4).reshape(3, 1) * np.arange(1, 6)
assert all(table[i, j] == (i + 1) * (j + 1) for i in range(3) for j in range(5))
print(table)
print(broadcast((3, 1), (5,)))

# %%
# Did I change the original?
# --------------------------
#
# You take two pieces out of the pond and raise the water in both. One is a slice, the other names its rows in a list. Same numbers, same
# code, two fates.

slice_pond, list_pond = pond.copy(), pond.copy()
piece = slice_pond[60:100]
piece += 2
other = list_pond[list(range(60, 100))]
other += 2
assert np.array_equal(piece, other)

fig, axes = plt.subplots(1, 2, figsize=(6.4, 2))
for ax, image, name in zip(axes, (slice_pond, list_pond), ("slice", "list")):
    ax.imshow(image, vmin=-2, vmax=4)
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: The pond after its pieces were raised. The slice wrote through to the pond; the list of rows never touched it.
#    :alt: Two pictures of the pond. In the left one a horizontal band is much brighter than the rest; the right one has no band.
#
# A slice is a :term:`view`: a second way to read the same memory. A list or a condition makes a :term:`copy`.
# :func:`numpy.shares_memory` tells you which you hold. The same list on the *left* of an assignment does write, because then no piece
# is made: NumPy is told where to put numbers.

assert np.shares_memory(piece, slice_pond) and not np.shares_memory(other, list_pond)
assert np.array_equal(list_pond, pond) and not np.array_equal(slice_pond, pond)

list_pond[list(range(60, 100))] += 2  # on the left: written
assert np.array_equal(list_pond, slice_pond)

for name, pick in picks.items():
    print(f"{name:<14} shares memory: {np.shares_memory(a, a[pick])}")
assert [np.shares_memory(a, a[pick]) for pick in picks.values()] == [True] * 4 + [False] * 2
assert np.shares_memory(a, a.T) and np.shares_memory(a, a.reshape(6, 4)) and not np.shares_memory(a, a.copy())

# %%
# How much of this do I know in PyTorch already?
# ----------------------------------------------
#
# Most of it. Below are pairs of expressions, NumPy's on the left and PyTorch's on the right. The strings that you read are the strings
# that run, on the same numbers, and a pair whose results differ in shape or in one number stops the program.

import torch

rng = np.random.default_rng(0)
arrays = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=(3, 4)), "c": rng.normal(size=(2, 3, 4)), "np": np}
tensors = {name: torch.from_numpy(arrays[name]) for name in "abc"} | {"torch": torch}


def agree(table):
    """Run both sides of every line, check that they agree, print the line, and return how many there were."""
    lines = [[side.strip() for side in line.split("|")] for line in table.strip().splitlines()]
    for ours, theirs in lines:
        want, got = np.asarray(eval(ours, arrays)), np.asarray(eval(theirs, tensors))
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-6)
        print(f"{ours:<38}{theirs}")
    return len(lines)


# %%
# Making, and asking about shape.

pairs = agree("""
    np.array([1, 2])                  | torch.tensor([1, 2])
    np.zeros((2, 3))                  | torch.zeros(2, 3)
    np.full((2, 3), 7)                | torch.full((2, 3), 7)
    np.arange(2, 8)                   | torch.arange(2, 8)
    np.linspace(0, 1, 5)              | torch.linspace(0, 1, 5)
    np.eye(3)                         | torch.eye(3)
    np.ones_like(a)                   | torch.ones_like(a)
    a.copy()                          | a.clone()
    a.astype(np.float32)              | a.to(torch.float32)
    a.ndim                            | a.ndim
    a.shape                           | a.shape
    a.size                            | a.numel()
    a.tolist()                        | a.tolist()
""")

# %%
# Changing the shape, joining, cutting. Where NumPy says ``axis``, PyTorch's documentation says ``dim``.

pairs += agree("""
    a.reshape(2, 6)                   | a.reshape(2, 6)
    a.ravel()                         | a.flatten()
    a.T                               | a.T
    np.transpose(c, (2, 0, 1))        | c.permute(2, 0, 1)
    np.swapaxes(c, 0, 1)              | c.transpose(0, 1)
    np.expand_dims(a, axis=0)         | a.unsqueeze(dim=0)
    np.squeeze(a[:1], axis=0)         | a[:1].squeeze(dim=0)
    np.broadcast_to(a[0], (5, 4))     | a[0].expand(5, 4)
    np.concatenate([a, b], axis=1)    | torch.cat([a, b], dim=1)
    np.stack([a, b], axis=1)          | torch.stack([a, b], dim=1)
    np.tile(a, (2, 1))                | a.repeat(2, 1)
    np.repeat(a, 2, axis=0)           | a.repeat_interleave(2, dim=0)
    np.flip(a, axis=1)                | a.flip(1)
""")

# %%
# Computing, reducing, choosing.

pairs += agree("""
    np.exp(a)                         | a.exp()
    np.clip(a, -1, 1)                 | a.clamp(-1, 1)
    np.maximum(a, b)                  | torch.maximum(a, b)
    a @ b.T                           | a @ b.T
    np.linalg.norm(a)                 | torch.linalg.vector_norm(a)
    a.sum(axis=0)                     | a.sum(dim=0)
    a.mean(axis=1, keepdims=True)     | a.mean(dim=1, keepdim=True)
    a.max(axis=1)                     | a.amax(dim=1)
    a.argmax(axis=1)                  | a.argmax(dim=1)
    np.cumsum(a, axis=1)              | a.cumsum(dim=1)
    np.sort(a, axis=1)                | a.sort(dim=1).values
    np.where(a > 0, a, b)             | torch.where(a > 0, a, b)
    a[a > 0]                          | a[a > 0]
""")

# %%
# Many PyTorch functions even take ``axis`` and ``keepdims`` for ``dim`` and ``keepdim``. Learn PyTorch's own names all the same: they are
# the ones in its documentation and in its error messages.

print(pairs, "pairs agree")
assert pairs >= 25
x = tensors["a"]
assert torch.equal(x.sum(axis=0, keepdims=True), x.sum(dim=0, keepdim=True))

# %%
# And where does the same name do something else?
# -----------------------------------------------
#
# These are the dangerous ones: nearly the same words, two answers. Cover the output and predict the lines.

numbers = {"v": np.array([1.0, 5.0, 7.0, 7.0]), "k": np.array([1, 2]), "c": arrays["c"], "np": np}
twins = {name: torch.from_numpy(numbers[name]) for name in "vkc"} | {"torch": torch}


def outcome(code, names):
    """Return what an expression gives as text, or that it is refused."""
    try:
        result = eval(code, names)
    except (RuntimeError, TypeError, ValueError):
        return "refused"
    return str(np.asarray(result).round(2).tolist()) if hasattr(result, "tolist") else str(result)


# %%
# NumPy's answer is in the second column, PyTorch's in the last.

answers = {}
for ours, theirs in (
    ("np.array([0.5]).dtype", "torch.tensor([0.5]).dtype"),
    ("k.mean()", "k.mean()"),
    ("v.var()", "v.var()"),
    ("np.median(v)", "torch.median(v)"),
    ("v.repeat(2)[:4]", "v.repeat(2)[:4]"),
    ("len(np.split(v, 4))", "len(torch.split(v, 4))"),
    ("v[::-1]", "v[::-1]"),
    ("np.transpose(c).shape", "torch.transpose(c).shape"),
):
    answers[ours] = outcome(ours, numbers), outcome(theirs, twins)
    print(f"{ours:<22} {answers[ours][0]:<22} {answers[ours][1]}")
assert all(first != second for first, second in answers.values())

# %%
# From the top: PyTorch's floats are ``float32`` unless you ask. It refuses the mean of integers. Its variance divides by :math:`n - 1`,
# NumPy's by :math:`n`. Its median of an even count is the lower of the middle two. Its ``repeat`` repeats the whole, as ``np.tile`` does.
# Its ``split`` wants the length of a piece, not the number of pieces. It has no negative steps, and its ``transpose`` swaps two axes that
# you must name. Each has a mend:

v, t, c = numbers["v"], twins["v"], twins["c"]
assert math.isclose(t.var(correction=0), v.var()) and math.isclose(t.var(), v.var(ddof=1))
assert t.quantile(0.5) == np.median(v) and torch.equal(t.flip(0), torch.from_numpy(v[::-1].copy()))
assert t.repeat_interleave(2).tolist() == v.repeat(2).tolist() and len(t.tensor_split(4)) == 4
assert twins["k"].double().mean() == 1.5 and c.permute(2, 1, 0).shape == (4, 3, 2)

values, places = t.reshape(2, 2).max(dim=1)  # NumPy's max gives the values only
assert values.tolist() == [5, 7] and places.tolist() == [1, 0]

# %%
# Is PyTorch NumPy underneath?
# ----------------------------
#
# So many names agree that people say so. The packages themselves say otherwise: each declares what it cannot run without.

import types
from importlib.metadata import requires

for package in ("scikit-learn", "pandas", "torch"):
    needs = [line.lower() for line in requires(package) if "extra" not in line]
    print(f"{package:<13} needs numpy: {any(line.startswith('numpy') for line in needs)}")
assert not any(line.lower().startswith("numpy") and "extra" not in line for line in requires("torch"))
assert isinstance(torch.add, types.BuiltinFunctionType)  # compiled, like NumPy's own functions: not Python

# %%
# PyTorch runs without NumPy and has its own compiled functions. What the two share is a way of thinking, and you have it now. The pond a
# second time: one function, and the library is its argument.


def two_stones(library):
    """Return the heights of the pond, computed by NumPy or by PyTorch."""
    row, column = library.arange(240.0).reshape(240, 1), library.arange(480.0).reshape(1, 480)
    left, right = library.hypot(row - 80, column - 150), library.hypot(row - 160, column - 330)
    waves = [library.cos(distance / 5) * library.exp(-distance / 150) for distance in (left, right)]
    return waves[0] + waves[1]


water = two_stones(torch)
print(type(water).__name__, tuple(water.shape), water.dtype)
np.testing.assert_allclose(two_stones(np), pond, atol=1e-12)
torch.testing.assert_close(water, torch.from_numpy(pond).float(), rtol=0, atol=1e-4)

# %%
# Change something
# ----------------
#
# * Drop a third stone at row 120, column 240. How many lines do you have to touch, and does any shape change?
# * In the axis drawing, replace both ``sum`` by ``max``. Which five numbers will stand beside the matrix?
# * Take the ``.reshape(240, 1)`` away from ``row`` in the first cell. Read the error: which two sizes clash, and on which axis?
#
# Exercises
# ---------
#
# 1. Predict the shape, then run: for ``x = np.zeros((32, 3, 28, 28))``, what are the shapes of ``x[0]``, ``x[:, 0]``, ``x[..., ::2]``,
#    ``x.mean(axis=(2, 3))``, ``x[:, [2, 1, 0]]`` and ``x.reshape(32, -1)``? Which of them are views (a mean is none)?
# 2. Standardise the columns of ``a`` (subtract each column's mean, divide by its standard deviation) in one line of NumPy, then in one
#    line of PyTorch that gives the same numbers.
# 3. ``part = scores[scores < 0]`` and then ``part[:] = 0`` was meant to set the negative scores to zero. Why does it not, and what does?
#
# .. dropdown:: Answers
#
#    1. ``(3, 28, 28)``, ``(32, 28, 28)``, ``(32, 3, 28, 14)``, ``(32, 3)``, ``(32, 3, 28, 28)``, ``(32, 2352)``. The list copies; the
#       slices and the reshape are views.
#    2. ``(a - a.mean(axis=0)) / a.std(axis=0)`` and ``(a - a.mean(dim=0)) / a.std(dim=0, correction=0)``.
#    3. A condition makes a copy, and the copy was set to zero. ``scores[scores < 0] = 0`` writes into the original.
