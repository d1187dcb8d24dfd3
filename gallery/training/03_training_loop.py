r"""
The training loop
=================

Write the loop that trains a network, know what each of its lines is for, and prove that a shorter loop does the same to the last bit.

.. lesson::
   :needs: tensors/07_views_and_storage optimization/04_gradient_descent optimization/06_loss_functions
   :data: scikit-learn's handwritten digits
"""

# %%
# Can it learn one batch?
# -----------------------
#
# The data: 1,797 handwritten digits of 8 by 8 pixels. The first thing to do with a new model is not to train it, but to let it learn
# sixteen images by heart. A model that cannot do that has a fault, and you find it in a second instead of an hour.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets.bundled import digits
from torch import nn
from torch.nn import functional as F

plt.style.use("pytorch_course.book")
images, labels = digits().tensors


def make_model(seed=0):
    """Return a small network whose start weights depend on the seed alone."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))


# %%
# Five lines make a step: forward, loss, backward, update, clear. The loss is the **cross-entropy**, the mean surprise at the true class
# :math:`t`: for scores :math:`s`,
#
# .. math:: L = -\frac{1}{N} \sum_{i=1}^{N} \log \frac{e^{s_{i,t_i}}}{\sum_k e^{s_{i,k}}}

model = make_model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
few_images, few_labels = images[:16], labels[:16]
losses = []
for _ in range(200):
    scores = model(few_images)
    loss = F.cross_entropy(scores, few_labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

by_hand = -scores.softmax(1)[torch.arange(16), few_labels].log().mean()
torch.testing.assert_close(by_hand, F.cross_entropy(scores, few_labels))

# %%
# With ten classes and no knowledge, the loss of a guess is :math:`\log 10 \approx 2.3`. Check that the curve starts near there, too: a
# start at 20 means that the start weights are too large.

fig, ax = plt.subplots()
ax.plot(losses)
ax.axhline(torch.tensor(10.0).log(), color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="step", ylabel="loss", yscale="log")

# %%
# .. caption:: Sixteen images learnt by heart. The dotted line is the loss of pure guessing.
#    :alt: A falling curve on a logarithmic axis. It begins at the dotted line near 2.3 and ends below one hundredth.

assert abs(losses[0] - torch.tensor(10.0).log()) < 0.5
assert losses[-1] < 0.05

# %%
# What goes wrong without each line?
# ----------------------------------
#
# Leave one out at a time, from the same start, and look at the loss on the same sixteen images after 200 steps.


def train_without(missing):
    """Train on the few images with one line left out; return the last loss without dropout."""
    model = make_model()
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


# %%
# Predict the four outcomes first.

without = {line: train_without(line) for line in ("nothing", "backward", "step", "zero_grad")}
for line, loss in without.items():
    print(f"without {line:<10} {'learns' if loss < 0.1 else 'does not learn' if loss > 1 else 'limps'}")
assert without["nothing"] < 0.1
assert min(without["backward"], without["step"]) > 2

# %%
# None of them raised an error. That is the trouble with training loops: almost every mistake is silent. Without ``zero_grad`` each step
# uses the sum of all gradients so far; on a task as small as this it may still arrive, which is how the mistake survives in real
# programs. Compare the gradients instead of the result:

model = make_model().eval()
sizes = []
for _ in range(3):
    F.cross_entropy(model(few_images), few_labels).backward()
    sizes.append(model[1].weight.grad.norm().item())
print("gradient norms relative to the first:", [round(size / sizes[0], 3) for size in sizes])
torch.testing.assert_close(torch.tensor(sizes) / sizes[0], torch.tensor([1.0, 2.0, 3.0]))

# %%
# Does it learn, or remember?
# ---------------------------
#
# Sixteen images by heart say nothing about the seventeenth. Put data aside before you look at it: the **validation** part, to choose by,
# and the **test** part, to look at once, at the end. A sample that is in two parts makes the later numbers worthless; check that there is
# none.

from pytorch_course.data import loader, split

data = torch.utils.data.TensorDataset(images, labels)
parts = train_part, validation_part, test_part = split(data, 0.6, 0.2, 0.2, seed=0)
indices = [set(part.indices) for part in parts]
print("samples:", [len(part) for part in parts])
assert not (indices[0] & indices[1] or indices[0] & indices[2] or indices[1] & indices[2])
assert sum(map(len, indices)) == len(data)

train_batches = loader(train_part, 64, seed=0)
validation_batches = loader(validation_part, 100, shuffle=False)

# %%
# Two switches belong to every measurement. ``model.eval()`` turns dropout off (and makes batch normalisation use its running averages),
# ``torch.no_grad()`` stops the recording of graphs. They do different jobs, and you need both.

x = images[:8]
model = make_model()
assert not torch.equal(model(x), model(x))  # training mode: dropout draws anew each time
model.eval()
assert torch.equal(model(x), model(x))
assert model(x).requires_grad  # eval alone still records a graph
with torch.no_grad():
    assert not model(x).requires_grad

# %%
# And one piece of arithmetic: the mean of the batches' means is not the mean, because the last batch is short. Count correct answers,
# then divide once.


def accuracy(model, batches):
    """Return the share of correct answers over every sample."""
    model.eval()
    correct = total = 0
    with torch.no_grad():
        for images, labels in batches:
            correct += (model(images).argmax(1) == labels).sum().item()
            total += len(labels)
    model.train()
    return correct / total


zeros, ones = torch.zeros(8), torch.ones(2)
assert torch.stack([zeros.mean(), ones.mean()]).mean() == 0.5
assert torch.cat([zeros, ones]).mean() == 0.2

# %%
# The whole loop
# --------------
#
# Now epoch by epoch, over all training batches, with a look at the validation part after each.

EPOCHS = 12


def train_by_hand(record):
    """Train a fresh model and return it; append (loss, validation accuracy) per epoch to the record."""
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for epoch in range(EPOCHS):
        train_batches.batch_sampler.set_epoch(epoch)  # another order in each epoch, the same on each run
        for images, labels in train_batches:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        record.append((loss.item(), accuracy(model, validation_batches)))
    return model


# %%
# Notice what ``accuracy`` does at its end: it puts the model back into training mode. Forget that line and from the second epoch on you
# train without dropout.

record = []
by_hand = train_by_hand(record)
for epoch, (loss, score) in list(enumerate(record))[::4]:
    print(f"epoch {epoch:2d}  last loss {loss:.2f}  validation accuracy {score:.2f}")

assert record[-1][0] < 0.5 * record[0][0]
assert record[-1][1] > 0.9

# %%
# Must I write this every time?
# -----------------------------
#
# The loop is always the same, and what you want to do *between* its steps never is. So the helper package turns it inside out: ``train``
# is a generator that yields after each update, and your own lines are the body of a ``for``. No callbacks, no hooks.

from pytorch_course.evaluate import evaluate
from pytorch_course.train import TrainState, train


def correct(scores, labels):
    """Say for each sample whether the answer is right."""
    return scores.argmax(1) == labels


model = make_model()
state = TrainState(model, torch.optim.Adam(model.parameters(), lr=0.003))
scores = []
for step in train(state, train_batches, F.cross_entropy, epochs=EPOCHS):
    if step.end_of_epoch:
        scores.append(evaluate(model, validation_batches, {"accuracy": correct})["accuracy"])

# %%
# The same? Not nearly the same: the same. Every weight, bit for bit, and every accuracy.

for name, weights in model.state_dict().items():
    assert torch.equal(weights, by_hand.state_dict()[name]), name
assert scores == [score for _, score in record]
print(
    "identical weights:",
    len(list(model.parameters())),
    "tensors,",
    sum(p.numel() for p in model.parameters()),
    "numbers",
)

# %%
# When do I stop?
# ---------------
#
# When the validation loss no longer falls. The training loss is no guide, because it can fall for ever. Keep the best weights *as a
# copy*: ``state_dict`` returns the live tensors, and a "best" that goes on training is the last.

import copy

live = make_model()
reference, snapshot = live.state_dict(), copy.deepcopy(live.state_dict())
with torch.no_grad():
    live[1].weight.add_(1)
assert torch.equal(reference["1.weight"], live[1].weight)  # the "saved" weights have moved along
assert not torch.equal(snapshot["1.weight"], live[1].weight)

# %%
# With a generator, stopping early is ``break``. ``evaluate`` wants one value per sample, so that short batches weigh what they should.


def surprise(scores, labels):
    """Return the loss of each sample."""
    return F.cross_entropy(scores, labels, reduction="none")


# %%
# Stop when five epochs in a row brought nothing better:


model = make_model()
state = TrainState(model, torch.optim.Adam(model.parameters(), lr=0.02))
history = {"training": [], "validation": []}
best, patience = float("inf"), 5
for step in train(state, loader(train_part, 64, seed=1), F.cross_entropy, epochs=100):
    if step.end_of_epoch:
        history["training"].append(evaluate(model, train_batches, {"loss": surprise})["loss"])
        history["validation"].append(evaluate(model, validation_batches, {"loss": surprise})["loss"])
        if history["validation"][-1] < best:
            best, best_epoch, weights = history["validation"][-1], step.epoch, copy.deepcopy(model.state_dict())
        if step.epoch - best_epoch >= patience:
            break
print("stopped early:", step.epoch + 1 < 100)

# %%
# Both losses, the moment of the best validation loss marked:

from pytorch_course.plots import curves

ax = curves(history, xlabel="epoch", ylabel="loss", log=True)
ax.axvline(best_epoch, color="0.6", linestyle=":", linewidth=1)

# %%
# .. caption:: The training loss keeps falling. The validation loss turns; the dotted line marks its lowest point, whose weights we keep.
#    :alt: Two curves over the epochs on a logarithmic axis. The training loss falls steadily. The validation loss falls at first and then
#       stays level or rises; a dotted vertical line stands at its lowest point.

assert step.epoch + 1 < 100
assert history["training"][-1] < history["validation"][-1]

# %%
# Now, and only now, the test part. You have not chosen anything by it, so its number is honest. Look twice, choosing in between, and it
# is a second validation part.

model.load_state_dict(weights)
result = evaluate(model, loader(test_part, 100, shuffle=False), {"accuracy": correct})
print(f"test accuracy above 0.93: {result['accuracy'] > 0.93}")
assert result["accuracy"] > 0.93

# %%
# Change something
# ----------------
#
# * Put ``nn.Softmax(1)`` at the end of the model and train by hand again. It still learns; how much more slowly, and why can its loss
#   never fall below 1.46?
# * In ``accuracy``, leave out ``model.train()``. Does the assertion of identical weights notice?
# * Move the ``break`` so that it stops after 40 steps, then call ``train`` with the same ``state`` again. Are the final weights those of
#   the run without a break?
#
# Exercises
# ---------
#
# 1. Add gradient clipping to the loop by hand (:func:`torch.nn.utils.clip_grad_norm_`), and show that ``train(..., clip=1.0)`` gives the
#    same weights.
# 2. With one class at 90 percent of the samples, what accuracy does a model have that always says that class? Which measure would tell you?
# 3. Leak on purpose: put the validation part into the training part. What happens to the two curves, and why can you not see the fault in
#    them?
#
# .. dropdown:: Answers
#
#    1. Between ``backward`` and ``step``. The norm is that of all gradients together, so clip once over ``model.parameters()``.
#    2. 0.9. The recall of each class, or their mean.
#    3. They fall together. It looks like a model that generalises well; only data that was never used shows otherwise.
