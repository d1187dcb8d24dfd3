r"""
One script for every device
===========================

Write a training step that runs unchanged on a GPU, on a laptop's chip or on a plain
CPU, and predict whether a device pays.

.. lesson::
   :needs: tensors/09_numpy_against_torch_speed training/03_training_loop
   :data: none
   :alone:
   :keywords: GPU, CUDA, MPS, XPU, Apple silicon, Intel GPU, no GPU, device mismatch,
      expected all tensors to be on the same device, torch.accelerator, asynchronous,
      synchronize, pin_memory, non_blocking, out of memory, host memory, transfer, meta
      device
   :thumbnail: 2
"""

# %%
# Will it run on her machine?
# ---------------------------
#
# You have no GPU. A colleague has one, and asks for your training script. You do not want two versions, and you do not want to hear
# "it stops in line 40". So let the script ask what there is, and send model and batch there:

import torch
from torch import nn

found = torch.accelerator.current_accelerator(check_available=True)
device = found or torch.device("cpu")
print("measured device:", device)

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).to(device)
images, labels = torch.randn(32, 20), torch.randint(3, (32,))
loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
print(f"loss {loss.item():.3f}")
assert loss.device.type == device.type

# %%
# ``torch.accelerator`` finds an NVIDIA or AMD card (``cuda``), Apple's chip (``mps``) or Intel's (``xpu``). Keep
# ``check_available=True``: without it the function names what your copy of PyTorch was *built* for, on a machine without any such
# chip, too.
#
# The rest of this page is about the two ``.to(device)``. A graphics card is a second computer with its own memory, and the road between
# the two, the PCIe bus, is narrow. (Apple's chips share one memory; the rules for your code are the same.)

# fold: two memories and the bus between them
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(7, 2.2))
for left, name, inside in (
    (0, "CPU", "your Python\nnew tensors"),
    (6.2, "device", "model\nbatch"),
):
    ax.add_patch(plt.Rectangle((left, 0), 3, 2, fill=False, edgecolor="C0", lw=1.5))
    ax.text(left + 1.5, 1.65, f"memory of the {name}", ha="center", va="center")
    ax.text(left + 1.5, 0.75, inside, ha="center", va="center", color="0.4")
ax.annotate(
    "", (6.1, 1.25), (3.1, 1.25), arrowprops={"arrowstyle": "->", "color": "C1"}
)
ax.annotate(
    "", (3.1, 0.75), (6.1, 0.75), arrowprops={"arrowstyle": "->", "color": "C1"}
)
ax.text(4.6, 1.4, ".to(device)", ha="center", color="C1")
ax.text(4.6, 0.4, ".cpu()  .item()", ha="center", color="C1")
ax.set(xlim=(-0.1, 9.3), ylim=(-0.1, 2.1))
ax.axis("off")

# %%
# .. caption:: An operation runs where its tensors are, and all of them must be in one memory. Only you move them.
#    :alt: Two boxes, the memory of the CPU on the left with your Python and new tensors, the memory of the device on the right with model
#       and batch. An arrow to the right says .to(device), an arrow to the left .cpu() and .item().
#
# Which line will stop?
# ---------------------
#
# Nothing moves by itself: a new tensor is made on the CPU unless you say otherwise. On a machine without an accelerator you cannot see
# the mistake, since there everything is on the CPU. But there is a :term:`device` that every machine has: ``meta``. Its tensors have a
# shape and no values, and they refuse to mix with others just as those of a GPU do. So send a *fresh* model there (one with trained
# weights would lose them) and see what would stop. The traceback of the error shows the line; here is its message.


class Scale(nn.Module):
    """Multiply each feature by a constant, then add a bias made on the way."""

    def __init__(self):
        super().__init__()
        self.factors = torch.linspace(0, 1, 20)
        self.layer = nn.Linear(20, 3)

    def forward(self, x):
        return self.layer(x * self.factors) + torch.ones(3)


try:
    Scale().to("meta")(images.to("meta"))
except RuntimeError as error:
    print("RuntimeError:", error)
    stopped = str(error)
assert "Tensor on device cpu is not on the expected device meta" in stopped

# %%
# It stopped at the first of two mistakes. You expect ``.to`` to take everything in the module along; it takes parameters and
# **buffers**, and ``factors`` is neither, but a plain attribute. And ``torch.ones(3)`` is made anew on the CPU in every call. Both have a
# cure that names no device: a buffer, and ``x.new_ones`` (or ``torch.ones(3, device=x.device)``).


class ScaleAnywhere(nn.Module):
    """The same module, wherever it is."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factors", torch.linspace(0, 1, 20))
        self.layer = nn.Linear(20, 3)

    def forward(self, x):
        return self.layer(x * self.factors) + x.new_ones(3)


moved = ScaleAnywhere().to("meta")
out = moved(images.to("meta"))
print("factors on", moved.factors.device, "  result on", out.device, tuple(out.shape))
assert moved.factors.device == out.device == torch.device("meta")
assert "factors" in moved.state_dict() and "factors" not in Scale().state_dict()

# %%
# One more asymmetry. ``module.to(device)`` moves the module itself; ``tensor.to(device)`` returns a moved *copy* and leaves the tensor
# where it was. ``images.to(device)`` on a line of its own does nothing.

images.to("meta")
layer = nn.Linear(2, 2)
layer.to("meta")
print("tensor:", images.device, "  module:", layer.weight.device)
assert images.device.type == "cpu" and layer.weight.device.type == "meta"

# %%
# Why is the GPU slower here?
# ---------------------------
#
# You move your script to a GPU and it takes *longer*. That happens, and a count says when to expect it. Every number that travels must be
# worked on often enough to pay for the journey. Take two operations on :math:`n \times n` matrices, of four bytes a number:
# adding does :math:`n^2` operations and moves :math:`3n^2` numbers (two in, one out). Multiplying does :math:`2n^3` operations for the
# same :math:`3n^2` numbers. So the work for each byte that moves is
#
# .. math:: \frac{n^2}{12\,n^2} = \frac{1}{12} \quad\text{(add)}, \qquad \frac{2n^3}{12\,n^2} = \frac{n}{6} \quad\text{(multiply)}.
#
# PyTorch's counter agrees on the multiplication, for real tensors or for those without values:

from torch.utils.flop_counter import FlopCounterMode

n = 512
a, b = torch.randn(n, n, device="meta"), torch.randn(n, n, device="meta")
with FlopCounterMode(display=False) as counter:
    product = a @ b
bytes_moved = sum(t.numel() * t.element_size() for t in (a, b, product))
work_per_byte = counter.get_total_flops() / bytes_moved
print(f"n = {n}: {work_per_byte:.2f} operations per byte, n / 6 = {n / 6:.2f}")
assert work_per_byte == n / 6

# %%
# Take a card that does :math:`10^{13}` operations a second, behind a bus of 16 GB a second, and a CPU that does
# :math:`2 \cdot 10^{11}`, and ask how long a multiplication takes on each, the journey there and back included. These three rates are
# assumptions, of the size you find in data sheets; put in your own. (Every call to a card also takes some microseconds to start. That is
# left out here, and it is another reason why small work does not pay.)

CARD, ROAD, CPU = 10e12, 16e9, 200e9  # operations/s, bytes/s, operations/s
sizes = torch.logspace(1, 4, 60)
on_card = 12 * sizes**2 / ROAD + 2 * sizes**3 / CARD
on_cpu = 2 * sizes**3 / CPU


def break_even(cpu):
    """Return the size n from which the card wins over a CPU of this rate."""
    return 12 / ROAD / (2 / cpu - 2 / CARD)


print(f"the card wins above n = {break_even(CPU):.0f}")

# %%

# fold: time on the card and on the CPU over the size of the matrix
fig, ax = plt.subplots(figsize=(6, 3))
ax.loglog(sizes, on_cpu * 1e3, label="CPU")
ax.loglog(sizes, on_card * 1e3, "--", label="bus and card")
ax.axvline(break_even(CPU), color="0.6", lw=1)
ax.set(xlabel="rows of the matrix", ylabel="time (ms)")
ax.legend()

# %%
# .. caption:: One multiplication, its matrices sent there and back, by the three assumed rates. Left of the grey line the journey costs
#    more than the card saves.
#    :alt: Two rising lines on logarithmic axes. The line of the CPU starts lower and rises more steeply; the line of bus and card is
#       below it from about 80 rows on.
#
# An addition does one operation for twelve bytes. Over this bus that is at most 16/12 = 1.3 thousand million additions a second,
# whatever the size, and one core of a CPU does about as many. So do not send numbers to a card for one operation. Move the *model* once and
# each batch once, and leave everything between there. A training loop that moves a result back to NumPy in every step gives away what the
# card won.
#
# Did it really take no time?
# ---------------------------
#
# A GPU works through a queue. Python puts an operation in and goes on at once; only when it needs a *value* does it wait. So a clock that
# you stop at once shows almost nothing. You can build such a device in ten lines, with one thread:

import time
from concurrent.futures import ThreadPoolExecutor


class ToyDevice:
    """A queue and one worker that does what it is told, in order."""

    def __init__(self):
        self.worker = ThreadPoolExecutor(1)

    def launch(self, operation, *inputs):
        """Put an operation into the queue and return at once."""
        return self.worker.submit(operation, *inputs)

    def synchronize(self):
        """Wait until the queue is empty."""
        self.worker.submit(lambda: None).result()


# %%
# Time a matrix product on it, and read the clock twice: when the call returns, and after a wait.

toy = ToyDevice()
matrix = torch.randn(1500, 1500, generator=torch.Generator().manual_seed(0))
toy.launch(torch.mm, matrix, matrix).result()  # the first call is never typical

start = time.perf_counter()
pending = toy.launch(torch.mm, matrix, matrix)
until_return = time.perf_counter() - start
toy.synchronize()
until_done = time.perf_counter() - start
print(f"measured until the call returns {1e3 * until_return:.2f} ms")
print(f"measured until it is done       {1e3 * until_done:.2f} ms")
assert until_return < until_done
toy.worker.shutdown()

# %%
# The first number is the time to hand the work over. So on an accelerator wait before you start the clock and before you stop it.
# :func:`torch.accelerator.synchronize` does that on every kind; :mod:`torch.utils.benchmark` does it for you. ``.item()``, ``.cpu()``,
# ``print`` and ``if loss > 3`` wait, too, each time. Here are this machine's own rates, and the accelerator's where there is one. A
# product of two matrices counts :math:`2n^3` operations, a copy :math:`4n^2` bytes, and each is done ten times:


def rate(where, size=512):
    """Return operations/s of a multiplication, and bytes/s of the road."""
    accelerated = torch.device(where).type != "cpu"
    wait = torch.accelerator.synchronize if accelerated else lambda: None
    here = torch.ones(size, size)
    there = here.to(where)
    _ = there @ there
    wait()
    start = time.perf_counter()
    for _ in range(10):
        _ = there @ there
    wait()
    middle = time.perf_counter()
    for _ in range(10):
        _ = here.to(where, copy=True)
    wait()
    end = time.perf_counter()
    return 20 * size**3 / (middle - start), 40 * size**2 / (end - middle)


# %%

for where in dict.fromkeys(["cpu", str(device)]):
    operations, road = rate(where)
    speeds = f"{operations / 1e9:8.0f} G operations/s, copies {road / 1e9:.1f} GB/s"
    print(f"measured {where:5} {speeds}")
    if where == "cpu":
        size = break_even(operations)
        print(f"measured against this CPU the assumed card wins above n = {size:.0f}")

# %%
# Why does it run out of memory?
# ------------------------------
#
# A device often has less memory than your computer, so count beforehand. Training keeps, for every parameter, the weight, its
# gradient, and what the optimiser remembers (two numbers for Adam): four numbers of four bytes. On top come the activations, outputs of
# layers that the backward pass needs again, and these grow with the batch. ``saved_tensors_hooks`` calls a function for every tensor that
# is kept for the backward pass; ``note`` adds up their storages, each once, and leaves out the weights, which are counted already:

wide = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 10))
weights = {p.untyped_storage().data_ptr() for p in wide.parameters()}


def activation_bytes(batch_size):
    """Return the bytes that a forward pass keeps for backward, weights excepted."""
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.zeros(batch_size, 256)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        wide(x)
    return sum(kept.values())


# %%
# By hand: the backward pass needs the input of each linear layer, and the ReLU needs its own output, which is the input of the next
# layer and is kept once. So 256 + 1024 numbers a sample.

parameters = sum(p.numel() for p in wide.parameters())
print(f"weights, gradients, Adam: {4 * 4 * parameters / 1e6:.2f} MB")
for batch_size in (32, 64, 4096):
    counted = activation_bytes(batch_size)
    print(f"batch of {batch_size:4}: {counted / 1e6:.2f} MB of activations")
    assert counted == 4 * batch_size * (256 + 1024)

optimizer = torch.optim.Adam(wide.parameters())
wide(torch.zeros(1, 256)).sum().backward()
optimizer.step()
moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
assert sum(moment.numel() for moment in moments) == 2 * parameters

from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(images, labels)  # for the loop at the end of this page

# %%
# So "out of memory" has two answers. If the batch is what fills it, halve the batch, and add up the gradients of two for one step if you
# need the large one. If four numbers for each parameter do not fit, no batch is small enough: then spread the model over several devices,
# or choose a smaller one.
#
# Take this with you
# ------------------
#
# The training step for every machine; ``data`` is your data set. A *pinned* batch lies in memory that the card can fetch by itself, so
# with ``non_blocking=True`` Python need not wait for the copy. Build the optimiser after the model has moved.

found = torch.accelerator.current_accelerator(check_available=True)
device = found or torch.device("cpu")
model = model.to(device)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(data, batch_size=8, pin_memory=device.type in ("cuda", "xpu"))
for x, y in loader:
    x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss of the last batch {loss.item():.3f}")

# %%
# Change something
# ----------------
#
# * Give the bus 64 GB a second, as newer cards have. Where does the card begin to win?
# * Leave out ``toy.synchronize()``. What is the second measured time now?
# * Build a layer with :math:`10^{11}` parameters: ``nn.Linear(10**6, 10**5, device="meta")``. How much memory does your
#   computer lose, and how much would Adam need to train it?
#
# .. dropdown:: What happens
#
#    * From 19 rows on: four times the rate, a quarter of the break-even.
#    * About as small as the first: nothing waited, and the assertion may still hold, for the clock was read later. Only the wait
#      makes the number mean something.
#    * None that you would notice: a meta tensor has a shape and no storage. Training would need 16 bytes for each of 10\ :sup:`11`
#      weights, 1,600 GB.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict what moves
#
#    After ``block.to("meta")``, on which device is each of the four tensors? Write a list of four strings, ``"cpu"`` or ``"meta"``.

block = nn.BatchNorm1d(4)
block.table = torch.ones(4)
block.extra = nn.Parameter(torch.ones(4))

### BEGIN SOLUTION
guess = ["meta", "meta", "cpu", "meta"]
### END SOLUTION

block.to("meta")
four = (block.weight, block.running_mean, block.table, block.extra)
expect(guess, [t.device.type for t in four])

# %%
# .. exercise:: Fix a function that works on the CPU only
#
#    This function adds the position of each of ``T`` steps to ``x`` of shape (batch, T), and stops on every device but the CPU:
#    ``x + torch.arange(x.shape[1])``. Write ``add_positions`` so that it works wherever ``x`` is, without naming a device.


def add_positions(x):
    ### BEGIN SOLUTION
    return x + torch.arange(x.shape[1], device=x.device)
    ### END SOLUTION


expect(lambda: add_positions(torch.zeros(2, 3)), torch.tensor([[0.0, 1, 2], [0, 1, 2]]))
expect(lambda: add_positions(torch.zeros(2, 3, device="meta")).device.type, "meta")

# %%
# .. exercise:: Will it fit?
#
#    Write ``training_bytes``: what weights, gradients and optimiser of a module take in training with float32, where the optimiser keeps
#    ``moments`` numbers for each parameter it trains. Frozen parameters (``requires_grad`` is False) have neither gradient nor moments.


def training_bytes(module, moments):
    ### BEGIN SOLUTION
    total = 0
    for parameter in module.parameters():
        copies = 2 + moments if parameter.requires_grad else 1
        total += copies * parameter.numel() * parameter.element_size()
    return total
    ### END SOLUTION


frozen = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
frozen[0].requires_grad_(False)
expect(lambda: training_bytes(nn.Linear(3, 5), moments=1), 240)
expect(lambda: training_bytes(frozen, moments=2), 80 + 192)
