r"""
Views and storage
=================

Say, before you run a line, whether it moves numbers in memory or only changes how they are read.

.. lesson::
   :needs: tensors/03_tensor_creation tensors/06_indexing_and_joining
   :data: none
"""

# %%
# Why did my matrix change?
# -------------------------
#
# You take the middle column of a matrix, add ten to it, and look at the matrix.

import torch

m = torch.arange(6.0).reshape(2, 3)
column = m[:, 1]
column += 10
print(m)
assert m[:, 1].tolist() == [11, 14]

# %%
# Nobody assigned to ``m``. The column is no copy: it is a **view**, a second way to read the same memory. Most of the bugs that views
# cause are silent, and so is most of the speed that they give. You need to see the memory to tell which is which.
#
# What is a tensor made of?
# -------------------------
#
# Two parts. The **storage** is one long row of cells, and it knows nothing of rows and columns. The tensor itself is a short note that
# says how to read it: the shape, the **offset** of the first element, and per axis a **stride**, the number of cells to the next element.

import matplotlib.pyplot as plt
from pytorch_course.tensors import layout, same_storage, storage_map

plt.style.use("pytorch_course.book")
m = torch.arange(6.0).reshape(2, 3)
ax = layout(m.t()).plot()

# %%
# .. caption:: The transposed matrix, three by two, above the storage it shares with ``m``. Each element names its cell, each cell its
#    element.
#    :alt: A grid of three rows and two columns with the storage positions 0 and 3, 1 and 4, 2 and 5. Below it six cells in a row,
#       coloured by the row of the grid that reads them, so that the colours alternate.
#
# The element with index :math:`(i_0, i_1, \dots)` lies in the cell
#
# .. math:: \text{address} = \text{offset} + \sum_k i_k \cdot \text{stride}_k
#
# That is all there is. Do it by hand for the transposed matrix, and let two others check you: :func:`torch.as_strided`, which reads a
# storage in any way you ask for, and the helper that drew the picture.

t = m.t()
cells = m.flatten().tolist()  # the storage, read from its first cell to its last
for i in range(t.shape[0]):
    for j in range(t.shape[1]):
        address = t.storage_offset() + i * t.stride(0) + j * t.stride(1)
        assert cells[address] == t[i, j] and address == layout(t).address(i, j)

assert torch.equal(torch.as_strided(m, size=(3, 2), stride=(1, 3)), t)
print("m:", tuple(m.shape), "stride", m.stride(), "  m.t():", tuple(t.shape), "stride", t.stride())

# %%
# Transposing swapped two pairs of numbers in the note. Not one float moved:

assert m.untyped_storage().data_ptr() == t.untyped_storage().data_ptr()
layout(t)

# %%
# Which operations leave the bytes alone?
# ---------------------------------------
#
# Whatever can be said with offset and strides needs no copy: slices with a step, transposition, splitting an axis, picking one index.

big = torch.arange(12.0)
table = big.view(3, 4)
views = {"table": table, "row 1": table[1], "column 2": table[:, 2], "every 2nd": big[::2], "corner": table[1:, 2:]}
found = storage_map(**views)
ax = found.plot()
assert found.cells("column 2") == (2, 6, 10)
assert all(same_storage(big, view) for view in views.values())

# %%
# .. caption:: Five views of one storage of twelve cells. A filled cell is read by that view, and holds the index that reads it.
#    :alt: A row of twelve numbered cells; below it one row per view. The table touches all cells, row 1 cells 4 to 7, column 2 cells 2, 6
#       and 10, every second the even cells, and the corner cells 6, 7, 10 and 11.
#
# Indexing with a list or a mask cannot be said in strides, because its steps are not even. It copies.

picked = big[[0, 1, 5]]
masked = big[big > 6]
assert not same_storage(big, picked) and not same_storage(big, masked)

expanded = torch.tensor([1.0, 2.0]).expand(3, 2)  # three rows, and memory for one
print("strides of the expanded tensor:", expanded.stride())
assert expanded.untyped_storage().nbytes() == 2 * 4
row = torch.tensor([1.0, 2.0])
row.expand(3, 2)[0].mul_(10)  # write into the first row ...
assert row.expand(3, 2).tolist() == [[10, 20]] * 3  # ... and all three changed

apart = row.expand(3, 2).clone()  # memory for all three
apart[0].mul_(10)
assert apart.tolist() == [[100, 200], [10, 20], [10, 20]]

# %%
# A stride of zero is legal: every row is the same two cells. Reading through it is free. Writing through it writes everywhere, which is
# almost never what you meant; ``.clone()`` first, as the last lines do.
#
# Does reshape copy?
# ------------------
#
# Many notes say that ``view`` shares memory and :meth:`torch.Tensor.reshape` copies. Test it.

d = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
before = d.untyped_storage().data_ptr()
reshaped = d.reshape(2, 3)
reshaped[0, 0] = 9
assert reshaped.untyped_storage().data_ptr() == before and d[0, 0] == 9  # the same cells

copied = d.t().reshape(6)
assert copied.untyped_storage().data_ptr() != before  # now it did copy
print("d.reshape shares:", same_storage(d, reshaped), "  d.t().reshape shares:", same_storage(d, copied))

# %%
# Same method, both answers. ``reshape`` is *view if possible, else copy*. So never write into what it returns unless you know which you
# got. :meth:`torch.Tensor.view` makes the other promise: it never copies, so sometimes it must refuse.

try:
    d.t().view(6)
except RuntimeError as error:
    print("RuntimeError:", str(error).split(".")[0])
else:
    raise AssertionError("view found strides for a flat transpose")

assert not d.t().is_contiguous() and d.t().contiguous().view(6).tolist() == copied.tolist()
assert d.view(-1).shape == (6,) and d.view(2, -1).shape == (2, 3)  # -1: work it out

# %%
# Why refuse? Flattened, the transposed elements lie in the cells 0, 2, 4, 1, 3, 5. The steps are 2, 2, -3, 2, 2, and a stride is *one*
# number. A tensor whose elements lie side by side in index order is **contiguous**; :meth:`torch.Tensor.contiguous` makes such a copy,
# and then the view works.

transposed = layout(d.t())
walk = [transposed.address(i, j) for i in range(2) for j in range(3)]
print(walk, "steps", [after - first for first, after in zip(walk, walk[1:])])
assert walk == [0, 2, 4, 1, 3, 5]

# %%
# Is reshape a way to transpose?
# ------------------------------
#
# No, and this mistake passes every check of shapes. Both results are three by two. ``view`` keeps the order of the cells and breaks the
# rows elsewhere; ``t`` keeps rows and columns and changes the order in which the cells are read.

grid = torch.tensor([[1, 2, 3], [4, 5, 6]])
print(grid.view(3, 2).tolist(), grid.t().tolist())
assert grid.view(3, 2).shape == grid.t().shape
assert not torch.equal(grid.view(3, 2), grid.t())

# %%
# A photograph shows it at once. Image files have the channels last, networks want them first.

from pytorch_course.datasets.bundled import photographs

china, flower = photographs().columns["image"]
photo = china.permute(1, 2, 0)[:400:4, :600:4]  # as in an image file: height, width, channel
height, width, channels = photo.shape
right, wrong = photo.permute(2, 0, 1), photo.reshape(channels, height, width)
assert right.shape == wrong.shape

fig, axes = plt.subplots(1, 2, figsize=(7, 2.6))
for ax, image, name in zip(axes, (right, wrong), ("permute", "reshape")):
    ax.imshow(image.permute(1, 2, 0).numpy())
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: Channels brought to the front by ``permute`` and by ``reshape``, then drawn. The shapes are equal; only one is still a
#    photograph.
#    :alt: Two pictures. On the left a Chinese pavilion in its natural colours; on the right a grey tangle of three small, distorted copies.
#
# And resize?
# -----------
#
# The third name in many tables is ``resize``. The method is deprecated. The one with the underscore changes the tensor itself, drops
# cells or adds cells with whatever the memory held, and asks nobody who else reads them.

import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.arange(6.0).resize(2, 3)
print(caught[0].category.__name__, "-", caught[0].message)
assert "deprecated" in str(caught[0].message)

q = torch.arange(6.0)
assert q.resize_(2, 2) is q and q.tolist() == [[0, 1], [2, 3]]  # two numbers are gone from sight

# %%
# Why is my file of one number so large?
# --------------------------------------
#
# A view keeps its whole storage alive, and :func:`torch.save` writes what the tensor reads *from*, not what it reads.

import io

big = torch.zeros(1_000_000)
small = big[:1]


def bytes_written(tensor):
    """Return how many bytes torch.save writes for a tensor."""
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.tell()


print("one number:", bytes_written(small) // 1000, "kB, its clone:", bytes_written(small.clone()) // 1000, "kB")
assert small.numel() == 1 and small.untyped_storage().nbytes() == 4_000_000
assert bytes_written(small) > 1000 * bytes_written(small.clone())

# %%
# .. admonition:: From practice
#
#    The same thing fills memory without any file: keep one row of each large batch in a list, and every batch stays alive. The assertion
#    above on ``untyped_storage().nbytes()`` is the evidence. Clone what you keep.
#
# Where did my axis go?
# ---------------------
#
# Shapes change step by step, and you cannot see them. Print them until you can predict them. This is the way of one image through a
# network.

image = torch.zeros(28, 28)
steps = [("one grey image", image)]
steps.append(("unsqueeze(0)     a channel axis", steps[-1][1].unsqueeze(0)))
steps.append(("unsqueeze(0)     a batch of one", steps[-1][1].unsqueeze(0)))
steps.append(("expand           32 samples", steps[-1][1].expand(32, 1, 28, 28)))
steps.append(("flatten(1)       a row per sample", steps[-1][1].flatten(1)))
steps.append(("unflatten        channels again", steps[-1][1].unflatten(1, (1, 28, 28))))
steps.append(("squeeze(1)       no channel axis", steps[-1][1].squeeze(1)))
steps.append(("permute(1, 2, 0) samples last", steps[-1][1].permute(1, 2, 0)))
for name, tensor in steps:
    print(f"{name:<34} {tuple(tensor.shape)!s:<16} shares memory: {same_storage(image, tensor)}")
assert all(same_storage(image, tensor) for _, tensor in steps)
assert image.untyped_storage().nbytes() == 4 * 28 * 28

# %%
# Eight shapes, up to 32 samples of them, and never more than the 784 numbers of the one image.
#
# Change something
# ----------------
#
# * In the first cell, write ``column = column + 10`` instead of ``column += 10``. Does the matrix still change?
# * Replace ``table[1:, 2:]`` by ``table[1:, ::3]`` in the map. Which cells light up? Name them first.
# * Draw ``layout(big[:12].view(3, 4).t()[::2])``. What are its strides and its offset?
#
# Exercises
# ---------
#
# 1. Write ``diagonal(matrix)`` for a square matrix with :func:`torch.as_strided`, without a loop and without a copy. Which stride does it
#    need?
# 2. A tensor has shape (4, 6) and strides (6, 1). Which of ``x[:, ::2]``, ``x[::2]`` and ``x.view(2, 12)`` are contiguous?
# 3. ``x.reshape(...)`` in a colleague's function changes the caller's tensor on one machine and not on another. How can that be, and what
#    one word mends it?
#
# .. dropdown:: Answers
#
#    1. ``torch.as_strided(m, (n,), (m.stride(0) + m.stride(1),), m.storage_offset())``: one step down and one to the right.
#    2. Only the last. The others skip cells.
#    3. The inputs differ in their strides, so ``reshape`` returns a view on one and a copy on the other. ``clone()`` before writing.
