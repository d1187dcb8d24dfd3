r"""
NumPy arrays
============

Compute with whole arrays without a loop, say which axis a sum removes and who shares
memory, and translate what you know into PyTorch.

.. lesson::
   :needs:
   :data: none
   :keywords: ndarray, indexing, slicing, axis, keepdims, broadcasting, view, copy,
      shares_memory, vectorise, vectorize, NumPy to PyTorch, cheat sheet, operands could
      not be broadcast together, step must be greater than zero, mean(): could not infer
      output dtype
"""

# %%
# What does the water look like?
# ------------------------------
#
# Two stones fall into a pond. Around each of them run rings that fade with the distance. You want a picture, so you need the height of the
# water at 240 × 480 points. NumPy computes them all at once, and PyTorch does it in the same way: what you learn here about arrays you will
# use in every lesson on PyTorch. First in plain Python, where you write the height of one point and visit all of them:

import math
import time


def height(i, j):
    """Return the height of the water at row i, column j."""
    left = math.hypot(i - 80, j - 150)  # the distance from the first stone
    right = math.hypot(i - 160, j - 330)
    wave = math.cos(left / 5) * math.exp(-left / 150)
    return wave + math.cos(right / 5) * math.exp(-right / 150)


start = time.perf_counter()
by_loop = [[height(i, j) for j in range(480)] for i in range(240)]
print(f"measured: {1000 * (time.perf_counter() - start):.1f} ms with a loop")
print(f"height at row 100, column 200: {by_loop[100][200]:.4f}")

# %%
# Now the same with NumPy. The formulas stay; ``i`` and ``j`` are no longer two numbers but *all* row numbers and *all* column numbers.

import numpy as np

start = time.perf_counter()
i = np.arange(240).reshape(240, 1)  # the row numbers, one below the other
j = np.arange(480).reshape(1, 480)  # the column numbers, side by side
left = np.hypot(i - 80, j - 150)
right = np.hypot(i - 160, j - 330)
pond = np.cos(left / 5) * np.exp(-left / 150)
pond = pond + np.cos(right / 5) * np.exp(-right / 150)
print(f"measured: {1000 * (time.perf_counter() - start):.1f} ms with arrays")
print(f"height at row 100, column 200: {pond[100, 200]:.4f}")
np.testing.assert_allclose(pond, by_loop, atol=1e-12)

# %%

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots()
ax.imshow(pond)
ax.set_axis_off()

# %%
# .. caption:: Rings around two stones. Where two crests meet they add up; where a crest meets a trough they cancel.
#    :alt: A rectangle full of two sets of concentric rings, bright for crests and dark for troughs. Between the two centres they
#       cross and form a pattern of small spots.
#
# No loop, a fraction of the time, and the code reads like the formula. With :math:`d_k` the distance from stone :math:`k`, which lies at
# row :math:`i_k` and column :math:`j_k`, the height is
#
# .. math:: h_{ij} = \sum_k \cos\frac{d_k}{5}\, e^{-d_k/150}, \qquad d_k = \sqrt{(i - i_k)^2 + (j - j_k)^2}
#
# An **array** is a block of numbers of one kind, its :term:`dtype`, laid out along one or more :term:`axes <axis>`. Its :term:`shape` says
# how many there are along each.

print(pond.shape, pond.ndim, "axes,", pond.size, "numbers,", pond.dtype)
assert pond.shape == (240, 480) and pond.size == 240 * 480

# %%
# Pictures, sounds, sentences, the weights of a network: in deep learning everything is such a block. PyTorch calls its own kind a
# :term:`tensor`, and nearly all that you learn here holds for tensors too. You make an array from a nested list, or by a rule:

table = np.array([[1, 2, 3], [4, 5, 6]])
for made in (table, np.zeros((2, 3)), np.full((2, 3), 7), np.linspace(0, 1, 5)):
    print(made.shape, made.dtype, made.tolist())

# %%
# Which numbers do I get?
# -----------------------
#
# Square brackets pick numbers. Write one entry per axis, first the row, then the column. An axis without an entry stays whole.
#
# * an integer takes one place and **removes** the axis;
# * a slice ``start:stop:step`` takes a range and keeps the axis;
# * a list takes the places that you name;
# * a condition on the whole array takes every place where it holds, and puts what it found along one axis.

a = np.arange(24).reshape(4, 6)
picks = {
    "a[1]": a[1],
    "a[:, 1]": a[:, 1],
    "a[1:, ::2]": a[1:, ::2],
    "a[-1, -2:]": a[-1, -2:],
    "a[[0, 3]]": a[[0, 3]],
    "a[a % 5 == 0]": a[a % 5 == 0],
}
for text, picked in picks.items():
    print(f"{text:<14} {picked.shape!s:<7} {picked.tolist()}")
assert a[1].shape == (6,) and a[1:2].shape == (1, 6)

# %%

# fold: the numbers that each index picks
fig, axes = plt.subplots(2, 3, figsize=(6.4, 3.5))
for ax, (text, picked) in zip(axes.flat, picks.items()):
    chosen = np.isin(a, picked)
    ax.pcolormesh(chosen, cmap="Blues", vmin=0, vmax=2, edgecolors="white")
    for row, column in np.ndindex(a.shape):
        weight = "bold" if chosen[row, column] else "light"
        style = {"ha": "center", "va": "center", "fontsize": 9, "weight": weight}
        ax.text(column + 0.5, row + 0.5, a[row, column], **style)
    ax.set_title(text, family="monospace", fontsize=11)
    ax.set(aspect="equal")
    ax.invert_yaxis()
    ax.set_axis_off()

# %%
# .. caption:: Blue and bold is what each expression picks from the numbers 0 to 23. Counting begins at 0; a slice leaves its end out.
#    :alt: Six grids of four rows and six columns. Coloured are, in turn, the second row; the second column; every other column
#       of the last three rows; the last two cells of the last row; the first and last rows; and the five multiples of five.
#
# Which axis disappears?
# ----------------------
#
# Does ``sum(axis=0)`` sum the rows or the columns? There is a rule that is easier to remember: **the axis you name is the one that
# disappears**.

print("over axis 0:", table.sum(axis=0), "  over axis 1:", table.sum(axis=1))

# %%

# fold: both sums as arrows
fig, ax = plt.subplots(figsize=(6.4, 3.2))
down, across = table.sum(axis=0, keepdims=True), table.sum(axis=1, keepdims=True)
for left, top, values, colour in [
    (0, 0, table, "C5"),
    (0, 3.2, down, "C1"),
    (4.2, 0, across, "C2"),
]:
    for (row, column), value in np.ndenumerate(values):
        corner = (left + column, top + row)
        ax.add_patch(plt.Rectangle(corner, 1, 1, color=colour, alpha=0.4, ec="white"))
        middle = (left + column + 0.5, top + row + 0.5)
        ax.text(*middle, value, ha="center", va="center", fontsize=15)
for tip, tail in [((1.5, 3.1), (1.5, 2.1)), ((4.1, 1), (3.1, 1))]:
    ax.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "linewidth": 2})
ax.text(1.8, 2.6, "axis 0 disappears", va="center")
ax.text(5.4, 1, "axis 1 disappears", va="center")
ax.set(xlim=(-0.2, 8), ylim=(4.3, -0.2), aspect="equal")
ax.set_axis_off()

# %%
# .. caption:: Summing over axis 0 leaves three numbers, one per column. Summing over axis 1 leaves two, one per row.
#    :alt: A grid with 1, 2, 3 above 4, 5, 6. An arrow down, labelled axis 0 disappears, leads to a row with 5, 7, 9. An arrow to
#       the right, labelled axis 1 disappears, leads to a column with 6 and 15.
#
# As formulas, for a matrix with elements :math:`a_{ij}`, and as loops:
#
# .. math:: \text{over axis 0:}\quad s_j = \sum_i a_{ij} \qquad\qquad \text{over axis 1:}\quad s_i = \sum_j a_{ij}

down = [sum(table[i, j] for i in range(2)) for j in range(3)]
across = [sum(table[i, j] for j in range(3)) for i in range(2)]
assert table.sum(axis=0).tolist() == down == [5, 7, 9]
assert table.sum(axis=1).tolist() == across == [6, 15]

block = np.ones((2, 3, 4))
for axis in range(3):
    gone = block.sum(axis=axis)
    kept = block.sum(axis=axis, keepdims=True)
    print(f"axis {axis} of {block.shape}: {gone.shape}, with keepdims {kept.shape}")

# %%
# Name two axes in a tuple, and both disappear. ``reshape`` lays the same numbers out in another shape; one size may be -1, and NumPy works
# out what is left for it, here 3 · 4.

print("mean over axes 0 and 2:", block.mean(axis=(0, 2)).shape)
print("reshape(2, -1):", block.reshape(2, -1).shape)

# %%
# How did a row meet a column?
# ----------------------------
#
# In the pond, the row numbers had shape (240, 1) and the column numbers (1, 480), and every row number met every column number. An axis of
# size 1 is repeated as often as the other array needs. That is :term:`broadcasting`. An axis that is missing on the left counts as size 1,
# so below, shape (5,) is read as (1, 5), and you get a multiplication table:

times = np.arange(1, 4).reshape(3, 1) * np.arange(1, 6)
print(times)
assert times[2, 4] == 3 * 5
assert np.broadcast_shapes((240, 1), (1, 480)) == pond.shape

# %%
# :doc:`/lessons/tensors/08_broadcasting` has the whole rule and its traps.
#
# Did I change the original?
# --------------------------
#
# You take a band of the pond, rows 60 to 99, and raise the water in it. Once you write the rows as a slice, once as a list. You expect
# the same result, and the two bands are indeed equal. The two ponds are not.

pond_a, pond_b = pond.copy(), pond.copy()
band_a = pond_a[60:100]
band_a += 2
band_b = pond_b[list(range(60, 100))]
band_b += 2
print("bands differ by", abs(band_a - band_b).max())
print("ponds differ by", abs(pond_a - pond_b).max())

# %%

# fold: the two ponds
fig, axes = plt.subplots(1, 2, figsize=(6.4, 2))
for ax, image, name in zip(axes, (pond_a, pond_b), ("slice", "list")):
    ax.imshow(image, vmin=-2, vmax=4)
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: The whole pond after its band was raised. The slice wrote through to the pond; the list did not.
#    :alt: Two pictures of the pond. In the left one a horizontal band is much brighter than the rest; the right one has no band.
#
# A slice is a :term:`view`: a second way to read the same memory. A list or a condition makes a :term:`copy`.
# :func:`numpy.shares_memory` tells you which one you have.

for text, picked in picks.items():
    print(f"{text:<14} {'view' if np.shares_memory(a, picked) else 'copy'}")
assert np.shares_memory(pond_a, band_a) and not np.shares_memory(pond_b, band_b)

# %%
# So there are two fixes. To change a part and keep the original, take ``pond[60:100].copy()``. To write through a list or a condition, put
# it on the *left* of one assignment: then no piece is made, and NumPy is only told where to write.

pond_b[list(range(60, 100))] += 2
print("ponds differ by", abs(pond_a - pond_b).max())
assert np.array_equal(pond_a, pond_b)

# %%
# How much of PyTorch do I know already?
# --------------------------------------
#
# Nearly all of this page carries over. The tables below hold NumPy on the left and PyTorch on the right. Read them once to see how little
# changes, mostly ``axis`` into ``dim``; come back when you look for a name. Both sides of every line are run on the same numbers. A line
# whose sides differ in shape or values stops the program; the dtype is not compared.

# fold: run both sides of each line; make and inspect arrays
import torch

rng = np.random.default_rng(0)
sizes = {"a": (3, 4), "b": (3, 4), "c": (2, 3, 4)}
arrays = {name: rng.normal(size=size) for name, size in sizes.items()}
tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
arrays["np"], tensors["torch"] = np, torch


def agree(lines):
    """Print lines of the form NumPy | PyTorch, and compare the two sides of each."""
    for line in lines.strip().splitlines():
        numpy_side, torch_side = line.strip().split(" | ")
        want = np.asarray(eval(numpy_side, arrays))
        got = np.asarray(eval(torch_side, tensors))
        assert got.shape == want.shape, line
        np.testing.assert_allclose(got, want, rtol=1e-6)
        print(f"{numpy_side:<31}{torch_side}")


# %%

# fold: make and inspect
agree("""
    np.array([1, 2]) | torch.tensor([1, 2])
    np.zeros((2, 3)) | torch.zeros(2, 3)
    np.arange(2, 8) | torch.arange(2, 8)
    a.copy() | a.clone()
    a.astype(np.float32) | a.to(torch.float32)
    a.shape | a.shape
    a.size | a.numel()
""")

# %%

# fold: change the shape, join, repeat
agree("""
    a.ravel() | a.flatten()
    np.transpose(c, (2, 0, 1)) | c.permute(2, 0, 1)
    np.expand_dims(a, axis=0) | a.unsqueeze(dim=0)
    np.concatenate([a, b], axis=1) | torch.cat([a, b], dim=1)
    np.stack([a, b], axis=1) | torch.stack([a, b], dim=1)
    np.tile(a, (2, 1)) | a.repeat(2, 1)
    np.repeat(a, 2, axis=0) | a.repeat_interleave(2, dim=0)
""")

# %%

# fold: compute, reduce, choose
agree("""
    np.exp(a) | a.exp()
    np.clip(a, -1, 1) | a.clamp(-1, 1)
    a @ b.T | a @ b.T
    np.linalg.norm(a) | torch.linalg.vector_norm(a)
    a.sum(axis=0) | a.sum(dim=0)
    a.mean(axis=1, keepdims=True) | a.mean(dim=1, keepdim=True)
    a.max(axis=1) | a.amax(dim=1)
    a.argmax(axis=1) | a.argmax(dim=1)
    np.cumsum(a, axis=1) | a.cumsum(dim=1)
    np.sort(a, axis=1) | a.sort(dim=1).values
    np.where(a > 0, a, b) | torch.where(a > 0, a, b)
    a[a > 0] | a[a > 0]
""")

# %%
# Where does the same name do something else?
# -------------------------------------------
#
# In these lines the words are the same and the answers differ, so they are easy to miss. Try to predict the output before you read it.

v = np.array([1.0, 5.0, 7.0, 7.0])
t = torch.from_numpy(v)
print("dtype of [0.5] ", np.array([0.5]).dtype, torch.tensor([0.5]).dtype)
print("var()          ", v.var(), t.var().item())
print("median         ", np.median(v), t.median().item())
print("repeat(2)      ", v.repeat(2).tolist(), t.repeat(2).tolist())
print("split into 4   ", len(np.split(v, 4)), len(torch.split(t, 4)))

# %%
# PyTorch's floats are ``float32`` unless you ask. Its variance divides by :math:`n - 1`, NumPy's by :math:`n`. Its median of an even count
# is the lower of the two in the middle. Its ``repeat`` repeats the whole. Its ``split`` takes the *length* of a piece. Each has a fix, on
# the right:

assert v.var() == t.var(correction=0)
assert np.median(v) == t.quantile(0.5)
assert v.repeat(2).tolist() == t.repeat_interleave(2).tolist()
assert len(np.split(v, 4)) == len(t.tensor_split(4))

# %%
# Two things PyTorch refuses: a negative step, and the mean of integers. Write ``t.flip(0)``, and turn integers into floats first.

for attempt in (lambda: t[::-1], lambda: torch.tensor([1, 2]).mean()):
    try:
        attempt()
    except (RuntimeError, ValueError) as error:
        print(f"{type(error).__name__}: {str(error).split('. ')[0]}")
assert t.flip(0).tolist() == v[::-1].tolist()

# %%
# Is PyTorch NumPy underneath?
# ----------------------------
#
# So many names agree that one function can serve both. Here is the pond again, with the library as an argument:


def two_stones(library):
    """Return the heights of the pond, computed by NumPy or by PyTorch."""
    i = library.arange(240.0).reshape(240, 1)
    j = library.arange(480.0).reshape(1, 480)
    left = library.hypot(i - 80, j - 150)
    right = library.hypot(i - 160, j - 330)
    wave = library.cos(left / 5) * library.exp(-left / 150)
    return wave + library.cos(right / 5) * library.exp(-right / 150)


water = two_stones(torch)
print(type(water).__name__, tuple(water.shape), water.dtype)
torch.testing.assert_close(water, torch.from_numpy(pond).float(), rtol=0, atol=1e-4)

# %%
# You might conclude that PyTorch is built on NumPy. It is not: it brings compiled functions of its own, and NumPy is not even among the
# packages that it has to be installed with.

from importlib.metadata import requires

numpys = [line for line in requires("torch") if "numpy" in line.lower()]
print("requirements of PyTorch that name NumPy:", len(numpys))
assert not numpys

# %%
# Take this with you
# ------------------
#
# The axis you name disappears. An axis of size 1 is repeated. A slice writes through to the original; a list or a condition copies.

celsius = np.array([[12.0, 20.0, 31.0], [14.0, 25.0, 30.0]])  # 2 days, 3 cities
per_city = celsius.mean(axis=0)  # axis 0, the days, disappears: shape (3,)
per_day = celsius.mean(axis=1, keepdims=True)  # shape (2, 1), ready to broadcast
deviation = celsius - per_day  # (2, 3) and (2, 1) give (2, 3)
capped = celsius.copy()  # safe to change: celsius stays as it is
capped[capped > 30] = 30  # a condition on the left writes
tensor = torch.from_numpy(capped)  # the same memory, as a tensor
print(per_city, deviation, tensor, sep="\n")

# %%
# Change something
# ----------------
#
# * Drop a third stone into the pond of arrays, at row 120, column 240. Which lines do you need, and does any shape change?
# * In the drawing of the two sums, replace both ``sum`` by ``max``. Which five numbers will stand beside the table?
# * Take ``.reshape(240, 1)`` away from ``i``. Which two sizes clash?
#
# .. dropdown:: What happens
#
#    * ``third = np.hypot(i - 120, j - 240)``, and its wave added to ``pond``. The shape stays (240, 480). The comparison with the loop
#      fails until ``height`` gets the third stone too.
#    * 4, 5, 6 below the table and 3, 6 beside it. The axis you name disappears, whatever you compute along it.
#    * 240 and 480: ``i`` now lies along the same axis as ``j``. On a square pond NumPy would not object, and the result would be one row.
#
# Exercises
# ---------
#
# Each exercise ends with a call of ``expect``. Replace the line marked ``your code``, or the dots, and run the cell: it prints "right",
# "not done yet", or where your answer first differs from the right one.

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict five shapes
#
#    ``x`` holds a batch of 32 colour pictures of 28 × 30 pixels: its shape is (32, 3, 28, 30). Which shapes have ``x[0]``, ``x[:, 0]``,
#    ``x[:, [2, 1]]``, ``x.mean(axis=(2, 3))`` and ``x.reshape(32, -1)``? Answer with a list of tuples.

### BEGIN SOLUTION
guess = [(3, 28, 30), (32, 28, 30), (32, 2, 28, 30), (32, 3), (32, 2520)]
### END SOLUTION

x = np.zeros((32, 3, 28, 30))
results = [x[0], x[:, 0], x[:, [2, 1]], x.mean(axis=(2, 3)), x.reshape(32, -1)]
expect(guess, [result.shape for result in results])

# %%
# .. exercise:: Compare every row with its own mean
#
#    Each row holds the marks of one student. Write ``from_own_mean``: it returns how far each mark lies from the mean of *its row*.


def from_own_mean(marks):
    ### BEGIN SOLUTION
    return marks - marks.mean(axis=1, keepdims=True)
    ### END SOLUTION


marks = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 1.0]])
expect(lambda: from_own_mean(marks), np.array([[-2.0, -1.0, 3.0], [1.0, 1.0, -2.0]]))

# %%
# .. exercise:: Fix a function that does nothing
#
#    A colleague sets the negative scores to zero: ``part = scores[scores < 0]``, then ``part[:] = 0``, then ``return scores``. The scores
#    come back unchanged. Write it so that the result has zeros, and the caller's array stays as it was.


def without_negatives(scores):
    ### BEGIN SOLUTION
    result = scores.copy()
    result[result < 0] = 0
    return result
    ### END SOLUTION


def result_and_input():
    scores = np.array([2.0, -1.0, 0.5, -3.0])
    return without_negatives(scores).tolist(), scores.tolist()


expect(result_and_input, ([2.0, 0.0, 0.5, 0.0], [2.0, -1.0, 0.5, -3.0]))
