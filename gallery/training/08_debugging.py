r"""
Debugging a network
===================

Find out why a network that was good in training fails in use, and where a NaN comes
from.

.. lesson::
   :needs: networks/01_modules networks/03_normalization_and_dropout
      training/03_training_loop
   :data: digits drawn from the fonts of Matplotlib
   :keywords: debug, pdb, breakpoint, forward hook, anomaly mode, set_detect_anomaly,
      NaN loss, loss is nan, model.eval, data leakage, distribution shift, predictions
      are wrong, accuracy drops in production, returned nan values in its 0th output
   :thumbnail: 1
"""

# %%
# Why does it fail on Monday?
# ---------------------------
#
# You train a network that reads digits, and it is good. On Monday your colleague's ``predict.py`` uses it on a folder of scans, and most
# answers are wrong. No error, no warning. Here is the training; 600 digits that the network has not seen tell how good it is.

from copy import deepcopy

import torch
from pytorch_course.datasets import glyphs
from torch import nn
from torch.nn import functional as F

MEAN, STD = 0.1, 0.19  # of the pixels, between 0 and 1


def prepare(images):
    """Turn whole numbers from 0 to 255 into floats around 0."""
    return (images.float() / 255 - MEAN) / STD


def make_model(seed):
    torch.manual_seed(seed)
    first = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    second = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    dense = [nn.Linear(512, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3)]
    pools = nn.MaxPool2d(2), nn.MaxPool2d(2)
    body = [*first, pools[0], *second, pools[1], nn.Flatten(), *dense]
    return nn.Sequential(*body, nn.Linear(64, 10))


# %%
# The loop is the usual one, on batches of 64 in a new order each epoch:


def fit(model, inputs, labels, epochs, seed=0):
    """Train a model and return it in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for batch in order.split(64):
            loss = F.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


# %%
# Then a measure, in batches that keep the order of the data, and the numbers:


@torch.no_grad()
def accuracy(model, inputs, labels, batch_size=600):
    """Return the share of right answers; batches in the order of the data."""
    answers = [model(part).argmax(1) for part in inputs.split(batch_size)]
    return (torch.cat(answers) == labels).float().mean().item()


images, labels = glyphs(3000, size=16, seed=0).tensors
scans, truth = glyphs(600, size=16, seed=1).tensors
model = fit(make_model(0), prepare(images), labels, epochs=4)
good = accuracy(model, prepare(scans), truth)
print(f"accuracy on 600 digits not seen: {good:.3f}")
assert good > 0.95

# %%
# Now what the colleague's program does. It reads the scans from ten folders, one per digit, twenty files at a time, and there are two
# mistakes in it. Each of them alone ruins the result:

scans, truth = scans[truth.argsort()], truth.sort().values  # folder by folder

careless = deepcopy(model).train()  # mistake 1: nobody says eval()
no_eval = accuracy(careless, prepare(scans), truth, batch_size=20)
no_scale = accuracy(model, scans.float() / 255, truth, batch_size=20)  # mistake 2
print(f"without eval() {no_eval:.3f}, without mean and deviation {no_scale:.3f}")
assert max(no_eval, no_scale) < 0.5

# %%

# fold: bars of the three accuracies
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 1.9))
names = ["as in training", "without eval()", "another scale"]
ax.barh(names, [good, no_eval, no_scale], color=["C0", "C1", "C1"])
ax.set(xlim=(0, 1), xlabel="accuracy on the same 600 digits")
ax.invert_yaxis()

# %%
# .. caption:: One network, the same 600 digits, three programs.
#    :alt: Three horizontal bars. As in training reaches nearly 1; without eval and with another scale stay below one half.
#
# The first mistake hides well. Without ``eval()``, batch normalisation subtracts the mean *of the batch*, and when all twenty digits of
# a batch are sevens it subtracts what makes them sevens. Mix the digits, and the same mistake costs next to nothing, so a test on shuffled
# data says that all is well. (Dropout is on as well without ``eval()``, and costs little here.)

shuffled = torch.randperm(600, generator=torch.Generator().manual_seed(0))
careless = deepcopy(model).train()
mixed = accuracy(careless, prepare(scans)[shuffled], truth[shuffled], batch_size=20)
print(f"without eval(), in mixed batches of 20: {mixed:.3f}")
assert mixed > 0.9

# %%
# (Each experiment gets a copy of the model, because a forward pass in training mode also moves the running averages of the
# normalisation: the network changes while you only look at it.)
#
# Where do the two programs begin to differ?
# -------------------------------------------
#
# Guessing is slow. You have a program that works and one that does not: give both the *same* images and compare what comes out of every
# layer. The first difference is where to look. A forward hook writes down every output.


@torch.no_grad()
def trace(model, inputs):
    """Return the input and the output of every layer, by name."""
    notes = {"input": inputs}
    layers = [
        (name, part)
        for name, part in model.named_modules()
        if not len(list(part.children()))
    ]
    hooks = [
        layer.register_forward_hook(
            lambda m, i, out, name=name: notes.update({name: out})
        )
        for name, layer in layers
    ]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return notes


# %%
# And the comparison of two traces, from the input on:


def first_difference(works, fails):
    """Return the name of the first note that differs, or None."""
    pairs = ((name, value, fails[name]) for name, value in works.items())
    return next(
        (name for name, a, b in pairs if not torch.allclose(a, b, atol=1e-5)), None
    )


# %%

twenty = scans[:20]
works = trace(model, prepare(twenty))
scaled = trace(model, twenty.float() / 255)
unswitched = trace(deepcopy(model).train(), prepare(twenty))

print("other scale:   ", first_difference(works, scaled))
print("without eval():", first_difference(works, unswitched), "=", model[1])
assert first_difference(works, scaled) == "input"
assert first_difference(works, unswitched) == "1"

# %%
# Two answers, and each says where to look. The scale is wrong before the first layer; so compare the two ``prepare`` functions, and best
# keep only one. Without ``eval()`` the convolution ``0`` still agrees; ``1``, the first layer that behaves differently in the two modes,
# does not.
#
# Was it ever good?
# -----------------
#
# The third failure is worse, because nothing is wrong with the program that predicts. You have only 120 digits, so you make eight noisy
# copies of each, shuffle all, train on three quarters and validate on the rest:

few, few_labels = glyphs(120, size=16, seed=3).tensors
origin = torch.arange(120).repeat_interleave(8)  # which digit is this a copy of?
generator = torch.Generator().manual_seed(0)
copies = prepare(few[origin])
copies = copies + 0.5 * torch.randn(copies.shape, generator=generator)
answers = few_labels[origin]

order = torch.randperm(len(copies), generator=generator)
leaky = {"train": order[:720], "validation": order[720:]}
shared = set(origin[leaky["train"]].tolist()) & set(
    origin[leaky["validation"]].tolist()
)
print(f"{len(shared)} of 120 digits have copies in both parts")

# %%
# Now the same with the split made over the *digits*, before they are copied:

digits = torch.randperm(120, generator=generator)
in_training = torch.isin(origin, digits[:90])
clean = {
    "train": in_training.nonzero()[:, 0],
    "validation": (~in_training).nonzero()[:, 0],
}

noisy = prepare(scans)
noisy = noisy + 0.5 * torch.randn(noisy.shape, generator=generator)
validated = {}
for name, split in {"copies shuffled": leaky, "digits split": clean}.items():
    small = fit(
        make_model(0), copies[split["train"]], answers[split["train"]], epochs=10
    )
    validated[name] = accuracy(
        small, copies[split["validation"]], answers[split["validation"]]
    )
    new = accuracy(small, noisy, truth)
    print(f"{name:16} validation {validated[name]:.3f}, new digits {new:.3f}")
    assert new < 0.9  # whichever way it was split
assert validated["copies shuffled"] > 0.97 and validated["digits split"] < 0.9

# %%
# With shuffled copies the validation promises perfection, and new digits, made as noisy as the copies, show what to expect. On average
# the network had trained on six of the eight copies of a digit, and was examined on the other two. That is :term:`leakage`: something of
# the examination was in the training. The other split trains on fewer digits and has only 30 to validate on, so its number is rough; but
# it does not promise what cannot be kept.
#
# Copies are one way to leak. The same patient in both parts, a mean computed over all data, or a file name that tells the class are
# others. Split first, by whatever belongs together.
#
# And sometimes nobody made a mistake. The scans are simply not like the training data any more:

for distortion in (1.0, 1.5, 2.0, 3.0):
    bent, bent_labels = glyphs(600, size=16, seed=2, distortion=distortion).tensors
    share = accuracy(model, prepare(bent), bent_labels)
    sure = model(prepare(bent)).softmax(1).max(1).values.mean()
    print(f"distortion {distortion}: accuracy {share:.2f}, mean confidence {sure:.2f}")

assert share < 0.5 < sure

# %%
# The network was trained at distortion 1. Its confidence falls with the distortion, but far less than its accuracy: at 3, most answers
# are wrong and it still claims to be right in most cases. So confidence alone is not enough. Keep some labelled examples from where the
# network is used, and measure on those.
#
# Which layer made the NaN?
# -------------------------
#
# The other thing that happens to everybody: the loss is ``nan``. Once a NaN is in the weights, everything is NaN, and you cannot see where
# it began. So let a hook stop at the first one. This network divides each row by its length, and one row is all zeros (the first layer
# has no bias, so it stays zero):


class Direction(nn.Module):
    def forward(self, x):
        return x / x.norm(dim=1, keepdim=True)


def stop_at_nan(name):
    def check(module, inputs, output):
        if not output.isfinite().all():
            rows = (~output.isfinite()).flatten(1).any(dim=1).nonzero()[:, 0].tolist()
            raise FloatingPointError(f"{name} = {module}: rows {rows} are not finite")

    return check


# %%

torch.manual_seed(0)
net = nn.Sequential(
    nn.Linear(4, 8, bias=False), nn.ReLU(), Direction(), nn.Linear(8, 2)
)
for name, part in net.named_children():
    part.register_forward_hook(stop_at_nan(name))

batch = torch.randn(5, 4)
batch[3] = 0
try:
    net(batch)
except FloatingPointError as error:
    print(error)
    message = str(error)
assert message.startswith("2 = Direction()") and "[3]" in message

# %%
# Layer 2, row 3: now you know which sample to look at. But a NaN can also be born on the way *back*, from a loss that is perfectly
# finite. You expect that a finite loss has finite gradients; look at the distance of two points that coincide:

point = torch.tensor([1.0, 2.0], requires_grad=True)
target = torch.tensor([1.0, 2.0])


def distance(a, b):
    squares = (a - b) ** 2
    return squares.sum().sqrt()


loss = distance(point, target)
loss.backward()
print("loss", loss.item(), "gradient", point.grad.tolist())
assert loss.isfinite() and point.grad.isnan().all()

# %%
# The root has an infinite slope at 0, the square has slope 0, and :math:`\infty \cdot 0` is NaN. No forward hook sees that. **Anomaly
# mode** does: it keeps, for every operation, the place where it was called, checks each gradient, and names the line when one is NaN.

import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        with torch.autograd.set_detect_anomaly(True):
            distance(point, target).backward()
    except RuntimeError as error:
        print("RuntimeError:", error)
        stopped = str(error)

lines = "\n".join(str(warning.message) for warning in caught).splitlines()
where = next(i for i, line in enumerate(lines) if line.endswith("in distance"))
print("in distance:", lines[where + 1].strip())
assert "PowBackward0" in stopped and "squares" in lines[where + 1]

# %%
# It names the square, where the infinite slope of the root met the slope 0. (In your own program that place simply appears on the
# screen, as a warning with a traceback; here we catch it and show the line in ``distance``.) Anomaly mode costs time, so switch it on for
# the search and off again. The fix depends on what you want: :func:`torch.linalg.vector_norm` has the slope 0 at 0; or add a tiny number
# below the root, ``(squares.sum() + 1e-12).sqrt()``.
#
# How do I look around in there?
# ------------------------------
#
# When you do not know yet what to ask, stop the program and look. Write ``breakpoint()`` into ``forward``, and Python waits there for your
# commands: ``p`` prints an expression, ``n`` runs the next line, ``c`` continues. For a script that ends with an error,
# ``python -m pdb -c continue train.py`` waits where the error is. This page has no keyboard, so the folded cell makes a debugger that
# takes its commands from a list.

# fold: a debugger that takes its commands from a list
import io
import pdb

typed = ["p x.shape", "p x.isnan().sum()", "n", "n", "p scores.shape", "c"]
screen = io.StringIO()
keyboard = io.StringIO("\n".join(typed) + "\n")
debugger = pdb.Pdb(stdin=keyboard, stdout=screen, nosigint=True, readrc=False)

# %%


class Head(nn.Module):
    def forward(self, x):
        debugger.set_trace()  # in your own code: breakpoint()
        scores = x.flatten(1).mean(dim=1)
        return scores * 10


_ = Head()(torch.arange(12.0).reshape(2, 3, 2))

# %%

# fold: what was typed and what came back
for command, answer in zip(typed, screen.getvalue().split("(Pdb) ")[1:]):
    if command.startswith("p "):
        print("(Pdb)", command)
        print(answer.strip())
assert "torch.Size([2, 3, 2])" in screen.getvalue()

# %%
# Often a plain ``print(x.shape, x.mean(), x.std())`` in ``forward`` is enough: the network is Python, so you may print wherever you want.
# Stay calm when the numbers are strange: that is normal. Each result of this page looked impossible, and each had a reason that one
# comparison found:
#
# .. list-table::
#    :header-rows: 1
#
#    * - what you see
#      - what to compare
#    * - fails in use, loss in training fine
#      - the same input, layer by layer, in both programs
#    * - worse in small or sorted batches
#      - ``model.training``, ``eval()``
#    * - better in validation than in use
#      - what the two parts share
#    * - sure and wrong
#      - labelled examples from where it is used
#    * - NaN in the loss
#      - the first layer that is not finite
#    * - loss finite, weights NaN
#      - anomaly mode
#
# Take this with you
# ------------------
#
# A guard for any model: it stops at the first layer whose output is not finite, and says which. Take the hooks off when you are done.


def guard(name, module):
    def check(module, inputs, output):
        if torch.is_tensor(output) and not output.isfinite().all():
            raise FloatingPointError(f"not finite after {name}: {module}")

    return module.register_forward_hook(check)


hooks = [guard(name, part) for name, part in model.named_modules() if name]
model(prepare(twenty))  # train or predict as always
for hook in hooks:
    hook.remove()

# %%
# Change something
# ----------------
#
# * Leave out the line that sorts the scans folder by folder. What does forgetting ``eval()`` cost now, in batches of 20 and of 2?
# * Turn the scans into negatives: ``255 - scans``. Which layer does ``first_difference`` name, and how accurate is the model?
# * In the experiment with copies, give ``torch.isin`` 110 of the 120 digits. What happens to the validation of the clean split?
#
# .. dropdown:: What happens
#
#    * In batches of 20 almost nothing, since each is a mixture. In batches of 2 more than a third of the answers are wrong: two
#      digits are too few to take a mean from. The assertion below 0.5 stops the page.
#    * ``input``, and about one answer in five is right. Nothing in the network can tell it that black and white are exchanged.
#    * It rises by some points, because there are more digits to learn from; and it rests on ten digits, so another draw may say
#      something else. The assertion holds.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the first difference
#
#    The program now prepares the images correctly and says ``eval()``, but it loads a file of weights in which somebody has set the bias of
#    the last layer to zero. Which name does ``first_difference`` give? The names are the numbers of the layers, from ``"0"`` to ``"13"``.

### BEGIN SOLUTION
guess = "13"
### END SOLUTION

spoilt = deepcopy(model)
nn.init.zeros_(spoilt[13].bias)
expect(guess, first_difference(works, trace(spoilt, prepare(twenty))))

# %%
# .. exercise:: Fix a gradient that is NaN
#
#    ``torch.where(x > 0, x.sqrt(), 0.0)`` looks safe, and its gradient at 0 is NaN: the branch that is not taken is computed all the same,
#    and its infinite slope is multiplied by zero. So nothing bad may be computed at all: put a harmless number under the root first, where
#    ``x`` is not positive. Write ``safe_sqrt``: the root where ``x`` is positive, 0 elsewhere, with gradient 0 there.


def safe_sqrt(x):
    ### BEGIN SOLUTION
    positive = x > 0
    inside = torch.where(positive, x, 1.0)
    return torch.where(positive, inside.sqrt(), 0.0)
    ### END SOLUTION


def slopes():
    x = torch.tensor([0.0, 4.0, 0.25], requires_grad=True)
    safe_sqrt(x).sum().backward()
    return x.grad


expect(lambda: safe_sqrt(torch.tensor([0.0, 4.0, -1.0])), torch.tensor([0.0, 2.0, 0.0]))
expect(slopes, torch.tensor([0.0, 0.25, 1.0]))

# %%
# .. exercise:: Build a split that does not leak
#
#    Several rows may come from one patient; ``patients`` holds a number for each row. Write ``split_by_patient``: it returns a
#    boolean tensor, True for the rows of training, such that no patient is on both sides. The ``count`` *smallest* patient numbers
#    are the training (:meth:`torch.Tensor.unique` returns them sorted).


def split_by_patient(patients, count):
    ### BEGIN SOLUTION
    chosen = patients.unique()[:count]
    return torch.isin(patients, chosen)
    ### END SOLUTION


rows = torch.tensor([7, 3, 3, 9, 7, 1, 9, 9])
expect(
    lambda: split_by_patient(rows, 2),
    torch.tensor([False, True, True, False, False, True, False, False]),
)
