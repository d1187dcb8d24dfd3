r"""
The autograd graph
==================

Draw the graph that PyTorch builds behind a computation, follow a gradient back through it, and say where each ``.grad`` comes from.

.. lesson::
   :needs: tensors/04_tensor_maths tensors/07_views_and_storage
   :data: none
"""

# %%
# Who computes the derivative?
# ----------------------------
#
# Twelve ones, three operations, one number. You never write a derivative, and at the end there is one.

import matplotlib.pyplot as plt
import torch
from pytorch_course.autograd import compare_gradients, graph

plt.style.use("pytorch_course.book")

x = torch.ones(3, 4, requires_grad=True)
y = x + 2
z = y.pow(3).mean()
ax = graph(z, names={"x": x, "y": y, "z": z}).plot()

# %%
# .. caption:: What PyTorch remembered while it computed ``z``: one node per operation, and at the end the tensor that wants a gradient.
#    :alt: A chain of four boxes joined by arrows, from MeanBackward0, the result z, through PowBackward0 and AddBackward0, the result y,
#       to the leaf x of shape 3 by 4.
#
# ``requires_grad=True`` is a request: *I shall want the derivative with respect to this one.* From then on every operation that touches
# ``x`` leaves a node in a **graph**. The node is the result's ``grad_fn``; it knows how to turn the gradient of its output into the
# gradients of its inputs. You can walk the graph yourself.

node, names = z.grad_fn, []
while node is not None:
    names.append(node.name())
    node = node.next_functions[0][0] if node.next_functions else None
print(z.item(), " <- ".join(names))

assert z.item() == 27
assert [name.split("::")[-1] for name in names] == ["MeanBackward0", "PowBackward0", "AddBackward0", "AccumulateGrad"]
assert y.grad_fn.next_functions[0][0].variable is x  # the end of the walk is x itself

# %%
# What does backward do?
# ----------------------
#
# It walks the same way and multiplies. By the chain rule, with :math:`y_{ij} = x_{ij} + 2` and twelve elements,
#
# .. math:: \frac{\partial z}{\partial x_{ij}} = \frac{1}{12} \cdot 3\, y_{ij}^2 \cdot 1 = \frac{3 \cdot 3^2}{12} = 2.25
#
# One factor per node: the mean gives 1/12, the power :math:`3y^2`, the sum 1.

z.backward()
print(x.grad)
assert x.grad.eq(3 * 3**2 / 12).all()

check = compare_gradients(
    lambda x: (x + 2).pow(3).mean(),
    lambda x: 3 * (x + 2) ** 2 / x.numel(),
    torch.rand(2, 2, generator=torch.manual_seed(0)),
)
print(check)
assert check.ok

# %%
# The table puts three derivatives side by side: yours, that of autograd, and the one that needs no theory, which nudges each number and
# looks at the result. Use it whenever you doubt a formula.
#
# Why is this gradient None?
# --------------------------
#
# Print everything, and it seems that only one of the three tensors took part.

import warnings

for name, tensor in {"x": x, "y": y, "z": z}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gradient = tensor.grad
    shown = None if gradient is None else "a tensor"
    print(
        f"{name}: is_leaf {tensor.is_leaf!s:<5}  grad_fn {tensor.grad_fn is not None!s:<5}  grad {shown}  warnings {len(caught)}"
    )

assert (x.is_leaf, y.is_leaf, z.is_leaf) == (True, False, False)
assert x.grad_fn is None and x.grad is not None  # no grad_fn, although plenty was computed

# %%
# Two things look like failures and are not. ``x`` has no ``grad_fn`` because nothing *made* it: it is a **leaf**, an end of the graph.
# And ``y.grad`` is ``None`` because gradients are kept for leaves only; those of intermediate results are used and thrown away, and
# asking for them warns. :meth:`torch.Tensor.retain_grad` keeps one. It is a switch, so it returns ``None``, and it must be thrown
# *before* the walk.

x = torch.ones(3, 4, requires_grad=True)
y = x + 2
z = y.pow(3).mean()
assert y.retain_grad() is None and z.retain_grad() is None  # no answer, as always with a switch
z.backward()
print("y.grad", y.grad[0, 0].item(), "  z.grad", z.grad.item())
assert y.grad[0, 0] == 2.25 and z.grad == 1

late = x * 3
late.sum().backward()
late.retain_grad()  # too late: that gradient is gone
with warnings.catch_warnings(record=True):
    warnings.simplefilter("always")
    assert late.grad is None

# %%
# What is a leaf, then? Not simply "a tensor that I made". A cast is an operation, so what it returns is none; and results that nobody
# tracks are all leaves.

cast = torch.ones(3, requires_grad=True).double()
straight = torch.ones(3, dtype=torch.float64, requires_grad=True)
untracked = torch.ones(2) * 2
print("cast", cast.is_leaf, "  made as float64", straight.is_leaf, "  untracked result", untracked.is_leaf)
assert not cast.is_leaf and straight.is_leaf and untracked.is_leaf

cast.sum().backward()
with warnings.catch_warnings(record=True):
    warnings.simplefilter("always")
    assert cast.grad is None  # an optimiser holding `cast` would never move it

# %%
# Why does the gradient grow?
# ---------------------------
#
# Run the same three lines again and again. Each run builds a new graph, and the derivative is 2.25 every time.

x = torch.ones(3, 4, requires_grad=True)
seen = []
for _ in range(3):
    (x + 2).pow(3).mean().backward()
    seen.append(x.grad[0, 0].item())
print(seen)
assert seen == [2.25, 4.5, 6.75]

# %%
# ``backward`` **adds** to ``.grad``; it never replaces. That is what lets one leaf be used in two places, and it is why every training
# loop clears the gradients. Forget it, and you walk with the sum of all steps so far. Watch it happen: the same descent towards the
# lowest point of :math:`(w-3)^2`, with and without clearing.

paths = {}
for clear in (True, False):
    w = torch.tensor(0.0, requires_grad=True)
    paths[clear] = []
    for _ in range(30):
        paths[clear].append(w.item())
        if clear:
            w.grad = None
        ((w - 3) ** 2).backward()
        with torch.no_grad():
            w -= 0.1 * w.grad

assert abs(paths[True][-1] - 3) < 0.01
assert max(abs(value - 3) for value in paths[False][-10:]) > 1

# %%
# One of the two arrives.

fig, ax = plt.subplots()
for clear, path in paths.items():
    ax.plot(path, label="cleared" if clear else "never cleared")
ax.axhline(3, color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="step", ylabel="w")
ax.legend()

# %%
# .. caption:: With the gradient cleared before each step, ``w`` settles at 3. Without it, ``w`` swings past 3 again and again.
#    :alt: One curve rises smoothly from 0 to the dotted line at 3 and stays there. The other swings between about 0 and 6 around that line.
#
# Can I go back twice?
# --------------------
#
# Everybody learns that a second ``backward`` fails. Try it on two graphs.

x = torch.ones(2, requires_grad=True)
total = (x + 2).sum()
total.backward()
total.backward()  # no complaint
assert x.grad.tolist() == [2, 2]

squares = (x**2).sum()
squares.backward()
try:
    squares.backward()
except RuntimeError as error:
    print("RuntimeError:", str(error).split(" (")[0])
else:
    raise AssertionError("the second walk went through")

# %%
# The derivative of a sum needs no numbers, so its graph holds none. The derivative of a square needs :math:`x`; the graph **saved** it on
# the way forward, and the first walk gives that memory back. ``retain_graph=True`` keeps it. You rarely want that: in training the answer
# to this message is nearly always to compute the loss again, or to cut off the part of the graph that belongs to the previous step.

x = torch.ones(3, 4, requires_grad=True)
z = (x + 2).pow(3).mean()
for expected in (2.25, 4.5, 6.75):
    z.backward(retain_graph=True)
    assert x.grad[0, 0] == expected

state, x = torch.zeros(1), torch.ones(1, requires_grad=True)
for step in range(3):
    state = (state.detach() + x) ** 2  # without detach, the second backward would walk into the first step's graph
    state.sum().backward()
print("state", state.item(), " gradient", x.grad.item())
assert state.item() == 25

# %%
# What if the result is not one number?
# -------------------------------------
#
# Then "the" gradient does not exist, and :meth:`torch.Tensor.backward` says so. Give it a vector :math:`v` as long as the result, and it
# returns :math:`v^\top J`, the **vector-Jacobian product**: the derivative of the weighted sum :math:`\sum_i v_i f_i`.

x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
try:
    (x**2).backward()
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("a vector had a gradient")

v = torch.tensor([1.0, 10.0, 100.0])
(x**2).backward(gradient=v)
jacobian = torch.autograd.functional.jacobian(lambda x: x**2, x.detach())
torch.testing.assert_close(x.grad, v @ jacobian)

weighted = torch.autograd.grad((v * x**2).sum(), x)[0]
torch.testing.assert_close(x.grad, weighted)

# %%
# Is it the same graph every time?
# --------------------------------
#
# No. The graph is made by running your Python, so ``if`` and ``while`` choose what goes into it. Two inputs, two graphs:


def halve_until_small(x):
    """Halve x until its sum is at most 1."""
    while x.sum() > 1:
        x = x / 2
    return x.sum()


sizes = {}
for start in (1.0, 3.0):
    x = torch.full((2,), start, requires_grad=True)
    result = halve_until_small(x)
    result.backward()
    sizes[start] = (len(graph(result).nodes), x.grad[0].item())
print(sizes)
assert sizes[1.0] == (3, 0.5) and sizes[3.0] == (5, 0.125)

# %%
# And every way out of the graph is silent until it hurts. A detour through Python numbers, through :func:`torch.tensor` or through an index
# of the largest element leaves no node, so the walk stops there. Integers cannot ask for gradients at all.

w = torch.tensor([1.0, 2.0], requires_grad=True)
rebuilt = torch.tensor(w.tolist()) * 2
assert not rebuilt.requires_grad and not (w * 2).detach().requires_grad and not w.argmax().requires_grad
for attempt in (lambda: rebuilt.sum().backward(), lambda: torch.ones(2, dtype=torch.int64, requires_grad=True)):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", error)
    else:
        raise AssertionError("a gradient came from nowhere")

# %%
# Change something
# ----------------
#
# * Let ``x`` be used twice: ``z = (x * y).mean()`` with ``y = x + 2``. Draw it. Which node has two arrows into it, and what is ``x.grad``
#   now?
# * In the descent without clearing, set the rate to 0.01. Does it still swing? Why more slowly?
# * In ``halve_until_small``, replace ``x / 2`` by ``x - x / 2``. The values stay; how many nodes has the graph?
#
# Exercises
# ---------
#
# 1. Compute :math:`\partial z / \partial x` for :math:`z = \sum_{ij} x_{ij}^2 / 12` by hand, and confirm it with ``compare_gradients``.
# 2. Write a ``while`` loop that counts the nodes of a graph along ``next_functions``, for graphs that branch. Compare with
#    ``len(graph(z).nodes)``.
# 3. ``total = total + loss`` over a thousand steps makes memory grow. Which objects are kept alive, and what is the smallest mend?
#
# .. dropdown:: Answers
#
#    1. :math:`x_{ij} / 6`.
#    2. Keep a list of nodes to visit and a set of those seen; a node reached twice counts once.
#    3. Every step's graph, through ``total.grad_fn``. ``total += loss.item()``, or ``loss.detach()``.
