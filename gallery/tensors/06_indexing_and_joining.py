r"""
Indexing and joining
====================

Pick, overwrite, count and join exactly the numbers you mean, and say before you run the line which shape comes out and whose memory it is.

.. lesson::
   :needs: tensors/03_tensor_creation tensors/04_tensor_maths
   :data: none
"""

# %%
# Four cells or two?
# ------------------
#
# You want the top left corner of a table: rows 0 and 1, columns 0 and 1. There seem to be two ways to write it.

import torch

x = torch.arange(20).reshape(4, 5)  # every number is its own position
print(x[0:2, 0:2])
print(x[[0, 1], [0, 1]])

assert x[0:2, 0:2].tolist() == [[0, 1], [5, 6]]
assert x[[0, 1], [0, 1]].tolist() == [0, 6]  # no block: two cells

# %%
# Two slices make a block. Two lists are read in *pairs*, as with :func:`zip`: cell (0, 0) and cell (1, 1). No error tells you which of
# the two you wrote, so it pays to have seen the kinds of index next to each other.
#
# Which cells does an index pick?
# -------------------------------
#
# Since every number in ``x`` is its own position, whatever an index returns tells which cells it read.

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
picks = {
    "x[1]": x[1],
    "x[:, -2]": x[:, -2],
    "x[1:3, 2:4]": x[1:3, 2:4],
    "x[::2, 1::3]": x[::2, 1::3],
    "x[[3, 0]]": x[[3, 0]],
    "x[[0, 1, 3], [0, 1, 4]]": x[[0, 1, 3], [0, 1, 4]],
    "x[x % 3 == 0]": x[x % 3 == 0],
    "x[2:9, 4:]": x[2:9, 4:],
}

# %%
# Eight small pictures of ``x``, one for each:


def draw(ax, picked, title):
    """Colour the picked cells of x and write their order into them."""
    order = {cell: place for place, cell in enumerate(picked.flatten().tolist())}
    for cell in range(x.numel()):
        row, column = divmod(cell, x.shape[1])
        colour = "#56B4E9" if cell in order else "white"
        ax.add_patch(plt.Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="0.6", linewidth=0.8))
        ax.text(column + 0.5, row + 0.5, order.get(cell, ""), size=8, ha="center", va="center_baseline")
    ax.set(xlim=(-0.1, 5.1), ylim=(4.1, -0.1), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"{title}\n{tuple(picked.shape)}", size=8, family="monospace")


fig, axes = plt.subplots(2, 4, figsize=(6.4, 3.7))
for ax, (title, picked) in zip(axes.flat, picks.items()):
    draw(ax, picked, title)

# %%
# .. caption:: Eight ways to index a tensor of shape (4, 5), each with the shape of its result. The numbers in the blue cells give the
#       order in which they come out.
#    :alt: Eight small grids of four rows and five columns with coloured cells. One index colours a whole row, a slice of columns a column,
#       two slices a block, two slices with steps a regular pattern, a list two whole rows with the last first, two lists three single
#       cells, a mask every third cell, and a slice that runs past the end the lower part of the last column.
#
# Read three things from it. Counting starts at 0, so ``x[1]`` is the *second* row; ``-2`` counts from the end. A slice that runs past the
# end is cut off without a word, and an integer that does so fails. And an integer removes its axis, where a slice of length one keeps it.

assert x[1].tolist() == [5, 6, 7, 8, 9] and torch.equal(x[:, -2], x[:, 3])
assert x[1].shape == (5,) and x[1:2].shape == (1, 5) and x[2:9].shape == (2, 5)
for attempt in (lambda: x[4], lambda: x[::-1]):
    try:
        attempt()
    except (IndexError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError("the index was accepted")

assert x.flip(0).tolist() == x.tolist()[::-1]  # the mend
assert x.numpy()[::-1].base is not None  # NumPy makes a view of the array behind it

# %%
# The second error surprises everyone who comes from lists or NumPy: PyTorch has no negative step. :func:`torch.flip` does what ``[::-1]``
# would. It copies, where NumPy makes a view.
#
# Whose cells do I hold?
# ----------------------
#
# Integers and slices give a :term:`view`: write into it, and ``x`` changes. Lists and masks give a copy.

from pytorch_course.tensors import same_storage

for title, picked in picks.items():
    print(f"{title:<24} {'view' if same_storage(x, picked) else 'copy'}")
assert [same_storage(x, picked) for picked in picks.values()] == [True] * 4 + [False] * 3 + [True]
assert not same_storage(x, x.flip(0))

y = x.clone()
corner = y[1:3, 2:4]
corner[0, 0] = -1
assert y[1, 2] == -1  # written through the view

apart = y[1:3, 2:4].clone()
apart[0, 1] = -1
assert y[1, 3] == 8  # a clone keeps the write to itself

# %%
# From this you might conclude that you cannot write through a mask. You can, as long as the mask is on the left of *one* assignment: that
# is a different operation, :meth:`torch.Tensor.index_put_`, which writes into ``y``. Two brackets in a row first make a copy, then
# write into it, then throw it away.

y = x.clone()
y[y > 16][0] = 99  # lost
assert torch.equal(y, x)

y[y > 16] = 99  # written
y[[0, 1], [0, 1]] = -1
print(y)
assert y[3].tolist() == [15, 16, 99, 99, 99] and y[0, 0] == y[1, 1] == -1

# %%
# Who stole my votes?
# -------------------
#
# Five votes for three candidates. You count them without a loop.

votes = torch.tensor([2, 0, 2, 1, 2])
counts = torch.zeros(3)
counts[votes] += 1
print(counts)
assert counts.tolist() == [1, 1, 1]  # candidate 2 has three votes

# %%
# Two votes are gone. Python reads ``counts[votes] += 1`` as *pick, add, write back*. The pick copies five zeros, the sum makes five ones,
# and three of these ones are written into the same cell. With different values, PyTorch does not even promise which of them
# stays. What you want is an operation that **accumulates**, and there are several:

ways = {
    "index_add": torch.zeros(3).index_add(0, votes, torch.ones(5)),
    "index_put": torch.zeros(3).index_put((votes,), torch.tensor(1.0), accumulate=True),
    "scatter_add": torch.zeros(3).scatter_add(0, votes, torch.ones(5)),
    "bincount": votes.bincount(minlength=3).float(),
}
by_hand = torch.zeros(3)
for vote in votes:
    by_hand[vote] += 1  # one cell at a time: nothing is repeated
for name, result in ways.items():
    print(f"{name:<12} {result.tolist()}")
    torch.testing.assert_close(result, by_hand)

# %%
# How do I pick one number per row?
# ---------------------------------
#
# A classifier gives each of four samples a probability for each of three classes. The loss needs one number per row, the probability of
# the right class. The first attempt of most people is ``p[:, labels]``.

scores = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 4.0]])
labels = torch.tensor([0, 1, 2, 1])
p = scores.softmax(dim=1)

every_pair = p[:, labels]
right = p[torch.arange(4), labels]  # two lists: pairs of (row, column)
print(tuple(every_pair.shape), tuple(right.shape))
assert every_pair.shape == (4, 4) and torch.equal(every_pair.diagonal(), right)
assert abs(every_pair.mean() - right.mean()) > 0.1  # a mean over the wrong one is a wrong number, not an error

# %%
# ``:`` means *all rows*, so each row is read at all four labels. The pairing of two lists, a nuisance at the start, is what you need
# here. The same has a name, :term:`gather`, and a function, :func:`torch.gather`. Along axis 1 it computes
#
# .. math:: \text{out}_{ij} = \text{input}_{i,\,\text{index}_{ij}}
#
# so the index says, for each cell of the *result*, in which column to look. It needs as many axes as the input: hence the ``[:, None]``.


def gather_by_hand(source, index):
    """Gather along axis 1 with two loops."""
    out = torch.empty(index.shape, dtype=source.dtype)
    for i in range(index.shape[0]):
        for j in range(index.shape[1]):
            out[i, j] = source[i, index[i, j]]
    return out


column = labels[:, None]
torch.testing.assert_close(gather_by_hand(p, column), p.gather(1, column))
torch.testing.assert_close(p.gather(1, column)[:, 0], right)
torch.testing.assert_close(-right.log().mean(), torch.nn.functional.nll_loss(p.log(), labels))

order = scores.argsort(dim=1, descending=True)
torch.testing.assert_close(gather_by_hand(p, order), p.sort(dim=1, descending=True).values)
torch.testing.assert_close(torch.take_along_dim(p, order, dim=1), p.gather(1, order))

# %%
# The third comparison says that minus the mean logarithm of the gathered numbers is a loss you will meet again. The last two lines sort
# each row by the order found on another tensor; :func:`torch.take_along_dim` is the same gather under NumPy's name.

tables = {"index": column, "p": p, "out": p.gather(1, column)}
fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.6), width_ratios=[1, 3, 1])
for ax, (name, table) in zip(axes, tables.items()):
    for row in range(4):
        for place in range(table.shape[1]):
            chosen = name == "out" or (name == "p" and place == labels[row])
            colour = "#56B4E9" if chosen else "white"
            ax.add_patch(plt.Rectangle((place, row), 1, 1, facecolor=colour, edgecolor="0.6"))
            text = f"{table[row, place]:d}" if name == "index" else f"{table[row, place]:.2f}"
            ax.text(place + 0.5, row + 0.5, text, ha="center", va="center_baseline")
    ax.set(xlim=(-0.05, table.shape[1] + 0.05), ylim=(4.05, -0.05))
    ax.set_axis_off()
    ax.set_title(f"{name} {tuple(table.shape)}")

# %%
# .. caption:: Gathering along axis 1: in each row, the index on the left names the column of ``p`` that goes into the result on the right.
#    :alt: Three tables with four rows. The index column reads 0, 1, 2, 1. In the table of probabilities, one cell per row is blue, in the
#       column that the index names. The result column holds these four numbers.
#
# And how do I put it back?
# -------------------------
#
# :meth:`torch.Tensor.scatter_` is gather read from right to left: the index says in which column to *write*. Writing ones at the labels
# makes the :term:`one-hot` form.

one_hot = torch.zeros(4, 3).scatter_(1, column, 1.0)
by_hand = torch.zeros(4, 3)
for row, label in enumerate(labels):
    by_hand[row, label] = 1
print(one_hot)
assert torch.equal(one_hot, by_hand) and torch.equal(one_hot.long(), torch.nn.functional.one_hot(labels, 3))
torch.testing.assert_close((one_hot * p).sum(dim=1), right)  # the slow way to pick

# %%
# Which of two, cell by cell?
# ---------------------------
#
# :func:`torch.where` chooses between two tensors. It looks like arithmetic with a mask of zeros and ones, until a number is not finite.

odds = torch.tensor([0.0, 1.0, 4.0])
logs = odds.log()  # the first is minus infinity
positive = odds > 0
print(positive * logs, torch.where(positive, logs, 0.0))

assert (positive * logs)[0].isnan()  # zero times infinity
assert torch.where(positive, logs, 0.0)[0] == 0
assert torch.equal(torch.where(positive, logs, 0.0), logs.masked_fill(~positive, 0.0))
assert torch.equal(torch.where(positive)[0], positive.nonzero()[:, 0])  # one argument: the positions

# %%
# :meth:`torch.Tensor.masked_fill` is the form to remember. Fill with minus infinity before a softmax, and what you masked gets
# probability zero, exactly. That is how a language model is kept from reading ahead.

future = torch.ones(4, 4).triu(1).bool()
attention = torch.zeros(4, 4).masked_fill(future, -torch.inf).softmax(dim=1)
print(attention)
assert attention[future].eq(0).all() and attention[2].allclose(torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))

# %%
# Cat or stack?
# -------------
#
# Both join. :func:`torch.cat` puts tensors end to end along an axis that they *have*; :func:`torch.stack` makes a *new* axis to count
# them. Fill one tensor with zeros and the other with ones, and the result shows who lies where.

a, b = torch.zeros(2, 3), torch.ones(2, 3)
joined = {"cat, dim 0": torch.cat([a, b], dim=0), "cat, dim 1": torch.cat([a, b], dim=1)}
joined |= {f"stack, dim {dim}": torch.stack([a, b], dim=dim) for dim in range(3)}

fig, axes = plt.subplots(1, 5, figsize=(6.4, 2.1), width_ratios=[3, 6, 3.8, 3.8, 2.8])
for ax, (title, result) in zip(axes, joined.items()):
    sheets = result if result.ndim == 3 else result[None]
    for depth in reversed(range(len(sheets))):  # the last sheet lies at the back
        for row, place in torch.cartesian_prod(*map(torch.arange, sheets.shape[1:])).tolist():
            corner = (place + 0.8 * depth, row - 0.6 * depth)
            colour = "#E69F00" if sheets[depth, row, place] else "#56B4E9"
            ax.add_patch(plt.Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white"))
    ax.set(xlim=(0, sheets.shape[2] + 0.8 * len(sheets) - 0.8), ylim=(4, -0.7), aspect="equal", anchor="N")
    ax.set_axis_off()
    ax.set_title(f"{title}\n{tuple(result.shape)}", size=9)

# %%
# .. caption:: ``cat`` makes a longer or a wider table. A stack has three axes, drawn as sheets, rows and columns, and the colour changes
#       along the new one.
#    :alt: Blue blocks are zeros, orange ones are ones. Cat along axis 0 puts blue above orange, along axis 1 blue beside orange. Stack
#       along axis 0 gives a blue sheet before an orange one, along axis 1 two sheets with a blue row above an orange row, along axis 2
#       two sheets with a blue column beside an orange column.
#
# So ``stack`` is ``cat`` after an ``unsqueeze``, and each has its way back: :func:`torch.unbind` undoes a stack, :func:`torch.split`
# undoes a cat. Joining copies; taking apart gives views.

for dim in range(3):
    by_hand = torch.cat([a.unsqueeze(dim), b.unsqueeze(dim)], dim=dim)
    torch.testing.assert_close(by_hand, joined[f"stack, dim {dim}"])
    assert torch.equal(torch.stack([a, b], dim=dim).unbind(dim)[1], b)
halves = joined["cat, dim 0"].split(2)
assert torch.equal(halves[1], b) and same_storage(*halves) and not same_storage(halves[0], a)

twelve = torch.arange(12)
print("split(5)       ", [len(part) for part in twelve.split(5)])
print("chunk(5)       ", [len(part) for part in twelve.chunk(5)])
print("tensor_split(5)", [len(part) for part in twelve.tensor_split(5)])
assert len(twelve.chunk(5)) == 4 and len(twelve.tensor_split(5)) == 5

# %%
# ``split`` takes the *size* of the parts. ``chunk`` takes their *number*, and may return fewer: it rounds the size up, and then
# the tensor is used up early. If five workers wait for five parts, ask for ``tensor_split``.
#
# Where did my batch go?
# ----------------------
#
# A network returned one column per sample, with an axis of length one between. ``squeeze()`` removes it, and the tests pass. Then one day
# a single sample arrives.

for samples in (32, 1):
    output = torch.zeros(samples, 1, 5)
    print(f"{samples:2d}  squeeze() {tuple(output.squeeze().shape)!s:<8}  squeeze(1) {tuple(output.squeeze(1).shape)}")
assert torch.zeros(1, 1, 5).squeeze().shape == (5,)  # which axis counts the samples now?
assert torch.zeros(1, 1, 5).squeeze(1).shape == (1, 5)

# %%
# Without an argument, ``squeeze`` removes *every* axis of length one, the batch included. Always name the axis.
#
# Can you see the shape?
# ----------------------
#
# Shapes are invisible until you have predicted enough of them. Here are eight colour images of 28 by 28 pixels. Cover the right side of
# the output, say each shape, then look. ``...`` stands for all the axes you do not name, ``None`` for a new one.

batch = torch.zeros(8, 3, 28, 28)
predictions = {
    "batch[0]": (batch[0], (3, 28, 28)),
    "batch[:1]": (batch[:1], (1, 3, 28, 28)),
    "batch[..., 0]": (batch[..., 0], (8, 3, 28)),
    "batch[:, None]": (batch[:, None], (8, 1, 3, 28, 28)),
    "batch[:, :, ::2, 1::2]": (batch[:, :, ::2, 1::2], (8, 3, 14, 14)),
    "batch[[0, 0, 5]]": (batch[[0, 0, 5]], (3, 3, 28, 28)),
    "batch[[0, 5], [1, 1]]": (batch[[0, 5], [1, 1]], (2, 28, 28)),
    "batch[batch > 0]": (batch[batch > 0], (0,)),
    "batch.unbind(1)[2]": (batch.unbind(1)[2], (8, 28, 28)),
    "batch.split(3)[-1]": (batch.split(3)[-1], (2, 3, 28, 28)),
    "cat([batch, batch], 1)": (torch.cat([batch, batch], 1), (8, 6, 28, 28)),
    "stack([batch, batch], 1)": (torch.stack([batch, batch], 1), (8, 2, 3, 28, 28)),
}

# %%
# Twelve predictions, twelve answers:

for text, (result, predicted) in predictions.items():
    print(f"{text:<25} {tuple(result.shape)}")
    assert result.shape == predicted

mixed = batch[0, :, [0, 1]]
print("PyTorch", tuple(mixed.shape), " NumPy", batch.numpy()[0, :, [0, 1]].shape)
assert mixed.shape == (3, 2, 28) and batch.numpy()[0, :, [0, 1]].shape == (2, 3, 28)

# %%
# The last line mixes an integer, a slice and a list, and the two libraries disagree. NumPy counts the integer as a list of one,
# and lists with a slice between them put their axis first. PyTorch takes the integer on its own. Write two steps, ``batch[0][:, [0, 1]]``,
# and nobody needs to know.
#
# Change something
# ----------------
#
# * In the first cell, write ``x[[[0], [1]], [0, 1]]``. The first list is now a column. Is the result a block or a pair?
# * Give candidate 1 all five votes. What will ``counts`` print? (The assertion under it will object.) And what will ``bincount`` say?
# * Where ``cat`` is drawn, give ``b`` the shape (2, 4). Which join fails first, and which of the two cats would have worked?
#
# Exercises
# ---------
#
# 1. Write ``class_means(x, labels, classes)``, which returns the mean row of each class, with ``index_add`` and without a loop over the
#    samples.
# 2. ``x[mask][0] = 5`` changes nothing, ``x[2:4][0] = 5`` changes ``x``. Why?
# 3. A batch is cut into four parts with ``chunk(4)``, one for each worker, and worker 3 crashes on the last batch of every epoch. What
#    happened, and which two calls would mend it?
#
# .. dropdown:: Answers
#
#    1. ``torch.zeros(classes, x.shape[1]).index_add(0, labels, x) / labels.bincount(minlength=classes)[:, None]``.
#    2. The first bracket of the first line returns a copy, that of the second a view.
#    3. The last batch was short, say six samples: ``chunk(4)`` gives three parts of two, and the fourth worker, number 3, gets none.
#       ``tensor_split(4)`` always gives four parts, and ``drop_last=True`` in the loader drops the short batch.
