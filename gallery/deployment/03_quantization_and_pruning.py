r"""
Quantisation and pruning
========================

Store a network in a quarter of its bytes, run it faster, and say what that costs in
accuracy.

.. lesson::
   :needs: deployment/02_onnx_and_openvino tensors/03_tensor_creation
   :data: scikit-learn's handwritten digits
   :keywords: quantization, quantize, int8, bfloat16, bf16, low precision, model
      compression, post-training quantization, PTQ, scale, zero point, per tensor, per
      channel, calibration, outlier, QDQ, quantize_static, ONNX Runtime quantization,
      torchao, torch.ao.quantization is deprecated, fake_quantize, pruning, sparsity,
      magnitude pruning, structured pruning, make a model smaller
   :thumbnail: 2
   :alone:
"""

# %%
# Can it be four times smaller?
# -----------------------------
#
# Your network reads handwritten digits. You want it in a device that has 2 MB left for its file. It needs 4.5:

import torch
from torch import nn

torch.manual_seed(0)
first, second, last = nn.Linear(64, 1024), nn.Linear(1024, 1024), nn.Linear(1024, 10)
model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
count = sum(weights.numel() for weights in model.parameters())
print(f"{count:,} numbers of 4 bytes: {4 * count / 1e6:.1f} MB")

# %%
# A plain training, and how well it reads the digits that it has not seen:

from pytorch_course.datasets import digits

images, labels = digits().tensors
x, y = images.flatten(1), labels
unseen, truth = x[1408:], y[1408:]


def fit(model, epochs):
    """Train on the first 1,408 digits."""
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(1408).split(128):
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval().requires_grad_(False)


# %%

fit(model, epochs=6)
before = model(unseen).argmax(dim=1)
accuracy = (before == truth).float().mean().item()
print(f"{len(unseen)} unseen digits, accuracy {accuracy:.2f}")

# %%
# Training needs fine numbers, because its steps are small. Does *reading* need them? Give each weight one byte: 256 possible values
# instead of four billion. This is **quantisation**.
#
# How does a weight become a byte?
# --------------------------------
#
# Choose a step :math:`s`, the **scale**, and count steps. The integer :math:`q` is stored; from it comes back an approximation
# :math:`\hat x`:
#
# .. math:: q = \operatorname{round}(x / s), \qquad \hat x = s\,q, \qquad |x - \hat x| \le s/2
#
# ``int8`` holds -128 to 127. If 127 steps reach the largest weight, every weight has its integer; -128 is left out, so that there are as
# many steps below zero as above. Six weights of the second layer:


def quantize(weights, bits=8, dim=None):
    """Return integers and their scale: one for all weights, or one for each row."""
    top = 2 ** (bits - 1) - 1  # 127 for 8 bits
    size = weights.abs()
    largest = size.max() if dim is None else size.amax(dim, keepdim=True)
    scale = largest / top
    return (weights / scale).round().to(torch.int8), scale


integers, scale = quantize(second.weight)
print(f"scale {scale:.5f}")
for weight, integer in zip(second.weight[0, :6], integers[0, :6]):
    print(f"{weight:8.5f} stored as {integer:4d}, comes back as {scale * integer:8.5f}")

# %%

# fold: what rounding does to nine of the steps
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 2.8))
line = torch.linspace(-4.2, 4.2, 500) * scale
ax.plot(line, line, "C1--", label="before")
ax.plot(line, (line / scale).round() * scale, "C0", label="after")
ax.set(xlabel="weight", ylabel="what comes back")
ax.legend()

# %%
# .. caption:: Nine of the 255 steps. Each weight (dashed) is replaced by the nearest step (solid), so the error is never more than half a
#    step.
#    :alt: A staircase that follows a straight dashed line.
#
# The promise of the formula holds for all 1,048,576 weights:

error = (scale * integers - second.weight).abs().max()
print(f"largest error {error / scale:.3f} steps")
assert error <= scale * 0.501  # half a step, and float32's own rounding

# %%
# What if the numbers are not around zero?
# ----------------------------------------
#
# What comes out of a ReLU is never negative. With the formula above, the integers -128 to -1 would never be used. So shift: the
# **zero point** :math:`z` is the integer that stands for 0.
#
# .. math:: q = \operatorname{round}(x / s) + z, \qquad \hat x = s\,(q - z)

hidden = model[:2](x[:256])  # after the first ReLU
wide, _ = quantize(hidden)
step = hidden.max() / 255
zero_point = -128
shifted = ((hidden / step).round() + zero_point).to(torch.int8)
print("integers without zero point", wide.min().item(), "to", wide.max().item())
print("integers with zero point   ", shifted.min().item(), "to", shifted.max().item())
assert shifted.min() == -128 and shifted.max() == 127

# %%
# Twice as many steps, so each is half as wide. And 0 is still *exactly* 0, as :math:`z` is an integer. That matters, because zeros are
# common: all that a ReLU cuts off, and the padding around an image.
#
# What does one large weight do?
# ------------------------------
#
# A ReLU network stays the same function if you multiply what goes into a hidden unit by 300 and divide what leaves it by 300. Do that to
# one unit of 1,024. The rounding then meets weights that are far larger than the others, *outliers*:

from copy import deepcopy


def with_outlier(factor):
    """Return the same function, with one hidden unit that is larger."""
    copy = deepcopy(model)
    copy[0].weight[7] *= factor
    copy[0].bias[7] *= factor
    copy[2].weight[:, 7] /= factor
    return copy


uneven = with_outlier(300)
torch.testing.assert_close(uneven(unseen), model(unseen), rtol=1e-3, atol=1e-3)


def rounded(model, bits, dim):
    """Return a copy of a model whose weights went to integers and back."""
    copy = deepcopy(model)
    for layer in copy[::2]:
        integers, scale = quantize(layer.weight, bits, dim)
        layer.weight.copy_(scale * integers)
    return copy


# %%
# The outputs agree. Round the weights of both to 8 bits. (``copy[::2]`` is every second module: the linear layers, without the ReLUs.)
# "Changed" counts the unseen digits for which the rounded network gives another answer than the first one:


def changed(model):
    """Return the share of unseen digits with another answer than the first model's."""
    return (model(unseen).argmax(dim=1) != before).float().mean().item()


for name, network in (("as trained", model), ("with outlier", uneven)):
    for kind, dim in (("one scale per layer", None), ("one scale per row", 1)):
        print(f"{name:12}, {kind:19} {changed(rounded(network, 8, dim)):6.1%} changed")
assert changed(rounded(uneven, 8, None)) > 0.5
assert changed(rounded(uneven, 8, dim=1)) < 0.05

# %%
# You expect that one unit of 1,024 can harm only itself. But with *one scale per layer* (per tensor) the largest weight sets the step
# for all, and nearly all others of its layer are rounded to zero. Look at the first layer:

for kind, dim in (("per tensor", None), ("per channel", 1)):
    zeros = quantize(uneven[0].weight, dim=dim)[0] == 0
    print(f"{kind:11} {zeros.float().mean():.1%} of its weights become 0")

# %%
# The fix is a scale for each row, that is for each output of the layer, called **per channel**. A row costs 4 bytes more, and a large
# weight makes the steps wide only in its own row.
#
# That does not rescue the unit itself: the weights that leave it are now 300 times smaller than their neighbours in the same rows of
# the second layer, and become 0. The other 1,023 units do without it. Besides, only weights were rounded so far. If what flows
# *between* the layers (the activations) is rounded too, a unit with values 300 times larger sets the step for all units again, and a
# scale per row of the weights does not help. In large language models the outliers are mostly there. Methods such as SmoothQuant divide
# these values and multiply the next weights: the trick from above, backwards.
#
# How few bits are enough?
# ------------------------

# fold: changed answers for 8 to 2 bits
bits = list(range(8, 1, -1))
fig, ax = plt.subplots(figsize=(6.4, 3.4))
for factor, color, marker in ((300, "C3", "s"), (100, "C2", "^"), (1, "C1", "v")):
    network = with_outlier(factor)
    share = [100 * changed(rounded(network, b, None)) for b in bits]
    ax.plot(bits, share, color, marker=marker, label=f"per tensor, outlier x{factor}")
share = [100 * changed(rounded(uneven, b, dim=1)) for b in bits]
ax.plot(bits, share, "C0--", marker="o", label="per channel, outlier x300")
ax.set(xlabel="bits per weight", ylabel="answers changed (%)", xlim=(8.2, 1.8))
ax.legend()

# %%
# .. caption:: Fewer bits, more changed answers. Without an outlier (x1), this task needs few bits. With one scale per tensor, the larger
#    the outlier the more bits are needed, and for x300 even 8 are too few. With a scale per channel (dashed), hardly any answer changes
#    down to 3 bits.
#    :alt: Four curves over 8 to 2 bits. Per tensor with the outlier times 300 is near 90 percent everywhere. Times 100 rises from 8 bits
#       on. Per tensor without outlier, and per channel with the outlier times 300, stay near 0 down to 3 bits.
#
# These digits are an easy task. A language model, or a network that must place boxes, needs more bits: measure on your own data.
#
# Does a library do the same?
# ---------------------------
#
# So far the integers were turned back into floats. A runtime computes *with* the integers. ONNX Runtime, which you know from
# :doc:`/lessons/deployment/02_onnx_and_openvino`, both converts a network and runs it. The result runs without
# PyTorch. (PyTorch's old ``torch.ao.quantization`` is deprecated. Its successor is the package torchao, which works on PyTorch's modules
# and gets its speed from ``torch.compile``.)

import tempfile
from pathlib import Path

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
settings = {"input_names": ["x"], "external_data": False, "verbose": False}
path = folder / "raw.onnx"
torch.onnx.export(model, (unseen,), path, dynamic_shapes=({0: "batch"},), **settings)

# %%
# The weights are known; the range of what flows between the layers is not. So the tool runs the network on examples and notes the
# largest and the smallest values: this is **calibration**. Use data like the real data, here 256 digits of the training set. It asks
# for them with ``get_next``, batch by batch, until that returns ``None``. A value outside this range later gets the nearest integer that
# there is, -128 or 127: it is clamped, as by :func:`torch.clamp`.

from types import SimpleNamespace

from onnxruntime.quantization import quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

batches = iter([{"x": x[:256].numpy()}])
reader = SimpleNamespace(get_next=lambda: next(batches, None))

quant_pre_process(path, folder / "float.onnx")  # simplify the graph
quantize_static(folder / "float.onnx", folder / "int8.onnx", reader, per_channel=True)

# %%
# Read what it has stored. Its integers are those that we made by hand, and so are scale and zero point of the hidden values:

import onnx

stored = {}
for tensor in onnx.load(folder / "int8.onnx").graph.initializer:
    stored[tensor.name] = torch.tensor(onnx.numpy_helper.to_array(tensor))

by_row, scales = quantize(second.weight, dim=1)
same = (stored["2.weight_quantized"] == by_row).float().mean()
print(f"equal integers: {same:.4%}")
print(f"hidden: scale {stored['relu_scale']:.5f}, by hand {step:.5f}")
assert same > 0.999  # a weight in the middle between two steps may go either way
assert stored["relu_zero_point"] == zero_point
torch.testing.assert_close(stored["relu_scale"], step)
torch.testing.assert_close(stored["2.weight_scale"], scales.flatten())

# %%
# Can I leave weights out instead?
# --------------------------------
#
# The other way to a smaller network is **pruning**: set the weights of smallest magnitude to zero. By hand it takes three lines, and
# ``torch.nn.utils.prune`` does the same.

from torch.nn.utils import prune


size = second.weight.abs()
limit = size.flatten().kthvalue(round(0.8 * size.numel())).values
by_hand = second.weight * (size > limit)  # the smallest 80% are zero
sparse = deepcopy(model)
for layer in sparse[::2]:
    prune.l1_unstructured(layer, "weight", amount=0.8)
assert torch.equal(sparse[2].weight, by_hand)
print(f"80% zeros: {changed(sparse):.1%} changed")

# %%
# That is a high price. But the layer remembers which weights are zero, in a :term:`buffer` named ``weight_mask``, so you can train the
# others again. ``prune.remove`` then makes the zeros final. To be fair, train a copy that is not pruned for two more epochs as well:

longer = deepcopy(model)
for name, network in (("80% zeros", sparse), ("not pruned", longer)):
    torch.manual_seed(1)
    fit(network, epochs=2)
    kept = (network(unseen).argmax(dim=1) == truth).float().mean()
    print(f"{name:10} accuracy {kept:.2f}, {changed(network):.1%} changed")
    assert kept > accuracy - 0.05
for layer in sparse[::2]:
    prune.remove(layer, "weight")

# %%
# Is a pruned network faster?
# ---------------------------
#
# Not on an ordinary processor. The matrix has the same shape, and every zero is multiplied, too. To be faster it must *shrink*. So remove
# whole hidden units, which are rows of one matrix and columns of the next: **structured pruning**. We keep the 256 units of each layer with
# the largest weights, and train again.

one = (first.weight.norm(dim=1) * second.weight.norm(dim=0)).topk(256).indices
two = (second.weight.norm(dim=1) * last.weight.norm(dim=0)).topk(256).indices
narrow = deepcopy(model)
narrow[0].weight = nn.Parameter(first.weight[one])
narrow[0].bias = nn.Parameter(first.bias[one])
narrow[2].weight = nn.Parameter(second.weight[two][:, one])
narrow[2].bias = nn.Parameter(second.bias[two])
narrow[4].weight = nn.Parameter(last.weight[:, two])
fit(narrow, epochs=2)

# %%
# What does each cost, and what does it bring?
# --------------------------------------------
#
# All in one table: the size of the file in megabytes, the shortest of 40 times for a batch of 64 digits, in milliseconds, the accuracy, and
# the share of changed answers. (This book runs PyTorch on one thread, with ``OMP_NUM_THREADS=1``; yours may use more.) ``bfloat16`` is the
# simplest of all: :term:`two bytes <bfloat16>` for a number, ``model.bfloat16()``, and no scale, because each number has its own exponent.

import onnxruntime as ort


def session(path):
    """Return a function from inputs to answers that runs an ONNX file on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    run = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run
    return lambda x: torch.from_numpy(run(None, {"x": x.numpy()})[0])


# %%

half = deepcopy(model).bfloat16()
networks = {"f32": model, "bf16": half, "zeros": sparse, "narrow": narrow}
for name, network in networks.items():
    torch.save(network.state_dict(), folder / f"{name}.pt")
forms = {
    "torch float32": ("f32.pt", model),
    "torch bfloat16": ("bf16.pt", lambda x: half(x.bfloat16())),
    "torch 80% zeros": ("zeros.pt", sparse),
    "torch 256 units": ("narrow.pt", narrow),
    "ONNX float32": ("float.onnx", session(folder / "float.onnx")),
    "ONNX int8": ("int8.onnx", session(folder / "int8.onnx")),
}

# %%

from timeit import repeat

table = {}
print("measured form                MB     ms  accuracy  changed")
for name, (file, run) in forms.items():
    size = (folder / file).stat().st_size / 1e6
    spent = 1000 * min(repeat(lambda run=run: run(unseen[:64]), number=1, repeat=40))
    right = (run(unseen).argmax(dim=1) == truth).float().mean().item()
    table[name] = size, spent, 100 * right
    row = f"{size:6.2f} {spent:6.2f}  {right:8.2f}  {changed(run):6.1%}"
    print(f"measured {name:16} {row}")

# %%

# fold: the columns of the table as bars
fig, axes = plt.subplots(1, 3, figsize=(7, 3), sharey=True)
titles = ("megabytes", "ms for 64 digits", "accuracy (%)")
for ax, title, values in zip(axes, titles, zip(*table.values())):
    bars = ax.barh(list(table), values, color=["C0"] * 4 + ["C1"] * 2)
    ax.bar_label(bars, fmt="{:.2g}", padding=2)
    ax.set(title=title, xlim=(0, 1.3 * max(values)), xticks=[])
axes[0].invert_yaxis()

# %%
# .. caption:: Size, time and accuracy of the six forms, run by PyTorch (C0, blue) and by ONNX Runtime (C1, orange). The times were measured
#    when this page was built.
#    :alt: Three bar charts with a bar for each of six forms. Megabytes: 4.5 for float32 and for the pruned one, half for bfloat16,
#       a quarter for int8, and the least for 256 units. The accuracies are nearly equal.
#
# The sizes hold everywhere: the zeros save nothing, ``bfloat16`` half, int8 three quarters. The times depend on the processor. int8 is
# fast where it has instructions for products of bytes (VNNI on x86, dot products on Arm), and ``bfloat16`` where it has those for
# ``bfloat16``; elsewhere either may be *slower* than ``float32``. So measure on the machine that is to run it.
# The 2 MB are for the file alone: the library that runs it, ONNX Runtime or PyTorch, takes many more.
#
# The 256 units have the smallest file, as there are thirteen times fewer numbers. But they needed the training data and two epochs more.
# Not all of the changed answers of the two pruned networks come from the pruning: the copy without pruning, trained for longer, changed
# some, too.

sizes = {name: size for name, (size, _, _) in table.items()}
print(f"int8 takes {sizes['ONNX int8'] / sizes['ONNX float32']:.2f} of the bytes")
assert sizes["ONNX int8"] < 0.3 * sizes["ONNX float32"] and sizes["ONNX int8"] < 2
assert abs(sizes["torch 80% zeros"] - sizes["torch float32"]) < 0.01
assert table["ONNX int8"][2] > table["ONNX float32"][2] - 2  # percent

# %%
# What are the zeros good for? A compressed file, for they pack well; and special hardware, such as GPUs that skip two of every four
# weights.

import gzip

for name in ("f32.pt", "zeros.pt"):
    packed = len(gzip.compress((folder / name).read_bytes(), compresslevel=1))
    print(f"{name:8} packed to {packed / 1e6:.1f} MB")

# %%
# .. admonition:: From practice
#
#    Try ONNX Runtime's int8 with ``per_channel=True`` first: it needs no training, only some examples. If you can train, a network with
#    fewer units may be smaller and faster still. Count *changed answers* beside the accuracy. The accuracy can stay equal while answers
#    change in both directions.
#
# Take this with you
# ------------------
#
# From a trained ``model`` to an int8 file. ``inputs`` are a few hundred real ones, ``folder`` is a :class:`pathlib.Path`. Above it belong
# ``import torch``, ``from types import SimpleNamespace``, ``from onnxruntime.quantization import quantize_static`` and
# ``from onnxruntime.quantization.shape_inference import quant_pre_process``.

inputs = x[:256]
raw, simple, small = (folder / f"{name}.onnx" for name in ("raw", "simple", "small"))
settings = {"input_names": ["x"], "external_data": False, "verbose": False}
shapes = ({0: "batch"},)
torch.onnx.export(model.eval(), (inputs,), raw, dynamic_shapes=shapes, **settings)
quant_pre_process(raw, simple)
batches = iter([{"x": inputs.numpy()}])
reader = SimpleNamespace(get_next=lambda: next(batches, None))
quantize_static(simple, small, reader, per_channel=True)

# %%
# Change something
# ----------------
#
# * Calibrate with images that are too dark: ``x[:256] / 10`` in the cell with ``reader``. What happens to the accuracy of int8?
# * Give each *column* a scale instead: ``("one scale per column", 0)``. Does that help against the outlier? Predict it.
# * Prune 95% instead of 80%, with the same training afterwards. Does the network recover?
#
# .. dropdown:: What happens
#
#    * The page stops where it compares the scale. Without that line, nearly half of the answers of int8 change and its accuracy falls to
#      about 0.55. The examples never reached the large values, so the runtime cuts real ones down to what it has seen.
#    * Only in part: about a tenth of the answers change, instead of nine tenths. The large weights are a row of the first layer, and each
#      of its columns contains one of them.
#    * No. After the same two epochs the accuracy is about 0.74, and the assertion stops the page. Of twenty weights, one is left.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

temporary.cleanup()

# %%
# .. exercise:: Predict an integer
#
#    The largest weight of a layer is 2.54. With 8 bits and one scale for the layer, which integer stands for the weight -0.312? Work it out
#    by hand.

### BEGIN SOLUTION
guess = -16  # the scale is 2.54 / 127 = 0.02, and -15.6 steps round to -16
### END SOLUTION

expect(guess, quantize(torch.tensor([2.54, -0.312]))[0][1].item())

# %%
# .. exercise:: Fix a zero that is not zero
#
#    A colleague maps values from ``low`` to ``high`` onto -128 to 127 with ``offset = -128 - low / scale``, and turns a value into
#    ``round(value / scale + offset)`` and back with ``scale * (integer - offset)``. After the way there and back, 0 has become 0.002. Write
#    ``there_and_back``, with a zero point that keeps 0 exactly 0. (``low`` is negative, ``high`` positive.) Clamp the integers to -128 and
#    127, so that a value above ``high`` comes back as ``high``.


def there_and_back(values, low, high):
    ### BEGIN SOLUTION
    scale = (high - low) / 255
    zero_point = round(-128 - low / scale)
    integers = ((values / scale).round() + zero_point).clamp(-128, 127)
    return scale * (integers - zero_point)
    ### END SOLUTION


expect(lambda: there_and_back(torch.tensor([0.0]), -0.3, 0.8), torch.tensor([0.0]))
expect(
    lambda: there_and_back(torch.tensor([-1.0, 1.5, 9.0]), -0.51, 2.04),
    torch.tensor([-0.51, 1.5, 2.04]),
)

# %%
# .. exercise:: Build two of four
#
#    Some GPUs skip zeros if there are at least two in each group of four neighbours in a row. Write ``two_of_four``: in each group it
#    keeps the two weights of largest magnitude and sets the others to zero. The number of columns is a multiple of four.


def two_of_four(weights):
    ### BEGIN SOLUTION
    groups = weights.reshape(-1, 4)
    keep = groups.abs().topk(2, dim=1).indices
    mask = torch.zeros_like(groups).scatter(1, keep, 1.0)
    return (groups * mask).reshape(weights.shape)
    ### END SOLUTION


some = torch.tensor([[1.0, -5, 2, 4, 7, 6, -8, 9], [3, 2, -1, 0.5, -1, -2, -3, -4]])
expect(
    lambda: two_of_four(some),
    torch.tensor([[0.0, -5, 0, 4, 0, 0, -8, 9], [3, 2, 0, 0, 0, 0, -3, -4]]),
)
