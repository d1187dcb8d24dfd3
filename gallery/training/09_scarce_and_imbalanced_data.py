r"""
Few data, and one rare class
============================

Find a class that is two in a hundred, measure whether you do, and tell what techniques
give from what only more data gives.

.. lesson::
   :needs: optimization/06_loss_functions training/03_training_loop
      training/08_debugging
   :data: characters drawn from the fonts of Matplotlib
   :keywords: imbalanced data, class imbalance, skewed classes, pos_weight, class
      weights, WeightedRandomSampler, oversampling, SMOTE, average precision, precision
      recall curve, PR curve, AUPRC, threshold, calibration, small data set, model
      predicts only one class
   :thumbnail: 3
"""

# %%
# Why is 98 % useless?
# --------------------
#
# A machine stamps an 8 on every part. In two parts of a hundred the stamp is damaged, and the 8 comes out as a 3. You photograph the
# parts and want a program that finds the faulty ones. Here are 2,000 photographs, 40 of them faulty.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets import glyphs
from pytorch_course.plots import image_grid
from torch import nn
from torch.nn import functional as F
from torch.utils.data import WeightedRandomSampler

plt.style.use("pytorch_course.book")

# %%


def stamps(n, seed):
    """Return n images, scaled around 0, and labels: 1 for the faulty 2 %."""
    drawn = glyphs(2 * n + 200, classes="83", size=12, seed=seed, distortion=1.2)
    images, labels = drawn.tensors
    images = (images.float() / 255 - 0.2) / 0.3
    faulty = n // 50
    good, bad = images[labels == 0][: n - faulty], images[labels == 1][:faulty]
    return torch.cat([good, bad]), (torch.arange(n) >= n - faulty).float()


x, y = stamps(2000, seed=0)
answers = torch.zeros(2000)  # "fine", every time
accuracy = (answers == y).float().mean().item()
found = answers[y == 1].sum().item()
print(f"always 'fine': accuracy {accuracy:.2f}, faulty parts found {found:.0f} of 40")
assert accuracy > 0.97 and found == 0

# %%

picture = (0.3 * torch.cat([x[:6], x[-6:]]) + 0.2).clamp(0, 1)
fig = image_grid(picture, titles=["fine"] * 6 + ["faulty"] * 6, columns=12)

# %%
# .. caption:: Six good parts and six faulty ones.
#    :alt: A row of twelve small blurred grey images: six of the digit 8, labelled fine, then six of the digit 3, labelled faulty.
#
# A program that never looks at a picture is right 98 times in 100 and finds nothing. You may think that a trained network would not do
# that. Here is a small one, and a function that trains it. It draws 250 batches of 128 photographs; its options are the techniques of
# this page, and you meet them one by one. Without options it is the usual training.


def fit(x, y, seed, weight=1.0, balanced=False, vary_rare=False, vary_all=False):
    """Train a network: one number per image, positive for faulty. Return it frozen."""
    torch.manual_seed(seed)
    score = nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 1)
    model = nn.Sequential(nn.Flatten(), *score, nn.Flatten(0))
    loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(weight))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    chances = torch.where(y == 1, 49.0 if balanced else 1.0, 1.0)
    draws = list(WeightedRandomSampler(chances, num_samples=250 * 128))
    for batch in torch.tensor(draws).split(128):
        images, labels = x[batch], y[batch]
        if vary_rare or vary_all:
            chosen = (labels == 1) | vary_all
            images[chosen] = vary(images[chosen])
        loss = loss_fn(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


# %%
# Test it on 10,000 other photographs, 200 of them faulty. Five trainings, each with its own 2,000 photographs and its own start weights:

test_x, test_y = stamps(10_000, seed=100)
sets = [stamps(2000, seed) for seed in range(5)]
models = {"plain": []}
for seed in range(5):
    models["plain"].append(fit(*sets[seed], seed))
    said = models["plain"][seed](test_x) > 0
    accuracy = (said == (test_y == 1)).float().mean().item()
    found = said[test_y == 1].sum().item()
    print(f"seed {seed}: accuracy {accuracy:.3f}, found {found:3d} of 200")
    assert accuracy > 0.97 and found < 140

# %%
# The accuracy looks excellent each time, and most of the faulty parts slip through, in some trainings every single one. Accuracy
# counts answers, and 98 % of the answers are about good parts.
#
# What should I measure instead?
# ------------------------------
#
# Two questions that name the rare class. Of the faulty parts, which share did I find? That is the :term:`recall`. Of my alarms, which
# share was right? That is the :term:`precision`. With hits (faulty and reported), false alarms and misses:
#
# .. math:: \text{recall} = \frac{\text{hits}}{\text{hits} + \text{misses}} \qquad
#           \text{precision} = \frac{\text{hits}}{\text{hits} + \text{false alarms}}
#
# Both depend on where you put the **threshold**. The network gives a number, and "above 0", a probability above one half, is only a
# habit. Lower the threshold for the network of seed 0 and see:

scores = models["plain"][0](test_x)
recalls = []
for threshold in (0, -2, -4, -6):
    said = scores > threshold
    hits, alarms = test_y[said].sum().item(), said.sum().item()
    recalls.append(hits / 200)
    print(
        f"above {threshold:2d}: recall {hits / 200:.2f}, precision {hits / alarms:.2f}"
    )
assert recalls == sorted(recalls) and recalls[-1] > 0.8

# %%
# The same network, without another step of training, now finds most of the faulty parts, at the price of false alarms. It had ranked
# the parts well, but gave most of the faulty ones a number below 0.
#
# So measure the ranking by itself: sort all parts by score, the most suspicious first. At each faulty part on the way down, ask for
# the precision so far. The mean of these is the **average precision**. It is 1 if all faulty parts come first, and about the share
# of faulty parts, here 0.02, if the order is random.

from sklearn.metrics import average_precision_score, precision_recall_curve

hit = test_y[scores.argsort(descending=True)]
precision_so_far = hit.cumsum(0) / torch.arange(1, len(hit) + 1)
by_hand = precision_so_far[hit == 1].mean().item()
library = average_precision_score(test_y, scores)
shuffled = scores[torch.randperm(10_000, generator=torch.Generator().manual_seed(0))]
chance = average_precision_score(test_y, shuffled)
print(f"by hand {by_hand:.4f}, scikit-learn {library:.4f}, random order {chance:.4f}")
assert abs(by_hand - library) < 1e-3 and chance < 0.05

# %%

# fold: precision against recall
precision, recall, thresholds = precision_recall_curve(test_y, scores)
fig, ax = plt.subplots(figsize=(4.6, 3))
ax.plot(recall, precision)
for place, mark in ((0, "o"), (-4, "s")):
    at = (thresholds <= place).sum()
    ax.plot(recall[at], precision[at], mark, color="C1", label=f"above {place}")
ax.axhline(0.02, color="0.6", linestyle=":", label="random order")
ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.03))
ax.legend(loc="lower left")

# %%
# .. caption:: One network, every threshold. The average precision is the area under the curve. The marks are two thresholds of the
#    table.
#    :alt: A curve that starts at precision 1 and recall 0, stays high, and falls steeply at high recall. A circle marks the threshold 0
#       at low recall, a square the threshold -4 further right and lower. A dotted line near 0 shows a random order.
#
# What helps?
# -----------
#
# Four techniques, each with the five sets and start weights of above:
#
# * **weight**: in the loss, each faulty part counts 49 times (``pos_weight``), so that both classes weigh the same;
# * **sampler**: :class:`~torch.utils.data.WeightedRandomSampler` draws faulty parts 49 times as often, so that half of each batch is
#   faulty: the same 40 photographs over and over;
# * **varied, rare**: the sampler, and each faulty photograph is a little turned, moved and stretched, anew each time it is drawn;
# * **varied, all**: the same for good parts as well.
#
# Changing samples in ways that keep the label is :term:`augmentation`. This one moves the pixel grid by a random affine map:


def vary(images):
    """Turn, stretch and move each image a little, each in its own way."""
    maps = torch.eye(2, 3) + 0.08 * torch.randn(len(images), 2, 3)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


options = {
    "weight": {"weight": 49.0},
    "sampler": {"balanced": True},
    "varied, rare": {"balanced": True, "vary_rare": True},
    "varied, all": {"balanced": True, "vary_all": True},
}

# %%
# First the number that no threshold changes, the average precision, for each of the five seeds:

for name, option in options.items():
    models[name] = [fit(*sets[seed], seed, **option) for seed in range(5)]


def average_precision(model):
    return average_precision_score(test_y, model(test_x))


ranking = {}
for name, five in models.items():
    ranking[name] = [average_precision(model) for model in five]
    print(f"{name:13}", " ".join(f"{value:.2f}" for value in ranking[name]))

# %%

# fold: average precision of the five techniques
fig, ax = plt.subplots(figsize=(6, 2.4))
for row, (name, values) in enumerate(ranking.items()):
    ax.plot(values, [row] * 5, "o", color="C1" if "varied" in name else "C0", alpha=0.7)
    ax.plot(sum(values) / 5, row, "|", color="black", markersize=14)
ax.set(yticks=range(5), yticklabels=list(ranking), xlabel="average precision")
ax.set_ylim(4.5, -0.5)

# %%
# .. caption:: Five trainings per technique (dots) and their mean (bar). Weight and sampler rank about as the plain training does. With all
#    pictures varied, every training ranks better.
#    :alt: Five rows of five dots. The rows plain, weight and sampler overlap. The row varied, rare is spread widely, and varied, all lies
#       furthest right, close together.

from statistics import mean

assert abs(mean(ranking["weight"]) - mean(ranking["plain"])) < 0.06
assert mean(ranking["varied, all"]) > mean(ranking["plain"]) + 0.06

# %%
# Look at the spread within a row before you compare rows. The seeds of one technique differ by several hundredths, and plain, weight
# and sampler differ by about as much: with five seeds you cannot say which of the three ranks best. That makes sense. They show
# the network the same 40 faulty parts. Varied pictures add something: the knowledge that a turned 3 is still a 3. With only the rare
# ones varied, the gain is uneven: with seed 2 the result is worse than plain.
#
# Why is it better to vary the good parts, too? Moving a picture by a fraction of a pixel also blurs it. If only faulty parts are blurred,
# a network can learn that blurred means faulty. Vary the good parts of the test set, and see which share is reported as faulty:

torch.manual_seed(0)
blurred = vary(test_x[test_y == 0])
cries = {}
for name in ("sampler", "varied, rare", "varied, all"):
    cries[name] = [(net(blurred) > 0).float().mean().item() for net in models[name]]
    print(f"{name:13}", " ".join(f"{value:.3f}" for value in cries[name]))
assert mean(cries["varied, rare"]) > 1.5 * mean(cries["varied, all"])

# %%
# The networks of the middle row saw varied pictures only of faulty parts, and raise the most false alarms. So treat both classes alike.
#
# Or do I just move the threshold?
# --------------------------------
#
# What is a good threshold? That depends on what the mistakes cost. Let a missed part cost 20 and a false alarm 1. Choose the threshold
# that is cheapest on validation data, 2,000 further photographs with 40 faulty ones, then pay on the test set:


def cost(scores, labels, threshold):
    """Return the cost of misses and false alarms per 1,000 parts."""
    said = scores > threshold
    misses, alarms = (~said & (labels == 1)).sum(), (said & (labels == 0)).sum()
    return 1000 * (20 * misses + alarms).item() / len(labels)


validation_x, validation_y = stamps(2000, seed=200)
steps = torch.linspace(-10, 10, 201).tolist()
paid = {}
for name, five in models.items():
    paid[name] = {"half": [], "chosen": []}
    for model in five:
        seen, scores = model(validation_x), model(test_x)
        best = min(steps, key=lambda step: cost(seen, validation_y, step))
        paid[name]["half"].append(cost(scores, test_y, 0))
        paid[name]["chosen"].append(cost(scores, test_y, best))
    print(f"{name:13} above 0:", *(f"{c:3.0f}" for c in paid[name]["half"]), end="")
    print("   threshold chosen:", *(f"{c:3.0f}" for c in paid[name]["chosen"]))

# %%
# Never reporting anything costs 400 per 1,000 parts. At the threshold 0 the plain network is by far the worst, and this is
# the comparison that makes weights look like a cure. With a chosen threshold, which needs no training, plain comes close to weight and
# sampler; what is left is about as large as the spread between the seeds. Varying all pictures stays the cheapest. And a
# threshold chosen by 40 faulty photographs is a rough choice itself.

assert min(paid["plain"]["half"]) > 150 and mean(paid["plain"]["chosen"]) < 150
assert mean(paid["varied, all"]["chosen"]) < mean(paid["plain"]["chosen"]) - 20

# %%
# Is the number still a probability?
# ----------------------------------
#
# Not after weighting. Take the simplest model there is, one number for all parts, no picture. Without a weight it learns the share of
# faulty parts, 0.02, which is the best probability to state for a part that you have not seen. And with the weight?

p = torch.linspace(0.0005, 0.9995, 1999)  # the numbers to choose from
learnt = {}
for w in (1, 49):
    loss = -(w * 40 * p.log() + 1960 * (1 - p).log())  # 40 faulty, 1,960 good
    learnt[w] = p[loss.argmin()]
    print(f"weight {w:2d}: smallest loss at {learnt[w]:.3f}")
corrected = (learnt[49].logit() - torch.tensor(49.0).log()).sigmoid()
print(f"and after subtracting log 49 from its score: {corrected:.3f}")
assert abs(learnt[49] - 0.5) < 0.01 and abs(corrected - learnt[1]) < 0.002

# %%
# A weight :math:`w` multiplies the odds :math:`p/(1-p)` by :math:`w`, as if there were :math:`w` times as many faulty parts; that adds
# :math:`\log w` to the score, and you can subtract it again. A balanced sampler does the same. In real networks the correction is only
# rough: a network that has nearly learnt its 40 photographs by heart is not well calibrated without weights either. Average the
# probabilities on the test set; 0.02 would be right:

stated = {}
for name in ("plain", "weight", "sampler"):
    stated[name] = [net(test_x).sigmoid().mean().item() for net in models[name]]
    print(f"{name:8}", " ".join(f"{value:.3f}" for value in stated[name]))
assert mean(stated["weight"]) > mean(stated["plain"]) + 0.01

# %%
# Here the plain networks promise too little, the others too much. If somebody computes with the probabilities, train without weights,
# or calibrate afterwards on validation data with the true shares.
#
# What do I do with few data?
# ---------------------------
#
# Collect more, if you can. Here is what more photographs do to the average precision, with the sampler alone and with all
# pictures varied; always 2 % faulty, three trainings each:

growth = {"sampler": {}, "varied, all": {}}
for name in growth:
    for n in (500, 2000, 8000):
        values = ranking[name][:3]  # of 2,000 we have them
        if n != 2000:
            trained = [
                fit(*stamps(n, seed), seed, **options[name]) for seed in range(3)
            ]
            values = [average_precision(model) for model in trained]
        growth[name][n] = values
        print(f"{name:12} {n:5d}", " ".join(f"{value:.2f}" for value in values))

# %%

# fold: average precision against the number of photographs
fig, ax = plt.subplots(figsize=(4.8, 2.8))
for name, colour, mark in (("sampler", "C0", "o"), ("varied, all", "C1", "s")):
    sizes = list(growth[name])
    for n in sizes:
        ax.plot([n] * 3, growth[name][n], mark, color=colour, alpha=0.6)
    ax.plot(sizes, [mean(growth[name][n]) for n in sizes], color=colour, label=name)
ax.set(xscale="log", xlabel="photographs, 2 % faulty", ylabel="average precision")
ax.set_xticks(sizes, [f"{n:,}" for n in sizes])
ax.minorticks_off()
ax.legend(loc="lower right")

# %%
# .. caption:: Average precision against the number of photographs (logarithmic axis): each dot a training, the lines their means.
#    :alt: Two curves over 500, 2,000 and 8,000 photographs. The lower one, sampler, rises steeply from 500 to 2,000. The one for
#       varied pictures lies above it everywhere and rises from 500 to 2,000.
#
# The sampler needs thousands of photographs for what varied pictures reach here with 500. That is so much because we know how these stamps
# differ, by position, angle and size, and put this knowledge in. It is the best case: your photographs may differ in ways that you cannot
# imitate. And it has a limit. 500 photographs hold ten faulty parts, and so at most ten of the fonts that a 3 may come in; turning a
# picture does not make another font of it. From 500 to 2,000 photographs the varied trainings gain, too.

for name in growth:
    assert mean(growth[name][2000]) > mean(growth[name][500]) + 0.03
assert mean(growth["varied, all"][500]) > mean(growth["sampler"][500]) + 0.1

# %%
# Why was validation perfect?
# ---------------------------
#
# A common mistake: you repeat the rare photographs until both classes are equally large, *then* split off a quarter for
# validation. You expect an honest number, from photographs that were not trained on. Compare it with a split that comes first:

generator = torch.Generator().manual_seed(0)


def repeat(x, y, times=48):
    """Add copies of the faulty photographs."""
    return torch.cat([x, *[x[y == 1]] * times]), torch.cat([y, *[y[y == 1]] * times])


def recalls_after(train_part, held_back):
    """Return the recall on the part held back, and on the test set."""
    model = fit(*train_part, seed=0)
    parts = (held_back, (test_x, test_y))
    return [(model(a) > 0)[b == 1].float().mean().item() for a, b in parts]


# %%
# First the mistake, then the fix:

many_x, many_y = repeat(x, y)
order = torch.randperm(len(many_y), generator=generator)
quarter, rest = order[: len(order) // 4], order[len(order) // 4 :]
leaky = recalls_after((many_x[rest], many_y[rest]), (many_x[quarter], many_y[quarter]))
print("repeat, then split: validation {:.2f}, new parts {:.2f}".format(*leaky))

quarter, rest = torch.randperm(2000, generator=generator).split([500, 1500])
clean = recalls_after(repeat(x[rest], y[rest]), (x[quarter], y[quarter]))
print("split, then repeat: validation {:.2f}, new parts {:.2f}".format(*clean))
print("faulty photographs in this validation part:", int(y[quarter].sum()))
assert leaky[0] > 0.97 and leaky[1] < leaky[0] - 0.1

# %%
# On new parts both networks are about equally good; only the promise differs. After repeating, every faulty photograph of the
# validation part had copies in training, and the network only had to recognise them. Split first, and repeat, draw or vary in the
# training part alone. The honest number is rough: it rests on so few faulty photographs that each of them moves it by more than a tenth.
#
# Take this with you
# ------------------
#
# Report precision and recall or the average precision, and how many rare samples they rest on. Choose the threshold on validation data;
# try a sampler (here) or ``pos_weight``, and compare them after that choice.

from torch.utils.data import DataLoader, TensorDataset

images, labels = stamps(2000, seed=0)
counts = torch.bincount(labels.long())
chances = 1 / counts[labels.long()]  # each class drawn equally often
sampler = WeightedRandomSampler(chances, num_samples=len(labels))
loader = DataLoader(TensorDataset(images, labels), batch_size=64, sampler=sampler)

# %%
# Change something
# ----------------
#
# * Exaggerate: in ``options``, give the weight 2,000 instead of 49. What happens to the average precision and to the cost above 0?
# * In ``vary``, write 0.4 instead of 0.08. How well does *varied, all* rank?
# * Let a missed part cost 2 instead of 20. Does the weight still look better than plain at the threshold 0, and with a chosen one?
#
# .. dropdown:: What happens
#
#    * All five average precisions fall, to between 0.65 and 0.76: the network hears of little else than its 40 faulty photographs. It
#      reports so many parts that the cost above 0 lies between 130 and 370. A well chosen threshold brings it down to about 100. (The
#      assertion about weight and plain stops the page; take it out to see the cost.)
#    * Between 0.2 and 0.7, worse than without varying, and the assertion about it stops the page. Turned and moved so far, an 8 may lie
#      half outside the picture, and its label is not right any more.
#    * Above 0 it does: 14 to 26 against 27 to 40. With a chosen threshold both pay 14 to 19, and you cannot tell them apart. The assertion
#      that expects more than 150 stops the page.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the alarm's worth
#    :kind: predict
#
#    A test finds 90 of 100 faulty parts, and calls 5 of 100 good parts faulty. Of 10,000 parts, 2 % are faulty. It raises an alarm: what
#    is the probability that the part is faulty, to two digits after the point?

### BEGIN SOLUTION
guess = 0.27
### END SOLUTION

faulty_parts = torch.arange(10_000) < 200
alarmed = torch.zeros(10_000, dtype=torch.bool)
alarmed[:180] = True  # 90 % of 200
alarmed[200 : 200 + 490] = True  # 5 % of 9,800
expect(guess, round(faulty_parts[alarmed].double().mean().item(), 2))

# %%
# .. exercise:: Fix the weighted probability
#    :kind: fix
#
#    A network was trained with ``pos_weight=w``; its probabilities ``p`` are too high. Write ``unweighted``, which returns what the
#    probabilities would be without the weight, if the network only learnt the odds. Start from ``p``, not from the scores.


def unweighted(p, w):
    ### BEGIN SOLUTION
    odds = p / (1 - p) / w
    return odds / (1 + odds)
    ### END SOLUTION


scores = torch.tensor([-3.0, 0.0, 2.5])
lifted = (scores + torch.tensor(7.0).log()).sigmoid()
expect(lambda: unweighted(lifted, 7.0), scores.sigmoid(), rtol=1e-4, atol=1e-6)

# %%
# .. exercise:: Build a threshold for a promise
#    :kind: build
#
#    You promised to find at least the share ``recall`` of the faulty parts. Write ``threshold_for``: from scores and labels (0 or 1) of
#    the validation set it returns the largest score ``t`` such that ``scores >= t`` keeps the promise there.


def threshold_for(scores, labels, recall):
    ### BEGIN SOLUTION
    faulty_scores = scores[labels == 1].sort(descending=True).values
    needed = int(torch.tensor(recall * len(faulty_scores)).ceil())
    return faulty_scores[needed - 1]
    ### END SOLUTION


example = torch.tensor([0.1, 0.9, 0.4, 0.8, 0.3, 0.7, 0.2])
marks = torch.tensor([0, 1, 1, 0, 1, 0, 1])
expect(lambda: threshold_for(example, marks, 0.5), torch.tensor(0.4))
expect(lambda: threshold_for(example, marks, 0.75), torch.tensor(0.3))
expect(lambda: threshold_for(example, marks, 1.0), torch.tensor(0.2))
