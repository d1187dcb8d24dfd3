r"""
Gradient descent
================

Fit a line in four ways that end at the same two numbers, know what each line of a training step is for, and say before you run it which
learning rate will blow up.

.. lesson::
   :needs: tensors/08_broadcasting optimization/01_autograd_graph optimization/03_detach_and_no_grad
   :data: scikit-learn's diabetes table
"""

# %%
# Which line is best?
# -------------------
#
# 442 patients: the body mass index of each, and how far the diabetes had progressed a year later :cite:p:`efron2004`. One line of algebra
# finds the best straight line through them. No learning rate, no loop.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets.bundled import diabetes

plt.style.use("pytorch_course.book")
features, y = (column.double() for column in diabetes().tensors)
bmi = features[:, 2]
X = torch.stack([bmi, torch.ones_like(bmi)], dim=1)  # the second column carries the intercept
best = torch.linalg.solve(X.T @ X, X.T @ y)

fig, ax = plt.subplots()
ax.scatter(bmi, y, s=9, color="0.7")
ends = torch.tensor([18.0, 42.0])
ax.plot(ends, best[0] * ends + best[1])
ax.set(xlabel="body mass index", ylabel="progression")

# %%
# .. caption:: The line with the smallest sum of squared errors. It catches the trend and leaves plenty unexplained.
#    :alt: A cloud of grey points that rises from lower left to upper right, with one straight blue line through it.
#
# "Best" means the smallest mean of the squared errors, with :math:`\mathbf{X}` of shape (442, 2) and :math:`\theta` holding slope and
# intercept:
#
# .. math:: L(\theta) = \frac{1}{m} \lVert \mathbf{X}\theta - \mathbf{y} \rVert^2,
#    \qquad \nabla_\theta L = \frac{2}{m}\, \mathbf{X}^\top (\mathbf{X}\theta - \mathbf{y})
#
# At the lowest point the gradient is zero. Solve that for :math:`\theta`, and you have the **normal equations**
# :math:`\mathbf{X}^\top\mathbf{X}\,\theta = \mathbf{X}^\top\mathbf{y}` of the first cell. Without :math:`1/m` the loss is the *sum of
# squared errors*, SSE; both have their lowest point at the same place.

from torch import nn
from torch.nn import functional as F

errors = X @ best - y
sse = (errors**2).sum()
torch.testing.assert_close(sse, F.mse_loss(X @ best, y, reduction="sum"))
torch.testing.assert_close(sse / len(y), F.mse_loss(X @ best, y))
torch.testing.assert_close(best, torch.linalg.lstsq(X, y[:, None]).solution[:, 0])
print(f"slope {best[0]:.3f}  intercept {best[1]:.2f}  SSE {sse:.0f}  mean {sse / len(y):.1f}")

# %%
# :func:`torch.linalg.lstsq` gives the same answer and is the better tool, for a reason that comes further down.
#
# Can I walk there instead?
# -------------------------
#
# Most losses have no formula for their lowest point. All of them have a slope. So stand somewhere, go a little way downhill, look again:
# :math:`\theta \leftarrow \theta - \eta\,\nabla_\theta L`, where :math:`\eta` is the :term:`learning rate`.


def gradient(X, y, theta):
    """Return the gradient of the mean squared error, by hand."""
    return 2 / len(y) * X.T @ (X @ theta - y)


def descend(X, y, lr, steps):
    """Walk from zero and return every point on the way, the start included."""
    path = [torch.zeros(2, dtype=X.dtype)]
    for _ in range(steps):
        path.append(path[-1] - lr * gradient(X, y, path[-1]))
    return torch.stack(path)


def losses(X, y, path):
    """Return the loss at each point of a path: every line meets every patient by broadcasting."""
    return ((path @ X.T - y) ** 2).mean(dim=1)


# %%
# A learning rate of 0.1 is as ordinary as they come. In ``float32``, as most networks are trained:

exploded = losses(X.float(), y.float(), descend(X.float(), y.float(), lr=0.1, steps=12))
for step in range(0, 9, 2):
    print(f"step {step}: loss {exploded[step]:.1e}")
first_inf = exploded.isinf().nonzero()[0].item()
print("inf from step", first_inf)
assert first_inf <= 10 and (exploded[1:5] > exploded[:4]).all()
assert descend(X.float(), y.float(), lr=0.1, steps=30)[-1].isnan().all()  # inf - inf

# %%
# No error, no warning, and a few steps later the weights are ``nan``. Same data, same model as the perfect line above. The gradient was
# right at each step; only the step was too long.
#
# Which rate is too high?
# -----------------------
#
# For a squared error you can say it exactly. Measure from the lowest point, :math:`\mathbf{e} = \theta - \theta_\text{best}`. The
# gradient is :math:`\mathbf{H}\mathbf{e}` with the **Hessian** :math:`\mathbf{H} = \frac{2}{m}\mathbf{X}^\top\mathbf{X}`, the matrix of
# second derivatives, so each step multiplies the error by the same matrix:
#
# .. math:: \mathbf{e} \leftarrow (\mathbf{I} - \eta\,\mathbf{H})\,\mathbf{e}
#
# Along an eigenvector of :math:`\mathbf{H}` with eigenvalue :math:`\lambda_i`, that factor is the number :math:`1 - \eta\lambda_i`. The
# walk ends at the lowest point as long as every factor lies between -1 and 1. The steepest direction breaks first, at :math:`\eta =
# 2/\lambda_{\max}`.

H = 2 / len(y) * X.T @ X
torch.testing.assert_close(H, torch.autograd.functional.hessian(lambda t: ((X @ t - y) ** 2).mean(), best))
flat, steep = torch.linalg.eigvalsh(H)
limit = (2 / steep).item()
print(f"eigenvalues {flat:.4f} and {steep:.1f}  limit {limit:.6f}")

error = descend(X, y, 0.5 * limit, 40) - best
torch.testing.assert_close(error[40], torch.linalg.matrix_power(torch.eye(2) - 0.5 * limit * H, 40) @ error[0])

for share in (0.5, 0.9, 0.98, 1.02, 1.1):
    walk = losses(X, y, descend(X, y, share * limit, 400))
    print(f"{share:4.2f} of the limit: {'falls' if walk[-1] < walk[0] else 'grows'}")
    assert (walk[-1] < walk[0]) == (share < 1)

# %%
# Two per cent below the limit and two per cent above it:

fig, ax = plt.subplots()
for share in (0.98, 1.02):
    walk = losses(X, y, descend(X, y, share * limit, 100))
    ax.semilogy(walk)
    ax.annotate(f"{share} of limit", (100, walk[-1]), xytext=(6, 0), textcoords="offset points", va="center")
ax.axhline(losses(X, y, best[None])[0], color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="step", ylabel="loss", xlim=(0, 100))

# %%
# .. caption:: Nearly the same rate, opposite fates. The dotted line is the loss of the best line.
#    :alt: Two curves on a logarithmic axis start at one point. One falls towards a dotted line, the other climbs steadily.
#
# Why is it still not there?
# --------------------------
#
# So take a rate that is safe, and be patient.

safe = 0.9 * limit
patient = descend(X, y, safe, 1000)
print(f"after 1000 steps: intercept {patient[-1, 1]:.1f}, wanted {best[1]:.1f}")
needed = torch.tensor(0.01, dtype=torch.float64).log() / (1 - safe * flat).log()
print(f"steps until the flat direction has 1 % of its error left: {needed:.0f}")
print(f"condition number {steep / flat:.0f}")
assert abs(patient[-1, 1]) < 0.1 * abs(best[1])
assert needed > 50_000
torch.testing.assert_close(torch.linalg.cond(X) ** 2, steep / flat)

# %%
# The steep direction caps the rate, and the flat one has to live with it. How unequal they are is the **condition number**,
# :math:`\lambda_{\max} / \lambda_{\min}`. That of :math:`\mathbf{X}` itself is only the square root, as the last line checks; ``lstsq``
# works on :math:`\mathbf{X}` and never forms :math:`\mathbf{X}^\top\mathbf{X}`, so it loses fewer digits.
#
# The inequality comes from the units: an index around 26 beside a column of ones. So change the units. Subtract the mean of the input,
# divide by its standard deviation:

z = (bmi - bmi.mean()) / bmi.std(correction=0)
Z = torch.stack([z, torch.ones_like(z)], dim=1)
H_scaled = 2 / len(y) * Z.T @ Z
torch.testing.assert_close(H_scaled, 2 * torch.eye(2, dtype=torch.float64))
print("condition number", round(torch.linalg.cond(H_scaled).item(), 6))

best_scaled = torch.linalg.solve(Z.T @ Z, Z.T @ y)
slope = best_scaled[0] / bmi.std(correction=0)
torch.testing.assert_close(torch.stack([slope, best_scaled[1] - slope * bmi.mean()]), best)  # the same line
torch.testing.assert_close(descend(Z, y, lr=0.5, steps=1)[-1], best_scaled)  # in one step

# %%
# From tens of thousands of steps to one. (With one feature the two directions become exactly equal; with many they only come closer.) This
# is what the two losses look like from above:


def contours(ax, X, path, centre, reach):
    """Draw the loss around its lowest point, and a path over it."""
    across, down = (torch.linspace(-r, r, 121, dtype=torch.float64) for r in reach)
    grid = torch.cartesian_prod(across, down) + centre
    excess = losses(X, y, grid).reshape(121, 121).T - losses(X, y, centre[None])
    levels = excess.max().item() * torch.linspace(0.02, 1, 12) ** 2
    ax.contour(across + centre[0], down + centre[1], excess, levels=levels, colors="0.75", linewidths=0.8)
    ax.plot(path[:, 0], path[:, 1], "o-", markersize=3, linewidth=1)
    ax.plot(*centre, "*", color="#D55E00", markersize=12)
    ax.set(xlabel="slope", ylabel="intercept")


# %%
# Thirty steps each, at 0.9 of the limit for the raw input and at a cautious 0.1 for the scaled one:

fig, axes = plt.subplots(1, 2)
contours(axes[0], X, descend(X, y, safe, 30), best, reach=(15, 150))
contours(axes[1], Z, descend(Z, y, 0.1, 30), best_scaled, reach=(190, 190))
for ax, title in zip(axes, ("raw input", "standardised input")):
    ax.annotate("start", (0, 0), xytext=(0, -14), textcoords="offset points", ha="center")
    ax.set_title(title)

# %%
# .. caption:: Left, the walk bounces from wall to wall of a valley, on the level where it started; the star is far down the valley.
#    Right, the same data in other units: straight to the star.
#    :alt: Two contour maps. On the left, the contours are long, steep, parallel lines; the path jumps sideways over them at an intercept
#       of 0, far from the star at the lowest point. On the right, the contours are circles; the path runs straight into the star in the
#       middle.

assert (descend(X, y, safe, 30)[-1, 1] - best[1]).abs() > 0.9 * best[1].abs()
assert (descend(Z, y, 0.1, 30)[-1] - best_scaled).abs().max() < 1

# %%
# Who writes the gradient?
# ------------------------
#
# You have walked with a gradient by hand. The second walker lets :term:`autograd` find it, the third leaves the weights to
# :class:`torch.nn.Linear` and the update to :class:`torch.optim.SGD`. Here is the second. ``no_grad`` keeps the update out of the graph.

by_hand = descend(Z, y, lr=0.1, steps=100)

theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
by_autograd = [theta.detach().clone()]
for _ in range(100):
    theta.grad = None
    loss = ((Z @ theta - y) ** 2).mean()
    loss.backward()
    with torch.no_grad():
        theta -= 0.1 * theta.grad
    by_autograd.append(theta.detach().clone())

torch.testing.assert_close(torch.stack(by_autograd), by_hand)

# %%
# And the third: a network of one layer with one input and one output. The model makes a column, so ``squeeze`` it before it meets ``y``;
# :doc:`/lessons/tensors/08_broadcasting` shows what happens otherwise.


def start():
    """Return a linear layer at zero and its optimiser."""
    model = nn.utils.skip_init(nn.Linear, 1, 1, dtype=torch.float64)
    for p in model.parameters():
        nn.init.zeros_(p)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def weights(model):
    """Return slope and intercept as one vector of its own."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# %%
# Every training loop in this book has the four lines in the middle of this one.

model, optimizer = start()
by_optim = [weights(model)]
for _ in range(100):
    optimizer.zero_grad()
    loss = F.mse_loss(model(z[:, None]).squeeze(1), y)
    loss.backward()
    optimizer.step()
    by_optim.append(weights(model))
    moved = by_optim[-1] - by_optim[-2]
    torch.testing.assert_close(moved, -0.1 * torch.cat([p.grad.flatten() for p in model.parameters()]))

torch.testing.assert_close(torch.stack(by_optim), by_hand)  # all 100 steps, not only the last
ways = {"closed form": best_scaled, "by hand": by_hand[-1], "autograd": by_autograd[-1], "nn + optim": by_optim[-1]}
for name, found in ways.items():
    torch.testing.assert_close(found, best_scaled)
    print(f"{name:<12} slope {found[0]:.4f}  intercept {found[1]:.4f}  SSE {((Z @ found - y) ** 2).sum():.0f}")

# %%
# Three walkers, one path. ``optimizer.step()`` did nothing that you could not have written: parameter minus rate times gradient.
#
# What is each line for?
# ----------------------
#
# Leave one out, take three steps, and look. The last row has all lines, in another order.


def three_steps(order):
    """Run these lines three times from zero; return the weights and the last gradient of the slope."""
    model, optimizer = start()
    for _ in range(3):
        loss = F.mse_loss(model(z[:, None]).squeeze(1), y)
        lines = {"zero_grad": optimizer.zero_grad, "backward": loss.backward, "step": optimizer.step}
        for line in order.split():
            lines[line]()
    return weights(model), model.weight.grad


orders = ("zero_grad backward step", "zero_grad step", "zero_grad backward", "backward step", "backward zero_grad step")
results = {order: three_steps(order) for order in orders}
for order, (found, grad) in results.items():
    print(f"{order:<24} slope {found[0]:6.2f}  grad {'None' if grad is None else f'{grad.item():.2f}'}")

# %%
# Five runs, no error message. What each of them did, against the gradients by hand:

complete, no_backward, no_step, no_zero_grad, too_late = results.values()
first, second = gradient(Z, y, by_hand[0]), gradient(Z, y, by_hand[1])
third = gradient(Z, y, by_hand[1] - 0.1 * (first + second))

torch.testing.assert_close(complete[0], by_hand[3])
assert no_backward[1] is None and no_backward[0].eq(0).all()
assert no_step[0].eq(0).all()
torch.testing.assert_close(no_step[1].flatten(), first[:1])
torch.testing.assert_close(no_zero_grad[1].flatten(), (first + second + third)[:1])
assert too_late[1] is None and too_late[0].eq(0).all()

# %%
# Without ``backward`` there is no gradient, and ``step`` passes over a parameter whose ``grad`` is ``None``. Without ``step`` the
# gradient is there and nobody uses it. Without ``zero_grad`` you walk with the sum of all gradients so far: faster at first, then past
# the goal (:doc:`/lessons/optimization/01_autograd_graph` shows it swing). Too late, ``zero_grad`` wipes out the gradient before anyone
# has used it.
#
# Do I need all the data for a step?
# ----------------------------------
#
# No. A :term:`mini-batch` gives a gradient that is right on average. Cut a shuffled table into 26 batches of 17: the mean of the 26
# gradients *is* the full one.

torch.manual_seed(0)
batches = torch.randperm(442).reshape(26, 17)
point = torch.tensor([10.0, 100.0], dtype=torch.float64)
each = torch.stack([gradient(Z[rows], y[rows], point) for rows in batches])
torch.testing.assert_close(each.mean(dim=0), gradient(Z, y, point))
print(f"batch slopes from {each[:, 0].min():.0f} to {each[:, 0].max():.0f}, full {each[:, 0].mean():.0f}")


def wander(lr, epochs):
    """Walk with batches of 17, shuffled anew in each epoch, and return every point."""
    path = [torch.zeros(2, dtype=torch.float64)]
    for _ in range(epochs):
        for rows in torch.randperm(442).reshape(26, 17):
            path.append(path[-1] - lr * gradient(Z[rows], y[rows], path[-1]))
    return torch.stack(path)


# %%
# On the left, both walkers have looked at each patient four times. On the right, where two walks with batches have been after many epochs:
# the last 520 points of each, close to the star.

noisy, full = wander(0.1, epochs=4), descend(Z, y, 0.1, 4)
clouds = {lr: wander(lr, epochs=40)[-520:] for lr in (0.1, 0.01)}
fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.4))
contours(left, Z, noisy, best_scaled, reach=(170, 170))
left.plot(full[:, 0], full[:, 1], "o-", markersize=4)
left.annotate("4 full", full[-1], xytext=(8, -6), textcoords="offset points", va="center")
left.annotate("104 noisy", noisy[11], xytext=(-10, 0), textcoords="offset points", ha="right")
for lr, cloud in clouds.items():
    right.plot(cloud[:, 0], cloud[:, 1], ".", markersize=3, label=f"rate {lr}")
right.set(xlabel="slope", xlim=(26, 65), ylim=(134, 178))
right.legend(loc="upper left", markerscale=4)

# %%
# .. caption:: Left, for the price of four exact steps you get 104 inexact ones, and they arrive. Right, they never settle; the smaller rate
#       trembles less.
#    :alt: Two pictures. On the left, a contour map of circles; an orange path of four straight steps stops half-way to the star, a jagged
#       blue path reaches it. On the right, a wide cloud of blue points and, inside it, a small dense cloud of orange points.
#
# The trembling does not die out, because each batch pulls towards a best line of its own.

far = {lr: (cloud - best_scaled).norm(dim=1).mean().item() for lr, cloud in clouds.items()}
for lr, distance in far.items():
    print(f"rate {lr}: {distance:.1f} away from the best line's numbers, on average")
assert (noisy[26] - best_scaled).norm() < (full[1] - best_scaled).norm() / 5  # after one look at the data
assert far[0.1] > 2 * far[0.01]

# %%
# Fast first, then quiet: that is the reason for rates that fall during training, which have a lesson of their own later in this part.
#
# Change something
# ----------------
#
# * Take blood pressure, ``features[:, 3]``, instead of the body mass index. Its mean is larger for its spread; predict whether the
#   condition number rises, then read it.
# * Draw ``descend(Z, y, 1.0, 30)`` in the right-hand contour map. That rate is exactly the limit: the factor is -1, and the walk jumps
#   between two points for ever.
# * Add the rate 0.001 to ``clouds``. Does a rate ten times smaller again end closer still? Print ``wander(0.001, 40)[-1]`` to see what
#   happened.
#
# Exercises
# ---------
#
# 1. Show that a step with :math:`\eta = 1/\lambda_i` removes the error along that eigenvector at once. Which two rates, used one after the
#    other, solve the *raw* problem in two steps? One of them is far above the limit: why does it do no harm?
# 2. Standardise all ten features, add the column of ones, and print condition number and limit. Why is it not 1?
# 3. Subtract only the mean, or divide only by the deviation. Which of the two mends more?
#
# .. dropdown:: Answers
#
#    1. The factor is :math:`1 - \eta\lambda_i = 0`. ``1 / steep``, then ``1 / flat``: after the first step nothing is left for the second
#       to blow up. Rounding leaves a trace, so do not try it with many directions.
#    2. The features are correlated with one another. Standardising makes the diagonal of ``H`` equal; what is beside the diagonal stays.
#    3. Subtracting: compare ``torch.linalg.cond`` of both. After it, slope and intercept no longer pull on each other.
