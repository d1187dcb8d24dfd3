r"""
NumPy on a photograph
=====================

Crop, mirror, recolour, pixelate and mask a photograph with array operations, and hand it to PyTorch with every pixel in its place.

.. lesson::
   :needs: tensors/01_numpy_arrays
   :data: two photographs that come with scikit-learn
"""

# %%
# Can I make it a little brighter?
# --------------------------------
#
# A photograph is an array of numbers from 0 to 255, and larger is brighter. So add 100 to all of them.

import matplotlib.pyplot as plt
from pytorch_course.datasets.bundled import photographs

plt.style.use("pytorch_course.book")


def show(height, **pictures):
    """Draw pictures side by side, grey ones in grey, and return their axes."""
    _, axes = plt.subplots(1, len(pictures), figsize=(6.4, height), squeeze=False)
    for ax, (name, picture) in zip(axes[0], pictures.items()):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
        ax.set_title(name.replace("_", " "))
        ax.set_axis_off()
    return axes[0]


china, flower = photographs().columns["image"].permute(0, 2, 3, 1).contiguous().numpy()
brighter = china + 100
axes = show(2.4, china=china, china_plus_100=brighter)

# %%
# .. caption:: Dark places did become brighter. The bright sky fell through the ceiling and came out dark.
#    :alt: On the left a Chinese pavilion above a lake under a bright sky. On the right the same picture, its sky and lake dark
#       and patchy, with false colours along the edges.
#
# No error, no warning. The pixels are of type ``uint8``, eight bits without a sign, and eight bits end at 255. Whatever passes it starts
# again at 0:
#
# .. math:: v + 100 \;\rightarrow\; (v + 100) \bmod 256

import numpy as np

print("dtype:", china.dtype, "  share of numbers that wrapped:", f"{(brighter < china).mean():.0%}")
assert brighter.dtype == np.uint8
assert np.array_equal(brighter, (china.astype(int) + 100) % 256)
assert np.array_equal(brighter < china, china > 155)  # 155 + 100 is the last that fits

# %%
# The mend: compute where there is room, stop at 255, come back. Or work in floats from 0 to 1, as networks do.

mended = np.clip(china.astype(np.int16) + 100, 0, 255).astype(np.uint8)
by_condition = np.where(china > 155, 255, brighter)
in_floats = np.minimum(china / 255 + 100 / 255, 1)
assert np.array_equal(mended, by_condition)
np.testing.assert_allclose(in_floats, mended / 255)
assert (mended >= china).all()
axes = show(2.4, china=china, clipped=mended)

# %%
# .. caption:: The same 100, clipped: everything is brighter, and what was bright before is now white.
#    :alt: The pavilion twice; on the right all of it is paler and the sky is white.
#
# Is it x first, or row first?
# ----------------------------
#
# The shape reads height, width, channel: an image file's order, called HWC. The first index goes *down*, the second to the right. Plots
# and image editors say x, y, which is the other way round. Ask for a pixel in both orders and you get two pixels.

height, width, channels = china.shape
x, y = 205, 40  # the golden ball on top of the roof, in the coordinates of an image editor
print("shape", china.shape, "  china[y, x]", china[y, x], "  china[x, y]", china[x, y])
assert (height, width, channels) == (427, 640, 3) and china.nbytes == 427 * 640 * 3
assert not np.array_equal(china[y, x], china[x, y])

(ax,) = show(4.2, two_orders=china)
for row, column, name in ((y, x, "china[y, x]"), (x, y, "china[x, y]")):
    ax.plot(column, row, "o", markersize=9, markeredgecolor="white", color="C3")
    label = {"textcoords": "offset points", "family": "monospace", "color": "white", "va": "center"}
    ax.annotate(name, (column, row), (10, 0), bbox={"facecolor": "0.1", "edgecolor": "none", "pad": 3}, **label)

# %%
# .. caption:: One pair of numbers, two places. Arrays count rows first; only the upper dot is where an image editor would put it.
#    :alt: The pavilion with two marked points: one on the ball on top of its roof, labelled china[y, x], and one at the left edge
#       beneath the roofs, labelled china[x, y].
#
# On a square picture both orders are legal everywhere, and the mistake shows only in the result. Here the width helps: x may be larger
# than any row.

try:
    china[600, 40]
except IndexError as error:
    print("IndexError:", error)
else:
    raise AssertionError("there is no row 600")

crop = china[25:255, 60:355]  # rows, then columns
assert crop.shape == (255 - 25, 355 - 60, 3) and np.array_equal(crop[0, 0], china[25, 60])
assert np.shares_memory(crop, china)  # a view: write into it and you paint on the photograph

# %%
# What is in a channel?
# ---------------------
#
# The last axis has three places: red, green, blue. Each :term:`channel` is a grey picture of its own. Split them, and stacking them gives
# the photograph back. How bright does a pixel look? Our eyes weigh green most and blue least; television has used these weights for
# decades :cite:p:`itu2011`:
#
# .. math:: Y = 0.299\,R + 0.587\,G + 0.114\,B
#
# That is a sum over the channel axis, so the channel axis disappears: a matrix product with three weights.

red, green, blue = (flower[:, :, k] for k in range(3))
assert np.array_equal(np.stack([red, green, blue], axis=2), flower)

weights = np.array([0.299, 0.587, 0.114])
luminance = flower @ weights
r, g, b = flower[200, 250].tolist()  # a petal
print(f"red {r}, green {g}, blue {b}: by hand {0.299 * r + 0.587 * g + 0.114 * b:.2f}, by @ {luminance[200, 250]:.2f}")
assert luminance.shape == (427, 640)
np.testing.assert_allclose(luminance, 0.299 * red + 0.587 * green + 0.114 * blue)
np.testing.assert_allclose(weights.sum(), 1)  # so grey stays as bright as it was

pieces = {"red": red, "green": green, "blue": blue, "luminance": luminance}
axes = show(1.9, **{name: piece[75:365, 160:450] for name, piece in pieces.items()})

# %%
# .. caption:: One channel at a time, and weighed together. Orange is much red, some green and little blue.
#    :alt: Four grey pictures of a dahlia: nearly white in red, middling in green, dark in blue, and in luminance between red and green.
#
# What happens when the channels change places?
# ---------------------------------------------
#
# A slice with step -1 along the last axis turns red, green, blue into blue, green, red. Some libraries read files in that order (BGR),
# and a network that was trained on the other one gets such a picture without complaint: same shape, same dtype, same values. Only the
# labels of the channels are wrong, and nobody stored those.

bgr = flower[:, :, ::-1]
assert bgr.shape == flower.shape and np.array_equal(bgr[:, :, 0], flower[:, :, 2])
assert np.array_equal(bgr.sum(axis=2), flower.sum(axis=2)) and np.shares_memory(bgr, flower)
axes = show(2.4, rgb=flower, bgr=bgr)

# %%
# .. caption:: The same numbers, with the first and last channel exchanged. An orange dahlia has become a blue one.
#    :alt: A dahlia in orange before dark green leaves; beside it the same dahlia in blue before brown leaves.
#
# Can I put a lake in front of it?
# --------------------------------
#
# A step of -1 along axis 0 turns a picture upside down. Darken that copy, join it below the first, and the pavilion stands in still water.
# :func:`numpy.concatenate` joins along an axis that exists; the other sizes must agree.

shore = 330
upper = china[:shore]
mirrored = (upper[::-1] * np.array([0.45, 0.6, 0.7])).astype(np.uint8)  # less red than blue: water
lake = np.concatenate([upper, mirrored[:200]], axis=0)
assert lake.shape == (shore + 200, 640, 3)
assert np.array_equal(upper[::-1][0], china[shore - 1]) and np.array_equal(upper[::-1][::-1], upper)
assert (lake[shore] <= lake[shore - 1]).all()  # the rows on both sides of the shore are the same, one darker
(ax,) = show(4.6, a_lake=lake)

# %%
# .. caption:: A mirror image, darkened channel by channel and joined below the original.
#    :alt: The pavilion between trees, and below it the same scene upside down and darker, like a reflection in calm water.
#
# How does a mosaic work without a loop?
# --------------------------------------
#
# Cut the picture into blocks of :math:`s \times s` pixels and replace each by its mean:
#
# .. math:: m_{ijc} = \frac{1}{s^2} \sum_{p=0}^{s-1} \sum_{q=0}^{s-1} v_{\,si+p,\; sj+q,\; c}
#
# The trick is to give the blocks axes of their own. Row :math:`si + p` is row :math:`p` of block :math:`i`, so an axis of 416 rows splits
# into 26 blocks of 16, and a mean over the two inner axes makes those two disappear.

s = 16
even = flower[: height // s * s, : width // s * s]  # whole blocks only
blocks = even.reshape(height // s, s, width // s, s, 3)
mosaic = blocks.mean(axis=(1, 3))
print(even.shape, "->", blocks.shape, "->", mosaic.shape)

by_loops = np.zeros(mosaic.shape)
for i in range(mosaic.shape[0]):
    for j in range(mosaic.shape[1]):
        by_loops[i, j] = even[s * i : s * i + s, s * j : s * j + s].mean(axis=(0, 1))
np.testing.assert_allclose(mosaic, by_loops)
np.testing.assert_allclose(mosaic.mean(axis=(0, 1)), even.mean(axis=(0, 1)))  # blocks of equal size keep the mean

# %%
# To draw it, repeat every block along both axes. Half photograph, half mosaic, joined along axis 1:

tiles = mosaic.astype(np.uint8).repeat(s, axis=0).repeat(s, axis=1)
assert tiles.shape == even.shape and np.array_equal(tiles[::s, ::s], mosaic.astype(np.uint8))
half = width // s // 2 * s
joined = np.concatenate([even[:, :half], tiles[:, half:]], axis=1)
assert joined.shape == even.shape
(ax,) = show(4.2, half_and_half=joined)

# %%
# .. caption:: Right of the middle, each square of 256 pixels shows one colour, their mean. The flower can still be recognised.
#    :alt: The orange dahlia; its left half is a sharp photograph, its right half consists of coloured squares.
#
# How do I keep only the flower?
# ------------------------------
#
# With a condition. The petals have more red than blue, the leaves do not. The obvious line, ``red - blue > 40``, walks into the first trap
# again: ``uint8`` has no negative numbers, so where blue is the larger, the difference wraps to something large and passes.

wrong = red - blue > 40
mask = red.astype(int) - blue > 40
print(f"picked by uint8 {wrong.mean():.0%}, by integers {mask.mean():.0%}")
assert mask.dtype == bool and mask.shape == (427, 640)
assert wrong[mask].all() and (wrong & (red < blue)).sum() > 10_000  # all that is right, and plenty of blue
assert not (mask & (red < blue)).any()

grey = luminance.astype(np.uint8)
splash = np.where(mask[:, :, np.newaxis], flower, grey[:, :, np.newaxis])
assert np.array_equal(splash[mask], flower[mask]) and (np.ptp(splash[~mask], axis=1) == 0).all()
axes = show(1.7, uint8_mask=wrong * 200, integer_mask=mask * 200, splash=splash)

# %%
# .. caption:: Pale is what the condition picked: nearly everything, or the flower. The second mask decides where colour stays.
#    :alt: Three pictures. The first mask is pale everywhere but for a thin outline of the flower; the second is pale on the flower and
#       black elsewhere. In the third the flower is orange and everything else grey.
#
# ``mask`` has shape (427, 640) and the photograph (427, 640, 3): a new axis at the end lets broadcasting use one decision for three
# channels.
#
# How does it get into PyTorch?
# -----------------------------
#
# A network wants channels first: CHW. Moving an axis is :func:`numpy.transpose`. Reshaping to the same shape looks right to
# every check of shapes, and cuts the row of numbers at other places: the first row of the "red" channel then holds red, green, blue,
# red, green, blue.

chw = flower.transpose(2, 0, 1)
scrambled = flower.reshape(3, height, width)
assert chw.shape == scrambled.shape == (3, 427, 640)
assert np.array_equal(chw[0], flower[:, :, 0])
assert scrambled[0, 0, :6].tolist() == [*flower[0, 0].tolist(), *flower[0, 1].tolist()]
axes = show(2.4, **{"transpose: red": chw[0], "reshape: 'red'": scrambled[0]})

# %%
# .. caption:: Channel 0 after ``transpose`` and after ``reshape``. The second is the top third of the photograph, its left, middle and
#    right parts woven into one another.
#    :alt: On the left a grey dahlia, undistorted. On the right, behind a fine weave of rows and columns, the upper rim of the flower,
#       three times as large.
#
# Now hand it over. :func:`torch.from_numpy` shares the memory; the sums of the channels agree to the last pixel, and a ``uint8`` tensor
# wraps as the array did.

import torch

image = torch.from_numpy(chw)
print(tuple(image.shape), image.dtype, "sums per channel:", image.sum(dim=(1, 2)).tolist())
assert image.sum(dim=(1, 2)).tolist() == flower.sum(axis=(0, 1)).tolist()
assert image.data_ptr() == flower.ctypes.data  # not one pixel was copied
assert torch.equal(image + 100, torch.from_numpy(chw + 100))  # PyTorch wraps, too

# %%
# Layers refuse bytes, so the usual next step is a float from 0 to 1. A layer that you will meet in many networks,
# :func:`torch.nn.functional.avg_pool2d`, then computes your mosaic.

try:
    torch.nn.functional.avg_pool2d(image, s)
except RuntimeError as error:
    print(f"{type(error).__name__}:", error)
else:
    raise AssertionError("a layer took bytes")

ready = image.float() / 255
torch.testing.assert_close(ready, torch.from_numpy(np.float32(chw) / 255))
assert 0 <= ready.min() and ready.max() <= 1 and ready.dtype == torch.float32

pooled = torch.nn.functional.avg_pool2d(image.double(), s)  # drops incomplete blocks, as we did
torch.testing.assert_close(pooled, torch.from_numpy(mosaic).permute(2, 0, 1))

# %%
# Mirrored pictures are the exception: a tensor has no negative strides, so PyTorch refuses the view. Copy first.

try:
    torch.from_numpy(flower[:, ::-1])
except ValueError as error:
    print("ValueError:", str(error).split(",")[0])
else:
    raise AssertionError("a negative stride went through")
assert torch.equal(torch.from_numpy(flower[:, ::-1].copy()), torch.from_numpy(flower).flip(1))

# %%
# Change something
# ----------------
#
# * Take 100 away instead of adding it. Which parts of the picture break now, and what does the clipped version look like?
# * Set ``s = 40``. Which shapes are printed, and how many pixels are lost at the edges? Is it still a dahlia?
# * Make the mask for ``china`` with the same condition. What will stay coloured: the roofs, the trees or the lake?
#
# Exercises
# ---------
#
# 1. Frame a picture: write ``frame(image, width)`` that paints a white border on a copy and leaves the original as it was. Which line
#    makes the difference?
# 2. Turn a picture by 90 degrees with ``transpose`` and one flip, and check yourself with :func:`numpy.rot90`.
# 3. Undo the mosaic's first step: from ``blocks`` of shape (26, 16, 40, 16, 3) get the 1,040 blocks as a batch of shape
#    (1040, 16, 16, 3). Why does ``reshape`` alone not do it?
#
# .. dropdown:: Answers
#
#    1. ``framed = image.copy()``; then four slices such as ``framed[:width] = 255``. Without ``copy`` you paint on the original.
#    2. ``image.transpose(1, 0, 2)[::-1]`` equals ``np.rot90(image)``.
#    3. ``blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 16, 16, 3)``. The two axes that count blocks must be neighbours first; ``reshape``
#       alone merges numbers that do not belong to one block.
