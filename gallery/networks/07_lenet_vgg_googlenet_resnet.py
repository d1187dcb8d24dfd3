r"""
LeNet, VGG, GoogLeNet and ResNet
================================

Build four famous networks small, measure what the idea of each one buys, and train
twenty-two layers with and without shortcuts.

.. lesson::
   :needs: networks/03_normalization_and_dropout networks/06_pooling_and_linear_layers
      optimization/08_learning_rates
   :data: generated glyphs (offline)
   :alone:
   :keywords: convolutional neural network architectures, CNN, LeNet-5, VGG16, VGG-16,
      Inception, GoogleNet, ResNet18, ResNet-18, skip connection, shortcut connection,
      residual block, bottleneck, 1x1 convolution, global average pooling, number of
      parameters, FLOPs, FLOPS counter, meta device, vanishing gradient, exploding
      gradient, degradation problem, deep network does not train, loss stays at 2.303,
      torchvision models without download
   :thumbnail: 2
"""

# %%
# Which network should I take?
# ----------------------------
#
# You want to read characters from photographs, and look for a network to copy. torchvision offers dozens. Take three famous ones and ask
# what each would cost you for one photograph.

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models


def cost(model, images):
    """Return the number of parameters, and of operations for these images."""
    with FlopCounterMode(display=False) as counter:
        model(images)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


with torch.device("meta"):
    photograph = torch.empty(1, 3, 224, 224)
    vgg = models.vgg16().eval()
    googlenet = models.googlenet(aux_logits=False, init_weights=False).eval()
    resnet = models.resnet18().eval()
counts = []
for name, model in [("VGG-16", vgg), ("GoogLeNet", googlenet), ("ResNet-18", resnet)]:
    parameters, flops = cost(model, photograph)
    counts.append(parameters)
    print(f"{name:9} {parameters:11,} parameters, {flops / 1e9:4.1f} GFLOP")
assert counts == [138_357_544, 6_624_904, 11_689_512]

# %%
# VGG and GoogLeNet are of the same year, 2014, and in that year's ImageNet contest GoogLeNet came first in classification and VGG second.
# The winner has about a twentieth of the parameters and a tenth of the operations. What did its authors know?
#
# Two tools in this cell are worth keeping. A tensor on the **meta** device has a shape and no numbers, so a network of half a gigabyte
# costs nothing to build, and nothing is downloaded. ``FlopCounterMode`` adds up the multiplications and additions of all convolutions
# and matrix products that run inside the ``with`` block; a GFLOP is a billion of them. Two arguments of GoogLeNet: ``init_weights=False``
# skips a slow way to draw first weights, and ``aux_logits=False`` leaves out two more classifiers that the paper uses during training only
# (with them it has 13,004,888 parameters).
#
# Now build all of them small enough to train here. The pictures are digits in many fonts, 16 by 16 pixels, turned, bent and noisy.

from torch import nn
from torch.nn import functional as F

from pytorch_course.datasets import glyphs
from pytorch_course.plots import image_grid


def pictures(n, seed):
    """Draw n digits: images of about zero mean, and their labels."""
    images, labels = glyphs(n, size=16, seed=seed).tensors
    return (images / 255 - 0.2) / 0.3, labels


torch.manual_seed(0)
train_images, train_labels = pictures(5120, seed=0)
test_images, test_labels = pictures(1000, seed=1)

# %%

# fold: the first sixteen digits
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig = image_grid((train_images[:16] * 0.3 + 0.2).clamp(0, 1))

# %%
# .. caption:: Sixteen of the training pictures. Another seed draws the test pictures.
#    :alt: Two rows of eight small grey digits in different fonts, some slanted, some noisy.
#
# What did each of them bring?
# ----------------------------
#
# **LeNet-5**, 1998 :cite:p:`lecun1998`: *share the weights*. The same small filter slides over the whole image, :term:`pooling` makes the
# maps coarser, and a few linear layers decide. Most later networks keep this plan. The activation was tanh, the pooling a mean.

lenet = nn.Sequential(
    nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
    nn.Sequential(nn.Conv2d(6, 16, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2)),
    nn.Sequential(nn.Flatten(), nn.Linear(256, 120), nn.Tanh()),  # 16 maps, 4x4
    nn.Sequential(nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)),
)

# %%
# **VGG**, 2014 :cite:p:`simonyan2015`: *only 3×3, and more layers*. Two 3×3 convolutions in a row
# see 5×5 pixels, as one 5×5 does. They need fewer weights, and have one more non-linearity between them. For 64 maps in and out:

maps = torch.zeros(1, 64, 9, 9)
one = nn.Conv2d(64, 64, 5, bias=False)
two = nn.Sequential(
    nn.Conv2d(64, 64, 3, bias=False), nn.ReLU(), nn.Conv2d(64, 64, 3, bias=False)
)
print("outputs", list(one(maps).shape), list(two(maps).shape))
print(f"weights {cost(one, maps)[0]:,} and {cost(two, maps)[0]:,}")
assert cost(one, maps)[0] == 25 * 64**2 and cost(two, maps)[0] == 18 * 64**2

# %%
# So why is VGG so large? Because of one layer:

layer = vgg.classifier[0]
print(layer, f"{layer.weight.numel() / counts[0]:.0%} of all parameters")

# %%
# Three quarters of the network is one matrix: the first linear layer after the convolutions, which reads all 512 maps of 7×7 at once.
# Our small VGG has such a layer, too. After each convolution we put BatchNorm, which came in 2015 and which the original lacks.


def conv(inputs, outputs, size=3, stride=1):
    """Return a convolution that keeps the size (at stride 1), BatchNorm and ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


small_vgg = nn.Sequential(
    nn.Sequential(conv(1, 16), conv(16, 16), nn.MaxPool2d(2)),  # 16 maps, 8x8
    nn.Sequential(conv(16, 32), conv(32, 32), nn.MaxPool2d(2)),  # 32 maps, 4x4
    nn.Sequential(nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10)),
)

# %%
# **GoogLeNet**, 2014 :cite:p:`szegedy2015`: *several filter sizes side by side, and squeeze first*.
# A feature may be small or large, so each block, called Inception, computes 1×1, 3×3 and 5×5 convolutions of the same input and stacks
# their maps. Large filters over many maps need many weights, so a 1×1 convolution reduces the number of maps before each of them. The
# numbers of the paper's first block, for the 5×5:

direct = nn.Conv2d(192, 32, 5, bias=False)
squeezed = nn.Sequential(
    nn.Conv2d(192, 16, 1, bias=False), nn.Conv2d(16, 32, 5, bias=False)
)
few = sum(p.numel() for p in squeezed.parameters())
print(f"weights: direct {direct.weight.numel():,}, squeezed first {few:,}")
assert few == 192 * 16 + 16 * 32 * 5**2

# %%
# Its second saving is at the end: in place of VGG's huge matrix stands the mean of each map, **global average pooling**, and one small
# linear layer. Here is the block. Its fourth branch takes the maximum of the neighbourhood:


class Inception(nn.Module):
    """Four branches over the same maps; a, b, c and d are the maps each returns."""

    def __init__(self, inputs, a, b, c, d):
        super().__init__()
        branches = [
            conv(inputs, a, 1),
            nn.Sequential(conv(inputs, b // 2, 1), conv(b // 2, b, 3)),
            nn.Sequential(conv(inputs, c // 2, 1), conv(c // 2, c, 5)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(inputs, d, 1)),
        ]
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        """Stack what the branches return along the axis of maps."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


small_googlenet = nn.Sequential(
    nn.Sequential(conv(1, 16, stride=2), Inception(16, 8, 16, 8, 8), nn.MaxPool2d(2)),
    Inception(40, 16, 32, 8, 8),  # reads 40 maps of 4x4
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
)
assert Inception(16, 8, 16, 8, 8)(torch.zeros(2, 16, 8, 8)).shape == (2, 40, 8, 8)

# %%
# Do not take torchvision's block for the paper's: its "5×5" is a 3×3, a slip that was kept because the published weights were trained
# with it. The library says so in a comment.

print(googlenet.inception3a.branch3[1].conv)
assert googlenet.inception3a.branch3[1].conv.kernel_size == (3, 3)

# %%
# **ResNet**, 2015 :cite:p:`he2016`: *add the input back*. A block computes a correction
# :math:`f(\mathbf{x})` and returns :math:`\mathbf{x} + f(\mathbf{x})`. The path past the convolutions is the **shortcut**.


class Block(nn.Module):
    """Two convolutions and, if asked for, a shortcut past them."""

    def __init__(self, maps, shortcut=True, norm=nn.BatchNorm2d):
        super().__init__()
        self.shortcut = shortcut
        first = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        second = nn.Conv2d(maps, maps, 3, padding=1, bias=False)
        self.body = nn.Sequential(first, norm(maps), nn.ReLU(), second, norm(maps))

    def forward(self, x):
        """Return the corrected maps."""
        change = self.body(x)
        return F.relu(x + change if self.shortcut else change)


small_resnet = nn.Sequential(
    nn.Sequential(conv(1, 16, stride=2), Block(16)),  # 16 maps, 8x8
    nn.Sequential(conv(16, 32, stride=2), Block(32), Block(32)),  # 32 maps, 4x4
    nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
)

# %%
# A sum needs equal shapes. Where the maps become smaller and more, we put an ordinary convolution between the blocks; the paper sends the
# shortcut through a 1×1 convolution there.
#
# Which one reads best?
# ---------------------
#
# All four get the same budget: the same 5,120 pictures once, in 80 batches of 64, with the same optimiser and schedule.

import time


def train(model, steps=80, rate=0.01):
    """Train on one batch of 64 after the other; return the losses and the seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    losses = []
    start = time.process_time()
    for step in range(steps):
        batch = slice(64 * step, 64 * (step + 1))
        loss = F.cross_entropy(model(train_images[batch]), train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses, time.process_time() - start


# %%


def accuracy(model):
    """Return the share of the test pictures that the model gets right."""
    with torch.no_grad():
        answers = model.eval()(test_images).argmax(dim=1)
    return (answers == test_labels).float().mean().item()


# %%
small = {"LeNet": lenet, "VGG": small_vgg, "GoogLeNet": small_googlenet}
small["ResNet"] = small_resnet
rows = []
for name, model in small.items():
    _, seconds = train(model)
    parameters, flops = cost(model.eval(), test_images[:1])
    share = accuracy(model)
    rows.append((name, 100 * (1 - share), parameters / 1e3, flops / 1e6, seconds))
    print(f"{name:9} accuracy {share:.3f}, {parameters:6,} parameters, {flops:9,} FLOP")
    print(f"measured: {seconds:.1f} seconds of processor time for its training")

# %%

# fold: four measures of four networks
fig, axes = plt.subplots(2, 2, sharey=True, figsize=(6.4, 4))
names, *columns = zip(*rows)
titles = ["errors (%)", "thousand parameters", "million operations", "CPU seconds"]
for ax, title, column in zip(axes.flat, titles, columns):
    ax.barh(names, column, color=["0.6", "C1", "C2", "C0"])
    ax.set_title(title)
axes[0, 0].invert_yaxis()

# %%
# .. caption:: Shorter is better in all four. Parameters and operations (for one picture) are exact; the errors and the
#    seconds (processor time of the training) are of one run.
#    :alt: Four bar charts of the four networks. LeNet makes most errors and VGG fewest; VGG has most parameters and operations. GoogLeNet
#       has fewest parameters and, after LeNet, fewest operations, and takes as long to train as the others or longer.
#
# Before you conclude: this is one run of each, with one learning rate for all, and three of the four have BatchNorm, which helps; LeNet has
# none. And the originals were made for a million photographs, not for so few small pictures.
#
# With that in mind: LeNet needs the fewest operations and makes the most errors. VGG makes the fewest, and needs the most parameters and
# operations of the four. GoogLeNet has the fewest parameters by far. And operations are not time: GoogLeNet needs less than a fifth of
# VGG's operations, but in our runs its training took as long or longer. It consists of many small steps, each of which takes time to start,
# and pooling, BatchNorm and stacking are not counted as operations at all. So measure the time on your own machine before you choose.
#
# Which one for your characters, then? For single characters cut out of your photographs, start with a plain stack of 3×3 convolutions and
# BatchNorm, as in our VGG. When you need many more layers, take a network with shortcuts, such as ResNet-18; the rest of this page shows
# why.

_, errors, _, operations, _ = zip(*rows)  # LeNet, VGG, GoogLeNet, ResNet
assert errors[1] < 5 and errors[1] < errors[0] - 3
assert operations[2] < operations[1] / 5

# %%
# The shortcut has not shown yet what it is for: our ResNet has nine layers with weights, and the idea was made for many more.
#
# What goes wrong in deep networks?
# ---------------------------------
#
# What you expect: more layers can only help; the new ones could just pass the input on. So stack more and more of the blocks above, with
# and without shortcut, and with and without BatchNorm. Before any training, look at the size of the gradient that arrives at the
# *first* layer. *Depth* is the number of layers with weights; the first weights are the random ones that PyTorch draws for a new layer.
# Where there is no BatchNorm, ``nn.Identity`` takes its place and does nothing.


def stack(depth, shortcut, norm=nn.BatchNorm2d):
    """Return a network of this many layers with weights."""
    first = nn.Conv2d(1, 16, 5, stride=4, padding=2, bias=False)  # 16 maps, 4x4
    blocks = [Block(16, shortcut, norm) for _ in range(depth // 2 - 1)]
    return nn.Sequential(
        first, norm(16), nn.ReLU(), *blocks, nn.Flatten(), nn.Linear(256, 10)
    )


depths = [4, 8, 14, 22, 30, 38]
kinds = {
    "plain": (False, nn.Identity),
    "shortcut": (True, nn.Identity),
    "plain, BatchNorm": (False, nn.BatchNorm2d),
    "shortcut, BatchNorm": (True, nn.BatchNorm2d),
}

# %%
norms = {}
print(" " * 19, *(f"{depth:7}" for depth in depths))
for name, (shortcut, norm) in kinds.items():
    norms[name] = []
    for depth in depths:
        torch.manual_seed(0)
        model = stack(depth, shortcut, norm)
        F.cross_entropy(model(train_images[:64]), train_labels[:64]).backward()
        norms[name].append(model[0].weight.grad.norm().item())
    print(f"{name:19}", *(f"{value:7.0e}" for value in norms[name]))

# %%

# fold: the table as lines
fig, ax = plt.subplots(figsize=(6.4, 3.4))
for name, style in zip(kinds, ("C3--o", "C0--s", "C1-o", "C2-s")):
    ax.semilogy(depths, norms[name], style, label=name)
ax.set(xlabel="layers", ylabel="gradient at first layer")
ax.legend(loc="lower left")

# %%
# .. caption:: The norm of the first layer's gradient before training, on a logarithmic axis. Without BatchNorm and shortcut it falls by
#    fifteen powers of ten.
#    :alt: Four lines over the depth from 4 to 38 layers. The plain one falls straight down to below ten to the minus 17. The plain one with
#       BatchNorm climbs to about 70. The two with shortcuts stay between 0.1 and 10.
#
# You have probably heard that gradients *vanish* in deep networks. They do in the first row. With BatchNorm, in the third, they *grow*.
# Both have one reason. Call :math:`\mathbf{J}_k` the Jacobian of block :math:`k`, the matrix of the derivatives of its outputs with respect
# to its inputs. Going backward through a plain stack multiplies all these matrices, and a product of many similar factors gets very small
# or very large. With shortcuts (leaving the last ReLU aside) every factor has an identity matrix in it:
#
# .. math::
#
#    \text{plain: } \mathbf{J}_n \cdots \mathbf{J}_2\,\mathbf{J}_1
#    \qquad
#    \text{shortcut: } (\mathbf{I} + \mathbf{J}_n) \cdots (\mathbf{I} + \mathbf{J}_1)
#    = \mathbf{I} + \textstyle\sum_k \mathbf{J}_k + \cdots
#
# Multiplied out, one term is :math:`\mathbf{I}`: a way from the loss to the first layer without any weight on it. This keeps the gradient
# from vanishing. It does not stop all growth: with shortcuts *and* BatchNorm, in the fourth row, the gradient grows, too, but far less.

row_1, row_2 = norms["plain"], norms["shortcut"]
assert row_1[-1] < 1e-10 * row_1[0] and row_2[-1] > 0.1 * row_2[0]
assert norms["plain, BatchNorm"][-1] > 3 * norms["shortcut, BatchNorm"][-1]

# %%
# Does the deep network learn?
# ----------------------------
#
# Train it, with BatchNorm throughout: a plain stack of 8 layers, a plain one of 22, and 22 with shortcuts. Each three times, with three
# seeds, 40 batches each. The first three numbers are losses.

ends = {}
for depth, shortcut in [(8, False), (22, False), (22, True)]:
    lasts, shares = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = stack(depth, shortcut)
        losses, _ = train(model, steps=40)
        lasts.append(round(sum(losses[-10:]) / 10, 2))
        shares.append(round(accuracy(model), 2))
    print(f"{depth:2} layers, shortcut {shortcut!s:5} {lasts}, test accuracy {shares}")
    ends[depth, shortcut] = lasts
assert max(ends[22, True]) < 0.8 * min(ends[22, False])

# %%
# Each loss is the mean of the last ten training batches. After the same 40 batches the plain 22 layers have learnt much less than 8 layers
# of the same kind. The shortcuts, which have no parameters, make up most of the difference. They do not beat 8 layers here: this small task
# does not need the depth.
#
# Be careful with the reason. The table above does *not* explain it: with BatchNorm, at 22 layers, the first gradients of the plain stack
# and of the one with shortcuts are nearly equal. And each picture was used once, so we cannot tell here whether the plain stack is only
# slow or would stay worse. The authors of ResNet trained to the end: 56 plain layers had a larger *training* error than 20, so this was not
# :term:`overfitting`. They call it degradation.
#
# One argument for shortcuts does not need gradients. To be as good as the 8 layers, the 22 only have to pass some maps on unchanged. A
# plain block must learn that, starting from random weights. A block with a shortcut does it as soon as its convolutions give zero; the
# first exercise uses this.
#
# Take this with you
# ------------------
#
# Build on a network with shortcuts and global average pooling when it has to be deep, and count its cost on the meta device before you
# train. This is the block, with a 1×1 convolution and BatchNorm on the shortcut where the shape changes; elsewhere the input passes
# untouched:


class Residual(nn.Module):
    def __init__(self, old, new, stride=1):  # old and new number of maps
        super().__init__()
        norm = nn.BatchNorm2d
        first = nn.Conv2d(old, new, 3, stride, padding=1, bias=False)
        second = nn.Conv2d(new, new, 3, padding=1, bias=False)
        self.body = nn.Sequential(first, norm(new), nn.ReLU(), second, norm(new))
        match = nn.Sequential(nn.Conv2d(old, new, 1, stride, bias=False), norm(new))
        self.match = nn.Identity() if old == new and stride == 1 else match

    def forward(self, x):
        return (self.match(x) + self.body(x)).relu()


# %%
# Change something
# ----------------
#
# * In LeNet, use ``nn.ReLU`` in place of ``nn.Tanh`` and ``nn.MaxPool2d`` in place of ``nn.AvgPool2d``.
# * Before the gradients, start with larger weights: for every ``nn.Conv2d`` in ``model.modules()`` call
#   ``nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")``. Which rows of the table change?
# * In ``Block.forward``, weaken the shortcut to ``0.5 * x + change``. What becomes of the gradient without BatchNorm?
#
# .. dropdown:: What happens
#
#    * It makes fewer than half as many errors, with as many weights: part of LeNet's gap comes from the
#      activation and the pooling of its time, not from its layout.
#    * Those without BatchNorm. The plain gradient falls far more slowly, and now the one *with* shortcuts grows, to about a hundred at 38
#      layers: every block adds to the sum. With BatchNorm little changes.
#    * It falls by about half with every block, to about a millionth at 38 layers. Only an untouched :math:`\mathbf{x}` keeps it level.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Build a block that changes nothing at first
#
#    Let a new block pass its input on. BatchNorm ends by multiplying each map with its ``weight``. Write ``quiet``: it sets one
#    parameter of a ``Block`` to zero, so that the block returns its input (when that has no negative numbers), and returns the block.


def quiet(block):
    ### BEGIN SOLUTION
    nn.init.zeros_(block.body[-1].weight)
    return block
    ### END SOLUTION


torch.manual_seed(0)
maps = torch.rand(2, 16, 4, 5)
expect(lambda: quiet(Block(16))(maps).detach(), maps)

# %%
# .. exercise:: Predict the size of a block
#
#    How many parameters has ``Residual(16, 32, stride=2)`` of the section *Take this with you*? Here the shape changes, and
#    BatchNorm has two for each map.

### BEGIN SOLUTION
guess = 14_528
### END SOLUTION

expect(guess, sum(p.numel() for p in Residual(16, 32, stride=2).parameters()))

# %%
# .. exercise:: Build the bottleneck of ResNet-50
#
#    ResNet-50 combines two ideas of this page: beside each shortcut, the block squeezes 256 maps to 64 with a 1×1 convolution, computes
#    3×3 on those, and goes back to 256 with another 1×1. Return the three convolutions as ``nn.Sequential``, sizes kept, without biases.


def bottleneck(maps, squeezed):
    ### BEGIN SOLUTION
    return nn.Sequential(
        nn.Conv2d(maps, squeezed, 1, bias=False),
        nn.Conv2d(squeezed, squeezed, 3, padding=1, bias=False),
        nn.Conv2d(squeezed, maps, 1, bias=False),
    )
    ### END SOLUTION


with torch.device("meta"):
    original = models.resnet50().layer1[1]
shapes = [list(p.shape) for p in original.parameters() if p.dim() == 4]
expect(lambda: [list(p.shape) for p in bottleneck(256, 64).parameters()], shapes)
expect(lambda: bottleneck(24, 6)(torch.zeros(2, 24, 5, 7)).shape, (2, 24, 5, 7))
