r"""
Handwritten digits
==================

Take a data set from its file to a trained network whose mistakes you have looked at one by one.

.. lesson::
   :needs: training/03_training_loop
   :data: scikit-learn's handwritten digits; MNIST when it is on this machine
"""

# %%
# What is in the box?
# -------------------
#
# Always look first. MNIST is the data set that everybody starts with; if you have its files, the next cell uses 4,000 of its images. If
# not, the loader says where it looked, and we take the digits that come with scikit-learn: smaller, but written by real hands.

import torch
from pytorch_course.datasets import DatasetError
from pytorch_course.datasets.bundled import digits
from pytorch_course.datasets.public import public
from pytorch_course.plots import confusion, curves, image_grid

try:
    samples = public("MNIST")
except DatasetError:
    samples = digits()
images, labels = (column[:4000] for column in samples.tensors)
images = images.float() / images.max()
print(samples.title, tuple(images.shape), "labels", labels.bincount().tolist())
fig = image_grid(images[:24], titles=labels[:24].tolist(), columns=12)

# %%
# .. caption:: The first images and their labels. Some would be hard for you, too.
#    :alt: Two rows of twelve small grey images of handwritten digits, each with its label above it.
#
# The labels are nearly even, so accuracy is a fair measure here. An image is a tensor of shape (channel, height, width), with 0 for paper
# and 1 for ink.

assert images.shape[1] == 1 and images.min() == 0 and images.max() == 1
assert labels.bincount().min() > 0.8 * labels.bincount().max()

# %%
# How well would a fool do?
# -------------------------
#
# Before any network, a baseline that costs nothing. Average the images of each class, and give a new image the label of the nearest
# average.

from pytorch_course.data import loader, split
from torch.utils.data import TensorDataset

data = TensorDataset(images, labels)
train_part, validation_part, test_part = split(data, 0.6, 0.2, 0.2, seed=0)
train_images, train_labels = data[train_part.indices]
test_images, test_labels = data[test_part.indices]

means = torch.stack([train_images[train_labels == digit].mean(0) for digit in range(10)])
nearest = torch.cdist(test_images.flatten(1), means.flatten(1)).argmin(1)
baseline = (nearest == test_labels).float().mean().item()
fig = image_grid(means, titles=list(range(10)), columns=10)
print(f"nearest average: {baseline:.0%} right")
assert 0.7 < baseline < 0.97

# %%
# .. caption:: The average image of each class. Comparing with these ten pictures already gets most digits right.
#    :alt: Ten blurred grey digits, zero to nine, each the average of all training images of its class.
#
# A network has to beat that number, or it is not worth its electricity.
#
# Which network?
# --------------
#
# Two convolutions look for strokes, whatever their place; a linear layer weighs what they found. Ask for the shapes instead of computing
# them on paper.

from torch import nn


def make_model():
    """Return a small convolutional network for grey images of any size from 8 by 8."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(4),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 10),
    )  # fmt: skip


# %%
# What comes out of each layer, for five images:

torch.manual_seed(0)
model = make_model()
x = images[:5]
for layer in model:
    x = layer(x)
    print(f"{type(layer).__name__:<17} {tuple(x.shape)}")
assert x.shape == (5, 10)
by_hand = (16 * 1 * 9 + 16) + (32 * 16 * 9 + 32) + (512 * 10 + 10)
assert sum(p.numel() for p in model.parameters()) == by_hand

# %%
# Is a shifted seven a seven?
# ---------------------------
#
# Yes, and the network may as well know. Each time a training image is used it moves by up to one pixel, so the network never sees quite
# the same image twice. The move depends on seed, epoch and sample alone; run this page again and every image moves the same way.


def shift(image, label):
    """Move an image by at most one pixel in each direction."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    padded = nn.functional.pad(image, (1, 1, 1, 1))
    height, width = image.shape[-2:]
    return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width], label


train_batches = loader(train_part, 64, seed=0, transform=shift)
validation_batches = loader(validation_part, 256, shuffle=False)
again = [next(iter(loader(train_part, 64, seed=0, transform=shift)))[0] for _ in range(2)]
assert torch.equal(again[0], again[1])  # keyed chance: the same shifts on every run

# %%
# Twenty epochs
# -------------
#
# The loop is that of :doc:`/lessons/training/03_training_loop`. The learning rate rises and falls once
# (:class:`torch.optim.lr_scheduler.OneCycleLR`), which lets a short training end calmly. A log line per epoch is enough to see trouble;
# print fewer, and you will not look.

from pytorch_course.evaluate import evaluate, predict
from pytorch_course.train import TrainState, train

EPOCHS = 20
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=EPOCHS * len(train_batches))
state = TrainState(model, optimizer, schedule)

# %%
# Two things to measure, each as one value per sample:

metrics = {
    "loss": lambda scores, labels: nn.functional.cross_entropy(scores, labels, reduction="none"),
    "accuracy": lambda scores, labels: scores.argmax(1) == labels,
}
log = {"training": [], "validation": []}
for step in train(state, train_batches, nn.functional.cross_entropy, epochs=EPOCHS):
    if step.end_of_epoch:
        measured = evaluate(model, validation_batches, metrics)
        log["training"].append(step.loss.item())
        log["validation"].append(measured["loss"])
        print(f"epoch {step.epoch:2d}  validation loss {measured['loss']:.2f}  accuracy {measured['accuracy']:.2f}")

# %%
# The training curve jumps, because each point is one batch; the validation curve is the one to judge by.

ax = curves(log, xlabel="epoch", ylabel="loss", log=True)
assert log["validation"][-1] < 0.2 * log["validation"][0]
assert measured["accuracy"] > baseline

# %%
# .. caption:: Both losses fall. Shifted training images are harder than validation images, so the training loss may well be the higher one.
#    :alt: Two falling curves over twenty epochs on a logarithmic axis. The training loss jumps from epoch to epoch, the validation loss
#       falls more smoothly.
#
# Were twenty epochs too many? Early stopping would have asked after each epoch whether the validation loss still fell. Here the schedule
# decides instead: it is made for exactly twenty, its best point is its end, and stopping it at fifteen leaves the rate high. Use one or
# the other, not both.
#
# Which digits are confused with which?
# -------------------------------------
#
# Now the test part, once. Count pairs of (true, predicted) by hand: a pair is one number between 0 and 99.

scores = predict(model, loader(test_part, 256, shuffle=False))
predicted = scores.argmax(1)
matrix = torch.bincount(10 * test_labels + predicted, minlength=100).view(10, 10)

from sklearn.metrics import confusion_matrix

assert matrix.tolist() == confusion_matrix(test_labels, predicted, labels=range(10)).tolist()
assert matrix.sum() == len(test_part) and matrix.sum(1).tolist() == test_labels.bincount(minlength=10).tolist()
ax = confusion(matrix, list("0123456789"))

# %%
# .. caption:: The confusion matrix: rows are true digits, columns what the network said. Everything off the diagonal is a mistake.
#    :alt: A table of ten by ten counts. The diagonal is dark blue with about thirty-five in each cell; a few single counts in vermilion
#       lie beside it.
#
# Read a row for **recall**, the share of true eights that were found, and a column for **precision**, the share of said eights that were
# eights:
#
# .. math:: \text{recall}_k = \frac{M_{kk}}{\sum_j M_{kj}}, \qquad \text{precision}_k = \frac{M_{kk}}{\sum_i M_{ik}}

from sklearn.metrics import precision_recall_fscore_support

recall = matrix.diag() / matrix.sum(1)
precision = matrix.diag() / matrix.sum(0)
library = precision_recall_fscore_support(test_labels, predicted, labels=range(10))
torch.testing.assert_close(precision.double(), torch.from_numpy(library[0]), rtol=1e-6, atol=1e-6)
torch.testing.assert_close(recall.double(), torch.from_numpy(library[1]), rtol=1e-6, atol=1e-6)

accuracy = (predicted == test_labels).double().mean().item()
print(f"test accuracy {accuracy:.2f}, lowest recall {recall.min():.2f}, of the digit {recall.argmin()}")
assert accuracy > baseline + 0.02

# %%
# What do the worst mistakes look like?
# -------------------------------------
#
# Sort the test images by their loss, the surprise at the true label. The top of that list is the most useful page of any project: it
# shows wrong labels, strange writing and the blind spots of the model side by side.

surprise = nn.functional.cross_entropy(scores, test_labels, reduction="none")
worst = surprise.argsort(descending=True)[:12]
titles = [f"{true} \u2192 {said}" for true, said in zip(test_labels[worst].tolist(), predicted[worst].tolist())]
fig = image_grid(test_images[worst], titles=titles, columns=12)
wrong = (predicted != test_labels).sum().item()
print(
    f"{wrong} of {len(test_part)} are wrong; surprise at the worst {surprise[worst[0]]:.1f}, at the median {surprise.median():.3f}"
)
assert surprise[worst[0]] > 100 * surprise.median()
assert (predicted[worst[:2]] != test_labels[worst[:2]]).all()

# %%
# .. caption:: The twelve most surprising test images: true digit, arrow, answer.
#    :alt: One row of twelve small images of hard to read digits, each with its true label and the answer of the network above it.
#
# Does the network know when it does not know?
# --------------------------------------------
#
# Nearly. Let it pass on the images where its highest probability is low, and give those to a person. How many does it pass on, and how
# many of the rest are wrong?

confidence = scores.softmax(1).max(1).values
for threshold in (0.0, 0.9, 0.99):
    kept = confidence >= threshold
    errors = (predicted[kept] != test_labels[kept]).sum().item()
    print(f"threshold {threshold:<4}  answers {kept.float().mean():4.0%}  wrong among them {errors}")
assert (predicted[kept] != test_labels[kept]).float().mean() <= wrong / len(test_part)

# %%
# .. admonition:: From practice
#
#    That trade, fewer answers for fewer errors, is what most real systems that read handwriting do. The numbers above are the evidence
#    for this network and these digits; measure it again for yours, because the probabilities of a network trained longer are often too
#    sure of themselves.
#
# Change something
# ----------------
#
# * Train without ``transform=shift``. Which of the two losses falls faster, and which ends lower?
# * Train on a tenth of the training part (``split(train_part, 0.1, 0.9)[0]``). Does the network still beat the nearest average?
# * Rotate all test images by 90 degrees (:func:`torch.rot90`) before ``predict``. Which digits survive, and why these?
#
# Exercises
# ---------
#
# 1. Compute the confusion matrix of the nearest average. Which pair does it confuse most, and does the network confuse the same pair?
# 2. Find the ten training images with the highest loss. Is one of their labels wrong?
# 3. Your own project: Japanese characters. Get KMNIST with ``public("KMNIST", download=True)``, run this page on it, and look at the
#    worst mistakes. What must change in the code, and what in your judgement of the result?
#
# .. dropdown:: Answers
#
#    1. ``torch.bincount(10 * test_labels + nearest, minlength=100).view(10, 10)`` with its diagonal set to zero; take ``argmax``.
#    2. ``predict`` on ``loader(train_part, 256, shuffle=False)``, then as above. Judge for yourself; a few are hard to call.
#    3. Only the name of the data set and the axis labels. The characters are old cursive forms, many with several shapes, so accuracy is
#       lower than on digits for the same network.
