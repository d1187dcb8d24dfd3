r"""
Convolution from scratch
========================

Sharpen, blur and outline a photograph with a small square of weights, and know what
``nn.Conv2d`` computes, forward and backward.

.. lesson::
   :needs: tensors/02_numpy_on_a_photo optimization/05_backpropagation
      optimization/07_optimizers
   :data: two photographs
   :alone:
   :keywords: conv2d, CNN, convolutional layer, kernel, filter, sliding window, im2col,
      unfold, cross-correlation, flipped kernel, Sobel, edge detection, blur, sharpen,
      image filter, gradient of a convolution, HWC, expected input to have 3 channels,
      Input type and bias type should be the same
   :thumbnail: 2
"""

# %%
# What does the sharpen button do?
# --------------------------------
#
# You press *sharpen* in a photo editor, and the picture looks crisper. A simple such button does this to every pixel: five times the old
# value, minus its four neighbours. Write the weights as a little square, and apply them to the roof of a pavilion, in grey:

import torch
from pytorch_course.datasets import photographs

china, flower = photographs().columns["image"]
picture = china.float().mean(dim=0)[60:170, 110:260] / 255  # from 0, black, to 1
sharpen = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])

window = picture[16:19, 72:75]
print("nine pixels\n", window.numpy().round(3))
print(f"the middle one was {window[1, 1]:.3f}, becomes {(window * sharpen).sum():.3f}")

# %%
# Multiply nine pixels by nine weights, add up, and you have one new pixel. (The program adds before it rounds, so the printed pixels give
# this sum up to the last digit.) Now slide the window over the picture. The result is smaller by two rows and two columns, because the
# window must not stick out.


def slide(X, K):
    """Return the weighted sum of every window of X; K holds the weights."""
    height, width = K.shape
    rows, columns = X.shape[0] - height + 1, X.shape[1] - width + 1
    Y = torch.empty(rows, columns)
    for i in range(rows):
        for j in range(columns):
            Y[i, j] = (X[i : i + height, j : j + width] * K).sum()
    return Y


sharper = slide(picture, sharpen)
print(tuple(picture.shape), "->", tuple(sharper.shape))
assert sharper[16, 72] == (window * sharpen).sum()

# %%

# fold: before and after
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.5))
for ax, pixels, title in zip(axes, (picture, sharper), ("before", "after")):
    ax.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title)
    ax.set_axis_off()

# %%
# .. caption:: Before and after: the same roof with harder outlines.
#    :alt: Twice a detail of a Chinese roof in grey. On the right its tiles, beams and outlines stand out in stronger black and white.
#
# Why does that sharpen? Look at an edge, a row that jumps from dark to bright. Where all neighbours are equal, :math:`5 - 4 = 1` and
# nothing changes. Beside the jump, the dark side turns darker and the bright side brighter:

edge = torch.tensor([0.2, 0.2, 0.2, 0.2, 0.8, 0.8, 0.8, 0.8]).repeat(3, 1)
print("before", edge[1, 1:-1].numpy())
print("after ", slide(edge, sharpen)[0].numpy().round(2))

# %%
# Two values now lie outside of 0 and 1, darker than black and brighter than white. The figure above shows such values as plain black and
# white. To store the picture, cut them off with ``clamp(0, 1)``, as the take-home code of this page does.
#
# Is that a convolution?
# ----------------------
#
# It is what every deep learning library calls a :term:`convolution`. The weights are its :term:`kernel <kernel (convolution)>`, or
# filter. For a kernel :math:`\mathbf{K}` of :math:`k \times k` weights,
#
# .. math:: Y_{ij} = \sum_{u=0}^{k-1} \sum_{v=0}^{k-1} K_{uv}\, X_{i+u,\,j+v}
#
# :func:`torch.nn.functional.conv2d` expects a batch of images with channels, (N, C, H, W), and weights of the shape (channels out, channels
# in, height, width). Ours are one of each, so ``[None, None]`` puts two axes of length 1 in front:

from torch.nn import functional as F

batch = picture[None, None]
library = F.conv2d(batch, sharpen[None, None])
print(tuple(batch.shape), "->", tuple(library.shape))
print(f"largest difference {(library[0, 0] - sharper).abs().max():.0e}")
torch.testing.assert_close(library[0, 0], sharper)

# %%
# What else can a few weights do?
# -------------------------------
#
# The *sum* of a kernel says what happens where the picture is even. With a sum of 1, as in sharpen and blur, an even place keeps its
# value; with a sum of 0, it becomes 0, and only changes remain. Change has a direction: one kernel below subtracts what is above from what
# is below, the other what is on the left from what is on the right. Both have nine weights. Blur is larger, the mean of 7 by 7 pixels. Look
# at one place in the sky, which is nearly even:

across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
kernels = {"blur": torch.full((7, 7), 1 / 49), "left-right": across}
kernels["up-down"] = across.T
filtered = {}
for name, kernel in kernels.items():
    filtered[name] = F.conv2d(batch, kernel[None, None])[0, 0]
    sky = picture[5 + len(kernel) // 2, 5 + len(kernel) // 2]  # middle of window 5, 5
    new = round(filtered[name][5, 5].item(), 2) + 0.0  # + 0.0 turns -0.0 into 0.0
    print(f"{name:10} sum {kernel.sum():.2f}, sky {sky:.2f} -> {new:.2f}")

filtered["edges"] = (filtered["left-right"] ** 2 + filtered["up-down"] ** 2).sqrt()
assert abs(filtered["blur"][5, 5] - picture[8, 8]) < 0.05
assert filtered["edges"][5, 5] < 0.1

# %%

# fold: the filtered pictures
fig, axes = plt.subplots(2, 2, figsize=(6.4, 4.9))
for ax, (name, pixels) in zip(axes.flat, filtered.items()):
    ax.imshow(pixels.numpy(), cmap="gray", vmin=-1.5 if "-" in name else 0, vmax=1.5)
    if name == "blur":
        ax.images[0].set_clim(0, 1)
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: In the two pictures of change, grey is 0, white positive and black negative. "edges" is the length of both together: black
#    where the picture is even.
#    :alt: Four grey pictures of a pavilion roof. First blurred; then flat grey with upright outlines in black and white; then flat grey
#       with the level lines of roof and tiles; last, white outlines on black.
#
# The kernels of change are named after Irwin Sobel. For decades people designed such filters by hand. At the end of this page, one is
# learned.
#
# Can it go without loops?
# ------------------------
#
# Each output is a sum of products, so all of them are one matrix product. :func:`torch.nn.functional.unfold` copies every window into a
# column of nine numbers. Multiply by the kernel as a row:

from time import perf_counter

columns = F.unfold(batch, kernel_size=3)[0]
product = sharpen.reshape(1, 9) @ columns
print(tuple(columns.shape), "->", tuple(product.shape))
torch.testing.assert_close(product.reshape(sharper.shape), sharper)

start = perf_counter()
slide(picture, sharpen)
loops = perf_counter() - start
start = perf_counter()
sharpen.reshape(1, 9) @ F.unfold(batch, kernel_size=3)[0]
print(f"measured: two loops {loops:.2f} s, one product {perf_counter() - start:.4f} s")

# %%
# The price is memory: nine copies of nearly every pixel. ``conv2d`` gets the same numbers without keeping that table.

print(f"{picture.numel():,} pixels, {columns.numel():,} numbers in the table")
assert columns.numel() == 9 * sharper.numel()

# %%
# What about colours?
# -------------------
#
# A colour photograph has three :term:`channels <channel>`. A kernel for it has three layers, one per channel, and the three sums are added
# up: *one* output. For several outputs, take several such kernels. A bias, one number per output, is added at the end.

patch = china[:, 60:70, 120:132].float() / 255
generator = torch.Generator().manual_seed(0)
weight = torch.randn(4, 3, 3, 3, generator=generator)  # 4 outputs, 3 inputs
bias = torch.randn(4, generator=generator)

maps = []
for out in range(4):
    layers = [slide(patch[channel], weight[out, channel]) for channel in range(3)]
    maps.append(sum(layers) + bias[out])
by_hand = torch.stack(maps)
result = F.conv2d(patch[None], weight, bias)
print(tuple(patch[None].shape), "->", tuple(result.shape))
torch.testing.assert_close(result[0], by_hand)

# %%
# Each output is a :term:`feature map`. Two mistakes are common with real photographs. Image files come as height, width, channels, and as
# whole numbers; a convolution wants the channels first, and numbers of the same type as its weights. Both mistakes are loud:

from torch import nn

layer = nn.Conv2d(3, 4, kernel_size=3)
file = china.permute(1, 2, 0)  # as an image library would load it
for wrong in (file[None].float(), china[None]):
    try:
        layer(wrong)
    except RuntimeError as error:
        print(str(error).replace("but got", "\n  but got"))
right = layer(file.permute(2, 0, 1)[None].float() / 255)
print("channels first, as float32:", tuple(right.shape))
assert right.shape == (1, 4, 425, 638)

# %%
# A third mistake is silent. If you forget to divide by 255, the layer runs without an error, on numbers that are 255 times too large.
#
# Why does the kernel come out turned?
# ------------------------------------
#
# Filter a black picture with one white dot. You expect to see the kernel, stamped where the dot was. To make its position visible, take an
# L:

L = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
dot = torch.zeros(1, 1, 7, 7)
dot[0, 0, 3, 3] = 1
stamped = F.conv2d(dot, L[None, None])[0, 0]
flipped = F.conv2d(dot, L.flip(0, 1)[None, None])[0, 0]

# %%

# fold: kernel, dot and both results
fig, axes = plt.subplots(1, 4, figsize=(6.4, 1.9))
shown = {"kernel": L, "dot": dot[0, 0], "conv2d": stamped, "kernel flipped": flipped}
for ax, (name, pixels) in zip(axes, shown.items()):
    ax.pcolormesh(pixels.numpy(), cmap="gray", edgecolors="0.5", linewidth=0.5)
    ax.set(title=name, aspect="equal", xticks=[], yticks=[])
    ax.invert_yaxis()

# %%
# .. caption:: An L goes in, and an L turned by half a turn comes out. With the kernel flipped in both directions first, it comes out right.
#    :alt: Four small grids. The first holds a white L, the second one white dot, the third the L turned by half a
#       turn, the fourth the L upright.
#
# The first window that reaches the dot holds it in its lower right corner, so the first weight to appear is the kernel's last; the last
# window holds it in its upper left corner and shows the first. The kernel is read backwards. What mathematics calls a convolution has
# minus signs,
#
# .. math:: Y_{ij} = \sum_{u} \sum_{v} K_{uv}\, X_{i-u,\,j-v}
#
# so that it reads the picture backwards while it goes through the kernel forwards. That amounts to flipping the kernel in both directions
# before it slides. Without the flip, the operation is a **cross-correlation**. ``np.convolve`` computes the first, PyTorch the second:

import numpy as np

row, three = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 3.0])
correlated = F.conv1d(row[None, None], three[None, None])[0, 0].numpy()
print("np.convolve", np.convolve(row, three, mode="valid"))
print("F.conv1d   ", correlated)
torch.testing.assert_close(stamped.flip(0, 1), flipped)
assert (np.convolve(row, three.flip(0), mode="valid") == correlated).all()

# %%
# A network that *learns* its kernels needs no flip: what it learns already fits the operation. The difference matters when you bring a
# kernel from elsewhere. Ask which operation it was made for: functions called *convolve* flip, in NumPy and SciPy, and functions called
# *correlate* do not. A kernel for the first needs ``kernel.flip(0, 1)`` here, a kernel for the second goes in as it is. Kernels that look
# the same after half a turn, such as sharpen and blur, do not show the mistake.
#
# What is the gradient of a kernel?
# ---------------------------------
#
# To learn a kernel you need gradients. Backpropagation starts at the loss :math:`L` and has already found
# :math:`\mathrm{d}Y_{ij} = \partial L / \partial Y_{ij}` for every output, in code ``dY``; here random numbers stand for it. An output is a
# sum of weights times pixels. So its derivative with respect to a weight is the pixel under that weight, and with respect to a pixel the
# weight over it. Multiply by :math:`\mathrm{d}Y_{ij}`, and add up over all windows:

X = picture[60:68, 40:49].clone().requires_grad_()
K = across.clone().requires_grad_()
dY = torch.randn(6, 7, generator=generator)
F.conv2d(X[None, None], K[None, None]).backward(dY[None, None])

dX, dK = torch.zeros(8, 9), torch.zeros(3, 3)
for i in range(6):
    for j in range(7):
        dK += dY[i, j] * X.detach()[i : i + 3, j : j + 3]
        dX[i : i + 3, j : j + 3] += dY[i, j] * K.detach()
print("dK by hand ", dK[0].numpy().round(4), "...")
print("dK autograd", K.grad[0].numpy().round(4), "...")
torch.testing.assert_close(dK, K.grad)
torch.testing.assert_close(dX, X.grad)

# %%
# Both loops are sliding windows again. To get the gradient of the kernel, slide :math:`\mathrm{d}\mathbf{Y}` over the picture. To get the
# gradient of the picture, slide the kernel over :math:`\mathrm{d}\mathbf{Y}`. A pixel in row :math:`i` lies in the windows that begin in
# rows :math:`i-2`, :math:`i-1` and :math:`i`, and meets there row 2, 1 and 0 of the kernel: one goes up while the other goes down, so the
# kernel is flipped. Near the rim some of these windows do not exist, and :math:`k-1=2` rows and columns of zeros on every side stand for
# them:

slid_dK = slide(X.detach(), dY)
surrounded = F.pad(dY, (2, 2, 2, 2))  # left, right, top, bottom
slid_dX = slide(surrounded, K.detach().flip(0, 1))
for name, slid, gradient in [("dK", slid_dK, dK), ("dX", slid_dX, dX)]:
    difference = (slid - gradient).abs().max()
    print(f"{name}: shape {tuple(slid.shape)}, largest difference {difference:.0e}")
    torch.testing.assert_close(slid, gradient)

# %%
# With several channels, input channel :math:`c` acts on every output channel :math:`o`, through the kernel :math:`\mathbf{K}_{oc}`. Its
# gradient is the *sum over the outputs*: slide each flipped :math:`\mathbf{K}_{oc}` over its :math:`\mathrm{d}\mathbf{Y}_o`, and add up
# over :math:`o`. The two channel axes of the weights have changed their roles: on the way back it is the first that is summed over.
#
# Can it find the filter by itself?
# ---------------------------------
#
# Back to the button, and forget its nine numbers. You have only the picture before and after. Let a layer with random weights try, compare
# its picture with the true one, and follow the gradient:

torch.manual_seed(0)
finder = nn.Conv2d(1, 1, kernel_size=3, bias=False)
optimizer = torch.optim.SGD(finder.parameters(), lr=0.2, momentum=0.9)
after = sharper[None, None]
kept = {}
for step in range(401):
    loss = F.mse_loss(finder(batch), after)
    if step in (0, 20, 100, 400):
        kept[step] = finder.weight[0, 0].detach().clone()
        print(f"step {step:3}, loss {loss.item():.6f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

print(kept[400].numpy().round(1) + 0.0)
assert (kept[400] - sharpen).abs().max() < 0.1

# %%

# fold: the kernel while it is learned
fig, axes = plt.subplots(1, 5, figsize=(6.8, 1.9))
names = [f"step {step}" for step in kept]
for ax, name, values in zip(axes, [*names, "the button"], [*kept.values(), sharpen]):
    ax.imshow(values.numpy(), cmap="RdBu", vmin=-5, vmax=5)
    for i in range(3):
        for j in range(3):
            text = f"{round(values[i, j].item(), 1) + 0.0:.1f}"
            colour = "white" if abs(values[i, j]) > 3 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: Nine random numbers become the nine of the button. Blue is positive, red negative.
#    :alt: Five squares of three by three numbers. The first holds small random ones; from step to step the middle grows to 5, its four
#       neighbours fall to minus 1 and the corners to 0, as in the last square.
#
# Does it know the button, or only this roof? Press both on a photograph that it has never seen:

other = flower.float().mean(dim=0, keepdim=True)[None] / 255
pressed = F.conv2d(other, sharpen[None, None])
error = (finder(other) - pressed).abs().max().item()
change = (pressed - other[:, :, 1:-1, 1:-1]).abs().max().item()
print(f"the button changes a pixel by up to {change:.2f}; largest error {error:.3f}")
assert error < change / 10

# %%
# A convolutional network learns many kernels in many layers at once, in the same way. You do not have to give it the filtered pictures:
# each layer gets its :math:`\mathrm{d}\mathbf{Y}` from the layer behind it, down from the loss, instead of from this comparison.
#
# Take this with you
# ------------------
#
# To filter photographs, bring the channels to the front, divide by 255, and give every channel the kernel with ``groups=3``, which the next
# lesson explains. To keep the size, add a border of mirrored pixels first: a border of zeros would count as black, and sharpening would
# leave a bright frame.

photos = torch.randint(0, 256, (2, 427, 640, 3), dtype=torch.uint8)  # as from files
images = photos.permute(0, 3, 1, 2).float() / 255
kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 5.0, -1.0], [0.0, -1.0, 0.0]])
weight = kernel.expand(3, 1, 3, 3)  # the same for red, green and blue
framed = F.pad(images, (1, 1, 1, 1), mode="reflect")
crisp = F.conv2d(framed, weight, groups=3).clamp(0, 1)
print(tuple(crisp.shape))

# %%
# Change something
# ----------------
#
# * Set ``sharpen`` to ``[[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]]``, and see what the button does and what is learned.
# * Give the finder a kernel of 5 by 5: ``kernel_size=5``, and ``after = sharper[None, None, 1:-1, 1:-1]``. What are its 25 numbers?
# * Let the button do something that is not a filter: ``after = batch[:, :, 1:-1, 1:-1] ** 2``. How far does the loss fall?
#
# .. dropdown:: What happens
#
#    * The roof looks carved in relief: neighbours at the lower right count positive, those at the upper left negative. The finder prints
#      these nine numbers.
#    * The nine of the button in the middle, and zeros around them. (The assert below then compares 5 by 5 with 3 by 3 and stops with an
#      error.)
#    * To about 0.01 and not to zero: no weighted sum squares a pixel. The kernel it prints is 0.8 in the middle and zeros: the best factor
#      that takes the place of a square. The assert fails.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict where the dot goes
#    :kind: predict
#
#    A picture of 9 by 10 pixels is black but for one white dot in row 5, column 4. The kernel is 3 by 3, with a single 1 in its upper
#    right corner, and the picture has a border of one row and one column of zeros on every side (``padding=1``), so that the result is 9 by
#    10 again. In which row and column is the dot now? Rows and columns are counted from 0.

### BEGIN SOLUTION
guess = (6, 3)
### END SOLUTION

night = torch.zeros(1, 1, 9, 10)
night[0, 0, 5, 4] = 1
corner = torch.zeros(1, 1, 3, 3)
corner[0, 0, 0, 2] = 1
moved = F.conv2d(night, corner, padding=1)[0, 0]
expect(guess, lambda: tuple(moved.nonzero()[0].tolist()))

# %%
# .. exercise:: Fix the way back through many channels
#    :kind: fix
#
#    For a layer with 3 channels in and 4 out, a colleague computes the gradient of the input as
#    ``F.conv2d(F.pad(dY, (2, 2, 2, 2)), weight.flip(2, 3))``. It fails: *expected input to have 3 channels, but got 4*. And
#    ``weight.flip(2, 3).reshape(3, 4, 3, 3)`` runs and gives wrong numbers. Write it so that it is right for any number of channels.


def input_gradient(dY, weight):
    ### BEGIN SOLUTION
    turned = weight.flip(2, 3).transpose(0, 1)
    return F.conv2d(F.pad(dY, (2, 2, 2, 2)), turned)
    ### END SOLUTION


pixels = torch.randn(2, 3, 7, 8, generator=generator, requires_grad=True)
many = torch.randn(4, 3, 3, 3, generator=generator)
arriving = torch.randn(2, 4, 5, 6, generator=generator)
F.conv2d(pixels, many).backward(arriving)
expect(lambda: input_gradient(arriving, many), pixels.grad)

# %%
# .. exercise:: Build a finder without training
#    :kind: build
#
#    Every pixel *after* is a window *before* times the unknown kernel: thousands of linear equations for ``size`` times ``size`` unknowns.
#    Return the kernel that solves them best. ``before`` and ``after`` are grey pictures, (H, W); :func:`torch.linalg.lstsq` solves
#    :math:`\mathbf{A}\mathbf{x} = \mathbf{b}` in the sense of least squares.


def find_kernel(before, after, size):
    ### BEGIN SOLUTION
    windows = F.unfold(before[None, None], size)[0].T
    solution = torch.linalg.lstsq(windows, after.reshape(-1, 1)).solution
    return solution.reshape(size, size)
    ### END SOLUTION


secret = torch.randn(4, 4, generator=generator)
secretly = F.conv2d(batch, secret[None, None])[0, 0]
expect(lambda: find_kernel(picture, secretly, 4), secret, atol=1e-2)
