r"""
Backpropagation by hand
=======================

Compute every gradient of a two-layer network with matrix products, match autograd
number for number, and learn what no single layer can.

.. lesson::
   :needs: optimization/02_sigmoid_by_hand optimization/04_gradient_descent
      tensors/05_linear_algebra
   :data: the four positions of two switches
   :keywords: backprop, chain rule, multilayer perceptron, MLP, feedforward network,
      neural network from scratch, NumPy neural network, XOR, exclusive or, hidden
      layer, hidden units, derivative of a linear layer, matrix gradient, transpose in
      backward, backward pass, local minimum, plateau, loss stuck, network does not
      learn
   :thumbnail: 4
"""

# %%
# Can a formula run the staircase lamp?
# -------------------------------------
#
# A staircase has one lamp and two switches. Whichever switch you flip, the lamp changes: it is on when exactly one of them is up. Can a
# model learn that from the four cases? Begin with the simplest one, a weight for each switch and a bias, and take the best that exist.

import numpy as np

X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # the switches
Y = np.array([[0.0], [1.0], [1.0], [0.0]])  # the lamp

with_ones = np.hstack([X, np.ones((4, 1))])
best = np.linalg.lstsq(with_ones, Y)[0]
print("wanted   ", Y.flatten())
print("best rule", (with_ones @ best).flatten().round(3))
assert np.allclose(with_ones @ best, 0.5)

# %%
# The best rule says "half on", always. Be less strict: a rule says *on* where its sum is positive. Try 100,000 random ones.

lines = np.random.default_rng(0).standard_normal((100_000, 3))
sums = X @ lines[:, :2].T + lines[:, 2]
right = ((sums > 0) == (Y == 1)).sum(axis=0)
for cases in range(5):
    print(f"{cases} cases right: {(right == cases).sum():6,} rules")
assert right.max() == 3

# %%

# fold: the four cases and some random lines
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")


def mark_cases(ax, places):
    """Draw a circle where the lamp is off and a square where it is on."""
    for on, marker, name in ((0, "o", "off"), (1, "s", "on")):
        chosen = places[Y[:, 0] == on]
        style = {"color": f"C{on}", "markersize": 12, "markeredgecolor": "white"}
        ax.plot(chosen[:, 0], chosen[:, 1], marker, label=name, zorder=3, **style)


fig, ax = plt.subplots(figsize=(5, 3.4))
for w1, w2, b in lines[right == 3][:6]:
    ax.axline((0, -b / w2), slope=-w1 / w2, color="0.75", linewidth=1)
mark_cases(ax, X)
ax.set(xlabel="first switch", xticks=[0, 1], xlim=(-0.4, 1.4))
ax.set(ylabel="second switch", yticks=[0, 1], ylim=(-0.4, 1.4))
ax.legend(loc="center")

# %%
# .. caption:: Six of the best rules. Each cuts off one corner, and so it is wrong about the opposite one.
#    :alt: A unit square with circles (lamp off) at two opposite corners and squares (lamp on) at the other two. Six grey straight lines
#       cross it, each with one corner on one side and three on the other.
#
# Where would you draw a better line? There is none. For every rule :math:`w_1 x_1 + w_2 x_2 + b`, the sums at two opposite corners add up
# to the same number as those at the other two. To be right everywhere, one pair would have to be positive and the other not.

gap = sums[0] + sums[3] - sums[1] - sums[2]
print("largest gap between the pairs:", np.abs(gap).max().round(9))
assert np.allclose(sums[0] + sums[3], sums[1] + sums[2])

# %%
# The lamp computes *exclusive or*, XOR, the famous limit of a single :term:`layer` :cite:p:`minsky1969`. Put two **hidden
# units** in between, each with its own weights for the switches and a bend, ``tanh``.


def forward(W1, b1, W2, b2):
    """Return the hidden values and the answers."""
    A = np.tanh(X @ W1.T + b1)
    return A, A @ W2.T + b2


def loss(W1, b1, W2, b2):
    """Return the mean squared error of the answers."""
    return ((forward(W1, b1, W2, b2)[1] - Y) ** 2).mean()


rng = np.random.default_rng(6)
W1, b1 = rng.standard_normal((2, 2)), rng.standard_normal(2)
W2, b2 = rng.standard_normal((1, 2)), rng.standard_normal(1)
print(f"loss of random weights: {loss(W1, b1, W2, b2):.3f}")

# %%
# What does one weight do?
# ------------------------
#
# Nine numbers to adjust, and only the answers have a right value. Take one weight far from the loss, from the second switch to the second
# hidden unit. It reaches the loss by one path, and the :term:`chain rule` of :doc:`/lessons/optimization/01_autograd_graph`
# says what to do: multiply the factors along it.

# fold: the network with one path
fig, ax = plt.subplots(figsize=(6.4, 2.6))
dots = {"$x_1$": (0, 1), "$x_2$": (0, 0), "$a_1$": (1.6, 1), "$a_2$": (1.6, 0)}
dots |= {r"$\hat y$": (3.2, 0.5), "$L$": (4.4, 0.5)}
names = list(dots)
for start, end in ("02", "03", "13", "34", "12", "24", "45"):
    (x0, y0), (x1, y1) = dots[names[int(start)]], dots[names[int(end)]]
    on_path = start + end in ("13", "34", "45")
    ax.plot(
        [x0, x1], [y0, y1], color="C1" if on_path else "0.8", lw=3 if on_path else 1
    )
for name, place in dots.items():
    box = {"boxstyle": "circle,pad=0.4", "facecolor": "white", "edgecolor": "C0"}
    ax.text(*place, name, ha="center", va="center", bbox=box, color="black")
ax.text(0.8, -0.25, "$x_2$", ha="center")
ax.text(1.6, -0.45, "$1 - a_2^2$", ha="center")
ax.text(2.5, 0.04, "$w$", ha="left")
ax.text(3.8, 0.62, r"$\frac{2}{4}(\hat y - y)$", ha="center")
ax.set(xlim=(-0.3, 4.7), ylim=(-0.6, 1.3))
ax.axis("off")

# %%
# .. caption:: The path of one weight. Beside each piece stands how much its end moves when its start moves by one.
#    :alt: A network drawn as circles: two inputs, two hidden units, one answer, the loss. A thick path runs from the second input through
#       the second hidden unit and the answer to the loss, with a factor beside each piece.
#
# The loss is a mean over four cases: four such products, and the :term:`gradient` is their sum. Compare it with a nudge:

A, answers = forward(W1, b1, W2, b2)
error = (answers - Y)[:, 0]
paths = X[:, 1] * (1 - A[:, 1] ** 2) * W2[0, 1] * 2 / 4 * error
nudge = np.array([[0, 0], [0, 1e-6]])
change = loss(W1 + nudge, b1, W2, b2) - loss(W1 - nudge, b1, W2, b2)
print("one product per case:", paths.round(4))
print(f"their sum {paths.sum():.6f}, by nudging {change / 2e-6:.6f}")
assert abs(paths.sum() - change / 2e-6) < 1e-6

# %%
# And all nine at once?
# ---------------------
#
# Every path ends with the same piece, and many share more. So go back from the loss, layer by layer, and compute each shared piece once:
# that is **backpropagation** :cite:p:`rumelhart1986`. For :math:`N` samples and :math:`h` hidden units, the way forward is
#
# .. math::
#
#    \begin{aligned}
#    \mathbf{Z} &= \mathbf{X}\mathbf{W}_1^\top + \mathbf{b}_1 &&(N,h) \\
#    \mathbf{A} &= \tanh\mathbf{Z} &&(N,h) \\
#    \hat{\mathbf{Y}} &= \mathbf{A}\mathbf{W}_2^\top + \mathbf{b}_2 &&(N,1) \\
#    L &= \tfrac{1}{N}\lVert\hat{\mathbf{Y}} - \mathbf{Y}\rVert^2 &&()
#    \end{aligned}
#
# On the way back, write :math:`\mathrm{d}\mathbf{A}` for :math:`\partial L / \partial \mathbf{A}`. It has the shape of
# :math:`\mathbf{A}`, and so for all the others; :math:`\mathrm{d}\mathbf{Y}` belongs to :math:`\hat{\mathbf{Y}}`.
#
# .. math::
#
#    \begin{aligned}
#    \mathrm{d}\mathbf{Y} &= \tfrac{2}{N}(\hat{\mathbf{Y}} - \mathbf{Y}) &&(N,1) \\
#    \mathrm{d}\mathbf{W}_2 &= \mathrm{d}\mathbf{Y}^\top\mathbf{A}, \quad
#    \mathrm{d}\mathbf{b}_2 = \textstyle\sum_i\mathrm{d}\mathbf{y}^{(i)} &&(1,h),\ (1) \\
#    \mathrm{d}\mathbf{A} &= \mathrm{d}\mathbf{Y}\,\mathbf{W}_2 &&(N,h) \\
#    \mathrm{d}\mathbf{Z} &= \mathrm{d}\mathbf{A}\odot(1 - \mathbf{A}\odot\mathbf{A}) &&(N,h) \\
#    \mathrm{d}\mathbf{W}_1 &= \mathrm{d}\mathbf{Z}^\top\mathbf{X}, \quad
#    \mathrm{d}\mathbf{b}_1 = \textstyle\sum_i\mathrm{d}\mathbf{z}^{(i)} &&(h,2),\ (h)
#    \end{aligned}
#
# As a program:


def backward(A, answers, W2):
    """Return the gradients of W1, b1, W2 and b2."""
    dY = 2 / len(Y) * (answers - Y)
    dW2, db2 = dY.T @ A, dY.sum(axis=0)
    dA = dY @ W2
    dZ = dA * (1 - A * A)
    dW1, db1 = dZ.T @ X, dZ.sum(axis=0)
    return dW1, db1, dW2, db2


# %%
# The same network in PyTorch, which finds its own way back:

import torch
from torch.nn import functional as F

inputs, targets = torch.from_numpy(X), torch.from_numpy(Y)


def torch_loss(W1, b1, W2, b2):
    """Return the loss of the same network, with a graph behind it."""
    hidden = torch.tanh(F.linear(inputs, W1, b1))
    return F.mse_loss(F.linear(hidden, W2, b2), targets)


leaves = [torch.tensor(value, requires_grad=True) for value in (W1, b1, W2, b2)]
result = torch_loss(*leaves)
result.backward()

by_hand = backward(A, answers, W2)
for name, mine, leaf in zip(("W1", "b1", "W2", "b2"), by_hand, leaves):
    print(name, "by hand ", mine.flatten().round(4))
    print(name, "autograd", leaf.grad.flatten().numpy().round(4))
    torch.testing.assert_close(torch.from_numpy(mine), leaf.grad)

# %%
# You meet the sum over the four paths again, as the last number of ``W1``. It explains the transposes:
# :math:`(\mathrm{d}\mathbf{Z}^\top\mathbf{X})_{jk} = \sum_i\mathrm{d}Z_{ij}\,X_{ik}` sums over the samples what arrived at unit :math:`j`
# times what input :math:`k` sent. A bias is a weight on an input that is always 1. When in doubt, ask the shapes: only one product of
# :math:`(N,h)` and :math:`(N,2)` gives :math:`(h,2)`.
#
# Autograd goes the same way. Here is its graph:

from pytorch_course.autograd import graph

ax = graph(result, names=dict(zip(("W1", "b1", "W2", "b2"), leaves))).plot()

# %%
# .. caption:: Read it from the loss: MseLoss gives dY, the first Addmm gives dW2, db2 and dA, Tanh gives dZ, the second Addmm dW1 and
#    db1.
#    ``TBackward0`` turns a weight's gradient over.
#    :alt: A chain of boxes from MseLossBackward0 through AddmmBackward0 and TanhBackward0 to a second AddmmBackward0. The leaves W2 and b2
#       hang from the first AddmmBackward0, W1 and b1 from the second.
#
# Does the last layer send the right answers back?
# ------------------------------------------------
#
# You might expect that backpropagation tells the hidden units which answer was right. It cannot, because there is more than one. Turn
# all signs of the first unit around, its weights in and its weight out:

flip = np.array([-1.0, 1.0])
turned, same = forward(W1 * flip[:, None], b1 * flip, W2 * flip, b2)
print("first unit    ", A[:, 0].round(3), "answers", answers[:, 0].round(3))
print("turned around ", turned[:, 0].round(3), "answers", same[:, 0].round(3))
assert np.allclose(turned[:, 0], -A[:, 0]) and np.allclose(same, answers)

# %%
# Opposite hidden values, the same answers: neither is the right one. What comes back is a *slope*, for each hidden value how the loss
# changes when it moves a little. It names a direction and no distance. Move the hidden values against it, by more and more:

dA = 2 / len(Y) * (answers - Y) @ W2
moved_losses = []
for distance in (0.0, 0.1, 1.0, 10.0):
    moved = A - distance * dA
    moved_losses.append(((moved @ W2.T + b2 - Y) ** 2).mean())
    print(f"moved by {distance:4} times the slope: loss {moved_losses[-1]:8.4f}")
assert moved_losses[1] < moved_losses[0] < moved_losses[3]

# %%
# The gradient names a direction, not a distance: up to some size a larger step helps more, and beyond it the loss rises. So the network
# takes many moderate steps.
#
# Does it learn the lamp?
# -----------------------
#
# Train twice from the same numbers: with the lines above, and with autograd.

weights = [W1.copy(), b1.copy(), W2.copy(), b2.copy()]
optimizer = torch.optim.SGD(leaves, lr=0.2)
for step in range(301):
    A, answers = forward(*weights)
    mine = ((answers - Y) ** 2).mean()
    optimizer.zero_grad()
    result = torch_loss(*leaves)
    if step in (0, 10, 100, 300):
        print(f"step {step:3}  by hand {mine:.4e}  autograd {result:.4e}")
    for weight, gradient in zip(weights, backward(A, answers, weights[2])):
        weight -= 0.2 * gradient
    result.backward()
    optimizer.step()

print("answers", answers.flatten().round(2) + 0.0)
torch.testing.assert_close(result.item(), mine, rtol=1e-6, atol=0)
assert np.abs(answers - Y).max() < 0.01

# %%
# Off, on, on, off. How, when the last layer is a straight rule again? Look at what the first layer makes of the square.

# fold: the inputs, and what the first layer makes of them
ticks = np.linspace(-0.25, 1.25, 61)
grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)
sheet = np.tanh(grid @ weights[0].T + weights[1])
surface = (sheet @ weights[2].T + weights[3])[..., 0]
fig, (left, middle) = plt.subplots(1, 2, figsize=(6.4, 3.3))
left.contourf(ticks, ticks, surface, levels=12)
left.contour(ticks, ticks, surface, levels=[0.5], colors="white")
mark_cases(left, X)
for k in range(0, 61, 5):
    middle.plot(sheet[k, :, 0], sheet[k, :, 1], color="0.75", linewidth=0.8)
    middle.plot(sheet[:, k, 0], sheet[:, k, 1], color="0.75", linewidth=0.8)
(w1, w2), b = weights[2][0], weights[3][0]
middle.axline((0, (0.5 - b) / w2), slope=-w1 / w2, color="black", linestyle="--")
mark_cases(middle, A)
left.set(title="switches", xlabel="$x_1$", ylabel="$x_2$")
middle.set(title="hidden units", xlabel="$a_1$", ylabel="$a_2$")
middle.set(xlim=(-1, 1.15), ylim=(-1, 1.15))
middle.legend(loc="lower left")

# %%
# .. caption:: Left, the answers, with the border drawn white. Right, where the first layer puts the same points: both squares nearly
#    on
#       one spot, so that a straight line parts them from the circles.
#    :alt: Left, a coloured map of the square; a bright diagonal band between two parallel white lines holds the squares. Right, the whole
#       grid lies on one thin bent curve; the circles sit near its ends, the squares together in the bend, which a dashed line cuts off.
#
# Both hidden units look at little but the *sum* of the switches, each with a threshold of its own. Nobody told them; three hundred slopes
# did.

print("weights of the hidden units", weights[0].round(2).tolist())
assert np.allclose(weights[0][:, 0], weights[0][:, 1], atol=0.4)

# %%
# Does it always learn?
# ---------------------
#
# This start was a good one. Train a hundred networks side by side, each from its own start. The formulas stay: every matrix gets one more
# axis in front, and ``.mT`` transposes the last two.


def train_many(hidden, steps=1500, rate=0.2):
    """Train a hundred networks; return the losses of each step and the last errors."""
    rng = np.random.default_rng(0)
    W1, b1 = rng.standard_normal((100, hidden, 2)), np.zeros((100, 1, hidden))
    W2, b2 = rng.standard_normal((100, 1, hidden)), np.zeros((100, 1, 1))
    losses = []
    for _ in range(steps):
        A = np.tanh(X @ W1.mT + b1)
        error = A @ W2.mT + b2 - Y
        losses.append((error**2).mean(axis=(1, 2)))
        dY = 2 / len(Y) * error
        dZ = dY @ W2 * (1 - A * A)
        W2 -= rate * dY.mT @ A
        b2 -= rate * dY.sum(axis=1, keepdims=True)
        W1 -= rate * dZ.mT @ X
        b1 -= rate * dZ.sum(axis=1, keepdims=True)
    return np.array(losses), error


# %%
# A run that ends with a loss above 0.1 counts as stuck.

runs = {hidden: train_many(hidden) for hidden in (2, 3, 4)}
stuck = {}
for hidden, (losses, _) in runs.items():
    stuck[hidden] = (losses[-1] > 0.1).sum()
    print(f"{hidden} hidden units: {stuck[hidden]} of 100 stuck")
assert stuck[2] > 10 and stuck[4] < 3

# %%

# fold: the losses of a hundred starts with two hidden units
fig, ax = plt.subplots(figsize=(6.4, 3))
for run in runs[2][0].T:
    color, style = ("C3", "--") if run[-1] > 0.1 else ("C0", "-")
    ax.semilogy(run, style, color=color, linewidth=0.8, alpha=0.5)
ax.axhline(1 / 8, color="0.3", linestyle=":", linewidth=1)
ax.text(1570, 0.1, "1/8", ha="right", va="top")
ax.set(xlabel="step", ylabel="loss", ylim=(1e-5, 10))

# %%
# .. caption:: Most starts find a solution, some of them late. Those that have not by the last step (dashed) are near a loss of 1/8;
#    with more steps a few of them still would.
#    :alt: A hundred curves on a logarithmic axis. Solid ones drop one after the other; a bundle of dashed ones runs level along a dotted
#       line at one eighth.
#
# A loss of 1/8 means two cases right and "half on" for the other two: :math:`(0 + 0 + \tfrac14 + \tfrac14)/4`. It is the compromise
# of the straight rule again, made for half of the square.

losses, errors = runs[2]
level = np.abs(losses[-1] - 1 / 8) < 0.01
print(f"{level.sum()} of the {stuck[2]} stuck runs are at 1/8")
print("errors of one of them", np.sort(np.abs(errors[level][0]), axis=None).round(2))
assert level.sum() > 0.8 * stuck[2]

# %%
# .. admonition:: From practice
#
#    Two hidden units are enough to *represent* the lamp, and some starts do not *find* it within these steps. If a small model does
#    not learn, check its gradient, then try other starts and a wider layer.
#
# Take this with you
# ------------------
#
# On the way back a linear layer passes ``dY @ W`` on and keeps two sums for itself. Compare what you derive on paper with autograd before
# you train.

torch.manual_seed(0)
X8 = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
W = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
b = torch.randn(2, dtype=torch.float64, requires_grad=True)
dY = torch.randn(8, 2, dtype=torch.float64)  # what comes from the layer above
F.linear(X8, W, b).backward(dY)

torch.testing.assert_close(X8.grad, dY @ W)  # to the layer below
torch.testing.assert_close(W.grad, dY.T @ X8)
torch.testing.assert_close(b.grad, dY.sum(dim=0))
print("shapes", list(X8.grad.shape), list(W.grad.shape), list(b.grad.shape))

# %%
# Change something
# ----------------
#
# * In ``backward``, write ``1 - A`` instead of ``1 - A * A``. Which of the four gradients turn wrong?
# * Begin with the seed 1 instead of 6, in ``np.random.default_rng(6)``. What does the lamp do after three hundred steps?
# * In ``train_many``, leave out ``np.tanh`` and its factor ``(1 - A * A)``, and set ``rate=0.02``. How many networks get stuck now?
#
# .. dropdown:: What happens
#
#    * Those of the first layer, ``W1`` and ``b1``: only they lie behind dZ on the way back. The comparison with autograd stops at
#      ``W1``.
#    * It is undecided: the answers are 0.33, 0.6, 0.5 and 0.6, and the assert objects. This start needs more steps, or another start.
#    * All of them, at a loss of 1/4 and with any number of hidden units: without the bend, two layers are one straight rule.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a start at zero
#
#    Why not begin with zeros? Set all nine numbers to 0 and compute the gradients. How many of the nine are *not* zero?

### BEGIN SOLUTION
guess = 1
### END SOLUTION

zeros = [np.zeros_like(value) for value in (W1, b1, W2, b2)]
at_zero = backward(*forward(*zeros), zeros[2])
expect(guess, sum(np.count_nonzero(gradient) for gradient in at_zero))

# %%
# .. exercise:: Fix the way back through a ReLU
#
#    Replace ``tanh`` by ``relu``, which is :math:`\max(z, 0)`. A colleague writes ``dA * (dA > 0)`` for its way back. It runs, and a unit
#    that was switched off in the forward pass still gets a gradient, while others lose theirs. Write it so that it is right.


def relu_back(dA, Z):
    ### BEGIN SOLUTION
    return dA * (Z > 0)
    ### END SOLUTION


Z = torch.tensor([[1.5, -2.0, 0.5], [-1.0, 3.0, -0.5]], requires_grad=True)
above = torch.tensor([[1.0, 2.0, -3.0], [-4.0, -5.0, 6.0]])
F.relu(Z).backward(above)
expect(lambda: relu_back(above, Z.detach()), Z.grad)

# %%
# .. exercise:: Build the way back for any depth
#
#    ``weights`` is a list of matrices. Every layer computes ``tanh(A @ W.T)`` from the values ``A`` before it, the last one too, without
#    biases; the loss is the *sum* of the last values. Return the list of the gradients, one per matrix.


def gradients(inputs, weights):
    ### BEGIN SOLUTION
    values = [inputs]
    for W in weights:
        values.append(np.tanh(values[-1] @ W.T))
    found = []
    dA = np.ones_like(values[-1])
    for W, below, A in zip(weights[::-1], values[-2::-1], values[::-1]):
        dZ = dA * (1 - A * A)
        found.append(dZ.T @ below)
        dA = dZ @ W
    return found[::-1]
    ### END SOLUTION


rng = np.random.default_rng(1)
batch = rng.standard_normal((7, 3))
matrices = [rng.standard_normal(shape) for shape in ((4, 3), (5, 4), (2, 5))]
copies = [torch.tensor(matrix, requires_grad=True) for matrix in matrices]
values = torch.from_numpy(batch)
for copy in copies:
    values = torch.tanh(values @ copy.T)
values.sum().backward()
expect(lambda: gradients(batch, matrices), [copy.grad.numpy() for copy in copies])
