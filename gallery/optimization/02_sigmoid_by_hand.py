r"""
A sigmoid by hand
=================

Write a function and its derivative yourself, test both against autograd, and find the
input at which a correct formula ruins a training.

.. lesson::
   :needs: optimization/01_autograd_graph tensors/04_tensor_maths
   :data: none
   :keywords: sigmod, logistic function, expit, inverse logit, logistic regression,
      softmax, gradcheck, finite differences, numerical gradient, difference quotient,
      custom autograd Function, vector-Jacobian product, gradient is nan, nan loss,
      overflow, log of sigmoid, torch.where nan gradient, vanishing gradient, binary
      cross-entropy, BCEWithLogitsLoss, grad can be implicitly created only for scalar
      outputs
   :thumbnail: 2
"""

# %%
# What are the chances?
# ---------------------
#
# Six students: how many hours each has studied, and who passed. You have a rule that turns hours into a score. A score can be any
# number; a student wants to hear a chance, between 0 and 1.

import torch

hours = torch.tensor([0.5, 1.0, 1.5, 2.5, 3.0, 4.0])
passed = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])


def sigmoid(x):
    """Squeeze any number into the range from 0 to 1."""
    return 1 / (1 + torch.exp(-x))


score = 1.5 * hours - 3
print("score ", score)
print("chance", sigmoid(score))
torch.testing.assert_close(sigmoid(score), torch.sigmoid(score))

# %%

# fold: the students and the curve
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
grid = torch.linspace(0, 4.5, 91)
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(hours, passed, "o", label="student")
ax.plot(grid, sigmoid(1.5 * grid - 3), label="chance")
ax.axhline(0.5, color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="hours", yticks=[0, 0.5, 1])
ax.legend(loc="center right")

# %%
# .. caption:: Two hours give a chance of one half. The curve comes close to 0 and 1 and never gets there.
#    :alt: Six points: at height 0 those with 0.5, 1 and 2.5 hours, at height 1 those with 1.5, 3 and 4 hours. An S-shaped curve rises from
#       the first to the second height and crosses the dotted line at one half above two hours.
#
# The function is called the **sigmoid**. To improve the rule, you need to know how much the chance moves when the score moves: the slope.
#
# How steep is it?
# ----------------
#
# The chain rule gives the first form of the derivative. The second follows from :math:`1 - \sigma(x) = e^{-x} / (1 + e^{-x})`:
#
# .. math:: \sigma(x) = \frac{1}{1 + e^{-x}}, \qquad \sigma'(x) = \frac{e^{-x}}{(1 + e^{-x})^2} = \sigma(x)\,\bigl(1 - \sigma(x)\bigr)
#
# Never trust a derivative on paper before you have nudged. So here are three answers: move the score a little to both sides and divide
# (the **difference quotient**); the formula; and autograd.


def slope(x):
    """The derivative of the sigmoid, from its value alone."""
    y = torch.sigmoid(x)
    return y * (1 - y)


x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
sigmoid(x).sum().backward()

point, h = x.detach(), 1e-5
nudged = (sigmoid(point + h) - sigmoid(point - h)) / (2 * h)
for name, answer in [("nudged", nudged), ("paper", slope(point)), ("autograd", x.grad)]:
    print(f"{name:<9}", "  ".join(f"{number:.6f}" for number in answer))
torch.testing.assert_close(nudged, slope(point))
torch.testing.assert_close(x.grad, slope(point))

# %%
# From now on, leave the nudging to :func:`torch.autograd.gradcheck`: it does it for every input, and raises an error where autograd says
# something else. It wants ``float64``; further down you see why.

torch.autograd.gradcheck(sigmoid, x)

# %%

# fold: the sigmoid and its derivative
wide = torch.linspace(-7, 7, 281)
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(wide, torch.sigmoid(wide), label="sigmoid")
ax.plot(wide, slope(wide), "--", label="derivative")
ax.axhline(0.25, color="0.6", linestyle=":", linewidth=1)
ax.set(xlabel="x", yticks=[0, 0.25, 0.5, 1])
ax.legend()

# %%
# .. caption:: The derivative is a hill that is never higher than 1/4. Beyond 5 on either side next to nothing is left of it.
#    :alt: An S-shaped curve rises from 0 to 1. Below it a dashed bell-shaped curve, the derivative, touches a dotted line at one quarter
#       above x equal to 0 and is close to 0 left of minus 5 and right of 5.
#
# Why are my weights NaN?
# -----------------------
#
# A seventh student never filled in the form. The table says -999, a common mark for a missing entry. What you expect: the score is
# very low, the chance is 0, no harm done. Compare the loss and its gradient, with the formula above and with :func:`torch.sigmoid`.

all_hours = torch.tensor([0.5, 1.0, 1.5, 2.5, 3.0, 4.0, -999.0])
all_passed = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0])

gradients = []
for name, f in [("by hand", sigmoid), ("library", torch.sigmoid)]:
    w = torch.tensor(1.5, requires_grad=True)
    loss = ((f(w * all_hours - 3) - all_passed) ** 2).mean()
    loss.backward()
    gradients.append(w.grad)
    print(f"{name}: loss {loss:.6f}, gradient {w.grad:.6f}")
assert gradients[0].isnan() and gradients[1].isfinite()

# %%
# The loss is right to the last digit and the gradient is :term:`NaN`. One such step, and the weight is NaN for ever. The formula is
# correct and autograd has no bug. It multiplies the factors of the operations that *you* wrote, one by one:

x = torch.tensor(-1500.0)
inner = torch.exp(-x)
outer = 1 / (1 + inner) ** 2
print(f"exp(-x) is {inner}, 1 / (1 + exp(-x))² is {outer}, product {inner * outer}")
print(f"second form: {slope(x)}")
assert (inner * outer).isnan() and slope(x) == 0

# %%
# :math:`e^{1500}` exceeds the largest ``float32`` and becomes infinite. One over infinity is a perfectly good 0, which is why the *value*
# survives. The *gradient* multiplies that infinity by that zero. Another spelling of the same function breaks elsewhere:


def upside_down(x):
    """The sigmoid, with numerator and denominator multiplied by exp(x)."""
    return torch.exp(x) / (1 + torch.exp(x))


for f in (sigmoid, upside_down, torch.sigmoid):
    x = torch.tensor([-100.0, 0.0, 100.0], requires_grad=True)
    y = f(x)
    y.sum().backward()
    pairs = [f"{v:.2f}, {g:.2f}" for v, g in zip(y.tolist(), x.grad.tolist())]
    print(f"{f.__name__:<12} value, gradient:  {'   '.join(pairs)}")
assert x.grad.isfinite().all()

# %%
# And two forms can look alike and differ. At 20, four decimals show no difference between these:

x = torch.tensor(20.0)
mirrored = torch.sigmoid(x) * torch.sigmoid(-x)
print(f"{slope(x):.4f} and {mirrored:.4f}, or rather {slope(x):.1e} and {mirrored:.1e}")
torch.testing.assert_close(slope(x), mirrored)  # no objection
assert slope(x) == 0 and mirrored > 2e-9

# %%
# The first has lost everything: in ``float32`` :math:`\sigma(20)` is exactly 1. "The same by eye" says little, and ``==`` asks for
# too much, because two correct formulas may round differently. Use :func:`torch.testing.assert_close`, and choose ``rtol`` and
# ``atol`` for the sizes that matter to you: its default ``atol`` let this zero pass.
#
# What does backward want from me?
# --------------------------------
#
# A single number needs no argument. A result of several elements needs ``gradient``, one weight per element.

x = torch.tensor([-2.0, 0.0, 1.0, 3.0], requires_grad=True)
y = sigmoid(x)
try:
    y.backward()
except RuntimeError as error:
    print("RuntimeError:", error)

y.backward(gradient=torch.ones(y.size()))
print(x.grad)
torch.testing.assert_close(x.grad, slope(x.detach()))

# %%
# The argument is the vector :math:`\mathbf{v}` of a :term:`vector-Jacobian product` :math:`\mathbf{v}^\top\mathbf{J}`, where
# :math:`J_{ij}
# = \partial y_i / \partial x_j`. A vector with a single 1 picks one row of that matrix. So we can build it, one row per walk, for the
# sigmoid and for softmax, which divides each :math:`e^{x_i}` by their sum:


def softmax(x):
    """Turn scores into chances that sum to 1."""
    return x.softmax(dim=0)


def jacobian(f, x):
    """Build the matrix of all partial derivatives."""
    x = x.detach().requires_grad_()
    y = f(x)
    rows = []
    for v in torch.eye(len(y)):
        (row,) = torch.autograd.grad(y, x, v, retain_graph=True)
        rows.append(row)
    return torch.stack(rows)


of_sigmoid, of_softmax = jacobian(torch.sigmoid, x), jacobian(softmax, x)
p = softmax(x.detach())
torch.testing.assert_close(of_sigmoid, slope(x.detach()).diag())
torch.testing.assert_close(of_softmax, p.diag() - p.outer(p))  # the formulas by hand

# %%

# fold: both matrices, and below them the sums of their columns
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3.9))
for ax, matrix, name in zip(axes, (of_sigmoid, of_softmax), ("sigmoid", "softmax")):
    gap = torch.full((1, 4), torch.nan)
    rows = torch.cat([matrix, gap, matrix.sum(dim=0, keepdim=True)])
    ax.imshow(rows.numpy(), vmin=-0.12, vmax=0.25)
    for i in (0, 1, 2, 3, 5):
        for j in range(4):
            text = f"{rows[i, j]:.2f}".replace("-0.00", "0.00")
            color = "white" if rows[i, j] < 0.09 else "black"
            ax.text(j, i, text, ha="center", va="center", size=9, color=color)
    ax.set(title=name, xticks=range(4), xlabel="input")
    ax.set_yticks([0, 1, 2, 3, 5], [0, 1, 2, 3, "sum"])
    ax.spines[:].set_visible(False)
axes[0].set_ylabel("output")

# %%
# .. caption:: Each sigmoid looks at its own input only, so the column sums are the derivatives. In softmax every output depends on
#    every
#       input, and the sums cancel.
#    :alt: Two heat maps of four by four numbers. The sigmoid's has 0.10, 0.25, 0.20 and 0.05 on its diagonal, zeros elsewhere, and the same
#       four numbers as column sums. The softmax's has numbers everywhere, and all of its column sums are 0.00.
#
# Ones add up the columns, which is the gradient of the sum, as ``sum().backward()`` gave it above. They mean "the derivative" only if
# no output looks at another's input. A softmax always sums to 1, so ``softmax(x).backward(torch.ones(4))`` trains nothing and reports
# nothing. A vector whose entries differ works, without ever building the matrix:

v = torch.tensor([1.0, 0.0, 0.0, -2.0])
x.grad = None
softmax(x).backward(gradient=v)
print(x.grad)
torch.testing.assert_close(x.grad, v @ of_softmax)
assert of_softmax.sum(dim=0).abs().max() < 1e-6

# %%
# Can I teach autograd my derivative?
# -----------------------------------
#
# Yes. A :class:`torch.autograd.Function` has a ``forward`` that computes, a ``setup_context`` that saves what the derivative needs, and a
# ``backward`` that turns the gradient of the output into that of the input. This one takes the second form.


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


w = torch.tensor(1.5, requires_grad=True)
loss = ((Sigmoid.apply(w * all_hours - 3) - all_passed) ** 2).mean()
loss.backward()
print(f"gradient {w.grad:.6f}")
torch.testing.assert_close(w.grad, gradients[1])

# %%
# The student with -999 ruins no gradient any more. (The entry is still wrong data: leave such rows out.) Would you notice a mistake
# in ``backward``? Here is one that the usual test cannot see.


class Careless(Sigmoid):
    @staticmethod
    def backward(ctx, grad_output):
        (y,) = ctx.saved_tensors
        return y * (1 - y)  # the chain rule's factor is missing


x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
for function in (Sigmoid, Careless):
    (by_sum,) = torch.autograd.grad(function.apply(x).sum(), x)
    distance = (by_sum - slope(x)).abs().max().item()
    try:
        torch.autograd.gradcheck(function.apply, x)
        said = "no objection"
    except RuntimeError as error:
        said = str(error).split(" for ")[0]
    print(f"{function.__name__:<9} sum: off by {distance:.0e}  gradcheck: {said}")
assert distance < 1e-12 and "Jacobian mismatch" in said

# %%
# In a sum each output's gradient is 1, and a missing factor of 1 is invisible. ``gradcheck`` sends in other vectors too. It needs
# ``float64`` because it nudges by one millionth. Near 1, ``float32`` numbers lie :math:`2^{-24}` apart, so the difference of two of them
# has room for few answers:

step = 1e-6
numeric = (torch.sigmoid(wide + step) - torch.sigmoid(wide - step)) / (2 * step)
worst = (numeric - slope(wide)).abs().max()
heights = numeric[wide > 0.5].unique().numel()
print(f"worst error {worst:.3f}, {(wide > 0.5).sum()} places, {heights} heights")
assert worst > 0.01 and heights < 30

# %%
# Does where protect me?
# ----------------------
#
# The natural fix is to choose the safe formula by the sign of :math:`x`. First the smallest case, a root that must not see negative
# numbers:

x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
y = torch.where(x > 0, x.sqrt(), x)
y.sum().backward()
print("values", y.tolist(), " gradients", x.grad.tolist())
assert x.grad.isnan().tolist() == [True, True, False]

# %%
# :func:`torch.where` computes *both* branches and picks. On the way back it sends 0 into the branch that lost, and 0 times the slope of
# the root at 0, which is infinite, is NaN again. So protect the *input*, with a second ``where`` inside.

x.grad = None
harmless = torch.where(x > 0, x, 1.0)
torch.where(x > 0, harmless.sqrt(), x).sum().backward()
print("gradients", x.grad.tolist())
assert x.grad.tolist() == [1, 1, 0.25]


def safe_sigmoid(x):
    """A sigmoid whose exponents are never positive, in either branch."""
    right = 1 / (1 + torch.exp(-torch.where(x >= 0, x, 0.0)))
    power = torch.exp(torch.where(x >= 0, 0.0, x))
    return torch.where(x >= 0, right, power / (1 + power))


x = torch.tensor([-1500.0, -20.0, 0.0, 20.0, 1500.0], requires_grad=True)
safe_sigmoid(x).sum().backward()
print("gradients", [f"{g:.1e}" for g in x.grad])
torch.testing.assert_close(safe_sigmoid(x), torch.sigmoid(x))
assert x.grad.isfinite().all()

# %%
# What do ten layers do?
# ----------------------
#
# The last trouble no spelling can fix, because it is in the function. Networks put layer after layer, and each sigmoid multiplies the
# gradient by at most 1/4:
#
# .. math:: \frac{\partial}{\partial x}\,\underbrace{\sigma(\sigma(\cdots\sigma}_{k}(x))) \le \left(\tfrac{1}{4}\right)^k


def steepest(f, layers):
    """Return the largest slope of f applied so many times."""
    x = torch.linspace(-6, 6, 241, dtype=torch.float64, requires_grad=True)
    h = x
    for _ in range(layers):
        h = f(h)
    h.sum().backward()
    return x.grad.max().item()


depth = range(1, 11)
of_stack = [steepest(torch.sigmoid, layers) for layers in depth]
print("  ".join(f"{largest:.1e}" for largest in of_stack))
assert abs(of_stack[0] - 0.25) < 1e-9 and of_stack[9] < 0.25**10

# %%

# fold: the largest slope against the number of layers
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.semilogy(depth, [steepest(torch.tanh, k) for k in depth], "s-", label="tanh")
ax.semilogy(depth, of_stack, "o-", label="sigmoid")
ax.semilogy(depth, [0.25**k for k in depth], ":", color="0.5", label="bound")
ax.set(xlabel="layers", ylabel="largest slope")
ax.legend()

# %%
# .. caption:: Even at the best place, every sigmoid costs a factor of four or more. ``tanh``, with slope 1 at 0, loses nothing there.
#    :alt: On a logarithmic axis a horizontal line for tanh stays at one. The line for the sigmoid falls steadily, below a dotted bound, to
#       less than one millionth at ten layers.
#
# This is the **vanishing gradient**. Most deep networks avoid the sigmoid between layers and keep it for the output, where a chance is
# wanted.
#
# Take this with you
# ------------------
#
# Take the library's function, and give losses the raw scores, the :term:`logits`. What you write yourself gets a ``gradcheck`` in
# ``float64``, at the extremes too.

from torch.nn import functional as F

scores = torch.tensor([-1500.0, 0.3, 2.0], requires_grad=True)
labels = torch.tensor([0.0, 1.0, 1.0])
loss = F.binary_cross_entropy_with_logits(scores, labels)  # not sigmoid, then log
loss.backward()
print(scores.grad)

x = torch.tensor([-800.0, 0.5, 800.0], dtype=torch.float64, requires_grad=True)
torch.autograd.gradcheck(F.logsigmoid, x)

# %%
# Change something
# ----------------
#
# * In ``sigmoid``, the first function of the page, add ``x = x.clamp(min=-80)`` before the ``return``. What is the gradient with -999
#   now?
# * In ``Careless``, return ``grad_output * y`` instead. Which of the two tests objects now?
# * In the last figure, stack ``lambda h: torch.sigmoid(4 * h - 2)``. Predict the largest slope after ten layers: 4 times 1/4 is 1.
#
# .. dropdown:: What happens
#
#    * The same as the library's: the exponential stays finite, and ``clamp`` passes no gradient on where it cuts. The assert that
#      expects a NaN objects.
#    * Both. The sum is now off by up to 0.9, because the factor :math:`1 - y` shows in a sum too.
#    * It stays 1 at any depth, and the assert objects. But only at one point, 0.5, where every layer is at its steepest; a little
#      beside it the slope falls as before.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a gradient of ones
#
#    ``y = x / x.sum()`` for ``x = [1, 2, 5]``, then ``y.backward(torch.ones(3))``. What is ``x.grad``?

### BEGIN SOLUTION
guess = [0.0, 0.0, 0.0]
### END SOLUTION

x = torch.tensor([1.0, 2.0, 5.0], requires_grad=True)
(x / x.sum()).backward(torch.ones(3))
expect(guess, x.grad.tolist(), atol=1e-6)

# %%
# .. exercise:: Fix the logarithm of a sigmoid
#
#    Losses need :math:`\log\sigma(x)`. ``torch.sigmoid(x).log()`` is ``-inf`` at -200, and its gradient there is NaN. Write
#    ``log_sigmoid`` yourself, without a ready-made one, so that values and gradients are right. Hint: for negative :math:`x`,
#    :math:`\log\sigma(x) = x - \log(1 + e^x)`. Does your ``where`` protect both branches?


def log_sigmoid(x):
    ### BEGIN SOLUTION
    low = torch.where(x < 0, x, 0.0)
    high = torch.where(x < 0, 0.0, x)
    below = low - torch.log1p(torch.exp(low))
    above = -torch.log1p(torch.exp(-high))
    return torch.where(x < 0, below, above)
    ### END SOLUTION


def value_and_gradient():
    x = torch.tensor([-200.0, -95.0, 0.0, 3.0, 200.0], requires_grad=True)
    y = log_sigmoid(x)
    y.sum().backward()
    return y.detach(), x.grad


reference = torch.tensor([-200.0, -95.0, 0.0, 3.0, 200.0])
expect(value_and_gradient, (F.logsigmoid(reference), torch.sigmoid(-reference)))

# %%
# .. exercise:: Write a backward
#
#    The function :math:`x\,\sigma(x)` is called SiLU. Write what its ``backward`` returns: ``grad_output`` is the gradient of the output,
#    ``x`` the input that ``forward`` has saved. Both have one shape.


def silu_backward(grad_output, x):
    ### BEGIN SOLUTION
    y = torch.sigmoid(x)
    return grad_output * (y + x * y * (1 - y))
    ### END SOLUTION


x = torch.tensor([[-2.0, 0.0, 1.0], [3.0, -0.5, 4.0]], requires_grad=True)
v = torch.tensor([[1.0, 2.0, -1.0], [0.5, 3.0, 10.0]])
F.silu(x).backward(v)
expect(lambda: silu_backward(v, x.detach()), x.grad)
