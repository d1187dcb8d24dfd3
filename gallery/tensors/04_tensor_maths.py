r"""
Tensor maths
============

Compute with whole tables at once, and say the shape and the dtype of a result before
you run the line.

.. lesson::
   :needs: tensors/03_tensor_creation
   :data: none
   :keywords: dim, axis, reduce, reduction, mean, sum, std, var, median, mode, max,
      argmax, cumsum, keepdim, round half to even, banker's rounding, modulo, remainder,
      fmod, clamp, clip, softmax, norm, type promotion, in-place, nan, mean() could not
      infer output dtype, result type Float can't be cast to the desired output type,
      Implicit dimension choice for softmax has been deprecated
   :thumbnail: 1
"""

# %%
# Which exam was too hard?
# ------------------------
#
# Four students, three exams. You want the mean of each exam. Rows come first in a shape, so ``dim=0`` should mean "for each row", and
# ``dim=1`` "for each exam". Does it?

import torch

ann, ben = [62.0, 40.0, 90.0], [90.0, 36.0, 75.0]
cem, dua = [58.0, 53.0, 78.0], [96.0, 63.0, 90.0]
grades = torch.tensor([ann, ben, cem, dua])

print("dim=0:", grades.mean(dim=0))
print("dim=1:", grades.mean(dim=1))
by_hand = [sum(exam) / 4 for exam in zip(ann, ben, cem, dua)]
assert grades.mean(dim=0).tolist() == by_hand

# %%
# It is the other way round. ``dim=0`` returns three numbers, one for each exam, and the second exam was hard. ``dim=1`` returns four, one
# for each student.

# fold: the table of grades, reduced in both ways
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3))
for dim, ax in enumerate(axes):
    means = grades.mean(dim)
    for i in range(4):
        for j in range(3):
            k = j if dim == 0 else i  # which mean this cell goes into
            box = {"facecolor": f"C{k}", "alpha": 0.3, "linewidth": 0, "pad": 6}
            ax.text(j, i, f"{grades[i, j]:g}", ha="center", va="center", bbox=box)
    for k, mean in enumerate(means.tolist()):
        start, end = ((k, 3.3), (k, 4.8)) if dim == 0 else ((2.4, k), (4.2, k))
        box = {"facecolor": f"C{k}", "alpha": 0.3, "linewidth": 0, "pad": 6}
        ax.text(*end, f"{mean:.4g}", ha="center", va="center", bbox=box)
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "shrinkB": 16})
    ax.set_title(f"mean(dim={dim})", loc="left")
    ax.set(xlim=(-0.6, 4.8), ylim=(5.2, -0.5))
    ax.axis("off")

# %%
# .. caption:: The numbers of one colour become one mean. ``dim=0`` runs down the columns, ``dim=1`` along the rows.
#    :alt: A table of four rows and three columns, twice. Left, each column has an arrow down to its mean: 76.5, 48 and 83.25. Right,
#       each row has an arrow to the right to its mean: 64, 67, 63 and 83.
#
# The formula says the same. The index that is summed over is missing on the left, and ``dim`` names that index:
#
# .. math:: \bar x_j = \frac{1}{m} \sum_{i=0}^{m-1} x_{ij}
#
# So ``dim`` is the :term:`axis` that **disappears**, as in :doc:`/lessons/tensors/01_numpy_arrays`. The same holds for more axes: strike
# them out of the shape. ``keepdim=True`` leaves a 1 in their place. NumPy's word ``axis`` works, too.

t = torch.arange(60.0).reshape(5, 4, 3)
print("dim=1      ", tuple(t.sum(dim=1).shape))
print("dim=-1     ", tuple(t.sum(dim=-1).shape))
print("dim=(0, 2) ", tuple(t.sum(dim=(0, 2)).shape))
print("keepdim    ", tuple(t.sum(dim=1, keepdim=True).shape))
print("axis=1     ", tuple(t.sum(axis=1).shape))
assert t.sum(dim=1).shape == (5, 3)
assert t.sum(dim=1, keepdim=True).shape == (5, 1, 3)

# %%
# How far from the mean is each grade?
# ------------------------------------
#
# Subtract the means. You may have read that both tensors must have the same shape; here they are ``(4, 3)`` and ``(3,)``.

print(grades - grades.mean(dim=0))

# %%
# Now subtract each student's own mean. With three students the table is square:

square = grades[:3]
wrong = square - square.mean(dim=1)
right = square - square.mean(dim=1, keepdim=True)
print("wrong, means of the rows:", wrong.mean(dim=1))
print("right, means of the rows:", right.mean(dim=1))
assert wrong.shape == right.shape
assert (right.mean(dim=1) == 0).all() and (wrong.mean(dim=1) != 0).all()

# %%
# What you expect: rows with mean 0. What happens in the first line: PyTorch reads ``(3,)`` as a *row*, so each exam lost the mean of some
# student, without a message. The fix is ``keepdim=True``, which keeps the means a column. The rule behind this is called
# :term:`broadcasting`; :doc:`/lessons/tensors/08_broadcasting` is about it.
#
# Where is the best one?
# ----------------------
#
# With ``dim``, ``max``, ``median`` and ``mode`` return two tensors: the values, and where each was found. Of four grades, ``median`` takes
# the lower of the two in the middle; the next section comes back to that.

best = grades.max(dim=1)
print("best grades", best.values.tolist(), "in the exams", best.indices.tolist())
print("median of each exam", grades.median(dim=0).values.tolist())
print("without dim:", grades.max().item(), "at place", grades.argmax().item())
assert torch.equal(best.indices, grades.argmax(dim=1))
assert torch.unravel_index(grades.argmax(), grades.shape) == (3, 0)

votes = torch.tensor([3, 1, 1, 3, 2])
winner = votes.mode().values
print("most frequent vote:", winner.item())
assert (votes == winner).sum() == 2

# %%
# The votes 1 and 3 are a tie, and ``mode`` names one of the two. The documentation does not say which, so do not rely on it.
#
# A cumulative function keeps the axis and returns, at each place, the total so far. It insists on ``dim``.

print("cumsum ", votes.cumsum(dim=0).tolist())
print("cumprod", votes.cumprod(dim=0).tolist())
try:
    votes.cumsum()
except TypeError as error:
    print("TypeError:", str(error).split(", but")[0])
assert votes.cumsum(dim=0).tolist() == [3, 4, 5, 8, 10]
assert votes.cumprod(dim=0).tolist() == [3, 3, 3, 9, 18]

# %%
# Why does NumPy say something else?
# ----------------------------------
#
# Median, standard deviation and rounding have more than one definition, and the libraries do not always choose the same.

import numpy as np

sample = torch.tensor([1.0, 2.0, 3.0, 4.0])
halves = torch.tensor([0.5, 1.5, 2.5, 3.5])
print(f"median: torch {sample.median():.3f}, NumPy {np.median(sample.numpy()):.3f}")
print(f"std:    torch {sample.std():.3f}, NumPy {np.std(sample.numpy()):.3f}")
print("round: ", halves.round().tolist())
assert sample.median() == 2 and sample.quantile(0.5) == np.median(sample.numpy()) == 2.5
assert halves.round().tolist() == [0, 2, 2, 4]

# %%
# ``median`` returns an element of the tensor, the lower of the two in the middle. ``round`` (in NumPy as well) sends a half to the *even*
# neighbour: always going up would push sums of many halves upwards. The standard deviation is the root of the variance :math:`s^2`, and
# there the two libraries divide by different numbers. ``correction`` (``ddof`` in NumPy) chooses:
#
# .. math:: s^2 = \frac{1}{m - c} \sum_{i=0}^{m-1} (x_i - \bar x)^2, \qquad c = 1 \text{ in PyTorch}, \quad c = 0 \text{ in NumPy}

squares = ((sample - sample.mean()) ** 2).sum()
for c in (0, 1):
    variance = sample.var(correction=c)
    print(f"correction={c}: {variance:.3f} {np.var(sample.numpy(), ddof=c):.3f}")
    torch.testing.assert_close(variance, squares / (len(sample) - c))
torch.testing.assert_close(sample.std(), (squares / 3).sqrt())

# %%
# Which way does it round?
# ------------------------
#
# Four functions round to whole numbers. Look at the negative ones:

numbers = torch.tensor([-1.75, -0.5, 0.5, 1.5, 1.75])
print("       ", numbers.tolist())
for function in (torch.floor, torch.ceil, torch.trunc, torch.round):
    print(f"{function.__name__:<7}", function(numbers).int().tolist())
assert torch.equal(numbers.trunc(), numbers.sign() * numbers.abs().floor())
assert torch.equal(numbers.ceil(), -(-numbers).floor())

# %%
# What is -7 divided by 3?
# ------------------------
#
# A whole-number division can round down or towards zero, and its remainder follows from :math:`a = bq + r`. Python's ``//``
# and ``%`` round down, those of C towards zero. PyTorch has both; ``/`` between integers gives floats.

a, b = torch.tensor([7, -7]), torch.tensor([3, 3])
down = torch.div(a, b, rounding_mode="floor")
towards_zero = torch.div(a, b, rounding_mode="trunc")
print("floor", down.tolist(), "remainder", torch.remainder(a, b).tolist())
print("trunc", towards_zero.tolist(), "fmod     ", torch.fmod(a, b).tolist())
print("/    ", a / b)
assert torch.equal(a // b, down) and torch.equal(a % b, torch.remainder(a, b))
assert torch.equal(b * down + a % b, a)
assert torch.equal(b * towards_zero + torch.fmod(a, b), a)

# %%
# For a clock you want ``remainder``: seven hours before midnight is ``-7 % 24``, which is 17. ``fmod`` would say -7.
#
# Which functions take one number at a time?
# ------------------------------------------
#
# Most functions work **element by element**, with the same shape out as in. Python's :mod:`math` can check them, one number at a time.

# fold: twelve functions, checked against Python and drawn
import math

functions = {
    "abs": abs, "sqrt": math.sqrt, "exp": math.exp, "log": math.log,
    "square": lambda v: v**2, "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "sin": math.sin, "cos": math.cos, "asin": math.asin, "cosh": math.cosh,
    "tanh": math.tanh, "relu": lambda v: max(v, 0.0),
}  # fmt: skip
x = torch.linspace(-3, 3, 600, dtype=torch.float64)
fig, axes = plt.subplots(3, 4, figsize=(6.4, 4.6), sharex=True)
for ax, (name, by_hand) in zip(axes.flat, functions.items()):
    y = getattr(torch, name)(x)
    known = ~y.isnan()
    expected = [by_hand(value) for value in x[known].tolist()]
    torch.testing.assert_close(y[known], torch.tensor(expected, dtype=x.dtype))
    whole = ax.get_xaxis_transform()
    ax.fill_between(x, 0, 1, where=~known, transform=whole, color="0.85")
    ax.plot(x, y)
    ax.set(title=name, xlim=(-3, 3), xticks=(-3, 0, 3))

# %%
# .. caption:: Twelve functions between -3 and 3, each on its own height scale. Grey: there is no answer.
#    :alt: Twelve small curves. Sqrt and log are shaded grey for negative numbers, asin outside -1 to 1. Sigmoid and tanh are S-shaped;
#       relu is flat and then rises.
#
# Sigmoid and tanh are one curve, stretched. And ``float32`` has limits that the formulas do not have: what is too large becomes infinite,
# and what is too close to 1 becomes 1.

torch.testing.assert_close(x.tanh(), 2 * (2 * x).sigmoid() - 1)
assert torch.equal(x.pow(2), x**2)
zero, twenty, hundred = torch.tensor([0.0, 20.0, 100.0])
print(f"log(0) {zero.log()}, exp(100) {hundred.exp()}, sigmoid(20) {twenty.sigmoid()}")
assert twenty.sigmoid() == 1  # on paper, never

# %%
# Can one number spoil the mean?
# ------------------------------
#
# Where there is no answer, Python raises an error. PyTorch writes ``nan`` (:term:`NaN`, "not a number") and goes on, and one ``nan`` is
# enough to spoil a mean. Keep the input within limits with ``clamp``:

values = torch.tensor([4.0, 9.0, -0.001])
clamped = values.clamp(min=0)
print(f"mean of the roots {values.sqrt().mean():.3f}")
print(f"clamped first     {clamped.sqrt().mean():.3f}")
assert values.sqrt().mean().isnan() and x.asin().isnan().sum() == (x.abs() > 1).sum()

# %%
# Skip this cell until you have met gradients (:doc:`/lessons/optimization/01_autograd_graph`). Outside the limits, ``clamp`` passes no
# gradient on, so training cannot move a number that is stuck there.

w = torch.tensor([-3.0, 0.5, 3.0], requires_grad=True)
w.clamp(-1, 2).sum().backward()
print("clamp(-1, 2):", w.clamp(-1, 2).tolist(), "gradient", w.grad.tolist())
assert w.grad.tolist() == [0, 1, 0]

# %%
# How far, and in which direction?
# --------------------------------
#
# The angle of a point is :func:`torch.atan2` of :math:`y` *and* :math:`x`. Their quotient alone is not enough: it is the same for two
# opposite points. A **norm** measures length, :math:`\lVert \mathbf{x} \rVert_p = (\sum_i |x_i|^p)^{1/p}`; ``dist`` is the norm of a
# difference.

across, up = torch.tensor([1.0, -1.0]), torch.tensor([1.0, -1.0])  # two points
degrees = torch.atan2(up, across).rad2deg()
print("atan ", (up / across).atan().rad2deg(), " atan2", degrees)
torch.testing.assert_close(degrees, torch.tensor([45.0, -135.0]))

u, v = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 8.0])
for p in (1, 2, 3):
    distance = torch.linalg.vector_norm(u - v, ord=p)
    print(f"p={p}: {distance:.3f}")
    torch.testing.assert_close(distance, (u - v).abs().pow(p).sum() ** (1 / p))
    torch.testing.assert_close(distance, torch.dist(u, v, p=p))
    torch.testing.assert_close(distance, (u - v).norm(p=p))  # older spelling

# %%
# Why do my probabilities not sum to 1?
# -------------------------------------
#
# The :term:`softmax` turns scores into probabilities: exponentials, divided by their sum *along one axis*. Each row holds the scores of one
# sample.

scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
for dim in (1, 0):
    print(f"dim={dim}: sums of the rows", scores.softmax(dim=dim).sum(dim=1))
exponentials = scores.exp()
by_hand = exponentials / exponentials.sum(dim=1, keepdim=True)
torch.testing.assert_close(scores.softmax(dim=1), by_hand)
assert (scores.softmax(dim=0).sum(dim=1) - 1).abs().min() > 0.2

# %%
# On paper you may subtract any number from all scores of a row: above and below the line, the same factor cancels. ``softmax`` subtracts
# the largest, so that ``exp`` cannot overflow, as ``exp(100)`` did above.
#
# The wrong ``dim`` returns the right shape, with numbers between 0 and 1, so no later line fails. An old form lets you leave ``dim`` out,
# warns, and guesses; with three axes it guesses 0:

import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    guessed = torch.nn.functional.softmax(scores.reshape(1, 2, 3))
print(str(caught[0].message).split(".")[0])
print(guessed)
assert len(caught) == 1 and (guessed == 1).all()

# %%
# What dtype comes out?
# ---------------------
#
# What you expect: integers behave like floats. What happens: they wrap round at the end of their range, ``mean`` refuses them, and a method
# with a trailing underscore cannot change the dtype, since it works :term:`in place`. ``sum`` is safe here: it adds small integers up in
# ``int64``.

pixels = torch.tensor([200, 100], dtype=torch.uint8)
print("200 + 100 =", (pixels[0] + pixels[1]).item(), " sum:", pixels.sum().item())
assert pixels[0] + pixels[1] == 300 - 256 and pixels.sum() == 300
assert pixels.sum().dtype == torch.int64

counts = torch.tensor([1, 2])
for attempt in (counts.mean, lambda: counts.add_(0.5)):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", str(error).split(".")[0])
print(counts.float().mean().item(), counts.mean(dtype=torch.float32).item())
assert counts.add(1).tolist() == [2, 3] and counts.tolist() == [1, 2]
assert counts.add_(1) is counts and counts.tolist() == [2, 3]

# %%
# The fix is to convert once, ``pixels.float()``, before you compute. When two dtypes meet, PyTorch **promotes** both to one from a table:

# fold: the table of promotion
kinds = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64]
kinds += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
names = ["bool", "u8", "i8", "i16", "i64", "f16", "bf16", "f32", "f64"]
print("     ", *(f"{name:>5}" for name in names))
for name, row in zip(names, kinds):
    line = [torch.promote_types(row, column) for column in kinds]
    promoted = [names[kinds.index(dtype)] for dtype in line]
    print(f"{name:<5}", *(f"{other:>5}" for other in promoted))
    for column, dtype in zip(kinds, line):
        assert (torch.ones(1, dtype=row) + torch.ones(1, dtype=column)).dtype == dtype

# %%
# There are three *kinds* here: bool, integers and floats. A later kind wins, whatever its size, so 70 000 becomes infinite in ``float16``.
# Within one kind, the result is the smallest dtype that can hold both. A plain Python number, and a tensor without axes, do not widen a
# tensor of the same kind:

half = torch.zeros(1, dtype=torch.float16)
print(torch.tensor([70_000]) + half)
print((half + 1.5).dtype, (half + torch.tensor(1.5, dtype=torch.float64)).dtype)
assert (torch.tensor([70_000]) + half).isinf()
assert torch.result_type(half, torch.tensor(1.5, dtype=torch.float64)) == half.dtype

# %%
# Take this with you
# ------------------
#
# ``dim`` is the axis that disappears. Keep it with ``keepdim=True`` when the result meets the table again, and always name it for
# ``softmax``.

torch.manual_seed(0)
table = torch.rand(8, 5)  # a row per sample
centred = table - table.mean(dim=0)  # each column has mean 0
shares = table / table.sum(dim=1, keepdim=True)  # each row sums to 1
best = table.argmax(dim=1)  # the best column of each row
probabilities = table.softmax(dim=1)  # one distribution per row
spread = table.std(dim=0, correction=0)  # as NumPy counts
average = torch.tensor([1, 2]).float().mean()  # integers: convert first

# %%
# Change something
# ----------------
#
# * In the two prints of the first cell, replace ``mean`` by ``median``. What does ``dim=0`` print now?
# * Round ``torch.tensor([15.0, 25.0, 35.0])`` to tens with ``round(decimals=-1)``. Which numbers do you get?
# * Add 100 to ``scores``. Do the probabilities change? Does the ``assert_close`` with ``by_hand`` still pass?
#
# .. dropdown:: What happens
#
#    * Two tensors of three: the values 62, 40 and 78, and the rows where they stand. With four students, each is the lower of the two in
#      the middle.
#    * 20, 20 and 40. 15 and 25 are both halfway, and 20 is the even neighbour of both.
#    * The probabilities stay, because softmax subtracts the largest score of each row first. By hand, ``exp(102)`` is infinite, infinity
#      divided by infinity is ``nan``, and the check raises an ``AssertionError``.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a shape and a dtype
#
#    ``images`` are bytes of shape (8, 3, 16, 12): samples, channels, height, width. You call ``images.sum(dim=(2, 3))``. Answer with the
#    shape and the dtype.

### BEGIN SOLUTION
guess = (8, 3), torch.int64
### END SOLUTION

images = torch.ones(8, 3, 16, 12, dtype=torch.uint8)
total = images.sum(dim=(2, 3))
expect(guess, (tuple(total.shape), total.dtype))

# %%
# .. exercise:: Fix an angle that leaves its range
#
#    A colleague's ``wrap`` should bring any angle in degrees into the range from -180 up to, but not including, 180:
#    ``torch.fmod(angle + 180, 360) - 180``. It is right for 190, and for -190 it returns -190. Write it so that it is right for both.


def wrap(angle):
    ### BEGIN SOLUTION
    return torch.remainder(angle + 180, 360) - 180
    ### END SOLUTION


angles = torch.tensor([190.0, -190.0, 180.0, -180.0, 725.0])
expect(lambda: wrap(angles), torch.tensor([-170.0, 170.0, -180.0, -180.0, 5.0]))

# %%
# .. exercise:: The jury of a skating contest
#
#    Each row holds the marks of one skater, one per judge. For each skater, drop one highest and one lowest mark and return the mean of the
#    others, without a loop. The result has shape (skaters, 1).


def result(marks):
    ### BEGIN SOLUTION
    total = marks.sum(dim=1, keepdim=True)
    total = total - marks.amax(dim=1, keepdim=True) - marks.amin(dim=1, keepdim=True)
    return total / (marks.shape[1] - 2)
    ### END SOLUTION


marks = torch.tensor([[5.0, 9.0, 7.0, 6.0, 8.0], [4.0, 4.0, 10.0, 4.0, 7.0]])
expect(lambda: result(marks), torch.tensor([[7.0], [5.0]]))
