r"""
Backpropagation by hand
=======================

Differentiate a two-layer network with nothing but matrices, train it on a problem that no single layer can solve, and get the same numbers
as autograd at every step.

.. lesson::
   :needs: optimization/02_sigmoid_by_hand optimization/04_gradient_descent tensors/05_linear_algebra
   :data: the four corners of a square
"""

# %%
# Can a straight line do it?
# --------------------------
#
# Four points, two inputs each. The answer is 1 if exactly one input is 1: "either, or", called XOR. Draw 100,000 random straight lines, let
# each say 1 on one of its sides, and count how many of the four points it gets right.

import matplotlib.pyplot as plt
import torch

plt.style.use("pytorch_course.book")
X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
Y = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=torch.float64)

torch.manual_seed(0)
lines = torch.randn(100_000, 3, dtype=torch.float64)
scores = X @ lines[:, :2].T + lines[:, 2]
right = ((scores > 0) == Y.bool()).sum(dim=0)
fig, ax = plt.subplots(figsize=(6.4, 2.8))
ax.bar(range(5), right.bincount(minlength=5).tolist())
ax.text(4, 2500, "none", ha="center", color="#B34700", size=14)
ax.set(xlabel="points right", ylabel="lines")

# %%
# .. caption:: Many lines get three of the four points right. None gets all four.
#    :alt: A bar chart over zero to four points right. The bars at one and three are low, the one at two is very tall, and there is no bar
#       at zero and at four.
#
# More lines would not help. For every function :math:`f(x_1, x_2) = w_1 x_1 + w_2 x_2 + b`, the two diagonals of the square have the same
# sum. To be right everywhere, one sum would have to be positive and the other not.

assert right.max() == 3 and right.min() == 1
torch.testing.assert_close(scores[0] + scores[3], scores[1] + scores[2])

with_ones = torch.cat([X, torch.ones(4, 1, dtype=torch.float64)], dim=1)
best = torch.linalg.lstsq(with_ones, Y).solution
print("least squares answers", [round(v, 3) for v in (with_ones @ best).flatten().tolist()])
torch.testing.assert_close(with_ones @ best, torch.full_like(Y, 0.5))

# %%
# The best compromise answers 1/2 to everything. Minsky and Papert made this limit of a single layer famous :cite:p:`minsky1969`. Two layers
# do not have it, but how do you find the weights of a layer whose right answers nobody knows? By **backpropagation**, which became widely
# known in 1986 :cite:p:`rumelhart1986`: the second layer tells the first what it should have said.
#
# What are the formulas?
# ----------------------
#
# A network with :math:`h` hidden units, for :math:`N` samples at once, with the shape of each result on the right:
#
# .. math::
#
#    \begin{aligned}
#    \mathbf{Z} &= \mathbf{X}\mathbf{W}_1^\top + \mathbf{b}_1 && (N, h) \\
#    \mathbf{A} &= \tanh \mathbf{Z} && (N, h) \\
#    \hat{\mathbf{Y}} &= \mathbf{A}\mathbf{W}_2^\top + \mathbf{b}_2 && (N, 1) \\
#    L &= \tfrac{1}{N} \lVert \hat{\mathbf{Y}} - \mathbf{Y} \rVert^2 && ()
#    \end{aligned}
#
# Go back line by line, from the last to the first. Write :math:`\mathrm{d}\mathbf{A}` for :math:`\partial L / \partial \mathbf{A}`, as
# ``dA`` in the code; it has the shape of :math:`\mathbf{A}`, and likewise for all the others; :math:`\mathrm{d}\mathbf{Y}` belongs to
# :math:`\hat{\mathbf{Y}}`.
#
# .. math::
#
#    \begin{aligned}
#    \mathrm{d}\mathbf{Y} &= \tfrac{2}{N} (\hat{\mathbf{Y}} - \mathbf{Y}) && (N, 1) \\
#    \mathrm{d}\mathbf{W}_2 &= \mathrm{d}\mathbf{Y}^\top \mathbf{A}, \qquad
#    \mathrm{d}\mathbf{b}_2 = \textstyle\sum_i \mathrm{d}\mathbf{y}^{(i)} && (1, h),\ (1) \\
#    \mathrm{d}\mathbf{A} &= \mathrm{d}\mathbf{Y}\, \mathbf{W}_2 && (N, h) \\
#    \mathrm{d}\mathbf{Z} &= \mathrm{d}\mathbf{A} \odot (1 - \mathbf{A} \odot \mathbf{A}) && (N, h) \\
#    \mathrm{d}\mathbf{W}_1 &= \mathrm{d}\mathbf{Z}^\top \mathbf{X}, \qquad
#    \mathrm{d}\mathbf{b}_1 = \textstyle\sum_i \mathrm{d}\mathbf{z}^{(i)} && (h, 2),\ (h)
#    \end{aligned}
#
# Each line uses the one before it and something from the way forward. Nothing is computed twice: :math:`\mathrm{d}\mathbf{Z}` serves both
# :math:`\mathrm{d}\mathbf{W}_1` and :math:`\mathrm{d}\mathbf{b}_1`.


def loss_of(W1, b1, W2, b2):
    return ((torch.tanh(X @ W1.T + b1) @ W2.T + b2 - Y) ** 2).mean()


def by_hand(W1, b1, W2, b2):
    """Return the gradients of the loss, formula by formula."""
    A = torch.tanh(X @ W1.T + b1)
    dY = 2 / len(X) * (A @ W2.T + b2 - Y)
    dW2, db2 = dY.T @ A, dY.sum(dim=0)
    dA = dY @ W2
    dZ = dA * (1 - A * A)
    dW1, db1 = dZ.T @ X, dZ.sum(dim=0)
    return dW1, db1, dW2, db2


# %%
# Nine parameters, three opinions each:

from pytorch_course.autograd import compare_gradients

torch.manual_seed(1)
shapes = {"W1": (2, 2), "b1": (2,), "W2": (1, 2), "b2": (1,)}
start = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
check = compare_gradients(loss_of, by_hand, *start.values())
print(check)
assert check.ok

# %%
# Where do the transposes come from? From the sum over samples that hides in them. Weight :math:`W_{jk}` carries input :math:`k` to unit
# :math:`j`, once for each sample, and each time the chain rule multiplies what arrived at :math:`j` by what came from :math:`k`:
#
# .. math:: \frac{\partial L}{\partial W_{jk}} = \sum_i \mathrm{d}Z_{ij}\, X_{ik} = \bigl(\mathrm{d}\mathbf{Z}^\top \mathbf{X}\bigr)_{jk}
#
# The bias is a weight on an input that is always 1, so its gradient is the plain sum. When you forget the order, the shapes remind you:
# there is one way to multiply :math:`(N, h)` and :math:`(N, 2)` into :math:`(h, 2)`.

dZ, inputs = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
one_by_one = torch.zeros(5, 2, dtype=torch.float64)
for i in range(4):
    for j in range(5):
        for k in range(2):
            one_by_one[j, k] += dZ[i, j] * inputs[i, k]
torch.testing.assert_close(dZ.T @ inputs, one_by_one)

# %%
# Can I stack layers like bricks?
# -------------------------------
#
# Yes, because every line of the way back needs to know only its own layer. Give each layer two methods. ``forward`` computes and remembers;
# ``backward`` takes the gradient of the layer's output, and returns that of its input.


class Linear:
    def __init__(self, W, b):
        self.W, self.b = W.clone(), b.clone()

    def forward(self, X):
        self.X = X
        return X @ self.W.T + self.b

    def backward(self, dZ):
        self.dW, self.db = dZ.T @ self.X, dZ.sum(dim=0)
        return dZ @ self.W


# %%
# A layer without parameters is shorter still. The loss is the layer that starts the way back.


class Tanh:
    def forward(self, Z):
        self.A = torch.tanh(Z)
        return self.A

    def backward(self, dA):
        return dA * (1 - self.A * self.A)


class SquaredError:
    def forward(self, prediction, target):
        self.error = prediction - target
        return (self.error**2).mean()

    def backward(self):
        return 2 / self.error.numel() * self.error


# %%
# The network itself is two loops, one in each direction. With it the engine is complete.


class Network:
    def __init__(self, *layers):
        self.layers, self.loss = layers, SquaredError()

    def forward(self, X):
        for layer in self.layers:
            X = layer.forward(X)
        return X

    def backward(self):
        gradient = self.loss.backward()
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)


# %%
# What is left is the step of gradient descent, wherever there is something to learn.


def descend(network, rate):
    for layer in network.layers:
        if isinstance(layer, Linear):
            layer.W -= rate * layer.dW
            layer.b -= rate * layer.db


# %%
# The same network for autograd, from the same numbers. Is the order of its nodes the order of our calls?

from torch.nn import functional as F
from pytorch_course.autograd import graph

mine = Network(Linear(start["W1"], start["b1"]), Tanh(), Linear(start["W2"], start["b2"]))
theirs = {name: value.clone().requires_grad_() for name, value in start.items()}
mine.loss.forward(mine.forward(X), Y)
mine.backward()

hidden = torch.tanh(F.linear(X, theirs["W1"], theirs["b1"]))
loss = F.mse_loss(F.linear(hidden, theirs["W2"], theirs["b2"]), Y)
loss.backward()
first, second = mine.layers[0], mine.layers[2]
for value, leaf in zip((first.dW, first.db, second.dW, second.db), theirs.values()):
    torch.testing.assert_close(value, leaf.grad)

# %%
# All four gradients agree. Here are the two ways back.

fig, axes = plt.subplots(1, 2, figsize=(6.4, 4.2), width_ratios=[3, 1])
graph(loss, names=theirs).plot(axes[0])
axes[0].set_title("autograd")
box = {"boxstyle": "round,pad=0.5", "facecolor": "#E6F0F7", "edgecolor": "#0072B2", "linewidth": 1.5}
arrow = {"arrowstyle": "-|>", "color": "0.3", "shrinkA": 19, "shrinkB": 19}
for i, brick in enumerate([mine.loss, *reversed(mine.layers)]):
    height = 0.92 - 0.28 * i
    axes[1].text(0.5, height, f"{type(brick).__name__}\n.backward", ha="center", va="center", size=10, bbox=box)
    if i:
        axes[1].annotate("", (0.5, height), xytext=(0.5, height + 0.28), arrowprops=arrow)
axes[1].set_axis_off()
axes[1].set_title("by hand")

# %%
# .. caption:: Left, the graph that autograd recorded; right, the calls that our loop made. Read both from the top: it is one algorithm.
#    :alt: Left, boxes from MseLossBackward0 through AddmmBackward0, TanhBackward0 and a second AddmmBackward0, with the leaves W1, b1, W2
#       and b2 hanging from the two Addmm boxes. Right, a chain of four boxes: SquaredError, Linear, Tanh, Linear.
#
# Does it learn XOR?
# ------------------
#
# Three hundred steps, twice: with our engine, and with autograd.

mine_losses, their_losses = [], []
for step in range(300):
    mine_losses.append(mine.loss.forward(mine.forward(X), Y))
    mine.backward()
    descend(mine, 0.2)

    hidden = torch.tanh(F.linear(X, theirs["W1"], theirs["b1"]))
    loss = F.mse_loss(F.linear(hidden, theirs["W2"], theirs["b2"]), Y)
    their_losses.append(loss.detach())
    gradients = torch.autograd.grad(loss, list(theirs.values()))
    with torch.no_grad():
        for p, gradient in zip(theirs.values(), gradients):
            p -= 0.2 * gradient

# %%
# Step by step the same loss:

for step in (0, 10, 100, 299):
    print(f"step {step:3d}  by hand {mine_losses[step]:.3e}  autograd {their_losses[step]:.3e}")
torch.testing.assert_close(torch.stack(mine_losses), torch.stack(their_losses), rtol=1e-6, atol=0)
answers = mine.forward(X)
print("answers", [round(v, 1) + 0.0 for v in answers.flatten().tolist()])
assert ((answers > 0.5) == Y.bool()).all() and mine_losses[-1] < mine_losses[0] / 1000

# %%
# It answers 0, 1, 1, 0. How, when the last layer is a straight line again? Look at what the first layer makes of the square. We send a grid
# through the network and ask ``Tanh`` what it remembers.

ticks = torch.linspace(-0.25, 1.25, 61, dtype=torch.float64)
surface = mine.forward(torch.cartesian_prod(ticks, ticks)).reshape(61, 61)
sheet = mine.layers[1].A.reshape(61, 61, 2).numpy()
mine.forward(X)
corners = mine.layers[1].A.numpy()

# %%
# Left, the plane of the inputs; right, the plane of the two hidden units.

fig, (left, middle) = plt.subplots(1, 2, figsize=(6.4, 3.3))
left.contourf(ticks.numpy(), ticks.numpy(), surface.T.numpy(), levels=12)
left.contour(ticks.numpy(), ticks.numpy(), surface.T.numpy(), levels=[0.5], colors="white")
for k in range(0, 61, 5):
    middle.plot(*sheet[k].T, color="0.75", linewidth=0.8)
    middle.plot(*sheet[:, k].T, color="0.75", linewidth=0.8)
(w1, w2), b = mine.layers[2].W[0].tolist(), mine.layers[2].b.item()
middle.axline((0, (0.5 - b) / w2), slope=-w1 / w2, color="black", linestyle="--", linewidth=1)
for ax, places in ((left, X.numpy()), (middle, corners)):
    for label, marker, color in ((0, "o", "#0072B2"), (1, "s", "#E69F00")):
        ax.plot(*places[Y[:, 0] == label].T, marker, color=color, markeredgecolor="white", markersize=11)
left.set(title="inputs", xlabel="$x_1$", ylabel="$x_2$")
middle.annotate("both squares", corners[1], xytext=(-15, 11), textcoords="offset points", ha="center")
middle.set(title="hidden units", xlabel="$a_1$", ylabel="$a_2$", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))

# %%
# .. caption:: Left, the answers over the square, with the border drawn white. Right, where the first layer puts the same points: the
#    whole grid falls on one bent curve, both squares on one spot, and a straight line parts them from the circles.
#    :alt: Left, a coloured map with two circles at opposite corners and two squares at the others; a bright diagonal band, bordered by
#       two parallel white lines, holds the squares. Right, a curve that rises steeply and bends to the right; the circles sit near its
#       ends, the squares together at the bend, and a dashed straight line cuts the bend off.
#
# Both hidden units have learned to look at little but the sum :math:`x_1 + x_2`, each with a threshold of its own, and the bend does the
# rest. Nobody told them; the gradient that the second layer sent back did.

print("W1", [[round(w, 2) for w in unit] for unit in mine.layers[0].W.tolist()])
torch.testing.assert_close(mine.layers[0].W[:, 0], mine.layers[0].W[:, 1], rtol=0, atol=0.1)
torch.testing.assert_close(mine.layers[2].forward(torch.from_numpy(corners)), answers)

# %%
# Does it always learn XOR?
# -------------------------
#
# The start that you saw happened to be a good one. Train a hundred networks at once, each from another start. The formulas stay as they
# are: give every matrix one more axis in front, and write ``.mT`` for ``.T``.


def train_many(hidden, starts=100, steps=1500, rate=0.2):
    """Train networks side by side; return the losses of each step and the last errors."""
    torch.manual_seed(0)
    W1, W2 = (torch.randn(starts, *shape, dtype=torch.float64) for shape in ((hidden, 2), (1, hidden)))
    b1, b2 = (torch.zeros(starts, 1, units, dtype=torch.float64) for units in (hidden, 1))
    losses = []
    for _ in range(steps):
        A = torch.tanh(X @ W1.mT + b1)
        error = A @ W2.mT + b2 - Y
        losses.append((error**2).mean(dim=(1, 2)))
        dY = 2 / len(X) * error
        dZ = dY @ W2 * (1 - A * A)
        for p, gradient in ((W1, dZ.mT @ X), (b1, dZ.sum(1, True)), (W2, dY.mT @ A), (b2, dY.sum(1, True))):
            p -= rate * gradient
    return torch.stack(losses), error


# %%
# One line per start, for the network with two hidden units:

runs = {hidden: train_many(hidden) for hidden in (2, 3, 4)}
stuck = {hidden: int((losses[-1] > 0.1).sum()) for hidden, (losses, _) in runs.items()}
print("stuck of 100, by hidden units:", stuck)
assert stuck[2] > 10 and stuck[2] > stuck[3] >= stuck[4] and stuck[4] < 3

fig, ax = plt.subplots()
for run in runs[2][0].T.numpy():
    ax.semilogy(run, color="#D55E00" if run[-1] > 0.1 else "#0072B2", linewidth=0.8, alpha=0.5)
ax.axhline(1 / 8, color="0.3", linestyle=":", linewidth=1)
ax.text(1570, 0.1, "1/8", ha="right", va="top")
ax.set(xlabel="step", ylabel="loss", ylim=(1e-5, 10))

# %%
# .. caption:: Most starts find a solution, some of them late. Nearly all of the others stay at a loss of 1/8.
#    :alt: A hundred falling curves on a logarithmic axis. Blue ones drop one after the other to below one hundred-thousandth; a bundle of
#       orange ones runs level along a dotted line at one eighth.
#
# A loss of 1/8 means two corners right and 1/2 for the other two: :math:`(0 + 0 + \tfrac14 + \tfrac14)/4`. It is the compromise of the
# straight line again, made for half of the square. The gradient there is right, and far too small to get away soon.

losses, errors = runs[2]
level = (losses[-1] - 1 / 8).abs() < 0.01
print(int(level.sum()), "of them at 1/8")
sizes = errors[level].abs().flatten(1).sort(dim=1).values
torch.testing.assert_close(sizes, torch.tensor([0, 0, 0.5, 0.5]).double().expand_as(sizes), rtol=0, atol=0.1)
assert level.sum() > 0.8 * stuck[2]

# %%
# .. admonition:: From practice
#
#    Two hidden units are enough to *represent* XOR and often too few to *find* it. The printed counts are the evidence: with a third unit
#    hardly any start is stuck. If a small model does not learn, check the gradient as above, then try other starts and a wider layer
#    before you doubt the formula.
#
# Change something
# ----------------
#
# * In ``Tanh.backward``, return ``dA * (1 - self.A)``. Which line of this page notices first?
# * Build a network of five bricks, with a second ``Tanh`` behind a ``Linear`` of shape (2, 2), and train it. What must change in the
#   engine?
# * Call ``train_many(2, steps=10_000)``. Are fewer starts stuck? How many steps would you wait?
#
# Exercises
# ---------
#
# 1. Write a brick ``Sigmoid`` with the derivative of :doc:`/lessons/optimization/02_sigmoid_by_hand`, and train XOR with it in place of
#    ``Tanh``.
# 2. Leave the ``Tanh`` out. Why can the network of two ``Linear`` bricks not learn XOR, whatever its width?
# 3. Finite differences need two passes forward per parameter. How many for a network with 2 inputs, 100 hidden units and one output, and
#    how many passes does backpropagation need?
#
# .. dropdown:: Answers
#
#    1. ``forward`` keeps ``self.Y = torch.sigmoid(Z)``, ``backward`` returns ``dY * self.Y * (1 - self.Y)``. It needs more steps: the slope
#       is at most 1/4.
#    2. :math:`(\mathbf{X}\mathbf{W}_1^\top)\mathbf{W}_2^\top = \mathbf{X}(\mathbf{W}_2\mathbf{W}_1)^\top`: two straight maps are one.
#    3. 401 parameters, so 802 passes; one forward and one backward.
