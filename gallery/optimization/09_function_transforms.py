r"""
Function transforms
===================

Find wrong labels by the gradient of every single sample, and turn a function into its
gradient, its Jacobian or its batched self.

.. lesson::
   :needs: optimization/04_gradient_descent optimization/05_backpropagation
   :data: scikit-learn's handwritten digits
   :keywords: torch.func, functorch, vmap, grad, functional_call, per-sample gradients,
      per-example gradients, jacrev, jacfwd, Jacobian, Hessian, jvp, Hessian-vector
      product, forward mode, reverse mode, second derivative, higher-order derivatives,
      Newton's method, JAX, label noise, mislabelled data, data-dependent control flow,
      vmap randomness, called random operation while in randomness error mode
   :thumbnail: 1
"""

# %%
# Which labels are wrong?
# -----------------------
#
# Somebody typed the labels of 1,797 handwritten digits, and eight of them are wrong. Checking all of them takes an hour. Can a model tell
# you where to look? To be able to judge, we spoil the eight ourselves, and tell the model nothing.

import torch
from pytorch_course.datasets import digits

images, truth = digits().tensors
X = images.flatten(1)
generator = torch.Generator().manual_seed(0)
spoiled = torch.randperm(len(X), generator=generator)[:8]
shift = torch.randint(1, 10, (8,), generator=generator)
labels = truth.clone()
labels[spoiled] = (labels[spoiled] + shift) % 10
print("true ", truth[spoiled].tolist())
print("typed", labels[spoiled].tolist())

# %%
# Train a linear model on all of them:

from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
model = nn.Linear(64, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
for _ in range(200):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(X), labels)
    loss.backward()
    optimizer.step()
print(f"loss {loss:.3f}")

# %%
# The :term:`gradient` of that loss is a mean: a vote of 1,797 samples, of which you see the result only. A sample that fits the others has
# nothing to complain about. One that contradicts them pulls at every step, in vain. So look at the **gradient of each sample**, and at how
# long it is. With the tools you have, that is a loop.


def one_by_one():
    """Return the gradient of each sample's loss by the weights."""
    found = []
    for x, label in zip(X, labels):
        model.zero_grad()
        F.cross_entropy(model(x), label).backward()
        found.append(model.weight.grad.clone())
    return torch.stack(found)


# %%
# And this is the same in two words. :func:`torch.func.grad` turns the loss of one sample into the gradient for one sample;
# :func:`torch.func.vmap` turns that into the gradients of all. The loss must be a *function* of the weights for this, and a :term:`module`
# keeps its weights to itself; :func:`torch.func.functional_call` runs it with those that you hand in.

import time

from torch.func import functional_call, grad, vmap

weights = {name: p.detach() for name, p in model.named_parameters()}


def sample_loss(weights, x, label):
    """Return the loss of one sample."""
    return F.cross_entropy(functional_call(model, weights, (x,)), label)


start = time.perf_counter()
looped = one_by_one()
middle = time.perf_counter()
each = vmap(grad(sample_loss), in_dims=(None, 0, 0))(weights, X, labels)
end = time.perf_counter()
print(f"measured: loop {middle - start:.3f} s, vmap {end - middle:.3f} s")
print({name: tuple(part.shape) for name, part in each.items()})
torch.testing.assert_close(each["weight"], looped)

# %%
# ``in_dims`` says which axis counts the samples: the weights are the same for all (``None``), pictures and labels come one by one (0). Who
# pulls hardest?

norms = each["weight"].flatten(1).norm(dim=1)
suspects = norms.argsort(descending=True)
caught = torch.isin(suspects[:16], spoiled)
print(f"{caught.sum()} of the 8 wrong labels are among the first 16 suspects")
assert caught.sum() >= 6
by_loss = F.cross_entropy(model(X), labels, reduction="none").argsort(descending=True)
print("by the loss alone:", torch.isin(by_loss[:16], spoiled).sum().item())

# %%

# fold: the length of each sample's gradient
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(norms, ".", color="0.75", markersize=4)
ax.plot(spoiled, norms[spoiled], "o", color="C3", markersize=8, label="wrong label")
ax.set(xlabel="sample", ylabel="length of its gradient")
ax.legend()

# %%
# .. caption:: One dot per sample. Those of the eight wrong labels are among the longest.
#    :alt: A scatter of 1,797 grey dots, most of them near zero, thinning out upwards. Most of the eight large dots lie near the top.
#
# Sorting by the loss of each sample does at least as well here (the last line), and costs less. The gradient says more: not only how bad
# the fit is, but which weights the sample pulls at, and which way. Here are the sixteen suspects; looking through them takes seconds.
# In your own data you do not know how many are wrong: go down the list until you meet only right labels for a while.

from pytorch_course.plots import image_grid

titles = []
for i in suspects[:16].tolist():
    changed = i in spoiled.tolist()
    titles.append(f"{truth[i]} → {labels[i]}" if changed else f"{labels[i]}")
figure = image_grid(1 - images[suspects[:16]], titles=titles)

# %%
# .. caption:: The sixteen longest gradients. An arrow marks a label that was changed; the others are as they were in the data set.
#    :alt: Two rows of eight small handwritten digits, each with its label above. Seven labels show an arrow from the true to the wrong
#       digit.
#
# What does grad do?
# ------------------
#
# It takes a *function* and returns a *function*. No ``requires_grad``, no ``backward``, no ``.grad`` to clear. And because the result is a
# function again, you can say it twice, or three times.

t = torch.tensor(0.7)
first, second = grad(torch.tanh), grad(grad(torch.tanh))
print(f"first  {first(t):.6f}, on paper {1 - t.tanh() ** 2:.6f}")
print(f"second {second(t):.6f}, on paper {-2 * t.tanh() * (1 - t.tanh() ** 2):.6f}")
torch.testing.assert_close(first(t), 1 - t.tanh() ** 2)
torch.testing.assert_close(second(t), -2 * t.tanh() * (1 - t.tanh() ** 2))
assert t.grad is None and not t.requires_grad

# %%

# fold: tanh and three derivatives
x = torch.linspace(-3, 3, 301)
fig, ax = plt.subplots(figsize=(6.4, 3))
f = torch.tanh
for name, style in [("tanh", "-"), ("1st", "--"), ("2nd", "-."), ("3rd", ":")]:
    ax.plot(x, vmap(f)(x), style, label=name)
    f = grad(f)
ax.set(xlabel="x", ylabel="value")
ax.legend()

# %%
# .. caption:: ``tanh`` and its first three derivatives, each made from the one before by ``grad``.
#    :alt: Four curves between minus 3 and 3. Tanh rises from minus 1 to 1, its first derivative is a bump of height 1, the second swings
#       up and then down, the third dips to minus 2 between two humps.
#
# ``grad`` wants a single number as the result. For 301 of them the figure needed ``vmap``.
#
# Where did the loop go?
# ----------------------
#
# ``vmap`` takes a function of *one* sample and returns one for a batch. By hand it is a loop and a stack. Nested, it gives a table of all
# pairs, from a function that was written for two points.


def distance(a, b):
    """Return the distance of two points."""
    return torch.linalg.vector_norm(a - b)


points = torch.rand(6, 2, generator=generator)
by_hand = torch.stack([distance(point, points[0]) for point in points])
to_one = vmap(distance, in_dims=(0, None))
to_all = vmap(to_one, in_dims=(None, 0))
print("distances", [round(d, 3) for d in to_one(points, points[0]).tolist()])
print("table", tuple(to_all(points, points).shape))
torch.testing.assert_close(to_one(points, points[0]), by_hand)
torch.testing.assert_close(to_all(points, points), torch.cdist(points, points))

# %%
# What you expect: ``vmap`` calls your function once per sample. What happens: it calls it *once*, with a stand-in for all samples that
# looks like one. So a ``print`` inside runs once, and Python cannot choose a branch per sample.

shapes = []


def flip_negative(x):
    """Turn x around if its sum is negative."""
    shapes.append(tuple(x.shape))
    return x if x.sum() > 0 else -x


batch = torch.tensor([[1.0, 2.0], [-3.0, 1.0], [4.0, 0.0]])
try:
    vmap(flip_negative)(batch)
except RuntimeError as error:
    print(f"calls {shapes}, RuntimeError:", str(error).split(". ")[0])
else:
    raise AssertionError("one call took two branches")
assert shapes == [(2,)]

fixed = vmap(lambda x: torch.where(x.sum() > 0, x, -x))(batch)
print(fixed.tolist())
assert fixed.tolist() == [[1, 2], [3, -1], [4, 0]]

# %%
# The fix computes both branches and chooses. Chance is refused too, until you say whether the samples share it; dropout wants
# ``"different"``.


def noisy(x):
    """Add one random number."""
    return x + torch.rand(())


try:
    vmap(noisy)(torch.zeros(3))
except RuntimeError as error:
    print("RuntimeError:", str(error).split(". ")[0])
else:
    raise AssertionError("vmap drew without asking")
for kind in ("same", "different"):
    torch.manual_seed(0)
    drawn = vmap(noisy, randomness=kind)(torch.zeros(3))
    print(f"{kind:<9} {len(drawn.unique())} distinct numbers")
assert len(drawn.unique()) == 3

# %%
# What if it returns a vector?
# ----------------------------
#
# Then the derivative is a matrix, the **Jacobian** :math:`J_{ij} = \partial f_i / \partial x_j`. One walk *back* gives a row of it, the
# :term:`vector-Jacobian product` :math:`\mathbf{v}^\top\mathbf{J}` (**reverse mode**). There is also a walk *forward*, alongside the
# computation, which gives a column, :math:`\mathbf{J}\mathbf{v}` (**forward mode**). ``jvp`` returns the pair of :math:`f(x)` and
# :math:`\mathbf{J}\mathbf{v}`, hence the ``[1]``. Build the matrix both ways for a layer with 100 inputs and 2 outputs; count the walks.

import warnings

from torch.func import jacfwd, jacrev, jvp

layer_W = torch.randn(2, 100, generator=generator) / 10
x = torch.randn(100, generator=generator)


def layer(x):
    """Return two numbers from a hundred."""
    return torch.tanh(layer_W @ x)


leaf = x.clone().requires_grad_()
y = layer(leaf)
rows = [torch.autograd.grad(y, leaf, v, retain_graph=True)[0] for v in torch.eye(2)]
with warnings.catch_warnings(record=True) as shown:
    warnings.simplefilter("always")
    columns = [jvp(layer, (x,), (v,))[1] for v in torch.eye(100)]
print(f"{len(rows)} walks back, {len(columns)} walks forward")

paper = (1 - layer(x) ** 2)[:, None] * layer_W
jacobians = [torch.stack(rows), torch.stack(columns, dim=1), jacrev(layer)(x)]
for jacobian in [*jacobians, jacfwd(layer)(x)]:
    torch.testing.assert_close(jacobian, paper)
assert all("torch.jit.script" in str(warning.message) for warning in shown)

# %%
# The same matrix, in fifty times as many walks if you choose badly (counted, not timed): :func:`torch.func.jacrev` for few
# outputs, :func:`torch.func.jacfwd` for few inputs. A loss has one output and millions of inputs. That is why training walks back.
#
# .. admonition:: From practice
#
#    The first walk forward in a program may warn that ``torch.jit.script`` is deprecated. PyTorch uses it inside; you can ignore it.
#
# Can I leap instead of walk?
# ---------------------------
#
# The derivative of the gradient is the **Hessian**, :math:`H_{ij} = \partial^2 L / \partial\theta_i\,\partial\theta_j`. It says how fast
# the slope changes, and so where it will be zero. Newton's step goes there at once:
#
# .. math:: \theta \leftarrow \theta - \mathbf{H}^{-1}\,\nabla_\theta L
#
# For least squares the slope changes at a constant rate, so *one* step from anywhere must land on the solution.

from torch.func import hessian


def newton(f, theta):
    """Return the point after one of Newton's steps."""
    return theta - torch.linalg.solve(hessian(f)(theta), grad(f)(theta))


A = torch.randn(40, 3, generator=generator, dtype=torch.float64)
b = torch.randn(40, generator=generator, dtype=torch.float64)
theta = torch.tensor([100.0, -50.0, 7.0], dtype=torch.float64)


def squared_error(theta):
    """Return the mean squared error of a linear model."""
    return (A @ theta - b).square().mean()


landed = newton(squared_error, theta)
print(f"loss before {squared_error(theta):.0f}, after {squared_error(landed):.4f}")
torch.testing.assert_close(hessian(squared_error)(theta), 2 / 40 * A.T @ A)
torch.testing.assert_close(landed, torch.linalg.lstsq(A, b[:, None]).solution[:, 0])

# %%
# Most losses are not that kind. Rosenbrock's valley is the classic test: steep sides, and a floor that bends and hardly falls. Its lowest
# point is (1, 1). The classic form has 100 where this one has 10, which makes the sides less steep.


def valley(w):
    """Return the height of the landscape at the point w."""
    return (1 - w[0]) ** 2 + 10 * (w[1] - w[0] ** 2) ** 2


start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
walk, leaps = [start], [start]
for _ in range(500):
    walk.append(walk[-1] - 0.005 * grad(valley)(walk[-1]))
for _ in range(8):
    leaps.append(newton(valley, leaps[-1]))
for name, path in [("gradient", walk), ("Newton", leaps)]:
    heights = vmap(valley)(torch.stack(path))
    uphill = (heights.diff() > 1e-6).sum()
    left = (path[-1] - 1).norm()
    print(f"{name:<9} {len(path) - 1:3} steps, {uphill} uphill, {left:.2f} to go")
assert uphill == 2 and left < 1e-6

# %%

# fold: the valley and both paths
across, down = torch.linspace(-1.6, 1.5, 120), torch.linspace(-1.3, 1.7, 120)
height = vmap(valley)(torch.cartesian_prod(across, down)).reshape(120, 120).T
fig, ax = plt.subplots(figsize=(6.4, 4.2))
levels = torch.logspace(-1.5, 2, 12).tolist()
ax.contour(across, down, height, levels=levels, colors="0.8", linewidths=1)
ax.plot(*torch.stack(walk).T, ".", label="gradient")
ax.plot(*torch.stack(leaps).T, "o-", label="Newton")
ax.plot(1, 1, "*", color="black", markersize=12)
ax.set(xlabel="first parameter", ylabel="second parameter")
ax.legend(loc="lower left")

# %%
# .. caption:: Five hundred small steps creep along the floor of the valley and are not there yet. Newton's eight leap over the walls and
#       land on the star.
#    :alt: Grey contour lines of a valley bent like a horseshoe. A chain of dots slides down its wall and along its floor and ends before
#       the star at (1, 1). A line with a few large dots jumps across the valley and ends on the star.
#
# Networks are not trained that way, for two reasons. Newton looks for a slope of zero, not for depth: two leaps went uphill, and the top of
# a hill has a slope of zero too. And one leap costs far more than one small step: the Hessian has a row and a column for every parameter,
# and a system of that size must be solved. In the curve below, 0 is the top of a hill.


def two_pits(w):
    """Return a curve with pits at -1 and 1 and a hill at 0."""
    return w**4 / 4 - w**2 / 2


w = torch.tensor(0.3, dtype=torch.float64)
for _ in range(6):
    w = w - grad(two_pits)(w) / grad(grad(two_pits))(w)
print(f"from 0.3 Newton goes to {abs(w):.4f}, curvature {grad(grad(two_pits))(w):.1f}")
assert abs(w) < 1e-6
for parameters, unit, name in ((650, 1e6, "MB"), (25_000_000, 1e12, "TB")):
    size = 4 * parameters**2 / unit
    print(f"{parameters:>10,} parameters, Hessian in float32: {size:,.1f} {name}")

# %%
# Take this with you
# ------------------
#
# Write the loss of *one* sample as a function of the weights; ``vmap(grad(...))`` gives the gradient of each sample. Dropout needs
# ``randomness="different"``, and batch normalisation in training has no loss of *one* sample.

net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
parameters = {name: p.detach() for name, p in net.named_parameters()}


def loss_of_one(parameters, x, label):
    return F.cross_entropy(functional_call(net, parameters, (x,)), label)


per_sample = vmap(grad(loss_of_one), in_dims=(None, 0, 0))
found = per_sample(parameters, torch.rand(7, 5), torch.arange(7) % 3)
print({name: tuple(part.shape) for name, part in found.items()})

# %%
# Change something
# ----------------
#
# * Spoil 80 labels instead of 8 (the 8 stands in two places), and count among the first 80 suspects instead of 16. How many are wrong?
# * In ``valley``, put 100 in place of 10, which is its classic form. What becomes of the two paths?
# * In ``two_pits``, start at 0.7 instead of 0.3. Where does Newton land? Predict the sign of the first step.
#
# .. dropdown:: What happens
#
#    * 69 of the 80 suspects. Ten times as many wrong labels also bend the model, and still most of them stand out.
#    * Newton still lands on the star. The gradient jumps from wall to wall, 35 of its 500 steps lead uphill, and 0.86 are left to go.
#      With a rate of 0.001 no step leads uphill, and it gets less far: 1.68 are left.
#    * In the pit at 1: the curvature is positive there, so the first step leads downhill. It goes past the pit to 1.46, and comes back. The
#      assert, which expects the hill, objects.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a shape
#
#    ``a`` has the shape (4, 2), ``b`` (5, 2). Which shape has
#    ``vmap(vmap(distance, in_dims=(None, 0)), in_dims=(0, None))(a, b)``?

### BEGIN SOLUTION
guess = (4, 5)
### END SOLUTION

a, b = torch.rand(4, 2, generator=generator), torch.rand(5, 2, generator=generator)
pairs = vmap(vmap(distance, in_dims=(None, 0)), in_dims=(0, None))(a, b)
expect(guess, tuple(pairs.shape))

# %%
# .. exercise:: Fix a function with a branch
#
#    Huber's loss of one error: ``e**2 / 2 if abs(e) < 1 else abs(e) - 0.5``. Under ``vmap`` it raises. Write it so that both
#    ``vmap(huber)`` and ``vmap(grad(huber))`` work.


def huber(e):
    ### BEGIN SOLUTION
    return torch.where(e.abs() < 1, e**2 / 2, e.abs() - 0.5)
    ### END SOLUTION


errors = torch.tensor([-3.0, -0.5, 0.2, 4.0])
expect(lambda: vmap(huber)(errors), torch.tensor([2.5, 0.125, 0.02, 3.5]))
expect(lambda: vmap(grad(huber))(errors), torch.tensor([-1.0, -0.5, 0.2, 1.0]))

# %%
# .. exercise:: Multiply by a Hessian without a Hessian
#
#    :math:`\mathbf{H}\mathbf{v}` says how the gradient changes along :math:`\mathbf{v}`. Write ``product(f, x, v)`` that never builds
#    :math:`\mathbf{H}`: one ``jvp`` of one ``grad``. It then works for millions of parameters.


def product(f, x, v):
    ### BEGIN SOLUTION
    return jvp(grad(f), (x,), (v,))[1]
    ### END SOLUTION


x = torch.tensor([0.5, -2.0], dtype=torch.float64)
v = torch.tensor([3.0, 1.0], dtype=torch.float64)
expect(lambda: product(valley, x, v), hessian(valley)(x) @ v)
