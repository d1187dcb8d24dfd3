r"""
Activations and initialisation
==============================

Choose start weights with which a deep network can learn, and find the units that have
stopped learning.

.. lesson::
   :needs: networks/01_modules optimization/05_backpropagation
   :data: scikit-learn's handwritten digits
   :keywords: weight initialization, Xavier, Glorot, Kaiming, He initialization, fan_in,
      fan_out, vanishing gradient, exploding gradient, dying ReLU, dead neurons,
      activation function, nn.init, calculate_gain, reset_parameters, leaky ReLU, GELU,
      SiLU, Swish, loss stuck at 2.303, loss is nan
   :thumbnail: 1
"""

# %%
# Why does the loss not move?
# ---------------------------
#
# You want a program that reads handwritten digits.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F

plt.style.use("pytorch_course.book")
images, labels = digits().tensors
X = images.flatten(1)
X = (X - X.mean()) / X.std()
print(len(X), "images of", X.shape[1], "pixels")

# %%
# You make the network deep: thirty layers of 64 units, each followed by a ReLU, which sets negative numbers to zero. What is left to choose
# is how large the random start weights are. Their mean is 0; for their standard deviation, ``std``, we try 0.1, 0.177 and 0.3. (On this
# page, *spread* means standard deviation.)


def stack(std, activation=nn.ReLU):
    """Return 30 layers and a last one for ten classes, weights with this spread."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for outputs in [64] * 30 + [10]:
        layer = nn.Linear(64, outputs, bias=False)
        nn.init.normal_(layer.weight, std=std, generator=generator)
        parts += [layer, activation()]
    return nn.Sequential(*parts[:-1])


# %%
# ``train`` is the usual loop. It draws the same random batches at each call.


def train(model, steps, rate):
    """Take some steps on random batches of 128; return the losses."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(X), (128,), generator=generator)
        loss = F.cross_entropy(model(X[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
# Images, steps and learning rate are the same for all three. Guessing among ten classes costs :math:`\log 10 \approx 2.303`.

last = {}
for std in (0.1, 0.177, 0.3):
    losses = train(stack(std), steps=121, rate=0.01)
    last[std] = losses[-1]
    print(f"std {std:5}: loss", [round(loss, 3) for loss in losses[::40]])
assert abs(last[0.1] - 2.3026) < 0.01 and last[0.177] < 2.15
assert last[0.3] != last[0.3]  # only NaN differs from itself

# %%
# The first guesses, and goes on guessing. The second learns. The third begins with a loss in the millions and is
# :term:`NaN` from there on. Look into them before any training. How large are the outputs of each layer, and how large is the gradient of
# the first layer's weights? As size of the outputs we take the root of their mean square.


def sizes(model, x):
    """Return the size of the outputs after each activation."""
    found = []
    with torch.no_grad():
        for layer, activation in zip(model[::2], model[1::2]):
            x = activation(layer(x))
            found.append(x.square().mean().sqrt().item())
    return found


measured = {}
for std in last:
    model = stack(std)
    measured[std] = found = sizes(model, X)
    F.cross_entropy(model(X), labels).backward()
    slope = model[0].weight.grad.norm()
    print(f"std {std:5}: layer 1 {found[0]:.2f}, layer 30 {found[-1]:.1e}", end="")
    print(f", gradient {slope:.0e}")
assert measured[0.1][-1] < 1e-6 and measured[0.3][-1] > 1e6
assert 0.05 < measured[0.177][-1] < 20

# %%

# fold: the size of the outputs, layer by layer
fig, ax = plt.subplots(figsize=(6.4, 3.2))
for (std, found), marker in zip(measured.items(), "vos"):
    ax.semilogy(range(1, 31), found, marker=marker, label=f"std {std}")
ax.set(xlabel="layer", ylabel="size of outputs")
ax.legend()

# %%
# .. caption:: The size of the outputs after each layer, on a logarithmic axis, before training. Each layer multiplies it by about the
#    same factor, so it falls or rises along a line.
#    :alt: Three curves over 30 layers. For std 0.1 the size falls from about 1 to about 1e-8, for 0.3 it rises to more than 1e6, for
#       0.177 it stays near 1.
#
# With 0.1 the signal **vanishes**: the last layer gets numbers near zero, whatever the image, and a gradient so small that a step changes
# nothing. With 0.3 it **explodes**, and so does the gradient.
#
# Which spread keeps the size?
# ----------------------------
#
# Take one unit with :math:`n` inputs, :math:`z = \sum_k w_k x_k`. Its weights are independent, with mean 0. Then the mean squares of the
# terms add up. Their distribution is also symmetric: :math:`-w` is as likely as :math:`w`, so :math:`-z` as likely as :math:`z`. Then the
# negative :math:`z` carry half of the mean square, and ReLU sets them to zero:
#
# .. math::
#
#    \begin{aligned}
#    \operatorname{E}[z^2] &= n \operatorname{Var}(w) \operatorname{E}[x^2] \\
#    \operatorname{E}[\operatorname{relu}(z)^2] &= \tfrac12 \operatorname{E}[z^2]
#      = \tfrac{n}{2} \operatorname{Var}(w) \operatorname{E}[x^2]
#    \end{aligned}
#
# The size stays when the factor is 1: :math:`\operatorname{Var}(w) = 2/n`, a spread of :math:`\sqrt{2/64} \approx 0.177`. This is
# **Kaiming** :term:`initialisation`, also named after He :cite:p:`he2015`. Without an activation, the factor is
# :math:`n \operatorname{Var}(w)` and the rule :math:`1/n`. Measure both lines in one layer, wide enough to average out chance:

generator = torch.Generator().manual_seed(0)
x = torch.rand(50, 64, generator=generator)  # any inputs, here between 0 and 1
w = torch.randn(50_000, 64, generator=generator) * 0.1
z = x @ w.T
predicted = 64 * 0.1**2 * x.square().mean()
print(f"z:    predicted {predicted:.4f}, found {z.square().mean():.4f}")
print(f"relu: predicted {predicted / 2:.4f}, found {z.relu().square().mean():.4f}")
torch.testing.assert_close(z.square().mean(), predicted, rtol=0.1, atol=0)
torch.testing.assert_close(z.relu().square().mean(), predicted / 2, rtol=0.1, atol=0)

# %%
# On the way back the sum runs over the *outputs*, :math:`\partial L/\partial x_k = \sum_j W_{jk}\, \partial L/\partial z_j`, so the
# gradient keeps its size when :math:`n` is the number of outputs. For a layer that is not square you cannot have both.
# **Xavier** initialisation, also named after Glorot :cite:p:`glorot2010`, is meant for tanh. It takes the rule :math:`1/n`,
# and for :math:`n` the mean of both numbers: :math:`\operatorname{Var}(w) = 2/(n_\text{in} + n_\text{out})`. In PyTorch's words the two
# numbers are ``fan_in`` and ``fan_out``.
#
# Is there a function for it?
# ---------------------------
#
# :mod:`torch.nn.init` has both rules, each with two shapes: a normal distribution, or a uniform one between :math:`-b` and :math:`b`, whose
# variance is :math:`b^2/3`. The underscore at the end says that they write in place. By hand, for a layer from 64 to 48:

fan_in, fan_out = 64, 48
middle = 2 / (fan_in + fan_out)
variances = {"xavier_normal_": middle, "xavier_uniform_": middle}
variances |= {"kaiming_normal_": 2 / fan_in, "kaiming_uniform_": 2 / fan_in}
for name, variance in variances.items():
    generator = torch.Generator().manual_seed(0)
    if "normal" in name:
        mine = torch.randn(fan_out, fan_in, generator=generator) * variance**0.5
    else:
        bound = (3 * variance) ** 0.5
        mine = (2 * torch.rand(fan_out, fan_in, generator=generator) - 1) * bound
    theirs = torch.empty(fan_out, fan_in)
    getattr(nn.init, name)(theirs, generator=generator.manual_seed(0))
    print(f"{name:17} rule {variance**0.5:.4f}, found {theirs.std():.4f}")
    torch.testing.assert_close(theirs, mine)

# %%
# The same seed gives the same values: there is nothing in these functions but the rule. For other activations,
# :func:`torch.nn.init.calculate_gain` has the factor by which to multiply the spread :math:`\sqrt{1/n}`: for ReLU it is
# :math:`\sqrt2`, for a leaky ReLU with slope :math:`a` on the left it is :math:`\sqrt{2/(1+a^2)}`.
#
# What does nn.Linear do by default?
# ----------------------------------
#
# You might expect that the layers of a library begin with the right spread. PyTorch's own code says
# ``kaiming_uniform_(self.weight, a=math.sqrt(5))``. It sounds like Kaiming, and it is not the rule for ReLU: a leaky ReLU with slope
# :math:`\sqrt5` has the gain :math:`\sqrt{2/6}`. So :math:`n \operatorname{Var}(w)` is 1/3 instead of 2, and the bound is
# :math:`b = 1/\sqrt n`, here 1/8; the biases have the same bound. From one seed, the layer, a uniform distribution and
# ``kaiming_uniform_`` give the same weights:

torch.manual_seed(0)
layer = nn.Linear(64, 48)
torch.manual_seed(0)
weight = torch.empty(48, 64).uniform_(-1 / 8, 1 / 8)
bias = torch.empty(48).uniform_(-1 / 8, 1 / 8)
torch.manual_seed(0)
kaiming = nn.init.kaiming_uniform_(torch.empty(48, 64), a=5**0.5)
torch.testing.assert_close(layer.weight.detach(), weight)
torch.testing.assert_close(layer.bias.detach(), bias)
torch.testing.assert_close(kaiming, weight)
print(f"n Var(w) = {64 * layer.weight.var():.3f}, the ReLU rule says 2")

# %%
# Each ReLU layer multiplies the mean square by 1/6, so thirty of them multiply a spread by about
# :math:`6^{-15} \approx 2 \cdot 10^{-12}`. The biases add something that is the same for every image. How much do the answers differ from
# image to image? We compute in ``float64``, since in ``float32`` rounding would hide the difference:

torch.manual_seed(0)
parts = []
for outputs in [64] * 30 + [10]:
    parts += [nn.Linear(64, outputs), nn.ReLU()]
default = nn.Sequential(*parts[:-1])
spread = {}
for name, model in [("default", default), ("Kaiming", stack(0.177))]:
    with torch.no_grad():
        answers = model.double()(X.double())
    spread[name] = answers.std(dim=0).mean().item()
    size = answers.square().mean().sqrt()
    print(f"{name}: size {size:.3f}, spread over the images {spread[name]:.1e}")
assert spread["default"] < 1e-10 and spread["Kaiming"] > 1e-3

# %%
# Under the default, 1,797 different images get practically one answer. The small networks of earlier
# lessons trained from it all the same; in a deep one, set the start weights of every layer yourself. The next lesson,
# :doc:`/lessons/networks/03_normalization_and_dropout`, has layers that restore the size while the network runs.
#
# Which activation lets the gradient through?
# -------------------------------------------
#
# On the way back, each activation multiplies the gradient by its slope. Here are five :term:`activations <activation>`, by hand and
# from :mod:`torch.nn.functional`, with their slopes from autograd. :math:`\operatorname{erf}` is an integral of the bell curve.

z = torch.linspace(-5, 5, 201, requires_grad=True)
by_hand = {
    "sigmoid": 1 / (1 + torch.exp(-z)),
    "tanh": 2 * torch.sigmoid(2 * z) - 1,
    "relu": z * (z > 0),
    "gelu": z * (1 + torch.erf(z / 2**0.5)) / 2,
    "silu": z * torch.sigmoid(z),
}
slopes = {}
for name, values in by_hand.items():
    theirs = getattr(F, name)(z)
    torch.testing.assert_close(theirs, values)
    (slopes[name],) = torch.autograd.grad(theirs.sum(), z)
    left, largest = slopes[name][60], slopes[name].max()  # z[60] is -2
    print(f"{name:8} slope at -2 {left:6.3f}, largest slope {largest:.3f}")
assert slopes["sigmoid"].max() == 0.25

# %%

# fold: the five activations and their slopes
fig, axes = plt.subplots(1, 2, figsize=(7, 3.2))
for name, style in zip(by_hand, ("-", "--", "-.", "-", ":")):
    axes[0].plot(z.detach(), by_hand[name].detach(), style, label=name)
    axes[1].plot(z.detach(), slopes[name], style)
axes[0].set(title="activation", xlabel="z", ylim=(-1.2, 3))
axes[1].set(title="slope", xlabel="z")
axes[0].legend()

# %%
# .. caption:: Left, the five functions, right their slopes. Sigmoid and tanh become flat on both sides, ReLU is flat on the left.
#    :alt: Left, sigmoid and tanh are S-shaped, ReLU is zero and then a straight line, GELU and SiLU are smooth versions of it with a dip
#       below zero. Right, the slope of sigmoid is a low bump of height 0.25, of tanh a bump of height 1, of ReLU a step; GELU and
#       SiLU step smoothly.
#
# The slope of a sigmoid is never above 1/4, and a gradient passes thirty of them. Here are five stacks. Sigmoid and tanh start with
# Xavier's spread, :math:`\sqrt{1/64}`, the others with ReLU's. For each we divide the size of the gradient in the first layer
# by that in the thirtieth, ``model[58]``, since every other module is an activation:

ratios = {}
kinds = [nn.Sigmoid, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU]
for kind, std in zip(kinds, (0.125, 0.125, 0.177, 0.177, 0.177)):
    model = stack(std, kind)
    F.cross_entropy(model(X), labels).backward()
    first, thirtieth = model[0].weight.grad.norm(), model[58].weight.grad.norm()
    ratios[kind.__name__] = (first / thirtieth).item()
    print(f"{kind.__name__:8} first / thirtieth layer: {ratios[kind.__name__]:.1e}")
assert ratios.pop("Sigmoid") < 1e-12
assert min(ratios.values()) > 0.05 and max(ratios.values()) < 50

# %%
# In the stack of sigmoids next to nothing arrives at the first layer. The other four pass the gradient on. Their ratios are not 1: the
# rules hold on average, and GELU and SiLU borrow ReLU's.
#
# Why are some units always zero?
# -------------------------------
#
# ReLU has a trap of its own. Where :math:`z < 0`, its slope is 0. A unit whose :math:`z` is negative for *every* image gets no gradient
# from any of them. It is **dead**. Give a network with one hidden layer of 100 units twenty steps with a learning rate that is much too
# high, and then a hundred with a small one.

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")
nn.init.zeros_(model[0].bias)


def share_on(model):
    """Return for each hidden unit the share of images for which it is not zero."""
    with torch.no_grad():
        return (model[:2](X) > 0).float().mean(dim=0)


shares = {"start": share_on(model)}
train(model, steps=20, rate=2.0)
shares["high rate"] = share_on(model)
losses = train(model, steps=100, rate=0.05)
shares["low rate"] = share_on(model)
for name, share in shares.items():
    print(f"{name:9}: {(share == 0).sum()} of 100 units dead")
print(f"loss of the last batch: {losses[-1]:.2f}")

# %%
# What you expect: with a small rate the units recover. What happens: not one does. Why: their gradient is not small but exactly zero,
# and their inputs, the images, stay as they are.

dead = shares["low rate"] == 0
model.zero_grad()
F.cross_entropy(model(X), labels).backward()
slope = model[0].weight.grad.abs()
print(f"largest gradient of a dead unit  {slope[dead].max().item()}")
print(f"largest gradient of a living one {slope[~dead].max():.4f}")
assert slope[dead].max() == 0 and slope[~dead].max() > 0
assert dead.sum() >= (shares["high rate"] == 0).sum() > 20

# %%
# The fix is a lower rate from the start, or an activation with a slope on the left. To save a network that you have trained, revive the
# units: give them new weights towards their inputs, and zeros towards the outputs, so that the answers do not jump. In the first step only
# those zeros get a gradient, since the units are on; once they are no longer zero, a gradient passes back to the new weights, too. For
# comparison, a copy trains on without the revival, on the same batches.

import copy

as_it_was = copy.deepcopy(model)
with torch.no_grad():
    before = model(X)
    fresh = nn.init.kaiming_normal_(torch.empty(100, 64), nonlinearity="relu")
    model[0].weight[dead] = fresh[dead]
    model[0].bias[dead] = 0.0
    model[2].weight[:, dead] = 0.0
    torch.testing.assert_close(model(X), before)

ends = {}
for name, network in [("as it was", as_it_was), ("revived", model)]:
    ends[name] = train(network, steps=100, rate=0.05)[-1]
    shares[name] = share_on(network)
    on = (shares[name][dead] > 0).sum()
    print(f"{name:9}: {on} of {dead.sum()} on again, last loss {ends[name]:.2f}")
assert on > 0.9 * dead.sum() and not shares["as it was"][dead].any()
assert ends["revived"] < ends["as it was"]

# %%

# fold: for how many images each unit is on
fig, ax = plt.subplots(figsize=(6.4, 3))
row = shares["low rate"].argsort(stable=True)
for name, style in [("low rate", "s"), ("revived", "o")]:
    ax.plot(shares[name][row], style, markersize=4, label=name)
ax.axvline(dead.sum() - 0.5, color="0.6")
ax.set(xlabel="hidden unit", ylabel="share of images")
ax.legend()

# %%
# .. caption:: For which share of the images each of the 100 units is on; a unit has the same place before (squares) and after the revival
#    (dots). Left of the grey line are those that were dead. They take part again, some of them for few images.
#    :alt: Left of a grey line, about seventy squares lie at zero and the dots above them are scattered between 0 and 1. Right of it, most
#       squares are near zero, the last ones rise to about one half.
#
# Take this with you
# ------------------
#
# Give each layer the spread of its activation (here ReLU; ``nonlinearity`` names others) **once, before training**: ``apply`` calls a
# function for every module of the model, and this one overwrites the weights, trained or not. From time to time, count the units that are
# zero for all images of a large batch.


def start(module):
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
net.apply(start)  # a new model
hidden = net[:2](X)
print((hidden == 0).all(dim=0).sum().item(), "dead units")

# %%
# Change something
# ----------------
#
# * In ``stack``, write ``nn.init.constant_(layer.weight, 1 / 64)`` instead of ``nn.init.normal_(...)``. Does the loss fall?
# * In ``stack``, write ``activation=nn.Tanh`` instead of ``nn.ReLU``. What becomes of the explosion at 0.3?
# * In the last section, set ``rate=0.5`` instead of 2.0. How many units die?
#
# .. dropdown:: What happens
#
#    * No, it stays at 2.30, and an assert stops the page. All 64 units of a layer start equal, get equal gradients and stay equal: each
#      layer is one unit, 64 times. That is why start weights are random.
#    * It is gone, since tanh never exceeds 1: layer 30 has size 0.79, and there is no NaN, so an assert stops the page. But the large
#      weights push many units to where tanh is flat, and the loss goes from 4.1 to 2.3 and no further.
#    * None, and the loss falls to 0.14; the next cell stops, because it finds no dead unit to look at. Between 0.5 and 2.0 there is a rate
#      at which units begin to die.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a size
#
#    Inputs of size 1 (root of the mean square) pass five linear layers from 256 to 256, without activation and bias. The weights have mean
#    0 and spread 1/8. About how large are the outputs?

### BEGIN SOLUTION
guess = 32.0
### END SOLUTION

x = torch.randn(500, 256, generator=generator.manual_seed(0))
for _ in range(5):
    x = x @ torch.randn(256, 256, generator=generator) / 8
expect(guess, x.square().mean().sqrt().item(), atol=0.5)

# %%
# .. exercise:: Fix the start of a filter
#
#    The weight of a convolution has shape (16, 8, 3, 3): 16 outputs, each a sum over 8 channels of 3 × 3 pixels. A colleague starts it with
#    the spread :math:`\sqrt{2/8}`, and behind each such layer the signal is three times as large. Write ``start_filter``: it fills a weight
#    of any such shape in place with normal numbers of the right spread, taken from ``generator``, and returns it.


def start_filter(weight, generator):
    ### BEGIN SOLUTION
    terms = weight[0].numel()
    return weight.normal_(0.0, (2 / terms) ** 0.5, generator=generator)
    ### END SOLUTION


def seeded():
    return torch.Generator().manual_seed(2)


right = nn.init.kaiming_normal_(torch.empty(16, 8, 3, 3), generator=seeded())
expect(lambda: start_filter(torch.empty(16, 8, 3, 3), seeded()), right)

# %%
# .. exercise:: Build a count of the dead
#
#    Write ``count_dead``: for a :class:`torch.nn.Sequential` and a batch it returns a list. It holds the number of units that are zero for
#    every image of the batch, one number for each ``nn.ReLU``, from first to last.


def count_dead(model, x):
    ### BEGIN SOLUTION
    counts = []
    with torch.no_grad():
        for part in model:
            x = part(x)
            if isinstance(part, nn.ReLU):
                counts.append((x == 0).all(dim=0).sum().item())
    return counts
    ### END SOLUTION


torch.manual_seed(0)
layers = nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)
patient = nn.Sequential(*layers).apply(start)
nn.init.constant_(patient[0].bias[:3], -100.0)
nn.init.constant_(patient[2].bias[:5], -100.0)
expect(lambda: count_dead(patient, X), [3, 5])
