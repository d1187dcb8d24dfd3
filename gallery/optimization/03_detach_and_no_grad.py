r"""
detach and no_grad
==================

Leave the graph on purpose, with the tool that fits, and notice when you have left it by accident or have broken it.

.. lesson::
   :needs: optimization/01_autograd_graph
   :data: none
"""

# %%
# Can a look change the gradient?
# -------------------------------
#
# You want to see the values of a sigmoid, clipped at 0.6. You take them out with ``.data``, clip them there, and go on with the training
# step. Here is the gradient that it uses, beside the right one.

import matplotlib.pyplot as plt
import torch

plt.style.use("pytorch_course.book")
x = torch.linspace(-5, 5, 201, requires_grad=True)
y = x.sigmoid()
shown = y.data.clamp_(max=0.6)  # only to look at
y.sum().backward()

fig, ax = plt.subplots()
true = x.detach().sigmoid()
for gradient, name in ((true * (1 - true), "right"), (x.grad, "after .data")):
    (line,) = ax.plot(x.detach(), gradient)
    ax.annotate(name, (5, gradient[-1]), xytext=(6, 0), textcoords="offset points", va="center", color=line.get_color())
ax.set(xlabel="x", ylabel="gradient of the sigmoid")

# %%
# .. caption:: Nearly half of the gradient is wrong, and nothing said so: no error, no warning.
#    :alt: Two curves that run together on the left. Right of zero, the right one falls back to zero, while the one after .data stays on a
#       plateau at 0.24.

assert torch.allclose(x.grad[x < 0], (true * (1 - true))[x < 0])
torch.testing.assert_close(x.grad[-1].item(), 0.6 * (1 - 0.6))  # computed from the clipped value
print(f"right {true[-1] * (1 - true[-1]):.4f}, used {x.grad[-1]:.4f}")

# %%
# The derivative of a sigmoid is :math:`y(1-y)`, so the graph saved :math:`y`; and ``.data`` is the memory of :math:`y`, not a copy. Now the
# same with :meth:`torch.Tensor.detach`.

x = torch.linspace(-5, 5, 201, requires_grad=True)
y = x.sigmoid()
shown = y.detach().clamp_(max=0.6)
try:
    y.sum().backward()
except RuntimeError as error:
    print("RuntimeError:", str(error).split(": [")[0])
else:
    raise AssertionError("the clipped value went through")
assert shown.data_ptr() == y.data_ptr() == y.data.data_ptr()

# %%
# ``detach`` shares the memory too, but you get an error in place of a wrong number. The difference is a counter. Every tensor counts the
# writes that happen :term:`in place`, the graph notes the count when it saves, and ``backward`` compares. ``detach`` hands the counter
# on; ``.data`` starts a new one.

y = torch.zeros(2, requires_grad=True).sigmoid()
counts = [y._version]
for outside in (y.detach(), y.data):
    outside.mul_(1)
    counts.append(y._version)
print("writes counted: at first {}, through detach {}, through .data {}".format(*counts))
assert counts == [0, 1, 1]

# %%
# Which in-place writes are allowed?
# ----------------------------------
#
# Those that overwrite nothing the way back needs. Some operations save their result, some their input, some nothing.

operations = {
    "w + 1": lambda w: w + 1,
    "w.sin()": torch.sin,
    "w.exp()": torch.exp,
    "w.sigmoid()": torch.sigmoid,
    "w.relu()": torch.relu,
}

# %%
# Where the way back needs the *result*, overwriting it must fail.

for name, f in operations.items():
    a = f(torch.ones(2, requires_grad=True))
    saves = hasattr(a.grad_fn, "_saved_result")
    a += 1
    try:
        a.sum().backward()
        outcome = "works"
    except RuntimeError:
        outcome = "RuntimeError"
    print(f"a = {name:<12} a += 1   saves its result: {saves!s:<5}  {outcome}")
    assert saves == (outcome == "RuntimeError")

# %%
# The mend costs a few letters: ``a = a + 1`` makes a new tensor and leaves the saved one alone. The other message of this family concerns
# leaves. Overwritten by a recorded operation, a :term:`leaf` would be one no longer, and its ``grad`` would stay empty; PyTorch refuses
# at once. An optimiser step is no part of the function, and it says so with :class:`torch.no_grad`.

w = torch.ones(2, requires_grad=True)
a = w.sigmoid()
a = a + 1
a.sum().backward()
try:
    w -= 0.1 * w.grad
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("a leaf was overwritten")

with torch.no_grad():
    w -= 0.1 * w.grad
torch.testing.assert_close(w.detach(), 1 - 0.1 * w.grad)
assert w.is_leaf and w.requires_grad

# %%
# What does each way out keep?
# ----------------------------
#
# Take a result out in six ways, write into what you got, and go back.

ways = {
    "y.view_as(y)": lambda y: y.view_as(y),
    "y.clone()": lambda y: y.clone(),
    "y.detach()": lambda y: y.detach(),
    "y.detach().clone()": lambda y: y.detach().clone(),
    "y.data": lambda y: y.data,
    "y.detach().numpy()": lambda y: y.detach().numpy(),
}


# %%
# The function notes what the way out shares with ``y``, writes into it, and looks at the gradient.


def take_out(way):
    x = torch.ones(1, requires_grad=True)
    y = x.sigmoid()
    out = way(y)
    in_graph = getattr(out, "requires_grad", False)
    out[0] = 0.9
    value = torch.ones(1).sigmoid()
    shares, counted = bool(y != value), y._version > 0
    try:
        y.sum().backward()
    except RuntimeError:
        return shares, in_graph, counted, "error"
    return shares, in_graph, counted, "right" if torch.allclose(x.grad, value * (1 - value)) else "wrong"


# %%
# Look for rows that share the memory and are not counted.

table = {name: take_out(way) for name, way in ways.items()}
colours = {True: "#56B4E9", False: "#F2F2F2", "right": "#7FCFB8", "error": "#F3C66B", "wrong": "#E08B57"}
fig, ax = plt.subplots(figsize=(6.4, 3.6))
for row, cells in enumerate(table.values()):
    for column, cell in enumerate(cells):
        ax.barh(row, 0.96, left=column - 0.48, height=0.9, color=colours[cell])
        ax.text(column, row, {True: "yes", False: "no"}.get(cell, cell), ha="center", va="center")
ax.set_yticks(range(6), table, family="monospace")
ax.set_xticks(range(4), ["same\nmemory", "in the\ngraph", "writes\ncounted", "backward\nafter a write"])
ax.xaxis.tick_top()
ax.tick_params(length=0)
ax.invert_yaxis()
ax.spines[:].set_visible(False)
assert all((end == "wrong") == (shares and not counted) for shares, _, counted, end in table.values())

# %%
# .. caption:: Two ways end in a silently wrong gradient. ``.data`` is one; the other is an array from ``numpy()``, which cannot count.
#    :alt: A table of six ways and four columns. view_as shares memory, is in the graph, counts, and backward raises an error. clone is in
#       the graph only and backward is right. detach shares and counts, error. detach and clone shares nothing, right. data and
#       detach numpy share memory and count nothing: wrong.
#
# To read, use ``detach()``. To read and then write, use ``detach().clone()``. New code needs ``.data`` nowhere.
#
# How do I stop recording?
# ------------------------
#
# ``detach`` cuts one tensor out of a graph. A *mode* keeps the graph from being built, for a block or, as a decorator, for a function.

modes = {
    "enable_grad()": torch.enable_grad,
    "no_grad()": torch.no_grad,
    "set_grad_enabled(False)": lambda: torch.set_grad_enabled(False),
    "inference_mode()": torch.inference_mode,
}
w = torch.ones(2, requires_grad=True)
for name, mode in modes.items():
    with mode():
        result = w * 2
    print(f"{name:<24} in a graph: {result.requires_grad!s:<5}  inference tensor: {result.is_inference()}")
    assert torch.is_grad_enabled() and result.requires_grad == (name == "enable_grad()")

# %%
# Two exceptions. An explicit request still makes a leaf, and the innermost mode wins.

with torch.no_grad():
    assert torch.ones(1, requires_grad=True).requires_grad
    with torch.enable_grad():
        assert (w * 2).requires_grad

# %%
# :class:`torch.inference_mode` goes further than :class:`torch.no_grad`: its tensors do not even have a counter. So no graph can save them.

with torch.inference_mode():
    scale = torch.ones(2) * 3
attempts = {"use it": lambda: w * scale, "write into it": lambda: scale.add_(1), "count": lambda: scale._version}
for name, attempt in attempts.items():
    try:
        attempt()
    except RuntimeError as error:
        print(f"{name:<14} RuntimeError: {str(error).split('.')[0]}")
    else:
        raise AssertionError(name)

print("and yet:", scale.tolist())
assert scale.tolist() == [4, 4]  # the write was refused after it had happened

(w * scale.clone()).sum().backward()  # a clone is an ordinary tensor
assert w.grad.tolist() == [4, 4]

# %%
# The second message is late: the numbers are changed already. Do not catch it and go on.
#
# Use ``inference_mode`` to serve a finished model and ``no_grad`` where results may return to training.
#
# What does the graph cost?
# -------------------------
#
# Memory, above all: what an operation saves lives as long as its node. :class:`torch.autograd.graph.saved_tensors_hooks` lets us stand at
# the door. We hand out a wrapper for every saved tensor and count the wrappers that are still alive.

import weakref

alive = weakref.WeakSet()


class Kept:
    def __init__(self, tensor):
        self.tensor = tensor.detach()  # without detach, a tensor and its node would keep each other alive
        alive.add(self)


def held(weights):
    """MiB of saved tensors that are alive, each storage once, without the weights."""
    pointers = {kept.tensor.data_ptr(): kept.tensor.nbytes for kept in list(alive)}
    return sum(size for pointer, size in pointers.items() if pointer not in {w.data_ptr() for w in weights}) / 2**20


def watch():
    return torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor)


# %%
# Eight layers, and four ways to run them. :meth:`torch.Tensor.requires_grad_` switches the request of a leaf off: the layer is *frozen*.

torch.manual_seed(0)
batch = torch.randn(256, 256)


def run(weights):
    h = batch
    for w in weights:
        h = torch.tanh(h @ w)
    return h.square().mean()


# %%
# What is held at the end of the forward pass?

costs = {}
for name, frozen in {"all trained": [], "first four frozen": range(4), "last four frozen": range(4, 8)}.items():
    weights = [(torch.randn(256, 256) / 16).requires_grad_(i not in frozen) for i in range(8)]
    with watch():
        loss = run(weights)
        costs[name] = held(weights)
    loss.backward()
    assert [i for i in range(8) if weights[i].grad is None] == list(frozen)
with watch(), torch.no_grad():
    loss = run(weights)
    costs["no_grad"] = held(weights)
print(costs)
assert costs["no_grad"] == 0 and costs["first four frozen"] < costs["all trained"] == costs["last four frozen"]

# %%
# Freezing the *last* layers saves nothing of this: the gradient must still pass through them to reach the first. Frozen is not detached.
#
# And what if somebody holds on to the graphs? To report a mean loss on held-out data you add the losses up. Each brings its graph along.

history = {"total += loss": [], "total += loss.item()": []}
for name, curve in history.items():
    total = 0
    for step in range(20):
        with watch():
            loss = run(weights)
        total += loss.item() if "item" in name else loss
        curve.append(held(weights))
    total = loss = None  # let go
assert held(weights) == 0

# %%
# What the two loops held, step by step:

fig, ax = plt.subplots()
for name, curve in history.items():
    (line,) = ax.plot(range(1, 21), curve, "o-")
    ax.annotate(name, (13, curve[12]), xytext=(-8, 10), textcoords="offset points", ha="right", color=line.get_color())
ax.set(xlabel="step", ylabel="MiB held", ylim=(-2, None), xticks=range(0, 21, 5))
assert history["total += loss"][-1] > 15 * max(history["total += loss.item()"])

# %%
# .. caption:: Every loss in the sum keeps its whole graph alive. With a plain number in the sum, one graph at a time exists.
#    :alt: Megabytes held against the step. One line climbs steadily to about forty, the other stays level near two.
#
# During training the leak is smaller, and so lives longer undetected: ``backward`` gives the saved tensors back, and only nodes pile up.

from pytorch_course.autograd import graph

total = 0
for step in range(20):
    with watch():
        loss = run(weights)
    loss.backward()
    total += loss
print("held:", held(weights), "MiB and", len(graph(total).nodes), "nodes; one step has", len(graph(loss).nodes))
assert held(weights) == 0 and len(graph(total).nodes) > 10 * len(graph(loss).nodes)

# %%
# Where did my gradient go?
# -------------------------
#
# Some ways out of the graph refuse, some warn, and most do neither.

import warnings

exits = {
    "y.numpy()": lambda y: y.numpy(),
    "torch.tensor(y)": torch.tensor,
    "y.tolist()": lambda y: torch.tensor(y.tolist()),
    "y > 0": lambda y: (y > 0).float(),
    "y.argmax()": torch.argmax,
    "y.round()": torch.round,
}

# %%
# The last one is special: it stays in the graph, and its gradient is zero everywhere.

y = torch.tensor([0.2, 1.7], requires_grad=True)
for name, leave in exits.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = leave(y)
        except RuntimeError:
            print(f"{name:<16} refuses")
            continue
    print(f"{name:<16} {'warns ' if caught else 'silent'}   in the graph: {result.requires_grad}")
    assert result.requires_grad == (name == "y.round()")
y.round().sum().backward()
assert y.grad.tolist() == [0, 0]

# %%
# If the whole loss is cut off, ``backward`` complains. If only a part is, it does not: training runs, the loss falls, and one parameter
# never moves.

w, b = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
losses = {"intact": (w * 3 + b - 10) ** 2, "cut": (torch.tensor((w * 3).item()) + b - 10) ** 2}
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.8), width_ratios=[3, 2])
for ax, (name, loss) in zip(axes, losses.items()):
    ax.set_title(name)
    graph(loss, names={"w": w, "b": b}).plot(ax)
    w.grad = b.grad = None
    loss.backward()
    missing = [name for name, leaf in {"w": w, "b": b}.items() if leaf.grad is None]
    print(f"{name:<7} loss {loss.item()}  without gradient: {missing}")
assert w.grad is None and b.grad == -6

# %%
# .. caption:: Same loss, same gradient for ``b``. In the cut graph ``w`` does not occur.
#    :alt: Two drawings. The intact graph runs from PowBackward0 through SubBackward0 to AddBackward0, which leads to the leaf b and through
#       MulBackward0 to the leaf w. In the cut graph AddBackward0 leads to the leaf b only.
#
# So after the first ``backward`` of a new model, list the parameters whose gradient is ``None``. It takes one line and finds every cut.
#
# Does old code still run?
# ------------------------
#
# Until 2018 a tensor could not ask for gradients. You wrapped it in a ``Variable``, which had ``data``, ``grad`` and ``creator``. PyTorch
# 0.4 merged the two. Old code now meets one of three fates. The first: it runs and means the same.

from torch.autograd import Variable

old, new = Variable(torch.ones(3, 4), requires_grad=True), torch.ones(3, 4, requires_grad=True)
assert type(old) is type(new) is torch.Tensor and isinstance(torch.ones(1), Variable)
assert old.requires_grad and torch.equal(old, new) and old.grad is None and old.grad_fn is None
print(type(old), (old + 2).grad_fn.name())
assert (old + 2).grad_fn is not None and not hasattr(old + 2, "creator")  # grad_fn is its name today

# %%
# Write the second form. ``creator`` shows another fate: the code stops. The worst is the third: it runs and means something else. A
# ``volatile`` input once switched recording off for all that was computed from it; it was the ``no_grad`` of its time.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    images = Variable(torch.ones(2), volatile=True)
print(caught[0].category.__name__, "-", caught[0].message)

result = images * torch.ones(2, requires_grad=True)
assert "no effect" in str(caught[0].message) and result.requires_grad  # the graph is built after all
with torch.no_grad():
    assert not (images * torch.ones(2, requires_grad=True)).requires_grad

# %%
# An old evaluation script therefore runs, prints the right numbers, and holds every graph that you saw above. A warning is all you get, so
# read it. "Old code always runs" is also refuted in a more common place, a file with a whole model in it:

import io
import pickle
from importlib.util import find_spec

file = io.BytesIO()
torch.save(torch.nn.Linear(2, 2), file)
file.seek(0)
try:
    torch.load(file)
except pickle.UnpicklingError as error:
    print("UnpicklingError:", str(error).split(".")[0])
else:
    raise AssertionError("a whole model was loaded")
assert find_spec("torch.legacy") is None and find_spec("caffe2") is None  # gone for good

# %%
# Since version 2.6, :func:`torch.load` refuses to run code from a file unless you insist. Save the numbers instead, not the object.
#
# Change something
# ----------------
#
# * In the first figure, write ``y.data.clone().clamp_(max=0.6)``. Do the two curves meet?
# * Add ``"w.tanh()": torch.tanh`` and ``"w.cos()": torch.cos`` to the operations. Which one allows the write? Think of their derivatives.
# * Freeze ``range(2, 4)`` and then ``range(0, 2)``. Which of them saves memory?
#
# Exercises
# ---------
#
# 1. A layer shall train, and nothing before it. Where does the ``detach`` go, and why is freezing the earlier layers not the same for the
#    *input* of the whole network?
# 2. You compute ``loss = (w**2).sum()``, update ``w`` under ``no_grad``, and then call ``loss.backward()``. What happens, and what would
#    happen with ``w.data -= 0.1``?
# 3. Write ``without_gradient(loss, parameters)`` that lists the parameters which a loss cannot reach, without leaving any ``grad`` behind.
#
# .. dropdown:: Answers
#
#    1. On the input of that layer. With frozen layers the graph still reaches an input that requires a gradient; ``detach`` cuts it.
#    2. The counter of ``w`` has moved on: RuntimeError. With ``.data`` the gradient is computed from the new ``w``, silently.
#    3. ``torch.autograd.grad(loss, parameters, allow_unused=True)`` returns ``None`` for those.
