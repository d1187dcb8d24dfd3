r"""
Making tensors
==============

Make a tensor from a list, from a rule, from chance or from NumPy, and say its dtype and whose memory it uses before you print it.

.. lesson::
   :needs: tensors/01_numpy_arrays
   :data: none
"""

# %%
# Does one capital letter matter?
# -------------------------------
#
# A tensor is what goes into every layer of a network and what comes out of it. You have the number 3 and want it as a tensor. Two names
# offer themselves.

import torch

print(torch.tensor(3), torch.tensor(3).shape)
print(torch.Tensor(3).shape)

assert torch.tensor(3).shape == () and torch.tensor(3).item() == 3
assert torch.Tensor(3).shape == (3,)  # a size, not a value

# %%
# :func:`torch.tensor` reads a *value*. :class:`torch.Tensor` with a number reads a *size* and hands you three cells with whatever the
# memory held before: we do not print them, because they differ on every run. The capital letter costs more than that. Given a
# list, it turns every integer into a float, and a float has no room for every integer.

big = [16_777_217]
print(torch.tensor(big), torch.Tensor(big).long())

assert torch.tensor(big).dtype == torch.int64 and torch.tensor(big).item() == 16_777_217
assert torch.Tensor(big).dtype == torch.float32 and torch.Tensor(big).item() == 16_777_216

# %%
# One off, and no warning. :class:`torch.Tensor` is the class of all tensors; as a way to *make* one it is a leftover. Make tensors with
# :func:`torch.tensor`.
#
# What can each dtype hold?
# -------------------------
#
# The **dtype** says how many bits a number gets and how they are read. Ask PyTorch for the limits instead of memorising them.

short_names = "Byte Char Short Int Long Half BFloat16 Float Double"  # as in the old name torch.ByteTensor
print("dtype      bits  smallest      largest       legacy name")
for short_name in short_names.split():
    legacy = getattr(torch, f"{short_name}Tensor")
    dtype = legacy.dtype
    info = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    name = str(dtype).removeprefix("torch.")
    print(f"{name:<10} {info.bits:4d}  {info.min:<12.5g}  {info.max:<12.5g}  {legacy.__name__}")
    assert dtype.itemsize * 8 == info.bits

assert (torch.iinfo(torch.uint8).min, torch.iinfo(torch.uint8).max) == (0, 255)
assert (torch.iinfo(torch.int8).min, torch.iinfo(torch.int8).max) == (-128, 127)

# %%
# These nine, with ``bool`` and the two complex ones, are the everyday dtypes. Many more exist, for storage and for special hardware.
# What happens at the edge? Integers wrap around without a word, the way a car's mileage counter does. Image code meets this first,
# because pixels are ``uint8``.

print("dtypes in torch:", len({value for value in vars(torch).values() if isinstance(value, torch.dtype)}))

pixel = torch.tensor([200], dtype=torch.uint8)
print(pixel + 100)
assert (pixel + 100).item() == (200 + 100) % 256

try:
    torch.tensor([256], dtype=torch.uint8)
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("256 fitted into a byte")

# %%
# So a *value* that does not fit is refused, and a *result* that does not fit is wrapped.
#
# How far apart are two floats?
# -----------------------------
#
# Floats do not wrap; they run out of digits. Between :math:`2^k` and :math:`2^{k+1}` every float type has the same number of values, so
# the gap between neighbours doubles at each power of two:
#
# .. math:: \text{gap}(x) = \varepsilon \cdot 2^{\lfloor \log_2 x \rfloor}
#
# where :math:`\varepsilon` is the ``eps`` of :class:`torch.finfo`. We can check it by hand, because the bits of positive floats are
# ordered like integers: read the bits as an integer, add one, read them as a float again.

AS_INTEGER = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def measured_gap(x):
    """Return the distance from each positive x to the next larger number of the same dtype."""
    following = (x.view(AS_INTEGER[x.dtype]) + 1).view(x.dtype)
    return following.double() - x.double()


x = torch.logspace(-2, 4, 601)
for dtype in AS_INTEGER:
    cast = x.to(dtype)
    formula = torch.finfo(dtype).eps * 2.0 ** cast.double().log2().floor()
    torch.testing.assert_close(measured_gap(cast), formula, rtol=0, atol=0)
print("formula and bits agree on", len(x), "numbers of each dtype")

# %%
# The same thing as a picture. Read it at 2048: the next ``float16`` after 2048 is 2050, so adding one to 2048 changes nothing.

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots()
for dtype in AS_INTEGER:
    name = str(dtype).removeprefix("torch.")
    gaps = measured_gap(x.to(dtype))
    ax.loglog(x, gaps, base=10)
    ax.annotate(name, (x[-1], gaps[-1]), xytext=(6, 0), textcoords="offset points", va="center")
ax.axvline(2048, color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="number", ylabel="gap to next number")

# %%
# .. caption:: Each line climbs in steps: the larger the number, the coarser the dtype. ``bfloat16`` is eight times as coarse as
#       ``float16``.
#    :alt: Three rising staircases on logarithmic axes. The gap of float32 runs from about one billionth to one thousandth, float16 from
#       about one hundred-thousandth to eight, bfloat16 from less than one ten-thousandth to sixty-four. A dotted line marks 2048.

half = torch.tensor(2048.0, dtype=torch.float16)
assert half + 1 == 2048  # lost
assert torch.tensor(70_000.0).half().isinf()  # float16 ends at 65504
assert torch.tensor(70_000.0).bfloat16().isfinite()  # bfloat16 reaches as far as float32
print(torch.tensor(70_000.0).half(), torch.tensor(70_000.0).bfloat16())

square = torch.ones(2, 2, dtype=torch.float16)
assert (square @ square).dtype == torch.float16 and square.device.type == "cpu"  # half precision computes on a CPU too

# %%
# Two myths end here. Half precision is not "just smaller": the two 16-bit types trade digits against range. And it is not for GPUs
# only; the last line multiplied two half-precision matrices on this CPU.
#
# Which dtype do I get when I do not ask?
# ---------------------------------------
#
# Python's integers become ``int64``, its floats become the *default dtype*, and one float in a list makes all of it float.

print(torch.tensor([1, 2]).dtype, torch.tensor([1, 2.0]).dtype, torch.tensor([True, False]).dtype)
assert torch.get_default_dtype() == torch.float32 == torch.Tensor().dtype
assert torch.arange(3).dtype == torch.int64 and torch.arange(3.0).dtype == torch.float32
assert torch.ones(3).dtype == torch.float32 and torch.ones(3, dtype=torch.int8).dtype == torch.int8

torch.set_default_dtype(torch.float64)
print("after set_default_dtype:", torch.tensor(1.0).dtype, torch.zeros(1).dtype, torch.tensor(1).dtype)
assert torch.tensor(1.0).dtype == torch.float64 and torch.tensor(1).dtype == torch.int64
torch.set_default_dtype(torch.float32)  # put it back: it changes every later line of the program

# %%
# A global switch is a trap for whoever reads the next file; passing ``dtype=`` is not. Older code flips the same switch with another
# function. Its warning is worth reading once, so we catch it instead of hiding it.

import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.set_default_tensor_type(torch.FloatTensor)
print(caught[0].category.__name__, "-", str(caught[0].message).split(",")[0])
assert "deprecated" in str(caught[0].message)

# %%
# Which rule fills a tensor?
# --------------------------
#
# Most tensors are not typed in; a rule fills them. Predict each line before you read the output.

rules = {
    "zeros(2, 3)": torch.zeros(2, 3),
    "full((2,), 7)": torch.full((2,), 7),
    "eye(2, 3)": torch.eye(2, 3),
    "arange(1, 4)": torch.arange(1, 4),
    "linspace(1, 4, 4)": torch.linspace(1, 4, 4),
}
for call, result in rules.items():
    print(f"{call:<18} {result.tolist()}  {result.dtype}")
assert rules["arange(1, 4)"].tolist() == [1, 2, 3]  # the end is left out; linspace has both ends
assert rules["zeros(2, 3)"].sum() == 0 and rules["full((2,), 7)"].dtype == torch.int64
assert rules["eye(2, 3)"].sum() == 2 and torch.equal(torch.eye(2), torch.ones(2).diag())

# %%
# :func:`torch.arange` counts steps, and a float step does not add up to what you think. With :func:`torch.linspace` you say how many
# numbers you want, and you get as many.

print(torch.arange(1, 1.3, 0.1), torch.linspace(1, 1.2, 3))
assert len(torch.arange(1, 1.3, 0.1)) == 4  # the end that should be left out is there
assert len(torch.linspace(1, 1.2, 3)) == 3

# %%
# Some tensors borrow everything but the values: the ``*_like`` functions and the ``new_*`` methods copy shape, dtype and device from a
# tensor that you have. :func:`torch.empty` fills nothing at all; use it only when you write every cell yourself.

pattern = torch.zeros(2, 3, dtype=torch.float64)
for borrowed in (
    torch.ones_like(pattern),
    torch.full_like(pattern, 2),
    torch.empty_like(pattern),
    pattern.new_ones(2, 3),
):
    assert borrowed.shape == (2, 3) and borrowed.dtype == torch.float64

# %%
# Three calls that tables of functions often promise do not exist. An identity has two sides and no third, ``linspace`` needs its number
# of steps, and :func:`torch.normal` with two plain numbers needs a size.

wrong_calls = (lambda: torch.eye(2, 3, 4), lambda: torch.linspace(1, 10), lambda: torch.normal(0.0, 1.0))
for call in wrong_calls:
    try:
        call()
    except TypeError as error:
        print("TypeError:", str(error).split("\n")[0].split(":")[0])
    else:
        raise AssertionError("one of the wrong calls went through")

# %%
# And when chance fills it?
# -------------------------
#
# ``rand`` is uniform on [0, 1), ``randn`` is normal with mean 0 and variance 1, ``normal`` takes mean and standard deviation, ``randperm``
# shuffles. A **seed** makes chance repeatable: same seed, same numbers.

torch.manual_seed(0)
first = torch.randn(10_000)
torch.manual_seed(0)
assert torch.equal(first, torch.randn(10_000))

uniform, shifted = torch.rand(10_000), torch.normal(5.0, 2.0, size=(10_000,))
print(f"rand    mean {uniform.mean():.2f}  smallest {uniform.min():.2f}  largest {uniform.max():.2f}")
print(f"randn   mean {first.mean():.2f}  deviation {first.std():.2f}")
print(f"normal  mean {shifted.mean():.2f}  deviation {shifted.std():.2f}")
assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.02
assert abs(first.mean()) < 0.05 and abs(shifted.mean() - 5) < 0.1 and abs(shifted.std() - 2) < 0.1
assert sorted(torch.randperm(10).tolist()) == list(range(10))

# %%
# Whose memory is it?
# -------------------
#
# NumPy and PyTorch can read the same bytes. That makes the hand-over free, and it makes one array change behind the other's back. Four
# ways in, two dtypes: which of them *alias* (share memory) and which *copy*?

import numpy as np

ways = {"tensor": torch.tensor, "as_tensor": torch.as_tensor, "from_numpy": torch.from_numpy, "Tensor": torch.Tensor}
shares = torch.zeros(len(ways), 2, dtype=torch.bool)
for row, (name, convert) in enumerate(ways.items()):
    for column, dtype in enumerate((np.float32, np.float64)):
        array = np.zeros(2, dtype=dtype)
        result = convert(array)
        array[0] = 7
        shares[row, column] = result[0] == 7
        word = "alias" if result[0] == 7 else "copy "
        print(f"{name:<11} {array.dtype}  {word}  -> {result.dtype}")
assert shares.tolist() == [[False, False], [True, True], [True, True], [True, False]]

# %%
# The last row is the trap: the capital letter copies a ``float64`` array (NumPy's default), rounding it, but *shares* a ``float32`` one.
# Whether your data can change under your feet depends on a dtype you did not choose. Say what you want: :func:`torch.tensor` to copy,
# :func:`torch.from_numpy` to share. The way back, :meth:`torch.Tensor.numpy`, shares as well.

weights = torch.ones(3)
view = weights.numpy()
weights[0] = 9
assert view[0] == 9 and view.ctypes.data == weights.data_ptr()
assert torch.from_dlpack(view).data_ptr() == weights.data_ptr()  # the exchange protocol that all array libraries speak

angles = np.linspace(0, 1, 5)
np.testing.assert_allclose(np.sin(angles) @ angles, (torch.from_numpy(angles).sin() @ torch.from_numpy(angles)).numpy())

# %%
# The last line computes one thing in two libraries and gets one answer. What you learn here about shapes, dtypes and shared memory
# carries over to every array library that you will meet.
#
# How do I look at one I was given?
# ---------------------------------

batch = torch.zeros(32, 1, 28, 28)
print(batch.shape, batch.ndim, batch.numel(), batch.dtype, batch.device)
assert batch.shape == batch.size() == (32, 1, 28, 28) and isinstance(batch.shape, tuple)
assert batch.numel() == 32 * 28 * 28 and batch.nbytes == 4 * batch.numel()

# %%
# Change something
# ----------------
#
# * Put ``torch.float64: torch.int64`` into ``AS_INTEGER``. Where does its line run, and how far below ``float32``?
# * Ask for ``torch.arange(0, 1, 0.1, dtype=torch.float16)``. Is its last number 0.9? How far is it from it?
# * In the table of ways, write into the *tensor* instead of the array, and look at the array. Do the rows change?
#
# Exercises
# ---------
#
# 1. Write ``fits(value, dtype)`` that says whether an integer fits into an integer dtype, without trying to make the tensor.
# 2. ``0.1 + 0.2 == 0.3`` is false in Python. Is ``torch.tensor(0.1) + torch.tensor(0.2) == torch.tensor(0.3)``? Explain the answer with the
#    picture above.
# 3. A colleague reads a file into a ``float32`` array, makes ``torch.Tensor(array)`` from it, normalises the tensor in place, and then
#    complains that the array has changed. Name two one-word mends.
#
# .. dropdown:: Answers
#
#    1. ``torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max``.
#    2. True, by luck: at ``float32`` the sum rounds to the neighbour that 0.3 has, too. With ``dtype=torch.float64`` it is false, as in
#       Python, whose floats are ``float64``.
#    3. ``torch.tensor(array)``, or ``array.copy()`` inside the call.
