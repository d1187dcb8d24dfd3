r"""
Modules
=======

Build a network from parts of your own, so that every weight in it is trained, moved and
saved.

.. lesson::
   :needs: optimization/04_gradient_descent optimization/05_backpropagation
   :data: none
   :keywords: nn.Module, custom layer, nn.Parameter, register_buffer, ModuleList,
      ModuleDict, Sequential, register_forward_hook, dynamic network, optimizer got an
      empty parameter list, cannot assign module before Module.__init__() call, Missing
      key(s) in state_dict, Unexpected key(s) in state_dict, Error(s) in loading
      state_dict, expected all tensors to be on the same device
   :thumbnail: 2
"""

# %%
# How much work is one more layer?
# --------------------------------
#
# Here are forty noisy points, and you want a network that follows them. You could write each layer by hand. If you let PyTorch keep
# track of the layers, a further one costs you a line; but store them in the wrong kind of list, and some never learn, without any error.
# This page shows how a network knows its weights, and how you find the ones that it does not know.

import matplotlib.pyplot as plt
import torch

plt.style.use("pytorch_course.book")
x = torch.linspace(-1, 1, 40)[:, None]
noise = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
y = torch.sin(4 * x) + 0.1 * noise

# %%

fig, ax = plt.subplots(figsize=(6, 2.5))
ax.plot(x, y, "o")
ax.set(xlabel="x", ylabel="y")

# %%
# .. caption:: The data of this page: a wave with some noise.
#    :alt: Forty points along one and a quarter periods of a sine wave.
#
# Take a network with one hidden layer. You know how to write one: two matrices, two biases, forward, back, update. In NumPy,
# as :doc:`/lessons/optimization/05_backpropagation` derives it:

import numpy as np


def fit_numpy(X, Y, W1, b1, W2, b2, steps, rate):
    """Train two layers on X and Y; return what they say and the last loss."""
    for _ in range(steps):
        A = np.tanh(X @ W1.T + b1)
        error = A @ W2.T + b2 - Y
        dY = 2 / len(Y) * error
        dZ = dY @ W2 * (1 - A * A)
        W2 = W2 - rate * dY.T @ A
        b2 = b2 - rate * dY.sum(axis=0)
        W1 = W1 - rate * dZ.T @ X
        b1 = b1 - rate * dZ.sum(axis=0)
    return error + Y, (error**2).mean()


# %%
# Every further layer needs four more lines: one forward, one back, two updates. Now in PyTorch. ``model`` is a chain of three
# modules. A :term:`module` holds :term:`parameters <parameter>` and says what to compute with them; the loop asks for them once, with
# ``model.parameters()``.

from torch import nn
from torch.nn import functional as F


def fit(model, x, y, steps, rate):
    """Train a model on x and y; return what it says and the last loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        answers = model(x)
        loss = F.mse_loss(answers, y)
        loss.backward()
        optimizer.step()
    return answers.detach(), loss.item()


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
arrays = [p.detach().numpy().copy() for p in model.parameters()]
by_hand, loss_numpy = fit_numpy(x.numpy(), y.numpy(), *arrays, steps=500, rate=0.1)
answers, loss_torch = fit(model, x, y, steps=500, rate=0.1)
print(f"loss in NumPy {loss_numpy:.3f}, in PyTorch {loss_torch:.3f}")
torch.testing.assert_close(torch.from_numpy(by_hand), answers, rtol=0, atol=1e-3)

# %%
# The same start, the same loss after 500 steps. (The noise alone has a mean square of about :math:`0.1^2 = 0.01`, so this network is still
# far from the wave. A deeper one comes below.) For two layers the two loops are about equally long. With ten, the loop in PyTorch stays as
# it is, and the one in NumPy has 32 lines more. There each new layer must be added in three places, forward, back and update, and an update
# that you forget raises no error.
#
# How does the model know its weights?
# ------------------------------------
#
# In PyTorch you write ``self.weight = nn.Parameter(...)`` in a class, and ``parameters()`` lists it, although you never announced it. The
# trick is Python's: an assignment ``self.name = value`` calls the method ``__setattr__``, and a class may bring one of its own. This is the
# whole idea:


class Module:
    """Keep a list of every parameter and every module that is assigned."""

    def __init__(self):
        self.own = {}
        self.parts = {}

    def __setattr__(self, name, value):
        if isinstance(value, nn.Parameter):
            self.own[name] = value
        if isinstance(value, Module):
            self.parts[name] = value
        object.__setattr__(self, name, value)

    def named_parameters(self, prefix=""):
        for name, value in self.own.items():
            yield prefix + name, value
        for name, part in self.parts.items():
            yield from part.named_parameters(f"{prefix}{name}.")

    def __call__(self, x):
        return self.forward(x)


# %%
# A :class:`~torch.nn.Parameter` is a tensor that requires a :term:`gradient`, in a class of its own so that ``__setattr__`` can tell it
# from other tensors. ``object.__setattr__`` is the ordinary assignment. To compare with PyTorch, we write a network once, with the base
# class as an argument, and build it on our ``Module`` and on :class:`torch.nn.Module`.


def build(base):
    class Dense(base):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs))
            self.bias = nn.Parameter(torch.zeros(outputs))

        def forward(self, x):
            return x @ self.weight.T + self.bias

    class Net(base):
        def __init__(self):
            super().__init__()
            self.hidden = Dense(1, 4)
            self.head = Dense(4, 1)
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.scale * self.head(torch.tanh(self.hidden(x)))

    torch.manual_seed(1)
    return Net()


# %%
ours, theirs = build(Module), build(nn.Module)
found = dict(ours.named_parameters())
for name, value in theirs.named_parameters():
    print(f"{name:14} torch {tuple(value.shape)!s:8} ours {tuple(found[name].shape)}")
    torch.testing.assert_close(found[name], value, rtol=0, atol=0)

assert list(found) == [name for name, _ in theirs.named_parameters()]
torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)

# %%
# A network is a tree of modules; the parameters are its leaves, and a parameter's name is the way to it::
#
#    Net
#    ├── scale
#    ├── hidden
#    │   ├── weight      its name: hidden.weight
#    │   └── bias
#    └── head
#        ├── weight
#        └── bias
#
# The two agree in names, order, values and answers. A module's own parameters come first, then those of its parts. They differ in one
# point: a layer that a network uses in two places is listed once by PyTorch and twice by ours, which does not remember what it has listed.
# Our version also explains an error: forget ``super().__init__()``, and the dictionaries that an assignment should write into do not exist.


class Forgetful(nn.Module):
    def __init__(self):
        self.layer = nn.Linear(1, 16)


try:
    Forgetful()
except AttributeError as error:
    print("AttributeError:", error)

# %%
# Why do these layers not learn?
# ------------------------------
#
# Now put three more layers into the middle of the network, in a list, so that ``forward`` can loop over them. Which list? We try
# Python's ``list`` and PyTorch's :class:`torch.nn.ModuleList`.


class Deep(nn.Module):
    def __init__(self, container):
        super().__init__()
        self.first = nn.Linear(1, 16)
        self.middle = container([nn.Linear(16, 16) for _ in range(3)])
        self.head = nn.Linear(16, 1)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for layer in self.middle:
            x = torch.tanh(layer(x))
        return self.head(x)


# %%
# Both start from the same weights and take 500 steps:


def train_with(container):
    torch.manual_seed(0)
    model = Deep(container)
    count = sum(p.numel() for p in model.parameters())
    said, loss = fit(model, x, y, steps=500, rate=0.2)
    print(f"{container.__name__:10} {count:3} parameters, loss {loss:.3f}")
    return model, said


listed, flat = train_with(list)
deep, curved = train_with(nn.ModuleList)
assert len(list(listed.parameters())) == 4 and len(list(deep.parameters())) == 10
assert (flat - y).square().mean() > 5 * (curved - y).square().mean()

# %%

# fold: what the two networks say
fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.6), sharey=True)
for ax, said, title in zip(axes, (flat, curved), ("list", "ModuleList")):
    ax.plot(x, y, "o", x, said)
    ax.set(title=title, xlabel="x")
axes[0].set_ylabel("y")

# %%
# .. caption:: The same five layers, start weights and steps. Left, the three in the middle are in a Python list, right in a ``ModuleList``.
#    :alt: Two panels with the points of the wave. Left, the curve misses most of them. Right, it follows the wave.
#
# What you expect: the layers are attributes of the module, so it knows them. What happens: it knows 49 of 865 parameters. By hand: a layer
# from :math:`a` to :math:`b` units has :math:`ab` weights and :math:`b` biases, that is 32 for the first, 272 for each in the middle and
# 17 for the last; 32 + 3 · 272 + 17 = 865, and 32 + 17 = 49. The loss falls all the same, because first and last layer learn, and nothing
# complains. Why: ``__setattr__`` saw a *list* and looked no further, as ours would. The fix is a container that is itself a module:
#
# .. list-table::
#    :header-rows: 1
#
#    * - container
#      - holds modules
#      - and runs them?
#    * - :class:`torch.nn.Sequential`
#      - in a row
#      - yes, one after the other
#    * - :class:`torch.nn.ModuleList`
#      - by number
#      - no, your ``forward`` does
#    * - :class:`torch.nn.ModuleDict`
#      - by name
#      - no, your ``forward`` does
#
# For bare parameters there are :class:`torch.nn.ParameterList` and :class:`torch.nn.ParameterDict`. So count the parameters of a new
# model before you train it, and compare with your own sum over its layers. PyTorch only complains when there is not a single parameter:

bare = nn.Module()
bare.layers = [nn.Linear(1, 16), nn.Linear(16, 1)]
try:
    torch.optim.SGD(bare.parameters(), lr=0.1)
except ValueError as error:
    print("ValueError:", error)

# %%
# Where do numbers live that are not trained?
# -------------------------------------------
#
# Inputs should be shifted by the mean of the training data, 20 say. The mean belongs to the model: it must be saved with it and move to
# the GPU with it, and no optimiser may touch it. Here are four ways to keep it. The device ``meta`` holds no numbers and exists on every
# machine; it stands for a GPU.


class Keeper(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain = torch.tensor([20.0])
        self.register_buffer("buffer", torch.tensor([20.0]))
        self.register_buffer("scratch", torch.tensor([20.0]), persistent=False)
        self.parameter = nn.Parameter(torch.tensor([20.0]))


keeper = Keeper()
trained = [name for name, _ in keeper.named_parameters()]
saved = list(keeper.state_dict())
moved = keeper.to("meta")
print("trained:", trained, "saved:", saved)
for name in ("plain", "buffer", "scratch", "parameter"):
    print(f"{name:9} is on", getattr(moved, name).device)
assert trained == ["parameter"] and saved == ["parameter", "buffer"]
assert moved is keeper and keeper.plain.device.type == "cpu"

# %%
# :meth:`~torch.nn.Module.state_dict` lists what is saved; the next section is about it. The plain attribute is not in it, and it stayed
# behind on the CPU. The parameter would be trained. You want a :term:`buffer`. With ``persistent=False`` it moves but is not saved, as
# suits a table that ``__init__`` can compute again. ``forward`` may change a buffer: after ``self.buffer = self.buffer + 1`` or
# ``self.buffer += 1``, the name still stands for a buffer.
#
# A module moves **in place**, and ``to`` returns the module itself. A tensor does not: ``batch.to(device)`` returns another tensor, and
# you must keep that one: ``batch = batch.to(device)``.

batch = torch.rand(4, 1)
batch.to("meta")  # the result is thrown away
print("batch is on", batch.device)

# %%
# What is in the file?
# --------------------
#
# ``state_dict`` is a dictionary from names to tensors: parameters and buffers, no code. Another model of the same
# form takes them over with :meth:`~torch.nn.Module.load_state_dict`. The network with the Python list does not have that form:

twin = Deep(nn.ModuleList)
print(twin.load_state_dict(deep.state_dict()))
torch.testing.assert_close(twin(x), deep(x), rtol=0, atol=0)
try:
    listed.load_state_dict(deep.state_dict())
except RuntimeError as error:
    print(str(error)[:100], "...")

# %%
# The dictionary is not a snapshot. Its tensors *are* the weights, so what you keep as "the best so far" goes on training. Copy each
# one, or the whole dictionary with ``copy.deepcopy``.

best = deep.state_dict()
snapshot = {name: value.clone() for name, value in best.items()}
fit(deep, x, y, steps=1, rate=0.1)
print(f"head.bias in the dictionary {best['head.bias'].item():.5f}")
print(f"head.bias in the snapshot   {snapshot['head.bias'].item():.5f}")
assert best["head.bias"] == deep.head.bias != snapshot["head.bias"]

# %%
# How do I look inside while it runs?
# -----------------------------------
#
# You want the shape that leaves each layer, without a ``print`` in every ``forward``. A **forward hook** is a function that a module calls
# after each of its runs, with itself, its inputs and its output. ``register_forward_hook`` returns a handle to take it off again;
# ``modules()`` lists the model and every module in it.

runs = []


def look(module, inputs, output):
    runs.append(f"{type(module).__name__} {tuple(output.shape)}")


handles = [part.register_forward_hook(look) for part in deep.modules()]
deep(x)
print(runs)
assert len(runs) == 6 and runs[-1].startswith("Deep")

# %%
# The five layers report, and then the model that holds them. The seventh module, the ``ModuleList``, has the hook, too, but never runs:
# ``forward`` only loops over it. ``deep(x)`` called the hooks: its method ``__call__``, from the base class, calls the ``forward`` that you
# write, and then the hooks. If you call ``deep.forward(x)`` yourself, the hook of ``deep`` is left out. The hooks of its layers still run,
# because ``forward`` calls those as ``layer(x)``.

runs.clear()
deep.forward(x)
print(runs)
assert len(runs) == 5
for handle in handles:
    handle.remove()

# %%
# So write ``model(x)`` and not ``model.forward(x)``: tools for pruning, or for splitting a model over several GPUs, use hooks too.
#
# Can forward use if and while?
# -----------------------------
#
# Yes: it is Python. It can branch and loop, and the data can decide how often. This module applies one layer again and again until its
# output hardly changes any more. (With other weights, ``while True`` may never end; in a program of your own, set a limit.) ``graph`` is
# the helper of :doc:`/lessons/optimization/01_autograd_graph`; it counts the operations that each run recorded.

from pytorch_course.autograd import graph


class Settle(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        state = torch.zeros_like(x)
        self.turns = 0
        while True:
            self.turns += 1
            before, state = state, torch.tanh(self.layer(state) + x)
            if (state - before).abs().max() < 1e-3:
                return state


# %%
torch.manual_seed(0)
settle = Settle()
sizes = []
for value in (0.1, 1.0, 10.0):
    result = settle(torch.full((1, 4), value)).sum()
    result.backward()
    sizes.append(len(graph(result).nodes))
    print(f"input {value:4}: {settle.turns} turns, {sizes[-1]} nodes in the graph")
assert len(set(sizes)) == 3 and sum(p.numel() for p in settle.parameters()) == 20

# %%
# Each input takes its own number of turns. Every turn puts four nodes into the graph, and ``backward`` walks back through all of them. Yet
# there are only the 20 parameters of the one layer: 16 weights and 4 biases, used in every turn.
#
# Take this with you
# ------------------
#
# Layers in a ``ModuleList``, constants in buffers, ``net(x)`` to run it; and count the parameters before you train.


class Net(nn.Module):
    def __init__(self, mean, width=16):
        super().__init__()
        self.register_buffer("mean", mean)
        self.layers = nn.ModuleList([nn.Linear(1, width), nn.Linear(width, 1)])

    def forward(self, x):
        return self.layers[1](torch.tanh(self.layers[0](x - self.mean)))


net = Net(x.mean(dim=0))
print(sum(p.numel() for p in net.parameters()), "parameters,", 32 + 17, "by hand")

# %%
# Change something
# ----------------
#
# * In ``build``, assign ``self.scale`` before ``self.hidden``. Which order do the names have?
# * At the end of ``Deep.__init__``, add ``self.head.weight = torch.zeros(1, 16)``. What does PyTorch say?
# * Register the hook on ``deep.children()`` instead of ``deep.modules()``. Who reports?
#
# .. dropdown:: What happens
#
#    * The same: the module's own parameters come first, wherever in ``__init__`` they stand.
#    * ``TypeError: cannot assign 'torch.FloatTensor' as parameter 'weight'``. The name stands among the parameters, and only a
#      parameter or None may take its place. Write ``nn.Parameter(torch.zeros(1, 16))``, or ``nn.init.zeros_(self.head.weight)``.
#    * Only first and last layer, so the assert stops the page. ``deep`` is not among its own children. The child ``middle``, the
#      ``ModuleList``, is never called, and its layers are grandchildren.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the size of a model that uses a layer twice
#
#    ``shared = nn.Linear(4, 4)`` stands twice in ``nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 2))``. Over how many
#    numbers does ``sum(p.numel() for p in model.parameters())`` count?

### BEGIN SOLUTION
guess = 30
### END SOLUTION

shared = nn.Linear(4, 4)
model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 2))
expect(guess, sum(p.numel() for p in model.parameters()))

# %%
# .. exercise:: Fix a new head that never learns
#
#    A colleague has a ``model`` and its ``optimizer`` and needs more outputs, so he writes ``model.head = nn.Linear(16, outputs)`` and goes
#    on training with the optimiser he has. The loss hardly falls, and the new head keeps its start values: the optimiser still
#    holds the old one. Write ``new_head``: it puts a new head into the model and returns an :class:`torch.optim.SGD` that trains
#    every parameter of it, with learning rate 0.1.


def new_head(model, outputs):
    ### BEGIN SOLUTION
    model.head = nn.Linear(16, outputs)
    return torch.optim.SGD(model.parameters(), lr=0.1)
    ### END SOLUTION


def bias_after_one_step():
    model = Deep(nn.ModuleList)
    optimizer = new_head(model, 5)
    nn.init.zeros_(model.head.bias)
    model(x[:3]).sum().backward()  # each output adds up three samples: gradient 3
    optimizer.step()
    return model.head.bias.detach()


expect(bias_after_one_step, torch.full((5,), -0.3))

# %%
# .. exercise:: Build a counter that is saved
#
#    Write ``Counter``, a module that returns its input unchanged and counts in ``seen`` how many samples (rows) have passed through it.
#    The count must go with the model into its file, and no optimiser may change it. Let ``seen`` begin as
#    ``torch.tensor(0)``.


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        ### BEGIN SOLUTION
        self.register_buffer("seen", torch.tensor(0))
        ### END SOLUTION

    def forward(self, x):
        ### BEGIN SOLUTION
        self.seen += len(x)
        return x
        ### END SOLUTION


def count_and_restore():
    counter, twin = nn.Sequential(Counter(), nn.Linear(1, 2)), Counter()
    counter(x[:3])
    counter(x[:4])
    twin.load_state_dict(counter[0].state_dict())
    return twin.seen, len(list(counter.parameters()))


expect(count_and_restore, (torch.tensor(7), 2))
