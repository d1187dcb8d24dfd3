r"""
Normalisation and dropout
=========================

Get a deep network to learn with BatchNorm, write BatchNorm, LayerNorm and dropout by
hand, and see what a forgotten ``eval()`` does.

.. lesson::
   :needs: networks/01_modules networks/02_activations_and_initialization
   :data: scikit-learn's handwritten digits
   :keywords: batch normalization, batch norm, BatchNorm1d, BatchNorm2d, layer
      normalization, layer norm, regularization, running_mean, running_var, momentum,
      train mode, eval mode, model.eval, good in training bad in prediction, Expected
      more than 1 value per channel when training, batch size 1
   :thumbnail: 4
"""

# %%
# Why does the deep network learn nothing?
# ----------------------------------------
#
# You want to read handwritten digits of 8 by 8 pixels, and stack ten hidden layers, each a :class:`torch.nn.Linear` and a ReLU. You
# train it five times, from five starts. Then you put one more layer, :class:`torch.nn.BatchNorm1d`, in front of each ReLU.

import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F

images, labels = digits().tensors
pixels = images.flatten(1)
order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
train_rows, test_rows = order[:1400], order[1400:]


def make(norm=None, seed=0):
    """Return ten hidden layers of 64 units; norm is the class of an extra layer."""
    torch.manual_seed(seed)
    layers = []
    for _ in range(10):
        layers.append(nn.Linear(64, 64))
        if norm:
            layers.append(norm(64))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(64, 10))


# %%
# Everything else is the same for both: four epochs in batches of 50, SGD with :term:`momentum` at a :term:`learning rate` of 0.1, and
# the same order of the data.


def fit(model, rate):
    """Train for four epochs; return the loss of every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(4):
        shuffled = train_rows[torch.randperm(1400, generator=generator)]
        for rows in shuffled.split(50):
            loss = F.cross_entropy(model(pixels[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def accuracy(model):
    """Return the share of the test images that the model reads right."""
    with torch.no_grad():
        return (model(pixels[test_rows]).argmax(1) == labels[test_rows]).float().mean()


# %%

histories, scores = {}, {}
nets = {"plain": None, "BatchNorm": nn.BatchNorm1d}
for name, norm in nets.items():
    histories[name], scores[name] = [], []
    for seed in range(5):
        model = make(norm, seed)
        histories[name].append(fit(model, rate=0.1))
        model.eval()  # for prediction; the page comes back to it
        scores[name].append(accuracy(model).item())
    print(f"{name:<9} test accuracy", [f"{score:.2f}" for score in scores[name]])
assert max(scores["plain"]) < 0.2 and min(scores["BatchNorm"]) > 0.7

# %%

# fold: the losses of the ten runs
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 3))
for (name, runs), style in zip(histories.items(), ("C0-", "C1--")):
    ax.plot(torch.tensor(runs).T, style, linewidth=0.9)[0].set_label(name)
ax.set(xlabel="step", ylabel="training loss", ylim=(0, 2.8))
ax.legend(loc="center right")

# %%
# .. caption:: Five starts each. Without BatchNorm (solid) the loss stays where guessing begins; with it (dashed) it falls.
#    :alt: Five solid curves stay level near 2.3. Five dashed curves fall within about twenty steps to about 0.7 and go on slowly, with
#       spikes.
#
# With ten digits, guessing is right one time in ten, at a loss of :math:`\log 10 \approx 2.3`. The plain network never leaves that level.
#
# What do the deep layers see?
# ----------------------------
#
# Look at fresh networks, before any training. Send 200 different images through and ask right after each hidden linear layer: how much
# does a unit's value differ from image to image? That is its standard deviation over the batch, its *spread*; we average it over the 64
# units. In the second network the next BatchNorm has not touched these values yet, but the ones before it have.


def spreads(model):
    found = []
    x = pixels[:200]
    for layer in model[:-1]:
        x = layer(x)
        if isinstance(layer, nn.Linear):
            found.append(x.std(dim=0).mean().item())
    return found


seen = {name: spreads(make(norm)) for name, norm in nets.items()}
for name, values in seen.items():
    print(f"{name:<9} first layer {values[0]:.1e}, tenth layer {values[-1]:.1e}")
assert seen["plain"][-1] < seen["plain"][0] / 100

# %%

# fold: the spread per layer
fig, ax = plt.subplots(figsize=(6, 2.8))
for (name, values), marker in zip(seen.items(), "os"):
    ax.semilogy(range(1, 11), values, marker=marker, label=name)
ax.set(xlabel="hidden layer", ylabel="spread over images", xticks=range(1, 11))
ax.legend()

# %%
# .. caption:: How much the values differ from image to image, on a logarithmic axis. In the plain network the difference fades with
#    every layer.
#    :alt: A line with round markers falls steadily over ten layers, by several powers of ten. One with square markers stays
#       level, a little below 1.
#
# In the plain network all images look nearly the same to the tenth layer, so it cannot tell them apart. (The default start weights of
# :class:`torch.nn.Linear` are small; :doc:`/lessons/networks/02_activations_and_initialization` chooses better ones.)
# **BatchNorm** :cite:p:`ioffe2015` repairs the signal after every linear layer: it shifts and scales each unit's values so that, over the
# batch, their mean is 0 and their spread is 1.
#
# Would a better start have done it, too?
# ---------------------------------------
#
# That depends on the learning rate. Give the plain network Kaiming's start weights, made for ReLU, and train it at a small rate and at the
# one from above. Three starts each.

kaiming = {0.01: [], 0.1: []}
for rate, found in kaiming.items():
    for seed in range(3):
        network = make(seed=seed)
        for layer in network[:-1:2]:  # every other layer is linear
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        fit(network, rate)
        found.append(accuracy(network).item())
    print(f"Kaiming start, rate {rate:<4}", [f"{score:.2f}" for score in found])
assert min(kaiming[0.01]) > 0.5
assert max(kaiming[0.1]) < min(scores["BatchNorm"])

# %%
# At the small rate the plain network learns from the better start. At the rate of 0.1 all three stay below the five runs with BatchNorm.
# One possible reason: if the weights of a linear layer all grow by the same factor, the BatchNorm behind it divides this factor out again,
# so a step that is too long does less harm.
#
# What exactly does BatchNorm compute?
# ------------------------------------
#
# A batch of :math:`N` samples goes in, one column per unit. For each column, with :math:`\bar x` and :math:`\sigma^2` its mean and
# variance over the batch (divided by :math:`N`),
#
# .. math:: \hat x^{(i)} = \frac{x^{(i)} - \bar x}{\sqrt{\sigma^2 + \varepsilon}}, \qquad y^{(i)} = \gamma\,\hat x^{(i)} + \beta
#
# The small :math:`\varepsilon` prevents a division by 0. The scale :math:`\gamma` and shift :math:`\beta`, one of each per column, are
# :term:`parameters <parameter>`: they start at 1 and 0, and training may move them. Take five people: height, weight, age.


def normalise(x, dim):
    """Return x with mean 0 and spread 1 along dim, and the spread that it had."""
    mean = x.mean(dim, keepdim=True)
    spread = (x.var(dim, correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - mean) / spread, spread


people = [[172, 64, 35], [181, 90, 28], [165, 58, 61], [158, 55, 19], [190, 95, 44]]
x = torch.tensor(people, dtype=torch.float64)
hat, spread = normalise(x, dim=0)
print(hat.numpy().round(2))
torch.manual_seed(0)
layer = nn.BatchNorm1d(3).double()
nn.init.normal_(layer.weight)  # γ and β of a trained layer: any numbers
nn.init.normal_(layer.bias)
torch.testing.assert_close(layer.weight * hat + layer.bias, layer(x))

# %%
# And on the way back?
# --------------------
#
# Mean and spread depend on *all* samples of the batch, so each sample's gradient does, too. Write :math:`g` for the gradient that arrives
# at :math:`\hat x`, which is :math:`\gamma\, \partial L/\partial y`. The chain rule through :math:`\bar x` and :math:`\sigma` gives
#
# .. math:: \frac{\partial L}{\partial x^{(i)}} = \frac{1}{\sqrt{\sigma^2+\varepsilon}}
#           \Bigl(g^{(i)} - \overline{g} - \hat x^{(i)}\,\overline{g \hat x}\Bigr)
#
# where the bars are means over the batch. The two terms that are subtracted have a meaning: lifting the whole column, or stretching
# it, does (but for :math:`\varepsilon`) not change :math:`\hat x`, so the gradient must have no part in these two directions: its sum over
# the column is 0, and so is that of its product with :math:`\hat x`. ``normalise_back`` turns :math:`g` into the gradient of x.


def normalise_back(g, hat, spread, dim):
    lift = g.mean(dim, keepdim=True)
    stretch = (g * hat).mean(dim, keepdim=True)
    return (g - lift - hat * stretch) / spread


above = torch.randn(5, 3, dtype=torch.float64)  # dL/dy, from the layer above
leaf = x.clone().requires_grad_()
layer(leaf).backward(above)
dx = normalise_back(layer.weight.detach() * above, hat, spread, dim=0)
print("dx of the first person, by hand ", dx[0].numpy().round(5))
print("dx of the first person, autograd", leaf.grad[0].numpy().round(5))
sums = torch.stack([dx, dx * hat]).sum(1).abs().numpy().round(5)
print("sums over the people, of dx", sums[0], "of dx times x̂", sums[1])
torch.testing.assert_close(dx, leaf.grad)
torch.testing.assert_close((above * hat).sum(0), layer.weight.grad)
torch.testing.assert_close(above.sum(0), layer.bias.grad)

# %%
# What if a single image comes?
# -----------------------------
#
# The variance of a single value is 0, and the output could only be β. In training, BatchNorm refuses:

layer = nn.BatchNorm1d(3)
try:
    layer(torch.zeros(1, 3))
except ValueError as error:
    print("ValueError:", error)

# %%
# The same happens when the last batch of an epoch holds one sample; ``drop_last=True`` of the :class:`~torch.utils.data.DataLoader`
# leaves it out. For prediction, BatchNorm has two :term:`buffers <buffer>`, ``running_mean`` and ``running_var``. In training each batch
# moves them, in ``eval`` mode they stand in for the mean and variance of the batch. With :math:`m` for the first and :math:`v` for the
# second,
#
# .. math:: y = \gamma\,\frac{x - m}{\sqrt{v + \varepsilon}} + \beta
#
# Two conventions surprise: ``momentum=0.1`` is the
# weight of the *new* value (in :class:`torch.optim.SGD` momentum is the share of the old that stays), and the running variance
# divides by :math:`N - 1`, while the one used in training divides by :math:`N`.

generator = torch.Generator().manual_seed(0)
mean, variance = torch.zeros(3), torch.ones(3)
for batch in torch.randn(4, 8, 3, generator=generator) * 5 + 100:
    layer(batch)
    mean = 0.9 * mean + 0.1 * batch.mean(dim=0)
    variance = 0.9 * variance + 0.1 * batch.var(dim=0)  # divided by N - 1
print("by hand    ", mean, variance)
running = (layer.running_mean, layer.running_var)
print("BatchNorm1d", *running)
torch.testing.assert_close(running, (mean, variance))

by_hand = (100.0 - mean[None]) / (variance + 1e-5).sqrt()  # γ is 1 and β 0 here
torch.testing.assert_close(layer.eval()(torch.full((1, 3), 100.0)), by_hand)
print("eval, a batch of one:", by_hand)

# %%
# Four batches around 100, and the running means are far below 100, because they started at 0. So a value of 100, which is just the mean
# of the data, comes out far from 0. After a very short training ``eval`` mode can be much worse than ``train`` mode for this reason
# alone: after :math:`k` batches a share of :math:`0.9^k` of the start is left.
#
# Good in training, bad in prediction: bad luck?
# ----------------------------------------------
#
# What you expect: under :class:`torch.no_grad` the model predicts as it will in use. What happens: ``no_grad`` only stops the recording
# of the graph. The model still takes mean and spread from the batch, so what it says about *your* image depends on the images that
# happen to be beside it. Of the test images that our last network reads right, take the one it is least sure of, and put it into thirty
# random batches of sixteen. The network in train mode is a copy, and its parameters are frozen:

import copy

forgotten = copy.deepcopy(model).train().requires_grad_(False)
with torch.no_grad():
    sure, answers = model(pixels[test_rows]).softmax(1).max(dim=1)
    sure[answers != labels[test_rows]] = 1.0
    mine = test_rows[sure.argmin()]

    beside = {"eval forgotten": [], "eval": []}
    for _ in range(30):
        others = train_rows[torch.randperm(1400, generator=generator)[:15]]
        batch = pixels[torch.cat([mine[None], others])]
        for found, network in zip(beside.values(), (forgotten, model)):
            found.append(network(batch).softmax(1)[0, labels[mine]].item())
for name, found in beside.items():
    print(f"{name:14}: true class between {min(found):.3f} and {max(found):.3f}")
swings = {name: max(found) - min(found) for name, found in beside.items()}
assert swings["eval forgotten"] > 0.1 and swings["eval"] < 1e-4

# %%

# fold: the probability of the true class, batch by batch
fig, ax = plt.subplots(figsize=(6, 2.8))
for (name, found), style in zip(beside.items(), ("o", "--")):
    ax.plot(range(1, 31), found, style, label=name)
ax.set(xlabel="batch", ylabel="P(true digit)", ylim=(-0.03, 1.03))
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

# %%
# .. caption:: One and the same image in thirty batches. In train mode (dots) its neighbours decide; in eval mode (dashed) they do not
#    count.
#    :alt: Thirty dots scattered over a wide range of heights between 0 and 1; a dashed level line shows the one answer of eval mode.
#
# Real data often comes sorted. Give the network one digit at a time, a batch of nothing but zeros, then one of ones, and so on. Each
# image looks average beside its own kind, and what made it a zero is subtracted.

hits = {"eval": 0, "forgotten": 0}
with torch.no_grad():
    for digit in range(10):
        batch = pixels[test_rows[labels[test_rows] == digit]]
        hits["eval"] += (model(batch).argmax(1) == digit).sum().item()
        hits["forgotten"] += (forgotten(batch).argmax(1) == digit).sum().item()
print({name: f"{count / len(test_rows):.2f}" for name, count in hits.items()})
moved = (forgotten[1].running_mean - model[1].running_mean).abs().max()
print(f"largest change of a running mean: {moved:.2f}")
assert hits["forgotten"] < 0.7 * hits["eval"] and moved > 0

# %%
# The accuracy collapses, without an error and without a change of a single weight. And neither ``no_grad`` nor ``requires_grad_(False)``
# kept the running statistics still: in train mode every forward pass moves them. The fix for both is ``model.eval()`` before you
# predict, and ``eval()`` on every part that you freeze, again after each ``model.train()``.
#
# Can one do without the neighbours?
# ----------------------------------
#
# **LayerNorm** :cite:p:`ba2016` takes mean and spread over the values of *one sample*, along its row instead of down
# the column.

# fold: which values share a mean and a spread
fig, axes = plt.subplots(1, 2, figsize=(6, 2.6))
for ax, title, chosen in zip(axes, ("BatchNorm", "LayerNorm"), ((slice(None), 1), 1)):
    table = torch.zeros(5, 6)
    table[chosen] = 1
    ax.pcolormesh(table, cmap="Blues", vmax=1.6, edgecolors="0.6", linewidth=1)
    ax.set(title=title, xlabel="units", ylabel="samples", xticks=[], yticks=[])

# %%
# .. caption:: The dark cells share a mean and a spread: one unit over all samples, or one sample over all units.
#    :alt: Two grids of five rows, the samples, and six columns, the units. In the left one a column is dark, in the right one a row.
#
# By hand it is the function from above with ``dim=1``, forward and backward (γ is 1 here and β is 0).

layer = nn.LayerNorm(3).double()
leaf = x.clone().requires_grad_()
hat, spread = normalise(x, dim=1)
out = layer(leaf)
out.backward(above)
print("first person with all others", out[0].detach().numpy().round(4))
print("first person alone          ", layer(x[:1])[0].detach().numpy().round(4))
torch.testing.assert_close(out, hat)
torch.testing.assert_close(leaf.grad, normalise_back(above, hat, spread, dim=1))
torch.testing.assert_close(layer(x[:1]), out[:1])

# %%
# A batch of one is fine, there is nothing to remember, and train and eval mode agree. That is one reason why :term:`transformers
# <transformer>`, whose batches hold texts of different lengths, use it. The price: it mixes the units, which must be of one kind.
# Height, weight and age in one mean make little sense; 64 units of a hidden layer do.
#
# What does dropout do?
# ---------------------
#
# Dropout is the second layer with two modes. It is meant against :term:`overfitting`; this page shows only how it works. In training,
# :term:`dropout` sets each value to 0 with probability :math:`p`, so that no unit can rely on a certain other one. What is kept is
# divided by :math:`1 - p`: then the mean stays what it was, and the next layer sees in ``eval`` mode, where nothing is dropped, values of
# the size it was trained on.


def drop(x, p):
    keep = torch.rand_like(x) >= p
    return x * keep / (1 - p)


torch.manual_seed(0)
row = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(20_000, 4).clone().requires_grad_()
layer = nn.Dropout(p=0.25)
out = layer(row)
out.sum().backward()
print("one row:", [round(value, 2) for value in out[0].tolist()])
print("means, Dropout", [f"{mean:.1f}" for mean in out.mean(dim=0)])
print("means, by hand", [f"{mean:.1f}" for mean in drop(row, 0.25).mean(dim=0)])
keep = out != 0
torch.testing.assert_close(out, row * keep / 0.75)
torch.testing.assert_close(row.grad, keep / 0.75)  # back through what was kept
assert torch.equal(layer.eval()(row), row)

# %%
# Take this with you
# ------------------
#
# Linear, BatchNorm, activation, in this order; the linear layer needs no bias, because BatchNorm subtracts it again. Call ``eval()``
# before you predict, and check once that an image alone gets the answer that it gets among others.

block = [nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)]
model = nn.Sequential(*block, nn.Linear(32, 10))
model.train()
loss = F.cross_entropy(model(pixels[:100]), labels[:100])  # and the training loop

model.eval()
with torch.no_grad():
    together = model(pixels[:100])
    alone = model(pixels[:1])
torch.testing.assert_close(alone, together[:1])

# %%
# Change something
# ----------------
#
# * In the first experiment, write ``nn.LayerNorm`` in place of ``nn.BatchNorm1d`` in ``nets``, and train at ``rate=0.01``. Does it rescue
#   this network, too? And what does a forgotten ``eval()`` do?
# * In ``normalise``, set ``correction=1``, the usual variance. By which factor do the results differ from the layer's?
# * Put the uncertain image among 199 others instead of 15. Do the dots come together?
#
# .. dropdown:: What happens
#
#    * Yes: all five learn, while the plain network stays at guessing at this rate, too. (At 0.1, LayerNorm stays at guessing as well. It
#      keeps less of the difference between images than BatchNorm: over ten layers, the spread falls to less than half.) A forgotten
#      ``eval()`` does nothing, so an assert stops the page.
#    * By :math:`\sqrt{4/5}`, because there are five people: all values come out smaller, and the comparison with the layer stops the page.
#    * A little: their range gets narrower, and is still wide. Mean and spread of 200 images are estimates, too.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a running mean
#
#    A fresh ``BatchNorm1d(1)`` in train mode sees two batches; the mean of the first is 10, that of the second 20. What is its
#    ``running_mean``?

### BEGIN SOLUTION
guess = 2.9
### END SOLUTION

layer = nn.BatchNorm1d(1)
for batch in ([[8.0], [12.0]], [[15.0], [25.0]]):
    layer(torch.tensor(batch))
expect(guess, layer.running_mean.item(), atol=1e-4)

# %%
# .. exercise:: Fix BatchNorm for images
#
#    For images of shape (N, C, H, W) a colleague writes ``normalise(images, dim=0)[0]``. It runs and has the right shape, but every
#    *pixel* gets a mean of its own. :class:`torch.nn.BatchNorm2d` has one mean and one variance per *channel*, over samples, rows
#    and columns. Write it (without γ and β).


def batch_norm_2d(images):
    ### BEGIN SOLUTION
    return normalise(images, dim=(0, 2, 3))[0]
    ### END SOLUTION


pictures = torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(1)) * 3 + 7
expect(lambda: batch_norm_2d(pictures), nn.BatchNorm2d(3, affine=False)(pictures))

# %%
# .. exercise:: Build one layer from two
#
#    In eval mode BatchNorm only multiplies and adds, so a linear layer can do its work, and prediction gets faster. Write ``fold(linear,
#    norm)``: return the weight and the bias of *one* linear layer that gives what ``norm(linear(x))`` gives in eval mode.


def fold(linear, norm):
    ### BEGIN SOLUTION
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = linear.weight * scale[:, None]
    bias = (linear.bias - norm.running_mean) * scale + norm.bias
    return weight, bias
    ### END SOLUTION


def folded_output():
    with torch.no_grad():
        weight, bias = fold(first, second)
        return F.linear(pixels[:6], weight, bias)


with torch.no_grad():
    first, second = make(nn.BatchNorm1d, seed=3)[:2]
    nn.init.normal_(second.weight)
    nn.init.normal_(second.bias)
    second(first(pixels[:300]))  # moves the running statistics
    expected = second.eval()(first(pixels[:6]))
expect(folded_output, expected, atol=1e-4)
