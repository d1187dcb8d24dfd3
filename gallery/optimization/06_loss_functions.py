r"""
Loss functions
==============

Choose a loss by what your errors cost, write the common ones by hand, and recognise the
mistakes that a loss accepts without a word.

.. lesson::
   :needs: optimization/02_sigmoid_by_hand optimization/04_gradient_descent
   :data: scikit-learn's iris, and generated points
   :keywords: cost function, objective, criterion, MSE, L1, MAE, Huber, smooth L1, cross
      entropy, log loss, negative log likelihood, NLLLoss, BCELoss, BCEWithLogitsLoss,
      softmax twice, loss does not go below 0.55, negative loss, loss 2.303, class
      weight, pos_weight, imbalanced data, threshold, label smoothing, KL divergence,
      expected target dtype to be Long or Byte but got Float, target out of bounds,
      expected target size, all elements of input should be between 0 and 1
   :thumbnail: 4
"""

# %%
# How many days do you promise?
# -----------------------------
#
# Five parcels took 5, 6, 7, 8 and 100 days. A customer asks how long the next one will take. Say one number. Try ten thousand, and keep the
# one with the smallest mean :term:`loss`, for three losses that PyTorch offers.

import torch
from torch import nn

days = torch.tensor([5.0, 6.0, 7.0, 8.0, 100.0], dtype=torch.float64)
guesses = torch.linspace(0, 100, 10_001, dtype=torch.float64)[:, None]
errors = guesses - days

costs = {"squared": errors**2, "absolute": errors.abs()}
huber = nn.HuberLoss(reduction="none", delta=5)
costs["Huber"] = huber(errors, torch.zeros_like(errors))
best = {}
for name, cost in costs.items():
    best[name] = guesses[cost.mean(dim=1).argmin()].item()
    print(f"{name:<9} {best[name]:.2f} days")
assert abs(best["squared"] - days.mean()) < 1e-6
assert abs(best["absolute"] - days.median()) < 1e-6

# %%
# Each answer is the best one for its loss. The squared error asks for the **mean**, the absolute error for the **median**.
#
# What does an error cost?
# ------------------------
#
# For an error :math:`e = \hat y - y`, the three are
#
# .. math:: e^2, \qquad |e|, \qquad
#    h_\delta(e) = \begin{cases} \tfrac12 e^2 & |e| \le \delta \\ \delta\,(|e| - \tfrac12 \delta) & \text{otherwise} \end{cases}
#
# What decides is not the cost itself but its *slope*: how hard one sample pulls at the weights.

# fold: the costs and their slopes
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
e = torch.linspace(-3, 3, 301, requires_grad=True)
curves = {"squared": e**2, "absolute": e.abs()}
curves["Huber"] = torch.where(e.abs() <= 1, e**2 / 2, e.abs() - 1 / 2)
fig, (left, right) = plt.subplots(1, 2)
for (name, cost), style in zip(curves.items(), ("-", "--", ":")):
    pull = torch.autograd.grad(cost.sum(), e)[0]
    left.plot(e.detach(), cost.detach(), style)
    right.plot(e.detach(), pull, style, label=name)
left.set(xlabel="error", ylabel="cost", ylim=(0, 6))
right.set(xlabel="error", ylabel="slope")
right.legend()

# %%
# .. caption:: Left, what an error costs. Right, how hard it pulls: ever harder for the squared error, always alike for the absolute one,
#       at most 1 for Huber's (here :math:`\delta = 1`).
#    :alt: On the left, a steep parabola, a V, and a curve that is round at the bottom and straight outside. On the right, their slopes: a
#       steep rising line, a step from minus one to one, and a line that rises through zero between minus one and one.
#
# A pull is a slope of the cost. At the best guess the pulls of all samples cancel. That is how one late parcel drags the mean to 25 days:
# its pull grows with its distance. Huber's loss stops it at :math:`\delta`, here 5.

squared = 2 * (best["squared"] - days)  # the slope of the square
capped = (best["Huber"] - days).clamp(-5, 5)
print("squared", [round(pull, 2) for pull in squared.tolist()])
print("Huber  ", [round(pull, 2) for pull in capped.tolist()])
assert abs(squared.sum()) < 1e-6 and abs(capped.sum()) < 1e-6

# %%
# What does a wrong class cost?
# -----------------------------
#
# In :term:`classification` you would like to count mistakes. But a count is flat: nudge a weight, and it does not change. So look at the
# probability that the model gives to the *true* class, and charge minus its logarithm.

# fold: the cost of a probability
p = torch.linspace(0.005, 1, 400)
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(p, -p.log(), label="cross-entropy")
ax.plot(p, (p < 0.5).float(), "--", label="mistakes")
ax.set(xlabel="probability of the true class", ylabel="cost")
ax.legend()

# %%
# .. caption:: With two classes, a mistake (below one half) counts 1, however sure it was. The logarithm makes a model pay for being sure
#       and wrong, and slopes everywhere.
#    :alt: A step falls from one to zero at a probability of one half. A curve falls from more than five near zero, ever flatter, to zero at
#       probability one.
#
# The probabilities come from :term:`softmax`, and the whole is the :term:`cross-entropy`. With scores :math:`z_k` of :math:`K` classes and
# the true class :math:`t`, the outer logarithm undoes the exponential of the true class:
#
# .. math:: L = -\log \frac{e^{z_t}}{\sum_k e^{z_k}} = \log \sum_k e^{z_k} - z_t
#
# The form on the right can be made safe for large scores: subtract the largest before you take exponentials, and add it again.
# Without that step, :math:`e^{1000}` is infinite here too.


from torch.nn import functional as F


def cross_entropy(z, t):
    """Return the loss of each row of scores z with true class t."""
    top = z.max(dim=1, keepdim=True).values
    log_sum = top[:, 0] + (z - top).exp().sum(dim=1).log()
    return log_sum - z.gather(1, t[:, None])[:, 0]


z, t = torch.tensor([[2.0, 1.0, 0.0], [1000.0, 0.0, 0.0]]), torch.tensor([0, 1])
probability = z.exp() / z.exp().sum(dim=1, keepdim=True)
left, right = -probability[[0, 1], t].log(), cross_entropy(z, t)
library = F.cross_entropy(z, t, reduction="none")
for name, cost in [("left", left), ("right", right), ("library", library)]:
    print(f"{name:<8} {cost[0]:.4f}  {cost[1]:.4f}")
torch.testing.assert_close(right, library)

# %%
# The library splits this into :func:`torch.nn.functional.log_softmax` and :class:`torch.nn.NLLLoss`, which only picks and negates. It takes
# *log*-probabilities and cannot tell when it gets something else.

right = F.nll_loss(z.log_softmax(dim=1), t)
wrong = F.nll_loss(z.softmax(dim=1), t)
print(f"NLLLoss of log-probabilities {right:.3f}, of probabilities {wrong:.3f}")
torch.testing.assert_close(right, F.cross_entropy(z, t))
assert wrong < 0  # a loss below zero is the symptom

# %%
# Why does my loss stop at 0.55?
# ------------------------------
#
# What you expect: a classifier ends with a softmax. What happens: :class:`torch.nn.CrossEntropyLoss` has one of its own, and the second one
# sees probabilities, scores between 0 and 1. Its best case is :math:`(1, 0, \dots, 0)`, and even that costs
#
# .. math:: \log\left(e^1 + (K-1)\,e^0\right) - 1 = \log\left(1 + \frac{K-1}{e}\right)

import math

z = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
best_case = F.cross_entropy(z.softmax(dim=1), torch.tensor([0]))
floor = math.log(1 + 2 / math.e)
print(f"sure and right, softmax twice: loss {best_case:.4f}, formula {floor:.4f}")
assert abs(best_case - floor) < 1e-4

for name, scores in [("once", z), ("twice", z.softmax(dim=1))]:
    loss = F.cross_entropy(scores, torch.tensor([1]))
    pull = torch.autograd.grad(loss, z)[0].abs().max()
    print(f"sure and wrong, softmax {name:<5}: loss {loss:5.2f}, pull {pull:.0e}")
assert pull < 1e-8

# %%
# So 0.55 is the floor for three classes. The last number is worse: at a score of 20 a model that is sure and wrong gets hardly any
# gradient. A model that starts at zero is not that sure, and does learn. Train both ways on iris, and judge them by the same
# true cross-entropy.

from sklearn.datasets import load_iris

table, species = load_iris(return_X_y=True)
x, species = torch.tensor(table).float(), torch.tensor(species)
x = (x - x.mean(dim=0)) / x.std(dim=0)
x = torch.cat([x, torch.ones(150, 1)], dim=1)  # a one for the bias


def train(twice):
    """Train a linear model; return per step the loss it sees and the true one."""
    W = torch.zeros(5, 3, requires_grad=True)
    optimizer = torch.optim.SGD([W], lr=1.0)
    record = []
    for _ in range(300):
        logits = x @ W
        true_loss = F.cross_entropy(logits, species)
        loss = F.cross_entropy(logits.softmax(dim=1), species) if twice else true_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.append((loss.item(), true_loss.item()))
    return torch.tensor(record)


# %%
# Same start, same rate, same data:

once, twice = train(twice=False), train(twice=True)
for name, record in [("once ", once), ("twice", twice)]:
    steps = (record[:, 1] >= 0.2).sum()
    print(f"{name}: {steps} steps to a true loss of 0.2; last loss {record[-1, 0]:.2f}")
assert twice[:, 0].min() > floor

# %%

# fold: the losses of both trainings
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.semilogy(once[:, 1], label="softmax once")
ax.semilogy(twice[:, 1], "-.", label="softmax twice")
ax.semilogy(twice[:, 0], "--", color="C1", label="twice, as seen")
ax.axhline(floor, color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="step", ylabel="loss")
ax.legend()

# %%
# .. caption:: The doubled softmax still learns, only later, and the loss you would be watching (dashed) cannot fall below the dotted floor.
#    :alt: Three falling curves on a logarithmic axis. Softmax once falls fastest, softmax twice follows. The dashed curve flattens out just
#       above a dotted line.
#
# The fix: give the loss the raw scores, the :term:`logits`.
#
# Sigmoid, then BCELoss?
# ----------------------
#
# With two classes one score is enough. The **binary cross-entropy** of :math:`p = \sigma(z)` is :math:`-y\log p - (1-y)\log(1-p)`.
# :class:`torch.nn.BCELoss` takes :math:`p`, :class:`torch.nn.BCEWithLogitsLoss` takes :math:`z`. Scores of 3 and 20 for the wrong side
# should cost about 3 and 20.

for score in (3.0, 20.0):
    z, y = torch.tensor(score, requires_grad=True), torch.tensor(0.0)
    separate = F.binary_cross_entropy(z.sigmoid(), y)
    joint = F.binary_cross_entropy_with_logits(z, y)
    for name, loss in [("BCELoss", separate), ("BCEWithLogitsLoss", joint)]:
        pull = torch.autograd.grad(loss, z)[0]
        print(f"score {score:2.0f}  {name:<17}  loss {loss:7.3f}  gradient {pull:.2f}")
torch.testing.assert_close(joint, z.clamp(min=0) - z * y + (-z.abs()).exp().log1p())
assert separate == 100

# %%
# ``float32`` rounds :math:`\sigma(20)` to 1. The logarithm of :math:`1 - p` would be minus infinity; ``BCELoss`` cuts it off at -100, and
# the gradient is gone. ``BCEWithLogitsLoss`` computes :math:`\max(z,0) - zy + \log(1 + e^{-|z|})`.
#
# Weight the rare class, or move the threshold?
# ---------------------------------------------
#
# One sample in twenty is positive, and the model finds few of them. Two remedies: ``pos_weight=19`` makes each positive count 19 times in
# training; or train as usual and lower the threshold. The weight multiplies the odds :math:`p/(1-p)` by 19. The score
# :math:`z` is the logarithm of the odds, so the threshold on :math:`z` that matches moves from 0 to :math:`-\log 19`. Try both on two
# overlapping clouds.


def clouds(spread):
    """Return 10,000 points and a one for the bias; a twentieth is positive."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(10_000, generator=generator) < 0.05
    points = torch.randn(10_000, 2, generator=generator)
    points[y] = points[y] * torch.tensor(spread) + 1.0
    return torch.cat([points, torch.ones(10_000, 1)], dim=1), y


def fit(points, y, weight):
    """Return the weights of the best straight border, its bias last."""
    theta = torch.zeros(points.shape[1], requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=0.3, momentum=0.9)
    weight = torch.tensor(weight)
    for _ in range(500):
        z = points @ theta
        loss = F.binary_cross_entropy_with_logits(z, y.float(), pos_weight=weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return theta.detach()


# %%
# First the positives spread like the negatives; then wide in one direction and hardly at all in the other.

spreads = {"alike": (1.0, 1.0), "unlike": (3.0, 0.5)}
low = -math.log(19)
borders, found = {}, {}
for kind, spread in spreads.items():
    points, y = clouds(spread)
    plain, weighted = fit(points, y, 1.0), fit(points, y, 19.0)
    borders[kind] = [("moved", plain, low), ("weighted", weighted, 0)]
    print(f"spread {kind}, {y.float().mean():.0%} positive")
    for name, theta, threshold in [("plain", plain, 0), *borders[kind]]:
        z = points @ theta
        called = (z > threshold).float()
        right = (called == y).float().mean()
        hits, alarms = called[y].mean(), called[~y].mean()
        found[kind, name] = hits, alarms
        print(f"  {name:<8}  right {right:3.0%}  found {hits:3.0%}", end="  ")
        print(f"false alarms {alarms:3.0%}  mean p {z.sigmoid().mean():.2f}")

# %%

# fold: both clouds with their borders
fig, axes = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(6.4, 3.2))
for ax, kind in zip(axes, spreads):
    points, y = clouds(spreads[kind])
    ax.scatter(points[~y][:1900, 0], points[~y][:1900, 1], s=3, color="0.75")
    ax.scatter(points[y][:100, 0], points[y][:100, 1], s=12, marker="x", color="C3")
    for name, theta, threshold in borders[kind]:
        w1, w2, b = theta.tolist()
        style = "-" if name == "moved" else "--"
        start = (0, (threshold - b) / w2)
        ax.axline(start, slope=-w1 / w2, color="black", linestyle=style, label=name)
    ax.set(title=f"spread {kind}", xlim=(-4, 6), ylim=(-3.5, 4.5))
axes[1].legend(loc="lower right")

# %%
# .. caption:: Left, both remedies draw one border. Right, the weight *turns* it, because the positives (crosses) lie along a band; the
#       threshold can only shift it.
#    :alt: Two scatter plots of grey points and crosses. Left, the crosses form a round cloud; a solid and a dashed line coincide. Right,
#       they form a flat band; the dashed line runs along it, the solid one is steeper.
#
# With equal spread both give the same border, and the threshold needs no second training. With unequal spread one straight border cannot
# suit everybody, and the weight says whom to suit: it finds more, at no more false alarms. Its price stands in the last column: the
# probabilities of the weighted model are too high. And plain, the model that is *right* most often, finds the fewest.

assert abs(found["alike", "moved"][0] - found["alike", "weighted"][0]) < 0.02
assert found["unlike", "weighted"][0] > found["unlike", "moved"][0] + 0.05
assert found["unlike", "weighted"][1] < found["unlike", "moved"][1] + 0.005

# %%
# .. admonition:: From practice
#
#    Move the threshold first; it is free. If that finds too few, try the weight, and compare both **at the same share of false alarms**.
#
# What does the message want?
# ---------------------------
#
# Four wrong calls and their fixes. ``words`` are two sentences of seven words, with scores for five classes; ``.mT`` swaps the last two
# axes.

generator = torch.Generator().manual_seed(0)
logits, labels = torch.randn(4, 3, generator=generator), torch.tensor([0, 2, 1, 1])
words = torch.randn(2, 7, 5, generator=generator)
tags = torch.randint(5, (2, 7), generator=generator)
p = torch.tensor([0.1, 0.6, 0.9])
cross, binary = F.cross_entropy, F.binary_cross_entropy
calls = [
    ("float labels", cross, (logits, labels.float()), (logits, labels)),
    ("labels 1 to K", cross, (logits, labels + 1), (logits, labels)),
    ("classes last", cross, (words, tags), (words.mT, tags)),
    ("logits to BCE", binary, (3 * p, p), ((3 * p).sigmoid(), p)),
]
for mistake, loss, wrong, right in calls:
    try:
        loss(*wrong)
    except (RuntimeError, IndexError) as error:
        print(f"{mistake}: {error}")
    else:
        raise AssertionError(mistake)
    assert loss(*right).isfinite()

# %%
# "Classes last" is the treacherous one: :func:`torch.nn.functional.cross_entropy` wants the classes at position 1, also for sequences and
# images. When a sentence has as many words as there are classes, both orders fit, and nothing is raised. Logits given
# to BCE raise only when one of them lies outside 0 to 1.
#
# Which loss for which task?
# --------------------------
#
# One class of K is a whole number (int64); yes or no, several labels and numbers are floating. No output has passed a softmax or a
# sigmoid; the loss does that.
#
# .. csv-table::
#    :header: task, loss, output, target
#
#    number, MSELoss, "(N,)", "(N,) float"
#    with outliers, HuberLoss, "(N,)", "(N,) float"
#    count, PoissonNLLLoss, "(N,)", "(N,) float"
#    one of K, CrossEntropyLoss, "(N,K)", "(N,) int64"
#    yes or no, BCEWithLogitsLoss, "(N,)", "(N,) float"
#    several labels, BCEWithLogitsLoss, "(N,K)", "(N,K) float"
#    class per word, CrossEntropyLoss, "(N,K,L)", "(N,L) int64"
#    class per pixel, CrossEntropyLoss, "(N,K,H,W)", "(N,H,W) int64"
#
# The loss for counts takes the output as the logarithm of the expected count. Two more names: *label smoothing* gives a little of the
# target's probability to every class, and the *Kullback-Leibler* divergence measures how far one distribution is from another. Once
# more by hand and from the library:

# fold: squared, absolute, Huber, label smoothing, Kullback-Leibler
log_p, soft = logits.log_softmax(dim=1), 0.9 * F.one_hot(labels, 3) + 0.1 / 3
smooth = -(soft * log_p).sum(dim=1).mean()
kl = smooth + (soft * soft.log()).sum(dim=1).mean()
a, b = words
e = a - b
curve = torch.where(e.abs() <= 1, e**2 / 2, e.abs() - 1 / 2)
for name, mine, library in [
    ("mse_loss", (e**2).mean(), F.mse_loss(a, b)),
    ("l1_loss", e.abs().mean(), F.l1_loss(a, b)),
    ("huber_loss", curve.mean(), F.huber_loss(a, b)),
    ("label_smoothing", smooth, cross(logits, labels, label_smoothing=0.1)),
    ("kl_div", kl, F.kl_div(log_p, soft, reduction="batchmean")),
]:
    print(f"{name:<15} by hand {mine:.4f}  library {library:.4f}")
    torch.testing.assert_close(mine, library)

# %%
# Take this with you
# ------------------
#
# Give losses raw scores, one class of K as int64, all other targets (yes or no as well) as float in the shape of the output. While all
# scores are near 0, :math:`K` classes cost about :math:`\log K`; a first loss far from it is a hint.

scores, classes = torch.zeros(8, 10), torch.arange(8)
print(f"one of ten   {F.cross_entropy(scores, classes):.3f}")

score, answer = torch.zeros(8), torch.ones(8)
print(f"yes or no    {F.binary_cross_entropy_with_logits(score, answer):.3f}")

prediction, value = torch.zeros(8), torch.ones(8)
assert prediction.shape == value.shape  # (8, 1) against (8) would broadcast
print(f"a number     {F.mse_loss(prediction, value):.3f}")

# %%
# Change something
# ----------------
#
# * Replace the 100 days by 1000, and let the grid reach 1000 in 100,001 points. Which of the three answers move?
# * In ``train``, add a fourth class that never occurs: ``torch.zeros(5, 4, requires_grad=True)``. From the formula, below which number can
#   the loss of the doubled softmax not fall?
# * In ``clouds``, let the border bend: put ``points**2`` before ``points`` in the list. Leave out the figure. What does the weight gain?
#
# .. dropdown:: What happens
#
#    * Only the mean, to 205.20. The median cares for order alone, and Huber's pull was at its limit already.
#    * :math:`\log(1 + 3/e) = 0.744`. After 300 steps it sees 0.81. The more classes, the higher the floor.
#    * Nothing: with unequal spread both find 85 to 86 % at 22 % false alarms, and the assert objects. A border that suits everybody leaves
#      no choice.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the best promise
#
#    A guess that is too low by one costs 9, a guess that is too high by one costs 1. The truth is one of the numbers 0 to 1000, all equally
#    likely. Which guess is the cheapest? Think of the pulls: a number
#    above your guess pulls nine times as hard as one below.

### BEGIN SOLUTION
guess = 900
### END SOLUTION

numbers = torch.arange(1001)
errors = numbers[:, None] - numbers
cheapest = torch.where(errors < 0, -9 * errors, errors).sum(dim=1).argmin()
expect(guess, cheapest.item())

# %%
# .. exercise:: Fix a mean over padding
#
#    ``mask`` is 1 at real words and 0 at padding. A colleague multiplies the loss of every word by ``mask`` and calls ``mean()``: the more
#    padding, the smaller his loss. Return the mean over the real words. ``logits`` has the shape (N, L, K), the others (N, L).


def masked_loss(logits, tags, mask):
    ### BEGIN SOLUTION
    each = F.cross_entropy(logits.mT, tags, reduction="none")
    return (each * mask).sum() / mask.sum()
    ### END SOLUTION


logits = torch.randn(2, 5, 5, generator=generator)
tags = torch.tensor([[1, 4, 0, 0, 0], [2, 4, 3, 1, 0]])
mask = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
real = mask.flatten() == 1
expect(
    lambda: masked_loss(logits, tags, mask),
    F.cross_entropy(logits.flatten(0, 1)[real], tags.flatten()[real]),
)

# %%
# .. exercise:: Write the way back through cross-entropy
#
#    Return the gradient of the *mean* cross-entropy with respect to the scores ``z``, of shape (N, K), without autograd. Differentiate
#    :math:`\log \sum_k e^{z_k} - z_t` on paper first.


def cross_entropy_back(z, t):
    ### BEGIN SOLUTION
    return (z.softmax(dim=1) - F.one_hot(t, z.shape[1])) / len(z)
    ### END SOLUTION


z = torch.randn(5, 3, generator=generator, requires_grad=True)
t = torch.tensor([0, 2, 2, 1, 0])
F.cross_entropy(z, t).backward()
expect(lambda: cross_entropy_back(z.detach(), t), z.grad)
