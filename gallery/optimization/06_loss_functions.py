r"""
Loss functions
==============

Write the common losses by hand, choose one by what its errors cost, and recognise the mistakes that a loss accepts in silence.

.. lesson::
   :needs: optimization/02_sigmoid_by_hand optimization/04_gradient_descent
   :data: scikit-learn's iris, and generated points
"""

# %%
# What is the best single guess?
# ------------------------------
#
# Five parcels took 5, 6, 7, 8 and 100 days. Which one number describes them best? Try ten thousand, and keep the one with the smallest
# mean :term:`loss`.

import torch
from torch import nn

days = torch.tensor([5.0, 6, 7, 8, 100], dtype=torch.float64)
guesses = torch.linspace(0, 100, 10_001, dtype=torch.float64)[:, None]
losses = {
    "squared": nn.MSELoss(reduction="none"),
    "absolute": nn.L1Loss(reduction="none"),
    "Huber": nn.HuberLoss(reduction="none", delta=5),
}
best = {}
for name, loss in losses.items():
    cost = loss(*torch.broadcast_tensors(guesses, days)).mean(dim=1)
    best[name] = guesses[cost.argmin()].item()
    print(f"{name:<9} {best[name]:.2f}")
assert abs(best["squared"] - days.mean()) < 1e-6 and abs(best["absolute"] - days.median()) < 1e-6

# %%
# One data set, three answers, all correct. The squared error asks for the **mean**, the absolute error for the **median**. A loss is not a
# technicality that follows the model. It is the question.
#
# What does an error cost?
# ------------------------
#
# For an error :math:`e = \hat y - y`, the three are
#
# .. math:: e^2, \qquad |e|, \qquad
#    h_\delta(e) = \begin{cases} \tfrac12 e^2 & |e| \le \delta \\ \delta\,(|e| - \tfrac12 \delta) & \text{otherwise} \end{cases}
#
# and the library calls them :class:`torch.nn.MSELoss`, :class:`torch.nn.L1Loss` and :class:`torch.nn.HuberLoss`.
# :class:`torch.nn.SmoothL1Loss` is Huber's loss divided by :math:`\delta`.

from torch.nn import functional as F


def huber(e, delta):
    """Return Huber's loss of each error: a parabola in the middle, straight outside."""
    return torch.where(e.abs() <= delta, e**2 / 2, delta * (e.abs() - delta / 2))


torch.manual_seed(0)
guess, truth = torch.randn(2, 100, dtype=torch.float64) * 3
e = guess - truth
torch.testing.assert_close((e**2).mean(), F.mse_loss(guess, truth))
torch.testing.assert_close(e.abs().mean(), F.l1_loss(guess, truth))
for delta in (0.5, 1.0, 2.0):
    torch.testing.assert_close(huber(e, delta).mean(), F.huber_loss(guess, truth, delta=delta))
    torch.testing.assert_close(huber(e, delta).mean() / delta, F.smooth_l1_loss(guess, truth, beta=delta))

# %%
# What decides is the *slope*, because that is how hard one sample pulls at the weights.

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
e = torch.linspace(-3, 3, 301, requires_grad=True)
fig, (left, right) = plt.subplots(1, 2)
for name, cost in {"squared": e**2, "absolute": e.abs(), "Huber": huber(e, 1.0)}.items():
    pull = torch.autograd.grad(cost.sum(), e)[0]
    left.plot(e.detach(), cost.detach())
    right.plot(e.detach(), pull, label=name)
left.set(xlabel="error", ylabel="cost", ylim=(0, 6))
right.set(xlabel="error", ylabel="slope")
right.legend()

# %%
# .. caption:: Left, what an error costs. Right, how hard it pulls: ever harder for the squared error, always alike for the absolute one,
#       at most 1 for Huber's.
#    :alt: Two pictures. On the left, a steep parabola, a V, and a curve that is round at the bottom and straight outside. On the right,
#       their slopes: a straight rising line, a step from minus one to one, and a line that rises through zero between minus one and one.
#
# At the best guess the pulls cancel. That is how one parcel of 100 days drags the mean to 25: its pull is as large as its distance. Huber's
# loss stops it at :math:`\delta`, here 5.

pulls = torch.stack([guess - days for guess in (best["squared"], best["Huber"])])
print("squared", [round(pull, 2) for pull in pulls[0].tolist()])
print("Huber  ", [round(pull, 2) for pull in pulls[1].clamp(-5, 5).tolist()])
assert abs(pulls[0].sum()) < 1e-6 and abs(pulls[1].clamp(-5, 5).sum()) < 1e-6

# %%
# ``reduction`` says what becomes of the losses of a :term:`batch`: ``"none"`` keeps them, ``"mean"`` is the default, and ``"sum"`` makes
# every gradient grow with the batch, so the :term:`learning rate` that suited 32 samples is twice too high for 64.

w = torch.ones((), requires_grad=True, dtype=torch.float64)
by_mean = torch.autograd.grad(F.mse_loss(w * guess, truth, reduction="mean"), w)[0]
by_sum = torch.autograd.grad(F.mse_loss(w * guess, truth, reduction="sum"), w)[0]
torch.testing.assert_close(by_sum, len(guess) * by_mean)

# %%
# What does a wrong class cost?
# -----------------------------
#
# You would like to count mistakes. But a count is flat: no slope, no learning. So every loss of a :term:`classification` is a stand-in. For
# two classes :math:`y = \pm 1` and a score :math:`z`, all of them look at the **margin** :math:`yz`, which is positive where the answer is
# right.

margin = torch.linspace(-3, 3, 301)
stand_ins = {
    "squared": (1 - margin) ** 2,
    "hinge": (1 - margin).clamp(min=0),
    "logistic": (1 + (-margin).exp()).log(),
    "mistakes": (margin < 0).float(),
}
fig, ax = plt.subplots()
places = ((1.7, 2.6), (-2.25, 3.45), (-2.95, 2.1), (-2.95, 0.65))
for (name, cost), place, color in zip(stand_ins.items(), places, ("C0", "C1", "C2", "0.5")):
    ax.plot(margin, cost, color=color)
    ax.text(*place, name)
ax.set(xlabel="margin", ylabel="cost", ylim=(-0.1, 5))

# %%
# .. caption:: The squared error punishes answers that are right and sure. Hinge stops caring at a margin of 1. Logistic never quite stops.
#    :alt: Four curves over the margin from -3 to 3. The count of mistakes is a step from one to zero at margin zero. Hinge falls in a
#       straight line to zero at margin one. Logistic falls smoothly towards zero. Squared is a parabola with its lowest point at one,
#       rising again.

target, ones = torch.ones(301), torch.ones(301, dtype=torch.long)
torch.testing.assert_close(stand_ins["logistic"].mean(), F.soft_margin_loss(margin, target))
torch.testing.assert_close(stand_ins["logistic"].mean(), F.binary_cross_entropy_with_logits(margin, target))
torch.testing.assert_close(stand_ins["squared"].mean(), F.mse_loss(margin, target))
two_scores = torch.stack([torch.zeros(301), margin], dim=1)
torch.testing.assert_close(stand_ins["hinge"].mean() / 2, F.multi_margin_loss(two_scores, ones))  # divides by K

# %%
# Can I compute cross-entropy myself?
# -----------------------------------
#
# For :math:`K` classes the logistic loss becomes the :term:`cross-entropy`: minus the logarithm of the probability that :term:`softmax`
# gives to the true class :math:`t`. Written out, the exponential of the true class cancels:
#
# .. math:: L = -\log \frac{e^{z_t}}{\sum_k e^{z_k}} = \log \sum_k e^{z_k} - z_t
#
# The right-hand form also survives large scores. Subtract the largest before taking exponentials, and add it again: that is
# :func:`torch.logsumexp`.


def cross_entropy(z, t):
    """Return the loss of each row of scores z with true class t."""
    top = z.max(dim=1, keepdim=True).values
    log_sum = top[:, 0] + (z - top).exp().sum(dim=1).log()
    return log_sum - z.gather(1, t[:, None])[:, 0]


# %%
# One row that you can check with a pocket calculator, one that overflows:

z, t = torch.tensor([[2.0, 1.0, 0.0], [1000.0, 0.0, 0.0]]), torch.tensor([0, 1])
probability = z.exp() / z.exp().sum(dim=1, keepdim=True)
print("scores 2, 1, 0 become", [round(p, 4) for p in probability[0].tolist()])
print("left form ", [round(value, 4) for value in (-probability[[0, 1], t].log()).tolist()])
print("right form", [round(value, 4) for value in cross_entropy(z, t).tolist()])
torch.testing.assert_close(cross_entropy(z, t), F.cross_entropy(z, t, reduction="none"))
torch.testing.assert_close(z.logsumexp(dim=1) - z[[0, 1], t], cross_entropy(z, t))

# %%
# The library splits the formula in two: :func:`torch.nn.functional.log_softmax`, then :class:`torch.nn.NLLLoss`, which only picks and
# negates. It takes *log*-probabilities and cannot tell when it gets something else.

z, t = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
torch.testing.assert_close(F.nll_loss(z.log_softmax(dim=1), t), F.cross_entropy(z, t))
print(f"right {F.cross_entropy(z, t):.4f}  probabilities into NLLLoss {F.nll_loss(z.softmax(dim=1), t):.4f}")
assert F.nll_loss(z.softmax(dim=1), t) < 0  # minus a probability: a loss below zero is the symptom

# %%
# Why does my loss stop at 0.55?
# ------------------------------
#
# Because there is a softmax at the end of the model, and :class:`torch.nn.CrossEntropyLoss` has one of its own. The second one sees
# probabilities, that is scores between 0 and 1. Its best case is :math:`(1, 0, \dots, 0)`, and even that costs
#
# .. math:: \log\left(e^1 + (K-1)\,e^0\right) - 1 = \log\left(1 + \frac{K-1}{e}\right)

import math

certain = torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64)
floor = math.log(1 + 2 / math.e)
print(f"sure and right: once {F.cross_entropy(certain, t):.4f}, twice {F.cross_entropy(certain.softmax(1), t):.4f}")
assert abs(F.cross_entropy(certain.softmax(dim=1), t) - floor) < 1e-6 and f"{floor:.4f}" == "0.5514"

z = certain.roll(1, dims=1).requires_grad_()  # sure and wrong
once = torch.autograd.grad(F.cross_entropy(z, t), z)[0]
twice = torch.autograd.grad(F.cross_entropy(z.softmax(dim=1), t), z)[0]
print(f"sure and wrong: pull once {once.abs().max():.1f}, twice {twice.abs().max():.0e}")
assert once.abs().max() > 0.99 and twice.abs().max() < 1e-8

# %%
# The second number is the worse news: the model that is sure and wrong gets no gradient, exactly where it needs one. Train both on iris,
# and judge them by the same true cross-entropy.

from pytorch_course.datasets.bundled import iris


def train(twice):
    """Train a linear model; return per step the loss that it sees and the true cross-entropy."""
    model, record = nn.Linear(4, 3), []
    for p in model.parameters():
        nn.init.zeros_(p)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(300):
        logits = model(x)
        loss = F.cross_entropy(logits.softmax(dim=1) if twice else logits, species)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.append((loss.item(), F.cross_entropy(logits.detach(), species).item()))
    return torch.tensor(record)


# %%
# Nothing else differs: same start, same rate, same data.

x, species = iris().tensors
x = (x - x.mean(dim=0)) / x.std(dim=0)
once, twice = train(twice=False), train(twice=True)
fig, ax = plt.subplots()
ax.semilogy(once[:, 1])
ax.semilogy(twice[:, 1])
ax.semilogy(twice[:, 0], "--", color="C1")
ax.axhline(floor, color="0.6", linestyle=":", linewidth=1)
for name, place in {"softmax once": (30, 0.11), "softmax twice": (120, 0.19), "twice, as seen": (200, 0.7)}.items():
    ax.text(*place, name)
ax.set(xlabel="step", ylabel="loss")

# %%
# .. caption:: The doubled softmax still learns, only later, and the loss you would be watching (dashed) cannot fall below the dotted floor.
#    :alt: Three falling curves on a logarithmic axis. Softmax once falls fastest. Softmax twice follows above it. The dashed loss that the
#       doubled model sees flattens out just above a dotted line.

reached = [int((record[:, 1] < 0.2).nonzero()[0]) for record in (once, twice)]
print("steps to a true loss of 0.2:", reached)
assert reached[1] > 1.5 * reached[0] and twice[:, 0].min() > floor and once[-1, 0] < floor / 4

# %%
# Nothing fails; only the number gives it away. Give the loss :term:`logits`.
#
# Sigmoid, then BCE?
# ------------------
#
# With two classes one score is enough, and the **binary cross-entropy** of :math:`p = \sigma(z)` is
# :math:`-y \log p - (1-y) \log(1-p)`. :class:`torch.nn.BCELoss` takes :math:`p`, :class:`torch.nn.BCEWithLogitsLoss` takes :math:`z`. They
# agree while there is room between :math:`p` and 1.

z, y = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, 0.0])
p = z.sigmoid()
by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
stable = (z.clamp(min=0) - z * y + (-z.abs()).exp().log1p()).mean()
torch.testing.assert_close(F.binary_cross_entropy(p, y), by_hand)
torch.testing.assert_close(F.binary_cross_entropy_with_logits(z, y), stable)
torch.testing.assert_close(by_hand, stable)
zero_and_z = torch.stack([torch.zeros(3), z], dim=1)  # the same as two classes with scores 0 and z
torch.testing.assert_close(F.cross_entropy(zero_and_z, y.long()), stable)

# %%
# Now a score of 20 for the wrong side, which should cost 20:

z, y = torch.tensor(20.0, requires_grad=True), torch.tensor(0.0)
for loss in (F.binary_cross_entropy(z.sigmoid(), y), F.binary_cross_entropy_with_logits(z, y)):
    print(f"loss {loss.item():.0f}  gradient {torch.autograd.grad(loss, z)[0].abs().item():.0f}")
assert z.sigmoid() == 1 and F.binary_cross_entropy(z.sigmoid(), y) == 100
assert F.binary_cross_entropy_with_logits(z, y) == 20

# %%
# ``float32`` rounds :math:`\sigma(20)` to 1. The logarithm of :math:`1 - p` would be minus infinity, and :class:`torch.nn.BCELoss` cuts it
# off at -100. So the loss is wrong by a factor of five, and the gradient is gone. The stable form,
# :math:`\max(z, 0) - zy + \log(1 + e^{-|z|})`, is never in that position.
#
# What does a class weight do?
# ----------------------------
#
# One positive among twenty, and the model finds almost none of them. ``pos_weight`` multiplies the positive half of the loss, ``weight`` in
# :class:`torch.nn.CrossEntropyLoss` that of each class. One divides by the number of samples, the other by the *sum of the weights*:

logits, y = torch.randn(6, 2), torch.tensor([0, 0, 0, 0, 1, 1])
weight = torch.tensor([1.0, 19.0])
each = F.cross_entropy(logits, y, reduction="none") * weight[y]
torch.testing.assert_close(F.cross_entropy(logits, y, weight=weight), each.sum() / weight[y].sum())
z = logits[:, 1] - logits[:, 0]  # what a single score would be
torch.testing.assert_close(F.binary_cross_entropy_with_logits(z, y.float(), pos_weight=weight[1]), each.mean())

alone = slice(4, 6)  # a batch that has positives only
plain = F.cross_entropy(logits[alone], y[alone])
torch.testing.assert_close(F.cross_entropy(logits[alone], y[alone], weight=weight), plain)

# %%
# The last line surprises: in a batch of one class, class weights do nothing at all. Now the effect, measured on 4,000 points in
# two overlapping clouds.

y = (torch.rand(4000) < 0.05).double()
points = torch.randn(4000, 2, dtype=torch.float64) + y[:, None]


def fit(pos_weight):
    """Fit a straight border and return the score of each point."""
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=100)
    weight = torch.tensor(pos_weight, dtype=torch.float64)

    def loss():
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(points @ theta[:2] + theta[2], y, pos_weight=weight)
        value.backward()
        return value

    optimizer.step(loss)
    return (points @ theta[:2] + theta[2]).detach()


# %%
# The third row has no weight. It counts everything above a lower threshold, :math:`-\log 19`, as positive.

plain, weighted = fit(1.0), fit(19.0)
found = {"plain": plain > 0, "pos_weight 19": weighted > 0, "plain, threshold moved": plain > -math.log(19)}
rates = {}
for name, positive in found.items():
    correct = (positive == y.bool()).double().mean()
    rates[name] = [positive[y == k].double().mean().item() for k in (1, 0)]
    print(f"{name:<23} accuracy {correct:.2f}  found {rates[name][0]:.2f}  false alarms {rates[name][1]:.2f}")
same = (found["pos_weight 19"] == found["plain, threshold moved"]).double().mean().item()
print(f"the last two agree on {same:.0%} of the points")
assert rates["plain"][0] < 0.25 and rates["pos_weight 19"][0] > 0.6
honest, shifted = plain.sigmoid().mean(), weighted.sigmoid().mean()
print(f"share {y.mean():.2f}  mean probability: plain {honest:.2f}, weighted {shifted:.2f}")
assert same > 0.95 and abs((weighted - plain).mean() - math.log(19)) < 0.2
assert abs(honest - y.mean()) < 0.005 and shifted > 5 * y.mean()

# %%
# A weight of :math:`w` multiplies the odds that the model learns by :math:`w`, so it moves the border and creates no knowledge: it trades
# false alarms for finds. You can make the same trade after training, for nothing, by moving the threshold. The weight has its price, too:
# the scores stop being honest probabilities, as the last line shows.
#
# .. admonition:: From practice
#
#    Before you weight a loss, move the threshold. In the run above the two gave the same answers on nearly every point, and one of them did
#    not need a second training.
#
# What else can cross-entropy take?
# ---------------------------------
#
# A whole distribution as target. **Label smoothing** is that: the true class gets :math:`1 - \varepsilon`, and :math:`\varepsilon` is
# spread over all. ``ignore_index`` leaves samples out, of the mean as well. And the **Kullback-Leibler divergence** is cross-entropy
# minus what the target itself cannot avoid.

logits, y = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
soft = 0.9 * F.one_hot(y, 3) + 0.1 / 3
by_hand = -(soft * logits.log_softmax(dim=1)).sum(dim=1).mean()
torch.testing.assert_close(F.cross_entropy(logits, y, label_smoothing=0.1), by_hand)
torch.testing.assert_close(F.cross_entropy(logits, soft), by_hand)

entropy = -(soft * soft.log()).sum(dim=1).mean()
torch.testing.assert_close(F.kl_div(logits.log_softmax(dim=1), soft, reduction="batchmean"), by_hand - entropy)

padded = torch.tensor([0, 2, -100, -100])  # -100 is the default of ignore_index
torch.testing.assert_close(F.cross_entropy(logits, padded), F.cross_entropy(logits[:2], y[:2]))

# %%
# Two traps. A batch with nothing but padding has the loss 0/0. And the default of :class:`torch.nn.KLDivLoss` divides by the number of
# *elements*; ask for ``"batchmean"``.

import warnings

print("all ignored:", F.cross_entropy(logits, torch.full((4,), -100)).item())
assert F.cross_entropy(logits, torch.full((4,), -100)).isnan()

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    by_default = F.kl_div(logits.log_softmax(dim=1), soft)
print(caught[0].category.__name__, "-", str(caught[0].message).split(".")[0])
torch.testing.assert_close(by_default, (by_hand - entropy) / 3)

# %%
# The rest in one cell, by hand and from the library: the hinge for K classes, two losses for :term:`embeddings <embedding>` (pairs that
# should be alike or not; an anchor that should be nearer to its like than to a stranger), one for counts, one for numbers with an
# uncertainty.

a, b, c = torch.randn(3, 4, 5)
cosine, spread = F.cosine_similarity(a, b), c.exp()
hinges = (1 - logits.gather(1, y[:, None]) + logits).clamp(min=0).sum(dim=1) - 1  # without the true class itself
near, distant = (torch.linalg.vector_norm(a - other + 1e-6, dim=1) for other in (b, c))
pairs = {
    "MultiMargin": (hinges.mean() / 3, F.multi_margin_loss(logits, y)),
    "CosineEmbedding, alike": ((1 - cosine).mean(), F.cosine_embedding_loss(a, b, torch.ones(4))),
    "CosineEmbedding, unlike": (cosine.clamp(min=0).mean(), F.cosine_embedding_loss(a, b, -torch.ones(4))),
    "TripletMargin": ((near - distant + 1).clamp(min=0).mean(), F.triplet_margin_loss(a, b, c)),
    "PoissonNLL": ((a.exp() - b.exp() * a).mean(), F.poisson_nll_loss(a, b.exp())),
    "GaussianNLL": ((spread.log() + (a - b) ** 2 / spread).mean() / 2, F.gaussian_nll_loss(a, b, spread)),
}
for name, (mine, library) in pairs.items():
    torch.testing.assert_close(mine, library)

# %%
# What does the message want?
# ---------------------------
#
# Six wrong calls, each with its mend. The words are two sentences of seven words, with scores for five classes.

words, tags = torch.randn(2, 7, 5), torch.randint(5, (2, 7))
p = torch.tensor([0.1, 0.6, 0.9])
calls = {
    "float labels": (lambda: F.cross_entropy(logits, y.float()), lambda: F.cross_entropy(logits, y)),
    "int32 labels": (lambda: F.cross_entropy(logits, y.int()), lambda: F.cross_entropy(logits, y.long())),
    "labels from 1": (lambda: F.cross_entropy(logits, y + 1), lambda: F.cross_entropy(logits, y)),
    "classes last": (lambda: F.cross_entropy(words, tags), lambda: F.cross_entropy(words.mT, tags)),
    "whole numbers": (lambda: F.binary_cross_entropy(p, p.long()), lambda: F.binary_cross_entropy(p, p.round())),
    "logits": (lambda: F.binary_cross_entropy(3 * p, p), lambda: F.binary_cross_entropy_with_logits(3 * p, p)),
}

# %%
# Read the left column, predict the message, then look.

for mistake, (wrong, right) in calls.items():
    try:
        wrong()
    except (RuntimeError, IndexError) as error:
        print(f"{mistake:<14} {type(error).__name__}: {error}")
    else:
        raise AssertionError(f"{mistake} went through")
    assert right().isfinite()

# %%
# "Classes last" is the treacherous one. :func:`torch.nn.functional.cross_entropy` wants the classes at position 1, also for sequences and
# images. When a sentence has as many words as there are classes, both orders fit, and the wrong one is silent.

words, tags = torch.randn(2, 5, 5), torch.randint(5, (2, 5))
torch.testing.assert_close(F.cross_entropy(words.mT, tags), F.cross_entropy(words.flatten(0, 1), tags.flatten()))
print(f"classes at position 1: {F.cross_entropy(words.mT, tags):.3f}  classes last: {F.cross_entropy(words, tags):.3f}")
assert not F.cross_entropy(words, tags).isclose(F.cross_entropy(words.mT, tags), rtol=0.01)

# %%
# The other silent mistake, (N, 1) against (N) in :class:`torch.nn.MSELoss`, has its place in :doc:`/lessons/tensors/08_broadcasting`.
#
# Which loss for which task?
# --------------------------

tasks = {
    "a number": (nn.MSELoss(), torch.randn(8), torch.rand(8)),
    "a number, outliers": (nn.HuberLoss(), torch.randn(8), torch.rand(8)),
    "a count": (nn.PoissonNLLLoss(), torch.randn(8), torch.arange(8.0)),
    "one of K classes": (nn.CrossEntropyLoss(), torch.randn(8, 3), torch.randint(3, (8,))),
    "yes or no": (nn.BCEWithLogitsLoss(), torch.randn(8), torch.rand(8).round()),
    "several labels": (nn.BCEWithLogitsLoss(), torch.randn(8, 4), torch.rand(8, 4).round()),
    "a class per word": (nn.CrossEntropyLoss(), torch.randn(8, 5, 7), torch.randint(5, (8, 7))),
    "a class per pixel": (nn.CrossEntropyLoss(), torch.randn(8, 5, 6, 6), torch.randint(5, (8, 6, 6))),
}
print(f"{'task':<19} {'loss':<18} {'output':<13} {'target':<10} its dtype")
for task, (loss, output, wanted) in tasks.items():
    assert loss(output, wanted).isfinite()
    shapes = f"{tuple(output.shape)!s:<13} {tuple(wanted.shape)!s:<10} {str(wanted.dtype).removeprefix('torch.')}"
    print(f"{task:<19} {type(loss).__name__:<18} {shapes}")

# %%
# Classes are whole numbers, all other targets are floating. And no output has passed a softmax or a sigmoid: the loss does that.
#
# Change something
# ----------------
#
# * Replace the 100 days by 1000, and let the grid reach 1000 in 100,001 points. Which of the three best guesses move?
# * Give ``train`` a fourth class that never occurs: ``nn.Linear(4, 4)``. Predict from the formula how far above the dotted line the dashed
#   curve must stay.
# * After the two fits, print ``(fit(100.0)[y == 1] > 0).double().mean()``. Which threshold for ``plain`` finds as many?
#
# Exercises
# ---------
#
# 1. Which single guess minimises ``torch.where(e < 0, 9 * -e, e)``, where a guess too low costs nine times as much? Find it for
#    ``torch.arange(1000.0)``.
# 2. Show that the gradient of cross-entropy with respect to the logits is softmax minus :term:`one-hot`. Where does the factor
#    :math:`1/N` come from?
# 3. A colleague's loss is 2.303 and does not move. What does the number tell you about the task and the model?
#
# .. dropdown:: Answers
#
#    1. About 900, the 90th percentile: at the best guess the pulls cancel, so one sample in ten lies above it.
#    2. ``torch.autograd.grad`` against ``(logits.softmax(1) - F.one_hot(y, 3)) / len(y)``. The factor is that of ``reduction="mean"``.
#    3. It is :math:`\log 10`: ten classes, each given one tenth. The model guesses.
