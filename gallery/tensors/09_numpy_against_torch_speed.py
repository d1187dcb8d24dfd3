r"""
NumPy against PyTorch: speed
============================

Measure the same work in NumPy and in PyTorch, port an old program step by step, and say what threads and devices can change.

.. lesson::
   :needs: tensors/01_numpy_arrays tensors/03_tensor_creation tensors/08_broadcasting
   :data: a photograph that comes with scikit-learn
   :alone:
"""

# %%
# Is it worth rewriting?
# ----------------------
#
# An old program reduces a photograph to six colours. Most of its time goes into one question: which of the six is nearest to this pixel?
# Here is that question twice, in Python loops and in one line.

import numpy as np


def nearest_by_loops(pixels, palette):
    distances = [[sum((p - q) ** 2 for p, q in zip(pixel, colour)) for colour in palette] for pixel in pixels]
    return np.array([row.index(min(row)) for row in distances])


def nearest(pixels, palette):
    return ((pixels[:, None] - palette) ** 2).sum(-1).argmin(-1)


# %%
# Time both on the dahlia, one pixel in 64.

from time import perf_counter

from pytorch_course.datasets.bundled import photographs

photo = photographs().columns["image"][1].permute(1, 2, 0).double().numpy()
pixels = photo[::8, ::8].reshape(-1, 3)
palette = pixels[::800]  # six of them, to begin with
start = perf_counter()
by_loops = nearest_by_loops(pixels, palette)
middle = perf_counter()
by_line = nearest(pixels, palette)
print(f"measured: loops {1000 * (middle - start):.2f} ms, one line {1000 * (perf_counter() - middle):.2f} ms")
assert np.array_equal(by_loops, by_line) and pixels.shape == (4320, 3) and palette.shape == (6, 3)

# %%
# The same answers, and a factor that needs no statistics. The line is :term:`broadcasting`: 4,320 pixels against six colours, and for every
# pixel :math:`i` the colour :math:`k` with the smallest
#
# .. math:: d_{ik} = \sum_{c} (p_{ic} - q_{kc})^2
#
# The loop is still there, but in compiled code, over numbers that lie side by side.
#
# Can I trust one run of a stopwatch?
# -----------------------------------
#
# Not when factors are smaller. Run the line twenty times and look at the spread.

runs = []
for _ in range(20):
    start = perf_counter()
    nearest(pixels, palette)
    runs.append(1000 * (perf_counter() - start))
print(f"measured: first {runs[0]:.2f} ms, fastest {min(runs):.2f} ms, slowest {max(runs):.2f} ms")

# %%
# The first run may pay for cold caches and fresh memory, and any run for whatever else the machine does. So warm up, repeat, and take the
# **median**. :class:`torch.utils.benchmark.Timer` does that, and three things more: it fixes the number of threads (one, unless you say
# otherwise), repeats short code until the clock is fine enough, and waits for an accelerator before it reads the clock.

import inspect
import logging

import torch

logging.disable(logging.WARNING)  # where it finds a CUDA compiler but no GPU, the next import says so in the log
from torch.utils import benchmark

logging.disable(logging.NOTSET)

threads = torch.get_num_threads()
timer = benchmark.Timer("nearest(pixels, palette)", globals=globals(), num_threads=2)
result = timer.blocked_autorange(min_run_time=0.1)
print(f"measured: median {1000 * result.median:.2f} ms, the middle half within {1000 * result.iqr:.2f} ms")
assert np.isclose(result.median, np.median(result.times)) and result.task_spec.num_threads == 2
assert torch.get_num_threads() == threads  # put back
assert "synchronize" in inspect.getsource(benchmark.timer)  # its clock waits for an accelerator

# %%
# One number per question is enough for the rest of this page:


def seconds(code, threads=1, run_time=0.03, **names):
    """Return the median time of one run of the code."""
    timer = benchmark.Timer(code, globals=names, num_threads=threads)
    return timer.blocked_autorange(min_run_time=run_time).median


# %%
# How do I port the program?
# --------------------------
#
# In steps, with the old answer as the test of each. The whole old program is :term:`k-means`: give each pixel to its nearest colour,
# move each colour to the mean of its pixels, repeat. Only ``stack`` has to know the library; every other line means the same in
# both.


def six_colours(pixels, palette, nearest=nearest):
    stack = torch.stack if torch.is_tensor(pixels) else np.stack
    for _ in range(6):
        owner = nearest(pixels, palette)
        palette = stack([pixels[owner == k].mean(0) for k in range(len(palette))])
    return palette


old = six_colours(pixels, palette, nearest_by_loops)  # step 0: the loops
vectorised = six_colours(pixels, palette)  # step 1: broadcasting
ported = six_colours(torch.from_numpy(pixels), torch.from_numpy(palette))  # step 2: tensors, not one line changed
np.testing.assert_allclose(vectorised, old)
np.testing.assert_allclose(ported.numpy(), old)
print(np.round(old).astype(int).tolist())

# %%
# Three programs, one palette. This is what it makes of the photograph:

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
poster = vectorised[nearest(photo.reshape(-1, 3), vectorised)].reshape(photo.shape)
assert len(np.unique(poster.reshape(-1, 3), axis=0)) == 6

fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.4))
for ax, image, name in zip(axes, (photo, poster), ("photograph", "six colours")):
    ax.imshow(image.astype(np.uint8))
    ax.set_title(name)
    ax.set_axis_off()

# %%
# .. caption:: Every pixel of the right picture has one of six colours, and the program chose them.
#    :alt: An orange dahlia before dark green leaves, and beside it the same picture in flat patches of six colours, like a screen print.
#
# Is there a better formula?
# --------------------------
#
# A port is the moment to ask. The one line makes an array of :math:`N \cdot K \cdot 3` numbers before it sums the three away. Multiply the
# square out:
#
# .. math:: \sum_c (p_{ic} - q_{kc})^2 = \lVert \mathbf{p}_i \rVert^2 - 2\, \mathbf{p}_i \cdot \mathbf{q}_k + \lVert \mathbf{q}_k \rVert^2
#
# The first term is the same for every colour, so it cannot change which is nearest. What remains is a matrix product, and no array larger
# than :math:`N \cdot K`.


def nearest_by_product(pixels, palette):
    return ((palette**2).sum(-1) - 2 * (pixels @ palette.T)).argmin(-1)


assert (pixels[:, None] - palette).nbytes == len(pixels) * 6 * 3 * 8 == 3 * (pixels @ palette.T).nbytes
assert np.array_equal(nearest_by_product(pixels, palette), by_loops)
for dtype in (torch.float64, torch.float32):  # whole numbers this small are exact in both
    x, y = torch.tensor(pixels, dtype=dtype), torch.tensor(palette, dtype=dtype)
    assert nearest(x, y).tolist() == nearest_by_product(x, y).tolist() == by_loops.tolist()

# %%
# Which step paid?
# ----------------
#
# Compare like with like: the same pixels, the same answers, the same dtype unless the dtype is the question, the number of threads stated.
# (It governs PyTorch only. A matrix product in NumPy uses as many threads as its own library was told at the start of the program.)

many = photo[::4, ::4].reshape(-1, 3)
x, y = torch.from_numpy(many), torch.from_numpy(palette)
cases = {
    "loops": (nearest_by_loops, pixels, palette, 1),
    "NumPy": (nearest, many, palette, 1),
    "PyTorch": (nearest, x, y, 1),
    "PyTorch, 2 threads": (nearest, x, y, 2),
    "PyTorch, float32": (nearest, x.float(), y.float(), 1),
    "NumPy, product": (nearest_by_product, many, palette, 1),
    "PyTorch, product": (nearest_by_product, x, y, 1),
}
cost = {name: seconds("f(p, q)", threads, f=f, p=p, q=q) / len(p) for name, (f, p, q, threads) in cases.items()}
for name, each in cost.items():
    print(f"measured: {name:<19}{1e9 * each:9.1f} ns per pixel, {cost['loops'] / each:5.0f} times as fast as the loops")
assert cost["loops"] > 5 * cost["NumPy"] and cost["loops"] > 5 * cost["PyTorch"]

# %%
# On a logarithmic axis, where equal steps are equal factors:

fig, ax = plt.subplots(figsize=(6.4, 2.9))
for name, each in cost.items():
    colour = "C1" if name.startswith("NumPy") else "C0" if name.startswith("PyTorch") else "0.4"
    ax.plot(1e9 * each, name, "o", markersize=9, color=colour)
    ax.annotate(f"{1e9 * each:,.0f}", (1e9 * each, name), (9, 0), textcoords="offset points", va="center")
ax.set(xscale="log", xlabel="ns per pixel")
ax.grid(axis="y")
ax.margins(x=0.2)
ax.invert_yaxis()

# %%
# .. caption:: The same question in seven ways, as measured when this page was built. The great step is the one away from the loops.
#    :alt: Seven dots on a logarithmic axis, one below the other. The dot of the loops lies far to the right; those of one line and of the
#       product, in NumPy and in PyTorch, lie far to its left.
#
# What can a second thread change?
# --------------------------------
#
# Count the bytes. Adding two ``float32`` arrays reads eight bytes and writes four for *one* addition. All cores share one road to memory,
# so a second core may find it full. A matrix product of side :math:`n` does :math:`2n^3` operations on :math:`3n^2` numbers. The ratio is
# the **arithmetic intensity**:
#
# .. math:: I = \frac{\text{operations}}{\text{bytes moved}}, \qquad I_{\text{add}} = \frac{1}{12}, \qquad
#    I_{\text{product}} = \frac{2n^3}{4 \cdot 3n^2} = \frac{n}{6}

numbers, n = 2**21, 512
a, b, c = torch.ones(3, numbers).unbind()
A, B, C = torch.ones(3, n, n).unbind()
assert numbers / (a.nbytes + b.nbytes + c.nbytes) == 1 / 12
assert 2 * n**3 / (A.nbytes + B.nbytes + C.nbytes) == n / 6

rate = {}
for threads in (1, 2):
    add = seconds("torch.add(a, b, out=c)", threads, a=a, b=b, c=c)
    product = seconds("torch.mm(A, B, out=C)", threads, A=A, B=B, C=C)
    rate[threads] = numbers / add, 2 * n**3 / product
    print(f"measured: threads {threads}, add     {numbers / add / 1e9:7.2f} Gop/s, {12 * numbers / add / 1e9:.1f} GB/s")
    print(f"measured: threads {threads}, product {2 * n**3 / product / 1e9:7.2f} Gop/s")
assert rate[1][1] > 2 * rate[1][0]

# %%
# Gop/s are billions of operations per second. In the product one core does several times as many as in the sum, because each number that it
# fetches is used :math:`n` times. For work of low intensity, look for bytes to save before you look for cores: ``float32`` for ``float64``,
# one pass for two, the product for the large array.
#
# .. admonition:: From practice
#
#    A second thread can cost time. While these lessons were written, other programs shared the two cores, and in several of our runs two
#    threads were slower than one, because each waits for the other to end. The lines above say how it was in this build. Measure with the
#    thread count and the neighbours that you will have.
#
# When is a library slow?
# -----------------------
#
# When you ask it for little. A call has a price before the first number is touched: Python, dtype checks, the choice of a kernel. With
# :math:`t(n) = t_{\text{call}} + n\, t_{\text{number}}`, the time per number is :math:`t_{\text{call}} / n + t_{\text{number}}`: a slope
# on logarithmic axes that ends in a floor.

sizes = [10**k for k in range(7)]
per_number = {"NumPy": [], "PyTorch": []}
for size in sizes:
    a, b, c = np.ones((3, size), dtype=np.float32)
    time = seconds("np.add(a, b, out=c)", run_time=0.02, np=np, a=a, b=b, c=c)
    per_number["NumPy"].append(1e9 * time / size)
    a, b, c = map(torch.from_numpy, (a, b, c))  # the same memory
    time = seconds("torch.add(a, b, out=c)", run_time=0.02, a=a, b=b, c=c)
    per_number["PyTorch"].append(1e9 * time / size)

fig, ax = plt.subplots()
for (name, values), colour in zip(per_number.items(), ("C1", "C0")):
    ax.loglog(sizes, values, marker="o", label=name, color=colour)
ax.set(xlabel="numbers per call", ylabel="ns per number")
ax.legend()
assert all(values[0] > 5 * values[5] for values in per_number.values())

# %%
# .. caption:: Price per number of an addition. It falls with the size of the array, because the price of the call is shared by
#    more numbers, and then levels out.
#    :alt: Two falling lines on logarithmic axes, from hundreds or thousands of nanoseconds for one number to about one or less for a
#       million.
#
# So a loop over small tensors is slow in both libraries. Make the arrays large, not the loop.
#
# Is a tensor faster because it knows GPUs?
# -----------------------------------------
#
# Not by itself. A tensor lives in ordinary memory until you move it, and everything it meets must be moved as well. NumPy's arrays cannot
# move at all; CuPy is another library that offers NumPy's names on GPUs. The ``meta`` device, which has shapes and no numbers, stands in
# for a GPU here.

print(torch.zeros(2).device, np.zeros(2).device)
assert torch.zeros(2).device.type == "cpu" == np.zeros(2).device

for attempt in (lambda: torch.zeros(2, device="meta") + torch.zeros(2), lambda: np.zeros(2).to_device("cuda")):
    try:
        attempt()
    except (RuntimeError, ValueError) as error:
        print(f"{type(error).__name__}: {str(error).split('!')[0]}")
    else:
        raise AssertionError("two devices met")

# %%
# If this machine has an accelerator, the next cell uses it. An accelerator is handed its work and the call returns at once, so a clock read
# right after the call shows too little. ``synchronize`` waits for the result.

accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
device = accelerator or torch.device("cpu")
print("accelerator:", accelerator or "none found, the CPU stands in")


def call_and_wait(work):
    """Return the seconds until the call came back, and until the result was there."""
    start = perf_counter()
    work()
    back = perf_counter() - start
    if accelerator is not None:
        torch.accelerator.synchronize()
    return back, perf_counter() - start


# %%
# Three honest measurements: the first call, which also loads what the device needs; a later one; and one that pays for the
# way there and back.

x, y = torch.tensor(many, dtype=torch.float32), torch.tensor(palette, dtype=torch.float32)
x_there, y_there = x.to(device), y.to(device)
steps = {
    "first call": lambda: nearest(x_there, y_there),
    "second call": lambda: nearest(x_there, y_there),
    "with the copies": lambda: nearest(x.to(device), y.to(device)).cpu(),
}
for name, work in steps.items():
    back, ready = call_and_wait(work)
    print(f"measured: {name:<16} call back after {1000 * back:7.2f} ms, result after {1000 * ready:7.2f} ms")
assert nearest(x_there, y_there).cpu().tolist() == nearest(many, palette).tolist()
torch.manual_seed(0)  # a layer begins with random weights
assert torch.nn.Linear(2, 1).to(device).weight.device.type == device.type
assert x.to("cpu") is x  # moving to where it is costs nothing

# %%
# Without an accelerator both columns say the same, since a CPU call comes back with its result. The code is right for both: one line,
# ``device = ...``, decides.
#
# Change something
# ----------------
#
# * Reduce the photograph to two colours with ``pixels[::2200]``. Predict the cost of the line relative to six colours; then time it.
# * In the last figure, replace ``add`` by ``exp`` (one input). Does the slope on the left move, or the floor on the right?
# * Give ``seconds`` the code ``"(a + b) + c"`` and ``"torch.add(a, b, out=c)"`` with a million numbers each. How many bytes does each move?
#
# Exercises
# ---------
#
# 1. Rewrite without loops: ``[[abs(p - q) for q in v] for p in u]``. Keep the loops as the test.
# 2. ``result += x[i].item()`` runs a million times in a colleague's program, and "PyTorch is slow". Which of the sections above explains
#    it, and what is the mend?
# 3. A colleague times ``y = model(x)`` on a GPU with two calls of ``time.time()`` and finds it a hundred times as fast as on the CPU. Name
#    two things that are wrong with the measurement.
#
# .. dropdown:: Answers
#
#    1. ``abs(u[:, None] - v)``, in both libraries.
#    2. The price of a call: each ``x[i]`` and each ``item`` is one. ``x.sum()`` is one call for all.
#    3. No ``synchronize``, so the clock saw the hand-over and not the work; and one run, with no warm-up and no spread.
