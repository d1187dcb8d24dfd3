r"""
Making tensors
==============

Make a tensor from a list, a rule, chance or NumPy, and say its dtype and whose memory
it uses before you print it.

.. lesson::
   :needs: tensors/01_numpy_arrays
   :data: none
   :keywords: torch.tensor, torch.Tensor, FloatTensor, LongTensor, dtype, finfo, iinfo,
      overflow, half precision, bfloat16, set_default_dtype, set_default_device,
      set_default_tensor_type is deprecated, from_numpy, as_tensor, dlpack, data_ptr,
      arange, linspace, randn, manual_seed, value cannot be converted to type uint8
      without overflow
"""

# %%
# Why has my counter stopped?
# ---------------------------
#
# You count the visitors of a museum: 3,000 people pass, and each adds 1. Four counters start at 0. They differ only in the type of number.

import torch

types = [torch.int64, torch.uint8, torch.float16, torch.bfloat16]
counters = {dtype: torch.tensor(0, dtype=dtype) for dtype in types}
history = {dtype: [] for dtype in types}
for _ in range(3000):
    for dtype, counter in counters.items():
        counter += 1
        history[dtype].append(counter.item())
for dtype, counter in counters.items():
    print(f"{dtype!s:<15} {counter.item():g}")
assert counters[torch.int64] == 3000 and counters[torch.float16] == 2048

# %%

# fold: what each counter shows
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots()
styles = ["-", "-", "--", ":"]
for dtype, style in zip(types, styles):
    name = str(dtype).removeprefix("torch.")
    ax.plot(history[dtype], style, label=name)
ax.set(xlabel="visitors", ylabel="counter")
ax.legend()

# %%
# .. caption:: ``uint8`` starts again every 256 visitors. ``float16`` stops at 2048, ``bfloat16`` at 256. Only ``int64`` is right.
#    :alt: Four curves over 3000 visitors. int64 rises as a straight line. uint8 makes twelve small teeth between 0 and 255. float16 follows
#       the line up to 2048 and is flat from there. bfloat16 is flat at 256.
#
# No error and no warning. A network's weights, gradients and counters live in such types, so it pays to know the two ways to fail.
# Integers **wrap** at their end, as the mileage counter of a car does. Floats **run out of digits**: after 2048 the next ``float16`` is
# 2050. 2049 lies halfway between the two, and a tie goes to the neighbour whose last bit is 0, which is 2048.
#
# What can each dtype hold?
# -------------------------
#
# The :term:`dtype` says how many bits a number gets and how they are read. PyTorch tells you the limits:

# fold: the everyday dtypes, their limits and old names
integers = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
floats = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
legacy = {}
print("dtype     bits  smallest      largest      old name, on the CPU and on CUDA")
for dtype in [torch.bool, *integers, *floats]:
    limits, ends = None, ("False", "True")
    if dtype != torch.bool:
        limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
        ends = (f"{limits.min:.5g}", f"{limits.max:.5g}")
    legacy[dtype] = torch.empty(0, dtype=dtype).type()
    name = str(dtype).removeprefix("torch.")
    cuda = legacy[dtype].replace("torch.", "torch.cuda.")
    bits = 8 * dtype.itemsize
    print(f"{name:<9} {bits:4}  {ends[0]:<12}  {ends[1]:<12} {legacy[dtype]}, {cuda}")

# %%
# Old code asks for a type by the names on the right; write ``dtype=`` instead. Besides these ten there are complex numbers, and many types
# for storage and special hardware.
#
# Half precision is not only for GPUs, and 16 bits can be divided in two ways: ``float16`` spends more of them on digits, ``bfloat16`` more
# on range. So 1/3 comes out closer in the first, and 70,000 is finite only in the second:

assert (torch.iinfo(torch.uint8).min, torch.iinfo(torch.uint8).max) == (0, 255)
assert (torch.iinfo(torch.int8).min, torch.iinfo(torch.int8).max) == (-128, 127)
assert len(set(legacy.values())) == 10

for dtype in (torch.float16, torch.bfloat16):
    third = torch.tensor(1 / 3).to(dtype)
    large = torch.tensor(70_000.0).to(dtype)
    print(f"{dtype}: 1/3 is {third.item():.6f}, 70000 is {large.item()}")
    product = torch.ones(2, 2, dtype=dtype) @ torch.ones(2, 2, dtype=dtype)
    print("   a matrix product on the", product.device)

# %%
# Does PyTorch refuse an integer that does not fit? Do not rely on it. A 256 that you write into a ``uint8`` is refused, but a -1 is
# wrapped without a word. So are integers that you convert, and results:

try:
    torch.tensor(256, dtype=torch.uint8)
except RuntimeError as error:
    print("RuntimeError:", error)
negative = torch.tensor(-1, dtype=torch.uint8)
converted = torch.tensor(300).to(torch.uint8)
total = torch.tensor(200, dtype=torch.uint8) + 100
print("-1 becomes", negative.item())
print("300 becomes", converted.item())
print("200 + 100 becomes", total.item())
assert (negative, converted, total) == (-1 % 256, 300 % 256, 300 % 256)

# %%
# How far apart are two floats?
# -----------------------------
#
# Between :math:`2^k` and :math:`2^{k+1}` a float type has the same number of values, whatever :math:`k` is (only near zero is this
# different). So the gap between neighbours doubles at each power of two:
#
# .. math:: \text{gap}(x) = \varepsilon \cdot 2^{\lfloor \log_2 x \rfloor}
#
# with :math:`\varepsilon` the ``eps`` of :class:`torch.finfo`. Check it by hand: the bits of positive floats are ordered like integers, so
# read the bits as an integer, add one, and read them as a float again.

x = torch.tensor([0.1, 1.0, 255.0, 256.0, 2048.0], dtype=torch.float16)
bits = x.view(torch.int16)
following = (bits + 1).view(torch.float16)
gap = following - x
exponent = x.float().log2().floor()
formula = torch.finfo(torch.float16).eps * 2**exponent
print("number", x.tolist())
print("gap   ", gap.tolist())
assert torch.equal(gap.float(), formula)

# %%
# The gap at 2048 is 2, so the counter cannot go on by 1. ``float32`` counts further before it stops too:

last = torch.tensor(16_777_216.0)
print(f"{last.dtype}: {last:.0f} + 1 = {last + 1:.0f}")
assert last + 1 == last

# %%
# Which dtype do I get when I do not ask?
# ---------------------------------------
#
# Python's integers become ``int64``, its floats become the *default dtype*. A tensor has one dtype, so a mixed list takes the widest kind
# in it: an integer is wider than a truth value, and a float is wider than both.

for values in ([True, False], [1, 2], [1, 2.0], [True, 2.5]):
    print(values, torch.tensor(values).dtype)
assert torch.get_default_dtype() == torch.float32
assert torch.ones(3).dtype == torch.float32 and torch.arange(3).dtype == torch.int64

# %%
# You will also see ``torch.Tensor``, with a capital letter, and expect the same. Give both the number 3, then a list with a large number:

print(
    "torch.tensor(3):",
    torch.tensor(3).shape,
    "  torch.Tensor(3):",
    torch.Tensor(3).shape,
)
visitors = [16_777_217]
print(torch.tensor(visitors).tolist(), torch.Tensor(visitors).tolist())
assert torch.tensor(visitors).dtype == torch.int64
assert torch.Tensor(visitors).dtype == torch.Tensor().dtype == torch.float32

# %%
# They are two functions. :func:`torch.tensor` reads a **value**. :class:`torch.Tensor` reads a number as a **size**: it returns three
# cells with whatever the memory held. It also turns a list into ``float32``, which lost one visitor here. ``torch.Tensor`` is the class of
# all tensors, and making one by calling it is an old habit. The fix: make tensors with ``torch.tensor``.
#
# Can I change the default?
# -------------------------
#
# Yes, for the dtype and for the :term:`device`, but every later line of the program then uses the new default. So limit the change to a
# ``with`` block. :class:`torch.device` works there as it is; for the dtype you write a few lines, which put the old default back even after
# an error. The device here is ``"meta"``, which keeps shapes but no numbers: every computer has it. With a GPU you would write ``"cuda"``.

from contextlib import contextmanager


@contextmanager
def default_dtype(dtype):
    """Make floats of this dtype inside a with block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


with default_dtype(torch.float64), torch.device("meta"):
    inside = torch.zeros(2, 3)
outside = torch.zeros(2, 3)
print("inside: ", inside.dtype, inside.device)
print("outside:", outside.dtype, outside.device)
assert (inside.dtype, inside.device.type) == (torch.float64, "meta")
assert (outside.dtype, outside.device.type) == (torch.float32, "cpu")

# %%
# :func:`torch.set_default_device` does the same for a whole program, and ``None`` takes it back. Old code sets dtype and device together,
# with a function that now warns. It changes the default dtype too, so here it runs inside ``default_dtype``, which puts that back:

import warnings

torch.set_default_device("meta")
print("default device:", torch.zeros(1).device)
torch.set_default_device(None)
assert torch.zeros(1).device.type == "cpu"

with default_dtype(torch.float32), warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.set_default_tensor_type("torch.DoubleTensor")
print(str(caught[0].message).split(",")[0])
assert torch.zeros(1).dtype == torch.float32

# %%
# Which rule fills a tensor?
# --------------------------
#
# You rarely type in the numbers of a tensor; a rule fills it. Try to predict each line before you read the output.

rules = {
    "ones(2, 3)": torch.ones(2, 3),
    "zeros(2, 3)": torch.zeros(2, 3),
    "full((2,), 7)": torch.full((2,), 7),
    "eye(2, 3)": torch.eye(2, 3),
    "arange(1, 4)": torch.arange(1, 4),
    "linspace(1, 4, 4)": torch.linspace(1, 4, 4),
}
for call, result in rules.items():
    print(f"{call:<18} {result.tolist()}  {result.dtype}")
assert rules["zeros(2, 3)"].sum() == 0 and rules["ones(2, 3)"].sum() == 6
assert torch.equal(torch.eye(2), torch.ones(2).diag())
assert rules["arange(1, 4)"].tolist() == [1, 2, 3]  # the end is left out

# %%
# With a float step, :func:`torch.arange` is at the mercy of rounding: below, the end appears although it should be left out.
# :func:`torch.linspace` takes the number of *points* and includes both ends, so five points have four gaps between them.

print(torch.arange(1, 1.3, 0.1))  # 1.3 is there
points = torch.linspace(0, 1, 5)
print(points, "gaps", points.diff())
assert len(torch.arange(1, 1.3, 0.1)) == 4
assert points[0] == 0 and points[-1] == 1
assert points.diff().tolist() == [0.25] * 4

# %%
# ``ones_like`` and its relatives take shape, dtype and device from a tensor that you have; ``new_ones`` and its relatives take dtype and
# device, and you give the shape. :func:`torch.empty` leaves the cells unfilled; use it when you will write every one of them yourself.

pattern = torch.zeros(2, 3, dtype=torch.float64)
borrowed = [torch.ones_like(pattern), torch.full_like(pattern, 2)]
borrowed += [torch.empty_like(pattern), pattern.new_ones(2, 3)]
print({(tuple(tensor.shape), tensor.dtype) for tensor in borrowed})
assert all(tensor.dtype == torch.float64 for tensor in borrowed)

# %%
# And when chance fills it?
# -------------------------
#
# ``rand`` is uniform on [0, 1), ``randn`` is normal with mean 0 and variance 1, ``randperm`` shuffles. ``normal`` takes a mean and a
# deviation, as two numbers with a size, or as two tensors with one pair per element. The same :term:`seed` gives the same numbers.

torch.manual_seed(0)
uniform, standard = torch.rand(10_000), torch.randn(10_000)
heights = torch.normal(170.0, 8.0, size=(10_000,))
columns = torch.tensor([0.0, 10.0, 100.0]).expand(10_000, 3)
several = torch.normal(mean=columns, std=torch.tensor([1.0, 0.1, 10.0]))
for name, sample in [("rand", uniform), ("randn", standard), ("normal", heights)]:
    print(f"{name:<7} mean {sample.mean():6.2f}  deviation {sample.std():.2f}")
for k in range(3):
    print(
        f"normal  mean {several[:, k].mean():6.2f}  deviation {several[:, k].std():.2f}"
    )

torch.manual_seed(0)
assert torch.equal(uniform, torch.rand(10_000))
assert 0 <= uniform.min() and uniform.max() < 1
assert abs(standard.mean()) < 0.05 and abs(several[:, 2].std() - 10) < 0.5
assert sorted(torch.randperm(10).tolist()) == list(range(10))

# %%
# Three calls that look plausible are errors: an identity matrix has two sides, not three; ``linspace`` needs its number of points;
# ``normal`` with two plain numbers needs a size.

calls = [
    lambda: torch.eye(2, 3, 4),
    lambda: torch.linspace(1, 10),
    lambda: torch.normal(0.0, 1.0),
]
for call in calls:
    try:
        call()
    except TypeError as error:
        print("TypeError:", str(error).split(", but")[0].split("\n")[0])

# %%
# Whose memory is it?
# -------------------
#
# You read a file into an array, make a tensor of it and normalise the tensor in place. Is the array still what you read? NumPy and PyTorch
# can use the same bytes: an :term:`alias`. Or the tensor has a :term:`copy`. Four ways in, two dtypes; the first byte's address tells:

import numpy as np

shares = {}
for dtype in ("float32", "float64"):
    array = np.zeros(2, dtype)
    for name in ("tensor", "as_tensor", "from_numpy", "Tensor"):
        result = getattr(torch, name)(array)
        same = result.data_ptr() == array.ctypes.data
        shares[name, dtype] = same
        print(f"{dtype}  {name:<11} {'alias' if same else 'copy':<6} {result.dtype}")
assert not shares["tensor", "float32"] and not shares["tensor", "float64"]
assert shares["as_tensor", "float32"] and shares["as_tensor", "float64"]
assert shares["from_numpy", "float32"] and shares["from_numpy", "float64"]
assert shares["Tensor", "float32"] and not shares["Tensor", "float64"]

# %%
# The last row of each half is the trap. ``torch.Tensor`` copies NumPy's usual ``float64`` and rounds it to ``float32``, but it *shares* an
# array that is ``float32`` already. So it depends on the dtype whether your array changes. The fix: :func:`torch.tensor` to copy,
# :func:`torch.from_numpy` to share. The way back, :meth:`torch.Tensor.numpy`, shares as well. So does :func:`torch.from_dlpack`, which
# also takes arrays of other libraries, CuPy or JAX for example:

weights = torch.ones(3)
array = weights.numpy()
weights[0] = 9
again = torch.from_dlpack(array)
print(array, again)
assert array[0] == 9 and again.data_ptr() == weights.data_ptr()

# %%
# What does a tensor tell me about itself?
# ----------------------------------------
#
# Its shape, the number of axes, of elements, the dtype, the device and the bytes it takes:

batch = torch.zeros(32, 1, 28, 30)
print(batch.shape, batch.ndim, batch.numel(), batch.dtype, batch.device, batch.nbytes)
assert batch.shape == batch.size() == (32, 1, 28, 30)
assert isinstance(batch.shape, tuple) and batch.nbytes == 4 * batch.numel()

# %%
# Take this with you
# ------------------
#
# Make tensors with ``torch.tensor``, small t. Give the dtype when it matters. Decide whether to copy an array or to share it.

generator = torch.Generator().manual_seed(0)
labels = torch.tensor([2, 0, 1])  # int64
weights = torch.randn(3, 4, generator=generator)  # float32, repeatable
mask = torch.zeros_like(weights, dtype=torch.bool)  # same shape and device
grid = torch.linspace(-1, 1, 5)  # five points, both ends
array = np.zeros((3, 4), dtype=np.float32)
mine = torch.tensor(array)  # a copy
shared = torch.from_numpy(array)  # the same memory
for tensor in (labels, weights, mask, grid, mine, shared):
    print(tuple(tensor.shape), tensor.dtype)

# %%
# Change something
# ----------------
#
# * Let the four counters add 2 instead of 1. Where do the floats stop now?
# * In the cell on gaps, replace ``float16`` by ``bfloat16`` everywhere. What is the gap at 256?
# * Ask for ``torch.arange(0, 1, 0.1, dtype=torch.float16)``. Is its last number 0.9?
#
# .. dropdown:: What happens
#
#    * ``float16`` stops at 4096 and ``bfloat16`` at 512, each where the gap reaches 4: half a gap is rounded away. ``uint8`` ends at 112,
#      which is 6000 modulo 256. The assert objects.
#    * 2, and at 2048 it is 16. ``bfloat16`` has the range of ``float32`` and eight times the gaps of ``float16``.
#    * Not quite: 0.89990234375 is the nearest ``float16``. There are ten numbers, as you hoped.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict four dtypes
#
#    Which dtypes have ``torch.full((2,), 7)``, ``torch.arange(0, 3, 0.5)``, ``torch.tensor([True, 2])`` and
#    ``torch.from_numpy(np.ones(3))``? Answer with a list.

### BEGIN SOLUTION
guess = [torch.int64, torch.float32, torch.int64, torch.float64]
### END SOLUTION

made = [torch.full((2,), 7), torch.arange(0, 3, 0.5), torch.tensor([True, 2])]
made.append(torch.from_numpy(np.ones(3)))
expect(guess, [tensor.dtype for tensor in made])

# %%
# .. exercise:: How far can a float count?
#
#    Write ``last_count(dtype)``: the number at which a counter of this float dtype stops when you add 1 again and again. Use its ``eps``,
#    not a loop: the gap must reach 2 there.


def last_count(dtype):
    ### BEGIN SOLUTION
    return int(2 / torch.finfo(dtype).eps)
    ### END SOLUTION


expect(lambda: last_count(torch.float16), int(counters[torch.float16]))
expect(lambda: last_count(torch.bfloat16), int(counters[torch.bfloat16]))
expect(lambda: last_count(torch.float32), 16_777_216)

# %%
# .. exercise:: Fix a function that changes its input
#
#    A colleague's ``normalised`` makes ``t = torch.Tensor(array)``, then ``t -= t.mean()``, and returns ``t``. With some arrays it changes
#    the caller's array, with others it loses digits. Write it so that it does neither: the result has the dtype of the array.


def normalised(array):
    ### BEGIN SOLUTION
    tensor = torch.tensor(array)
    return tensor - tensor.mean()
    ### END SOLUTION


def result_and_input(dtype):
    array = np.array([1.0, 2.0, 6.0], dtype)
    result = normalised(array)
    return result.tolist(), result.dtype, array.tolist()


changed, kept = [-2.0, -1.0, 3.0], [1.0, 2.0, 6.0]
expect(lambda: result_and_input(np.float32), (changed, torch.float32, kept))
expect(lambda: result_and_input(np.float64), (changed, torch.float64, kept))
