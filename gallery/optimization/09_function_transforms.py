r"""
Function transforms
===================

Turn a function into its gradient, its Jacobian, its Hessian or its batched self, and use these to leap to a minimum and to catch wrong
labels.

.. lesson::
   :needs: optimization/04_gradient_descent optimization/05_backpropagation
   :data: scikit-learn's handwritten digits
"""

# %%
# What is the third derivative of tanh?
# -------------------------------------
#
# You could work it out on paper. Or you could say it three times.

import matplotlib.pyplot as plt
import torch
from torch.func import grad, vmap

plt.style.use("pytorch_course.book")
x = torch.linspace(-3, 3, 301)
fig, ax = plt.subplots()
f = torch.tanh
places = {"tanh": (2.6, 1.08), "1st": (-0.12, 1.1), "2nd": (-0.95, 0.85), "3rd": (0.35, -1.6)}
for name, place in places.items():
    (line,) = ax.plot(x, vmap(f)(x))
    ax.text(*place, name, color=line.get_color())
    f = grad(f)  # a function again
ax.set(xlabel="x", ylabel="value", ylim=(-2.2, 1.5))

# %%
# .. caption:: ``tanh`` and its first three derivatives, each made from the one before by ``grad``.
#    :alt: Four curves between minus 3 and 3. Tanh rises from minus 1 to 1, its first derivative is a bump of height 1, the second swings
#       up and then down, the third dips to minus 2 between two humps.
#
# :func:`torch.func.grad` takes a *function* and returns a *function*: its derivative. There is no ``requires_grad``, no ``backward``, no
# ``.grad`` to clear; what goes in stays as it was. Underneath it is the graph of :doc:`/lessons/optimization/01_autograd_graph`. Three
# ways to one number:

t = torch.tensor(0.7)
first = grad(torch.tanh)(t)
torch.testing.assert_close(first, 1 - t.tanh() ** 2)  # on paper

leaf = t.clone().requires_grad_()
torch.testing.assert_close(first, torch.autograd.grad(leaf.tanh(), leaf)[0])  # with a graph
torch.testing.assert_close(grad(grad(torch.tanh))(t), -2 * t.tanh() * (1 - t.tanh() ** 2))
assert not t.requires_grad and t.grad is None and not first.requires_grad

try:
    grad(torch.tanh)(x)
except RuntimeError as error:
    print("RuntimeError:", str(error).split(": ")[1])
else:
    raise AssertionError("a vector had a gradient")

# %%
# Where did the loop go?
# ----------------------
#
# ``grad`` wants a single number as the result, so ``grad(torch.tanh)`` cannot take 301 of them. The second transform lifts that limit.
# :func:`torch.func.vmap` takes a function of *one* sample and returns one for a whole batch. By hand it is a loop and a stack.
# ``in_dims`` says which axis of each argument counts the samples; ``None`` means *the same for all*.


def distance(a, b):
    """Return the distance of two points."""
    return torch.linalg.vector_norm(a - b)


points = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
by_hand = torch.stack([distance(point, points[0]) for point in points])
to_first = vmap(distance, in_dims=(0, None))(points, points[0])
torch.testing.assert_close(to_first, by_hand)

table = vmap(vmap(distance, in_dims=(0, None)), in_dims=(None, 0))(points, points)
print(tuple(to_first.shape), tuple(table.shape))
torch.testing.assert_close(table, torch.linalg.vector_norm(points[:, None] - points, dim=2))

# %%
# The function was written for two points, without a thought of axes, and became a table of all pairs. The last line is the same by
# :term:`broadcasting`, where you must place the axes yourself.
#
# What if it returns a vector?
# ----------------------------
#
# Then the derivative is a matrix, the **Jacobian** :math:`J_{ij} = \partial f_i / \partial x_j`. One walk *back* through the graph gives
# a row of it, :math:`\mathbf{v}^\top\mathbf{J}`. There is also a walk *forward*, alongside the computation, which gives a column,
# :math:`\mathbf{J}\mathbf{v}`. Build the matrix both ways and count the walks.

from torch.func import jacfwd, jacrev, jvp


def by_rows(f, x):
    """Build the Jacobian in reverse mode: one walk back per output."""
    leaf = x.clone().requires_grad_()
    y = f(leaf)
    walks = [torch.autograd.grad(y, leaf, v, retain_graph=True)[0] for v in torch.eye(len(y))]
    return torch.stack(walks), len(walks)


def by_columns(f, x):
    """Build the Jacobian in forward mode: one walk forward per input."""
    walks = [jvp(f, (x,), (v,))[1] for v in torch.eye(len(x))]
    return torch.stack(walks, dim=1), len(walks)


# %%
# One walk forward, on its own, to hear what it says:

import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    value, slope = jvp(torch.tanh, (t,), (torch.tensor(1.0),))
torch.testing.assert_close((value, slope), (t.tanh(), grad(torch.tanh)(t)))
assert all("torch.jit.script" in str(warning.message) for warning in caught)

# %%
# .. admonition:: From practice
#
#    The first walk forward in a program may print warnings that ``torch.jit.script`` is deprecated. It is not you: PyTorch 2.15 uses it
#    to load its own forward rules. The cell above lets that happen once, and asserts that no other warning was among them.
#
# Two functions: a hundred numbers into two, and two into a hundred.


def make_layer(W):
    """Return a layer without bias as a function of its input."""
    return lambda x: torch.tanh(W @ x)


generator = torch.Generator().manual_seed(1)
for inputs, outputs in ((100, 2), (2, 100)):
    W = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    layer, start = make_layer(W), torch.randn(inputs, generator=generator)
    paper = (1 - layer(start) ** 2)[:, None] * W
    rows, back = by_rows(layer, start)
    columns, forward = by_columns(layer, start)
    for jacobian in (rows, columns, jacrev(layer)(start), jacfwd(layer)(start)):
        torch.testing.assert_close(jacobian, paper, atol=1e-5, rtol=1e-4)
    print(f"{inputs:3d} -> {outputs:3d}:  {back:3d} walks back or {forward:3d} forward")
    assert (back, forward) == (outputs, inputs)

# %%
# Same matrix, fifty times the work if you choose badly: :func:`torch.func.jacrev` for few outputs, :func:`torch.func.jacfwd` for few
# inputs. A loss has one output and millions of inputs. That is why training walks backwards.
#
# Can I leap instead of walk?
# ---------------------------
#
# The derivative of the gradient is the **Hessian**, :math:`H_{ij} = \partial^2 L / \partial\theta_i\,\partial\theta_j`. It says how fast
# the slope changes, and so where the slope will be zero. Newton's step goes there at once:
#
# .. math:: \theta \leftarrow \theta - \mathbf{H}^{-1}\,\nabla_\theta L
#
# For least squares the slope changes at a constant rate, so *one* step from anywhere must land on the solution.

from torch.func import hessian


def hessian_by_hand(f, x):
    """Differentiate each part of the gradient once more."""
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(leaf), leaf, create_graph=True)
    return torch.stack([torch.autograd.grad(part, leaf, retain_graph=True)[0] for part in slope])


def newton(f, theta):
    """Return the point after one of Newton's steps."""
    return theta - torch.linalg.solve(hessian(f)(theta), grad(f)(theta))


# %%
# Forty points, three unknowns, and a start far off:

X = torch.randn(40, 3, generator=generator, dtype=torch.float64)
y = torch.randn(40, generator=generator, dtype=torch.float64)
start = torch.tensor([100.0, -50.0, 7.0], dtype=torch.float64)


def squared_error(theta):
    """Return the mean squared error of a linear model."""
    return (X @ theta - y).square().mean()


torch.testing.assert_close(hessian_by_hand(squared_error, start), hessian(squared_error)(start))
torch.testing.assert_close(hessian(squared_error)(start), 2 / 40 * X.T @ X)
torch.testing.assert_close(newton(squared_error, start), torch.linalg.lstsq(X, y[:, None]).solution[:, 0])
print(f"loss before {squared_error(start):.0f}, after one step {squared_error(newton(squared_error, start)):.3f}")

# %%
# Most losses are not that kind. Rosenbrock's valley is the classic test: steep sides, and a bottom that bends and hardly falls.


def valley(w):
    """Return the height of the landscape at the point w; its lowest point is (1, 1)."""
    return (1 - w[0]) ** 2 + 10 * (w[1] - w[0] ** 2) ** 2


start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
paths = {"gradient": [start], "Newton": [start]}
for _ in range(500):
    paths["gradient"].append(paths["gradient"][-1] - 0.005 * grad(valley)(paths["gradient"][-1]))
for _ in range(8):
    paths["Newton"].append(newton(valley, paths["Newton"][-1]))

for name, path in paths.items():
    rises = sum((valley(after) > valley(before) + 1e-6).item() for before, after in zip(path, path[1:]))
    print(f"{name:<9} {len(path) - 1:3d} steps, {rises} of them uphill; still {(path[-1] - 1).norm():.2f} to go")
    assert rises == (2 if name == "Newton" else 0)
assert (paths["Newton"][-1] - 1).norm() < 1e-6 < 0.1 < (paths["gradient"][-1] - 1).norm()

# %%
# To draw the landscape, ``vmap`` computes its height at every point of a grid.

across, down = torch.linspace(-1.6, 1.5, 120), torch.linspace(-1.3, 1.7, 120)
height = vmap(valley)(torch.cartesian_prod(across, down)).reshape(120, 120).T

fig, ax = plt.subplots(figsize=(6.4, 4.2))
ax.contour(across, down, height, levels=torch.logspace(-1.5, 2, 12).tolist(), colors="0.8", linewidths=1)
for (name, path), marker, place in zip(paths.items(), (".", "o"), ((-0.35, 0.55), (0.15, -0.85))):
    (line,) = ax.plot(*torch.stack(path).T, marker=marker, markersize=4, linewidth=1.2)
    ax.text(*place, name, color=line.get_color())
ax.plot(1, 1, "*", color="black", markersize=12)
ax.set(xlabel="first parameter", ylabel="second parameter")

# %%
# .. caption:: Five hundred small steps creep along the bottom of the valley and are not there yet. Newton's steps leap over the walls and
#       land on the star.
#    :alt: Grey contour lines of a valley bent like a horseshoe. A chain of dots slides down its wall and along its floor and ends before
#       the star at (1, 1). A second line with a few large dots jumps across the valley and ends on the star.
#
# Two reasons why networks are not trained that way. Newton looks for a slope of zero and not for depth: two of its
# leaps went uphill, and the top of a hill has a slope of zero, too. And the
# Hessian has a row and a column per parameter.


def two_pits(w):
    """Return a curve with pits at -1 and 1 and a hill at 0."""
    return w**4 / 4 - w**2 / 2


w = torch.tensor(0.3, dtype=torch.float64)
for _ in range(6):
    w = w - grad(two_pits)(w) / grad(grad(two_pits))(w)
print(f"distance from the top of the hill: {abs(w):.4f}")
assert abs(w) < 1e-6 and grad(grad(two_pits))(w) < 0

for parameters in (650, 25_000_000):
    print(f"{parameters:>10,} parameters, Hessian in float32: {4 * parameters**2:,} bytes")

# %%
# Which label is wrong?
# ---------------------
#
# A transform needs a function, and a module keeps its parameters to itself. :func:`torch.func.functional_call` runs a module with
# parameters that you hand in, so the loss becomes a function of them.

from torch.func import functional_call
from pytorch_course.datasets.bundled import digits

images, truth = digits().tensors
X = images.flatten(1)
generator = torch.Generator().manual_seed(0)
changed = torch.randperm(len(X), generator=generator)[:8]
labels = truth.clone()
labels[changed] = (labels[changed] + torch.randint(1, 10, (8,), generator=generator)) % 10  # eight wrong labels

torch.manual_seed(0)
model = torch.nn.Linear(64, 10)
weights = {name: p.detach() for name, p in model.named_parameters()}
halved = {name: p / 2 for name, p in weights.items()}
torch.testing.assert_close(functional_call(model, halved, (X,)), X @ weights["weight"].T / 2 + weights["bias"] / 2)
torch.testing.assert_close(model(X), X @ weights["weight"].T + weights["bias"])  # the module is as it was

# %%
# Training in this style has no optimiser and no state: new weights are made from old ones. Among the 1,797 labels, eight are wrong,
# and nobody tells the model.


def loss(weights, x, label):
    """Return the loss of one sample or the mean loss of many."""
    return torch.nn.functional.cross_entropy(functional_call(model, weights, (x,)), label)


losses = [loss(weights, X, labels)]
for _ in range(200):
    slopes = grad(loss)(weights, X, labels)
    weights = {name: weights[name] - 0.5 * slopes[name] for name in weights}
losses.append(loss(weights, X, labels))
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
assert losses[-1] < 0.2 * losses[0]

# %%
# A gradient is a mean over the samples: a vote, of which you see the result only. ``vmap(grad(loss))`` opens the ballot: same weights
# for all (``None``), each sample on its own (0). For this model theory knows the answer, :math:`(\hat{\mathbf{p}} -
# \mathbf{y})\,\mathbf{x}^\top` with :math:`\mathbf{y}` one-hot.

each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, X, labels)
print({name: tuple(part.shape) for name, part in each.items()})

loop = torch.stack([grad(loss)(weights, X[i], labels[i])["weight"] for i in range(20)])
torch.testing.assert_close(each["weight"][:20], loop)

errors = functional_call(model, weights, (X,)).softmax(dim=1) - torch.nn.functional.one_hot(labels, 10)
torch.testing.assert_close(each["weight"], errors[:, :, None] * X[:, None, :])
for name, part in grad(loss)(weights, X, labels).items():
    torch.testing.assert_close(each[name].mean(dim=0), part, atol=1e-6, rtol=1e-4)

# %%
# Who pulls hardest? A sample that fits costs the model nothing. One that contradicts all the others pulls at every step, in vain.

norms = torch.cat([part.flatten(1) for part in each.values()], dim=1).norm(dim=1)
suspects = norms.argsort(descending=True)
wrong = torch.zeros(len(X), dtype=torch.bool).index_fill(0, changed, True)
print("wrong labels among the first 16 suspects:", wrong[suspects[:16]].sum().item(), "of", len(changed))
assert wrong[suspects[:16]].sum() >= 6

fig, ax = plt.subplots()
ax.plot(norms, ".", color="0.75", markersize=4)
ax.plot(changed, norms[changed], "o", color="#D55E00", markersize=7)
ax.text(1800, 6.6, "wrong labels", ha="right", color="#D55E00")
ax.set(xlabel="sample", ylabel="length of its gradient", ylim=(-0.2, 7.2))

# %%
# .. caption:: One dot per sample. The samples whose labels were changed have nearly the longest gradients of all.
#    :alt: A scatter of 1,797 grey dots, most of them near zero, thinning out upwards. Eight orange-red dots lie almost all at the top.
#
# Here are the sixteen suspects. A human needs seconds for this page, and hours for 1,797 digits.

from pytorch_course.plots import image_grid

titles = [f"{truth[i]} → {labels[i]}" if wrong[i] else f"{labels[i]}" for i in suspects[:16].tolist()]
figure = image_grid(1 - images[suspects[:16]], titles=titles)

# %%
# .. caption:: The sixteen longest gradients. An arrow marks a label that was changed; the others are right, and hard to read.
#    :alt: Two rows of eight small handwritten digits, each with its label above. Seven of the titles show an arrow from the true to the
#       wrong label.
#
# What can vmap not do?
# ---------------------
#
# It calls your function *once*, with a stand-in for all samples that looks like one. So a ``print`` inside runs once, and Python cannot
# choose a branch per sample.

seen = []


def flip_negative(x):
    """Turn x around if its sum is negative."""
    seen.append(tuple(x.shape))
    return x if x.sum() > 0 else -x


batch = torch.tensor([[1.0, 2.0], [-3.0, 1.0], [4.0, 0.0]])
try:
    vmap(flip_negative)(batch)
except RuntimeError as error:
    print(seen, "RuntimeError:", str(error).split(". ")[0])
else:
    raise AssertionError("one call took two branches")

mended = vmap(lambda x: torch.where(x.sum() > 0, x, -x))(batch)
assert torch.equal(mended, torch.stack([flip_negative(x) for x in batch])) and seen == [(2,)] * 4

# %%
# The mend computes both branches and chooses. Chance is refused as well, until you say whether the samples share it; dropout wants
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

torch.manual_seed(0)
same, different = (vmap(noisy, randomness=kind)(torch.zeros(3)) for kind in ("same", "different"))
print("distinct numbers:", len(same.unique()), "and", len(different.unique()))
assert len(same.unique()) == 1 and len(different.unique()) == 3

# %%
# And a write :term:`in place` may find no room: a tensor that is made inside from plain sizes has cells for one sample, and ``x`` stands
# for all of them. One that is made *like* ``x`` has cells for all.


def fixed(x):
    """Add x to two zeros, in place."""
    total = torch.zeros(2)
    return total.add_(x)


def fitting(x):
    """Add x to as many zeros as x has, in place."""
    total = torch.zeros_like(x)
    return total.add_(x)


try:
    vmap(fixed)(batch)
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("two cells took six numbers")
assert torch.equal(vmap(fitting)(batch), batch)

# %%
# Change something
# ----------------
#
# * Put 100 in place of 10 into ``valley``, which is its classic form. Newton hardly notices. What happens to the path of the gradient, and
#   which rate mends it?
# * Change 80 labels instead of 8 (there are two eights to replace). What share of the first 80 suspects is wrong now?
# * In ``two_pits``, start at 0.7. Into which pit does Newton fall? Predict the sign of the first step from the formula.
#
# Exercises
# ---------
#
# 1. Write ``directional(f, x, v)``, the derivative of f along v, with ``grad`` and without it, with ``jvp``. Which needs less memory?
# 2. The product of a Hessian and a vector needs no Hessian. Write it with one ``jvp`` of a ``grad``, and compare on ``valley``.
# 3. Per-sample gradients of a model of 25 million parameters on a batch of 64: how many GB in float32? What could you keep instead of them
#    if you only want their lengths?
#
# .. dropdown:: Answers
#
#    1. ``grad(f)(x) @ v`` and ``jvp(f, (x,), (v,))[1]``. The second: a walk forward needs no stored graph.
#    2. ``jvp(grad(f), (x,), (v,))[1]`` equals ``hessian(f)(x) @ v``.
#    3. 6.4 GB. The norm, taken inside the function that ``vmap`` maps, and ``chunk_size=8`` so that only eight gradients exist at once.
