r"""
detach and no_grad
==================

Leave the graph on purpose, with the tool that fits, and notice when you have left it by
accident or have broken it.

.. lesson::
   :needs: optimization/01_autograd_graph
   :data: none
   :keywords: detach, no_grad, inference_mode, set_grad_enabled, .data, stop gradient,
      freeze layers, memory leak, out of memory, in-place operation, Variable, volatile,
      requires_grad_, one of the variables needed for gradient computation has been
      modified by an inplace operation, a leaf Variable that requires grad is being used
      in an in-place operation, can't call numpy() on Tensor that requires grad,
      inference tensors cannot be saved for backward, weights only load failed
   :thumbnail: 1
"""

# %%
# Can a look ruin the training?
# -----------------------------
#
# Six students, the hours they studied, and who passed. You train a chance of passing, and you would like to see it in per cent while it
# learns. So you take the chances out with ``.data`` and multiply by 100.

import torch

hours = torch.tensor([0.5, 1.0, 1.5, 2.5, 3.0, 4.0])
passed = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])


def train(look, steps=60):
    """Fit the chance of passing, look at it in every step, and return the losses."""
    theta = torch.zeros(2, requires_grad=True)
    losses = []
    for _ in range(steps):
        chance = torch.sigmoid(theta[0] * hours + theta[1])
        loss = ((chance - passed) ** 2).mean()
        losses.append(loss.item())
        look(chance)
        theta.grad = None
        loss.backward()
        with torch.no_grad():
            theta -= 0.5 * theta.grad
    return losses


# %%
# The same training twice, once without a look and once with it:


def in_percent(chance):
    """Show the chances in per cent."""
    percent = chance.data
    percent *= 100


alone, watched = train(lambda chance: None), train(in_percent)
print(f"last loss: alone {alone[-1]:.3f}, watched {watched[-1]:.3f}")
assert alone[-1] < 0.2 and watched[-1] == 0.5

# %%

# fold: both losses
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(alone, label="alone")
ax.plot(watched, "--", label="watched")
ax.set(xlabel="step", ylabel="loss", ylim=(0, 0.6))
ax.legend(loc="lower left")

# %%
# .. caption:: Looking changed the training: the loss jumps in the first step and stays there. The model now says "failed" to
#    everybody.
#    :alt: One curve falls slowly from 0.25. The other, dashed, jumps from 0.25 to one half in the first step and stays there.
#
# No error, no warning. ``.data`` is the memory of ``chance``, not a copy, so the chances themselves became 50 instead of 0.5. And
# the graph had saved them, because the derivative of a sigmoid is computed from its result:
#
# .. math:: y = \sigma(x), \qquad \frac{\partial y}{\partial x} = y\,(1 - y)
#
# At 50 that is a large *negative* number, and the training walks off in the wrong direction.

x = torch.zeros(1, requires_grad=True)
y = torch.sigmoid(x)
y.data *= 100
y.backward()
print("gradient", x.grad.item(), "instead of", 0.5 * (1 - 0.5))

# %%
# Now the same look with :meth:`torch.Tensor.detach`:


def detached(chance):
    """Show the chances in per cent."""
    percent = chance.detach()
    percent *= 100


try:
    train(detached)
except RuntimeError as error:
    message = str(error).split(" Hint")[0]
print("RuntimeError:", message)
assert "is at version 1; expected version 0" in message

# %%
# ``detach`` shares the memory too, but you get an error in place of a wrong number. Every tensor counts the writes that happen
# :term:`in place`; that count is its *version*. The graph notes the version of what it saves, and ``backward`` compares. ``detach`` hands
# the counter on; ``.data`` starts a new one, so nobody notices. The fix is not to write into what you took out:

watched = train(lambda chance: chance.detach() * 100)
print(f"last loss: alone {alone[-1]:.3f}, watched {watched[-1]:.3f}")
assert watched == alone

# %%
# Which writes are allowed?
# -------------------------
#
# Those that overwrite nothing the way back needs. Some operations save their result, some their input, some nothing. Add one in place to
# the results of five:

failed = []
for f in (torch.neg, torch.sin, torch.exp, torch.sigmoid, torch.relu):
    a = f(torch.ones(2, requires_grad=True))
    a += 1
    try:
        a.sum().backward()
        print(f"{f.__name__:<8} works")
    except RuntimeError:
        print(f"{f.__name__:<8} RuntimeError")
        failed.append(f.__name__)
assert failed == ["exp", "sigmoid", "relu"]  # those that need their result

# %%
# Write ``a = a + 1`` instead: it makes a new tensor and leaves the saved one alone.
#
# The other message of this family concerns a :term:`leaf`, such as a weight. A recorded operation that overwrites it would make it a
# result, and its ``grad`` would stay empty; PyTorch refuses at once. The step of an optimiser does not belong to the function you
# differentiate, and :class:`torch.no_grad` says so.

w = torch.ones(2, requires_grad=True)
(w**2).sum().backward()
try:
    w -= 0.1 * w.grad
except RuntimeError as error:
    print("RuntimeError:", error)

with torch.no_grad():
    w -= 0.1 * w.grad
print(w)
assert w.is_leaf and w.requires_grad

# %%
# Is an array a safe way out?
# ---------------------------
#
# What you expect: ``detach`` is the safe one, so ``detach().numpy()`` is safe too. Multiply the array by 100, and do the same with a
# clone.

for name in ("array", "clone"):
    x = torch.zeros(1, requires_grad=True)
    y = torch.sigmoid(x)
    out = y.detach().numpy() if name == "array" else y.detach().clone()
    out *= 100
    y.backward()
    print(f"{name}: y is now {y.item()}, gradient {x.grad.item()}")
assert y == 0.5 and x.grad == 0.25  # the clone did no harm

# %%
# The array shares the memory and has no counter: the wrong gradient again, and no complaint. To read, use ``detach()``. To read and then
# write, use ``detach().clone()``. New code needs ``.data`` nowhere.
#
# How do I stop recording?
# ------------------------
#
# ``detach`` cuts one tensor out of a graph. A *mode* keeps the graph from being built, for a block or, as a decorator, for a function.

w = torch.ones(2, requires_grad=True)
for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
    with mode():
        result = w * 2
    print(f"{mode.__name__:<15} {result.requires_grad=}  {result.is_inference()=}")

with torch.set_grad_enabled(False), torch.enable_grad():  # no_grad, with a switch
    result = w * 2
print("the innermost mode wins:", result.grad_fn.name())
assert result.requires_grad

# %%
# :class:`torch.inference_mode` goes further than :class:`torch.no_grad`: its tensors do not even count their writes. So no graph can save
# them.

with torch.inference_mode():
    scale = torch.ones(2) * 3
try:
    w * scale
except RuntimeError as error:
    print("RuntimeError:", str(error).split(".")[0])

(w * scale.clone()).sum().backward()  # a clone is an ordinary tensor
print(w.grad)
assert w.grad.tolist() == [3, 3]

# %%
# Use ``inference_mode`` to serve a finished model, and ``no_grad`` where results may return to training.
#
# What does the graph cost?
# -------------------------
#
# Memory, above all: what an operation saves lives as long as its node. :class:`torch.autograd.graph.saved_tensors_hooks` lets us
# watch. It calls ``pack`` for every tensor that is saved, and the graph holds what ``pack`` returns. We note a weak reference, which
# tells whether that tensor is still alive.

import weakref

saved = []


def pack(tensor):
    """Save the tensor, and note that it is saved."""
    kept = tensor.detach()
    saved.append(weakref.ref(kept))
    return kept


watching = torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept)


def matrices(weights):
    """Count the saved matrices that are alive, without the weights themselves."""
    tensors = [reference() for reference in saved]
    places = {tensor.data_ptr() for tensor in tensors if tensor is not None}
    return len(places - {w.data_ptr() for w in weights})


# %%
# Eight layers, and a batch that runs through. :meth:`torch.Tensor.requires_grad_` switches the request of a leaf off: that layer is
# *frozen*. What is held at the end of the forward pass?

generator = torch.manual_seed(0)
batch = torch.randn(64, 64, generator=generator)
weights = [torch.randn(64, 64, generator=generator) / 8 for _ in range(8)]


def run(weights):
    """Return the loss of eight layers."""
    h = batch
    for w in weights:
        h = torch.tanh(h @ w)
    return h.square().mean()


held = {}
choices = {"none": [], "first four": range(4), "last four": range(4, 8)}
for name, frozen in choices.items():
    for i, w in enumerate(weights):
        w.requires_grad_(i not in frozen)
    with watching:
        loss = run(weights)
    held[name] = matrices(weights)
    print(f"frozen {name:<11} {held[name]} matrices")
assert held["first four"] < held["none"] == held["last four"]

# %%
# Freezing the *last* layers saves nothing here: the gradient must still pass through them to reach the first, and the way back through
# ``tanh`` needs its result. Frozen is not detached.
#
# And what if somebody holds on to the graphs? To report a mean loss you add the losses up, and each brings its graph along.


def add_up(to_add):
    """Add up twenty losses and return how many matrices are held after each."""
    total, held = 0, []
    for _ in range(20):
        with watching:
            loss = run(weights)
        total = total + to_add(loss)
        held.append(matrices(weights))
    return held


del loss
tensors = add_up(lambda loss: loss)
numbers = add_up(lambda loss: loss.item())
print("total += loss:       ", tensors[:4], "...", tensors[-1])
print("total += loss.item():", numbers[:4], "...", numbers[-1])
assert tensors[-1] > 10 * numbers[-1]

# %%
# The first line climbs until the memory is full: every loss in the sum keeps its whole graph alive. With a plain number in the sum, one
# graph at a time exists.
#
# Where did my gradient go?
# -------------------------
#
# Some ways out of the graph refuse, as ``y.numpy()`` does. One warns, and most do neither.

import warnings

y = torch.tensor([0.2, 1.7], requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    exits = {"torch.tensor(y)": torch.tensor(y)}
print("warnings", len(caught))

exits |= {"y > 0": (y > 0).float(), "argmax": y.argmax(), "round": y.round()}
for name, result in exits.items():
    print(f"{name:<16} requires_grad {result.requires_grad}")
exits["round"].sum().backward()
assert y.grad.tolist() == [0, 0]

# %%
# The last one is special: it stays in the graph, and its gradient is zero everywhere. If the whole loss is cut off, ``backward``
# complains. If only a part is, it does not: training runs, the loss falls, and one parameter never moves.

from pytorch_course.autograd import graph

w = torch.tensor(2.0, requires_grad=True)
b = torch.tensor(1.0, requires_grad=True)
intact = (w * 3 + b - 10) ** 2
cut = (torch.tensor((w * 3).item()) + b - 10) ** 2
cut.backward()
print(f"loss {intact.item()} and {cut.item()}, w.grad {w.grad}, b.grad {b.grad}")
assert intact == cut and w.grad is None and b.grad == -6

# %%

# fold: the intact graph beside the cut one
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.8), width_ratios=[3, 2])
for ax, loss, name in zip(axes, (intact, cut), ("intact", "cut")):
    graph(loss, names={"w": w, "b": b}).plot(ax)
    ax.set_title(name)

# %%
# .. caption:: Same loss, same gradient for ``b``. In the cut graph ``w`` does not occur.
#    :alt: Two drawings. The intact graph runs from PowBackward0 through SubBackward0 to AddBackward0, which leads to the leaf b and through
#       MulBackward0 to the leaf w. In the cut graph AddBackward0 leads to the leaf b only.
#
# So after the first ``backward`` of a new model, list the parameters whose gradient is None: one line finds
# every parameter that the loss does not reach. A gradient of zeros, as after ``round``, or a term that was cut off, it does not show.
#
# Does old code still run?
# ------------------------
#
# Until 2018 a tensor could not ask for gradients. You wrapped it in a ``Variable``, which had ``data``, ``grad`` and ``creator``. PyTorch
# 0.4 merged the two. Some old lines run and mean the same:

from torch.autograd import Variable

old = Variable(torch.ones(3, 4), requires_grad=True)
new = torch.ones(3, 4, requires_grad=True)  # write this
print(type(old).__name__, old.grad, old.grad_fn, (old + 2).grad_fn.name())
assert type(old) is type(new) is torch.Tensor and isinstance(torch.ones(1), Variable)
assert not hasattr(old + 2, "creator")  # grad_fn is its name today

# %%
# ``creator`` is gone, so such code stops with an error. Worse is code that runs and means something else. A ``volatile`` input once
# switched recording off for all that was computed from it; it was the ``no_grad`` of its time.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    images = Variable(torch.ones(2), volatile=True)
print(caught[0].category.__name__, "-", caught[0].message)

result = images * torch.ones(2, requires_grad=True)
print("recorded by", result.grad_fn.name())
assert "no effect" in str(caught[0].message) and result.requires_grad

# %%
# An old evaluation script therefore runs, prints the right numbers, and holds every graph as above. And some code does not run at all:
# ``torch.legacy``, layers and optimisers of the older Lua version, left with 1.0, and Caffe2 in 2024. Since 2.6 :func:`torch.load`
# refuses to run code from a file, so a file with a whole model in it does not open. Save the numbers, not the object.

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
assert find_spec("torch.legacy") is None and find_spec("caffe2") is None

# %%
# Take this with you
# ------------------
#
# ``item`` for a number to keep, ``detach().clone()`` for a tensor to change, ``no_grad`` around steps and evaluation. After the first
# ``backward``, look for gradients that are None.

model = torch.nn.Linear(3, 1)
loss = model(torch.ones(4, 3)).square().mean()
loss.backward()
total = loss.item()
shown = model.weight.detach().clone()
shown *= 100
missing = [name for name, p in model.named_parameters() if p.grad is None]


@torch.no_grad()
def evaluate(inputs):
    return model(inputs)


# %%
# Change something
# ----------------
#
# * In ``in_percent``, write ``percent = percent * 100`` instead of ``percent *= 100``. Does the look still ruin the training?
# * In the cell on frozen layers, freeze ``range(2, 4)``, and then ``range(2)``. Which of the two saves memory?
# * In the second call of ``add_up``, write ``loss.detach()`` instead of ``loss.item()``. Does the second line climb now?
#
# .. dropdown:: What happens
#
#    * No: both curves are one. ``percent * 100`` is a new tensor, and ``chance`` stays as it was. The assert objects.
#    * Only ``range(2)``. Nothing before the third layer needs a gradient then, so two matrices fewer are saved. In the middle, the
#      gradient must still pass: nine matrices, and the assert objects.
#    * No, it stays level. A detached loss has no graph behind it; it is a tensor where ``item`` gives a number.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict which writes fail
#
#    ``a`` is the result of ``tanh``, ``cos``, ``sqrt`` or ``mul`` by 3, of a tensor that requires a gradient. Then ``a += 1``, then
#    ``backward``. Which of the four raise an error? Think of the derivatives: which are written with the result?

### BEGIN SOLUTION
guess = [True, False, True, False]
### END SOLUTION


def fails(f):
    a = f(torch.ones(2, requires_grad=True))
    a += 1
    try:
        a.sum().backward()
    except RuntimeError:
        return True
    return False


def times_three(w):
    return w * 3


expect(guess, [fails(f) for f in (torch.tanh, torch.cos, torch.sqrt, times_three)])

# %%
# .. exercise:: Pull only the pupil
#
#    A pupil's output shall move towards a teacher's, and the teacher shall not move towards the pupil. Write ``pull(pupil,
#    teacher)``: the sum of the squared differences, whose gradient reaches only the pupil.


def pull(pupil, teacher):
    ### BEGIN SOLUTION
    return (pupil - teacher.detach()).square().sum()
    ### END SOLUTION


def both_gradients():
    pupil = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    teacher = torch.tensor([0.5, 4.0, 3.0], requires_grad=True)
    loss = pull(pupil, teacher * 2)
    loss.backward()
    return loss.item(), pupil.grad, teacher.grad


expect(both_gradients, (45.0, torch.tensor([0.0, -12.0, -6.0]), None))

# %%
# .. exercise:: Find the cut
#
#    Write ``unreached(loss, parameters)``: the names of those parameters that a loss cannot reach, in order. ``parameters`` is a dict
#    of names and tensors. Leave no ``grad`` behind: :func:`torch.autograd.grad` with ``allow_unused=True`` returns None where there
#    is no way.


def unreached(loss, parameters):
    ### BEGIN SOLUTION
    found = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    return [name for name, gradient in zip(parameters, found) if gradient is None]
    ### END SOLUTION


p = {name: torch.tensor(2.0, requires_grad=True) for name in ("a", "b", "c", "d")}
half = p["a"] * p["b"].detach() + p["c"].round() + p["d"].item()


def names_and_leftover():
    names = unreached(half, p)
    return names, p["a"].grad


expect(names_and_leftover, (["b", "d"], None))
