r"""
Optimisers
==========

Choose an optimiser because you know what it does: write the update rules by hand,
compare them with torch.optim, and race them.

.. lesson::
   :needs: optimization/04_gradient_descent optimization/06_loss_functions
   :data: scikit-learn's handwritten digits
   :keywords: optimizer, SGD, momentum, Nesterov, RMSprop, Adam, AdamW, weight decay, L2
      regularization, LBFGS, L-BFGS, Muon, ill-conditioned, condition number, closure,
      freeze layers, Muon only supports 2D parameters, step() missing 1 required
      positional argument: 'closure'
   :thumbnail: 1
   :alone:
"""

# %%
# How do I get down a long valley?
# --------------------------------
#
# You stand in fog, in a long and narrow valley. The lake is ten kilometres away along the floor, and the walls curve a hundred times as
# strongly as the floor. You feel the slope under your feet, and nothing else. Walk 40 steps, each straight down the slope.

import torch

steepness = torch.tensor([1.0, 100.0])  # along the valley, across it


def walk(kept):
    """Take 40 steps, and keep a part of the speed from one to the next."""
    place, speed = torch.tensor([10.0, 1.0]), torch.zeros(2)
    path = [place]
    for _ in range(40):
        gradient = steepness * place
        speed = kept * speed + gradient
        place = place - 0.018 * speed
        path.append(place)
    return torch.stack(path)


plain = walk(kept=0.0)
print(f"still to go: {plain[-1].norm():.2f} km")

# %%
# That is only half of the way. You cannot take longer steps. A step across multiplies the height by :math:`1 - 100\,\eta`, and from a
# rate :math:`\eta` of 2/100 on, it lands as high on the opposite wall, or higher. Now be a heavy ball
# that keeps nine tenths of its speed from step to step; all else stays.

heavy = walk(kept=0.9)
print("km to go at 24, 32, 40:", heavy[[24, 32, 40]].norm(dim=1).numpy().round(2))
assert heavy[-1].norm() < plain[-1].norm() / 10

# %%
# The ball overshoots the lake and comes back; step 40 happens to be a good moment to stop.

# fold: both walks on a map of the valley
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
xs, ys = torch.linspace(-8, 11, 120), torch.linspace(-1.9, 1.9, 60)
fig, axes = plt.subplots(2, 1, sharex=True, sharey=True, figsize=(6.4, 4))
for ax, path, title in zip(axes, (plain, heavy), ("down the slope", "heavy ball")):
    ax.contour(xs, ys, xs**2 + 100 * ys[:, None] ** 2, colors="0.8", linewidths=1)
    ax.plot(*path.T, "o-", markersize=3, linewidth=1)
    ax.plot(0, 0, "*", color="C1", markersize=14)
    ax.set(title=title, ylabel="across")
axes[1].set_xlabel("along the valley (km)")

# %%
# .. caption:: The star is the lake. Above, the walk jumps from wall to wall and creeps along. Below, the ball overshoots and comes back.
#    :alt: Two maps of long, flat rings around a star. Above, a zigzag from the right becomes narrower and stops half-way. Below, the zigzag
#       swings wide, passes the star, turns and ends at it.
#
# Why does it help? Add up the slopes of the first ten steps. Across they change sign and cancel; along they all agree.

slopes = steepness * plain[:10]
sizes, sums = slopes.abs().sum(0), slopes.sum(0)
print("along, across: sizes", sizes.numpy().round(), "sums", sums.numpy().round())
assert sums[0] == sizes[0] and sums[1] < sizes[1] / 5

# %%
# What does torch call this?
# --------------------------
#
# The plain walk is stochastic gradient descent, SGD :cite:p:`robbins1951`: :math:`\theta \leftarrow \theta - \eta\, g` with the gradient
# :math:`g`. The ball is :term:`momentum` :cite:p:`polyak1964`:
#
# .. math:: v \leftarrow \mu v + g, \qquad \theta \leftarrow \theta - \eta\, v
#
# An :term:`optimiser` is such a rule: parameter, gradient and a **state**, what the rule remembers, give the new parameter.


def sgd(w, g, state, lr):
    return w - lr * g


def momentum(w, g, state, lr, mu=0.9):
    state["v"] = mu * state.get("v", 0) + g
    return w - lr * state["v"]


# %%
# Are these the rules of :mod:`torch.optim`? Take ten steps with both on a small linear regression. The **closure** computes
# the gradient whenever the optimiser asks for it, and returns the loss.

from torch import nn

torch.manual_seed(0)
A = torch.randn(6, 4, dtype=torch.float64)
B = torch.randn(6, 3, dtype=torch.float64)
START = torch.randn(4, 3, dtype=torch.float64)


def agree(rule, kind, **options):
    """Take ten steps by hand and with torch, and return the largest difference."""
    mine, state = START, {}
    theirs = nn.Parameter(START.clone())
    optimizer = kind([theirs], lr=0.1, **options)

    def closure():
        theirs.grad = A.T @ (A @ theirs.detach() - B) / 6
        return ((A @ theirs.detach() - B) ** 2).sum() / 12

    for _ in range(10):
        mine = rule(mine, A.T @ (A @ mine - B) / 6, state, 0.1)
        optimizer.step(closure)
    apart = (mine - theirs.detach()).abs().max().item()
    print(f"{rule.__name__:<9} moved {(mine - START).norm():.2f}, apart {apart:.0e}")
    return apart


# %%
# Rounding apart, they are the same.

assert agree(sgd, torch.optim.SGD) < 1e-12
assert agree(momentum, torch.optim.SGD, momentum=0.9) < 1e-12

# %%
# The formula hides a surprise. The velocity is a *sum*: on a steady slope it grows to :math:`g / (1 - \mu)`. At :math:`\mu = 0.9` your
# steps become up to ten times as long. A smaller rate can make up for that; the third edit below tries one.
#
# Can each direction have its own rate?
# -------------------------------------
#
# The valley has another cure: divide the slope in each direction by how steep it usually is there. One step from the start, rate 0.1:

for kind in (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam):
    place = nn.Parameter(torch.tensor([10.0, 1.0]))
    place.grad = steepness * place.detach()
    kind([place], lr=0.1).step()
    along, across = (torch.tensor([10.0, 1.0]) - place.detach()).tolist()
    print(f"{kind.__name__:<8} along {along:5.2f}, across {across:5.2f}")
assert abs(along - 0.1) < 1e-6 and abs(across - 0.1) < 1e-6

# %%
# SGD runs up the wall. Adam goes equally far both ways, in its first step by the rate itself: for it the :term:`learning rate` is
# about a *distance*. RMSprop goes ten
# times as far; the formulas say why.
#
# RMSprop :cite:p:`tieleman2012` divides by the root of a running mean of :math:`g^2`. Adam :cite:p:`kingma2015` averages the gradient,
# too, and corrects both means for having started at zero:
#
# .. math:: m \leftarrow \beta_1 m + (1-\beta_1)\, g, \quad v \leftarrow \beta_2 v + (1-\beta_2)\, g^2, \quad
#    \theta \leftarrow \theta - \eta\, \frac{m / (1-\beta_1^t)}{\sqrt{v / (1-\beta_2^t)} + \varepsilon}


def rmsprop(w, g, state, lr, alpha=0.99, eps=1e-8):
    state["v"] = alpha * state.get("v", 0) + (1 - alpha) * g**2
    return w - lr * g / (state["v"].sqrt() + eps)


def adam(w, g, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    t = state["t"] = state.get("t", 0) + 1
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    m = state["m"] / (1 - beta1**t)
    v = state["v"] / (1 - beta2**t)
    return w - lr * m / (v.sqrt() + eps)


assert agree(rmsprop, torch.optim.RMSprop) < 1e-12
assert agree(adam, torch.optim.Adam) < 1e-12

# %%
# After one gradient RMSprop's mean holds only 1% of :math:`g^2`, and :math:`g/\sqrt{0.01\,g^2} = 10`. Adam's correction fixes that.
#
# Is weight decay an L2 penalty?
# ------------------------------
#
# What you expect: yes. The penalty :math:`\frac{\lambda}{2}\lVert\theta\rVert^2` adds :math:`\lambda\theta` to the gradient, which pulls
# every parameter towards zero. That is what ``weight_decay`` of :class:`torch.optim.Adam` does. :class:`torch.optim.AdamW`
# :cite:p:`loshchilov2019` shrinks the parameter itself. Let a parameter of 1 feel nothing but the decay, in two strengths a hundredfold
# apart:


def shrink(kind, decay):
    w = nn.Parameter(torch.ones(1))
    optimizer = kind([w], lr=0.01, weight_decay=decay)
    for _ in range(80):
        w.grad = torch.zeros(1)
        optimizer.step()
    return w.item()


for kind in (torch.optim.Adam, torch.optim.AdamW):
    print(f"{kind.__name__:<5} {shrink(kind, 0.05):.3f} and {shrink(kind, 5):.3f}")
assert abs(shrink(torch.optim.Adam, 0.05) - shrink(torch.optim.Adam, 5)) < 0.001

# %%
# What happens: Adam comes out at the same place with both strengths. It *divides* the pull by its size, like every gradient, and that
# cancels
# :math:`\lambda`. The fix is AdamW, whose :term:`weight decay` is a factor of its own. (For SGD the two are the same.)


def adamw(w, g, state, lr, decay=0.5):
    return adam(w * (1 - lr * decay), g, state, lr)


assert agree(adamw, torch.optim.AdamW, weight_decay=0.5) < 1e-12

# %%
# Can it learn the curvature?
# ---------------------------
#
# Walk from 3 to 2, and the slope falls from 12 to 8. So it falls by 4 per unit, and the bottom is 8/4 = 2 units ahead: two slopes have told
# you the curvature. L-BFGS :cite:p:`liu1989` does this in many dimensions, from its steps :math:`s_i` and the changes :math:`y_i` of the
# gradient, with :math:`\rho_i = 1/(s_i \cdot y_i)`. Start from :math:`q = -g`, and go over the pairs from the newest to the oldest, then
# back. :math:`q` becomes the step, and :math:`\alpha_i` remembers how much of pair :math:`i` was taken out, for the way back. The very
# first step, without pairs, follows the gradient and is kept short:
#
# .. math:: \alpha_i = \rho_i\, s_i \cdot q, \;\; q \leftarrow q - \alpha_i y_i; \qquad q \leftarrow \frac{s \cdot y}{y \cdot y}\, q; \qquad
#    q \leftarrow q + (\alpha_i - \rho_i\, y_i \cdot q)\, s_i


def lbfgs(w, g, state, lr):
    pairs = state.setdefault("pairs", [])
    if "w" in state:
        pairs.append((w - state["w"], g - state["g"]))
    state["w"], state["g"] = w, g
    if not pairs:
        return w - lr * g * min(1, 1 / g.abs().sum())
    q, alphas = -g, []
    for s, y in reversed(pairs):
        alphas.append((s * q).sum() / (s * y).sum())
        q = q - alphas[-1] * y
    s, y = pairs[-1]
    q = q * (s * y).sum() / (y * y).sum()
    for (s, y), alpha in zip(pairs, reversed(alphas)):
        q = q + (alpha - (y * q).sum() / (s * y).sum()) * s
    return w + lr * q


# %%
# ``max_iter=1`` asks for one iteration per call of ``step``. The default is 20, each with a closure call of its own.

assert agree(lbfgs, torch.optim.LBFGS, max_iter=1) < 1e-10

# %%
# What if the parameter is a matrix?
# ----------------------------------
#
# All these rules treat a weight matrix as a bag of numbers. But the gradient of a matrix often lives in a few directions, and those alone
# decide the step. Muon :cite:p:`jordan2024` brings the singular values closer together: for
# :math:`\mathbf{G} = \mathbf{U}\mathbf{S}\mathbf{V}^\top` it steps nearly along :math:`\mathbf{U}\mathbf{V}^\top`. Five rounds of matrix
# products do it, with three fixed numbers *a*, *b*, *c* (in the code) that its author chose to lift small values fast:
#
# .. math:: \mathbf{X} \leftarrow a\mathbf{X} + (b\,\mathbf{X}\mathbf{X}^\top + c\,(\mathbf{X}\mathbf{X}^\top)^2)\,\mathbf{X}


def level(g):
    x = g / g.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def muon(w, g, state, lr, mu=0.95, decay=0.1):
    state["m"] = mu * state.get("m", 0) + (1 - mu) * g
    update = level((1 - mu) * g + mu * state["m"])
    scale = max(1, w.shape[0] / w.shape[1]) ** 0.5
    return w * (1 - lr * decay) - lr * scale * update


assert agree(muon, torch.optim.Muon) < 0.03

# %%
# They differ because :class:`torch.optim.Muon` computes the rounds in :term:`bfloat16`, with two to three digits. What do the rounds do to
# the three singular values of our first gradient?

gradient = A.T @ (A @ START - B)
before = torch.linalg.svdvals(gradient / gradient.norm())
after = torch.linalg.svdvals(level(gradient))
print("before", before.numpy().round(2), " after", after.numpy().round(2))
assert before[0] / before[2] > 3 > 2 > after.max() / after.min()

# %%
# A bias has no singular values, and Muon refuses it. Biases go to a second optimiser, usually AdamW.
#
# Who gets down a bent valley?
# ----------------------------
#
# Rosenbrock's function is a valley with a bend. Race our own rules, 100 gradients each, at the best of eight rates. The place
# is a matrix of one row here, with one singular value, so Muon is only momentum with steps of about equal length.


def rosenbrock(x, y):
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def descend(rule, lr):
    place = torch.tensor([[-1.5, 2.0]], dtype=torch.float64)  # a matrix, for Muon
    state, path = {}, [place[0]]
    for _ in range(100):
        x, y = path[-1]
        gradient = torch.stack([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)])
        place = rule(place, gradient[None], state, lr)
        path.append(place[0])
    return torch.stack(path)


RULES = {sgd: 0.001, momentum: 0.001, rmsprop: 0.3, adam: 1.0, muon: 0.1, lbfgs: 0.3}
paths = {rule: descend(rule, lr) for rule, lr in RULES.items()}
ends = {rule: rosenbrock(*path[-1]).item() for rule, path in paths.items()}
for rule, end in ends.items():
    print(f"{rule.__name__:<9} loss {end:.4f}")
assert ends[lbfgs] < 1e-4 < max(ends[adam], ends[muon]) < ends[momentum] < ends[sgd]

# %%

# fold: six maps
xs, ys = torch.linspace(-2, 2, 150), torch.linspace(-1, 4, 150)
height = (rosenbrock(xs, ys[:, None]) + 0.1).log()
fig, axes = plt.subplots(2, 3, sharex=True, sharey=True, figsize=(6.4, 4.4))
for ax, (rule, path) in zip(axes.flat, paths.items()):
    ax.contourf(xs, ys, height, levels=12, cmap="Greys_r", vmin=-7)
    ax.plot(*path.T, linewidth=1.3)
    ax.plot(1, 1, "*", color="C1", markersize=13)
    ax.plot(*path[0], "o", color="black", markersize=4)
    ax.plot(*path[-1], "o", color="C3")
    ax.set(title=rule.__name__, xlim=(-2, 2), ylim=(-1, 4), xticks=[], yticks=[])

# %%
# .. caption:: From the black dot, 100 gradients take each optimiser to its red dot. Only L-BFGS reaches the star, the lowest point.
#    :alt: Six maps of the same U-shaped valley. sgd stays at the start, upper left; momentum gets down the left arm; rmsprop leaves
#       the map; adam and muon come near the star, lbfgs ends on it.
#
# SGD's rate must suit the steep walls, and on the flat floor its steps are nothing. Momentum adds them up; RMSprop, Adam and Muon make them
# longer; RMSprop's first steps even leave the map. L-BFGS learns the bend.
#
# And on a real network?
# ----------------------
#
# A small network, 600 digits, 50 gradients for each of torch's classes: first of *all* images, then of :term:`mini-batches <mini-batch>` of
# 100. The network has no biases, so that Muon may take all of it. The rates are the best of seven on mini-batches, seed 0,
# and serve both races; on all images other rates can be better (for Muon, 0.3).

from pytorch_course.datasets import digits
from torch.nn import functional as F

images, labels = digits().tensors
images = images.flatten(1).double()
shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = shuffled[:600], shuffled[600:]

FIELD = {
    "SGD": (torch.optim.SGD, 1.0, {}),
    "momentum": (torch.optim.SGD, 1.0, {"momentum": 0.9}),
    "RMSprop": (torch.optim.RMSprop, 0.01, {}),
    "Adam": (torch.optim.Adam, 0.1, {}),
    "Muon": (torch.optim.Muon, 0.1, {}),
    "L-BFGS": (torch.optim.LBFGS, 1.0, {"max_iter": 1}),
}


# %%
# One run:


def fit(kind, lr, options, seed, size):
    torch.manual_seed(seed)
    layers = nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False)
    model = nn.Sequential(*layers).double()
    optimizer = kind(list(model.parameters()), lr=lr, **options)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        return loss

    for _ in range(50):
        batch = train[torch.randperm(600)[:size]]
        optimizer.step(closure)
    return model(images).detach()


# %%
# And three networks for each, from fresh seeds: their mean loss on the 600 images, and the share of *new* images that they get right.


def race(size):
    results = {}
    for name, racer in FIELD.items():
        scores = torch.stack([fit(*racer, seed, size) for seed in (1, 2, 3)])
        loss = F.cross_entropy(scores[:, train].flatten(0, 1), labels[train].repeat(3))
        right = (scores.argmax(2) == labels)[:, test].double().mean()
        results[name] = loss, right
        print(f"{name:<9} loss {loss:.4f}, right {right:.1%}")
    return results


exact = race(size=600)
assert exact["L-BFGS"][0] < min(exact["momentum"][0], exact["Adam"][0]) / 2
assert abs(exact["L-BFGS"][1] - exact["momentum"][1]) < 0.02

# %%
# At these rates L-BFGS has the lowest loss with exact gradients. On *new* images that buys nothing: momentum and Adam are as good.
# Now the mini-batches:

noisy = race(size=100)
assert noisy["Muon"][0] < noisy["Adam"][0] < noisy["L-BFGS"][0]

# %%
# L-BFGS loses its lead: Adam, RMSprop and Muon pass it. It reads the curvature from the difference of two gradients, and two batches
# differ anyway.
#
# .. admonition:: From practice
#
#    A rate tuned on one seed is partly luck. Momentum's rate won on seed 0 and does badly on fresh seeds (third edit below).
#
# Memory differs too. SGD keeps nothing, momentum and Muon one number beside each parameter, Adam two, and L-BFGS two *for each remembered
# step*. On this page Muon won the mini-batches and L-BFGS the exact gradients. Common practice starts with AdamW: it takes every parameter,
# biases too, which Muon refuses, and the length of its steps hardly depends on the size of the gradients. Tune its rate all the same. What
# the rate should do *during* training is :doc:`the next lesson </lessons/optimization/08_learning_rates>`.
#
# Take this with you
# ------------------
#
# AdamW is the usual start; tune its rate. A step with a closure works for every optimiser, and L-BFGS needs one.

model = nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)


def closure():
    optimizer.zero_grad()
    loss = (model(torch.ones(32, 8)) ** 2).mean()  # your data, your loss
    loss.backward()
    return loss


loss = optimizer.step(closure)

# %%
# Change something
# ----------------
#
# * In the first valley, let the ball keep 0.99 of its speed. Does it get closer still?
# * In ``level``, take ten rounds instead of five. Do the singular values settle at 1?
# * In ``FIELD``, give momentum 0.3 instead of 1.0 as its rate on the network. What becomes of its loss on mini-batches?
#
# .. dropdown:: What happens
#
#    * No, and the assert objects. Hardly anything slows the ball: it shoots far past the lake, and after 40 steps it is farther away than
#      the plain walk.
#    * No. They stay between 0.7 and 1.2 and move with every round: the polynomial is chosen to lift small values fast, and does not rest
#      at 1. The comparison fails too, as torch takes five rounds.
#    * It falls by more than half: the large rate was lucky on seed 0. On *all* images, without noise, the large rate is better.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a frozen parameter
#
#    You freeze a parameter of 1 by setting its gradient to zero, and SGD takes one step with ``lr=0.1`` and ``weight_decay=0.1``. What is
#    the parameter now? And what if its gradient is None, so that the optimiser skips it? Give a list of the two numbers.

### BEGIN SOLUTION
guess = [0.99, 1.0]
### END SOLUTION


def after_step(gradient):
    w = nn.Parameter(torch.ones(1))
    w.grad = gradient
    torch.optim.SGD([w], lr=0.1, weight_decay=0.1).step()
    return w.item()


expect(guess, [after_step(torch.zeros(1)), after_step(None)], rtol=1e-4)

# %%
# .. exercise:: Look one step ahead
#
#    Nesterov's form :cite:p:`sutskever2013` of momentum updates :math:`v` as before, and then walks along :math:`g + \mu v` instead of
#    :math:`v`. Write the rule; ten steps must agree with torch.


def nesterov(w, g, state, lr, mu=0.9):
    ### BEGIN SOLUTION
    state["v"] = mu * state.get("v", 0) + g
    return w - lr * (g + mu * state["v"])
    ### END SOLUTION


def apart():
    return agree(nesterov, torch.optim.SGD, momentum=0.9, nesterov=True)


expect(apart, 0.0, atol=1e-12)

# %%
# .. exercise:: Predict an Adam that starts too fast
#
#    ``hasty`` is Adam without the corrections. By which factor is its *first* step too long? Answer with a formula of the two betas.


def hasty(w, g, state, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g**2
    return w - lr * state["m"] / (state["v"].sqrt() + eps)


def factor(beta1, beta2):
    ### BEGIN SOLUTION
    return (1 - beta1) / (1 - beta2) ** 0.5
    ### END SOLUTION


def too_long():
    start, slope = torch.zeros(()), torch.tensor(5.0)
    return (hasty(start, slope, {}, 0.1) / adam(start, slope, {}, 0.1)).item()


expect(lambda: factor(0.9, 0.999), too_long, rtol=1e-4)
