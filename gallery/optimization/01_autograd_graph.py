r"""
The autograd graph
==================

Find out which way to turn every weight, without writing a derivative, and say where
each ``.grad`` comes from.

.. lesson::
   :needs: tensors/04_tensor_maths tensors/07_views_and_storage
   :data: none
   :keywords: automatic differentiation, autodiff, requires_grad, grad_fn, leaf,
      retain_graph, retain_grad, gradient accumulation, grad is None, element 0 of
      tensors does not require grad, trying to backward through the graph a second time,
      grad can be implicitly created only for scalar outputs
   :thumbnail: 2
"""

# %%
# Should the slope go up or down?
# -------------------------------
#
# Six points, and a line through the origin that misses them. You may turn one knob, the slope ``w``. Which way?

import torch

x = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
y = torch.tensor([1.2, 1.9, 3.2, 3.8, 5.3, 5.9])
w = 1.2

# %%

# fold: the points, the line, and how far it misses
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(x, y, "o")
ax.plot([0, 3.2], [0, 3.2 * w], color="C1")
ax.vlines(x, w * x, y, color="0.6", linestyle=":")
ax.annotate("which way?", (3.2, 3.0), ha="right", va="top")
ax.set(xlabel="x", ylabel="y")

# %%
# .. caption:: The dotted lines are the errors. Turning the line up makes them shorter.
#    :alt: Six points rise from left to right. A line through the origin runs below them; dotted vertical lines join each point to it.
#
# The picture answers for one knob. A network has millions, and no picture. What works without one: measure the error, nudge the knob a
# little to either side, and see which way the error falls. A negative change says: turn it up.


def loss(w):
    """Return the mean squared error of the line with slope w."""
    return ((w * x - y) ** 2).mean()


h = 0.001
nudged = (loss(w + h) - loss(w - h)) / (2 * h)
print(f"loss {loss(w):.3f}, change per unit of w: {nudged:.3f}")

# %%
# Now the same question to PyTorch. Say that ``w`` is a knob, compute the loss as before, and go **backward**:

w = torch.tensor(1.2, requires_grad=True)
loss(w).backward()
print(f"w.grad {w.grad:.3f}")
torch.testing.assert_close(w.grad, nudged, rtol=1e-3, atol=1e-3)

# %%
# The same number, and nobody wrote a derivative. For one knob that saves a line. For a million it is the difference between possible and
# not: nudging needs two evaluations *for each knob*, backward needs one walk for all of them.

weights = torch.randn(1_000_000, generator=torch.manual_seed(0)).requires_grad_()
((weights * 3 - 1) ** 2).mean().backward()
print(f"{weights.grad.numel():,} derivatives from one backward")
torch.testing.assert_close(weights.grad, (2 * 3 * (weights.detach() * 3 - 1)) / 1e6)

# %%
# How does it know?
# -----------------
#
# While your code computes, PyTorch writes down each operation and how strongly its result reacts to each input. To see it, take one
# point, ``x = 2``, ``y = 4``, and a line in which the knob appears twice, as slope and as height, so that its influence takes two
# paths: :math:`L = (2w + w - 4)^2`, at :math:`w = 1.2`.

# fold: the computation as a graph, with a factor on each arrow
fig, ax = plt.subplots(figsize=(7, 2.4))
places = {"w": (0, 0), "2w": (1, 0.6), "sum": (2, 0), "error": (3, 0), "L": (4, 0)}
values = {"w": 1.2, "2w": 2.4, "sum": 3.6, "error": -0.4, "L": 0.16}
arrows = [("w", "2w", "2"), ("w", "sum", "1"), ("2w", "sum", "1")]
arrows += [("sum", "error", "1"), ("error", "L", "2·(−0.4)")]
for start, end, factor in arrows:
    (x0, y0), (x1, y1) = places[start], places[end]
    line = {"arrowstyle": "->", "color": "0.5", "shrinkA": 22, "shrinkB": 22}
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=line)
    ax.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.06, factor, ha="center", color="C1")
for name, (left, height) in places.items():
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "C0"}
    text = f"{name}\n{values[name]:g}"
    ax.text(left, height, text, ha="center", va="center", bbox=box, color="black")
ax.set(xlim=(-0.4, 4.4), ylim=(-0.4, 1.0))
ax.axis("off")

# %%
# .. caption:: Forward runs along the arrows. Beside each arrow stands how much its end moves when its start moves by one.
#    :alt: A graph of five boxes. From w one arrow leads to 2w with factor 2 and from there to the sum with factor 1, another from w to the
#       sum with factor 1. From the sum an arrow with factor 1 leads to the error, and from it one with factor 2 times minus 0.4 to L.
#
# How much does :math:`L` move when :math:`w` moves by one? Multiply the factors along a path, and add up the paths. There are two:
#
# .. math:: \frac{\partial L}{\partial w} = 2(-0.4) \cdot 1 \cdot 1 \cdot 2 \;+\; 2(-0.4) \cdot 1 \cdot 1 = -1.6 - 0.8 = -2.4
#
# That is the :term:`chain rule`. Backward starts at :math:`L` with 1 and runs against the arrows. Here it is as a program: a number that
# remembers what it was made of, and with which factors.


class Number:
    """A number that knows what it was computed from."""

    def __init__(self, value, made_of=()):
        self.value, self.made_of = value, made_of  # pairs: (an input, its factor)
        self.grad = 0.0

    def __add__(self, other):
        return Number(self.value + other.value, [(self, 1.0), (other, 1.0)])

    def __mul__(self, other):
        factors = [(self, other.value), (other, self.value)]
        return Number(self.value * other.value, factors)

    def backward(self):
        """Give every number below this one its grad."""
        self.grad = 1.0
        for number in reversed(in_order(self)):
            for part, factor in number.made_of:
                part.grad += factor * number.grad


# %%
# ``in_order`` is the one subtle part. A number passes its gradient on only after *all* its own arrows have brought theirs.


def in_order(result):
    """List the numbers behind a result, each after all that it was made of."""
    found = []

    def visit(number):
        if number not in found:
            for part, _ in number.made_of:
                visit(part)
            found.append(number)

    visit(result)
    return found


# %%
# Now ``w``, at the end of two paths, gets the sum. PyTorch does the same with tensors, in C++.

w = Number(1.2)
error = w * Number(2.0) + w + Number(-4.0)
(error * error).backward()
print(f"our engine: {w.grad:.2f}")

t = torch.tensor(1.2, requires_grad=True)
e = t * 2 + t - 4
(e * e).backward()
print(f"torch:      {t.grad:.2f}")
assert abs(w.grad - t.grad.item()) < 1e-6

# %%
# Where can I see torch's graph?
# ------------------------------
#
# Every result holds the node that made it, its ``grad_fn``; each node knows the next ones on the way back. ``graph`` of the helper
# package follows them and draws.

from pytorch_course.autograd import graph

result = e * e
ax = graph(result, names={"w": t, "e": e, "L": result}).plot()

# %%
# .. caption:: The same computation as torch remembers it, in the direction of the walk back: from the result L to the leaf w. The
#    square is a product of the error with itself, so two arrows lead from L to e.
#    :alt: A graph of boxes from MulBackward0, the result L, through subtraction and addition to the leaf w. Two arrows end at w, one of
#       them by way of a multiplication.
#
# You can take the walk yourself. ``next_functions`` lists, for each input, the node that made it; we follow the first.
# ``AccumulateGrad`` is the end: the node that writes into ``w.grad``.

node = result.grad_fn
names = []
while node.next_functions:
    names.append(type(node).__name__)
    node = node.next_functions[0][0]
print(" -> ".join(names), "->", type(node).__name__)
assert len(names) == 4 and node.variable is t

# %%
# Why is this gradient None?
# --------------------------
#
# The example of many courses: twelve ones, three operations. Only one of the three tensors has a gradient afterwards.

import warnings

x = torch.ones(3, 4, requires_grad=True)
y = x + 2
z = y.pow(3).mean()
z.backward()

for name, tensor in [("x", x), ("y", y), ("z", z)]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient = tensor.grad
    has = "None" if gradient is None else f"{gradient[0, 0]:.2f}"
    print(f"{name}: leaf {tensor.is_leaf}, grad {has}, warnings {len(caught)}")

print("grad_fn of x:", x.grad_fn, " type of x.grad:", type(x.grad).__name__)
assert z == 27 and (x.grad == 3 * 3**2 / 12).all()
assert x.grad_fn is None and x.grad.grad_fn is None

# %%
# ``x`` has no ``grad_fn``, and ``y`` no gradient. Neither is a failure. Nothing *made* ``x``: it is a :term:`leaf`. And ``y.grad`` is
# None because gradients are kept for leaves only; those on the way are used and thrown away, and asking for one warns.
# :meth:`torch.Tensor.retain_grad` keeps it. It is a switch: it returns None, and you
# must set it *before* the walk; on a leaf it changes nothing.

x = torch.ones(3, 4, requires_grad=True)
y = x + 2
z = y.pow(3).mean()
print("retain_grad returns", y.retain_grad())
x.retain_grad()
z.backward()
print(f"y.grad {y.grad[0, 0]:.2f}, x.grad {x.grad[0, 0]:.2f}")
assert y.grad[0, 0] == 2.25 and x.grad[0, 0] == 2.25

# %%
# What you expect: a leaf is a tensor that I made. What happens: a cast is an operation too, so the weight you hold is the *result* of
# the cast: it gets no gradient, and :class:`torch.optim.SGD` refuses it. The fix is to ask for the type when you make the tensor.

cast = torch.ones(3, requires_grad=True).double()
straight = torch.ones(3, dtype=torch.float64, requires_grad=True)
(cast + straight).sum().backward()
print(f"cast: leaf {cast.is_leaf}, requires grad {cast.requires_grad}")
print(f"made as float64: leaf {straight.is_leaf}, grad {straight.grad.tolist()}")
assert not cast.is_leaf and straight.is_leaf

# %%
# Why does the gradient grow?
# ---------------------------
#
# Run the same line three times. The derivative is 2.25 every time.

x = torch.ones(3, 4, requires_grad=True)
seen = []
for _ in range(3):
    (x + 2).pow(3).mean().backward()
    seen.append(x.grad[0, 0].item())
print(seen)
assert seen == [2.25, 4.5, 6.75]

# %%
# Each call of ``backward`` **adds** to ``.grad``. That is useful when several losses, or several small batches, should count
# together; and it is why every training loop clears the gradients. Forget it, and each step is the sum of all before it. Watch a
# descent towards the lowest point of :math:`(w - 3)^2`:


def descend(clear):
    """Take thirty steps downhill from 0."""
    w = torch.tensor(0.0, requires_grad=True)
    path = []
    for _ in range(30):
        path.append(w.item())
        if clear:
            w.grad = None
        ((w - 3) ** 2).backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
    return path


cleared, uncleared = descend(True), descend(False)
print(f"last step: cleared {cleared[-1]:.2f}, never cleared {uncleared[-1]:.2f}")
assert abs(cleared[-1] - 3) < 0.01
assert max(abs(value - 3) for value in uncleared[-10:]) > 1

# %%

# fold: both paths
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(cleared, label="cleared")
ax.plot(uncleared, label="never cleared")
ax.set(xlabel="step", ylabel="w")
ax.legend()

# %%
# .. caption:: With the gradient cleared before each step, w settles at 3. Without it, w swings past 3 again and again.
#    :alt: One curve rises smoothly from 0 to 3 and stays there. The other swings between about 0 and 6 around it.
#
# Can I go back twice?
# --------------------
#
# "A second backward fails" is what you hear. It depends:

x = torch.ones(2, requires_grad=True)
total = (x + 2).sum()
total.backward()
total.backward()  # no complaint
print("sum, twice:", x.grad.tolist())

squares = (x**2).sum()
squares.backward()
try:
    squares.backward()
except RuntimeError as error:
    message = str(error)
print("squares, twice:", message.split(" (")[0])

# %%
# The factors of a sum are ones, so its graph holds no numbers. The factor of a square is :math:`2x`: the graph **saved** ``x``, and the
# first walk gives that memory back. ``retain_graph=True`` keeps it. You rarely want that. In training the answer to this message is
# nearly always to compute the loss again, or to cut off what belongs to the previous step with ``detach``.

state = torch.zeros(1)
x = torch.ones(1, requires_grad=True)
for _ in range(3):
    state = (state.detach() + x) ** 2  # without detach, the walk enters the last step
    state.sum().backward()
print(f"state {state.item():.0f}, gradient {x.grad.item():.0f}")
assert state == 25 and x.grad == 2 * 1 + 2 * 2 + 2 * 5

# %%
# Is it the same graph every time?
# --------------------------------
#
# No. Running your Python *makes* the graph, so ``if`` and ``while`` decide what is in it. Two inputs, two graphs:


def halve_until_small(x):
    """Halve x until its sum is at most 1."""
    while x.sum() > 1:
        x = x / 2
    return x.sum()


sizes = []
for start in (1.0, 3.0):
    x = torch.full((2,), start, requires_grad=True)
    result = halve_until_small(x)
    result.backward()
    sizes.append(len(graph(result).nodes))
    print(f"start {start}: {sizes[-1]} nodes, gradient {x.grad[0]}")
assert sizes == [3, 5]

# %%
# Only operations of torch are written down. A detour through Python numbers or NumPy leaves no node, and the walk ends there. Some
# ways out raise at once, others only when you go backward, and some never: a loss that is cut off in *one* of its terms just learns
# less.

w = torch.tensor([1.0, 2.0], requires_grad=True)
rebuilt = torch.tensor(w.tolist()) * 2
for attempt in (w.numpy, rebuilt.sum().backward):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", str(error).split(". ")[0])

half_lost = (w**2).sum() + rebuilt.sum()
half_lost.backward()
print("gradient of w² + 2w, cut off in the second term:", w.grad.tolist())
assert w.grad.tolist() == [2, 4]  # it should be [4, 6]

# %%
# What if the result is not one number?
# -------------------------------------
#
# Then there is no single gradient, and :meth:`torch.Tensor.backward` says so. Tell it how much each result counts, and it returns the
# gradient of that weighted sum, the :term:`vector-Jacobian product` :math:`v^\top J`.

x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
v = torch.tensor([1.0, 10.0, 100.0])
(x**2).backward(gradient=v)
print(x.grad)
torch.testing.assert_close(x.grad, v @ torch.diag(2 * x.detach()))

# %%
# Take this with you
# ------------------
#
# Ask for gradients on leaves, clear before you go back, and step where nothing is recorded. Read a number out with ``item``.

inputs = torch.rand(8, 3)
targets = inputs @ torch.tensor([1.0, 2.0, 3.0])
weights = torch.zeros(3, requires_grad=True)
for _ in range(500):
    weights.grad = None
    error = ((inputs @ weights - targets) ** 2).mean()
    error.backward()
    with torch.no_grad():
        weights -= 0.3 * weights.grad

# %%
# Change something
# ----------------
#
# * In the descent that never clears, set the rate from 0.1 to 0.01. Does it still swing?
# * In ``halve_until_small``, replace ``x / 2`` by ``x - x / 2``. The values stay. How many nodes has the graph for 3.0?
# * In ``Number.backward``, leave out ``reversed``. Which gradient does ``w`` get now, and why?
#
# .. dropdown:: What happens
#
#    * The walk that never clears still overshoots 3, only later: thirty steps show the first rise to nearly 6, where the rate 0.1
#      shows two swings. The walk that clears has come only to 1.33, so its assertion stops the page.
#    * Eight instead of five: each of the three turns of the loop is now a division *and* a subtraction.
#    * 0.0. The walk starts at ``w``, whose gradient is still 0, and passes on zeros until it reaches the result at last.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict an accumulated gradient
#
#    ``a`` is 3. Two losses call ``backward`` one after the other: ``a * 5``, then ``a**2``. What is ``a.grad``?

### BEGIN SOLUTION
guess = 11.0
### END SOLUTION

a = torch.tensor(3.0, requires_grad=True)
(a * 5).backward()
(a**2).backward()
expect(guess, a.grad.item())

# %%
# .. exercise:: Teach the engine to subtract
#
#    Write ``minus(a, b)`` for two ``Number``. Its value is the difference; with which factors do ``a`` and ``b`` enter?


def minus(a, b):
    ### BEGIN SOLUTION
    return Number(a.value - b.value, [(a, 1.0), (b, -1.0)])
    ### END SOLUTION


def slopes():
    a, b = Number(5.0), Number(2.0)
    difference = minus(a, b)
    (difference * difference).backward()
    return difference.value, a.grad, b.grad


expect(slopes, (3.0, 6.0, -6.0))

# %%
# .. exercise:: Fix a loss that keeps every graph
#
#    A colleague adds up squared errors over many steps, ``total = total + (weight - target) ** 2``, to print their mean. Memory grows
#    with every step, because ``total`` holds the graph of all of them. Write ``average``: the mean of the squared errors, as a tensor
#    without a graph. ``item`` reads a number out of a tensor and leaves the graph behind.


def average(weight, targets):
    ### BEGIN SOLUTION
    total = 0.0
    for target in targets:
        total += ((weight - target) ** 2).item()
    return torch.tensor(total / len(targets))
    ### END SOLUTION


weight = torch.tensor(1.0, requires_grad=True)
expect(lambda: average(weight, [2.0, 4.0]), torch.tensor(5.0))
expect(lambda: average(weight, [2.0, 4.0]).requires_grad, False)
