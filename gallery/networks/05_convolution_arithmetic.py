r"""
Convolution arithmetic
======================

Say, before you run it, what size a convolution returns, what each output sees, and what
it costs. The sheet to print is at the end.

.. lesson::
   :needs: networks/04_convolution_from_scratch
   :data: none
   :keywords: output size, output shape, conv2d formula, padding, same padding, stride,
      dilation, atrous, groups, depthwise separable, transposed convolution,
      deconvolution, output_padding, checkerboard, receptive field, FLOPs, MACs,
      parameters, cheat sheet, The size of tensor a must match the size of tensor b at
      non-singleton dimension, Kernel size can't be greater than actual input size
   :thumbnail: 1
"""

# %%
# Why does my picture come back too small?
# ----------------------------------------
#
# Your network shrinks a picture to half its size and then grows it to double. At the end you compare it with the original:

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
picture = torch.rand(1, 1, 28, 28)
shrink = nn.Conv2d(1, 8, kernel_size=3, stride=2, padding=1)
grow = nn.ConvTranspose2d(8, 1, kernel_size=3, stride=2, padding=1)
small = shrink(picture)
back = grow(small)
print([tuple(step.shape[2:]) for step in (picture, small, back)])
try:
    picture - back
except RuntimeError as error:
    print(error)

# %%
# A row and a column are missing. To see why, count the places where a window can lie.
#
# What does one output see?
# -------------------------
#
# Three settings decide which pixels an output is computed from. :term:`Padding <padding>` adds a border of zeros. The
# :term:`stride <stride (convolution)>` is how far the window moves from one output to the next. **Dilation** spreads the weights out: with
# dilation 2, they lie on every second pixel. You can make them visible. Set all weights to 1 and ask for the :term:`gradient` of one
# output: it is not zero at exactly those pixels that this output was computed from.


def seen(layers, n, row, column):
    """Return how one output depends on each pixel of an n by n picture."""
    pixels = torch.zeros(1, 1, n, n, requires_grad=True)
    for layer in layers:
        nn.init.ones_(layer.weight)
    nn.Sequential(*layers)(pixels)[0, 0, row, column].backward()
    return pixels.grad[0, 0]


for dilation in (1, 2):
    grid = seen([nn.Conv2d(1, 1, 3, dilation=dilation)], 7, 0, 1)
    print(f"dilation {dilation}, first row", grid[0].int().tolist())
    assert grid.sum() == 9

# %%

# fold: the pixels of one output, and the places of all outputs
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 4, figsize=(6.8, 2.1))
names = ["plain", "padding 1", "stride 2", "dilation 2"]
settings = [{}, {"padding": 1}, {"stride": 2}, {"dilation": 2}]
for ax, name, setting in zip(axes, names, settings):
    layer = nn.Conv2d(1, 1, 3, **setting)
    window = 0.25 + 0.55 * seen([layer], 7, 0, 0)
    ax.pcolormesh(window.numpy(), cmap="Blues", vmin=0, vmax=1, edgecolors="white")
    p, s, d = layer.padding[0], layer.stride[0], layer.dilation[0]
    count = layer(torch.zeros(1, 1, 7, 7)).shape[-1]
    centres = 0.5 - p + d + s * torch.arange(count)
    ax.plot(centres.repeat(count), centres.repeat_interleave(count), "k.")
    ax.plot([-p, 7 + p, 7 + p, -p, -p], [-p, -p, 7 + p, 7 + p, -p], ":", color="0.4")
    ax.set(title=name, aspect="equal", xlim=(-1.2, 8.2), ylim=(8.2, -1.2))
    ax.set_axis_off()

# %%
# .. caption:: Seven by seven pixels; a dotted line encloses them and their padding. Each black dot is the middle of one window, so one
#    output. Dark are the pixels that the output in row 0, column 0 is computed from: nine, or four where the padding gives the others.
#    :alt: Four grids. Plain: dots on the inner five by five pixels, and a block of nine dark ones in the upper left corner. Padding 1: dots
#       on all seven by seven, and a block of four dark ones. Stride 2: three by three dots, on every second pixel, and nine dark ones.
#       Dilation 2: three by three dots next to each other, and nine dark pixels with gaps between them.
#
# How many outputs are there?
# ---------------------------
#
# Count along one axis. With dilation :math:`d`, a kernel of :math:`k` weights spans :math:`d(k-1)+1` pixels. With the padding :math:`p`
# there are :math:`n + 2p` pixels, so the window can begin at :math:`n + 2p - d(k-1)` places. Take the first of these,
# then every :math:`s`-th of the others:
#
# .. math:: n_\text{out} = \left\lfloor \frac{n + 2p - d(k-1) - 1}{s} \right\rfloor + 1


def size(n, k, s=1, p=0, d=1):
    """Return the size after a convolution."""
    return (n + 2 * p - d * (k - 1) - 1) // s + 1


# where a window of 3 can begin, with padding 1 and stride 2
places = range(0, 28 + 2 * 1 - 2, 2)
print(f"counted {len(places)}, by the formula {size(28, 3, s=2, p=1)}")
assert len(places) == size(28, 3, s=2, p=1) == small.shape[-1]

# %%
# Height and width are computed independently. So a setting can be a pair, ``kernel_size=(3, 5)``. If the window does not fit, the
# formula gives less than 1, and the layer refuses. Compare with the real layer, on 500 random settings:

import random

rng = random.Random(0)
refused = []
for _ in range(500):
    n, k, s = rng.randint(1, 30), rng.randint(1, 7), rng.randint(1, 4)
    p, d, groups = rng.randint(0, 4), rng.randint(1, 3), rng.choice([1, 2, 4])
    layer = nn.Conv2d(4, 8, k, s, p, d, groups)
    expected = (1, 8, size(n, k, s, p, d), size(n + 9, k, s, p, d))
    try:
        assert layer(torch.zeros(1, 4, n, n + 9)).shape == expected
    except RuntimeError as error:
        assert min(expected) < 1
        refused.append(str(error))
print(f"500 settings, {len(refused)} of them refused, such as:\n{refused[0]}")

# %%
# Which settings do I need?
# -------------------------
#
# Few of all possible settings are in daily use. For an odd kernel, :math:`p = d(k-1)/2` **keeps** the size at stride 1;
# ``padding="same"`` computes this number for you, and is refused with any other stride. With stride 2, that :math:`p` **halves** the size,
# and rounds up. A stride as large as the kernel cuts the picture into **patches**.

recipes = {
    "keep      k=3 p=1": {"k": 3, "p": 1},
    "keep      k=3 p=2 d=2": {"k": 3, "p": 2, "d": 2},
    "halve     k=3 p=1 s=2": {"k": 3, "p": 1, "s": 2},
    "halve     k=2 s=2": {"k": 2, "s": 2},
    "patches   k=4 s=4": {"k": 4, "s": 4},
}
print("from                   28  27  26  25")
for name, recipe in recipes.items():
    sizes = [size(n, **recipe) for n in (28, 27, 26, 25)]
    print(f"{name:22}", *(f"{n:3}" for n in sizes))
assert size(27, 3, s=2, p=1) == 14 and size(27, 2, s=2) == 13

# %%
# Two things to see in it. Pictures of 28 and of 27 pixels both become 14: that is where the missing row and column went. And ``k=2 s=2``
# turns 27 into 13: twice 13 is 26, so the last row and column go *nowhere*. You expect every pixel to count. Ask the gradient of all
# outputs together:

pixels = torch.zeros(1, 1, 27, 27, requires_grad=True)
nn.Conv2d(1, 1, kernel_size=2, stride=2)(pixels).sum().backward()
unused = (pixels.grad[0, 0] == 0).sum().item()
print(f"{unused} of {pixels.numel()} pixels reach no output")
assert unused == 27 + 26

# %%
# No error says so. If the border matters, pad: ``F.pad(pixels, (0, 1, 0, 1))`` adds one column on the right and one row at the bottom.
#
# What do groups do?
# ------------------
#
# In a plain convolution every output channel sees every input channel. ``groups=g`` cuts both into :math:`g` parts that do not meet: each
# output channel sees :math:`C_\text{in}/g` input channels, so there are :math:`g` times fewer weights. With as many groups as channels it
# is called **depthwise**.

# fold: which channel sees which
fig, axes = plt.subplots(1, 3, figsize=(6.4, 2))
for ax, groups in zip(axes, (1, 2, 4)):
    for out in range(4):
        for channel in range(4):
            if out * groups // 4 == channel * groups // 4:
                ax.plot([0, 1], [channel, out], "o-", color=f"C{out * groups // 4}")
    ax.set(title=f"groups={groups}", ylim=(3.4, -0.4))
    ax.set_axis_off()

# %%
# .. caption:: Four channels in, four out. A line means that the output channel on the right uses the channel on the left.
#    :alt: Three drawings of four dots on the left and four on the right. With one group all are joined to all; with two groups the upper
#       two pairs and the lower two; with four groups each dot only to the one opposite.

x = torch.rand(1, 4, 9, 9)
for groups in (1, 2, 4):
    layer = nn.Conv2d(4, 8, kernel_size=3, groups=groups, bias=False)
    print(f"groups={groups}: weight", tuple(layer.weight.shape))

weight = torch.rand(8, 2, 3, 3)
halves = [F.conv2d(x[:, :2], weight[:4]), F.conv2d(x[:, 2:], weight[4:])]
torch.testing.assert_close(F.conv2d(x, weight, groups=2), torch.cat(halves, dim=1))

# %%
# How do I get the size back?
# ---------------------------
#
# A **transposed convolution** goes the other way. A convolution gathers a window into one number; the transposed one *stamps* one number
# onto a window: the kernel, times that number. Stamps are :math:`s` pixels apart, and where they overlap, they add up.


def stamp(Y, K, s):
    """Return the sum of kernels, one for each number of Y, s pixels apart."""
    k = len(K)
    X = torch.zeros((len(Y) - 1) * s + k, (len(Y) - 1) * s + k)
    for i in range(len(Y)):
        for j in range(len(Y)):
            X[i * s : i * s + k, j * s : j * s + k] += Y[i, j] * K
    return X


Y, K = torch.rand(4, 4), torch.rand(3, 3)
library = F.conv_transpose2d(Y[None, None], K[None, None], stride=2)[0, 0]
print(tuple(Y.shape), "->", tuple(library.shape))
torch.testing.assert_close(library, stamp(Y, K, 2))

# %%
# The last lesson had this loop with stride 1, where it computed the gradient of the picture. With stride :math:`s`, too, the stamps are the
# *way back* of a convolution. So a transposed convolution does not undo a convolution. It brings the *size* back, not the values. Here is
# the gradient of ``conv2d``, against the stamps:

X = torch.rand(1, 1, 9, 9, requires_grad=True)
F.conv2d(X, K[None, None], stride=2).backward(Y[None, None])
print(f"largest difference {(X.grad[0, 0] - library).abs().max():.0e}")
torch.testing.assert_close(X.grad[0, 0], library)

# %%
# ``padding=p`` *removes* p rows and columns on every side, because that is what was added on the way there. Then the sizes 28 and 27 both
# lead to 14, and 14 leads back to one of them only. The transposed layer takes the smallest, unless ``output_padding`` says how many
# pixels more you want. Up to :math:`p`, these are not filled up with zeros: the layer only removes fewer rows and columns at the bottom and
# on the right, here one less. (With more than :math:`p`, the rest lies beyond the last stamp and holds nothing but the bias.)
#
# .. math:: n_\text{back} = (n - 1)s - 2p + d(k-1) + 1 + \text{output_padding}


def size_back(n, k, s=1, p=0, d=1, extra=0):
    """Return the size after a transposed convolution; extra is output_padding."""
    return (n - 1) * s - 2 * p + d * (k - 1) + 1 + extra


full = grow(small, output_size=(28, 28))
print(back.shape[-1], "->", full.shape[-1], "with output_size")
new_row = full[0, 0, 27] - grow.bias
print("new row, without the bias", new_row[:5].detach().numpy().round(3))
torch.testing.assert_close(full[..., :27, :27], back)

# %%
# Here the layer worked out its ``output_padding`` from the size it was asked for. The formula against real layers:

for _ in range(300):
    n, k, s = rng.randint(1, 12), rng.randint(1, 6), rng.randint(1, 4)
    d, extra = rng.randint(1, 3), rng.randint(0, s - 1)
    p = rng.randint(0, d * (k - 1) // 2)
    layer = nn.ConvTranspose2d(1, 1, k, s, p, extra, dilation=d)
    expected = size_back(n, k, s, p, d, extra)
    assert layer(torch.zeros(1, 1, n, n)).shape[-1] == expected
    assert size(expected, k, s, p, d) == n  # and a convolution leads back to n
print("300 settings agree")

# %%
# .. admonition:: From practice
#
#    Where stamps overlap unevenly, a checkerboard shows in the picture. Count the stamps on each pixel of a row: with a kernel of 3 and a
#    stride of 2 they alternate; with a kernel of 4, which the stride divides, they are even except at the ends.

for k in (3, 4):
    stamps = F.conv_transpose1d(torch.ones(1, 1, 5), torch.ones(1, 1, k), stride=2)
    print(f"kernel {k}, stride 2:", stamps[0, 0].int().tolist())

# %%
# How far does one output see?
# ----------------------------
#
# The :term:`receptive field` of an output is the part of the picture that can change it. Go through the layers from the input. Each adds
# :math:`d(k-1)` steps to the field, and a step is as long as all strides *before* it, multiplied. The result is the *span*, from the first
# pixel to the last; dilation can leave gaps inside:
#
# .. math:: r \leftarrow r + d(k-1)\,j, \qquad j \leftarrow j\,s, \qquad \text{from } r = 1,\ j = 1


def receptive_field(stack):
    """Return the span of the field; stack lists kernel, stride and dilation."""
    field, jump = 1, 1
    for k, s, d in stack:
        field += d * (k - 1) * jump
        jump *= s
    return field


stacks = {
    "one 7 × 7": [(7, 1, 1)],
    "three 3 × 3": [(3, 1, 1)] * 3,
    "strides 2, 1, 1": [(3, 2, 1), (3, 1, 1), (3, 1, 1)],
    "dilations 1, 2, 4": [(3, 1, 1), (3, 1, 2), (3, 1, 4)],
}
influence = {}
for name, stack in stacks.items():
    layers = [nn.Conv2d(1, 1, k, s, dilation=d) for k, s, d in stack]
    influence[name] = seen(layers, 17, 0, 0)
    found, field = influence[name].any(dim=0).sum(), receptive_field(stack)
    print(f"{name:18} by the formula {field:2}, seen {found:2}")
    assert found == field

# %%
# Not all pixels of the field act alike. A *path* leads from a pixel through one weight of each layer to the output. All weights are still
# 1, so the gradient of a pixel counts its paths:

# fold: how many paths lead from each pixel to one output
fig, axes = plt.subplots(1, 4, figsize=(6.8, 2.4))
for ax, (name, paths) in zip(axes, influence.items()):
    shift = (17 - receptive_field(stacks[name])) // 2
    centred = paths.roll((shift, shift), dims=(0, 1)) / paths.max()
    centred = centred.masked_fill(centred == 0, float("nan"))
    ax.pcolormesh(centred, cmap="Blues", vmin=0, edgecolors="0.9", linewidth=0.3)
    ax.set(title=name.replace(" ", "\n", 1), aspect="equal")
    ax.set_axis_off()

# %%
# .. caption:: Each square is a pixel; the darker it is, the more paths lead from it to the output, compared with the other pixels of the
#    same panel. Pixels without colour have no path. One large kernel and three small ones see the same 7 by 7 pixels, the small ones mostly
#    the middle.
#    :alt: Four grids. A block of seven by seven, evenly dark; a block of seven by seven, dark in the middle and pale at the rim; a block
#       of eleven by eleven and one of fifteen by fifteen, both with a pattern that is darker in the middle and pale at the rim.
#
# More layers add to the field. A stride makes everything that *later* layers add longer, here twice as long. Growing dilations do the
# same, and with padding the picture keeps its size.
#
# What does it cost?
# ------------------
#
# Each output number takes one multiply-add per weight of its kernel: :math:`k^2\,C_\text{in}/g`. Count the outputs and you have the cost:
#
# .. math::
#
#    \text{parameters} = C_\text{out}\,\tfrac{C_\text{in}}{g}\,k^2 + C_\text{out}, \qquad
#    \text{multiply-adds} = H_\text{out}\,W_\text{out}\,C_\text{out}\,\tfrac{C_\text{in}}{g}\,k^2
#
# Torch has a counter for operations. It counts a multiply-add as two, and leaves the bias out. Neither counts time: a depthwise layer does
# little arithmetic for each number that it reads and writes, so it is usually not faster by as much as its multiply-adds are fewer.

from torch.utils.flop_counter import FlopCounterMode


def cost(layer, x):
    """Return parameters and multiply-adds of a convolution by formula."""
    out, per_group, k, _ = layer.weight.shape
    height, width = layer(x).shape[2:]
    return out * per_group * k * k + out, height * width * out * per_group * k * k


x = torch.rand(1, 64, 28, 28)
layers = {
    "3 × 3": nn.Conv2d(64, 128, 3, padding=1),
    "3 × 3, stride 2": nn.Conv2d(64, 128, 3, stride=2, padding=1),
    "3 × 3, 4 groups": nn.Conv2d(64, 128, 3, padding=1, groups=4),
    "3 × 3, depthwise": nn.Conv2d(64, 64, 3, padding=1, groups=64),
    "1 × 1": nn.Conv2d(64, 128, 1),
}

# %%
# All on 64 channels of 28 by 28 pixels, and to 128 channels, but for the depthwise layer, which keeps its 64:

costs = {}
print(f"{'layer':18}{'weight':>17}{'parameters':>12}{'multiply-adds':>15}")
for name, layer in layers.items():
    with FlopCounterMode(display=False) as counter:
        layer(x)
    parameters, multiply_adds = costs[name] = cost(layer, x)
    shape = list(layer.weight.shape)
    print(f"{name:18}{shape!s:>17}{parameters:12,}{multiply_adds:15,}")
    assert parameters == sum(weight.numel() for weight in layer.parameters())
    assert counter.get_total_flops() == 2 * multiply_adds

# %%
# The last two together are a **depthwise separable** convolution: the first looks around, in each channel by itself, the second mixes the
# channels. It goes from 64 to 128 channels and sees 3 by 3 pixels like the first row, at a fraction of the cost:
#
# .. math:: \frac{k^2 C_\text{in} + C_\text{in}\,C_\text{out}}{k^2\,C_\text{in}\,C_\text{out}} = \frac{1}{C_\text{out}} + \frac{1}{k^2}

separable = costs["3 × 3, depthwise"][1] + costs["1 × 1"][1]
share = separable / costs["3 × 3"][1]
print(f"share of the multiply-adds: {share:.4f}, by the formula {1 / 128 + 1 / 9:.4f}")
assert abs(share - (1 / 128 + 1 / 9)) < 1e-12

# %%
# The sheet
# ---------
#
# Input :math:`n`, kernel :math:`k`, stride :math:`s`, padding :math:`p`, dilation :math:`d`, groups :math:`g`; each axis by itself.
#
# .. list-table::
#    :header-rows: 1
#
#    * - you want
#      - formula or setting
#    * - size after a convolution, or after pooling, where :math:`s=k` unless you set it
#      - :math:`\lfloor (n + 2p - d(k-1) - 1)/s \rfloor + 1`
#    * - size after a transposed convolution
#      - :math:`(n-1)s - 2p + d(k-1) + 1 + \text{output_padding}`
#    * - keep the size
#      - :math:`s=1`, :math:`k` odd, :math:`p = d(k-1)/2`; or ``padding="same"``
#    * - halve, rounded up
#      - :math:`k=3,\ s=2,\ p=1`
#    * - halve, rounded down
#      - :math:`k=2,\ s=2`
#    * - double
#      - transposed, :math:`k=4,\ s=2,\ p=1`; or :math:`k=2,\ s=2`
#    * - come back to a known size
#      - ``layer(x, output_size=size)``
#    * - weight of a convolution
#      - :math:`(C_\text{out},\ C_\text{in}/g,\ k,\ k)`
#    * - weight of a transposed convolution
#      - :math:`(C_\text{in},\ C_\text{out}/g,\ k,\ k)`
#    * - depthwise
#      - :math:`g = C_\text{in}`
#    * - mix channels, pixel by pixel
#      - :math:`k=1`
#    * - parameters
#      - :math:`C_\text{out}\,(C_\text{in}/g)\,k^2`, and :math:`C_\text{out}` for the bias
#    * - multiply-adds per image
#      - :math:`H_\text{out} W_\text{out}\,C_\text{out}\,(C_\text{in}/g)\,k^2`
#    * - numbers in the output
#      - :math:`N\,C_\text{out} H_\text{out} W_\text{out}`
#    * - depthwise separable against plain
#      - :math:`1/C_\text{out} + 1/k^2` of the multiply-adds
#    * - receptive field: its span, where dilation may leave gaps
#      - :math:`r \leftarrow r + d(k-1)j`, then :math:`j \leftarrow js`
#
# Doubling and ``padding="same"`` did not occur above. Here they run on the 28 by 28 pixels of the table of costs:

double = nn.ConvTranspose2d(64, 10, 4, stride=2, padding=1, groups=2)
same = nn.Conv2d(64, 10, 5, padding="same", dilation=2)
print("doubled", double(x).shape[-1], double.weight.shape, "same", same(x).shape[-1])
assert double(x).shape[-1] == 56 and same(x).shape[-1] == 28

# %%
# Take this with you
# ------------------
#
# Let PyTorch do the arithmetic. On the device ``meta`` tensors have a shape and no numbers, so a network of any size runs through at once,
# and you can read every size.

with torch.device("meta"):
    model = nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        nn.Conv2d(64, 128, kernel_size=3, stride=2, padding=1),
    )
    x = torch.empty(16, 3, 225, 225)
for layer in model:
    x = layer(x)
    print(f"{type(layer).__name__:16}", tuple(x.shape))

# %%
# Change something
# ----------------
#
# * At the top, let the picture have 27 by 27 pixels. What comes back, and does the subtraction work?
# * Add ``"dilations 2, 2, 2": [(3, 1, 2)] * 3`` to ``stacks``. Compare both numbers in its line.
# * In the table of costs, take pictures of 56 by 56: ``x = torch.rand(1, 64, 56, 56)``. Which column changes, and by how much?
#
# .. dropdown:: What happens
#
#    * The list of sizes ends in 27, and no error is printed, because the subtraction works: 27 is the smaller of the two sizes that become
#      14, and the one that 14 goes back to.
#    * By the formula 13, seen 7, and the assert stops. The formula gives the span from the first pixel to the last. With dilation 2 in
#      every layer, all steps are of 2 pixels, so that every second pixel in between is skipped. Dilations of 1, 2 and 4 leave no gap.
#    * The multiply-adds: four times as many outputs, so four times the work. Weights and parameters do not depend on the size of
#      the picture, nor does the share of the separable convolution.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a size
#    :kind: predict
#
#    A row of 20 pixels, a kernel of 3 with dilation 4, stride 3, padding 2. Draw the span, count the places: how many outputs?

### BEGIN SOLUTION
guess = 6
### END SOLUTION

row = torch.zeros(1, 1, 20)
counted = F.conv1d(row, torch.ones(1, 1, 3), stride=3, padding=2, dilation=4)
expect(guess, counted.shape[-1])

# %%
# .. exercise:: Fix a price that is too high
#    :kind: fix
#
#    A block for an n by n picture is a depthwise layer, k by k with stride s and padding k // 2, followed by a 1 by 1 layer from ``inside``
#    to ``outside`` channels. A colleague counts ``n * n * inside * (k * k + outside)`` multiply-adds, and torch's counter finds about a
#    quarter of that when the stride is 2. Return the right number for any n, odd k and s.


def block_cost(n, inside, outside, k, s):
    ### BEGIN SOLUTION
    side = size(n, k, s=s, p=k // 2)
    return side * side * inside * (k * k + outside)
    ### END SOLUTION


block = nn.Sequential(
    nn.Conv2d(6, 6, 5, stride=2, padding=2, groups=6), nn.Conv2d(6, 10, 1)
)
with FlopCounterMode(display=False) as counter:
    block(torch.rand(1, 6, 31, 31))
expect(lambda: block_cost(31, 6, 10, 5, 2), counter.get_total_flops() // 2)

# %%
# .. exercise:: Build the way back of an encoder
#    :kind: build
#
#    An encoder is a list of layers, each given as kernel, stride and padding. A decoder has the same layers as transposed ones, in reverse
#    order. Return the list of its ``output_padding``, first decoder layer first, so that a picture of n pixels comes back with n pixels.


def output_paddings(n, encoder):
    ### BEGIN SOLUTION
    found = []
    for k, s, p in encoder:
        smaller = size(n, k, s=s, p=p)
        found.append(n - size_back(smaller, k, s=s, p=p))
        n = smaller
    return found[::-1]
    ### END SOLUTION


encoder = [(3, 2, 1), (5, 4, 2), (4, 3, 0)]


def there_and_back(n):
    layers = [nn.Conv1d(1, 1, k, s, p) for k, s, p in encoder]
    for (k, s, p), extra in zip(encoder[::-1], output_paddings(n, encoder)):
        layers.append(nn.ConvTranspose1d(1, 1, k, s, p, extra))
    return nn.Sequential(*layers)(torch.zeros(1, 1, n)).shape[-1]


expect(lambda: [there_and_back(n) for n in (97, 98, 120)], [97, 98, 120])
