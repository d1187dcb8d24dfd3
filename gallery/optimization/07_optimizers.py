r"""
Optimisers
==========

Write eight update rules as eight short functions, show step by step that torch.optim does the same, and choose one by a fair race.

.. lesson::
   :needs: optimization/04_gradient_descent optimization/06_loss_functions
   :data: scikit-learn's handwritten digits
   :alone:
"""

# %%
# Does a larger gradient mean a larger step?
# ------------------------------------------
#
# Multiply a loss by 1,000, and every gradient grows by 1,000. Four optimisers take one step on each, with the learning rate 0.1.

import torch
from torch import nn


def first_step(make, gradient):
    p = nn.Parameter(torch.zeros(1, 1))
    p.grad = torch.full((1, 1), gradient)
    make([p], lr=0.1).step()
    return -p.item()


for make in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.AdamW):
    steps = [first_step(make, gradient) for gradient in (1.0, 1000.0)]
    print(f"{make.__name__:<8} gradient 1: step {steps[0]:.3g}   gradient 1000: step {steps[1]:.3g}")
    assert abs(steps[1] / steps[0] - (1000 if make is torch.optim.SGD else 1)) < 0.01

# %%
# Only SGD steps a thousand times as far. The others divide by the size of the gradient, so for them ``lr`` is, roughly, a *distance*.
# RMSprop goes ten times that distance; you will see why.
#
# What is an optimiser?
# ---------------------
#
# A function of a parameter, its gradient and a **state** (what the rule remembers) that returns the new parameter. Eight of them follow.
# To check each we need a loss, its gradient by hand, and a referee that runs our rule and torch's side by side in ``float64`` and compares
# after *every* step.

torch.manual_seed(0)
A, B, START = (torch.randn(*shape, dtype=torch.float64) for shape in ((6, 4), (6, 3), (4, 3)))


def loss_at(w):
    return (A @ w - B).cosh().log().mean()


def gradient_at(w):
    return A.T @ (A @ w - B).tanh() / B.numel()


# %%
# :meth:`torch.optim.Optimizer.step` accepts a **closure**, which computes the gradients anew and returns the loss. L-BFGS will
# need it.

LR = 0.1


def agree(name, rule, make, atol=1e-12):
    """Take ten steps with the rule and with the optimiser, and compare after each."""
    mine, theirs, state = START, nn.Parameter(START.clone()), {}
    optimizer = make([theirs])

    def closure():
        theirs.grad = gradient_at(theirs.detach())
        return loss_at(theirs)

    for _ in range(10):
        mine = rule(mine, gradient_at(mine), state, LR)
        optimizer.step(closure)
        torch.testing.assert_close(mine, theirs.detach(), rtol=0, atol=atol)
    print(f"{name:<9} ten steps agree, loss {loss_at(START):.3f} -> {loss_at(mine):.3f}")


# %%
# Which way was I going?
# ----------------------
#
# Stochastic gradient descent :cite:p:`robbins1951` remembers nothing: :math:`\theta \leftarrow \theta - \eta\, g`. :term:`Momentum
# <momentum>` :cite:p:`polyak1964` remembers a velocity, and Nesterov's form :cite:p:`sutskever2013` looks one step ahead along it:
#
# .. math:: v \leftarrow \mu v + g, \qquad
#    \theta \leftarrow \theta - \eta\, v \quad\text{or}\quad \theta \leftarrow \theta - \eta\,(g + \mu v)


def sgd(p, g, s, lr):
    return p - lr * g


def momentum(p, g, s, lr, mu=0.9):
    s["v"] = mu * s.get("v", 0) + g
    return p - lr * s["v"]


def nesterov(p, g, s, lr, mu=0.9):
    s["v"] = mu * s.get("v", 0) + g
    return p - lr * (g + mu * s["v"])


agree("SGD", sgd, lambda p: torch.optim.SGD(p, lr=LR))
agree("momentum", momentum, lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9))
agree("Nesterov", nesterov, lambda p: torch.optim.SGD(p, lr=LR, momentum=0.9, nesterov=True))

# %%
# The velocity is a *sum*: on a steady slope it grows to :math:`g / (1 - \mu)`, ten gradients at 0.9. Switch momentum on, and your steps
# become ten times as long.

state, p = {}, torch.zeros(1)
for _ in range(200):
    p = momentum(p, torch.ones(1), state, LR)
print(f"velocity on a slope of 1: {state['v'].item():.3f}")
assert abs(state["v"].item() - 10) < 0.001

# %%
# How steep is it usually?
# ------------------------
#
# RMSprop :cite:p:`tieleman2012` divides each element by the root of a running mean of its squares. Adam :cite:p:`kingma2015` averages the
# gradient, too, and corrects both means for having started at zero:
#
# .. math:: m \leftarrow \beta_1 m + (1-\beta_1)\, g, \quad v \leftarrow \beta_2 v + (1-\beta_2)\, g^2, \quad
#    \theta \leftarrow \theta - \eta\, \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \varepsilon}


def rmsprop(p, g, s, lr, alpha=0.99, eps=1e-8):
    s["v"] = alpha * s.get("v", 0) + (1 - alpha) * g**2
    return p - lr * g / (s["v"].sqrt() + eps)


def adam(p, g, s, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    s["t"] = s.get("t", 0) + 1
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    m, v = s["m"] / (1 - beta1 ** s["t"]), s["v"] / (1 - beta2 ** s["t"])
    return p - lr * m / (v.sqrt() + eps)


agree("RMSprop", rmsprop, lambda p: torch.optim.RMSprop(p, lr=LR))
agree("Adam", adam, lambda p: torch.optim.Adam(p, lr=LR))

# %%
# Here is the tenfold first step: after one gradient, RMSprop's mean holds only 1% of :math:`g^2`, and :math:`g/\sqrt{0.01\,g^2} = 10`.
# Adam's correction mends that.
#
# Is weight decay the same as an L2 penalty?
# ------------------------------------------
#
# For SGD, yes: the penalty :math:`\frac{\lambda}{2}\lVert\theta\rVert^2` adds :math:`\lambda\theta` to the gradient. Adam *divides* that by
# the gradient's size, like everything else. AdamW :cite:p:`loshchilov2019` shrinks the parameter directly, by the factor
# :math:`1 - \eta\lambda`, before Adam's step.


def adam_l2(p, g, s, lr, decay=0.5):
    return adam(p, g + decay * p, s, lr)


def adamw(p, g, s, lr, decay=0.5):
    return adam(p * (1 - lr * decay), g, s, lr)


agree("Adam + L2", adam_l2, lambda p: torch.optim.Adam(p, lr=LR, weight_decay=0.5))
agree("AdamW", adamw, lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.5))

# %%
# To see the difference, set the gradient to *zero*, so that a parameter of 1 feels nothing but the decay. Try two strengths, a hundredfold
# apart.

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")


def shrink(rule, decay, steps=80):
    p, state, path = torch.ones(1, dtype=torch.float64), {}, [1.0]
    for _ in range(steps):
        p = rule(p, torch.zeros_like(p), state, 0.01, decay=decay)
        path.append(p.item())
    return path


# %%
# Both rules:

fig, axes = plt.subplots(1, 2, sharey=True, figsize=(6.4, 2.8))
for ax, rule, title in zip(axes, (adam_l2, adamw), ("Adam with L2", "AdamW"), strict=True):
    ax.plot(shrink(rule, 5), linewidth=6, color="C1")
    ax.plot(shrink(rule, 0.05), color="C0")
    ax.set(title=title, xlabel="step", ylim=(0, 1.1))
    ax.text(45, 0.68 if ax is axes[0] else 0.86, "decay 0.05", color="C0")
    ax.text(8 if ax is axes[0] else 38, 0.56 if ax is axes[0] else 0.22, "decay 5", color="#B57B00")
axes[0].set(ylabel="parameter")

# %%
# .. caption:: With a zero gradient, Adam with L2 walks down at the same speed for both strengths. AdamW obeys its setting.
#    :alt: Two panels over 80 steps. Left, Adam with L2: both lines lie on each other and fall from 1 to about 0.3. Right, AdamW: the line
#       of decay 5 falls in a curve to almost 0, that of decay 0.05 stays near 1.
#
# The division cancels :math:`\lambda`; what is left is a step of about :math:`\eta` towards zero. If you tune decay, use AdamW.

torch.testing.assert_close(torch.tensor(shrink(adamw, 0.05)), (1 - 0.01 * 0.05) ** torch.arange(81))
weak, strong = (torch.tensor(shrink(adam_l2, decay)) for decay in (0.05, 5))
torch.testing.assert_close(weak, strong, rtol=0, atol=1e-3)

# %%
# Decay also explains a bug: a layer that you "froze" by zeroing its gradients still shrinks. Zero is a gradient. ``None`` is not, and torch
# skips parameters without one.

for gradient in (torch.zeros(1), None):
    p = nn.Parameter(torch.ones(1))
    p.grad = gradient
    torch.optim.SGD([p], lr=0.1, weight_decay=0.1).step()
    print(f"gradient {'None' if gradient is None else 'zero'}: 1 -> {p.item():.2f}")
    assert abs(p.item() - (1 if gradient is None else 0.99)) < 1e-6

# %%
# To freeze a layer, say ``requires_grad_(False)`` and leave it out of the optimiser.
#
# Can it learn the curvature?
# ---------------------------
#
# L-BFGS :cite:p:`liu1989` guesses the second derivative from the last steps :math:`s_i` and the changes :math:`y_i` of the gradient that
# they caused, with :math:`\rho_i = 1/(y_i \cdot s_i)`. From :math:`q = -g`, two loops make a direction: over the pairs from the newest to
# the oldest, then back.
#
# .. math:: \alpha_i = \rho_i\, s_i \cdot q, \;\; q \leftarrow q - \alpha_i y_i; \qquad q \leftarrow \frac{s \cdot y}{y \cdot y}\, q; \qquad
#    q \leftarrow q + (\alpha_i - \rho_i\, y_i \cdot q)\, s_i


def dot(a, b):
    return (a * b).sum()


def lbfgs(p, g, s, lr):
    pairs, alphas, q = s.setdefault("pairs", []), [], -g
    if "p" in s:
        pairs.append((p - s["p"], g - s["g"]))
    for step, change in reversed(pairs):
        alphas.append(dot(step, q) / dot(step, change))
        q = q - alphas[-1] * change
    q = q * (dot(*pairs[-1]) / dot(pairs[-1][1], pairs[-1][1]) if pairs else (1 / g.abs().sum()).clamp(max=1))
    for (step, change), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + (alpha - dot(change, q) / dot(step, change)) * step
    s["p"], s["g"] = p, g
    return p + lr * q


agree("L-BFGS", lbfgs, lambda p: torch.optim.LBFGS(p, lr=LR, max_iter=1), atol=1e-10)

# %%
# Without pairs, the first step goes along the gradient. ``max_iter=1`` asks torch for one step per call; the default is 20, with up to 25
# calls of the closure.
#
# What if the parameter is a matrix?
# ----------------------------------
#
# All rules so far treat a weight matrix as a bag of numbers. Muon :cite:p:`jordan2024` makes the singular values of the gradient about
# equal: for :math:`\mathbf{G} = \mathbf{U}\mathbf{S}\mathbf{V}^\top` it steps nearly along :math:`\mathbf{U}\mathbf{V}^\top`. Five rounds
# of a polynomial do it, with matrix products only.
#
# .. math:: \mathbf{X} \leftarrow a\mathbf{X} + (b\,\mathbf{X}\mathbf{X}^\top + c\,(\mathbf{X}\mathbf{X}^\top)^2)\,\mathbf{X}


def orthogonalise(g):
    x = g / g.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(p, g, s, lr, mu=0.95, decay=0.1):
    s["m"] = mu * s.get("m", 0) + (1 - mu) * g
    update = orthogonalise((1 - mu) * g + mu * s["m"])
    return p * (1 - lr * decay) - lr * max(1, p.shape[0] / p.shape[1]) ** 0.5 * update


agree("Muon", muon, lambda p: torch.optim.Muon(p, lr=LR), atol=0.03)

# %%
# The tolerance is wide for a reason: :class:`torch.optim.Muon` runs the five rounds in ``bfloat16``, with two to three digits. What the
# rounds do shows on the singular values themselves.

torch.manual_seed(1)
gradient = torch.randn(64, 64, dtype=torch.float64) @ torch.diag(torch.logspace(0, -2, 64, dtype=torch.float64))
before, after = (torch.linalg.svdvals(x) for x in (gradient, orthogonalise(gradient)))
assert before[0] / before[40] > 10 and after[:41].min() > 0.6 and after.max() < 1.3

fig, ax = plt.subplots(figsize=(6.4, 2.8))
ax.plot(before / before[0], "o-", markersize=3)
ax.plot(after, "o-", markersize=3)
ax.annotate("gradient", (20, 0.22), color="C0")
ax.annotate("Muon's direction", (20, 1.25), color="C1")
ax.set(xlabel="number of singular value", ylabel="singular value", ylim=(0, 1.5))

# %%
# .. caption:: The gradient lives in a few directions. In Muon's step nearly all of them count alike.
#    :alt: Singular values of a 64 by 64 matrix, sorted. Those of the gradient fall quickly from 1 towards 0. Those of Muon's direction stay
#       between about 0.7 and 1.2 and drop only at the far right.
#
# A vector has no singular values to level. Biases go to a second optimiser, usually AdamW.

try:
    torch.optim.Muon(nn.Linear(2, 2).parameters())
except ValueError as error:
    print("ValueError:", error)
else:
    raise AssertionError("Muon took a bias")

# %%
# Who gets down the valley?
# -------------------------
#
# Rosenbrock's function :math:`(1-x)^2 + 100\,(y-x^2)^2` is a curved valley, steep across and nearly flat along. Each optimiser gets 100
# gradients, and the best of eight learning rates. Torch's own classes run now.

FIELD = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "Nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr=lr),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr=lr),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "Muon": lambda p, lr: torch.optim.Muon(p, lr=lr),
    "L-BFGS": lambda p, lr: torch.optim.LBFGS(p, lr=lr, max_iter=5, line_search_fn="strong_wolfe"),
}


def rosenbrock(x, y):
    return (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x)


# %%
# The line search calls the closure several times per step. Gradients are what cost time, so we count those.


def walk(make, lr):
    p, path = nn.Parameter(torch.tensor([[-1.5, 2.0]], dtype=torch.float64)), []
    optimizer = make([p], lr)

    def closure():
        x, y = p.tolist()[0]
        path.append((x, y))
        p.grad = torch.tensor([[2 * (x - 1) - 400 * x * (y - x * x), 200 * (y - x * x)]], dtype=torch.float64)
        return rosenbrock(x, y)

    while len(path) < 100:
        optimizer.step(closure)
    return torch.tensor(path[:100], dtype=torch.float64)


# %%
# The best rate has the lowest loss at the end. Anything below 0.0001 counts as arrived, losses within ``slack`` count as equal, and of
# equals the smallest wins.


def choose(losses, slack=1.0):
    """Return the rate (key) with the lowest loss (value)."""
    scores = {rate: max(loss, 1e-4) if loss < 1e9 else 1e9 for rate, loss in losses.items()}  # nan < 1e9 is false
    return min(rate for rate, score in scores.items() if score <= slack * min(scores.values()))


RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
paths, chosen = {}, {}
for name, make in FIELD.items():
    walks = {lr: walk(make, lr) for lr in RATES}
    chosen[name] = choose({lr: rosenbrock(*w[-1]).item() for lr, w in walks.items()})
    paths[name] = walks[chosen[name]]
print("chosen:", chosen)

# %%
# Eight maps:

xs, ys = torch.meshgrid(torch.linspace(-2.2, 2.2, 150), torch.linspace(-1.2, 4.4, 150), indexing="xy")
heights = rosenbrock(xs, ys).add(0.1).log().numpy()
fig, axes = plt.subplots(2, 4, sharex=True, sharey=True, figsize=(6.4, 4.2))
for ax, (name, path) in zip(axes.flat, paths.items(), strict=True):
    ax.contourf(xs.numpy(), ys.numpy(), heights, levels=12, cmap="Greys_r", vmin=-7)
    ax.plot(*path.T.numpy(), color="C0", linewidth=1.3)
    ax.plot(*path[0], "o", color="black", markersize=4)
    ax.plot(1, 1, "*", color="C1", markersize=13)
    ax.plot(*path[-1], "o", color="C3", markersize=5.5)
    ax.set(title=name, xticks=[], yticks=[], xlim=(-2.2, 2.2), ylim=(-1.2, 4.4))

# %%
# .. caption:: From the black dot, 100 gradients take each optimiser to its red dot. The star is the lowest point; only L-BFGS gets there.
#    :alt: Eight maps of the same dark, U-shaped valley. SGD stays beside the start, upper left. Momentum creeps down the left arm. Adam and
#       AdamW pass the bottom, Nesterov and Muon come near the star on the right arm, RMSprop jumps across, L-BFGS ends on the star.
#
# SGD's steps must suit the steep walls; on the floor such steps are nothing. Momentum adds them up. Muon makes them about equally long (our
# point is a matrix with one row). L-BFGS shoots out of the map once, to try, and then learns the bend.

ends = {name: rosenbrock(*path[-1]).item() for name, path in paths.items()}
assert ends["SGD"] > 3 and min(ends, key=ends.get) == "L-BFGS" and ends["L-BFGS"] < 1e-4
assert max(ends["Nesterov"], ends["Adam"], ends["Muon"]) < 1 < ends["momentum"]

# %%
# And on a real network?
# ----------------------
#
# A small network, 600 digits, 50 gradients for everyone. It has no biases, so that Muon may take all of it, and computes in ``float64``,
# so that your table equals mine. Two races: on *full batches* (all 600 images) and on :term:`mini-batches <mini-batch>` of 100.

from time import perf_counter

from pytorch_course.datasets.bundled import digits
from torch.nn import functional as F

images, labels = digits().tensors
images = images.flatten(1).double()
train, test = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).split([600, len(images) - 600])


def judge(model):
    with torch.no_grad():
        loss = F.cross_entropy(model(images[train]), labels[train])
        return loss.item(), (model(images[test]).argmax(1) == labels[test]).double().mean().item()


# %%
# A run returns the loss at each gradient, then the verdict at the 50th, the seconds and the optimiser.


def run(make, lr, seed, size):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False)).double()
    optimizer, losses, verdict, start = make(list(model.parameters()), lr), [], [], perf_counter()

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        losses.append(loss.item())
        verdict.extend((*judge(model), perf_counter() - start) if len(losses) == 50 else ())
        return loss

    while len(losses) < 50:
        batch = train[torch.randperm(600)[:size]]
        optimizer.step(closure)
    return losses[:50], *verdict, optimizer


# %%
# Tune each rule over the same seven rates on seed 0. Then start afresh with seeds 1 to 3 at the chosen rate: 160 runs in all.

GRID = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
results, middle = {}, {}
for size, race in ((600, "full batches"), (100, "mini-batches")):
    print(f"\n{race}     lr  seed 0    seeds 1 to 3           test accuracy")
    for name, make in FIELD.items():
        tuning = {lr: run(make, lr, 0, size)[1] for lr in GRID}
        lr = choose(tuning, slack=1.1)
        runs = results[size, name] = [run(make, lr, seed, size) for seed in (1, 2, 3)]
        losses, accuracies = (sorted(column) for column in list(zip(*runs, strict=True))[1:3])
        middle[size, name] = losses[1], accuracies[1], tuning[lr]
        cells = [f"{loss:5.2f}" if loss > 0.01 else "<0.01" for loss in (tuning[lr], *losses)]
        print(f"{name:<12} {lr:>6}  " + "   ".join(cells) + f"    {accuracies[1]:.2f}")

# %%
# With exact gradients, L-BFGS and Muon win. On *test* images that buys nothing: momentum is as good.

for name in ("Muon", "L-BFGS"):
    assert middle[600, name][0] < middle[600, "momentum"][0] / 10
    assert abs(middle[600, name][1] - middle[600, "momentum"][1]) < 0.02
assert middle[600, "SGD"][1] < middle[600, "momentum"][1] - 0.02

finals = {name: middle[100, name][0] for name in FIELD}
assert min(finals, key=finals.get) == "Muon" and finals["L-BFGS"] > 3 * finals["Adam"]
assert finals["momentum"] > 2 * middle[100, "momentum"][2]  # the lucky rate

# %%
# With mini-batches L-BFGS falls behind Adam. It reads curvature from the difference of two gradients, and two batches have different ones
# anyway. (It keeps a batch for ``max_iter=5`` iterations; the default 20 would show it hardly three batches.)
#
# .. admonition:: From practice
#
#    A rate tuned on one seed is partly luck: see momentum on mini-batches, on seed 0 and on the others.
#
# The first race as a picture:

fig, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(6.4, 3.6))
styles = dict(zip(FIELD, ("C0-", "C0--", "C0:", "C1--", "C1-", "C1:", "C2-", "C3-"), strict=True))
label_at = 1.0
for name in sorted(FIELD, key=lambda name: -results[600, name][0][0][-1]):
    losses, seconds = results[600, name][0][0], min(run[3] for run in results[600, name])
    left.plot(losses, styles[name], linewidth=1.6)
    right.plot(torch.linspace(0, 1000 * seconds, 50), losses, styles[name], linewidth=1.6)
    label_at = min(label_at / 2.1, max(losses[-1], 1.2e-5))
    left.annotate(name, (50, label_at), color=styles[name][:2], va="center", fontsize=10, annotation_clip=False)
    print(f"measured: {name:<9} {20 * seconds:.2f} ms per gradient")
left.set(xlabel="gradients", ylabel="training loss", yscale="log", ylim=(1e-5, 5), xlim=(0, 49))
right.set(xlabel="milliseconds")

# %%
# .. caption:: Full batches, tuned rates. Left: by gradients. Right: by this machine's clock.
#    :alt: Two panels of falling loss curves on a logarithmic axis. Left: after 50 gradients SGD is highest, then RMSprop, Nesterov, then
#       momentum, Adam and AdamW together; Muon and L-BFGS end far below. Right: the same curves over measured time.
#
# What does the memory cost?
# --------------------------
#
# Each rule's state lies beside the parameters. Count its numbers in ``state_dict``:


def count(thing):
    """Return how many numbers the tensors in a nested structure hold."""
    if isinstance(thing, torch.Tensor):
        return thing.numel()
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list) else ()
    return sum(map(count, parts))


size = 64 * 32 + 32 * 10
kept = {name: round(count(results[600, name][0][4].state_dict()["state"]) / size) for name in FIELD}
print("numbers kept per parameter:", kept)
assert [kept[name] for name in ("SGD", "momentum", "RMSprop", "Adam", "AdamW", "Muon")] == [0, 1, 1, 2, 2, 1]
assert kept["L-BFGS"] > 20

# %%
# Adam keeps two numbers beside every parameter. L-BFGS keeps two *per step*, up to its ``history_size``.
#
# A sound start: AdamW with its default rate, SGD with momentum if you can afford to tune it, L-BFGS for small problems with
# exact gradients. What the rate should do *during* training is :doc:`the next lesson </lessons/optimization/08_learning_rates>`.
#
# Change something
# ----------------
#
# * Draw ``shrink(adam_l2, 1e-9)``, too. Which argument of ``adam`` holds it up at last?
# * In ``orthogonalise``, replace 5 by 10 rounds, and give :class:`torch.optim.Muon` ``ns_steps=10``. Does the orange line settle at 1?
#   (No: the coefficients do not converge.)
# * Drop ``line_search_fn`` from L-BFGS in ``FIELD``. At which rate does it reach the star now?
#
# Exercises
# ---------
#
# 1. Adagrad :cite:p:`duchi2011` *sums* the squares instead of averaging them. Write it and let ``agree`` compare it with
#    :class:`torch.optim.Adagrad`.
# 2. Why would Muon on a vector, written as a matrix with one row, always step equally far?
#
# .. dropdown:: Answers
#
#    1. ``s["v"] = s.get("v", 0) + g**2``, then ``p - lr * g / (s["v"].sqrt() + 1e-10)``.
#    2. One row has one singular value, and the rounds carry it to nearly the same value whatever the gradient; only its direction stays.
