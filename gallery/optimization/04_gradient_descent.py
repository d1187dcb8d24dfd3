r"""
Gradient descent
================

Fit a line in four ways that end at the same two numbers, and say before you run it
which learning rate will blow up.

.. lesson::
   :needs: tensors/08_broadcasting optimization/01_autograd_graph
      optimization/03_detach_and_no_grad
   :data: scikit-learn's diabetes table
   :keywords: linear regression, least squares, normal equations, lstsq, sum of squared
      errors, SSE, MSE, training loop, zero_grad, backward, step, learning rate too
      high, loss is nan, loss is inf, exploding loss, condition number, Hessian,
      standardize, feature scaling, mini-batch, SGD, stochastic gradient descent
   :thumbnail: 4
"""

# %%
# What do you tell the next patient?
# ----------------------------------
#
# 442 patients: the body mass index of each, and how far the diabetes had progressed a year later :cite:p:`efron2004`. The next patient has
# an index of 30. What do you expect? Put the best straight line through the table, and read it off.

import torch
from sklearn.datasets import load_diabetes

columns, progression = load_diabetes(return_X_y=True, scaled=False)
bmi, y = torch.tensor(columns[:, 2]), torch.tensor(progression)
X = torch.stack([bmi, torch.ones_like(bmi)], dim=1)  # ones for the intercept
best = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
print(f"slope {best[0]:.2f}, intercept {best[1]:.1f}")
print(f"expected at 30: {best[0] * 30 + best[1]:.0f}")

# %%

# fold: the patients and the line
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 3))
ax.scatter(bmi, y, s=9, color="0.7")
ends = torch.tensor([18.0, 42.0])
ax.plot(ends, best[0] * ends + best[1], color="C0")
ax.plot(30, best[0] * 30 + best[1], "o", color="C3", markersize=9)
ax.set(xlabel="body mass index", ylabel="progression")

# %%
# .. caption:: The best line, and the answer for an index of 30. The line catches the trend and leaves plenty unexplained.
#    :alt: A cloud of grey points that rises from lower left to upper right, with one straight blue line through it and one large dot on the
#       line at an index of 30.
#
# :func:`torch.linalg.lstsq` found that line without a loop. What has it minimised? The mean of the squared errors, with :math:`\mathbf{X}`
# of shape (442, 2), and :math:`\theta` holding slope and intercept:
#
# .. math:: L(\theta) = \frac{1}{m} \lVert \mathbf{X}\theta - \mathbf{y} \rVert^2,
#    \qquad \nabla_\theta L = \frac{2}{m}\, \mathbf{X}^\top (\mathbf{X}\theta - \mathbf{y})
#
# Without :math:`1/m` it is the *sum of squared errors*, SSE. At the lowest point the gradient is zero. Solve that for :math:`\theta`, and
# you have the **normal equations** :math:`\mathbf{X}^\top\mathbf{X}\,\theta = \mathbf{X}^\top\mathbf{y}`, a closed form.

closed = torch.linalg.solve(X.T @ X, X.T @ y)
sse = ((X @ closed - y) ** 2).sum()
print(f"closed form: slope {closed[0]:.2f}, intercept {closed[1]:.1f}")
print(f"SSE {sse:.0f}, mean {sse / len(y):.1f}")
torch.testing.assert_close(closed, best)

# %%
# Can I walk there instead?
# -------------------------
#
# Most losses have no formula for their lowest point. All of them have a slope. So stand somewhere, go a little way downhill, look again:
# :math:`\theta \leftarrow \theta - \eta\,\nabla_\theta L`, where :math:`\eta` is the :term:`learning rate`. We start at zero, and measure
# the index in standard deviations from its mean; why that matters comes further down.

z = (bmi - bmi.mean()) / bmi.std(correction=0)
Z = torch.stack([z, torch.ones_like(z)], dim=1)


def gradient(X, y, theta):
    """Return the gradient of the mean squared error, by hand."""
    return 2 / len(y) * X.T @ (X @ theta - y)


def descend(X, y, lr, steps):
    """Walk from zero and return every point on the way, the start included."""
    theta = torch.zeros(2, dtype=X.dtype)
    path = [theta]
    for _ in range(steps):
        theta = theta - lr * gradient(X, y, theta)
        path.append(theta)
    return torch.stack(path)


by_hand = descend(Z, y, lr=0.1, steps=100)
for step in (0, 1, 5, 20, 100):
    slope, intercept = by_hand[step].tolist()
    print(f"step {step:>3}: slope {slope:5.2f}, intercept {intercept:6.2f}")

# %%

# fold: the line after some of the steps
fig, ax = plt.subplots(figsize=(6, 3))
ax.scatter(z, y, s=9, color="0.8")
ends = torch.tensor([-2.0, 3.6], dtype=torch.float64)
for step, style in [(0, ":"), (3, "-."), (8, "--"), (100, "-")]:
    slope, intercept = by_hand[step]
    ax.plot(ends, slope * ends + intercept, style, color="C0", label=f"step {step}")
ax.set(xlabel="index in standard deviations", ylabel="progression")
ax.legend(loc="upper left")

# %%
# .. caption:: The line climbs into the cloud and turns, fast at first, then slowly.
#    :alt: The same cloud of points with four lines. At step 0 the line lies flat at zero; at steps 3 and 8 it lies higher and steeper; at
#       step 100 it runs through the middle of the cloud.
#
# In the old units it is the line of the beginning:

slope = by_hand[-1, 0] / bmi.std(correction=0)
intercept = by_hand[-1, 1] - slope * bmi.mean()
print(f"slope {slope:.2f}, intercept {intercept:.1f}")
torch.testing.assert_close(torch.stack([slope, intercept]), best)

# %%
# Who writes the gradient?
# ------------------------
#
# You have walked with a gradient by hand. The second walker lets :term:`autograd` find it. ``no_grad`` keeps the update out of the graph.

theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
for _ in range(100):
    loss = ((Z @ theta - y) ** 2).mean()
    theta.grad = None
    loss.backward()
    with torch.no_grad():
        theta -= 0.1 * theta.grad
by_autograd = theta.detach()
torch.testing.assert_close(by_autograd, by_hand[-1])

# %%
# The third leaves the weights to :class:`torch.nn.Linear`, a network of one layer, and the update to :class:`torch.optim.SGD`. The model
# makes a column, so ``squeeze`` it before it meets ``y``; :doc:`/lessons/tensors/08_broadcasting` shows what happens otherwise. Every
# training loop in this book has the same four lines inside.

from torch import nn
from torch.nn import functional as F


def start():
    """Return a linear layer at zero and its optimiser."""
    model = nn.Linear(1, 1, dtype=torch.float64)
    for p in model.parameters():
        nn.init.zeros_(p)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def weights(model):
    """Return slope and intercept as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


model, optimizer = start()
for _ in range(100):
    loss = F.mse_loss(model(z[:, None]).squeeze(1), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# Four ways, two numbers:

ways = {"closed form": torch.linalg.solve(Z.T @ Z, Z.T @ y), "by hand": by_hand[-1]}
ways |= {"autograd": by_autograd, "nn + optim": weights(model)}
for name, found in ways.items():
    sse = ((Z @ found - y) ** 2).sum()
    print(f"{name:<12} slope {found[0]:.4f}  intercept {found[1]:.4f}  SSE {sse:.0f}")
    torch.testing.assert_close(found, ways["closed form"])

# %%
# ``optimizer.step()`` did nothing that you could not have written: parameter minus rate times gradient.
#
# What is each line for?
# ----------------------
#
# Leave one out, take three steps, and look. The last row has all lines, in another order.


def three_steps(order):
    """Run these lines three times; return the slope and its last gradient."""
    model, optimizer = start()
    for _ in range(3):
        loss = F.mse_loss(model(z[:, None]).squeeze(1), y)
        lines = {"zero_grad": optimizer.zero_grad, "step": optimizer.step}
        lines["backward"] = loss.backward
        for name in order.split():
            lines[name]()
    return model.weight.item(), model.weight.grad


orders = ["zero_grad backward step", "zero_grad step", "zero_grad backward"]
orders += ["backward step", "backward zero_grad step"]
slopes = []
for order in orders:
    slope, grad = three_steps(order)
    text = "None" if grad is None else f"{grad.item():.2f}"
    print(f"{order:<24} slope {slope:5.2f}  grad {text}")
    slopes.append(slope)
assert abs(slopes[0] - by_hand[3, 0]) < 1e-9
assert slopes[1] == slopes[2] == slopes[4] == 0 and slopes[3] > slopes[0]

# %%
# Five runs, no error message. Without ``backward`` there is no gradient, and ``step`` passes over a parameter whose ``grad`` is None.
# Without ``step`` the gradient is there and nobody uses it. Without ``zero_grad`` you walk with the sum of all gradients so far:
# faster at first, then past the goal (:doc:`/lessons/optimization/01_autograd_graph` shows it swing). Too late, ``zero_grad`` wipes
# out the gradient before anyone has used it.
#
# Why did my loss become inf?
# ---------------------------
#
# What you expect: 0.1 is an ordinary learning rate, and it worked. Now the same walk with the index as it stands in the table, around 26,
# in ``float32`` as most networks are trained:


def losses(X, y, path):
    """Return the loss at each point of a path."""
    return ((path @ X.T - y) ** 2).mean(dim=1)  # every line meets every patient


path = descend(X.float(), y.float(), lr=0.1, steps=30)
exploded = losses(X.float(), y.float(), path)
print("  ".join(f"{loss:.0e}" for loss in exploded[:9]), " last weights", path[-1])
assert exploded[:10].isinf().any() and path[-1].isnan().all()

# %%
# No error, no warning, and soon the weights are :term:`NaN`. The gradient was right at each step; the step was too long. For a squared
# error you can say exactly which rate is too high. Measure from the lowest point, :math:`\mathbf{e} = \theta - \theta_\text{best}`. The
# gradient is :math:`\mathbf{H}\mathbf{e}` with the **Hessian** :math:`\mathbf{H} = \frac{2}{m}\mathbf{X}^\top\mathbf{X}`, the matrix of
# second derivatives, so each step multiplies the error by the same matrix:
#
# .. math:: \mathbf{e} \leftarrow (\mathbf{I} - \eta\,\mathbf{H})\,\mathbf{e}
#
# Along an eigenvector of :math:`\mathbf{H}` with eigenvalue :math:`\lambda_i` that is the number :math:`1 - \eta\lambda_i`. The walk ends
# at the lowest point as long as every such factor lies between -1 and 1. The steepest direction breaks first, at :math:`\eta =
# 2/\lambda_{\max}`.

H = 2 / len(y) * X.T @ X
flat, steep = torch.linalg.eigvalsh(H)
limit = (2 / steep).item()
print(f"eigenvalues {flat:.4f} and {steep:.1f}, so the limit is {limit:.6f}")

below = losses(X, y, descend(X, y, 0.98 * limit, 100))
above = losses(X, y, descend(X, y, 1.02 * limit, 100))
assert below[-1] < below[0] and above[-1] > above[0]

# %%

# fold: the loss just below the limit and just above it
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.semilogy(above, "--", label="1.02 of the limit")
ax.semilogy(below, label="0.98 of the limit")
ax.axhline(losses(X, y, best[None])[0], color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="step", ylabel="loss")
ax.legend()

# %%
# .. caption:: Nearly the same rate: one loss falls and levels off above the dotted line, which is the best possible; the other grows.
#    :alt: Two curves on a logarithmic axis start at one point. One falls towards a dotted line, the other, dashed, climbs steadily.
#
# Why is it still not there?
# --------------------------
#
# So take a rate that is safe, and be patient.

safe = 0.9 * limit
patient = descend(X, y, safe, 1000)
print(f"after 1000 steps: intercept {patient[-1, 1]:.1f}, wanted {best[1]:.1f}")
needed = torch.tensor(0.01).log() / (1 - safe * flat).log()
print(f"steps until 1 % of the error is left: {needed:,.0f}")
scaled = torch.linalg.cond(Z.T @ Z)
print(f"condition number: raw {steep / flat:.0f}, scaled {scaled:.0f}")
assert needed > 50_000 and scaled < 1.001

# %%
# The steep direction caps the rate, and the flat one has to live with it. How unequal they are is the **condition number**,
# :math:`\lambda_{\max} / \lambda_{\min}`. The fix is a change of units: subtract the mean, divide by the standard deviation, as in ``z``.
# With one feature the two directions become exactly equal; with many they come closer. This is what the two losses look like from above:

# fold: how to draw a loss as a contour map
best_z = ways["closed form"]


def contours(ax, title, X, centre, reach):
    """Draw the loss around its lowest point."""
    across, down = (torch.linspace(-r, r, 121, dtype=torch.float64) for r in reach)
    grid = torch.cartesian_prod(across, down) + centre
    excess = losses(X, y, grid) - losses(X, y, centre[None])
    excess = excess.reshape(121, 121).T
    levels = excess.max().item() * torch.linspace(0.02, 1, 12) ** 2
    across, down = across + centre[0], down + centre[1]
    ax.contour(across, down, excess, levels, colors="0.75", linewidths=0.8)
    ax.plot(*centre, "*", color="C3", markersize=12)
    ax.set(title=title, xlabel="slope", ylabel="intercept")


# %%

# fold: both maps, with thirty steps on each
fig, (left, right) = plt.subplots(1, 2)
contours(left, "raw index", X, best, reach=(15, 150))
contours(right, "standardised", Z, best_z, reach=(190, 190))
left.plot(*descend(X, y, safe, 30).T, "o-", markersize=3, linewidth=1)
right.plot(*by_hand[:31].T, "o-", markersize=3, linewidth=1)

# %%
# .. caption:: Left, in raw units the valley is so long that its contours look parallel: the walk crosses it from side to side and
#    hardly moves along it, towards the star. Right, the same data in other units: straight to the star.
#    :alt: Two contour maps. On the left, the contours are long, steep, parallel lines; the path jumps sideways over them at an intercept of
#       0, far from the star at the lowest point. On the right, the contours are circles; the path runs straight into the star.
#
# Do I need all the data for a step?
# ----------------------------------
#
# No. A :term:`mini-batch` gives a gradient that is right on average. Cut a shuffled table into 26 batches of 17: the mean of the 26
# gradients *is* the full one.

generator = torch.Generator().manual_seed(0)
batches = torch.randperm(442, generator=generator).reshape(26, 17)
point = torch.tensor([10.0, 100.0], dtype=torch.float64)
each = torch.stack([gradient(Z[rows], y[rows], point) for rows in batches])
lowest, highest = each[:, 0].min(), each[:, 0].max()
print(f"batches from {lowest:.0f} to {highest:.0f}, mean {each[:, 0].mean():.1f}")
torch.testing.assert_close(each.mean(dim=0), gradient(Z, y, point))

# %%
# So walk with the gradient of one batch at a time, and shuffle anew for each :term:`epoch`, one look at all the data. How far from
# the best line's two numbers is the walk after one epoch, and on average at the end?


def wander(lr, epochs):
    """Walk with batches of 17 and return every point."""
    theta = torch.zeros(2, dtype=torch.float64)
    path = [theta]
    for _ in range(epochs):
        for rows in torch.randperm(442, generator=generator).reshape(26, 17):
            theta = theta - lr * gradient(Z[rows], y[rows], theta)
            path.append(theta)
    return torch.stack(path)


for lr in (0.1, 0.01):
    away = (wander(lr, 40) - best_z).norm(dim=1)
    end = away[-520:].mean()
    print(f"rate {lr}: after 1 epoch {away[26]:.1f}, at the end {end:.1f}")
noisy = wander(0.1, epochs=4)
assert (noisy[26] - best_z).norm() < (by_hand[1] - best_z).norm() / 5

# %%
# The larger rate is close after one look at the data, where one exact step has only just left. But it never settles, because each batch
# pulls towards a best line of its own.

# fold: four exact steps and four epochs of mini-batches
fig, ax = plt.subplots(figsize=(6, 3.8))
contours(ax, "", Z, best_z, reach=(60, 165))
ax.plot(*noisy.T, "-", color="C1", linewidth=1, label="104 batches")
ax.plot(*by_hand[:5].T, "o-", color="C0", label="4 full steps")
ax.legend(loc="upper left")

# %%
# .. caption:: Both have looked at each patient four times. Four exact steps get half-way; 104 inexact ones arrive, and tremble.
#    :alt: A contour map of closed rings. A blue path of four straight steps stops half-way to the star; a jagged orange path reaches it and
#       wanders around it.
#
# Fast first, then quiet: that is the reason for rates that fall during training, which have a lesson of their own later in this part.
#
# Take this with you
# ------------------
#
# Standardise the inputs, then four lines: loss, ``zero_grad``, ``backward``, ``step``. If the loss grows, divide the rate by ten.

torch.manual_seed(0)
inputs, targets = torch.rand(200, 3) * 50, torch.rand(200)
inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(100):
    loss = torch.nn.functional.mse_loss(model(inputs).squeeze(1), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{loss.item():.3f}")

# %%
# Change something
# ----------------
#
# * In the first cell, take blood pressure, ``columns[:, 3]``, instead of the body mass index. Its mean is larger for its spread. What
#   becomes of the limit and of the raw condition number?
# * In the first walk, set the rate from 0.1 to 1.0, which is exactly the limit of the scaled problem. Where is the walk after 100
#   steps?
# * In the loop over the two rates of ``wander``, add 0.001. Does a rate ten times smaller again end closer still?
#
# .. dropdown:: What happens
#
#    * The limit is about thirteen times lower and the condition number about seventeen times larger. (And a blood pressure of 30 is
#      nothing to predict from.)
#    * Back at zero, and after an odd number of steps at twice the goal: the factor is -1, and the walk jumps to and fro for ever. The
#      assert objects.
#    * No. After 40 epochs it has not arrived yet: the last row says how far it still has to go.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the limit
#
#    The loss is :math:`3(w - 2)^2`. From which learning rate on does a walk no longer come closer to 2?

### BEGIN SOLUTION
guess = 1 / 3
### END SOLUTION


def parabola(w):
    return 3 * (w - 2) ** 2


curvature = torch.autograd.functional.hessian(parabola, torch.tensor(0.0))
expect(guess, 2 / curvature.item(), rtol=1e-2)

# %%
# .. exercise:: Another loss by hand
#
#    Write the gradient of the mean *absolute* error. How strongly does a patient count who is far from the line?


def gradient_of_absolute(X, y, theta):
    ### BEGIN SOLUTION
    return X.T @ (X @ theta - y).sign() / len(y)
    ### END SOLUTION


theta = torch.tensor([1.0, 150.0], dtype=torch.float64, requires_grad=True)
F.l1_loss(Z @ theta, y).backward()
expect(lambda: gradient_of_absolute(Z, y, theta.detach()), theta.grad)

# %%
# .. exercise:: Two steps to the goal
#
#    A step with :math:`\eta = 1/\lambda_i` removes the error along that eigenvector at once. Write ``two_rates(X)``: the two rates
#    that, used one after the other, solve a problem with two columns. One is far above the limit. Return the small one first: on
#    paper the order makes no difference, in floating point the large step is better taken last.


def two_rates(X):
    ### BEGIN SOLUTION
    flat, steep = torch.linalg.eigvalsh(2 / len(X) * X.T @ X).tolist()
    return 1 / steep, 1 / flat
    ### END SOLUTION


def two_steps():
    theta = torch.zeros(2, dtype=torch.float64)
    for lr in two_rates(X):
        theta = theta - lr * gradient(X, y, theta)
    return theta


expect(two_steps, best, rtol=1e-6)
expect(lambda: two_rates(X)[0] < limit < two_rates(X)[1], True)
