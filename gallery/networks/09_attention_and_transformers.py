r"""
Attention and transformers
==========================

Compute attention by hand, mask it without surprises, and train a small encoder that
reverses a sequence and shows where it looked.

.. lesson::
   :needs: networks/03_normalization_and_dropout networks/07_lenet_vgg_googlenet_resnet
      networks/08_recurrent_networks
   :data: random digits
   :keywords: self-attention, cross-attention, query key value, QKV,
      scaled_dot_product_attention, SDPA, MultiheadAttention, MHA, attn_mask,
      key_padding_mask, is_causal, causal mask, padding mask, mask True or False, NaN in
      attention, fully masked row, batch_first, positional encoding, sinusoidal
      positions, permutation equivariant, transformer encoder, pre-norm, layer
      normalization, attention map, Attention Is All You Need
   :thumbnail: 3
"""

# %%
# What would this paint cost?
# ---------------------------
#
# You sell five paints. A customer asks for two colours that are not on the list, a reddish orange and a turquoise. A fair price is a mean
# of your five prices, in which similar paints count more.

import torch
from torch.nn import functional as F

names = ["red", "orange", "yellow", "green", "blue"]
rgb = [[1, 0, 0], [1, 0.5, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]]
paints = F.normalize(torch.tensor(rgb), dim=1)
prices = torch.tensor([[30.0], [24.0], [20.0], [26.0], [40.0]])
wanted = F.normalize(torch.tensor([[1, 0.25, 0], [0, 0.7, 0.7]]), dim=1)

scores = 8 * wanted @ paints.T
weights = scores.softmax(dim=1)
print(weights.numpy().round(3))
print("prices", (weights @ prices).flatten().numpy().round(1))

# %%

# fold: both rows of weights
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 2.2))
shown = ax.imshow(weights.numpy())
ax.set_xticks(range(5), names)
ax.set_yticks(range(2), ["reddish orange", "turquoise"])
fig.colorbar(shown, label="weight")

# %%
# .. caption:: How much each paint on the list counts for each colour that is wanted. Every row sums to 1.
#    :alt: A table of two rows and five columns. Reddish orange: red and orange a good 0.4 each, yellow less. Turquoise: green
#       and blue 0.45 each.
#
# You have just computed :term:`attention`. What is wanted is the *query*; what it is compared with, the *keys*; what is averaged, the
# *values*. The comparison is an inner product, large for vectors of similar direction; :term:`softmax` makes weights of the scores. The
# factor 8 is our choice: with a larger number, fewer paints would count. In a network no such number is needed, because training can make
# queries and keys longer; there the scores are divided by :math:`\sqrt d` instead, for a reason that the next section shows.
#
# In a network, queries, keys and values are computed from the data by trained matrices. So the network learns what to compare, and which
# weights arise depends on the input. A convolution, in contrast, has the same weights for every input. With queries
# :math:`\mathbf{Q}`, keys :math:`\mathbf{K}`, values :math:`\mathbf{V}`, one per row, and :math:`d` numbers in each query:
#
# .. math:: \operatorname{attention}(\mathbf{Q}, \mathbf{K}, \mathbf{V}) =
#    \operatorname{softmax}\!\left(\frac{\mathbf{Q}\mathbf{K}^\top}{\sqrt{d}}\right)\mathbf{V}
#
# The formula is from 2017 :cite:p:`vaswani2017`. As a program, and beside it PyTorch's
# :func:`torch.nn.functional.scaled_dot_product_attention`, forward and backward:


def attention(queries, keys, values, allowed=None):
    """Return a weighted mean of the values for each query; look only where allowed."""
    scores = queries @ keys.mT / queries.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1) @ values


torch.manual_seed(0)
shapes = [(2, 3, 4), (2, 5, 4), (2, 5, 6)]  # 2 samples, 3 queries, 5 keys and values
inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
by_hand = attention(*inputs)
library = F.scaled_dot_product_attention(*inputs)
mine = torch.autograd.grad(by_hand.square().sum(), inputs)
theirs = torch.autograd.grad(library.square().sum(), inputs)
print("by hand", by_hand[0, 0].detach().numpy().round(3))
print("library", library[0, 0].detach().numpy().round(3))
torch.testing.assert_close(by_hand, library)
torch.testing.assert_close(mine, theirs)

# %%
# Why divide by the root of d?
# ----------------------------
#
# An inner product of :math:`d` random numbers is a sum of :math:`d` terms, and its standard deviation grows like :math:`\sqrt d`. See what
# softmax makes of such scores: a thousand random queries, ten keys each. *Top* is the largest weight, *slope* the size of the gradient of
# the first weight.

for d in (4, 64, 1024):
    queries, keys = torch.randn(1000, 1, d), torch.randn(1000, 10, d)
    raw = (queries @ keys.mT).squeeze(1)
    for name, scale in [("raw", 1), ("divided", d**0.5)]:
        scores = (raw / scale).requires_grad_()
        weights = scores.softmax(dim=1)
        weights[:, 0].sum().backward()
        top = weights.max(dim=1).values.mean()
        slope = scores.grad.norm(dim=1).median()
        size = scores.std()
        print(f"d {d:4} {name:7} scores {size:4.1f}, top {top:.2f}, slope {slope:.0e}")
assert top < 0.5 and slope > 0.03

# %%
# Without the division, at :math:`d = 1024`, nearly all weight lies on one key, chosen by chance, and the usual gradient (the median) is
# as good as zero: the softmax is saturated, and nothing passes back through it. Divided, the three sizes behave alike.
#
# What must it not see?
# ---------------------
#
# Sequences in a batch are filled up to equal length, and the filling, the *padding*, means nothing; it comes in the next section. And when
# a model has to predict what comes next, it must not see *the future*. A mask names the pairs of query and key; a forbidden pair gets the
# score :math:`-\infty`, and softmax makes 0 of it. Here is the mask against the future, the **causal** mask, for five positions, one row
# per query, 1 where it may look:

x = torch.randn(1, 5, 4)
causal = torch.ones(5, 5, dtype=torch.bool).tril()
print(causal.int())

changed = x.clone()
changed[:, 4] += 1  # another last element
for name, mask in [("no mask", None), ("causal", causal)]:
    change = attention(x, x, x, mask) - attention(changed, changed, changed, mask)
    print(f"{name:8} output changes by", change.abs().amax(dim=(0, 2)))
library = F.scaled_dot_product_attention(x, x, x, is_causal=True)
torch.testing.assert_close(attention(x, x, x, causal), library)
assert (change[:, :4] == 0).all() and (change[:, 4] != 0).all()

# %%
# With the mask the first four outputs do not know the last element. ``is_causal=True`` stands for the same mask.
#
# Does True mean look, or look away?
# ----------------------------------
#
# What you expect: a boolean mask means the same everywhere in PyTorch. Give one mask to the function above and to the layer
# :class:`torch.nn.MultiheadAttention`, of which more below. The layer returns its weights; from the function you get them by making the
# values an identity matrix.

from torch import nn

mask = torch.tensor([[True, False, False]])  # one query, three keys
query, keys = torch.randn(1, 1, 4), torch.randn(1, 3, 4)
layer = nn.MultiheadAttention(4, num_heads=1, batch_first=True)
function = F.scaled_dot_product_attention(query, keys, torch.eye(3)[None], mask)
_, in_layer = layer(query, keys, keys, attn_mask=mask)
_, in_padding = layer(query, keys, keys, key_padding_mask=mask)
print("scaled_dot_product_attention", function.detach().numpy().round(2))
print("layer, attn_mask            ", in_layer.detach().numpy().round(2))
print("layer, key_padding_mask     ", in_padding.detach().numpy().round(2))
assert function[0, 0, 0] == 1 and in_layer[0, 0, 0] == 0 and in_padding[0, 0, 0] == 0

# %%
# Opposites, and no error: for the function **True means look**, for the layer **True means look away**. The fix is a ``~`` when you change
# from one to the other, and a test as in the section before: change what is hidden and see that the output stays.
#
# A second surprise is a query that may look at nothing. It arises when a causal mask meets padding on the *left*. The causal mask leaves
# the first position only itself; it is padding, so the padding mask forbids that, too.

padding = torch.tensor([[True, False, False]])  # the first of three is padding
allowed = torch.ones(3, 3, dtype=torch.bool).tril() & ~padding[:, None]
x = torch.randn(1, 3, 4)
fixed = allowed | torch.eye(3, dtype=torch.bool)
rows = {
    "by hand": attention(x, x, x, allowed),
    "function": F.scaled_dot_product_attention(x, x, x, allowed),
    "layer": layer(x, x, x, attn_mask=~allowed[0])[0],
    "by hand, fixed": attention(x, x, x, fixed),
}
for name, output in rows.items():
    print(f"{name:15} first position", output[0, 0].detach().numpy().round(2))
assert rows["by hand"].isnan().any() and not rows["by hand, fixed"].isnan().any()

# %%
# All scores are :math:`-\infty`, the softmax is 0/0, and NaN spreads to whatever is computed from it. The function returns zeros for such a
# row; the layer, called as here, returns NaN. The fix for all of them: let every position see itself, and leave padded positions out of the
# loss.
#
# What are the heads?
# -------------------
#
# One softmax gives one mean: enough for the task at the end of this page. To look at two places for two reasons you need two sets of
# weights. :class:`torch.nn.MultiheadAttention` cuts queries, keys and values into pieces, the *heads*, lets each do its own attention,
# joins the results and applies one more linear layer. ``batch_first=True`` says that the axes are sample, position, number:
# :math:`(N, L, E)`. By hand, with the layer's weights:

heads, size = 3, 4
layer = nn.MultiheadAttention(heads * size, heads, batch_first=True)
x = torch.randn(2, 5, heads * size, requires_grad=True)

projected = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)  # (2, 5, 36)
pieces = projected.unflatten(2, (3, heads, size))  # (2, 5, 3, heads, size)
# bring the 3 (query, key, value) to the front, and the heads before the positions
queries, keys, values = pieces.permute(2, 0, 3, 1, 4)  # each (2, heads, 5, size)
joined = attention(queries, keys, values).transpose(1, 2).flatten(2)  # (2, 5, 12)
by_hand = layer.out_proj(joined)

library, _ = layer(x, x, x)
mine, theirs = (torch.autograd.grad(y.square().sum(), x)[0] for y in (by_hand, library))
print(f"largest difference {(by_hand - library).abs().max():.5f}")
torch.testing.assert_close(by_hand, library)
torch.testing.assert_close(mine, theirs)

# %%
# Does it know the order?
# -----------------------
#
# Exchange the positions of the input, and compare with the exchanged output.

order = torch.tensor([3, 0, 4, 1, 2])
x = torch.randn(2, 5, 12)


def attend(x):
    """Let every position look at all others."""
    return layer(x, x, x)[0]


difference = attend(x[:, order]) - attend(x)[:, order]
print(f"largest difference without positions {difference.abs().max():.3f}")
assert difference.abs().max() < 1e-5

# %%
# The rows come out in the other order, and nothing else changes: in "dog bites man" and "man bites dog", the word "dog" gets the same
# output. This is called permutation equivariant. So a transformer *adds* to each input a vector that says where it stands. The classic one
# holds pairs of a sine and a cosine, which turn fast in the first pair and slower in each further one. With position :math:`p`, pair
# :math:`i` and :math:`E` numbers in all:
#
# .. math:: \sin(p / 10000^{2i/E}), \quad \cos(p / 10000^{2i/E})


def positions(length, width):
    """Return one vector of sines and cosines for each position: (length, width)."""
    speeds = 10000 ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length)[:, None] * speeds
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


placed = positions(5, 12)
difference = attend(x[:, order] + placed) - attend(x + placed)[:, order]
print(f"largest difference with positions {difference.abs().max():.3f}")
assert difference.abs().max() > 0.01

# %%
# Can it reverse a number?
# ------------------------
#
# Twelve digits in, the same digits out, last one first. Each position needs one certain digit from elsewhere: a task for attention. A
# transformer's **encoder block** has two steps. First, positions look at each other; then a small network, the same at every position,
# works on what was found. Each step reads a normalised copy of :math:`\mathbf{x}` (*pre-norm*, with :class:`torch.nn.LayerNorm`) and adds
# its result to :math:`\mathbf{x}`, the shortcut of :doc:`/lessons/networks/07_lenet_vgg_googlenet_resnet`.


class EncoderBlock(nn.Module):
    """Self-attention, then a small network for each position; both add to x."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        """Turn (N, L, width) into the same shape; return the weights, too."""
        h = self.norm_1(x)
        found, weights = self.attention(h, h, h)
        x = x + found
        return x + self.mlp(self.norm_2(x)), weights


# %%
# Around it: an :term:`embedding`, a table with a trained vector for each of the ten digits; the positions; and a linear layer that scores
# ten digits at each place. Which places belong together is the same for every sequence, so one head and the positions are all that this
# task needs. Beside it a rival from :doc:`/lessons/networks/08_recurrent_networks`: a GRU that reads in both directions, with
# about as many parameters.


class Reverser(nn.Module):
    """Digits (N, L) to scores (N, L, 10); the part in the middle may be exchanged."""

    def __init__(self, middle, width, places):
        super().__init__()
        self.embedding = nn.Embedding(10, 32)
        self.register_buffer("places", places)
        self.middle = middle
        self.head = nn.Linear(width, 10)  # the middle returns vectors of this width

    def forward(self, digits):
        """Score ten digits for every place; keep the attention weights for later."""
        found, self.looked = self.middle(self.embedding(digits) + self.places)
        return self.head(found)


# %%
# All train on the same 300 batches of fresh random sequences. The test sequences come from another seed.


def sequences(*shape, seed):
    """Draw random sequences of twelve digits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, (*shape, 12), generator=generator)


batches, test = sequences(300, 64, seed=0), sequences(500, seed=1)


def train(model):
    """Train on 300 batches; return the share of right test digits every 20 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    shares = []
    for step, digits in enumerate(batches, start=1):
        loss = F.cross_entropy(model(digits).flatten(0, 1), digits.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                right = model(test).argmax(dim=2) == test.flip(1)
            shares.append((step, right.float().mean().item()))
    return shares


# %%
torch.manual_seed(0)
gru = nn.GRU(32, 32, batch_first=True, bidirectional=True)
models = {
    "transformer": Reverser(EncoderBlock(32, heads=1), 32, positions(12, 32)),
    "no positions": Reverser(EncoderBlock(32, heads=1), 32, torch.zeros(12, 32)),
    "GRU": Reverser(gru, 64, torch.zeros(12, 32)),
}
history = {}
for name, model in models.items():
    history[name] = train(model)
    print(name, sum(p.numel() for p in model.parameters()), "parameters,", end=" ")
    print(f"{history[name][-1][1]:.1%} of the test digits right")
most = (test == test.mode(dim=1).values[:, None]).float().mean().item()
print(f"always the most frequent digit of the twelve: {most:.1%}")
assert history["transformer"][-1][1] > 0.99
assert history["no positions"][-1][1] < 0.5 and history["GRU"][-1][1] < 0.8

# %%
from pytorch_course.plots import curves

ax = curves(history, xlabel="step", ylabel="test digits right")

# %%
# .. caption:: The share of right digits on unseen sequences, during training. Guessing gives 0.1.
#    :alt: Three curves. The transformer rises within about 100 steps to 1. The GRU rises slowly to about 0.3, the transformer without
#       positions stays at about a quarter.
#
# Without positions the block knows which digits occur, but not where. It gets about as many right as if it named the most frequent of the
# twelve digits at every place. The GRU gets a little further. This is one seed each and 300 batches, and nothing was tuned, so it does not
# say what a GRU can reach at best. One difference is certain: attention fetches a digit from any place in one step, while in a GRU it
# passes through all the steps in between.
#
# Are the test sequences really new? And where did the block look? The weights are the means over all test sequences.

seen = {tuple(row) for row in batches.flatten(0, 1).tolist()}
repeated = sum(tuple(row) in seen for row in test.tolist())
print(f"{repeated} of {len(test)} test sequences also occur in the training batches")

maps = models["transformer"].looked  # of its last run, on the test sequences
weights = maps.mean(dim=0)
opposite = weights.fliplr().diagonal()
print("mean weight at the opposite place:", [f"{w:.2f}" for w in opposite.tolist()])
assert weights.argmax(dim=1).tolist() == list(range(11, -1, -1)) and repeated == 0

# %%

# fold: the weights as a picture, beside one sequence
digits = test[0].tolist()
fig, ax = plt.subplots(figsize=(4.4, 4))
shown = ax.imshow(maps[0].numpy(), vmin=0, vmax=1)
ax.set_xticks(range(12), digits)
ax.set_yticks(range(12), digits[::-1])
ax.set(xlabel="input digits", ylabel="output digits")
fig.colorbar(shown, label="attention weight")

# %%
# .. caption:: One unseen sequence along the top axis, its reverse along the side. Each row shows where that output looked.
#    :alt: A square of twelve by twelve fields. Bright fields run along the diagonal from the upper right to the lower left; the rest is
#       dark.
#
# The bright line from corner to corner is the rule that nobody programmed: output :math:`i` takes most of its weight from input
# :math:`11 - i`, about equally much whether that place is near or far. In the picture most of the rest lies beside the line: the sines and
# cosines of neighbouring places are alike, so their scores are, too.
#
# Take this with you
# ------------------
#
# Write one padding mask, True where there is padding. Layers take it as it is, the function takes the opposite, and a mean over positions
# has to leave the padding out. :class:`torch.nn.TransformerEncoderLayer` is the encoder block of this page, with dropout and, by default,
# ReLU; ``norm_first=True`` makes it pre-norm. Positions you add yourself.

lengths = torch.tensor([3, 5])
padding = torch.arange(5) >= lengths[:, None]  # (N, L), True where there is padding
x = torch.randn(2, 5, 16)  # your embeddings plus positions

block = nn.TransformerEncoderLayer(16, 4, 64, norm_first=True, batch_first=True)
output = block(x, src_key_padding_mask=padding)  # 4 heads; True: look away
mean = output.masked_fill(padding[..., None], 0).sum(dim=1) / lengths[:, None]

pieces = x.unflatten(2, (4, 4)).transpose(1, 2)  # (N, heads, L, size)
allowed = ~padding[:, None, None]  # for every head and every query
found = F.scaled_dot_product_attention(pieces, pieces, pieces, allowed)  # True: look

# %%
# Change something
# ----------------
#
# * Test the trained transformer on sequences of ten digits: set its ``places`` to ``positions(10, 32)``, and compare with ``flip(1)``.
# * Leave out ``batch_first=True`` in ``EncoderBlock``. Does an error tell you?
# * Give the GRU 96 numbers: ``nn.GRU(32, 96, ...)``, and ``Reverser(gru, 192, ...)``. How many parameters has it then, and how many
#   digits are right?
#
# .. dropdown:: What happens
#
#    * Less than a fifth of the digits are right. It has learnt to look at :math:`11 - i`, and for ten digits it should be
#      :math:`9 - i`: it never saw another length.
#    * No error. The layer takes the axes for :math:`(L, N, E)`, so that each digit looks at other *samples* of the batch, and the result
#      is as good as guessing.
#    * 77,130, more than five times as many as the transformer, and about 0.4 of the digits: better, and far from solved.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a causal mean
#
#    All queries are zero, so that all scores are equal. The values are 6, 2, 1, 7, the mask is causal. Which four numbers come out?

### BEGIN SOLUTION
guess = [6.0, 4.0, 3.0, 4.0]
### END SOLUTION

values = torch.tensor([[[6.0], [2.0], [1.0], [7.0]]])
zero = torch.zeros(1, 4, 2)
result = F.scaled_dot_product_attention(zero, zero, values, is_causal=True)
expect(guess, [round(number, 4) for number in result.flatten().tolist()])

# %%
# .. exercise:: Fix the heads
#
#    A colleague splits ``x`` of shape (N, L, E) into heads with ``x.view(N, heads, L, E // heads)``. The shape is right, and the heads mix
#    numbers of different positions. Return (N, heads, L, E // heads) in which head h holds, for each position, its h-th piece.


def split_heads(x, heads):
    ### BEGIN SOLUTION
    return x.unflatten(2, (heads, -1)).transpose(1, 2)
    ### END SOLUTION


x = torch.arange(60.0).view(2, 5, 6)
pieces = torch.stack([x[..., 0:2], x[..., 2:4], x[..., 4:6]], dim=1)
expect(lambda: split_heads(x, 3), pieces)

# %%
# .. exercise:: Build a window
#
#    Long sequences make large tables of weights. Let each position see only itself and the ``width - 1`` positions before it. Return the
#    boolean mask (length, length) for :func:`torch.nn.functional.scaled_dot_product_attention`.


def window(length, width):
    ### BEGIN SOLUTION
    place = torch.arange(length)
    behind = place[:, None] - place
    return (behind >= 0) & (behind < width)
    ### END SOLUTION


rows = ["10000", "11000", "11100", "01110", "00111"]
right = torch.tensor([[digit == "1" for digit in row] for row in rows])
expect(lambda: window(5, 3), right)
