r"""
Views and storage
=================

Say, before you run a line, whether it copies numbers in memory or only reads them in
another way.

.. lesson::
   :needs: tensors/03_tensor_creation tensors/06_indexing_and_joining
   :data: two photographs
   :keywords: view, reshape, resize, resize_, contiguous, stride, storage_offset,
      as_strided, permute, transpose, shallow copy, deep copy, memory sharing, alias,
      TypedStorage is deprecated, view size is not compatible with input tensor's size
      and stride, np.resize, non-inplace resize is deprecated
   :thumbnail: 4
"""

# %%
# Who changed my table?
# ---------------------
#
# Two days, three cities, degrees Celsius. A friend in America wants the middle city in Fahrenheit. You convert that column for him.

import torch

celsius = torch.tensor([[12.0, 20.0, 31.0], [14.0, 25.0, 30.0]])
friend = celsius[:, 1]
friend *= 1.8
friend += 32
print("for the friend:", friend)
print(celsius)
assert celsius[:, 1].tolist() == [68, 77]

# %%
# The friend is happy, but your own table now claims 68 and 77 degrees Celsius, though no line assigns to ``celsius``. Look at the memory:

import matplotlib.pyplot as plt
from pytorch_course.tensors import storage_map

plt.style.use("pytorch_course.book")
ax = storage_map(celsius=celsius, friend=friend).plot()

# %%
# .. caption:: There is one row of six numbers. Both names read it; ``friend`` reads the cells 1 and 4.
#    :alt: A row of six numbered cells. Below it, celsius fills all six with the indices 0,0 to 1,2, and friend fills the cells 1 and 4 with
#       the indices 0 and 1.
#
# ``friend`` is not a copy but a :term:`view`: a second way to read the same memory. A view is cheap, because no number is copied; but what
# you write through one name shows under the other, without a message. When you want to write and keep the original, ask for memory of your
# own with :meth:`torch.Tensor.clone`.

celsius = torch.tensor([[12.0, 20.0, 31.0], [14.0, 25.0, 30.0]])
friend = celsius[:, 1].clone()
friend *= 1.8
friend += 32
print(friend, celsius[:, 1])
assert celsius[:, 1].tolist() == [20, 25]

# %%
# What is a tensor made of?
# -------------------------
#
# It has two parts. The :term:`storage` is one long row of cells, without rows and columns. The tensor itself is a short note on how to read
# it: the shape, the :term:`offset` of the first element, and for each axis a :term:`stride`, the number of cells to the next element. The
# note also holds the dtype and the device. The last line below prints both, and the size of the storage: six floats of four bytes.

m = torch.arange(6.0).reshape(2, 3)
t = m.t()
for name, tensor in [("m", m), ("m.t()", t), ("m[:, 1:]", m[:, 1:])]:
    shape, stride = tuple(tensor.shape), tensor.stride()
    print(f"{name:<9} shape {shape} stride {stride} offset {tensor.storage_offset()}")
print(t.dtype, t.device, t.untyped_storage().nbytes(), "bytes")

# %%

# fold: the transposed matrix above its storage
from pytorch_course.tensors import layout

ax = layout(t).plot()
assert layout(t).address(2, 1) == 5

# %%
# .. caption:: The transposed matrix above the storage it shares with ``m``. Each element names its cell, each cell its element.
#    :alt: A grid of three rows and two columns with the storage positions 0 and 3, 1 and 4, 2 and 5. Below it six cells in a row, coloured
#       by the row of the grid that reads them, so that the colours alternate.
#
# Transposing swapped the two sizes and the two strides in the note, and not one float moved. The element with index
# :math:`(i_0, i_1, \dots)` lies in the cell with the number
#
# .. math:: \text{cell} = \text{offset} + \sum_k i_k \cdot \text{stride}_k
#
# Here is the transposed matrix by hand, and then by :func:`torch.as_strided`, which reads a storage with the shape and the strides that you
# name:

cells = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]  # the storage
by_hand = []
for i in range(3):
    for j in range(2):
        cell = t.storage_offset() + i * t.stride(0) + j * t.stride(1)
        by_hand.append(cells[cell])
print("by hand:   ", by_hand)

strided = torch.as_strided(m, size=(3, 2), stride=(1, 3))
print("as_strided:", strided.flatten().tolist())
assert by_hand == strided.flatten().tolist() == t.flatten().tolist()

# %%
# Two tensors read one storage when their storages begin at the same address in memory. Older pages ask for ``storage()`` instead of
# ``untyped_storage()``; it still answers, with a warning.

import warnings

first, second = m.untyped_storage().data_ptr(), t.untyped_storage().data_ptr()
print("bytes apart:", second - first)

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    m.storage()
print(len(caught), "warning:", str(caught[0].message).split(".")[0])
assert first == second and len(caught) == 1

# %%
# Which operations leave the bytes alone?
# ---------------------------------------
#
# Slices, also with a step, transposition, splitting an axis, and picking one index: an offset and strides are enough to describe what these
# return.

big = torch.arange(12.0)
table = big.view(3, 4)
views = {"table": table, "row 1": table[1], "column 2": table[:, 2]}
views |= {"every 2nd": big[::2], "corner": table[1:, 2:]}
found = storage_map(**views)
ax = found.plot()
assert found.cells("column 2") == (2, 6, 10)

# %%
# .. caption:: Five views of one storage of twelve cells. A filled cell is read by that view, and holds the index that reads it.
#    :alt: A row of twelve numbered cells; below it one row per view. The table touches all cells, row 1 cells 4 to 7, column 2 cells 2, 6
#       and 10, every second the even cells, and the corner cells 6, 7, 10 and 11.
#
# A list or a mask as index may pick any cells in any order. So PyTorch always copies them, even where the steps are equal, as in the list
# below. The storage of the copy holds the picked elements and no others. ``same_storage`` of the helper package compares the addresses as
# above.

from pytorch_course.tensors import same_storage

for name, part in [
    ("slice", big[1:6]),
    ("list", big[[0, 2, 4]]),
    ("mask", big[big > 6]),
]:
    cells = part.untyped_storage().nbytes() // part.itemsize
    print(f"{name:<6} {part.numel()} elements, storage of {cells} cells")
assert same_storage(big, big[1:6])
assert not same_storage(big, big[[0, 2, 4]]) and not same_storage(big, big[big > 6])

# %%
# A stride of zero is allowed: :meth:`torch.Tensor.expand` makes three rows out of the memory for one. Writing into one
# of the rows writes into all of them, which is almost never what you meant; ``clone`` first.

row = torch.tensor([1.0, 2.0])
rows = row.expand(3, 2)
rows[0].mul_(10)
print("stride", rows.stride(), rows.tolist())

row = torch.tensor([1.0, 2.0])
apart = row.expand(3, 2).clone()
apart[0].mul_(10)
print("stride", apart.stride(), apart.tolist())
assert rows.tolist() == [[10, 20]] * 3
assert apart.tolist() == [[10, 20], [1, 2], [1, 2]]

# %%
# Does reshape copy?
# ------------------
#
# Many notes say that ``view`` shares memory and :meth:`torch.Tensor.reshape` copies. Test it: write into the result, and look at the
# original.

d = torch.zeros(3, 2)
d.reshape(2, 3)[0, 0] = 9
print("d:      first element", d[0, 0].item())

d = torch.zeros(3, 2)
d.t().reshape(6)[0] = 9
print("d.t():  first element", d[0, 0].item())
assert same_storage(d, d.reshape(2, 3)) and not same_storage(d, d.t().reshape(6))

# %%
# The first write reached ``d``, the second did not: ``reshape`` returns a view *if possible*, else a copy. So do not write into what it
# returns unless you know which of the two you have. :meth:`torch.Tensor.view` never copies, and so it must sometimes refuse:

try:
    d.t().view(6)
except RuntimeError as error:
    message = str(error).split(" (")[0]
print("RuntimeError:", message)
print(d.view(-1).shape, d.view(2, -1).shape)  # -1: work it out
assert message.startswith("view size is not compatible")

# %%
# Why refuse? Flattened, the elements of ``d.t()`` lie in these cells:

down, across = d.t().stride()
walk = [i * down + j * across for i in range(2) for j in range(3)]
print("cells", walk, "steps", torch.tensor(walk).diff().tolist())
print("after contiguous():", d.t().contiguous().view(6).shape)
assert not d.t().is_contiguous() and d.t().contiguous().is_contiguous()

# %%
# The steps are not equal, and a stride is *one* number. A tensor whose elements lie side by side in the order of their indices is
# :term:`contiguous`; :meth:`torch.Tensor.contiguous` makes such a copy if needed, and then the view works.
#
# Is reshape a way to transpose?
# ------------------------------
#
# Both give the shape you want, and no check of shapes sees the difference.

grid = torch.tensor([[1, 2, 3], [4, 5, 6]])
print("reshape", grid.reshape(3, 2).tolist())
print("t      ", grid.t().tolist())
assert grid.reshape(3, 2).shape == grid.t().shape
assert not torch.equal(grid.reshape(3, 2), grid.t())

# %%
# ``reshape`` reads the elements row by row and starts a new row after every second one; ``t`` turns each row into a column. A photograph
# shows the difference at once. Image files have the channels last, networks want them first.

from pytorch_course.datasets import photographs

china = photographs().columns["image"][0]
photo = china.permute(1, 2, 0)[:400:4, :600:4]  # as in a file: height, width, channel
height, width, channels = photo.shape
right = photo.permute(2, 0, 1)
wrong = photo.reshape(channels, height, width)
print(tuple(right.shape), tuple(wrong.shape))

# %%

# fold: both results as pictures
fig, axes = plt.subplots(1, 2, figsize=(7, 2.6))
for ax, image, name in zip(axes, (right, wrong), ("permute", "reshape")):
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: Channels brought to the front by ``permute`` and by ``reshape``. The shapes are equal; only one is still a photograph.
#    :alt: Two pictures. On the left a Chinese pavilion in its natural colours; on the right bright
#       stripes in unnatural colours, in which the pavilion is lost.
#
# And resize?
# -----------
#
# You might expect another name for ``reshape``. Three functions are called so, and each does something else. The first,
# :func:`numpy.resize`, repeats the data until the new shape is full. The second, the method ``resize`` of a tensor, is deprecated; like
# ``reshape``, it shares memory or copies.

import numpy as np

print("np.resize:", np.resize(np.arange(4), (2, 3)).tolist())

d = torch.arange(6.0).reshape(2, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    of_whole = d.resize(3, 2)
    of_transposed = d.t().resize(2, 3)
print(caught[0].category.__name__, "-", caught[0].message)
for name, tensor in [("d", of_whole), ("d.t()", of_transposed)]:
    print(f"{name}.resize makes a", "view" if same_storage(d, tensor) else "copy")
assert same_storage(d, of_whole) and not same_storage(d, of_transposed)

# %%
# The third, ``resize_`` with an underscore, changes the tensor itself. Here it drops two numbers. The other names leave no doubt:
# ``reshape`` changes the shape, a slice drops, :func:`torch.cat` adds.

q = torch.arange(6.0)
result = q.resize_(2, 2)
print(q)
assert result is q and q.tolist() == [[0, 1], [2, 3]]

# %%
# Why is my file of one number so large?
# --------------------------------------
#
# A view keeps its whole storage alive, and :func:`torch.save` writes that storage, not only the elements that the view reads.

import io


def bytes_written(tensor):
    """Return how many bytes torch.save writes for a tensor."""
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.tell()


small = torch.zeros(1_000_000)[:1]
for name, tensor in [("slice", small), ("clone", small.clone())]:
    memory = tensor.untyped_storage().nbytes()
    print(f"{name}: {memory:,} bytes of memory, {bytes_written(tensor):,} in a file")
assert bytes_written(small) > 1000 * bytes_written(small.clone())

# %%
# .. admonition:: From practice
#
#    The same thing fills memory without any file: keep one row of each large batch in a list, and every batch stays alive. Clone what you
#    keep.
#
# Which shape comes next?
# -----------------------
#
# Follow one image through the changes of shape that are common before and inside a network. Cover the output, and predict each shape before
# you read it.

image = torch.zeros(28, 28)
one = image.unsqueeze(0)  # a channel axis
batch = one.unsqueeze(0)  # a batch of one
many = batch.expand(32, 1, 28, 28)
flat = many.flatten(1)  # one row per sample
again = flat.unflatten(1, (1, 28, 28))
grey = again.squeeze(1)  # no channel axis
last = grey.permute(1, 2, 0)  # samples last

steps = {"unsqueeze": one, "unsqueeze again": batch, "expand": many, "flatten": flat}
steps |= {"unflatten": again, "squeeze": grey, "permute": last}
for name, tensor in steps.items():
    cells = tensor.untyped_storage().nbytes() // 4
    shape = str(tuple(tensor.shape))
    print(f"{name:<16} {shape:<16} {tensor.numel():>6,} elements in {cells} cells")
assert all(same_storage(image, tensor) for tensor in steps.values())

# %%
# All seven tensors read the cells of the one image, even those with 32 samples: no step has copied.
#
# Take this with you
# ------------------
#
# A slice, ``t`` or ``permute`` is a view; a list or a mask copies; ``reshape`` may do either. Clone before you write into a part, and
# before you keep or save it. Use ``permute`` to move an axis, never ``reshape``.

import torch

pixels = torch.arange(48.0 * 64 * 3).reshape(48, 64, 3)  # height, width, channel
channels_first = pixels.permute(2, 0, 1)
one_row = channels_first.reshape(-1)  # not contiguous, so here reshape copies
part = pixels[:8, :8].clone()  # memory of its own, to write into, keep or save
memory = pixels.untyped_storage().data_ptr()
for tensor in (channels_first, one_row, part):
    kind = "view" if tensor.untyped_storage().data_ptr() == memory else "copy"
    print(tuple(tensor.shape), kind)

# %%
# Change something
# ----------------
#
# * In the first cell, write ``friend = friend * 1.8`` instead of ``friend *= 1.8``. Does the table still change?
# * In the map of five views, replace ``table[1:, 2:]`` by ``table[1:, ::3]``. Which cells light up? Name them first.
# * In the cell on one number in a large file, take ``torch.zeros(1_000_000)[[0]]`` for ``small``. What do the two lines say now?
#
# .. dropdown:: What happens
#
#    * No. ``friend * 1.8`` is a new tensor, and ``+= 32`` writes into that one. The assert at the end of the cell fails.
#    * 4, 7, 8 and 11: the first and the last of each of the two rows.
#    * Both lines say the same, 4 bytes of memory and a small file: a list as index copies one number, not the storage. The assert fails.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: The diagonal without a copy
#
#    Write ``diagonal(matrix)`` for a square matrix with :func:`torch.as_strided`: no loop, no copy, and no ``matrix.diagonal()``. How many
#    cells is it from one element of the diagonal to the next? ``matrix`` may itself be a view, with strides of its own. Its offset needs
#    no care: ``as_strided`` begins where the tensor begins, unless you name another offset.


def diagonal(matrix):
    ### BEGIN SOLUTION
    step = matrix.stride(0) + matrix.stride(1)
    return matrix.as_strided((len(matrix),), (step,))
    ### END SOLUTION


whole = torch.arange(20.0).reshape(4, 5)
expect(lambda: diagonal(whole[1:, 1:4]), torch.tensor([6.0, 12.0, 18.0]))
expect(lambda: diagonal(whole[1:, 1:4].t()), torch.tensor([6.0, 12.0, 18.0]))
expect(lambda: same_storage(diagonal(whole[:, :4]), whole), True)

# %%
# .. exercise:: Predict what is contiguous
#
#    ``x`` has shape (4, 6) and is contiguous. Which of ``x[:, ::2]``, ``x[::2]``, ``x[1:3]`` and ``x.view(2, 12).t()`` are? Answer with
#    four times True or False.

### BEGIN SOLUTION
guess = [False, False, True, False]
### END SOLUTION

x = torch.zeros(4, 6)
candidates = [x[:, ::2], x[::2], x[1:3], x.view(2, 12).t()]
expect(guess, [candidate.is_contiguous() for candidate in candidates])

# %%
# .. exercise:: Fix a function that writes into its input
#
#    A colleague's function ``first_try`` is meant to return all numbers in one row, with the first set to zero. It also changes the
#    caller's matrix, whenever ``reshape`` returns a view. Write ``without_first``, which leaves the matrix alone in every case.


def first_try(matrix):
    row = matrix.reshape(-1)
    row[0] = 0
    return row


def without_first(matrix):
    ### BEGIN SOLUTION
    row = matrix.reshape(-1).clone()
    row[0] = 0
    return row
    ### END SOLUTION


def caller(matrix):
    row = without_first(matrix)
    return row, matrix[0, 0].item()


pairs = torch.tensor([[7.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
expect(lambda: caller(pairs.clone()), (torch.tensor([0.0, 1, 2, 3, 4, 5]), 7.0))
expect(lambda: caller(pairs.t().clone()), (torch.tensor([0.0, 2, 4, 1, 3, 5]), 7.0))
expect(lambda: caller(pairs.clone().t()), (torch.tensor([0.0, 2, 4, 1, 3, 5]), 7.0))
