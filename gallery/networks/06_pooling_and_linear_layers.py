r"""
Pooling and linear layers
=========================

Build a network that takes pictures of many sizes, and know what its pooling keeps and
what it forgets.

.. lesson::
   :needs: networks/05_convolution_arithmetic networks/03_normalization_and_dropout
      optimization/08_learning_rates
   :data: generated digits
   :keywords: max pooling, average pooling, adaptive pooling, global average pooling,
      GAP, flatten, fully connected layer, dense layer, 1x1 convolution, fully
      convolutional, translation invariance, shift invariance, aliasing, MaxPool2d,
      AdaptiveAvgPool2d, mat1 and mat2 shapes cannot be multiplied
   :thumbnail: 2
"""

# %%
# Why does my network refuse this picture?
# ----------------------------------------
#
# Your network reads digits of 28 by 28 pixels. Today's scan has 40 by 40. Its convolutions and poolings take both sizes; another layer
# refuses:

import torch
from pytorch_course.datasets import glyphs
from torch import nn
from torch.nn import functional as F


def block(inside, outside):
    """Return a convolution, a pooling that halves, and their companions."""
    norm = nn.BatchNorm2d(outside)
    return [nn.Conv2d(inside, outside, 3), nn.MaxPool2d(2), norm, nn.ReLU()]


def body():
    """Return layers that turn a picture into 64 small maps."""
    return [*block(1, 12), *block(12, 32), nn.Conv2d(32, 64, 3), nn.ReLU()]


torch.manual_seed(0)
reader = nn.Sequential(*body(), nn.Flatten(), nn.Linear(64 * 3 * 3, 10))
print("28 pixels:", tuple(reader(torch.rand(5, 1, 28, 28)).shape))
try:
    reader(torch.rand(5, 1, 40, 40))
except RuntimeError as error:
    print("40 pixels:", error)

# %%
# The last :term:`feature maps <feature map>` are 3 by 3, because the pictures are 28 by 28. ``Flatten`` lays the 64 maps out in one row of
# 576 numbers, and the linear layer has one weight for each. Larger pictures make larger maps, and a longer row:

for n in (28, 32, 40):
    maps = nn.Sequential(*body())(torch.rand(1, 1, n, n))
    print(f"{n} pixels: maps {tuple(maps.shape[1:])}, flattened {maps.numel()}")
assert maps.numel() == 64 * 6 * 6

# %%
# Where does 576 come from? From the arithmetic of the last lesson, or from this printout. But a network for pictures of many sizes needs
# something that turns maps of every size into one size. That is one job of :term:`pooling`.
#
# What does pooling do?
# ---------------------
#
# It puts one number in the place of a window: the largest, or the mean. It has no weights, and treats every channel by itself. Without
# ``stride``, windows lie side by side, so that ``MaxPool2d(2)`` halves height and width.


def pool(X, k, summary):
    """Replace every k by k block of a picture by one number."""
    rows, columns = X.shape[0] // k, X.shape[1] // k
    Y = torch.empty(rows, columns)
    for i in range(rows):
        for j in range(columns):
            Y[i, j] = summary(X[i * k : i * k + k, j * k : j * k + k])
    return Y


images, labels = glyphs(2560, seed=0).tensors
images = images.float() / 255
digit = images[0, 0]
largest, mean = pool(digit, 2, torch.max), pool(digit, 2, torch.mean)
print("four pixels", digit[12:14, 14:16].flatten().numpy().round(2))
print(f"largest {largest[6, 7]:.2f}, mean {mean[6, 7]:.2f}")
torch.testing.assert_close(nn.MaxPool2d(2)(images[:1])[0, 0], largest)
torch.testing.assert_close(nn.AvgPool2d(2)(images[:1])[0, 0], mean)

# %%

# fold: a digit pooled in two ways
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 4, figsize=(6.8, 2.1))
coarse = pool(digit, 4, torch.max), pool(digit, 4, torch.mean)
titles = ("28 × 28", "max, 2 × 2", "max, 4 × 4", "mean, 4 × 4")
for ax, pixels, title in zip(axes, (digit, largest, *coarse), titles):
    ax.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title)
    ax.set_axis_off()

# %%
# .. caption:: White is ink. The maximum keeps a thin stroke and thickens it; the mean makes it grey.
#    :alt: A white digit on black in four versions: full size, then in coarser squares with thick white strokes, then coarser still in
#       white, and last as coarse in grey.
#
# How do I get the same size from every size?
# -------------------------------------------
#
# **Adaptive** pooling asks for the size of the *result*. To get :math:`m` numbers from :math:`n`, window :math:`i` reaches from
# :math:`\lfloor i\,n/m \rfloor` to :math:`\lceil (i+1)\,n/m \rceil`, without its end. If :math:`m` does not divide :math:`n`, some
# windows overlap. Here :math:`m = 4`, and each pair is the start and the end of a window:


def adaptive(row, m):
    """Return m means of parts of a row."""
    n = len(row)
    starts = [i * n // m for i in range(m)]
    ends = [-(-(i + 1) * n // m) for i in range(m)]  # -(-a // b) rounds up
    print(f"{n:2} numbers:", *zip(starts, ends))
    return torch.stack([row[a:b].mean() for a, b in zip(starts, ends)])


for n in (12, 10, 3):
    row = torch.rand(n)
    by_library = nn.AdaptiveAvgPool1d(4)(row[None, None])[0, 0]
    torch.testing.assert_close(by_library, adaptive(row, 4))

# %%
# With :math:`m = 1` the window is the whole map: **global** pooling. ``AdaptiveAvgPool2d(1)`` leaves one mean for each channel, whatever
# the size of the map, and the linear layer behind it needs one weight per channel and class:

any_size = nn.Sequential(
    *body(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
)
shapes = [(28, 28), (40, 40), (33, 120)]
sizes = [tuple(any_size(torch.rand(5, 1, *shape)).shape) for shape in shapes]
print(shapes, "->", sizes)
assert set(sizes) == {(5, 10)}

# %%
# There is still a smallest size, 18 pixels. With fewer, the maps before the last convolution are smaller than its 3 by 3 window, and it
# refuses.
#
# Where does the gradient go?
# ---------------------------
#
# On the way back, every output hands its :term:`gradient` to what it was made of. A mean shares it out evenly. A maximum gives all of it to
# the winner, and nothing to the rest of the window. Here one window has a clear winner, and in the other all four are equal:

X = torch.tensor([[1.0, 2.0, 7.0, 7.0], [4.0, 3.0, 7.0, 7.0]])
for pooling in (F.avg_pool2d, F.max_pool2d):
    pixels = X[None, None].clone().requires_grad_()
    pooling(pixels, 2).sum().backward()
    print(pooling.__name__, pixels.grad[0, 0].tolist())

# block, row, column
blocks = X.reshape(2, 2, 2).transpose(0, 1).clone().requires_grad_()
blocks.amax(dim=(1, 2)).sum().backward()
print("amax      ", blocks.grad.transpose(0, 1).reshape(2, 4).tolist())
assert pixels.grad[0, 0].tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]

# %%
# In the tie, ``max_pool2d`` gives everything to the first, in reading order. :func:`torch.amax` computes the same maximum and shares the
# gradient among the equal. Both are right: a maximum has no derivative at a tie. What you should not expect is that a tie gives every
# winner a full share; the gradients of a window always sum up to what came from above.
#
# Is a linear layer a convolution?
# --------------------------------
#
# A linear layer is :math:`\mathbf{X}\mathbf{W}^\top + \mathbf{b}`: each output is a weighted sum of *all* inputs. A convolution is a
# weighted sum of all inputs *in its window*. Make the window as large as the map, and they are the same thing. The weights only need
# another shape:

maps = torch.rand(5, 64, 3, 3)
linear = reader[-1]
scores = linear(maps.flatten(1))
torch.testing.assert_close(scores, maps.flatten(1) @ linear.weight.T + linear.bias)

weight = linear.weight.reshape(10, 64, 3, 3)
as_convolution = F.conv2d(maps, weight, linear.bias)
print(tuple(linear.weight.shape), "->", tuple(weight.shape))
print(tuple(scores.shape), "and", tuple(as_convolution.shape))
torch.testing.assert_close(as_convolution[:, :, 0, 0], scores)

# %%
# And a window of 1 by 1? That is a linear layer on the channels of *each pixel*, with the same weights everywhere, the **1×1 convolution**:

small = nn.Linear(64, 10)
by_pixel = small(maps.permute(0, 2, 3, 1))  # channels last
by_pixel = by_pixel.permute(0, 3, 1, 2)  # and back
one_by_one = F.conv2d(maps, small.weight[:, :, None, None], small.bias)
print("1 × 1:", tuple(one_by_one.shape))
torch.testing.assert_close(by_pixel, one_by_one)

# %%
# What does it answer along a line of digits?
# -------------------------------------------
#
# As a convolution, the last layer no longer refuses a wide picture: it slides. So a network that was trained on single digits gives an
# answer at every place of a line of them. First train it, and two networks with global pooling for later:


def train(*head):
    """Train a network with this head, two epochs; return it ready to use."""
    torch.manual_seed(0)
    model = nn.Sequential(*body(), *head)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=80)
    for _ in range(2):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model, pictures, labels):
    """Return the share of right answers."""
    with torch.no_grad():
        return (model(pictures).argmax(1) == labels).float().mean().item()


# %%
# The 500 test digits come from another seed:

test_images, test_labels = glyphs(500, seed=1).tensors
test_images = test_images.float() / 255
networks = {
    "flatten": train(nn.Flatten(), nn.Linear(576, 10)),
    "global mean": train(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    "global max": train(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
}
for name, model in networks.items():
    print(f"{name:12} accuracy {accuracy(model, test_images, test_labels):.3f}")
    assert accuracy(model, test_images, test_labels) > 0.9

# %%
# Now the line: six digits side by side, 28 by 168 pixels. The linear layer becomes a convolution of 3 by 3. We know where the digits are:
# every seventh window holds exactly one.

line = torch.cat(list(test_images[:6]), dim=2)[None]
layers = networks["flatten"]
linear = layers[-1]
with torch.no_grad():
    maps = layers[:-2](line)
    sliding = F.conv2d(maps, linear.weight.reshape(10, 64, 3, 3), linear.bias)[0, :, 0]
    alone = layers(test_images[:6])
print(tuple(line.shape), "->", tuple(maps.shape), "->", tuple(sliding.shape))
print("true ", test_labels[:6].tolist())
print("read ", sliding[:, ::7].argmax(dim=0).tolist())
sure = sliding.softmax(dim=0).amax(dim=0)[torch.arange(36) % 7 > 0] > 0.9
print(f"in {sure.sum()} of {len(sure)} other windows: probability above 0.9")
torch.testing.assert_close(sliding[:, ::7].T, alone, rtol=1e-3, atol=1e-3)

# %%

# fold: the line, and the scores at each place
fig, (top, bottom) = plt.subplots(2, 1, figsize=(6.8, 3.6), height_ratios=(1, 1.5))
top.imshow(line[0, 0].numpy(), cmap="gray", aspect="auto")
top.set_axis_off()
bottom.imshow(sliding.softmax(dim=0).numpy(), cmap="Blues", aspect="auto", vmin=0)
for place, label in enumerate(test_labels[:6].tolist()):
    bottom.plot(7 * place, label, "s", markersize=11, mfc="none", color="C3")
bottom.set(xlabel="position of the window (4 pixels each)", ylabel="class")
bottom.set(yticks=range(0, 10, 3), xlim=(-3.5, 38.5))

# %%
# .. caption:: Above, the line. Below, for each position of the window, how probable each class is; darker is more. The frames mark the
#    true digits, where the window holds exactly one.
#    :alt: Six white digits in a row on black. Below them a chart of ten classes by 36 positions, with dark cells in each of the six framed
#       places and other dark cells between them.
#
# Where the window holds one digit, the sliding network computes the same numbers as for that digit alone, and reads it. Elsewhere the
# window holds a digit off its middle, or parts of two. The network names a class there too, often a wrong one, and is often sure of it: its
# training had no class for "no digit here". So this reads a line only if you know where its digits are. To find them is another task.
#
# Is it right at any size?
# ------------------------
#
# A network with global pooling *takes* any picture. You expect that it also reads it. Put a black margin around the test digits, or enlarge
# them:

tests = {"as trained": test_images, "margin of 4": F.pad(test_images, (4, 4, 4, 4))}
tests["margin of 8"] = F.pad(test_images, (8, 8, 8, 8))
tests["enlarged to 48"] = F.interpolate(test_images, size=48, mode="bilinear")
right = {}
for name, pictures in tests.items():
    for head in ("global mean", "global max"):
        right[name, head] = accuracy(networks[head], pictures, test_labels)
    mean_head, max_head = right[name, "global mean"], right[name, "global max"]
    print(f"{name:15} global mean {mean_head:.3f}, global max {max_head:.3f}")
assert right["margin of 8", "global mean"] < right["margin of 8", "global max"] - 0.05
assert max(right["enlarged to 48", h] for h in ("global mean", "global max")) < 0.8

# %%
# A margin adds windows of background to the mean, so that those on the digit have a smaller share in it. With a maximum, no feature shrinks
# here, because all windows of the smaller picture are still there. (This holds for margins that are multiples of 4: with others, the two
# poolings cut the digit into other blocks.) But new windows have come, over the rim of the old picture, and they can make a feature larger:

with torch.no_grad():
    before = networks["global max"][:-2](test_images)
    after = networks["global max"][:-2](tests["margin of 8"])
print(f"{(after > before + 1e-4).float().mean():.0%} of the maxima have grown")
assert (before - after).max() < 1e-3

# %%
# Enlarged digits defeat both networks. A likely reason is that they saw no digits of that size in training. So a network that accepts a
# size need not be right at it: train and test on the sizes that you want to read.
#
# Is it the same after a shift?
# -----------------------------
#
# You can often read that pooling makes a network indifferent to small shifts. Move digits to the right, inside a wide margin, pixel by
# pixel, and measure how much the numbers change, relative to their size. One stage is the trained network up to its global maximum, that
# is, without ``Flatten`` and the linear layer:

wide = F.pad(test_images[:200], (16, 16, 16, 16))
trained = networks["global max"]
stages = {
    "pixels": nn.Identity(),
    "max pooling": nn.MaxPool2d(2),
    "network up to global max": trained[:-2],
    "one convolution, global max": nn.Sequential(trained[0], nn.AdaptiveMaxPool2d(1)),
}
changes = {}
with torch.no_grad():
    for name, stage in stages.items():
        still = stage(wide)
        moved = [stage(wide.roll(shift, dims=3)) for shift in range(9)]
        changes[name] = [((m - still).norm() / still.norm()).item() for m in moved]
        print(f"{name:28}", *(f"{change:.2f}" for change in changes[name]))

# %%

# fold: change against shift
fig, ax = plt.subplots(figsize=(6.4, 3.2))
for (name, values), marker in zip(changes.items(), "osD^"):
    ax.plot(values, marker=marker, label=name)
ax.set(xlabel="shift in pixels", ylabel="relative change")
ax.legend()

# %%
# .. caption:: 0 means unchanged. With one convolution and a global maximum nothing changes. The network up to its global maximum
#    is unchanged by shifts of 4 and 8 pixels only.
#    :alt: Four curves over shifts from 0 to 8. Pixels and max pooling rise steeply above 1. The network rises to nearly 0.2 and is
#       back at 0 at 4 and at 8. The last lies on 0.
#
# One pooling layer is *not* indifferent: its numbers change, only less than the pixels do. It moves along with the picture, and only when
# the shift is a multiple of its stride: two pixels in, exactly one out. After one pixel the windows hold other pixels.
#
# A *global* maximum is indifferent: a convolution moves its values along without changing them, and the same values in other places have
# the same maximum. But before the global pool of our network stand two poolings that halve, so only shifts by multiples of
# :math:`2 \cdot 2 = 4` pixels come through exactly.
#
# Do the answers change too? A wide margin makes many of them wrong from the start, so count in a margin of 4 as well:

with torch.no_grad():
    pooled = nn.MaxPool2d(2)(wide)
    pooled_later = nn.MaxPool2d(2)(wide.roll(2, dims=3))
    for margin in (4, 16):
        framed = F.pad(test_images[:200], [margin] * 4)
        answers = [trained(framed.roll(k, dims=3)).argmax(1) for k in range(5)]
        correct = (answers[0] == test_labels[:200]).sum()
        others = [(a != answers[0]).sum().item() for a in answers]
        print(f"margin {margin:2}: {correct} of 200 right, then other answers {others}")
assert (pooled_later == pooled.roll(1, dims=3)).all()
assert changes["max pooling"][1] > 0.2
network = changes["network up to global max"]
assert max(network[4], network[8]) < 1e-3 < 0.05 < network[1]
assert max(changes["one convolution, global max"]) < 1e-3

# %%
# The lists count the answers that differ after a shift of 0, 1, 2, 3 and 4 pixels. So a shift by one pixel can change an answer, and here
# it changes some, in both margins. (In the margin of 4, a shift by 4 brings the digit to the rim, where windows over its edge are missing.)
# If that matters to you, train on shifted pictures, or count how often it happens, as above.
#
# Take this with you
# ------------------
#
# End the convolutions with a global pool. Then the linear layer counts channels, not pixels, and the network takes pictures of many sizes;
# test whether it is right on them. Here the maximum did better on three of four test sets. Many well-known networks end in the mean,
# ``nn.AdaptiveAvgPool2d(1)``: try both on your data.

model = nn.Sequential(
    nn.Conv2d(3, 32, kernel_size=3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(32, 64, kernel_size=3, padding=1),
    nn.ReLU(),
    nn.AdaptiveMaxPool2d(1),
    nn.Flatten(),
    nn.Linear(64, 10),
)
print([tuple(model(torch.rand(2, 3, n, 50)).shape) for n in (32, 75)])

# %%
# Change something
# ----------------
#
# * In ``body``, give the last convolution ``padding=1``. Which line stops, and what do its two numbers say?
# * Measure the shifts with ``trained = networks["global mean"]``. Are 4 and 8 still free of change?
# * In ``stages``, take ``nn.AvgPool2d(2)`` instead of ``nn.MaxPool2d(2)``. Does it change less?
#
# .. dropdown:: What happens
#
#    * The first call of ``reader``: *mat1 and mat2 shapes cannot be multiplied (5x1600 and 576x10)*. The maps are now 5 by 5, and
#      :math:`64 \cdot 5 \cdot 5 = 1600` numbers meet a layer for 576.
#    * At 4 it prints 0.00. At 8 it prints 0.01, because the digits are now so near the rim that windows over their edge are missing. In
#      between it changes less than the maximum did, 0.03 to 0.04. In the wide margin only 3 to 6 answers change, but most of the 200 are
#      wrong there with or without a shift. The assert on ``network`` fails twice: 0.01 is more than 0.001, and no value is above 0.05.
#    * No, here a little more: 0.48 after one pixel, where the maximum had 0.46. A mean moves along with the picture just as a maximum does.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a gradient where windows overlap
#    :kind: predict
#
#    The row 1, 5, 2, 4, 3 is pooled with windows of 3 and a stride of 1, by the maximum. The three results are added up, and you go
#    backward. What is the gradient of the five numbers?

### BEGIN SOLUTION
guess = [0.0, 2.0, 0.0, 1.0, 0.0]
### END SOLUTION

five = torch.tensor([[[1.0, 5.0, 2.0, 4.0, 3.0]]], requires_grad=True)
F.max_pool1d(five, kernel_size=3, stride=1).sum().backward()
expect(guess, five.grad[0, 0].tolist())

# %%
# .. exercise:: Fix a head that loses the batch
#    :kind: fix
#
#    A colleague writes ``F.adaptive_max_pool2d(maps, 1).squeeze()`` to get rid of the axes of size 1. For maps of the shape (5, 64, 3,
#    3) the result is (5, 64), as it should be. For a single picture, (1, 64, 3, 3), it is (64), and the next layer returns one axis too
#    few. Write it so that the batch always stays.


def pooled_features(maps):
    ### BEGIN SOLUTION
    return F.adaptive_max_pool2d(maps, 1).flatten(1)
    ### END SOLUTION


generator = torch.Generator().manual_seed(0)
single = torch.randn(1, 6, 3, 4, generator=generator)
several = torch.randn(5, 1, 3, 4, generator=generator)
expect(lambda: pooled_features(single), single.amax(dim=(2, 3)))
expect(lambda: pooled_features(several), several.amax(dim=(2, 3)))

# %%
# .. exercise:: Build a map of the evidence
#    :kind: build
#
#    A network ends in a global mean and ``linear``. A mean and a weighted sum can change places: the score of a class is the mean of a
#    *map* that tells where in the picture the evidence for it is. Return these maps, (N, classes, H, W), from the feature maps, (N, C,
#    H, W).


def evidence(maps, linear):
    ### BEGIN SOLUTION
    return F.conv2d(maps, linear.weight[:, :, None, None], linear.bias)
    ### END SOLUTION


features = torch.randn(2, 6, 3, 4, generator=generator)
layer = nn.Linear(6, 5)
pixels = [layer(features[:, :, i, j]) for i in range(3) for j in range(4)]
by_loop = torch.stack(pixels, dim=2).reshape(2, 5, 3, 4)
expect(lambda: evidence(features, layer), by_loop)
expect(lambda: evidence(features, layer).mean((2, 3)), layer(features.mean((2, 3))))
