r"""
The training loop
=================

Write the loop that trains a network, know what goes wrong without each of its lines,
and know when to stop it.

.. lesson::
   :needs: tensors/07_views_and_storage optimization/04_gradient_descent
      optimization/06_loss_functions
   :data: scikit-learn's handwritten digits
   :keywords: train a neural network, epoch, mini-batch, validation set, overfitting,
      overfit one batch, early stopping, model.eval, model.train, zero_grad, no_grad,
      optimizer.step, loss does not decrease
   :thumbnail: 4
"""

# %%
# Can a program read handwriting?
# -------------------------------
#
# Here are twelve of 1,797 handwritten digits, eight by eight pixels each. You want a program that reads them, and a number that says how
# often it is right on digits it has never seen. At the end of this page you have both.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets import digits
from pytorch_course.plots import image_grid
from torch import nn
from torch.nn import functional as F

plt.style.use("pytorch_course.book")
images, labels = digits().tensors
print(tuple(images.shape), "labels", labels.unique().tolist())

# %%

fig = image_grid(images[:12], titles=labels[:12].tolist(), columns=12)

# %%
# .. caption:: Twelve digits and what their writers meant.
#    :alt: One row of twelve small grey images of handwritten digits, 0 to 9, then 0 and 1 again, each with its label above.
#
# Nobody can write down the rule for a 7. So we take a network with thousands of adjustable numbers and let examples adjust them, a little
# with each look. Each look is the same six moves.

# fold: the six moves as a loop
fig, ax = plt.subplots(figsize=(7, 1.9))
moves = ["batch", "forward", "loss", "backward", "step", "clear"]
for place, move in enumerate(moves):
    colour = "C0" if place < 3 else "C1"
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": colour}
    ax.text(1.3 * place, 0, move, ha="center", va="center", bbox=box, color="black")
    if place:
        line = {"arrowstyle": "->", "color": "0.5", "shrinkA": 26, "shrinkB": 26}
        ax.annotate("", (1.3 * place, 0), (1.3 * place - 1.3, 0), arrowprops=line)
curve = {"arrowstyle": "->", "color": "0.5", "connectionstyle": "arc3,rad=-0.12"}
ax.annotate("", (0, -0.12), (6.5, -0.12), arrowprops=curve)
ax.text(3.25, -0.6, "next batch", ha="center", color="0.4")
ax.set(xlim=(-0.6, 7.1), ylim=(-1.0, 0.4))
ax.axis("off")

# %%
# .. caption:: The loop of this page: compute and measure (first colour), then learn from it (second colour), and again.
#    :alt: Six boxes in a row joined by arrows: batch, forward, loss, backward, step, clear. An arc leads from the last back to the first,
#       labelled next batch.
#
# Can it learn one batch?
# -----------------------
#
# Do not begin with all the data. Let the model learn sixteen images by heart. A model that cannot do that has a fault, and you find it in
# a second instead of an hour.

device = torch.accelerator.current_accelerator(check_available=True) or "cpu"


def make_model(seed=0):
    """Return a small network whose start weights depend on the seed alone."""
    torch.manual_seed(seed)
    dense, scores = nn.Linear(64, 64), nn.Linear(64, 10)
    model = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), nn.Dropout(0.2), scores)
    return model.to(device)


model = make_model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
few_images, few_labels = images[:16].to(device), labels[:16].to(device)
losses = []
for _ in range(200):
    scores = model(few_images)  # forward
    loss = F.cross_entropy(scores, few_labels)  # how wrong?
    loss.backward()  # which way is better, for every weight
    optimizer.step()  # go there, a little
    optimizer.zero_grad()  # forget the directions
    losses.append(loss.item())

print(f"loss at first {losses[0]:.2f}, after 200 steps {losses[-1]:.4f}")
assert losses[-1] < 0.05

# %%
# The loss is the :term:`cross-entropy`, the mean surprise at the true class :math:`t`. For scores :math:`s` it is
#
# .. math:: L = -\frac{1}{N} \sum_{i=1}^{N} \log \frac{e^{s_{i,t_i}}}{\sum_k e^{s_{i,k}}}
#
# and whoever knows nothing about ten classes is surprised by :math:`\log 10 \approx 2.3`. That is where the loss should begin; a start at
# 20 would mean that the start weights are too large.

by_hand = -scores.softmax(1)[torch.arange(16), few_labels].log().mean()
print(f"log 10 = {torch.tensor(10.0).log():.2f}, loss by hand {by_hand:.4f}")
torch.testing.assert_close(by_hand, F.cross_entropy(scores, few_labels))
assert abs(losses[0] - torch.tensor(10.0).log()) < 0.5

# %%
# What goes wrong without each line?
# ----------------------------------
#
# Leave one out at a time. Predict the four outcomes before you look.


def train_without(missing, seed=0):
    """Train on the few images with one line left out; return the last loss."""
    model = make_model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(200):
        loss = F.cross_entropy(model(few_images), few_labels)
        if missing != "backward":
            loss.backward()
        if missing != "step":
            optimizer.step()
        if missing != "zero_grad":
            optimizer.zero_grad()
    return F.cross_entropy(model.eval()(few_images), few_labels).item()


last = {}
for line in ("nothing", "backward", "step", "zero_grad"):
    last[line] = sorted(train_without(line, seed) for seed in range(5))
    print(f"without {line:<10}", "".join(f"{loss:8.4f}" for loss in last[line]))

# %%
# Each row holds the last losses of five start weights. None of the four raised an error. That is the trouble with training loops:
# almost every mistake is silent. Without ``backward`` or ``step`` nothing moves, which at least shows. Without ``zero_grad`` each
# step uses the *sum* of all gradients so far: steps grow, which on so small a task may even be faster, or may end anywhere. The last
# row depends on luck, and nobody looks for a mistake after a lucky run. The gradients give it away:

assert max(last["nothing"]) < 0.2 and min(last["backward"] + last["step"]) > 2
assert min(last["zero_grad"]) < 0.1 and max(last["zero_grad"]) > 0.3

model = make_model().eval()
sizes = []
for _ in range(3):
    F.cross_entropy(model(few_images), few_labels).backward()
    sizes.append(model[1].weight.grad.norm().item())
print("gradient norms without zero_grad:", [f"{size:.3f}" for size in sizes])
torch.testing.assert_close(
    torch.tensor(sizes) / sizes[0], torch.tensor([1.0, 2.0, 3.0])
)

# %%
# Does it read, or remember?
# --------------------------
#
# Sixteen images by heart say nothing about the seventeenth. Before you train in earnest, put data aside: a :term:`validation
# <validation set>` part, to choose by, and a :term:`test <test set>` part, to look at once, at the end. No sample may be in two of
# them.

from torch.utils.data import DataLoader, TensorDataset, random_split

data = TensorDataset(images, labels)
parts = random_split(data, [0.6, 0.2, 0.2], torch.Generator().manual_seed(0))
train_part, validation_part, test_part = parts
everyone = [index for part in parts for index in part.indices]
print("samples:", [len(part) for part in parts])
assert len(set(everyone)) == len(everyone) == len(data)

# %%
# A measurement needs two switches. ``model.eval()`` turns :term:`dropout` off (and lets batch normalisation use its running averages).
# ``torch.no_grad()`` stops the recording of graphs. They are easily taken for the same thing. Look:

x = images[:8].to(device)
model = make_model()
changes = (model(x) - model(x)).abs().max().item()
model.eval()
calm = (model(x) - model(x)).abs().max().item()
print(
    f"two answers differ by {changes:.2f} in training mode, by {calm:.2f} after eval()"
)
print("after eval() the result comes from", type(model(x).grad_fn).__name__)
with torch.no_grad():
    print("in no_grad() it comes from", model(x).grad_fn)
assert changes > 0 == calm

# %%
# And a bit of arithmetic: the mean of the batches' means is not the mean, because the last batch is short. So count over all samples,
# then divide once.


def measure(model, batches):
    """Return the mean loss and the share of right answers over every sample."""
    total_loss = right = samples = 0
    model.eval()
    with torch.no_grad():
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            scores = model(images)
            total_loss += F.cross_entropy(scores, labels, reduction="sum").item()
            right += (scores.argmax(1) == labels).sum().item()
            samples += len(labels)
    model.train()  # forget this, and you train without dropout from now on
    return total_loss / samples, right / samples


validation_batches = DataLoader(validation_part, batch_size=100)
before = measure(make_model(), validation_batches)
print(f"untrained: loss {before[0]:.2f}, accuracy {before[1]:.2f}")

# %%
# The whole loop
# --------------
#
# A :class:`~torch.utils.data.DataLoader` cuts the data into batches, in a new order in each :term:`epoch`, each pass over the data.
# The rest is as above.


def train_by_hand(batches, epochs):
    """Train a fresh model; return it and (training loss, loss, accuracy) per epoch."""
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    record = []
    for _ in range(epochs):
        total = 0.0
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(labels)
        record.append((total / len(train_part), *measure(model, validation_batches)))
    return model, record


# %%
# Twelve epochs, counted from 0, and every third of them printed: training loss, validation loss, validation accuracy. The training
# loss is the larger one, because it is measured with dropout, and averaged over an epoch in which the model still improves.

shuffle = torch.Generator().manual_seed(0)
batches = DataLoader(train_part, batch_size=64, shuffle=True, generator=shuffle)
model, record = train_by_hand(batches, epochs=12)
for epoch in (2, 5, 8, 11):
    print(f"epoch {epoch:2d}", *(f"{number:.3f}" for number in record[epoch]))
assert record[-1][2] > 0.93

# %%
# Must I write this every time?
# -----------------------------
#
# The loop is always the same, and what you want to do *between* its steps never is. So the helper package turns it inside out: ``train``
# yields after each update, and your own lines are the body of a ``for``. It wants the loss as a function of model and batch.
#
# Its companion ``loader`` makes a ``DataLoader`` with one difference: the order is computed from (seed, epoch) instead of drawn from a
# stream. So a run that was interrupted can go on with the order it would have had.

from pytorch_course.data import loader
from pytorch_course.state import TrainState
from pytorch_course.train import train


def loss_fn(model, batch):
    """Return the mean loss of a batch."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


model = make_model()
state = TrainState(model, torch.optim.Adam(model.parameters(), lr=0.003))
results = []
for step in train(state, loader(train_part, 64, seed=0), loss_fn, epochs=12):
    if step.end_of_epoch:
        results.append(measure(model, validation_batches))

# %%
# Is it the same training? Give the loop by hand the same batches and compare all weights, not nearly but bit for bit.

by_hand, record = train_by_hand(loader(train_part, 64, seed=0), epochs=12)
pairs = list(zip(model.parameters(), by_hand.parameters()))
largest = max((a - b).abs().max().item() for a, b in pairs)
print(f"{sum(a.numel() for a, _ in pairs):,} weights, largest difference {largest}")
assert largest == 0
assert results == [(loss, accuracy) for _, loss, accuracy in record]

# %%
# ``measure`` has a sibling, too. ``evaluate`` takes one value per sample for each thing you want to know, and adds up before it divides.

from pytorch_course.evaluate import evaluate


def right(scores, labels):
    """Say for each sample whether the answer is right."""
    return scores.argmax(1) == labels


measured = evaluate(model, validation_batches, {"accuracy": right})
print(measured)
assert measured["accuracy"] == results[-1][1]

# %%
# When do I stop?
# ---------------
#
# When the validation loss has not improved for a while; how long you wait is called **patience**, here eight epochs. The training
# loss is no guide: it can go on falling while the model learns its samples by heart. With a generator, stopping is ``break``. Keep
# the best weights **as a copy**: ``state_dict`` returns the live tensors, which go on changing.

import copy

model = make_model()
state = TrainState(model, torch.optim.Adam(model.parameters(), lr=0.02))
history = {"training": [], "validation": []}
best = float("inf")
total = 0.0
for step in train(state, loader(train_part, 64, seed=1), loss_fn, epochs=100):
    total += step.loss.item() * min(64, len(train_part) - 64 * (step.batch - 1))
    if step.end_of_epoch:
        loss, accuracy = measure(model, validation_batches)
        history["training"].append(total / len(train_part))
        history["validation"].append(loss)
        total = 0.0
        if loss < best:
            best, best_epoch = loss, step.epoch
            weights = copy.deepcopy(model.state_dict())
        if step.epoch - best_epoch >= 8:
            break
print(f"stopped after epoch {step.epoch}; best epoch {best_epoch}, loss {best:.3f}")
assert step.epoch < 99

# %%

# fold: both losses and the best epoch
from pytorch_course.plots import curves

ax = curves(history, xlabel="epoch", ylabel="loss", log=True)
ax.axvline(best_epoch, color="0.6", linestyle=":", linewidth=1)

# %%
# .. caption:: The training loss falls below the validation loss, which stops improving early and goes up and down. The dotted line
#    marks its lowest point, whose weights we keep.
#    :alt: Two curves over the epochs on a logarithmic axis. The training loss falls further. The validation loss falls at
#       first and then stays level, going up and down; a dotted vertical line stands at its lowest point.
#
# How often is it right?
# ----------------------
#
# Now, and only now, the test part. Nothing was chosen by it, so its number is honest. If you choose again after
# looking, it has become validation data.

model.load_state_dict(weights)
loss, accuracy = measure(model, DataLoader(test_part, batch_size=100))
print(f"test accuracy {accuracy:.3f}")
assert accuracy > 0.93

# %%

# fold: test images that were read wrongly
test_images, test_labels = images[test_part.indices], labels[test_part.indices]
said = model.eval()(test_images.to(device)).argmax(1).cpu()
wrong = (said != test_labels).nonzero().flatten()[:12]
titles = [f"{test_labels[i]} \u2192 {said[i]}" for i in wrong]
fig = image_grid(test_images[wrong], titles=titles, columns=12)

# %%
# .. caption:: Misread test digits: what was meant, and what the network said. Some of them you would misread, too.
#    :alt: A row of small grey images of digits that are hard to read, each with its true label, an arrow, and the wrong answer.
#
# Take this with you
# ------------------
#
# One epoch, in plain PyTorch, on whatever device there is. Around it belong a look at the validation part and a copy of the best weights.

model, batches = make_model(), DataLoader(train_part, batch_size=64, shuffle=True)
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
model.train()
for inputs, targets in batches:
    inputs, targets = inputs.to(device), targets.to(device)
    loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()

# %%
# Change something
# ----------------
#
# * Put ``nn.Softmax(1)`` at the end of the model and learn the sixteen images by heart again. How low does the loss get?
# * In ``measure``, leave out ``model.train()``. Which of the asserts notices?
# * Stop ``train`` after 40 steps with ``break``, then call it again with the same ``state``. Compare the weights with an unbroken run.
#
# .. dropdown:: What happens
#
#    * It stays at 1.52. ``cross_entropy`` applies a softmax itself; a second one turns even the surest answer, 1 against nine zeros,
#      into
#      :math:`e/(e+9)`, and :math:`-\log` of that is 1.46. The loss can never be lower.
#    * The one that compares the weights: they differ by 0.14. The loop by hand trains without dropout from its second epoch on, while
#      ``train`` puts the model back into the mode it had before your lines ran.
#    * They are equal to the last bit, if nothing draws from the global generator in between (dropout does): the state knows the epoch
#      and the batch, and the order follows from the seed and the epoch.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the number of updates
#
#    1,000 samples, batches of 64, three epochs, and the last batch of an epoch may be short. How many times does ``optimizer.step()`` run?

### BEGIN SOLUTION
guess = 48
### END SOLUTION

batches = DataLoader(TensorDataset(torch.zeros(1000, 1)), batch_size=64)
expect(guess, 3 * sum(1 for _ in batches))

# %%
# .. exercise:: Fix the mean of means
#
#    A colleague averages ``losses``, one mean loss per batch, with ``sum(losses) / len(losses)``. The last batch was short, so the result
#    is wrong. Write ``mean_loss`` from the means and the sizes of the batches.


def mean_loss(losses, sizes):
    ### BEGIN SOLUTION
    total = sum(loss * size for loss, size in zip(losses, sizes))
    return total / sum(sizes)
    ### END SOLUTION


values = torch.arange(10.0) ** 2
cut = values.split(4)
expect(
    lambda: mean_loss(
        [part.mean().item() for part in cut], [len(part) for part in cut]
    ),
    values.mean().item(),
)

# %%
# .. exercise:: Build the stopping rule
#
#    Write ``stop_epoch``: from a list of validation losses and a patience, return the epoch after which training stops. It stops as soon
#    as ``patience`` epochs in a row brought no new minimum; without such an epoch it returns the last one.


def stop_epoch(losses, patience):
    ### BEGIN SOLUTION
    best_epoch = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best_epoch]:
            best_epoch = epoch
        if epoch - best_epoch >= patience:
            return epoch
    return len(losses) - 1
    ### END SOLUTION


expect(lambda: stop_epoch([3.0, 2.0, 2.5, 1.9, 2.2, 2.1, 1.0], patience=2), 5)
expect(lambda: stop_epoch([3.0, 2.0, 1.0, 0.5], patience=1), 3)
