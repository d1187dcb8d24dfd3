r"""
A sigmoid by hand
=================

Write a function and its derivative yourself, test them against autograd, and find the inputs at which a correct formula gives no gradient.

.. lesson::
   :needs: optimization/01_autograd_graph tensors/04_tensor_maths
   :data: none
"""

# %%
# Right value, no gradient?
# -------------------------
#
# The sigmoid squeezes any number into the range from 0 to 1. Its formula fits on one line. Compare it with PyTorch's at three numbers,
# value and gradient.

import torch


def sigmoid(x):
    """The sigmoid as textbooks write it."""
    return 1 / (1 + torch.exp(-x))


x = torch.tensor([-100.0, 0.0, 2.0], requires_grad=True)
slopes = {}
for name, f in {"by hand": sigmoid, "library": torch.sigmoid}.items():
    slopes[name] = torch.autograd.grad(f(x).sum(), x)[0]
    values, gradients = ([round(number, 4) for number in t.tolist()] for t in (f(x), slopes[name]))
    print(f"{name}  values {values}  gradients {gradients}")

torch.testing.assert_close(sigmoid(x), torch.sigmoid(x))
assert slopes["by hand"].isnan().tolist() == [True, False, False] and slopes["library"].isfinite().all()

# %%
# All values agree. One gradient is :term:`NaN`, and one NaN in a training step ruins every parameter that it reaches. The formula is
# correct and autograd has no bug. To see what happened, we need the derivative on paper.
#
# What is the derivative?
# -----------------------
#
# The chain rule gives the first form. The second follows from :math:`1 - \sigma(x) = e^{-x} / (1 + e^{-x})`:
#
# .. math:: \sigma(x) = \frac{1}{1 + e^{-x}}, \qquad \sigma'(x) = \frac{e^{-x}}{(1 + e^{-x})^2} = \sigma(x)\,\bigl(1 - \sigma(x)\bigr)

from pytorch_course.autograd import compare_gradients


def slope(x):
    """The derivative of the sigmoid, from its value alone."""
    y = torch.sigmoid(x)
    return y * (1 - y)


check = compare_gradients(sigmoid, slope, torch.tensor([-2.0, 0.0, 3.0]))
print(check)
assert check.ok

# %%
# By hand, by autograd and by nudging: one number. Now the whole curve.

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
x = torch.linspace(-7, 7, 281)
fig, ax = plt.subplots()
for curve, name in ((torch.sigmoid(x), "sigmoid"), (slope(x), "derivative")):
    (line,) = ax.plot(x, curve)
    ax.annotate(name, (7, curve[-1]), xytext=(6, 0), textcoords="offset points", va="center", color=line.get_color())
ax.axhline(0.25, color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="x", yticks=[0, 0.25, 0.5, 1])

assert slope(x).argmax() == 140 and x[140].abs() < 1e-6  # the steepest place is x = 0
assert (slope(x).max() - 0.25).abs() < 1e-6

# %%
# .. caption:: The derivative is a hill that is never higher than 1/4, and beyond 5 on either side there is next to nothing left of it.
#    :alt: An S-shaped curve rises from 0 to 1. Below it a bell-shaped curve, the derivative, touches a dotted line at one quarter above x
#       equal to 0 and is close to 0 left of minus 5 and right of 5.
#
# Which factor breaks?
# --------------------
#
# Autograd does not know the second form. It multiplies the factors of the operations that you wrote, one by one. At -100:

x = torch.tensor(-100.0)
inner, outer = torch.exp(-x), 1 / (1 + torch.exp(-x)) ** 2
print("exp(-x) =", inner.item(), "  1 / (1 + exp(-x))^2 =", outer.item(), "  product =", (inner * outer).item())
assert inner.isinf() and outer == 0 and (inner * outer).isnan()
assert slope(x) < 1e-40  # the second form has no infinity to meet

# %%
# ``exp(100)`` exceeds the largest ``float32``, so it becomes infinite. One over infinity is a perfectly good 0, which is why the *value*
# survives. The *gradient* has to multiply that infinity by that zero, and nobody can say what this gives. Other spellings break elsewhere.

forms = {
    "1 / (1 + exp(-x))": sigmoid,
    "exp(x) / (1 + exp(x))": lambda x: torch.exp(x) / (1 + torch.exp(x)),
    "torch.sigmoid(x)": torch.sigmoid,
}
print("value, gradient at:           -100                0              100")
for name, f in forms.items():
    x = torch.tensor([-100.0, 0.0, 100.0], requires_grad=True)
    y = f(x)
    y.sum().backward()
    print(f"{name:<22}", "  ".join(f"{v:6.4f}, {g:6.4f} " for v, g in zip(y.tolist(), x.grad.tolist())))
    assert x.grad.isnan().any() == (f is not torch.sigmoid)

# %%
# Two correct derivatives can also agree to every digit that you see and still differ. Four decimals look identical here:

x = torch.tensor(20.0)
first, second, third = torch.exp(-x) / (1 + torch.exp(-x)) ** 2, slope(x), torch.sigmoid(x) * torch.sigmoid(-x)
for value in (first, second, third):
    print(f"{value:.4f} is {value:.1e}")
assert second == 0  # 1 - y: in float32, y is exactly 1 already
torch.testing.assert_close(first, third, rtol=1e-5, atol=0)

# %%
# So each form has its own weak side, and "the same by eye" says little. Compare with :func:`torch.testing.assert_close`, and choose
# ``rtol`` and ``atol`` for the sizes that matter to you: its default ``atol`` would have let this zero pass. A comparison with ``==`` is
# no way out, because two correct formulas may round their last bit differently.
#
# What does backward want from me?
# --------------------------------
#
# For a single number, nothing. A result with several elements needs the argument ``gradient``, and most code passes ones.

x = torch.tensor([-2.0, 0.0, 1.0, 3.0], requires_grad=True)
y = sigmoid(x)
try:
    y.backward()
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("four numbers had one gradient")

y.backward(gradient=torch.ones(y.size()))
torch.testing.assert_close(x.grad, slope(x.detach()))
torch.testing.assert_close(x.grad, torch.autograd.grad(sigmoid(x).sum(), x)[0])  # ones: the gradient of the sum

# %%
# The argument is the vector :math:`\mathbf{v}` of a :term:`vector-Jacobian product` :math:`\mathbf{v}^\top\mathbf{J}` with :math:`J_{ij}
# = \partial y_i / \partial x_j`. A vector with a single 1 picks one row, so as many passes as there are outputs build the whole matrix.
# Do it for the sigmoid and for softmax, which divides each :math:`e^{x_i}` by their sum.


def jacobian(f, x):
    """Build the matrix of all partial derivatives, one row per backward pass."""
    x = x.detach().requires_grad_()
    y = f(x)
    return torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in torch.eye(len(y))])


x = torch.tensor([-2.0, 0.0, 1.0, 3.0])
matrices = {"sigmoid": jacobian(torch.sigmoid, x), "softmax": jacobian(lambda x: x.softmax(dim=0), x)}
p = x.softmax(dim=0)
torch.testing.assert_close(matrices["sigmoid"], slope(x).diag())
torch.testing.assert_close(matrices["softmax"], p.diag() - p.outer(p))  # the two formulas by hand

# %%
# Below each matrix stands what ones would give: the sums of its columns.

fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.9))
for ax, (name, matrix) in zip(axes, matrices.items()):
    rows = torch.cat([matrix, torch.full((1, 4), torch.nan), matrix.sum(dim=0, keepdim=True)])
    ax.imshow(rows.numpy(), vmin=-0.12, vmax=0.25)
    for i, j in [(i, j) for i in (0, 1, 2, 3, 5) for j in range(4)]:
        text = f"{rows[i, j]:.2f}".replace("-0.00", "0.00")
        ax.text(j, i, text, ha="center", va="center", size=9, color="white" if rows[i, j] < 0.09 else "black")
    ax.set(title=name, xticks=range(4), xlabel="input", yticks=[0, 1, 2, 3, 5], yticklabels=[0, 1, 2, 3, "sum"])
    ax.spines[:].set_visible(False)
axes[0].set_ylabel("output")

# %%
# .. caption:: Each sigmoid looks at its own input only, so the column sums are the derivatives. In softmax every output depends on every
#       input, and the sums cancel.
#    :alt: Two heat maps of four by four numbers. The sigmoid's has 0.10, 0.25, 0.20 and 0.05 on its diagonal, zeros elsewhere, and the same
#       four numbers as column sums. The softmax's has numbers everywhere, and all of its column sums are 0.00.
#
# That zero is worth a pause. A softmax always sums to 1, so the sum has no gradient: ``softmax(x).backward(torch.ones(4))`` trains nothing
# and reports nothing. Ones mean "the derivative" only if no output looks at another's input.

v = torch.tensor([1.0, 0.0, 0.0, -2.0])
for name, f in {"sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(dim=0)}.items():
    leaf = x.clone().requires_grad_()
    f(leaf).backward(gradient=v)
    torch.testing.assert_close(leaf.grad, v @ matrices[name])  # any v, without ever building the matrix
assert matrices["softmax"].sum(dim=0).abs().max() < 1e-6

# %%
# Can I teach autograd my derivative?
# -----------------------------------
#
# Yes. A :class:`torch.autograd.Function` has a ``forward`` that computes, a ``setup_context`` that saves what the derivative needs, and a
# ``backward`` that turns the gradient of the output into that of the input. This one uses the second form.


class Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 1 / (1 + torch.exp(-x))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad_output):
        (y,) = ctx.saved_tensors
        return grad_output * y * (1 - y)


x = torch.tensor([-100.0, 0.0, 2.0], requires_grad=True)
Sigmoid.apply(x).sum().backward()
torch.testing.assert_close(x.grad, slopes["library"])  # the NaN of the first cell is gone

# %%
# Same forward, another backward, no NaN. Do you trust it? Older code passes ``ctx`` to ``forward`` and has no ``setup_context``. Here is
# such a one, with a mistake that the usual test does not see.


class Careless(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = 1 / (1 + torch.exp(-x))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad_output):
        (y,) = ctx.saved_tensors
        return y * (1 - y)  # the chain rule's factor is missing


# %%
# First the test that comes to mind: sum, go back, compare. Then the one that PyTorch brings along.

x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
for function in (Sigmoid, Careless):
    by_sum = torch.autograd.grad(function.apply(x).sum(), x)[0]
    passed = torch.autograd.gradcheck(function.apply, x, raise_exception=False)
    print(f"{function.__name__:<8}  right for a sum: {torch.allclose(by_sum, slope(x))}  gradcheck: {passed}")
    assert torch.allclose(by_sum, slope(x)) and passed == (function is Sigmoid)

# %%
# In a sum, each output's gradient is 1, and a missing factor of 1 is invisible. :func:`torch.autograd.gradcheck` sends in one row after the
# other, as we did for the matrices, and compares with finite differences. It needs ``float64``:

import warnings

single = torch.linspace(-3, 3, 7, requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    passed = torch.autograd.gradcheck(torch.sigmoid, single, raise_exception=False)
print("float32:", passed, "-", str(caught[0].message).split(".")[0])
assert not passed and "double precision" in str(caught[0].message)

# %%
# PyTorch's own sigmoid fails its own test. The reason is the step of one millionth. Between 1/2 and 1, ``float32`` numbers lie
# :math:`2^{-24}` apart, so the difference of two of them, divided by the step, has room for few answers.

x, step = torch.linspace(-4, 4, 161), 1e-6
numeric = (torch.sigmoid(x + step) - torch.sigmoid(x - step)) / (2 * step)
fig, ax = plt.subplots()
ax.plot(x, numeric, "o", markersize=3, color="#E69F00")
ax.plot(x, slope(x))
ax.text(2, 0.17, "finite differences", color="#9A6A00")
ax.text(-2, 0.17, "derivative", color="#0072B2", ha="right")
ax.set(xlabel="x", ylabel="slope")

right = x > 0.5
assert (numeric - slope(x)).abs().max() > 0.01
assert right.sum() == 70 and numeric[right].unique().numel() < 20  # seventy places, a few heights

# %%
# .. caption:: Where the sigmoid is near 1, a tiny step in ``float32`` leaves only a few possible slopes. No derivative can be judged by
#       them.
#    :alt: A smooth bell-shaped curve. On the left, orange dots follow it closely. Right of zero they lie on a few horizontal rows,
#       and many miss the curve by several hundredths.
#
# Does where protect me?
# ----------------------
#
# The natural mend is to choose the safe formula by the sign of :math:`x`. First the smallest case, a root that must not see negative
# numbers:

x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
y = torch.where(x > 0, x.sqrt(), x)
y.sum().backward()
print("values", y.tolist(), " gradients", x.grad.tolist())
assert y.isfinite().all() and x.grad.isnan().tolist() == [True, True, False]

# %%
# :func:`torch.where` computes *both* branches and picks. On the way back it sends 0 into the branch that lost, and that branch multiplies:
# 0 times the slope of the root at 0, which is infinite, is NaN again. So protect the *input*, with a second ``where`` inside.

x.grad = None
torch.where(x > 0, torch.where(x > 0, x, 1.0).sqrt(), x).sum().backward()
print("gradients", x.grad.tolist())
assert x.grad.tolist() == [1, 1, 0.25]


def safe_sigmoid(x):
    """A sigmoid whose exponents are never positive, in either branch."""
    right = 1 / (1 + torch.exp(-torch.where(x >= 0, x, 0.0)))
    power = torch.exp(torch.where(x >= 0, 0.0, x))
    return torch.where(x >= 0, right, power / (1 + power))


x = torch.tensor([-100.0, -20.0, 0.0, 20.0, 100.0], requires_grad=True)
gradient = torch.autograd.grad(safe_sigmoid(x).sum(), x)[0]
torch.testing.assert_close(safe_sigmoid(x), torch.sigmoid(x))
torch.testing.assert_close(gradient, torch.sigmoid(x.detach()) * torch.sigmoid(-x.detach()))

# %%
# What about its logarithm?
# -------------------------
#
# A loss needs :math:`\log \sigma(x)`, whose slope is :math:`1 - \sigma(x)`: close to 1 for very negative :math:`x`. Composing two functions
# that each work is not enough.

from torch.nn import functional as F

logarithms = {"log(1 / (1 + exp(-x)))": lambda x: sigmoid(x).log(), "logsigmoid(x)": F.logsigmoid}
for name, f in logarithms.items():
    x = torch.tensor([-200.0, -80.0, -2.0], requires_grad=True)
    y = f(x)
    y.sum().backward()
    print(f"{name:<23} values", [round(v, 3) for v in y.tolist()], " gradients", [round(g, 3) for g in x.grad.tolist()])
    assert x.grad.isfinite().all() == (f is F.logsigmoid)

assert y.tolist()[:2] == [-200, -80] and x.grad.tolist()[:2] == [1, 1]
torch.testing.assert_close(F.binary_cross_entropy_with_logits(x, torch.ones(3)), -y.mean())

# %%
# The middle number is the nastier one: right value, gradient 0 instead of 1, no NaN to warn you. That is why losses take
# :term:`logits` and do sigmoid and logarithm in one go, as :class:`torch.nn.BCEWithLogitsLoss` does in the last line.
#
# What do ten layers do?
# ----------------------
#
# No trick of arithmetic mends the last trouble, because it is in the function. Each sigmoid multiplies the gradient by at most 1/4:
#
# .. math:: \frac{\partial}{\partial x}\,\underbrace{\sigma(\sigma(\cdots\sigma}_{k}(x))) \le \left(\tfrac{1}{4}\right)^k

fig, ax = plt.subplots()
depth = torch.arange(1, 11)
for name, f in {"tanh": torch.tanh, "sigmoid": torch.sigmoid}.items():
    x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    h, steepest = x, []
    for _ in depth:
        h = f(h)
        steepest.append(torch.autograd.grad(h.sum(), x, retain_graph=True)[0].max().item())
    (line,) = ax.semilogy(depth, steepest, "o-")
    ax.annotate(name, (10, steepest[-1]), xytext=(9, -4), textcoords="offset points", color=line.get_color())
ax.semilogy(depth, 0.25**depth, ":", color="0.5")
ax.annotate("bound", (6, 0.25**6), xytext=(6, 6), textcoords="offset points", color="0.4")
ax.set(xlabel="layers", ylabel="largest slope")
assert abs(steepest[0] - 0.25) < 1e-9 and all(s < 0.25**k for s, k in zip(steepest[1:], range(2, 11)))

# %%
# .. caption:: The best place in front of a stack of sigmoids: every layer costs a factor of four or more. ``tanh``, with slope 1 at 0,
#    loses nothing there.
#    :alt: On a logarithmic axis a horizontal line for tanh stays at one. The line for the sigmoid falls steadily, below a dotted bound, to
#       less than one millionth at ten layers.
#
# This is the **vanishing gradient**. Weights of 4 and more could make up for it, near one point only. Most deep networks avoid
# the sigmoid between layers and keep it for the output, where a probability is wanted.
#
# Change something
# ----------------
#
# * In ``Careless``, return ``grad_output * y`` instead. Which of the two columns changes to ``False`` now?
# * In the figure of finite differences, set ``step`` to ``1e-2``. Where do the dots go, and do the asserts still hold?
# * In the last figure, stack ``f(4 * h - 2)``. Predict the largest slope after ten sigmoids: 4 times 1/4 is 1. The assert below it will
#   object.
#
# Exercises
# ---------
#
# 1. Softplus is :math:`\log(1 + e^x)`. Show on paper that its derivative is the sigmoid, confirm it with ``compare_gradients``, and find an
#    input at which the formula as written gives infinity.
# 2. What does ``backward(torch.ones(4))`` return for :math:`y_i = x_i / \sum_j x_j`? Say it before you run it.
# 3. Write the sigmoid's two branches with :math:`e^{-|x|}`, so that no inner ``where`` is needed. At which single input is the gradient
#    wrong?
#
# .. dropdown:: Answers
#
#    1. :math:`e^x / (1 + e^x) = \sigma(x)`. At 100, ``torch.log(1 + torch.exp(x))`` is infinite; ``F.softplus`` gives 100.
#    2. Zeros, up to rounding: the outputs sum to 1 whatever the inputs are.
#    3. At 0: PyTorch takes 0 for the slope of ``abs`` there, so the gradient is 0 instead of 1/4.
