r"""
Transfer learning
=================

Read digits with ten labelled pictures of each: reuse a network that was trained on
something else, with labels or without.

.. lesson::
   :needs: training/04_handwritten_digits training/05_saving_and_resuming
      networks/03_normalization_and_dropout
   :data: characters drawn from the fonts of Matplotlib
   :keywords: fine-tuning, finetune, pretrained model, pretraining, frozen layers,
      freeze, unfreeze, backbone, feature extraction, requires_grad, param_groups,
      add_param_group, layer-wise learning rate, linear probe, self-supervised, rotation
      prediction, torchvision weights, weights enum, pretrained=True, size mismatch for
      fc.weight, invalid hash value, small data set
   :thumbnail: 2
"""

# %%
# Do I have to label a thousand pictures?
# ---------------------------------------
#
# Serial numbers are printed on machine parts, in many fonts, and you want a program that reads their digits. You have labelled ten
# pictures of each digit, and you are tired of it. But somebody has labelled thousands of *letters*. Are they of any use?

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets import glyphs
from pytorch_course.plots import image_grid

plt.style.use("pytorch_course.book")
DIGITS, LETTERS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def pictures(n, characters, seed):
    """Return n pictures of 16 by 16 pixels, scaled around 0, and their labels."""
    x, y = glyphs(n, classes=characters, size=16, seed=seed).tensors
    return (x.float() / 255 - 0.2) / 0.3, y


letters_x, letters_y = pictures(8192, LETTERS, seed=0)
test_x, test_y = pictures(1000, DIGITS, seed=1)

# %%

fig = image_grid(torch.cat([test_x[:12], letters_x[:12]]) * 0.3 + 0.2, columns=12)

# %%
# .. caption:: Above, the digits that you want to read; below, the letters that somebody has labelled.
#    :alt: Two rows of twelve small grey pictures: digits in the first, capital letters in the second, in many fonts and slightly turned.
#
# First without the letters. The network has three convolutions, which turn a picture into 256 numbers, and a linear layer that turns
# these into ten scores. We call the first part the **trunk** (others say backbone) and the second the **head**.

from torch import nn


def make_trunk():
    """Return layers that turn a picture into 256 numbers."""
    first = nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()
    second = nn.Conv2d(16, 32, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(32)
    third = nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU()
    return nn.Sequential(*first, *second, nn.ReLU(), *third, nn.Flatten())


def update(model, optimizer, x, y):
    """Take at most 64 of the pictures and make one step downhill."""
    rows = torch.randperm(len(x))[:64]
    loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


# %%


def fit(model, x, y, steps, groups=None, still=False):
    """Train while the learning rate falls to 0; still is for a frozen first part."""
    optimizer = torch.optim.AdamW(groups or model.parameters(), lr=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    model.train()
    if still:
        model[0].eval()
    for _ in range(steps):
        update(model, optimizer, x, y)
        schedule.step()


def accuracy(model, x, y):
    """Return the share of the pictures that the model reads right."""
    with torch.no_grad():
        return (model.eval()(x).argmax(1) == y).float().mean().item()


# %%
# The optimizer may get a list of groups of parameters, each with its own :term:`learning rate`; a group that names none gets the common
# one, here 0.01. ``learn`` makes a group of the trunk and one of the head. For now the rates are equal.

import copy


def learn(trunk, x, y, seed, steps=40, rate=0.01, still=False):
    """Train a new head, and a copy of the trunk at its own rate; return both."""
    torch.manual_seed(seed)
    model = nn.Sequential(copy.deepcopy(trunk) or make_trunk(), nn.Linear(256, 10))
    groups = [{"params": model[0].parameters(), "lr": rate}]
    groups.append({"params": model[1].parameters()})
    fit(model, x, y, steps, groups, still)
    return model


# %%
# Five trainings, each with its own ten pictures of each digit, and its own random start (no trunk is given). The test has 1,000 other
# pictures.

sources = [pictures(1500, DIGITS, seed=10 + seed) for seed in range(5)]


def few(n, seed):
    """Return n labelled pictures of each digit, other ones for each seed."""
    x, y = sources[seed]
    rows = torch.cat([(y == digit).nonzero()[:n, 0] for digit in range(10)])
    return x[rows], y[rows]


def show(name, values):
    print(f"{name:17}", " ".join(f"{value:.2f}" for value in values))


def read(model):
    return accuracy(model, test_x, test_y)


alone = [read(learn(None, *few(10, seed), seed)) for seed in range(5)]
show("from scratch", alone)

# %%
# About three digits in ten are wrong.
#
# What do letters teach about digits?
# -----------------------------------
#
# Train the same layers on the 8,192 letters, and test them on letters they have not seen:

unseen_x, unseen_y = pictures(1000, LETTERS, seed=2)
torch.manual_seed(0)
letters = nn.Sequential(make_trunk(), nn.Linear(256, 26))
fit(letters, letters_x, letters_y, steps=192)
print(f"letters read right: {accuracy(letters, unseen_x, unseen_y):.2f}")

# %%
# This head knows no digits, and we throw it away. The trunk has learnt something more general: to find strokes, bows and corners in
# many fonts. We keep it as it is, it is **frozen**, and train a new head on top. A frozen trunk makes the same 256 numbers of a picture
# every time, so we compute them only once, and the training is very quick.


def frozen(trunk, x, y, seed):
    """Train only a new head, on what the trunk makes of the pictures."""
    trunk.eval()
    with torch.no_grad():
        features, test_features = trunk(x), trunk(test_x)
    torch.manual_seed(seed)
    head = nn.Linear(features.shape[1], 10)
    fit(head, features, y, steps=100)
    return accuracy(head, test_features, test_y)


trunk = letters[0]
helped = [frozen(trunk, *few(10, seed), seed) for seed in range(5)]
show("letters, frozen", helped)
assert min(helped) > max(alone) + 0.05

# %%
# The same hundred labelled digits, and far fewer mistakes. Taking over what was learnt on one task for another is called **transfer
# learning**; the first training is the **pretraining**.
#
# Frozen or thawed?
# -----------------
#
# The trunk was made for letters. Why not let it go on learning? Then it is **thawed**, and the training is called **fine-tuning**.
# ``learn`` does that when it gets the trunk, and now the groups matter: the trunk may learn as fast as the head, or more slowly.
#
# Four ways, with 2 and with 100 pictures of each digit, three trainings each. (With 100 there are 80 updates instead of 40, so that each
# picture is seen often enough. A new head on a frozen trunk gets 100 updates, which cost next to nothing.)

results = {}
for n, steps in ((2, 40), (100, 80)):
    for seed in range(3):
        x, y = few(n, seed)
        row = {"from scratch": read(learn(None, x, y, seed, steps))}
        row["frozen"] = frozen(trunk, x, y, seed)
        row["thawed 0.001"] = read(learn(trunk, x, y, seed, steps, rate=0.001))
        row["thawed 0.01"] = read(learn(trunk, x, y, seed, steps))
        for name, value in row.items():
            results.setdefault((n, name), []).append(value)
for (n, name), values in results.items():
    show(f"{n:3} {name}", values)

# %%

# fold: the mistakes of the four ways
fig, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharey=True)
for ax, n in zip(axes, (2, 100)):
    for place, name in enumerate(reversed(row)):
        errors = [100 * (1 - value) for value in results[n, name]]
        ax.plot(errors, [place] * len(errors), "o", color=f"C{3 - place}", alpha=0.7)
    ax.set(title=f"{n} of each digit", xlabel="mistakes (%)", xlim=(0, None))
axes[0].set_yticks(range(4), reversed(row))

# %%
# .. caption:: A dot is a training; further left is better. Each panel has its own scale. The number after *thawed* is the learning rate of
#    the trunk. Left, with few pictures, moving it fast does harm; right, with many, it gives the best result.
#    :alt: Two panels with four rows of dots. With 2 pictures of each digit, from scratch lies near 65 per cent, frozen near 27, thawed
#       slowly beside it and thawed fast near 38. With 100, from scratch lies near 3, frozen near 5, thawed slowly near 3, thawed
#       fast near 1.5.
#
# Compare the two panels. With two pictures of each digit it is best to leave the trunk alone, or nearly so. Twenty pictures cannot improve
# on what thousands of letters have taught; a fast trunk loses part of that while it fits these twenty and a head that is still random.
# With a hundred of each it is the other way round. A frozen trunk cannot adapt, and letters are not digits: here it does worse than
# training from scratch, and it stays behind, if less, when its head gets 400 updates. Now it pays to let everything move, from the good
# start. The mean of the small rate lies between frozen and fast in both panels.

from statistics import mean

assert mean(results[2, "frozen"]) > mean(results[2, "thawed 0.01"]) + 0.05
level = mean(results[100, "from scratch"])
assert mean(results[100, "frozen"]) < level < mean(results[100, "thawed 0.01"])

# %%
# .. admonition:: From practice
#
#    Our letters come in the fonts of our digits: a kind case. How much pretraining helps depends on what the old task has in common
#    with yours. Always train from scratch as well, as here, and compare.
#
# Is a frozen trunk really frozen?
# --------------------------------
#
# Often the trunk is not computed once, because its input is augmented and so differs each time. Then it stays in the model,
# and ``requires_grad_(False)`` freezes it. You expect that nothing in it changes any more. Let the digits come from a darker camera,
# ``x - 0.5``, and train a new head on such a trunk:

kept = copy.deepcopy(trunk).requires_grad_(False)
x, y = few(10, seed=0)
model = learn(kept, x - 0.5, y, seed=0)
for name, old in trunk[1].state_dict().items():  # the first BatchNorm
    distance = (model[0][1].state_dict()[name] - old).abs().max()
    print(f"{name:20} moved by {distance:.2f}")
assert torch.equal(model[0][1].weight, trunk[1].weight)

# %%
# Weight and bias stayed, the running averages of batch normalisation moved. They are not parameters but :term:`buffers <buffer>`, and it
# is not a gradient that moves them: every forward pass in training mode does. ``model.train()`` sets that mode for *all* layers, frozen
# or not. Does it matter? Read the dark digits with the new head, and letters with the old head, which should work on a frozen trunk as
# before. The last two trainings call ``model[0].eval()`` after ``model.train()``; that is what ``still`` does.

old_reader = {False: [], True: []}
for still, rows in old_reader.items():
    for seed in range(2):
        x, y = few(10, seed)
        model = learn(kept, x - 0.5, y, seed, still=still)
        dark = accuracy(model, test_x - 0.5, test_y)
        rows.append(accuracy(nn.Sequential(model[0], letters[1]), unseen_x, unseen_y))
        print(f"still={still!s:5}: digits {dark:.2f}, letters {rows[-1]:.2f}")
assert max(old_reader[False]) < 0.8 and min(old_reader[True]) > 0.95

# %%
# In training mode, without one changed weight, the old head now misreads about four letters in ten. For the digits alone it was even good
# here: the averages adapted to the darker camera. Both can be what you want; choose. To freeze everything, call ``eval()`` on the frozen
# part after *each* ``model.train()``.
#
# Why does my new part not learn?
# -------------------------------
#
# Two more mistakes raise no error either. An optimizer keeps the list of parameters that it was given. It does not notice when you put in a
# new head afterwards. Make one update, and see how far the first convolution and the head moved:


def moved(model, optimizer):
    """Make one update; return how far the weights of trunk and head moved, at most."""
    before = copy.deepcopy(model)
    update(model, optimizer, *few(10, 0))
    trunk_by = (model[0][0].weight - before[0][0].weight).abs().max().item()
    head_by = (model[1].weight - before[1].weight).abs().max().item()
    print(f"trunk moved by {trunk_by:.3f}, head moved by {head_by:.3f}")
    return trunk_by, head_by


model = copy.deepcopy(letters)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
model[1] = nn.Linear(256, 10)  # too late
assert moved(model, optimizer)[1] == 0

# %%
# The optimizer moves the old head, which is not in the model any more. The second mistake: the optimizer got only what was not frozen
# at that time, and then you thaw the trunk.

model[0].requires_grad_(False)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
model[0].requires_grad_(True)  # too late
assert moved(model, optimizer)[0] == 0 < model[0][0].weight.grad.abs().max()

# %%
# The trunk has a gradient, and nothing uses it. So build the optimizer last. To thaw in the middle of a training, hand the trunk over
# as a new group:

optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.001})
assert min(moved(model, optimizer)) > 0

# %%
# What if nobody has labelled the letters?
# ----------------------------------------
#
# Then invent a task whose labels cost nothing. Turn each letter by 0, 1, 2 or 3 quarter turns, and let a network say by how many. Nobody
# has to read the letters for that. Such labels, cut out of the data itself, make it :term:`self-supervised learning`.


def turn(x):
    four = [torch.rot90(x, turns, (2, 3)) for turns in range(4)]
    return torch.cat(four), torch.arange(4).repeat_interleave(len(x))


shown, turns = turn(letters_x[:4])
fig = image_grid(shown * 0.3 + 0.2, titles=turns.tolist(), columns=8)

# %%
# .. caption:: Four letters, turned by 0 to 3 quarter turns; the number of turns is the label. Two turns make a W of the M, and leave the I
#    and the X much as they were.
#    :alt: Two rows of eight small pictures: I, M, A and X upright, then the same four turned to the left by one, by two and by three
#       quarter turns, with the labels 0 to 3 above.

torch.manual_seed(0)
rotations = nn.Sequential(make_trunk(), nn.Linear(256, 4))
fit(rotations, *turn(letters_x), steps=288)

shares = {}
for number, letter in enumerate(LETTERS):
    shares[letter] = accuracy(rotations, *turn(unseen_x[unseen_y == number]))
print("from the worst letter to the best:", *sorted(shares, key=shares.get))
assert mean(shares[c] for c in "HINOSXZ") < mean(shares[c] for c in "BEFGLPR") - 0.1

# %%
# Most of the worst are letters for which there is no answer. H, I, N, O, S, X and Z look much the same upside down, and A and V, or M and
# W, look like each other. The task need not be solvable, and we never use its answers. What counts is what the trunk learns from it.
#
# To measure that, take a **linear probe**: freeze the layers, train one linear layer on what they give, and see how well it reads
# digits. Do it after 0 convolutions, that is on the pixels, and after 1, 2 and 3, with a hundred of each digit and three trainings. Two
# other trunks stand beside it: one without any training, and the one that had the letters' labels.

kinds = {"untrained": make_trunk(), "rotations": rotations[0], "labels": trunk}
probes = {}
for kind, layers in kinds.items():
    for depth, end in ((0, 0), (1, 3), (2, 7), (3, 10)):  # up to a ReLU
        part = nn.Sequential(*layers[:end], nn.Flatten())
        probes[kind, depth] = [frozen(part, *few(100, seed), seed) for seed in range(3)]
for (kind, depth), row in probes.items():
    show(f"{kind} {depth}", row)

# %%

# fold: the probes over the depth
fig, ax = plt.subplots(figsize=(5.6, 3))
for kind, style in zip(kinds, ("C1:^", "C0-o", "C2--s")):
    heights = [mean(probes[kind, depth]) for depth in range(4)]
    ax.plot(range(4), heights, style, label=kind)
ax.set(xlabel="convolutions", ylabel="test accuracy", xticks=range(4))
ax.legend(loc="lower left")

# %%
# .. caption:: What a linear layer reads from the pixels (0) and after each convolution; means of three trainings. Rotations teach the
#    first two layers something about digits, and the third something else.
#    :alt: Three curves that begin together at the pixels, at 0.83. The one with labels rises to about 0.96 and stays there. The one with
#       rotations rises to about 0.9 at 1 and 2 and falls to below 0.8 at 3. The untrained one falls to below 0.6.
#
# Two layers that only learnt turns give more than the pixels, and more than the same layers untrained. But the third gives less than
# the second. The last layers of a network are made for its own task, and turns are not digits. (The probes are trained briefly. With
# 400 updates the pixels and the rotations all gain, and the second layer still gives the most.) So probe more than the last layer, and
# let it move when you can. Here it may, with your ten pictures of each digit:

assert min(probes["rotations", 2]) > max(probes["rotations", 0]) + 0.05
assert max(probes["rotations", 3]) < min(probes["rotations", 2])

free = [read(learn(rotations[0], *few(10, seed), seed)) for seed in range(5)]
show("from scratch", alone)
show("rotations, thawed", free)
assert mean(alone) + 0.03 < mean(free) < mean(helped) - 0.05

# %%
# Nobody labelled anything but the hundred digits, and every training gained. The labels of the letters give clearly more here. In
# practice there are far more pictures without labels than with, and better tasks than rotation.
#
# What would torchvision fetch?
# -----------------------------
#
# For photographs you seldom pretrain yourself. torchvision offers weights for its networks, each with a record of what it is. This
# page fetches nothing; the record is part of the library. Here are the file's name, what the network can tell apart, and how a picture has
# to be prepared for it:

from torchvision import models

weights = models.ResNet18_Weights.IMAGENET1K_V1
print(weights.url.rpartition("/")[2])
print(len(weights.meta["categories"]), "classes:", weights.meta["categories"][:3])
print(weights.transforms())
with torch.device("meta"):  # shapes without numbers
    resnet = models.resnet18()
    new_head = nn.Linear(resnet.fc.in_features, 10)

# %%
# If you are online, ``models.resnet18(weights=weights)`` fetches that file once and keeps it in a folder below ``~/.cache/torch``. Name the
# weights: ``weights="DEFAULT"`` means the best at hand, which may be others after an update.
#
# The transforms are a part of the weights, because a network only understands pictures that are scaled as in its training. So does
# ours; give it letters without our scaling:

raw_x = unseen_x * 0.3 + 0.2  # 0 to 1, as before the scaling
print(f"letters, from 0 to 1: {accuracy(letters, raw_x, unseen_y):.2f} right")
three = glyphs(3, size=64).tensors[0].expand(-1, 3, -1, -1)  # equal channels
print("resized and scaled:", tuple(weights.transforms()(three).shape))

# %%
# Now the new head. Weights for 1,000 classes do not fit a head with ten, and ``strict=False``, which forgives missing names, does not
# forgive another shape. Put in the new head after loading, or load all but the head:

saved = resnet.state_dict()
resnet.fc = new_head
try:
    resnet.load_state_dict(saved, strict=False)
except RuntimeError as error:
    print(str(error).splitlines()[1].strip())
body = {name: value for name, value in saved.items() if not name.startswith("fc.")}
print(len(saved), "tensors; missing:", resnet.load_state_dict(body, False).missing_keys)

# %%
# Last, the name of the file: the eight characters after the hyphen begin the SHA-256 of its content. PyTorch compares them when it
# fetches a file, and refuses another one with "invalid hash value"; a file that is there already is not checked again. The last exercise
# does it by hand.
#
# Take this with you
# ------------------
#
# Freeze, put in the new head, and build the optimizer last. To fine-tune instead, leave out the second line and the loop at the end; then
# the old layers learn at a small rate. Prepare the pictures with ``weights.transforms()``.

model = models.resnet18(weights=None)  # online: weights=weights, as above
model.requires_grad_(False)
model.fc = nn.Linear(model.fc.in_features, 10)
*old, weight, bias = model.parameters()
groups = [{"params": old, "lr": 1e-4}, {"params": [weight, bias], "lr": 1e-3}]
optimizer = torch.optim.AdamW(groups)
model.train()
for layer in model.modules():
    if isinstance(layer, nn.BatchNorm2d):
        layer.eval()  # after each model.train()

# %%
# Change something
# ----------------
#
# * Pretrain on 512 letters instead of 8,192. What is the frozen trunk worth now, for ten pictures of each digit?
# * Pretrain on Greek, ``LETTERS = "αβγδεζηθικλμνξοπρστυφχψω"``. Does the frozen trunk still beat training from scratch?
# * In the list of four ways, thaw at 0.1 instead of 0.001. What remains of the letters?
#
# .. dropdown:: What happens
#
#    * About 0.8, still clearly better than from scratch, but half of the gain is gone: the pretraining itself reads fewer than eight
#      of ten letters right now. (An assertion further down, which expects more than that, stops the page.)
#    * Yes, with 0.83 to 0.88 it is nearly as good as with Latin letters. Strokes and bows are much the same in both. (The page stops later,
#      at the latest where it looks for the letter H.)
#    * With two pictures of each digit, little: 0.4 to 0.6, not much above training from scratch. With a hundred, it ends near 0.97, about
#      as from scratch: the rate decides how much of the old weights is kept.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a weight that is not quite frozen
#
#    An old loop clears gradients with ``zero_grad(set_to_none=False)``, which fills them with zeros. A weight of 8 was frozen when it had
#    such a gradient. Plain SGD with the rate 0.1 and ``weight_decay=0.5``, which adds 0.5 times the weight to its gradient, makes two
#    updates. What is the weight then?

### BEGIN SOLUTION
guess = 7.22
### END SOLUTION

weight = nn.Parameter(torch.tensor(8.0))
weight.grad = torch.tensor(0.0)
weight.requires_grad_(False)
decaying = torch.optim.SGD([weight], lr=0.1, weight_decay=0.5)
for _ in range(2):
    decaying.step()
expect(guess, weight.item(), atol=0.005)

# %%
# .. exercise:: Fix a trunk that wakes up
#
#    A colleague calls ``trunk.eval()`` once, before the loop, and each epoch begins with ``model.train()``. Write the method ``train`` of a
#    wrapper around the trunk: the trunk stays in evaluation mode, whatever is asked; the wrapper itself takes the mode and, as the
#    method of every module does, returns itself.


class Still(nn.Module):
    def __init__(self, trunk):
        super().__init__()
        self.trunk = trunk

    def train(self, mode=True):
        ### BEGIN SOLUTION
        super().train(mode)
        self.trunk.eval()
        return self
        ### END SOLUTION


def modes(mode):
    model = nn.Sequential(Still(nn.Sequential(nn.BatchNorm1d(3))), nn.Linear(3, 2))
    return [layer.training for layer in model.train(mode).modules()]


expect(lambda: modes(True), [True, True, False, False, True])
expect(lambda: modes(False), [False] * 5)

# %%
# .. exercise:: Build the check of a file's name
#
#    Write ``genuine``: it takes the path of a file with a name such as ``resnet18-f37072fd.pth`` and returns whether the SHA-256 of its
#    content, from ``hashlib.sha256(content).hexdigest()``, begins with the characters between the last hyphen and the last dot.

import hashlib
import tempfile
from pathlib import Path


def genuine(path):
    ### BEGIN SOLUTION
    start = path.stem.rpartition("-")[2]
    return hashlib.sha256(path.read_bytes()).hexdigest().startswith(start)
    ### END SOLUTION


def verdicts():
    names = ["small-cnn-2cf24dba.pth", "cnn-2cf24dbb.pth", "cnn-5fb0a30e26.v2-2cf2.pth"]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, name).write_bytes(b"hello")
        return [genuine(Path(folder, name)) for name in names]


expect(verdicts, [True, False, True])
