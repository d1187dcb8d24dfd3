r"""
Indexing and joining
====================

Pick, overwrite, count and join exactly the numbers you mean, and say before you run a
line which shape comes out and whose memory it is.

.. lesson::
   :needs: tensors/03_tensor_creation tensors/04_tensor_maths
   :data: none
   :keywords: indexing, slicing, advanced indexing, boolean mask, gather, scatter,
      index_add, index_put, scatter_add, bincount, histogram, one-hot, where,
      masked_fill, causal mask, cat, concatenate, stack, split, chunk, tensor_split,
      unbind, squeeze, step must be greater than zero, index is out of bounds for
      dimension
   :thumbnail: 2
"""

# %%
# Who stole my votes?
# -------------------
#
# A thousand people vote for three candidates. Each vote is the number of a candidate, and you count them without a loop: look up the count
# of each vote's candidate, and add 1.

import torch

shares = torch.tensor([0.5, 0.3, 0.2])
generator = torch.Generator().manual_seed(0)
votes = torch.multinomial(shares, 1000, replacement=True, generator=generator)
print("the first votes:", votes[:8].tolist())

counts = torch.zeros(3)
counts[votes] += 1
print("counted:", counts.tolist())

by_loop = torch.zeros(3)
for vote in votes.tolist():
    by_loop[vote] += 1
print("by a loop:", by_loop.tolist())
assert counts.tolist() == [1, 1, 1] and by_loop.sum() == 1000

# %%

# fold: both counts as bars
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 2.6))
for shift, heights, label in [(-0.2, by_loop, "loop"), (0.2, counts, "one line")]:
    places = [candidate + shift for candidate in range(3)]
    bars = ax.bar(places, heights.tolist(), width=0.4, label=label)
    ax.bar_label(bars, fmt="%d")
ax.set(xticks=[0, 1, 2], xlabel="candidate", ylabel="votes")
ax.margins(y=0.15)
ax.legend()

# %%
# .. caption:: The line without a loop leaves one vote to each candidate.
#    :alt: Bars for three candidates. The loop counts about 500, 300 and 200 votes; beside each stands a flat bar with the number 1.
#
# No error, and 997 votes are gone. Python reads the three counts, adds 1 to what it read, and writes back: every vote for a candidate
# writes the same 0 + 1. You see these steps below, and the lines that count right. First comes what square brackets return; with that you
# can also pick the right class of each sample, hide words from a model, and join batches.
#
# Which cells does an index pick?
# -------------------------------
#
# Take a table in which every number is its own position. What an index returns then names the cells that it read, in their order.

x = torch.arange(20).reshape(4, 5)
picks = {
    "x[1]": x[1],
    "x[:, -2]": x[:, -2],
    "x[1:3, 2:4]": x[1:3, 2:4],
    "x[::2, 1::3]": x[::2, 1::3],
    "x[2:9, 4:]": x[2:9, 4:],
    "x[[3, 0]]": x[[3, 0]],
    "x[[0, 1], [0, 1]]": x[[0, 1], [0, 1]],
    "x[x % 3 == 0]": x[x % 3 == 0],
}
assert x[1].tolist() == [5, 6, 7, 8, 9] and torch.equal(x[:, -2], x[:, 3])

# %%

# fold: the cells of each index, numbered in the order they come out
fig, axes = plt.subplots(2, 4, figsize=(6.4, 3.7))
for ax, (name, picked) in zip(axes.flat, picks.items()):
    order = picked.flatten().tolist()
    for cell in range(20):
        corner = divmod(cell, 5)[::-1]
        colour = "C5" if cell in order else "white"
        ax.add_patch(plt.Rectangle(corner, 1, 1, facecolor=colour, edgecolor="0.6"))
        if cell in order:
            style = {"size": 8, "ha": "center", "va": "center_baseline"}
            ax.text(corner[0] + 0.5, corner[1] + 0.5, order.index(cell), **style)
    ax.set(xlim=(-0.1, 5.1), ylim=(4.1, -0.1), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"{name}\n{tuple(picked.shape)}", size=8, family="monospace")

# %%
# .. caption:: Eight ways to index a tensor of shape (4, 5), each with the shape of its result. The numbers give the order in which the
#       cells come out.
#    :alt: Eight small grids of four rows and five columns with coloured cells. One index colours a whole row, a slice of columns a column,
#       two slices a block, two slices with steps a regular pattern, a slice that runs past the end the lower part of the last column, a
#       list two whole rows with the last first, two lists two single cells, and a mask every third cell.
#
# Five things to see in it:
#
# * Counting starts at 0, so ``x[1]`` is the *second* row; ``-2`` counts from the end.
# * An integer removes its axis; a slice of length one keeps it.
# * A slice that runs past the end is cut off, without an error.
# * Two slices make a block. Two lists are read in *pairs*, as with :func:`zip`: two cells, not four.
# * A *mask* is a tensor of True and False with the shape of ``x``, here ``x % 3 == 0``. It picks the cells where it is True, row by row.
#
# An integer past the end fails, and so does a negative step. :func:`torch.flip` does what ``[::-1]`` would.

assert x[1].shape == (5,) and x[1:2].shape == (1, 5) and x[2:9].shape == (2, 5)
for attempt in (lambda: x[4], lambda: x[::-1]):
    try:
        attempt()
    except (IndexError, ValueError) as error:
        print(f"{type(error).__name__}: {error}")
print(x.flip(0)[:, 0])
assert x.flip(0).tolist() == x.tolist()[::-1]

# %%
# Whose cells do I hold?
# ----------------------
#
# Two results with the same numbers may differ in one thing: whether writing into them changes ``x``. Integers and slices give a
# :term:`view`, lists and masks a :term:`copy`. The addresses of their memory tell.

memory = x.untyped_storage().data_ptr()
for name, picked in picks.items():
    kind = "view" if picked.untyped_storage().data_ptr() == memory else "copy"
    print(f"{name:<18} {kind}")

y = x.clone()
corner = y[1:3, 2:4]  # a view
corner[0, 0] = -1
pair = y[[0, 3]]  # a copy
pair[0, 0] = -1
print("through the slice:", y[1, 2].item(), "  through the list:", y[0, 0].item())
assert y[1, 2] == -1 and y[0, 0] == 0

# %%
# You might conclude that you cannot write through a mask. You can, when the mask stands on the left of *one* assignment. That is another
# operation, :meth:`torch.Tensor.index_put_`, and it writes into ``y``. Two brackets in a row make a copy, write into it, and drop it.

y = x.clone()
y[y > 16][0] = 99
print("two brackets:", y[3].tolist())
y[y > 16] = 99
print("one bracket: ", y[3].tolist())
assert y[3].tolist() == [15, 16, 99, 99, 99]

# %%
# So where did the votes go?
# --------------------------
#
# You expect "add 1 for each vote". Python does three things: *pick, add, write back*. Here they are, for five votes:

five = torch.tensor([2, 0, 2, 1, 2])
counts = torch.zeros(3)
picked = counts[five]
added = picked + 1
counts[five] = added
print("picked:", picked.tolist(), "  added:", added.tolist(), "  now:", counts.tolist())
assert counts.tolist() == [1, 1, 1]

# %%
# The pick copies five zeros, the sum makes five ones, and three of these are written into the same cell. With different values PyTorch
# does not even promise which one stays. The fix is an operation that **accumulates**. There are four:
#
# * :func:`torch.bincount` counts how often each label occurs.
# * :meth:`torch.Tensor.index_add` adds given values, and on axis 0 also whole rows: row *i* of the values to the row with number
#   ``index[i]``.
# * :meth:`torch.Tensor.scatter_add` names a place for each single value, so each cell of a row may go to another column.
# * :meth:`torch.Tensor.index_put` takes one list per axis, in pairs as above, to write into single cells of a table; it adds when you ask
#   for ``accumulate=True``.

ones = torch.ones(1000)
ways = {
    "bincount": votes.bincount(minlength=3).float(),
    "index_add": torch.zeros(3).index_add(0, votes, ones),
    "scatter_add": torch.zeros(3).scatter_add(0, votes, ones),
    "index_put": torch.zeros(3).index_put((votes,), ones, accumulate=True),
}
for name, result in ways.items():
    print(f"{name:<12} {result.tolist()}")
assert all(torch.equal(result, by_loop) for result in ways.values())

# %%
# How do I pick one number per row?
# ---------------------------------
#
# A classifier gives each of four samples a probability for each of three classes. The loss needs one number per row: the probability of the
# right class. Most people try ``p[:, labels]`` first.

scores = [[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 4.0]]
p = torch.tensor(scores).softmax(dim=1)
labels = torch.tensor([0, 1, 2, 1])

every_pair = p[:, labels]
right = p[torch.arange(4), labels]  # two lists: pairs of (row, column)
print(tuple(every_pair.shape), f"mean {every_pair.mean():.3f}")
print(tuple(right.shape), f"    mean {right.mean():.3f}")
assert every_pair.shape == (4, 4) and torch.equal(every_pair.diagonal(), right)

# %%
# ``:`` means *all rows*, so each row is read at all four labels: a wrong number, and no error. Two lists are read in pairs, which is
# what you need here. The same operation is called :term:`gather`. Along axis 1, :func:`torch.gather` computes
#
# .. math:: \text{out}_{ij} = \text{input}_{i,\,\text{index}_{ij}}
#
# so the index says, for each cell of the *result*, in which column to look. It must have as many axes as the input. ``None`` in square
# brackets inserts an axis of length one, so ``labels[:, None]`` is a column of shape (4, 1).


def gather_by_hand(source, index):
    """Gather along axis 1 with two loops."""
    out = torch.empty(index.shape)
    for i in range(index.shape[0]):
        for j in range(index.shape[1]):
            out[i, j] = source[i, index[i, j]]
    return out


column = labels[:, None]
gathered = p.gather(1, column)
print("gather:", gathered[:, 0], "  pairs:", right)
assert torch.equal(gathered, gather_by_hand(p, column))

# %%

# fold: index, input and result
tables = {"index": column, "p": p, "out": gathered}
fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.6), width_ratios=[1, 3, 1])
for ax, (name, table) in zip(axes, tables.items()):
    for row in range(4):
        for place in range(table.shape[1]):
            chosen = name == "out" or (name == "p" and place == labels[row])
            colour = "C5" if chosen else "white"
            box = plt.Rectangle((place, row), 1, 1, facecolor=colour, edgecolor="0.6")
            ax.add_patch(box)
            text = f"{table[row, place]:.2f}".removesuffix(".00")
            ax.text(place + 0.5, row + 0.5, text, ha="center", va="center")
    ax.set(xlim=(-0.05, table.shape[1] + 0.05), ylim=(4.05, -0.05))
    ax.set_axis_off()
    ax.set_title(f"{name} {tuple(table.shape)}")

# %%
# .. caption:: In each row, the index on the left names the column of ``p`` that goes into the result on the right.
#    :alt: Three tables with four rows. The index column reads 0, 1, 2, 1. In the table of probabilities, one cell per row is blue, in the
#       column that the index names. The result column holds these four numbers.
#
# Minus the mean logarithm of these numbers is the usual loss of a classifier, :term:`cross-entropy`. The reverse of gather is
# :meth:`torch.Tensor.scatter_`: the index says in which column to *write*. Writing ones at the labels makes the :term:`one-hot` form.

loss = torch.nn.functional.nll_loss(p.log(), labels)
torch.testing.assert_close(-right.log().mean(), loss)

one_hot = torch.zeros(4, 3).scatter_(1, column, 1.0)
print(one_hot)
assert torch.equal(one_hot.long(), torch.nn.functional.one_hot(labels, 3))

# %%
# Which of two, cell by cell?
# ---------------------------
#
# :func:`torch.where` chooses between two tensors. Multiplying by a mask of zeros and ones looks like the same thing, until a number is not
# finite: zero times infinity is not a number.

odds = torch.tensor([0.0, 1.0, 4.0])
positive = odds > 0
logs = odds.log()
print("times the mask:", positive * logs)
print("where:         ", torch.where(positive, logs, 0.0))
assert (positive * logs)[0].isnan() and torch.where(positive, logs, 0.0)[0] == 0

# %%
# :meth:`torch.Tensor.masked_fill` is ``where`` with one number. Fill with minus infinity before a :term:`softmax`, and what you masked gets
# probability zero, exactly. That keeps a language model from reading ahead. Row *i* below holds the weights with which word *i* reads the
# four words of a sentence; ``triu(1)`` keeps what lies right of the diagonal, the words that come later. All other scores are 0 here, so
# each word spreads its weight evenly over itself and the words before it:

future = torch.ones(4, 4).triu(1).bool()
attention = torch.zeros(4, 4).masked_fill(future, -torch.inf).softmax(dim=1)
print(attention)
assert attention[future].eq(0).all()

# %%
# Cat or stack?
# -------------
#
# Both join. :func:`torch.cat` puts tensors end to end along an axis that they *have*; :func:`torch.stack` makes a *new* axis to count
# them. Fill one tensor with zeros and the other with ones, and the result shows who lies where.

a, b = torch.zeros(2, 3), torch.ones(2, 3)
joined = {f"cat, dim {dim}": torch.cat([a, b], dim=dim) for dim in range(2)}
joined |= {f"stack, dim {dim}": torch.stack([a, b], dim=dim) for dim in range(3)}
for name, result in joined.items():
    print(name, tuple(result.shape))
assert torch.equal(joined["stack, dim 1"], torch.cat([a[:, None], b[:, None]], dim=1))

# %%

# fold: zeros are blue, ones orange
from itertools import product

fig, axes = plt.subplots(1, 5, figsize=(6.4, 2.1), width_ratios=[3, 6, 3.8, 3.8, 2.8])
for ax, (title, result) in zip(axes, joined.items()):
    sheets = result if result.ndim == 3 else result[None]
    count, rows, columns = sheets.shape
    for depth in reversed(range(count)):  # the last sheet lies at the back
        for row, place in product(range(rows), range(columns)):
            corner = (place + 0.8 * depth, row - 0.6 * depth)
            colour, hatch = ("C1", "//") if sheets[depth, row, place] else ("C5", "")
            style = {"facecolor": colour, "hatch": hatch, "edgecolor": "white"}
            ax.add_patch(plt.Rectangle(corner, 1, 1, **style))
    width = columns + 0.8 * count - 0.8
    ax.set(xlim=(0, width), ylim=(4, -0.7), aspect="equal", anchor="N")
    ax.set_axis_off()
    ax.set_title(title.replace(", ", "\n"), size=10)

# %%
# .. caption:: ``cat`` makes a longer or a wider table. A stack has a third axis, drawn as sheets; the colour changes along the new one.
#    :alt: Blue blocks are zeros, hatched orange ones are ones. Cat along axis 0 puts blue above orange, along axis 1 blue beside orange.
#       Stack along axis 0 gives a blue sheet before an orange one, along axis 1 two sheets with a blue row above an orange row, along axis
#       2 two sheets with a blue column beside an orange column.
#
# Each has its way back: ``unbind`` undoes a stack, ``split`` undoes a cat. ``split`` takes the *size* of the parts. :func:`torch.chunk`
# takes their number, and may return fewer: 12 / 5 is rounded up to parts of 3, and four of them use up the tensor. If five workers wait
# for five parts, ask for ``tensor_split``.

twelve = torch.arange(12)
print("split(5)       ", [len(part) for part in twelve.split(5)])
print("chunk(5)       ", [len(part) for part in twelve.chunk(5)])
print("tensor_split(5)", [len(part) for part in twelve.tensor_split(5)])
assert len(twelve.chunk(5)) == 4 and len(twelve.tensor_split(5)) == 5
assert torch.equal(joined["stack, dim 2"].unbind(2)[1], b)

# %%
# Where did my batch go?
# ----------------------
#
# A network returns an axis of length one that you do not want. ``squeeze()`` removes it, and the code works for 32 samples. But
# ``squeeze()`` removes *every* axis of length one, so with a single sample the axis of the batch goes too. The fix: name the axis.

for samples in (32, 1):
    output = torch.zeros(samples, 1, 5)
    bare, named = output.squeeze(), output.squeeze(1)
    print(f"squeeze() {tuple(bare.shape)}  squeeze(1) {tuple(named.shape)}")
assert bare.shape == (5,) and named.shape == (1, 5)

# %%
# Which shape comes out?
# ----------------------
#
# Here is a batch of eight colour pictures of 28 by 30 pixels. Cover the output, say each shape, then look. ``...`` stands for all the axes
# you do not name.

batch = torch.zeros(8, 3, 28, 30)
results = {
    "batch[:1]": batch[:1],
    "batch[..., 0]": batch[..., 0],
    "batch[:, :, ::2, 1::2]": batch[:, :, ::2, 1::2],
    "batch[[0, 0, 5]]": batch[[0, 0, 5]],
    "batch[[0, 5], [1, 1]]": batch[[0, 5], [1, 1]],
    "batch.unbind(1)[2]": batch.unbind(1)[2],
    "batch.split(3)[-1]": batch.split(3)[-1],
    "stack([batch, batch], 1)": torch.stack([batch, batch], 1),
}
for text, result in results.items():
    print(f"{text:<25} {tuple(result.shape)}")
assert results["batch[[0, 5], [1, 1]]"].shape == (2, 28, 30)

# %%
# One kind of index gives another shape in NumPy than in PyTorch: an integer, then a slice, then a list. PyTorch applies the integer first,
# and the axis of the list stays in its place. NumPy takes the integer as a second list, and when a slice stands between two lists, it puts
# their common axis first. Index in two steps, and both agree.

for name, array in [("PyTorch", batch), ("NumPy", batch.numpy())]:
    one_step = tuple(array[0, :, [0, 1]].shape)
    two_steps = tuple(array[0][:, [0, 1]].shape)
    print(f"{name:<8} in one step {one_step}  in two steps {two_steps}")
    assert two_steps == (3, 2, 30)

# %%
# Take this with you
# ------------------
#
# Slices are views; lists and masks copy. Two lists are read in pairs. Where a place occurs more than once, add with an operation that
# accumulates.

import torch

logits = torch.arange(-9.0, 9.0).reshape(6, 3)
labels = torch.tensor([2, 0, 2, 1, 2, 0])
right = logits.gather(1, labels[:, None]).squeeze(1)  # one number per row
counts = labels.bincount(minlength=3)  # how often each class occurs
sums = torch.zeros(3).index_add(0, labels, right)  # a sum per class
hidden = logits.masked_fill(logits < 0, -torch.inf)  # instead of a product with a mask
longer = torch.cat([logits, logits], dim=0)  # along an axis that exists: (12, 3)
pairs = torch.stack([logits, logits], dim=0)  # along a new axis: (2, 6, 3)
part = logits[:2].clone()  # memory of its own
print(counts, tuple(right.shape), tuple(longer.shape), tuple(pairs.shape))

# %%
# Change something
# ----------------
#
# * Give candidate 1 all five votes in ``five``. What will ``counts`` say?
# * Among the picks, write ``x[[[0], [1]], [0, 1]]``. The first list is now a column. Is the result a block or pairs?
# * Where ``cat`` and ``stack`` are drawn, give ``b`` the shape (2, 4). Which join fails, and which would have worked?
#
# .. dropdown:: What happens
#
#    * 0, 1, 0, and the assert fails: all five write the same 1 into the same cell.
#    * A block, (2, 2), with the cells 0, 1, 5 and 6. Two lists of different shapes are first repeated to one shape, here
#      (2, 2), so every row meets every column. :doc:`/lessons/tensors/08_broadcasting` explains the rule.
#    * ``cat`` along axis 0 fails first, and every stack would. ``cat`` along axis 1 works and gives (2, 7): all other axes must agree.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: The mean of each class
#
#    Write ``class_means(x, labels, number)`` for classes 0 to ``number - 1``: one row per class, the mean of the rows of ``x`` with that
#    label. No loop over the samples. ``index_add`` adds whole rows, as said above. To divide each row by its own count, make the counts a
#    column.


def class_means(x, labels, number):
    ### BEGIN SOLUTION
    sums = torch.zeros(number, x.shape[1]).index_add(0, labels, x)
    return sums / labels.bincount(minlength=number)[:, None]
    ### END SOLUTION


rows = torch.tensor([[1.0, 2.0], [3.0, 9.0], [5.0, 4.0], [0.0, 6.0], [9.0, 0.0]])
row_labels = torch.tensor([2, 0, 2, 1, 2])
means = torch.tensor([[3.0, 9.0], [0.0, 6.0], [5.0, 2.0]])
expect(lambda: class_means(rows, row_labels, 3), means)

# %%
# .. exercise:: Predict what was written
#
#    ``t`` is ``torch.arange(6)``. Then come ``t[t > 3][0] = 50``, ``t[1:4][0] = 60`` and ``t[[5, 5]] += 1``. What is ``t`` now? Answer
#    with a list of six numbers.

### BEGIN SOLUTION
guess = [0, 60, 2, 3, 4, 6]
### END SOLUTION

t = torch.arange(6)
t[t > 3][0] = 50
t[1:4][0] = 60
t[[5, 5]] += 1
expect(guess, t.tolist())

# %%
# .. exercise:: Fix the shares for the workers
#
#    ``first_try`` is meant to split a batch among workers. For six samples and four workers it returns three parts, and a worker that
#    writes into its part changes the batch. Write ``share``, which always returns one part for each worker, none more than one sample
#    longer than another, each with memory of its own.


def first_try(batch, workers):
    return batch.chunk(workers)


def share(batch, workers):
    ### BEGIN SOLUTION
    return [part.clone() for part in batch.tensor_split(workers)]
    ### END SOLUTION


def sizes_and_batch():
    batch = torch.arange(12.0).reshape(6, 2)
    parts = share(batch, 4)
    for part in parts:
        part += 100
    return sorted(len(part) for part in parts), batch.sum()


expect(sizes_and_batch, ([1, 1, 2, 2], torch.tensor(66.0)))
