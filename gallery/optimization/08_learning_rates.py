r"""
Learning rates
==============

Find a good learning rate by letting it rise, let a schedule lower it while you train,
and measure what that buys.

.. lesson::
   :needs: optimization/07_optimizers
   :data: scikit-learn's handwritten digits
   :keywords: lr, step size, learning rate finder, range test, lr_scheduler, StepLR,
      CosineAnnealingLR, cosine annealing, OneCycleLR, warmup, LinearLR, SequentialLR,
      LambdaLR, ReduceLROnPlateau, Detected call of lr_scheduler.step() before
      optimizer.step(), Tried to step more times than the total number of steps, loss is
      nan, loss explodes
   :thumbnail: 2
"""

# %%
# Which number do I write for lr?
# -------------------------------
#
# Every optimiser asks for one number that nobody can give you. Take the smallest case: a bowl :math:`5w^2` with its lowest point at 0. You
# start at 1 and take a hundred steps downhill, at three :term:`learning rates <learning rate>`. How close do you get?

for rate in (0.01, 0.19, 0.21):
    w = 1.0
    for _ in range(100):
        w = w - rate * 10 * w  # the slope of 5w² is 10w
    print(f"rate {rate}: {abs(w):.5f} from the lowest point")
assert abs(w) > 10_000

# %%
# 0.01 and 0.19 end at the same place. A tiny bit more, and you are thousands away. The first steps show why.

# fold: the first steps in the bowl, at three rates
import matplotlib.pyplot as plt
import numpy as np

plt.style.use("pytorch_course.book")
bowl = np.linspace(-2.5, 2.5, 100)
fig, axes = plt.subplots(1, 3, sharex=True, sharey=True, figsize=(6.4, 2.6))
for ax, rate in zip(axes, (0.01, 0.19, 0.21)):
    path = (1 - 10 * rate) ** np.arange(9)
    ax.plot(bowl, 5 * bowl**2, color="0.8")
    ax.plot(path, 5 * path**2, "o-", linewidth=1)
    ax.plot(path[0], 5, "o", color="black")
    ax.set(title=f"rate {rate}", xlabel="w", ylim=(-1, 30))
axes[0].set_ylabel("loss")

# %%
# .. caption:: From the black dot: 0.01 creeps down one side. 0.19 jumps from wall to wall and comes down. 0.21 jumps and climbs.
#    :alt: Three bowls. At rate 0.01 eight steps slide half-way down the right side. At 0.19 a zigzag between both walls sinks. At 0.21 a
#       zigzag between both walls rises.
#
# Each step multiplies the distance by the same number. With the curvature :math:`c`, here 10:
#
# .. math:: w_{t+1} = w_t - \eta\, c\, w_t = (1 - \eta c)\, w_t, \qquad\text{which shrinks only if}\quad 0 < \eta < \frac{2}{c}
#
# So too small is slow, and nearly too large is slow as well. The best rate here lies between them: at :math:`\eta = 1/c = 0.1` the factor
# is 0, and one step lands on the lowest point. In a network :math:`c` is unknown and changes, so you have to try.
#
# How do I find a rate?
# ---------------------
#
# With a **range test** :cite:p:`smith2017`: a run of a hundred steps or so in which the rate grows from tiny to absurd, and a look at the
# loss. A :term:`scheduler` changes the rate after each step. The data are 600 handwritten digits for training, and others to judge by.

import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

images, labels = digits().tensors
images = images.flatten(1)
shuffled = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
train, validation, test = shuffled.split([600, 500, 697])

# %%
# A scheduler belongs to an optimiser, so ``fit`` gets a function that makes one. ``chunk(20)`` cuts the 600 images into 20 batches of 30;
# six epochs are 120 steps.


def fit(lr, schedule, seed, per_batch=True):
    """Train a network; return it, with the rate and the loss of each step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = schedule(optimizer)
    log = []
    for epoch in range(6):
        for batch in train[torch.randperm(600)].chunk(20):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            log.append([optimizer.param_groups[0]["lr"], loss.item()])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if per_batch:
                scheduler.step()
        if not per_batch:
            scheduler.step()
    return model, *np.array(log).T


# %%
# The rate is a number in the optimiser's **parameter groups**. A scheduler writes another number there, and the next step uses it; that is
# all. To rise from 0.001 to 10 in 120 steps, multiply by the same factor each time. One network would do; five show what is chance.


def rising(optimizer):
    return lr_scheduler.ExponentialLR(optimizer, gamma=10_000 ** (1 / 119))


runs = [fit(0.001, rising, seed) for seed in range(5)]
rates = runs[0][1]
losses = np.array([run[2] for run in runs])
lowest = rates[losses.mean(0).argmin()]
pick = lowest / 3
print(f"lowest loss at {lowest:.2f}, so pick {pick:.2f}")
print("picks by one network:", np.sort(rates[losses.argmin(1)] / 3).round(2))

# %%

# fold: the range test
fig, ax = plt.subplots()
ax.semilogx(rates, losses.T, color="0.8", linewidth=0.7)
ax.semilogx(rates, losses.mean(0))
ax.axvline(pick, color="C3", linestyle="--", linewidth=1.5)
ax.text(pick / 1.15, 3.4, "pick", color="C3", ha="right")
ax.set(xlabel="learning rate, growing", ylabel="training loss", ylim=(0, 4))

# %%
# .. caption:: At first the loss hardly moves, then it falls, and at large rates it shoots up. Grey are five networks, blue is their mean.
#    Pick a rate where the loss falls.
#    :alt: Loss against a logarithmic learning rate. The blue line stays near 2.3 up to about 0.01, falls to its lowest point near 0.3,
#       and shoots up beyond. Grey lines scatter around it. A dashed line marks the pick on the falling part, left of the lowest point.
#
# At the lowest point it is already too late: the loss there comes from the steps *before*, and the next, larger ones raise it. A third of
# that rate is a rule of thumb; it leaves room for curvature that grows during training.
#
# A range test pays where training is long. Training is short here, 120 steps too, so the slow way is possible as a check: whole runs at
# five constant rates, judged on validation images.


def constant(optimizer):
    return lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def validation_loss(lr, schedule):
    """Return the mean over three networks."""
    models = [fit(lr, schedule, seed)[0] for seed in (5, 6, 7)]
    with torch.no_grad():
        scores = torch.cat([model(images[validation]) for model in models])
    return F.cross_entropy(scores, labels[validation].repeat(3)).item()


GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
grid = {rate: validation_loss(rate, constant) for rate in GRID}
print({rate: round(loss, 3) for rate, loss in grid.items()})
best = min(grid, key=grid.get)
assert best / 4 < pick < best * 4

# %%
# What does a scheduler do?
# -------------------------
#
# Large steps cover the distance quickly, and then jump to and fro around the lowest point; small ones come to rest. So let the rate fall
# while you train. Three schedules are common. The oldest goes down in **stairs**: halve the rate every two epochs :math:`e`.
#
# .. math:: \eta_t = \eta \cdot 0.5^{\lfloor e / 2 \rfloor}


def stairs(optimizer):
    return lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


t = np.arange(120)
rates_stairs = fit(0.1, stairs, seed=0, per_batch=False)[1]
print("first rate of each epoch:", rates_stairs[::20].round(4))
np.testing.assert_allclose(rates_stairs, 0.1 * 0.5 ** (t // 20 // 2))

# %%
# Its step stands after the inner loop of ``fit``, once per :term:`epoch`. The next two count batches, so theirs stands inside. A **cosine**
# :cite:p:`loshchilov2017` falls without stairs. Before it a short **warm-up** :cite:p:`goyal2017` rises from a tenth: in the first steps
# the weights change fast, and the full rate may be too much.
#
# .. math:: \eta_t = \eta\,(0.1 + 0.9\, t / 20) \;\text{ for } t < 20, \qquad \text{then}\quad
#    \eta_t = \eta\, \frac{1 + \cos(\pi\, (t - 20) / 100)}{2}


def warm_cosine(optimizer):
    warm_up = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=20)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[20])


def fall(part):
    """Fall from 1 to 0 along a cosine while part goes from 0 to 1."""
    return (1 + np.cos(np.pi * part)) / 2


rates_cosine = fit(0.1, warm_cosine, seed=0)[1]
by_hand = np.where(t < 20, 0.1 + 0.9 * t / 20, fall((t - 20) / 100))
print("every 20 steps:", rates_cosine[::20].round(4))
np.testing.assert_allclose(rates_cosine, 0.1 * by_hand, atol=1e-12)

# %%
# **One-cycle** :cite:p:`smith2018` is two such cosines: up from 1/25 of the peak for 30% of the steps, then down to 1/10,000 of where it
# began, which is ``4e-6`` of the peak. Of 120 steps 30% are 36, with the numbers 0 to 35, so the peak is at step 35 and 84 more follow. By
# default one-cycle lowers the momentum while the rate is high; ``cycle_momentum=False`` leaves it alone.


def one_cycle(optimizer):
    return lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=120, cycle_momentum=False
    )


rates_cycle = fit(0.1, one_cycle, seed=0)[1]
up = 1 - (1 - 1 / 25) * fall(t / 35)
down = 4e-6 + (1 - 4e-6) * fall((t - 35) / 84)
print("every 20 steps:", rates_cycle[::20].round(4))
np.testing.assert_allclose(rates_cycle, 0.1 * np.where(t < 35, up, down))

# %%

# fold: the three schedules
fig, axes = plt.subplots(1, 3, sharex=True, sharey=True, figsize=(6.4, 2.3))
curves = {
    "stairs": rates_stairs,
    "warm-up, cosine": rates_cosine,
    "one-cycle": rates_cycle,
}
for ax, (name, curve) in zip(axes, curves.items()):
    ax.fill_between(t, curve, alpha=0.15, linewidth=0)
    ax.plot(t, curve)
    ax.set(title=name, xlabel="step", ylim=(0, 0.105))
axes[0].set_ylabel("rate")

# %%
# .. caption:: Three ways down, over 120 steps, with 0.1 as the highest rate.
#    :alt: Three small panels. Stairs goes down in two steps, to a quarter. Warm-up, cosine rises in a straight line for 20 steps and falls
#       in a bow to zero. One-cycle rises and falls like a hump with its top at step 35.
#
# .. dropdown:: Twelve schedulers as formulas
#
#    .. list-table::
#       :header-rows: 1
#
#       * - name
#         - factor after :math:`t` calls of ``step``
#       * - ``ExponentialLR``
#         - :math:`\gamma^t`
#       * - ``MultiStepLR``
#         - :math:`\gamma` to the number of milestones passed
#       * - ``PolynomialLR``
#         - :math:`(1 - t/T)^p`
#       * - ``CosineAnnealingLR``
#         - :math:`(1 + \cos(\pi t/T))/2`
#       * - ``CosineAnnealingWarmRestarts``
#         - that cosine again and again, each ``T_mult`` times as long
#       * - ``CyclicLR``
#         - a zigzag between two rates
#       * - ``ConstantLR``
#         - ``factor`` for the first :math:`T` calls, then 1
#       * - ``LinearLR``
#         - straight from ``start_factor`` to 1 in :math:`T` calls
#       * - ``LambdaLR``
#         - :math:`f(t)`, your own function
#       * - ``MultiplicativeLR``
#         - :math:`f(1) \cdot f(2) \cdots f(t)`
#       * - ``ChainedScheduler``
#         - the product of several
#       * - ``ReduceLROnPlateau``
#         - times ``factor`` whenever the loss given to ``step`` has not improved for ``patience`` calls
#
# Per batch or per epoch?
# -----------------------
#
# What you expect: the stairs know what an epoch is. What happens when the call slips into the inner loop:

for per_batch in (False, True):
    rates = fit(0.1, stairs, seed=0, per_batch=per_batch)[1]
    print(f"per batch {per_batch!s:<5}: last rate {rates[-1]:.1e}")
assert rates[-1] < 1e-15

# %%
# A scheduler counts its calls, and knows nothing else. Two batches, not two epochs, halve the rate; the training is over before the first
# epoch ends, and nothing warns. The fix is to decide by the arguments: in which unit did you count ``step_size`` or ``total_steps``? Only
# ``OneCycleLR`` notices one call too many and raises a ``ValueError``.
#
# Who steps first?
# ----------------
#
# The optimiser. From the moment it is made, a scheduler shows the rate for the *coming* step. If it moves on too early, that rate is never
# used.

import warnings


def rates_used(first):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    used = []
    for _ in range(3):
        if first == "scheduler":
            scheduler.step()
        used.append(round(optimizer.param_groups[0]["lr"], 6))
        optimizer.step()
        if first == "optimiser":
            scheduler.step()
    return used


print("optimiser first:", rates_used("optimiser"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print("scheduler first:", rates_used("scheduler"))
print(str(caught[0].message).split(". ")[0])
assert len(caught) == 1

# %%
# How do I resume?
# ----------------
#
# The count of calls lives in the scheduler. Save its ``state_dict`` beside the optimiser's. What happens with both, and without it:


def fresh():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    return optimizer, lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)


def last_rate(optimizer, scheduler, steps):
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    return scheduler.get_last_lr()[0]


broken = fresh()
print(f"after 25 of 60 steps: {last_rate(*broken, 25):.3f}")
saved = [part.state_dict() for part in broken]
for names in ("both", "the optimiser alone"):
    optimizer, scheduler = fresh()
    optimizer.load_state_dict(saved[0])
    if names == "both":
        scheduler.load_state_dict(saved[1])
    print(f"loaded {names}: {last_rate(optimizer, scheduler, 35):.3f} at the end")
assert scheduler.get_last_lr()[0] > 0.1

# %%
# The optimiser alone brings back the rate reached so far, but the new scheduler counts from 0. So 35 steps of the cosine's slow *beginning*
# shrink it, instead of the 35 that were left.
#
# What does a schedule buy?
# -------------------------
#
# Train sixteen networks at the best constant rate of the grid, and sixteen at one three times as large. Then train them again with warm-up
# and cosine, from the same first weights and on the same batches. Count the *test* images that they get right.


def accuracy(lr, schedule):
    """Return one accuracy for each of sixteen networks."""
    models = [fit(lr, schedule, seed)[0] for seed in range(100, 116)]
    with torch.no_grad():
        right = [model(images[test]).argmax(1) == labels[test] for model in models]
    return 100 * torch.stack(right).double().mean(1)


results = {}
for lr in (0.1, 0.3):
    for name, schedule in (("constant", constant), ("falling", warm_cosine)):
        results[name, lr] = right = accuracy(lr, schedule)
        low, high = right.min(), right.max()
        print(f"{lr} {name:<8} {right.mean():.1f}%, from {low:.1f} to {high:.1f}")

# %%
# Networks with the same start make a pair, and the difference in a pair is the **gain**, in percentage points.

gains = {}
for falls, stays in ((0.1, 0.1), (0.3, 0.3), (0.3, 0.1)):
    gain = results["falling", falls] - results["constant", stays]
    gains[falls, stays] = gain
    error = gain.std() / 16**0.5
    print(f"{falls} against {stays}: {gain.mean():.2f}, standard error {error:.2f}")

# %%

# fold: one dot for each pair
fig, ax = plt.subplots(figsize=(6.4, 2.6))
for row, gain in enumerate(gains.values()):
    ax.plot(gain, row + np.linspace(-0.2, 0.2, 16), "o", alpha=0.6)
    ax.plot(gain.mean(), row, "|", color="black", markersize=30, markeredgewidth=2)
ax.axvline(0, color="0.6", linestyle=":", linewidth=1)
ticks = [f"{falls} against {stays}" for falls, stays in gains]
ax.set(yticks=range(3), yticklabels=ticks, ylim=(2.5, -0.5))
ax.set(xlabel="gain, percentage points")

# %%
# .. caption:: One dot for each pair, a bar at the mean: highest rate of the schedule against the constant rate.
#    :alt: Three rows of sixteen dots. In the upper row, 0.1 against 0.1, they scatter around the dotted line at zero. In the middle, 0.3
#       against 0.3, all lie to the right of it. In the lower, 0.3 against 0.1, most lie a little to the right.
#
# At 0.1 the mean gain is smaller than its standard error: these pairs show none. At 0.3 the constant rate is too large, and the schedule
# more than makes up for it: it ends above even the best constant rate of the grid, by more than three standard errors, and its networks
# differ less. So with a schedule, begin higher than the best constant rate. How much that brings elsewhere, you have to measure.

assert gains[0.1, 0.1].mean().abs() < gains[0.1, 0.1].std() / 2
assert gains[0.3, 0.3].mean() > gains[0.3, 0.3].std()
assert gains[0.3, 0.1].mean() > 3 * gains[0.3, 0.1].std() / 4

# %%
# .. admonition:: From practice
#
#    Compare in pairs, with the same start and the same batches, and print the standard error beside the mean. The upper row shows why: a
#    *single* pair could have told you that the schedule helps, or that it hurts.
#
# Take this with you
# ------------------
#
# Warm up, then fall, one call per batch, after the optimiser. This page measured it with SGD; the code is the same for AdamW, with a rate
# from a range test of your own:

model = nn.Linear(8, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
steps, warm = 1000, 50  # steps = epochs * len(loader)
up = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=warm)
down = lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warm)
scheduler = lr_scheduler.SequentialLR(optimizer, [up, down], milestones=[warm])
for _ in range(steps):
    optimizer.zero_grad()
    F.mse_loss(model(torch.randn(32, 8)), torch.zeros(32, 1)).backward()
    optimizer.step()
    scheduler.step()

# %%
# Change something
# ----------------
#
# * In the first cell, put a rate of exactly 0.2 before 0.21. Where does the walk end, and why there?
# * In ``fit``, set ``momentum=0.0``. Where is the lowest point of the range test now?
# * In the section on resuming, take 95 more steps instead of 35. What is the last rate when you loaded both?
#
# .. dropdown:: What happens
#
#    * It jumps between 1 and -1 for ever, as 0.2 is the limit :math:`2/c`: the factor is exactly -1.
#    * Farther right, and the pick is three times as large: momentum made the steps longer. The last asserts object. At 0.1 the rate is now
#      too small, and a schedule that lowers it makes the networks clearly worse.
#    * 1. The cosine does not stop at the bottom: it climbs back to where it began. Give ``T_max`` the number of steps that you take.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the rates of two groups
#
#    An optimiser has two parameter groups with the rates 0.01 and 0.1, and a cosine to zero over 60 steps. Which rates do they have after
#    30 steps?

### BEGIN SOLUTION
guess = [0.005, 0.05]
### END SOLUTION


def half_way():
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
    last_rate(optimizer, scheduler, 30)
    return scheduler.get_last_lr()


expect(guess, half_way)

# %%
# .. exercise:: A schedule of your own
#
#    The first transformers warmed up in a straight line, and then fell with the root of the step. Write this factor for step :math:`t`,
#    which counts from 0: it rises to 1 at the tenth step, and then falls as :math:`\sqrt{10/(t + 1)}`.


def factor(t):
    ### BEGIN SOLUTION
    return min((t + 1) / 10, (10 / (t + 1)) ** 0.5)
    ### END SOLUTION


def rates_of_own():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.LambdaLR(optimizer, factor)
    return [last_rate(optimizer, scheduler, more) for more in (4, 5, 30, 210)]


expect(rates_of_own, [0.5, 1.0, 0.5, 0.2])

# %%
# .. exercise:: Predict the number of steps
#
#    Your loader deals 250 samples in batches of 32. You train for 12 epochs with one-cycle, one call per batch. What is ``total_steps``?

### BEGIN SOLUTION
guess = 96
### END SOLUTION

loader = torch.utils.data.DataLoader(torch.zeros(250), batch_size=32)
expect(guess, 12 * len(loader))
