r"""
NumPy on a photograph
=====================

Brighten, crop, recolour, mirror, pixelate and mask a photograph, and hand it to PyTorch
with every pixel in its place.

.. lesson::
   :needs: tensors/01_numpy_arrays
   :data: two photographs
   :keywords: image processing, picture, uint8 overflow, wrap around, clip, RGB, BGR,
      HWC, CHW, channels first, channels last, greyscale, grayscale, luminance, crop,
      flip, mosaic, pixelate, mask, colour splash, color splash, negative strides are
      not supported, avg_pool2d not implemented for Byte
   :thumbnail: 7
"""

# %%
# Can I make it a little brighter?
# --------------------------------
#
# The trees in your photograph came out too dark. To NumPy the photograph is an array of numbers from 0 to 255, and larger is brighter. So
# you add 100 to all of them.

import numpy as np
from sklearn.datasets import load_sample_image

china = np.array(load_sample_image("china.jpg"))
flower = np.array(load_sample_image("flower.jpg"))
brighter = china + 100
print(china.shape, china.dtype, "from", china.min(), "to", china.max())

# %%

# fold: pictures side by side
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")


def show(pictures, height):
    """Draw pictures side by side, grey ones in grey, and return their axes."""
    _, axes = plt.subplots(1, len(pictures), figsize=(6.4, height), squeeze=False)
    for ax, (name, picture) in zip(axes[0], pictures.items()):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
        ax.set_title(name)
        ax.set_axis_off()
    return axes[0]


axes = show({"china": china, "china + 100": brighter}, height=2.4)

# %%
# .. caption:: Dark places became brighter. The bright sky came out dark.
#    :alt: On the left a Chinese pavilion above a lake under a bright sky. On the right the same picture, its sky and lake dark
#       and patchy, with false colours along the edges.
#
# No error, no warning. The :term:`dtype` is ``uint8``: eight bits, without a sign, and eight bits end at 255. What passes 255 starts again
# at 0, like the mileage counter of a car:
#
# .. math:: v + 100 \;\rightarrow\; (v + 100) \bmod 256

print("a pixel of the sky:", china[10, 10], "->", brighter[10, 10])
print(f"numbers that wrapped: {(brighter < china).mean():.0%}")
assert np.array_equal(brighter, (china.astype(int) + 100) % 256)

# %%
# The false colours come from places where only one or two of the three numbers of a pixel passed 255.
#
# The fix: compute in a type with room for larger numbers, cut off at 255, and convert back.

roomy = china.astype(np.int16) + 100
clipped = np.clip(roomy, 0, 255).astype(np.uint8)
print("the same pixel:", clipped[10, 10])
assert (clipped >= china).all()
axes = show({"china": china, "clipped": clipped}, height=2.4)

# %%
# .. caption:: The same 100, clipped: everything is brighter, and what was bright before is now white.
#    :alt: The pavilion twice; on the right all of it is paler and the sky is white.
#
# Is it x first, or row first?
# ----------------------------
#
# The shape (427, 640, 3) reads height, width, channel, in short HWC. The first index goes *down*, the second to the right. An image editor
# says x, y, which is the other way round. Ask for a pixel in both orders and you get two pixels:

x, y = 205, 40  # the ball on the roof, as an image editor counts
print("china[y, x]", china[y, x], "  china[x, y]", china[x, y])
assert china.shape == (427, 640, 3)

# %%

# fold: the two places
(ax,) = show({"one pair of numbers": china}, height=4.2)
box = {"facecolor": "0.1", "edgecolor": "none", "pad": 3}
text = {"family": "monospace", "color": "white", "va": "center", "bbox": box}
for row, column, name in [(y, x, "china[y, x]"), (x, y, "china[x, y]")]:
    ax.plot(column, row, "o", markersize=9, markeredgecolor="white", color="C3")
    ax.annotate(name, (column, row), (10, 0), textcoords="offset points", **text)

# %%
# .. caption:: Arrays count rows first; only the upper dot is where an image editor would put it.
#    :alt: The pavilion with two marked points: one on the ball on top of its roof, labelled china[y, x], and one at the left edge
#       beneath the roofs, labelled china[x, y].
#
# On a square picture no index is out of range in either order, and the mistake shows only in the result. This picture is wider than high,
# so a large x as a row number is an error:

try:
    china[600, 40]
except IndexError as error:
    print("IndexError:", error)

crop = china[25:255, 60:355]  # rows, then columns
print("crop:", crop.shape)
assert np.shares_memory(crop, china)

# %%
# The crop is a :term:`view`: paint on it and you paint on the photograph.
#
# What is in a channel?
# ---------------------
#
# The last axis has three places: red, green, blue. Each :term:`channel` is a grey picture of its own. How bright does a pixel look? Our
# eyes weigh green most and blue least. BT.601, the standard for television before high definition, has these weights :cite:p:`itu2011`:
#
# .. math:: Y = 0.299\,R + 0.587\,G + 0.114\,B
#
# That is a sum over the channels, so their axis disappears. With three weights on its right, ``@`` multiplies along the last axis and sums:
# it does so for every pixel.

red, green, blue = flower[:, :, 0], flower[:, :, 1], flower[:, :, 2]
luminance = flower @ np.array([0.299, 0.587, 0.114])

r, g, b = flower[200, 250].tolist()  # a petal
print(f"by hand {0.299 * r + 0.587 * g + 0.114 * b:.2f}")
print(f"by @    {luminance[200, 250]:.2f}", luminance.shape)
np.testing.assert_allclose(luminance, 0.299 * red + 0.587 * green + 0.114 * blue)
assert np.array_equal(np.stack([red, green, blue], axis=2), flower)

# %%

# fold: the channels and their weighted sum
parts = {"red": red, "green": green, "blue": blue, "luminance": luminance}
parts = {name: picture[75:365, 160:450] for name, picture in parts.items()}
axes = show(parts, height=1.9)

# %%
# .. caption:: One channel at a time, and weighed together. Orange is much red, some green and little blue.
#    :alt: Four grey pictures of a dahlia: nearly white in red, middling in green, dark in blue, and in luminance between red and green.
#
# What if the channels change places?
# -----------------------------------
#
# A step of -1 along the last axis turns red, green, blue into blue, green, red. Some libraries read files in that order. A network that was
# trained on the other order takes the picture without an error, because shape and dtype are the same. The array does not say which channel
# is red; you have to know.

bgr = flower[:, :, ::-1]
print(flower[200, 250], "->", bgr[200, 250])
assert bgr.shape == flower.shape and np.array_equal(bgr[:, :, 0], blue)
axes = show({"rgb": flower, "bgr": bgr}, height=2.4)

# %%
# .. caption:: The same numbers, with the first and last channel exchanged. An orange dahlia has become a blue one.
#    :alt: A dahlia in orange before dark green leaves; beside it the same dahlia in blue before brown leaves.
#
# Can I mirror it in still water?
# -------------------------------
#
# A step of -1 along axis 0 turns a picture upside down. Darken it, join it below the first, and the pavilion is mirrored in water. Three
# factors meet the picture along its last axis, by :term:`broadcasting`: one for each channel. :func:`numpy.concatenate` joins along an axis
# that exists.

shore = 330
upper = china[:shore]
darker = upper[::-1] * np.array([0.45, 0.6, 0.7])  # less red than blue: water
lake = np.concatenate([upper, darker[:200].astype(np.uint8)], axis=0)
print(upper.shape, "and 200 rows give", lake.shape)
(ax,) = show({"still water": lake}, height=4.6)
assert (lake[shore] <= lake[shore - 1]).all()  # the same row twice, one darker

# %%
# .. caption:: A mirror image, darkened channel by channel and joined below the original.
#    :alt: The pavilion between trees, and below it the same scene upside down and darker, like a reflection in calm water.
#
# How does a mosaic work without a loop?
# --------------------------------------
#
# You want to hide a face in a picture. Practise on the flower: cut the picture into blocks of :math:`s \times s` pixels and replace each
# block by its mean:
#
# .. math:: m_{ijc} = \frac{1}{s^2} \sum_{p=0}^{s-1} \sum_{q=0}^{s-1} v_{\,si+p,\; sj+q,\; c}
#
# Row :math:`si + p` of the picture is row :math:`p` of block :math:`i`. So an axis of 416 rows can be read as two: 26 blocks of 16 rows. A
# mean over the two inner axes makes those two disappear.

s = 16
rows, columns = 427 // s, 640 // s  # whole blocks only
even = flower[: rows * s, : columns * s]
blocks = even.reshape(rows, s, columns, s, 3)
mosaic = blocks.mean(axis=(1, 3))
print(even.shape, "->", blocks.shape, "->", mosaic.shape)

by_loop = np.zeros(mosaic.shape)
for i in range(rows):
    for j in range(columns):
        block = even[s * i : s * i + s, s * j : s * j + s]
        by_loop[i, j] = block.mean(axis=(0, 1))
np.testing.assert_allclose(mosaic, by_loop)

# %%
# To draw it, repeat every block along both axes. Half photograph, half mosaic, joined along axis 1:

tiles = mosaic.astype(np.uint8).repeat(s, axis=0).repeat(s, axis=1)
half = columns // 2 * s
joined = np.concatenate([even[:, :half], tiles[:, half:]], axis=1)
assert joined.shape == even.shape
(ax,) = show({"half and half": joined}, height=4.2)

# %%
# .. caption:: Right of the middle, each square of 256 pixels shows one colour, their mean. The petals are gone; outline and colours
#    are still there. To hide a face, take larger blocks.
#    :alt: The orange dahlia; its left half is a sharp photograph, its right half consists of coloured squares.
#
# How do I keep only the flower?
# ------------------------------
#
# You choose its pixels by a condition. Petals have much more red than blue; leaves do not. So you write ``red - blue > 40``, and nearly
# everything passes. The reason is the trap of the first section: ``uint8`` has no negative numbers, so where blue is larger, the difference
# wraps to something large. Convert one side to a type with a sign first.

wrong = red - blue > 40
mask = red.astype(int) - blue > 40
print(f"picked in uint8 {wrong.mean():.0%}, in integers with a sign {mask.mean():.0%}")
assert (wrong & (red < blue)).any() and not (mask & (red < blue)).any()

grey = luminance.astype(np.uint8)
splash = np.where(mask[:, :, np.newaxis], flower, grey[:, :, np.newaxis])
# times 200, to draw: False becomes 0, black, and True becomes 200, a pale grey
pictures = {"uint8": wrong * 200, "with a sign": mask * 200, "splash": splash}
axes = show(pictures, height=1.7)

# %%
# .. caption:: Pale is what the condition picked: nearly everything, or the flower. The second mask decides where colour stays.
#    :alt: Three pictures. The first mask is pale everywhere but for a thin outline of the flower; the second is pale on the flower and
#       black elsewhere. In the third the flower is orange and everything else grey.
#
# The mask has shape (427, 640), the photograph (427, 640, 3). A new axis at the end lets broadcasting use one decision for three
# channels.
#
# How does it get into PyTorch?
# -----------------------------
#
# A network wants channels first, CHW. To move an axis, call :func:`numpy.transpose`. ``reshape`` to the same shape satisfies every check of
# shapes, and is wrong: it keeps the order of the numbers in memory, red, green, blue, red, green, blue, and calls the first third of them
# "red".

chw = flower.transpose(2, 0, 1)
scrambled = flower.reshape(3, 427, 640)
print("red channel begins", chw[0, 0, :6], " after reshape", scrambled[0, 0, :6])
assert np.array_equal(chw[0], red)
axes = show({"transpose": chw[0], "reshape": scrambled[0]}, height=2.4)

# %%
# .. caption:: Channel 0 after ``transpose`` and after ``reshape``: the red picture, and the top third of the photograph torn apart.
#    :alt: On the left a grey dahlia, undistorted. On the right, behind a fine weave of rows and columns, the upper rim of the flower,
#       three times as large.
#
# Now hand it over. :func:`torch.from_numpy` shares the memory, so not one pixel is copied. The helper package has the same photographs, as
# PyTorch wants them:

import torch
from pytorch_course.datasets import photographs

image = torch.from_numpy(chw)
print(tuple(image.shape), image.dtype)
assert image.data_ptr() == flower.ctypes.data
assert torch.equal(image, photographs().columns["image"][1])

# %%
# Most layers do not accept bytes. The usual next step is to make floats from 0 to 1. Then :func:`torch.nn.functional.avg_pool2d`, an
# operation that you will meet in many networks, computes your mosaic.

try:
    torch.nn.functional.avg_pool2d(image, s)
except RuntimeError as error:
    print("RuntimeError:", error)

ready = image.float() / 255
pooled = torch.nn.functional.avg_pool2d(ready, s)
print(f"from {ready.min():.2f} to {ready.max():.2f}, pooled to {tuple(pooled.shape)}")
by_layer = pooled.permute(1, 2, 0) * 255
torch.testing.assert_close(
    by_layer, torch.from_numpy(mosaic).float(), rtol=1e-5, atol=1e-3
)

# %%
# A mirrored picture cannot be handed over like this. A :term:`stride` says how far apart in memory two neighbours along an axis lie. The
# mirrored view reads its rows backwards, so one stride is negative, which a tensor does not allow. ``transpose`` only puts the strides in
# another order, so it was no problem. The fix is a copy.

mirrored = flower[:, ::-1]
print("strides in bytes: transposed", chw.strides, " mirrored", mirrored.strides)
try:
    torch.from_numpy(mirrored)
except ValueError as error:
    print("ValueError:", str(error).split(",")[0])
tensor = torch.from_numpy(mirrored.copy())
assert torch.equal(tensor, torch.from_numpy(flower).flip(1))

# %%
# Take this with you
# ------------------
#
# Leave ``uint8`` before you add or subtract. Index ``[row, column, channel]``. Move axes with ``transpose`` or ``permute``, not
# ``reshape``.

picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
brighter = np.clip(picture.astype(int) + 100, 0, 255).astype(np.uint8)
crop = picture[8:40, 16:48]  # rows, then columns
mirrored = picture[:, ::-1].copy()  # the copy lets it into PyTorch
tensor = torch.from_numpy(picture).permute(2, 0, 1).float() / 255  # CHW, 0 to 1
batch = tensor.unsqueeze(0)  # NCHW, what a network takes
back = (tensor * 255).round().byte().permute(1, 2, 0).numpy()  # HWC, to draw
print(crop.shape, tuple(batch.shape), back.dtype, abs(back - picture).max())

# %%
# Change something
# ----------------
#
# * In the first cell, take 100 away instead of adding it. Which parts of the picture break now?
# * Set ``s = 40``. Which shapes are printed, and how many pixels are lost at the edges?
# * Make the mirror image by ``upper[:, ::-1]`` instead of ``upper[::-1]``. What do you see in the water?
#
# .. dropdown:: What happens
#
#    * What was dark is now bright: 50 - 100 gives 206. The roofs and the trees break, the sky is merely darker. The assert on the wrapped
#      numbers fails.
#    * (400, 640, 3), (10, 40, 16, 40, 3) and (10, 16, 3). The last 27 rows are lost, 17,280 pixels; no column is, since 640 is 16 × 40.
#    * A second pavilion, upright, exchanged left for right. The shore does not meet its mirror image, so the assert fails after the
#      picture is drawn.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict two pixels
#
#    In ``uint8``, what are ``200 + 100`` and ``40 - 60``? Answer with a list of two numbers.

### BEGIN SOLUTION
guess = [44, 236]
### END SOLUTION

bright, dark = np.array([200], dtype=np.uint8), np.array([40], dtype=np.uint8)
expect(guess, (bright + 100).tolist() + (dark - 60).tolist())

# %%
# .. exercise:: Put a frame around a picture
#
#    Write ``framed(picture, width)``: it returns the picture with a white border of ``width`` pixels painted over its edges. The picture
#    that came in stays as it was.


def framed(picture, width):
    ### BEGIN SOLUTION
    result = np.full_like(picture, 255)
    inside = (slice(width, -width), slice(width, -width))
    result[inside] = picture[inside]
    return result
    ### END SOLUTION


def frame_and_input():
    picture = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    result = framed(picture, 2)
    return (result == 255).sum(), result[2, 3].tolist(), picture.sum()


expect(frame_and_input, (5 * 6 * 3 - 1 * 2 * 3, [45, 46, 47], 90 * 89 // 2))

# %%
# .. exercise:: Fix a list of blocks
#
#    You want the blocks of a grey picture one after the other, as a batch of shape (blocks, s, s). A colleague wrote
#    ``picture.reshape(-1, s, s)``: the shape is right, the blocks are not. Write ``cut``, without a loop. Hint: begin with four axes, as in
#    the mosaic. The two axes inside a block must stand side by side at the end, so let the two middle axes change places.


def cut(picture, s):
    ### BEGIN SOLUTION
    rows, columns = picture.shape[0] // s, picture.shape[1] // s
    blocks = picture.reshape(rows, s, columns, s)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, s, s)
    ### END SOLUTION


small = np.arange(24).reshape(4, 6)
corners = [small[i : i + 2, j : j + 2] for i in (0, 2) for j in (0, 2, 4)]
expect(lambda: cut(small, 2), np.array(corners))
