r"""
Learning rates
==============

Find a good learning rate in one short run, draw every schedule that PyTorch offers from a formula of your own, and measure what one buys.

.. lesson::
   :needs: optimization/07_optimizers
   :data: scikit-learn's handwritten digits
"""

# %%
# How much is too much?
# ---------------------
#
# Walk down the parabola :math:`\frac{c}{2} w^2` with :math:`c = 10`, a hundred steps at each of five :term:`learning rates <learning
# rate>`. Two of them are 0.19 and 0.21.

import matplotlib.pyplot as plt
import torch

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots()
ends = {}
for rate, style in {0.001: "-", 0.01: "-", 0.19: ":", 0.1: "-", 0.21: "-"}.items():
    w, path = torch.tensor(1.0, dtype=torch.float64), []
    for _ in range(101):
        path.append(abs(w.item()) + 1e-9)
        w = w - rate * 10 * w
    ends[rate] = path[-1]
    ax.semilogy(path, style, linewidth=4 if style == ":" else 2)
    ax.annotate({0.01: "", 0.19: "0.01 and 0.19"}.get(rate, rate), (101, path[-1]), va="center", annotation_clip=False)
ax.set(xlabel="step", ylabel="distance from the minimum", xlim=(0, 100))

# %%
# .. caption:: Each line ends at its rate. 0.1 arrives at once. 0.19 is as good as 0.01. A little more, and the walk climbs.
#    :alt: Five lines on a logarithmic axis over 100 steps. Rate 0.001 falls slowly to about one third, 0.01 and 0.19 fall along one and
#       the same straight line, 0.1 drops to the floor at once, 0.21 rises along a straight line to about ten thousand.
#
# Each step multiplies the distance by the same number:
#
# .. math:: w_{t+1} = w_t - \eta\, c\, w_t = (1 - \eta c)\, w_t, \qquad\text{which shrinks only if}\quad 0 < \eta < \frac{2}{c}
#
# Too small is slow. Too large is not fast: at 0.19 the factor is -0.9, and ``w`` jumps from wall to wall. In a network :math:`c` is the
# steepest curvature, unknown and changing, so you have to try.

for rate, end in ends.items():
    assert abs(end - abs(1 - 10 * rate) ** 100) < 1e-6 * end + 2e-9
assert abs(ends[0.19] / ends[0.01] - 1) < 1e-6 and ends[0.21] > 1e4
print(f"rate 0.19 ends at {ends[0.19]:.5f}, rate 0.21 at {ends[0.21]:.0f}")

# %%
# How do I find a rate?
# ---------------------
#
# With a **range test** :cite:p:`smith2017`: one short run in which the rate grows from tiny to absurd, and a look at the loss. Our network
# has two layers and reads 600 of the digits. To see the effect of chance, we train sixteen of them at once, with start weights and batches
# of their own, as one product of stacked matrices.

from pytorch_course.datasets.bundled import digits
from torch import nn
from torch.nn import functional as F

images, labels = digits().tensors
images = images.flatten(1).double()
shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train_part, validation, test = shuffled.split((600, 500, 697))
NETWORKS = 16


def losses_of(weights, x, y):
    """Return one loss per network."""
    scores = (x @ weights[0]).relu() @ weights[1]
    return F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="none").view(NETWORKS, -1).mean(1)


# %%
# The learning rate is a number in the optimiser's **parameter groups**. Write another number there, and the next step uses it. That is all
# a schedule needs: a list of rates.


def train(rates, seed):
    """Take one step per rate; return the losses (steps, networks) and the weights."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((NETWORKS, 64, 32), (NETWORKS, 32, 10))
    weights = [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64) / s[1] ** 0.5) for s in shapes]
    optimizer, history = torch.optim.SGD(weights, lr=0.0, momentum=0.9), []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        batch = train_part[torch.randint(600, (NETWORKS, 32), generator=generator)]
        losses = losses_of(weights, images[batch], labels[batch])
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        history.append(losses.detach())
    return torch.stack(history), weights


# %%
# A hundred steps from 0.001 to 10.

rising = torch.logspace(-3, 1, 100, dtype=torch.float64)
history, _ = train(rising.tolist(), seed=0)
lowest = rising[history.mean(1).argmin()].item()
pick = lowest / 3

fig, ax = plt.subplots()
ax.plot(rising, history, color="0.8", linewidth=0.7)
ax.plot(rising, history.mean(1), color="C0")
ax.axvline(pick, color="C3", linestyle="--", linewidth=1.5)
ax.text(pick / 1.15, 3.4, "pick", color="C3", ha="right")
ax.set(xlabel="learning rate, growing", ylabel="training loss", xscale="log", ylim=(0, 4))

# %%
# .. caption:: Nothing, then a slide, then a wall. Blue is the mean of sixteen networks (grey). Pick a rate on the slide, well before the
#       wall.
#    :alt: Loss against a logarithmic learning rate. The blue line stays near 2.4 up to about 0.01, falls to its lowest point between 0.1
#       and 1, and shoots up beyond. Sixteen grey lines scatter around it. A dashed line marks the pick, left of the lowest point.
#
# At the lowest point it is already too late, for the loss there comes from the steps *before*; we take a third of that rate. On the far
# right the loss looks tame again. It is the loss of guessing, :math:`\log 10`: those networks are dead.

dead = history[-5:].mean().item()
print(f"last losses {dead:.1f}, guessing {torch.tensor(10.0).log():.1f}")
assert abs(dead - torch.tensor(10.0).log()) < 0.3

# %%
# Check the pick against the slow way, a full run for each of five rates, judged on validation images:

GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
STEPS = 150


def validation_loss(rates):
    _, weights = train(rates, seed=1)
    with torch.no_grad():
        return losses_of(weights, images[validation], labels[validation].expand(NETWORKS, -1)).mean().item()


grid_losses = {rate: validation_loss([rate] * STEPS) for rate in GRID}
best = min(grid_losses, key=grid_losses.get)
print({rate: round(loss, 2) for rate, loss in grid_losses.items()})
print(f"range test picks {pick:.2f}, the grid {best}")
assert best / 3 < pick < best * 3

# %%
# What does a scheduler do?
# -------------------------
#
# It writes that number for you, once per call of ``step``. Here are all of them, each with its rate as a formula of the step :math:`t`,
# starting from 1. First those that only go down:

import math

from torch.optim import lr_scheduler as S

FORMULAS = {
    "StepLR": (lambda t: 0.5 ** (t // 15), lambda o: S.StepLR(o, 15, gamma=0.5)),
    "MultiStepLR": (lambda t: 0.3 ** ((t >= 20) + (t >= 40)), lambda o: S.MultiStepLR(o, [20, 40], gamma=0.3)),
    "ExponentialLR": (lambda t: 0.95**t, lambda o: S.ExponentialLR(o, 0.95)),
    "PolynomialLR": (lambda t: (1 - t / 60) ** 2, lambda o: S.PolynomialLR(o, 60, power=2)),
    "LambdaLR": (lambda t: 1 / (1 + t / 10), lambda o: S.LambdaLR(o, lambda t: 1 / (1 + t / 10))),
    "MultiplicativeLR": (
        lambda t: 0.8 ** (t // 5),
        lambda o: S.MultiplicativeLR(o, lambda t: 0.8 if t % 5 == 0 else 1.0),
    ),
}

# %%
# ``LambdaLR`` takes the formula itself, ``MultiplicativeLR`` the factor from one step to the next. Next, those that warm up, and the two
# that combine others: ``SequentialLR`` plays one after the other, ``ChainedScheduler`` multiplies them.


def cosine(part):
    """Fall from 1 to 0 while part goes from 0 to 1."""
    return (1 + math.cos(math.pi * part)) / 2


def warm_up(o):
    return S.LinearLR(o, start_factor=0.1, total_iters=10)


FORMULAS["ConstantLR"] = lambda t: 0.3 if t < 10 else 1, lambda o: S.ConstantLR(o, 0.3, total_iters=10)
FORMULAS["LinearLR"] = lambda t: min(1, 0.1 + 0.9 * t / 10), warm_up
FORMULAS["SequentialLR"] = (
    lambda t: 0.1 + 0.9 * t / 10 if t < 10 else cosine((t - 10) / 50),
    lambda o: S.SequentialLR(o, [warm_up(o), S.CosineAnnealingLR(o, 50)], milestones=[10]),
)
FORMULAS["ChainedScheduler"] = (
    lambda t: min(1, 0.1 + 0.9 * t / 10) * 0.95**t,
    lambda o: S.ChainedScheduler([warm_up(o), S.ExponentialLR(o, 0.95)]),
)

# %%
# And the waves. The cosine :cite:p:`loshchilov2017` goes from :math:`\eta_{\max}` to :math:`\eta_{\min}` in :math:`T` steps,
#
# .. math:: \eta_t = \eta_{\min} + (\eta_{\max} - \eta_{\min})\, \frac{1 + \cos(\pi t / T)}{2}
#
# and one-cycle :cite:p:`smith2018` is two of them, up and then down to almost nothing.


def restarts(t):
    k = int(math.log2(t / 10 + 1))  # cycles of 10, 20, 40 steps
    return cosine((t - 10 * (2**k - 1)) / (10 * 2**k))


def one_cycle(t, steps=60):
    top = 0.3 * steps - 1
    return 1 - 0.96 * cosine(t / top) if t <= top else 4e-6 + (1 - 4e-6) * cosine((t - top) / (steps - 1 - top))


FORMULAS["CosineAnnealingLR"] = (
    lambda t: 0.1 + 0.9 * cosine(t / 60),
    lambda o: S.CosineAnnealingLR(o, 60, eta_min=0.1),
)
FORMULAS["CosineAnnealingWarmRestarts"] = restarts, lambda o: S.CosineAnnealingWarmRestarts(o, 10, T_mult=2)
FORMULAS["CyclicLR"] = lambda t: 1 - 0.9 * abs(t / 10 % 2 - 1), lambda o: S.CyclicLR(o, 0.1, 1.0, step_size_up=10)
FORMULAS["OneCycleLR"] = one_cycle, lambda o: S.OneCycleLR(o, max_lr=1.0, total_steps=60)

# %%
# ``ReduceLROnPlateau`` alone has no formula in :math:`t`. It listens to a loss, and cuts the rate when the loss has not improved for longer
# than its patience. Ours gets a loss that sinks for sixteen steps and then stands still.


def plateau(losses, rate=1.0, best=math.inf, bad=0):
    rates = []
    for loss in losses:
        rates.append(rate)
        best, bad = (loss, 0) if loss < best * (1 - 1e-4) else (best, bad + 1)
        if bad > 5:
            rate, bad = rate / 2, 0
    return rates


LOSSES = [max(1 - t / 20, 0.2) for t in range(60)]
FORMULAS["ReduceLROnPlateau"] = (
    lambda t: plateau(LOSSES)[t],
    lambda o: S.ReduceLROnPlateau(o, factor=0.5, patience=5),
)

# %%
# Now the proof: run each scheduler for sixty steps, write down the rates, and compare the whole curve. The list of names comes from the
# module, so that none is forgotten.

curves = {}
for name, (formula, make) in FORMULAS.items():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler, curves[name] = make(optimizer), []
    for t in range(60):
        curves[name].append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(LOSSES[t]) if name == "ReduceLROnPlateau" else scheduler.step()
    by_hand = torch.tensor([float(formula(t)) for t in range(60)], dtype=torch.float64)
    torch.testing.assert_close(torch.tensor(curves[name], dtype=torch.float64), by_hand, rtol=1e-9, atol=1e-12)

found = {name for name, kind in vars(S).items() if isinstance(kind, type) and issubclass(kind, S.LRScheduler)}
found -= {"LRScheduler", "_LRScheduler"}  # the base class, twice
print(len(found), "schedulers, none missing:", found == set(FORMULAS))
assert found == set(FORMULAS)

# %%
# All of them on one page:

fig, axes = plt.subplots(5, 3, sharex=True, sharey=True, figsize=(6.4, 6.6))
for ax, (name, rates) in zip(axes.flat, curves.items(), strict=True):
    ax.fill_between(range(60), rates, color="C0", alpha=0.15, linewidth=0)
    ax.plot(rates, color="C0", linewidth=1.6)
    ax.set_title(name, fontsize=9, pad=4)
    ax.set(xticks=[0, 30, 60], yticks=[0, 1], ylim=(0, 1.08), xlim=(0, 60))
for ax in axes[-1]:
    ax.set(xlabel="step")

# %%
# .. caption:: Every schedule in ``torch.optim.lr_scheduler``, over sixty steps, from a highest rate of 1.
#    :alt: Fifteen small panels. Six curves only fall, in steps or smoothly; two begin low and stay at 1; two rise and then fall; the
#       cosine falls in one bow, with restarts it begins anew twice; CyclicLR is a zigzag; OneCycleLR one hump; ReduceLROnPlateau stays at
#       1 and then goes down in stairs.
#
# Who steps first?
# ----------------
#
# The optimiser. A scheduler shows the rate for the *coming* step from the moment it is made; if it moves on before the first step, that
# rate is never used.

import warnings


def rates_used(scheduler_first):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, used = S.StepLR(optimizer, 1, gamma=0.1), []
    for _ in range(3):
        if scheduler_first:
            scheduler.step()
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not scheduler_first:
            scheduler.step()
    return [round(rate, 6) for rate in used]


# %%
# PyTorch notices and warns, once.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    wrong = rates_used(scheduler_first=True)
print(caught[0].category.__name__, "-", str(caught[0].message).split(". ")[0])
print("scheduler first:", wrong, "  optimiser first:", rates_used(scheduler_first=False))
assert len(caught) == 1 and wrong == [0.1, 0.01, 0.001]
assert rates_used(scheduler_first=False) == [1.0, 0.1, 0.01]

# %%
# Per batch or per epoch?
# -----------------------
#
# ``step`` does not know which it is; it counts its calls. "Divide by ten every 10 epochs", called after every *batch*, is over before the
# second :term:`epoch` ends, and nothing warns.


def rate_after(epochs, batches, per_batch):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = S.StepLR(optimizer, 10, gamma=0.1)
    for _ in range(epochs):
        for _ in range(batches):
            optimizer.step()
            if per_batch:
                scheduler.step()
        if not per_batch:
            scheduler.step()
    return scheduler.get_last_lr()[0]


print(f"after 2 epochs of 20 batches: per batch {rate_after(2, 20, True):.0e}, per epoch {rate_after(2, 20, False):g}")
assert abs(rate_after(2, 20, per_batch=True) - 1e-4) < 1e-9 and rate_after(2, 20, per_batch=False) == 1

# %%
# Decide by the arguments: ``StepLR(optimizer, 10)`` in epochs goes with a call per epoch; one-cycle and warm-up count batches. And do not
# wait for an error. Call each of the fifteen a hundred times, forty too often:

protests = []
for name, (_, make) in FORMULAS.items():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = make(optimizer)
    optimizer.step()
    try:
        for _ in range(100):
            scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
    except ValueError as error:
        protests.append(name)
        print(f"{name}: ValueError: {str(error).split('. ')[0]}")
assert protests == ["OneCycleLR"]

# %%
# Can layers have rates of their own?
# -----------------------------------
#
# Give the optimiser groups. A scheduler scales each from its own start, so their ratio stays, and remembers the last rates as a list.

slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.1}])
scheduler = S.CosineAnnealingLR(optimizer, 60)
for _ in range(30):
    optimizer.step()
    scheduler.step()
print("half-way:", [round(rate, 6) for rate in scheduler.get_last_lr()])
assert abs(scheduler.get_last_lr()[0] / scheduler.get_last_lr()[1] - 0.1) < 1e-9

# %%
# How do I resume?
# ----------------
#
# The step count lives in the scheduler, so save its ``state_dict`` beside the optimiser's. Here a run breaks off after 25 of 60 steps. (And
# after 120 steps, this cosine has climbed back to where it began.)

import io


def fresh():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, S.CosineAnnealingLR(optimizer, 60)


def advance(optimizer, scheduler, steps):
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


assert abs(advance(*fresh(), 121)[-1] - 1) < 1e-6

# %%
# Load both and the curve goes on. Forget the scheduler, and a new cosine starts from where the old one was cut.

whole, file = advance(*fresh(), 60), io.BytesIO()
optimizer, scheduler = fresh()
before = advance(optimizer, scheduler, 25)
torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)

resumed = {}
for label, names in {"both": ("optimizer", "scheduler"), "the optimiser alone": ("optimizer",)}.items():
    file.seek(0)
    saved, parts = torch.load(file), dict(zip(("optimizer", "scheduler"), fresh(), strict=True))
    for name in names:
        parts[name].load_state_dict(saved[name])
    resumed[label] = before + advance(**parts, steps=35)
    print(f"loaded {label:<20} last rate {resumed[label][-1]:.3f}")
assert resumed["both"] == whole and resumed["the optimiser alone"][-1] > 0.1 > whole[-1]

# %%
# What does a schedule buy?
# -------------------------
#
# Same networks, same batches, 150 steps, four schedules. Each gets the best of the five rates of ``GRID`` as its peak, chosen on
# validation images. Then sixteen fresh networks are judged on test images they have not seen. (``OneCycleLR`` would move the momentum,
# too; we leave it at 0.9.)

SCHEDULES = {
    "constant": lambda t: 1.0,
    "cosine": lambda t: cosine(t / STEPS),
    "warm-up, cosine": lambda t: (t + 1) / 15 if t < 15 else cosine((t - 15) / (STEPS - 15)),
    "one-cycle": lambda t: one_cycle(t, STEPS),
}
accuracies = {}
for name, schedule in SCHEDULES.items():
    shape = torch.tensor([schedule(t) for t in range(STEPS)], dtype=torch.float64)
    peak = min(GRID, key=lambda rate: validation_loss((rate * shape).tolist()))
    _, (w1, w2) = train((peak * shape).tolist(), seed=2)
    with torch.no_grad():
        right = ((images[test] @ w1).relu() @ w2).argmax(2) == labels[test]
    accuracies[name] = 100 * right.double().mean(1)
    print(f"{name:<16} peak {peak:<4}  {accuracies[name].mean():.1f} % correct, spread {accuracies[name].std():.1f}")

# %%
# The spread is the standard deviation over the sixteen networks. Here are all of them.

fig, ax = plt.subplots(figsize=(6.4, 2.8))
for row, (name, values) in enumerate(accuracies.items()):
    height = row + torch.linspace(-0.2, 0.2, NETWORKS)
    ax.plot(values, height, "o", color="C0" if row else "C3", alpha=0.6, markersize=5)
    ax.plot(values.mean(), row, "|", color="black", markersize=28, markeredgewidth=2)
ax.set(yticks=range(len(accuracies)), yticklabels=SCHEDULES, xlabel="test accuracy, %")
ax.invert_yaxis()

# %%
# .. caption:: One dot per network, a bar at each mean. Every schedule that ends low gains about one point over the best constant rate, and
#       loses the stragglers.
#    :alt: Four rows of sixteen dots. The constant rate's dots spread widely to the left; those of cosine, warm-up with cosine, and
#       one-cycle lie closer together and on average one point further right.
#
# The gain is real and small: about one correct answer more in a hundred, and about half the spread. A likely reason: at a constant rate
# the last few batches still throw the weights about, near zero they hardly do. *Which* schedule you take matters less than that it ends
# low. Warm-up :cite:p:`goyal2017` is meant for huge batches and deep networks. Ours is neither, and warm-up bought nothing here. (The
# second edit below changes that.)

constant, cosines = accuracies["constant"], accuracies["cosine"]
print(f"cosine beats constant on {(cosines > constant).sum()} of {NETWORKS} networks")
assert cosines.mean() > constant.mean() + 0.5 and cosines.std() < 0.75 * constant.std()
assert abs(accuracies["warm-up, cosine"].mean() - cosines.mean()) < 0.5

# %%
# .. admonition:: From practice
#
#    Compare the gain with the spread of the constant rate. With *one* network per schedule, chance alone could have turned the order round;
#    the count above says how often. Train a handful of each before you praise a schedule.
#
# Change something
# ----------------
#
# * In the first figure, add a rate of exactly 0.2. Where does the walk end, and why there?
# * In ``train``, set ``momentum=0.5``. The chosen peaks rise to 1, and the last cell fails: a network trained with cosine alone is lost.
#   Which schedule, with the same start weights and batches, saves it?
# * Add ``"straight": lambda t: 1 - t / STEPS`` to ``SCHEDULES``. Does the shape of the descent matter?
#
# Exercises
# ---------
#
# 1. Write the formula of warm-up for ten steps followed by :math:`1/\sqrt{t}`, and turn it into a ``LambdaLR``.
# 2. Your data loader yields 250 batches, and you train for 12 epochs. What is ``total_steps`` of one-cycle, and where does ``step`` stand?
# 3. ``ReduceLROnPlateau`` gets the *training* loss of a network that overfits. What will it do, and what would you hand it instead?
#
# .. dropdown:: Answers
#
#    1. ``lambda t: min((t + 1) / 10, (10 / (t + 1)) ** 0.5)``.
#    2. 3,000, and the call stands in the inner loop, right after ``optimizer.step()``.
#    3. Nothing, as long as the training loss improves. Hand it the validation loss.
