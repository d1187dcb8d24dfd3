r"""
Broadcasting
============

Predict the shape of any sum of two tensors, and find the bug that lets a perfect prediction have an error.

.. lesson::
   :needs: tensors/06_indexing_and_joining tensors/07_views_and_storage
   :data: none
"""

# %%
# How can a perfect prediction be wrong?
# --------------------------------------
#
# Four predictions, one per row, as a network returns them. Four targets, as you read them from a file. Every prediction is exactly right.

import matplotlib.pyplot as plt
import torch
from pytorch_course.tensors import broadcast, same_storage

plt.style.use("pytorch_course.book")

prediction = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
target = torch.tensor([1.0, 2.0, 3.0, 4.0])
errors = prediction - target
print("mean squared error:", errors.square().mean().item())
assert errors.square().mean() == 2.5 and errors.shape == (4, 4)
ax = broadcast(prediction.shape, target.shape).plot()

# %%
# .. caption:: Why: ``A`` is the prediction, ``B`` the target. One is stretched along the columns, the other along the rows, and the result
#       has sixteen errors instead of four.
#    :alt: Two shapes above a result. A has the sizes 4 and 1, the second hatched and stretched to 4. B has a missing axis, stretched to 4,
#       and the size 4. The result has the sizes 4 and 4.
#
# No error, no warning: each prediction was compared with *every* target. The mechanism behind it is called :term:`broadcasting`. You use
# it in nearly every line, so the answer is not to avoid it, but to see it.
#
# Must the shapes match?
# ----------------------
#
# Notes for beginners say that two tensors need the same shape to be added. They need not.

a, b = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])
assert (a + b).tolist() == [[6, 8], [10, 12]] and (a - b).tolist() == [[-4, -4], [-4, -4]]
assert (a + 10).tolist() == [[11, 12], [13, 14]]  # a number: shape ()
assert (a + torch.tensor([10, 20])).tolist() == [[11, 22], [13, 24]]  # to every row
assert (a + torch.tensor([[10], [20]])).tolist() == [[11, 12], [23, 24]]  # to every column

try:
    a + torch.tensor([10, 20, 30])
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("2 and 3 were stretched to each other")

# %%
# Here is what happens, drawn: a column of four and a row of three. Each is repeated until both have four rows and three columns. Then the
# sum is ordinary.

column, row = torch.tensor([[0], [10], [20], [30]]), torch.tensor([0, 1, 2])
total = column + row
assert total.tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22], [30, 31, 32]]

fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.7))
for ax, tensor, sign in zip(axes, (column, row, total), ("+", "=", "")):
    shown = tensor.expand(4, 3)
    for i, j in torch.cartesian_prod(torch.arange(4), torch.arange(3)).tolist():
        real = j < tensor.shape[-1] and (tensor.ndim == 2 or i == 0)
        face, ink = ("#56B4E9", "black") if real else ("white", "0.55")
        ax.add_patch(plt.Rectangle((j, i), 1, 1, facecolor=face, edgecolor="0.6", linestyle="-" if real else ":"))
        ax.text(j + 0.5, i + 0.5, shown[i, j].item(), color=ink, ha="center", va="center_baseline")
    ax.text(3.45, 2, sign, size=18, ha="center", va="center_baseline")
    ax.text(1.5, -0.4, tuple(tensor.shape), size=12, ha="center")
    ax.set(xlim=(-0.1, 3.8), ylim=(4.1, -0.9), aspect="equal")
    ax.set_axis_off()

# %%
# .. caption:: The blue cells exist. The dotted ones are read again from a blue one, and nobody stores them.
#    :alt: Three grids of four rows and three columns. In the first, only the first column is blue: 0, 10, 20, 30, repeated in pale cells.
#       In the second, only the first row: 0, 1, 2, repeated below. The third is all blue and holds their sum, 0 to 32.
#
# What is the rule?
# -----------------
#
# Write one shape below the other, **aligned at the right**. A missing axis counts as 1. On each axis, with sizes :math:`a_k` and
# :math:`b_k`, the result has
#
# .. math::
#
#    n_k = \begin{cases} a_k & \text{if } b_k = 1 \text{ or } a_k = b_k \\ b_k & \text{if } a_k = 1 \\ \text{an error} & \text{otherwise}
#    \end{cases}
#
# That is the whole rule. Write it yourself and let :func:`torch.broadcast_shapes` check it, on shapes that no one would think of.

import random


def common_shape(*shapes):
    """Return the shape that these shapes are broadcast to, or None if there is none."""
    ndim = max(len(shape) for shape in shapes)
    aligned = [(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes]
    result = []
    for sizes in zip(*aligned):
        others = set(sizes) - {1}
        if len(others) > 1:
            return None
        result.append(others.pop() if others else 1)
    return tuple(result)


# %%
# Six hundred times three random shapes, with axes of length 0 among them:

rng, found = random.Random(0), {"fit": 0, "clash": 0}
for _ in range(600):
    shapes = [tuple(rng.choices((0, 1, 2, 3), (1, 5, 2, 2), k=rng.randint(0, 4))) for _ in range(3)]
    try:
        library = tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        library = None
    assert common_shape(*shapes) == library == broadcast(*shapes).result
    found["clash" if library is None else "fit"] += 1
print(found)
assert min(found.values()) > 100

# %%
# Cover the bottom row of each drawing and predict it.

fig, axes = plt.subplots(2, 2, figsize=(6.4, 4.4))
pairs = [((3, 28, 28), (3, 1, 1)), ((5, 1, 4), (3, 1)), ((6, 4), (6, 1)), ((6, 4), (6,))]
for ax, shapes in zip(axes.flat, pairs):
    broadcast(*shapes).plot(ax)
assert [common_shape(*shapes) for shapes in pairs] == [(3, 28, 28), (5, 3, 4), (6, 4), None]

# %%
# .. caption:: Top left: one number per channel against an image. Bottom right: six numbers for six rows do not fit, because alignment
#    starts at the right, where they meet the 4.
#    :alt: Four drawings of aligned shapes. 3 by 28 by 28 with 3 by 1 by 1 gives the first. 5 by 1 by 4 with 3 by 1 gives 5 by 3 by 4. 6
#       by 4 with 6 by 1 gives 6 by 4. 6 by 4 with 6 is a clash, marked in red.
#
# Does stretching cost memory?
# ----------------------------
#
# The stretched *inputs* are free. PyTorch reads them with a stride of zero, as :doc:`/lessons/tensors/07_views_and_storage` shows for
# :meth:`torch.Tensor.expand`: to go to the next row, move by no cells. (Never write into such a tensor.)

points = torch.linspace(0, 1, 2000)
tall, wide = torch.broadcast_tensors(points[:, None], points)
print(tuple(tall.shape), "strides", tall.stride(), wide.stride())
assert tall.stride() == (1, 0) and wide.stride() == (0, 1)
assert same_storage(tall, points) and same_storage(tall, points[:, None].expand(2000, 2000))

gaps = points[:, None] - points
print(f"in: {points.nbytes:,} bytes, out: {gaps.nbytes:,} bytes")
assert gaps.nbytes == 2000 * points.nbytes
assert torch.broadcast_shapes((2000, 1, 3), (2000, 3)).numel() == 12_000_000  # the same with points in space

# %%
# The *result* is not free. Two thousand numbers became four million, and with three coordinates per point the same line makes twelve
# million, before you sum over the coordinates. When a line that looks harmless fills the memory, look for an outer product that you did
# not order.
#
# Nor will an operation that writes in place stretch the tensor it writes into: there is no room.

assert torch.zeros(2, 3).add_(torch.ones(3)).sum() == 6
try:
    torch.zeros(3).add_(torch.ones(2, 3))
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("three cells took six numbers")

# %%
# What does the silent bug do to training?
# ----------------------------------------
#
# Back to the perfect prediction. Fifty points on a line of slope 3, with a little noise; a slope and an offset to be found by walking
# downhill on the mean squared error. (How PyTorch finds the way down is the subject of :doc:`/lessons/optimization/01_autograd_graph`.) The
# loss is left open, because it will be the only difference between two runs.

x = torch.linspace(-1, 1, 50)[:, None]
y = 3 * x[:, 0] + 1 + 0.3 * torch.randn(50, generator=torch.Generator().manual_seed(0))


def fit(loss_of):
    """Walk downhill on a loss; return slope, offset and the last loss."""
    w, b = torch.zeros(2, requires_grad=True)
    for _ in range(200):
        loss = loss_of(w * x + b)
        slopes = torch.autograd.grad(loss, (w, b))
        w, b = ((p - 0.3 * slope).detach().requires_grad_() for p, slope in zip((w, b), slopes))
    return [round(value.item(), 2) + 0.0 for value in (w, b, loss)]


# %%
# Now call it twice: with the column minus the row, and with the column minus a column.

fits = {
    "silent": fit(lambda prediction: (prediction - y).square().mean()),
    "mended": fit(lambda prediction: (prediction - y[:, None]).square().mean()),
}
for name, (w, b, loss) in fits.items():
    print(f"{name}: slope {w:.1f}  offset {b:.1f}  loss {loss:.1f}")
assert abs(fits["silent"][0]) < 0.02 and abs(fits["mended"][0] - 3) < 0.3

# %%
# The first run converges to a slope of zero. A log of the loss would show a curve that falls and levels off, as curves of losses do. One
# look at the fit is enough:

fig, ax = plt.subplots()
ax.plot(x[:, 0], y, ".", color="0.6")
for (name, (w, b, _)), place in zip(fits.items(), (-0.75, 0.35)):
    (line,) = ax.plot(x[:, 0], w * x[:, 0] + b)
    ax.text(place, w * place + b + 0.3, name, ha="right", color=line.get_color())
ax.set(xlabel="x", ylabel="y")

# %%
# .. caption:: The same data, the same model, the same number of steps. The flat line was told to be near all the points at once.
#    :alt: Grey points rise along a straight line from lower left to upper right. The line named mended runs through them, the one named
#       silent is horizontal at their mean height.
#
# Why flat? The mean over all pairs can be taken apart. With :math:`\bar y` the mean of the targets,
#
# .. math:: \frac{1}{N^2} \sum_{i,j} \bigl(\hat y^{(i)} - y^{(j)}\bigr)^2
#           = \frac{1}{N} \sum_i \bigl(\hat y^{(i)} - \bar y\bigr)^2 + \operatorname{Var}(y)
#
# The first part asks every prediction to be the mean; the second is a floor that no model gets below.

guess = torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
pairs = (guess - y).square().mean()
apart = (guess - y.mean()).square().mean() + y.var(correction=0)
torch.testing.assert_close(pairs, apart)
print(f"floor {y.var(correction=0):.1f}, loss of the silent run {fits['silent'][2]:.1f}")
assert abs(fits["silent"][2] - y.var(correction=0)) < 0.05

# %%
# Who warns me?
# -------------
#
# The usual regression losses of :mod:`torch.nn` do, and Python shows a repeated warning only once. Other losses refuse. Your own
# arithmetic says nothing.

import warnings

import torch.nn.functional as F

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    (guess - y).square().mean()
    assert not caught  # silence
    F.mse_loss(guess, y)
print(caught[0].category.__name__, "-", str(caught[0].message).split(". ")[0])
assert len(caught) == 1 and "broadcasting" in str(caught[0].message)

try:
    F.binary_cross_entropy_with_logits(guess, y.clamp(0, 1))
except ValueError as error:
    print("ValueError:", error)
else:
    raise AssertionError("the shapes went through")

# %%
# No metric warns. Here is a classifier that is right every time, and a line that you find in many repositories:

labels = torch.tensor([1, 1, 1, 0, 1])
predicted = labels.clone()[:, None]  # right, but a column
matches = predicted == labels
print(f"sum over length: {matches.sum() / len(labels):.0%}, mean: {matches.float().mean():.0%}")
assert matches.shape == (5, 5) and matches.sum() == 17
assert (predicted[:, 0] == labels).sum() / len(labels) == 1

# %%
# An accuracy of 340 % gives itself away. One of 68 % does not: you would go and look for a better model.
#
# Why do square tables hide it?
# -----------------------------
#
# You want each row of a table to sum to one, so you divide by the sums of the rows. On three rows of four, PyTorch refuses. On a
# square table the same line runs.

for rows in (3, 4):
    table = torch.arange(1.0, 4 * rows + 1).reshape(rows, 4)
    try:
        share = table / table.sum(dim=1)
    except RuntimeError as error:
        print(f"({rows}, 4) RuntimeError: {str(error).split(' at ')[0]}")
    else:
        print(f"({rows}, 4) rows sum to", [round(value, 2) for value in share.sum(dim=1).tolist()])
        assert not share.sum(dim=1).allclose(torch.ones(rows))
    kept = table / table.sum(dim=1, keepdim=True)
    torch.testing.assert_close(kept.sum(dim=1), torch.ones(rows))

# %%
# A sum over axis 1 has shape (4,), and aligned at the right it stands against the *columns*. ``keepdim=True`` leaves the axis in place with
# length 1, so the shape is (4, 1) and the sums stay with their rows. Test code with sizes that are all different: 3 and 4, never 4 and 4.
#
# Which habits keep me safe?
# --------------------------
#
# Three. Keep the axis when you reduce. Write the new axis where you want it, with ``[:, None]`` or :meth:`torch.Tensor.unsqueeze`,
# instead of trusting the alignment. And wherever two things must correspond one to one, say so in an assertion: it costs nothing, and it
# names the shapes.


def squared_error(prediction, target):
    """Return the mean squared error of two tensors of one shape."""
    assert prediction.shape == target.shape, f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)}"
    return (prediction - target).square().mean()


try:
    squared_error(guess, y)
except AssertionError as error:
    print("AssertionError:", error)
else:
    raise RuntimeError("the habit failed")

torch.testing.assert_close(squared_error(guess[:, 0], y), F.mse_loss(guess, y[:, None]))

# %%
# All three habits at once, on what you will do with every batch of images: bring each channel to mean 0 and standard deviation 1.

images = torch.rand(8, 3, 28, 28, generator=torch.Generator().manual_seed(2))
images *= torch.tensor([1.0, 2.0, 3.0])[:, None, None]  # one factor per channel
samples, channels, height, width = images.shape
mean = images.mean(dim=(0, 2, 3), keepdim=True)
deviation = images.std(dim=(0, 2, 3), keepdim=True)
normal = (images - mean) / deviation
print(tuple(mean.shape), tuple(normal.shape))

assert mean.shape == deviation.shape == (1, channels, 1, 1) and normal.shape == images.shape
torch.testing.assert_close(normal.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
torch.testing.assert_close(normal.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)

# %%
# Change something
# ----------------
#
# * Give ``x`` the range 0 to 2 in the regression. The silent run still finds slope 0. What is its offset now, and which mean is that?
# * Replace ``y[:, None]`` by ``y[None, :]`` in the mended run. Both are two-dimensional; which of the two fits do you get?
# * In the four drawings, change (6,) to (6, 1, 1). It fits now. Predict the result, and how many elements it has, before you draw it.
#
# Exercises
# ---------
#
# 1. Make a multiplication table of 1 to 9 in one line, without a loop.
# 2. ``scores`` has shape (32, 10). Which of ``scores - scores.max(dim=1).values``, ``scores - scores.amax(dim=1, keepdim=True)`` and
#    ``scores - scores.max()`` runs, and which subtracts each row's own maximum?
# 3. Find the bug: ``mask = lengths > torch.arange(longest)`` should say, for each of N sentences, which positions are filled. It ran in
#    the test, where N was equal to the longest length.
#
# .. dropdown:: Answers
#
#    1. ``torch.arange(1, 10)[:, None] * torch.arange(1, 10)``.
#    2. The first fails (10 against 32), the second does what it should, the third subtracts one number from all.
#    3. Both have one axis, so they are compared element by element. ``lengths[:, None] > torch.arange(longest)`` has shape (N, longest).
