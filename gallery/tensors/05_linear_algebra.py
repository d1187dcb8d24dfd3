r"""
Linear algebra
==============

Multiply, solve and take matrices apart, pick the right product by its shapes, and rebuild a photograph from a fraction of its numbers.

.. lesson::
   :needs: tensors/04_tensor_maths
   :data: one of scikit-learn's two photographs
"""

# %%
# What does a matrix do to a circle?
# ----------------------------------
#
# A matrix moves points. Take all points at distance 1 from the origin and multiply each by the same matrix.

import math

import matplotlib.pyplot as plt
import torch

plt.style.use("pytorch_course.book")
A = torch.tensor([[1.5, 0.9], [0.1, 0.8]])
angle = torch.linspace(0, 2 * math.pi, 300)
circle = torch.stack([angle.cos(), angle.sin()])  # one point per column
U, S, Vh = torch.linalg.svd(A)

fig, axes = plt.subplots(1, 2, figsize=(6.4, 2.6), sharex=True, sharey=True)
pictures = {"circle": (circle, Vh), "A @ circle": (A @ circle, (U * S).T)}
for ax, (title, (points, arrows)) in zip(axes, pictures.items(), strict=True):
    ax.fill(*points, facecolor="0.94", edgecolor="0.6")
    for tip, colour in zip(arrows * Vh[:, :1].sign(), ("C0", "C3"), strict=True):
        ax.annotate("", tip, (0, 0), arrowprops={"color": colour, "width": 2, "headwidth": 9, "headlength": 9})
    ax.set(aspect="equal", title=title, xticks=range(-1, 2), yticks=range(-1, 2))

# %%
# .. caption:: A circle becomes an ellipse. The two arrows stood at a right angle and still do; one has grown, the other has shrunk.
#    :alt: Left, a circle of radius 1 with two arrows at a right angle from its centre. Right, a tilted ellipse whose long and short
#       half-axes, nearly 2 and about 0.6, are the same two arrows after the matrix.
#
# Whatever numbers you put into ``A``, out comes an ellipse, in the worst case a flat one, and some pair of arrows keeps its right
# angle. :func:`torch.linalg.svd` found that pair. We shall meet it again; at the end it compresses a photograph. First, what is ``@``?
#
# Which product did you mean?
# ---------------------------
#
# "Matrix product" is one thing, whatever some courses call it: each row of the first with each column of the second.
#
# .. math:: C_{ij} = \sum_k A_{ik} B_{kj}
#
# Three loops say the same. Compare them with ``@`` and with ``*``, which multiplies element by element.


def by_loops(A, B):
    """Return the matrix product, number by number."""
    C = torch.zeros(A.shape[0], B.shape[1])
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            for k in range(A.shape[1]):
                C[i, j] += A[i, k] * B[k, j]
    return C


a = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
b = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]])
torch.testing.assert_close(by_loops(a, b), a @ b)
assert not torch.equal((a @ b), a[:, :2] * b[:2])
print(a @ b)

# %%
# On paper, write the second matrix above the result and the first beside it. Each number then stands where its row meets its column.


def draw(ax, values, left, top, is_used):
    """Draw a matrix as cells and colour the ones in use."""
    for i, row in enumerate(values.tolist()):
        for j, value in enumerate(row):
            x, y, colour = left + j, top + i, "C1" if is_used(i, j) else "0.7"
            ax.add_patch(plt.Rectangle((x, y), 0.94, 0.94, color=colour, alpha=0.35, linewidth=0))
            ax.text(x + 0.47, y + 0.47, f"{value:g}", ha="center", va="center", fontsize=13)


fig, ax = plt.subplots(figsize=(6.4, 3.2))
draw(ax, b, 3.3, 0, lambda i, j: j == 1)
draw(ax, a, 0, 3.3, lambda i, j: i == 0)
draw(ax, a @ b, 3.3, 3.3, lambda i, j: (i, j) == (0, 1))
ax.text(5.6, 3.77, r"$11 = 1 \cdot 0 + 2 \cdot 1 + 3 \cdot 3$", va="center")
ax.set(xlim=(-2.5, 9), ylim=(5.4, -0.1), aspect="equal")
ax.axis("off")

# %%
# .. caption:: The orange 11 is the product of the orange row and the orange column.
#    :alt: The 3 by 2 matrix b stands above the 2 by 2 result, the 2 by 3 matrix a to its left. The first row of a, 1 2 3, the second
#       column of b, 0 1 3, and the result's cell with 11 are orange.
#
# The products differ in the shapes that they take. ``einsum`` writes each as a sentence: name the axes, and every letter that is missing
# behind the arrow is summed over. So it checks all the others.

torch.manual_seed(0)
x, y, m, n = torch.randn(3), torch.randn(3), torch.randn(2, 3), torch.randn(3, 4)
batch_m, batch_n = torch.randn(5, 2, 3), torch.randn(5, 3, 4)
products = {
    "dot": (torch.dot, "i,i->", x, y),
    "outer": (torch.outer, "i,j->ij", x, y),
    "mv": (torch.mv, "ij,j->i", m, x),
    "mm": (torch.mm, "ik,kj->ij", m, n),
    "bmm": (torch.bmm, "bik,bkj->bij", batch_m, batch_n),
}
for name, (function, sentence, left, right) in products.items():
    result = function(left, right)
    torch.testing.assert_close(result, torch.einsum(sentence, left, right))
    shapes = [tuple(t.shape) for t in (left, right, result)]
    print(f"{name:<6} {sentence:<13}", "{!s:<10} {!s:<10} {!s}".format(*shapes))

# %%
# One name does most of that: :func:`torch.matmul`, written ``@``, reads the shapes and acts as ``dot``, ``mv``, ``mm`` or ``bmm``. It also
# multiplies every matrix of a batch by one and the same, as a layer does. The narrow names refuse what they were not made for, and that
# is their use.

for name in ("dot", "mv", "mm", "bmm"):
    function, _, left, right = products[name]
    torch.testing.assert_close(left @ right, function(left, right))
    torch.testing.assert_close(torch.matmul(left, right), function(left, right))
assert (batch_m @ n).shape == (5, 2, 4)  # one n for all five

for attempt in (lambda: torch.mm(batch_m, batch_n), lambda: torch.dot(m, m), lambda: m @ m):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", error)
    else:
        raise AssertionError("the shapes fitted")

# %%
# None of them is the *cross product*, although some course notes call ``mm`` that. The cross product takes two vectors of three numbers
# and returns a third, at right angles to both, as long as the area between them. :func:`torch.linalg.cross` computes it. The older
# ``torch.cross`` warns unless you name the axis. PyTorch gives some warnings once per program only; this helper asks for all of them.

import warnings


def warnings_of(call):
    """Return what a call warns of, also when it has warned before."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    torch.set_warn_always(before)
    return [f"{w.category.__name__}: {str(w.message).splitlines()[0]}" for w in caught]


# %%
# Now both claims, at right angles and as long as the area, and the warning:

e = torch.eye(3)
assert torch.linalg.cross(e[0], e[1]).tolist() == [0, 0, 1]
normal = torch.linalg.cross(x, y)
assert abs(normal @ x) < 1e-5 and abs(normal @ y) < 1e-5
area = ((x @ x) * (y @ y) - (x @ y) ** 2).sqrt()
torch.testing.assert_close(torch.linalg.vector_norm(normal), area)

told = warnings_of(lambda: torch.cross(e, e.flip(0)))
print(*told)
assert len(told) == 1 and "deprecated" in told[0]

# %%
# Why will my NumPy numbers not multiply?
# ---------------------------------------
#
# NumPy makes ``float64``, PyTorch's weights are ``float32``. Adding the two promotes in silence, as
# :doc:`/lessons/tensors/04_tensor_maths` showed. Multiplying as matrices does not.

import numpy as np

table = torch.from_numpy(np.linspace(0, 1, 12).reshape(4, 3))
layer = torch.nn.Linear(3, 2)
assert (table + layer.weight[0]).dtype == torch.float64
for attempt in (lambda: table @ layer.weight.T, lambda: layer(table)):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", error)
    else:
        raise AssertionError("two dtypes went into one matrix product")

inputs = table.float()  # the mend, once, where the data comes in
torch.testing.assert_close(layer(inputs), inputs @ layer.weight.T + layer.bias)

# %%
# The second message is the one that you will meet, because it is what a layer says. Convert the data, not the model: ``float64`` weights
# take twice the memory and buy nothing here.
#
# Does transposing move anything?
# -------------------------------
#
# No. ``.T`` and ``.t()`` return a view: the same numbers, read in another order. :doc:`/lessons/tensors/07_views_and_storage` shows how.
# With more than two axes, "the transpose" is ambiguous. ``.mT`` swaps the last two, which is what a batch of matrices needs.

assert m.T.data_ptr() == m.t().data_ptr() == m.mT.data_ptr() == m.data_ptr()
assert m.T.shape == (3, 2) and batch_m.mT.shape == (5, 3, 2)
torch.testing.assert_close((m @ n).T, n.T @ m.T)  # the order turns round

told = warnings_of(lambda: batch_m.T)  # reverses all axes: the batch comes last
print(told[0].split(" and it")[0])
assert len(told) == 1 and "deprecated" in told[0]

try:
    batch_m.t()
except RuntimeError as error:
    print("RuntimeError:", error)
else:
    raise AssertionError("t() took three axes")

# %%
# Other functions pick a part of a matrix. Their argument ``diagonal`` says where the part ends: 0 is the main diagonal, positive numbers
# lie above it.

grid = torch.arange(1.0, 26).reshape(5, 5)
i, j = torch.arange(5)[:, None], torch.arange(5)
fig, axes = plt.subplots(1, 6, figsize=(6.4, 1.5))
for column, k in enumerate((-1, 0, 1)):
    assert torch.equal(grid.tril(k), grid * (j - i <= k))  # the definition
    assert torch.equal(grid.triu(k), grid * (j - i >= k))
    for ax, name in ((axes[column], "tril"), (axes[3 + column], "triu")):
        kept = getattr(grid, name)(k) != 0
        ax.pcolormesh(kept.numpy(), cmap="gray_r", vmin=-0.2, vmax=1.5, edgecolors="white")
        ax.set(title=f"{name}({k})", aspect="equal", ylim=(5, 0))
        ax.axis("off")

# %%
# .. caption:: What ``tril`` and ``triu`` keep, for ``diagonal`` from -1 to 1. The rest becomes 0.
#    :alt: Six squares of 5 by 5 cells. In the three called tril the lower left triangle is dark: without, with, and with one more diagonal
#       than the main one. In the three called triu the upper right triangle: one more diagonal, with, and without the main one.
#
# Language models use ``tril``: row :math:`i` says what position :math:`i` may see, which is nothing to its right. ``diag`` works in two
# directions, and the **trace** adds up what it finds.

assert grid.diag().tolist() == [1, 7, 13, 19, 25]  # matrix to vector
assert grid.diag(1).tolist() == [2, 8, 14, 20]
assert torch.tensor([3.0, 4.0]).diag().tolist() == [[3, 0], [0, 4]]  # vector to matrix
assert grid.trace() == grid.diag().sum() == torch.einsum("ii->", grid) == 65
torch.testing.assert_close((a @ b).trace(), (b @ a).trace())  # although the shapes differ

# %%
# How do I undo a matrix?
# -----------------------
#
# With its inverse, if it has one. A **singular** matrix flattens the circle into a line, and no matrix can blow it up again.

inverse = torch.linalg.inv(A)
torch.testing.assert_close(inverse @ A, torch.eye(2))
torch.testing.assert_close(inverse @ (A @ circle), circle)
torch.testing.assert_close(torch.inverse(A), inverse)  # the older spelling

flat = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
try:
    torch.linalg.inv(flat)
except torch.linalg.LinAlgError as error:
    print("LinAlgError:", error)
else:
    raise AssertionError("a flat matrix was inverted")
assert issubclass(torch.linalg.LinAlgError, RuntimeError)

nearly_flat = torch.tensor([[1.0, 1.0], [1.0, 1.0000001]])
assert torch.linalg.inv(nearly_flat).max() > 1e6  # no error, and a bad sign

# %%
# You rarely need the inverse. To find the :math:`\mathbf{x}` of :math:`\mathbf{A}\mathbf{x} = \mathbf{b}`, call :func:`torch.linalg.solve`.
# It is more than a shortcut. The Hilbert matrix, :math:`H_{ij} = 1 / (i + j + 1)`, is nearly flat; we solve it both ways and put the
# answers back in.

misfit = {"solve": [], "inverse": []}
sizes = range(3, 13)
for size in sizes:
    k = torch.arange(size, dtype=torch.float64)
    H = 1 / (k[:, None] + k + 1)
    ones = torch.ones(size, dtype=torch.float64)
    right = H @ ones
    answers = {"solve": torch.linalg.solve(H, right), "inverse": torch.linalg.inv(H) @ right}
    for name, answer in answers.items():
        misfit[name].append((H @ answer - right).abs().max().item() + 1e-18)  # 0 has no logarithm

for solved, inverted in list(zip(misfit["solve"], misfit["inverse"], strict=True))[5:]:
    assert inverted > 1000 * solved
assert torch.linalg.cond(H) > 1e15 and (answers["solve"] - ones).abs().max() > 1e-6

# %%
# :func:`torch.linalg.cond` is the length of the ellipse divided by its width. Here it exceeds :math:`10^{15}`, and ``float64`` has about
# 16 digits, so *neither* way finds the ones that we hid. But the answer of ``solve`` still satisfies the equation, and that of the
# inverse does not.

fig, ax = plt.subplots()
for name, values in misfit.items():
    ax.semilogy(sizes, values, "o-")
    ax.annotate(name, (12, values[-1]), xytext=(8, 0), textcoords="offset points", va="center")
ax.set(xlabel="size of the Hilbert matrix", ylabel="largest misfit", ylim=(1e-19, 1e2))

# %%
# .. caption:: How badly each answer misses the equation. The misfit of ``solve`` stays at rounding error; that of the inverse grows
#       by orders of magnitude.
#    :alt: A logarithmic plot. The line of solve stays below 1e-14 for sizes 3 to 12. The line of the inverse climbs from
#       about 1e-15 to more than 0.01.
#
# What is a matrix made of?
# -------------------------
#
# Back to the ellipse. The singular value decomposition writes any matrix as a turn, a stretch along the axes, and another turn:
#
# .. math:: \mathbf{A} = \mathbf{U} \, \operatorname{diag}(\sigma_1, \sigma_2, \dots) \, \mathbf{V}^\top
#
# The rows of ``Vh`` are the arrows in the circle, ``S`` holds their lengths afterwards, and the columns of ``U`` are their new directions.

torch.testing.assert_close(U @ S.diag() @ Vh, A)
torch.testing.assert_close(A @ Vh[0], S[0] * U[:, 0])
assert S[0] > 1 > S[1]  # one arrow grew, the other shrank
by_hand = torch.linalg.eigvalsh(A.T @ A).sqrt()  # the smallest first
torch.testing.assert_close(by_hand.flip(0), S)
torch.testing.assert_close(torch.linalg.det(A).abs(), S.prod())  # how much the area grew
torch.testing.assert_close(torch.linalg.cond(A), S[0] / S[1])
lengths = torch.linalg.vector_norm(A @ circle, dim=0)
assert S[1] - 1e-4 < lengths.min() and lengths.max() < S[0] + 1e-4

# %%
# Older code calls ``torch.svd``, which returns :math:`\mathbf{V}` where the new function returns its transpose. For a square matrix the
# mix-up has the right shape and says nothing. Is ``torch.svd`` deprecated? Ask the documentation and the code.

G = torch.randn(3, 3)
told = warnings_of(lambda: torch.svd(G))
documented = "deprecated" in torch.svd.__doc__
print("warnings:", len(told), " documentation says deprecated:", documented)
assert documented

old_U, old_S, old_V = torch.svd(G)
torch.testing.assert_close(old_U @ old_S.diag() @ old_V.T, G)
assert (old_U @ old_S.diag() @ old_V - G).abs().max() > 0.1  # transpose forgotten
assert torch.svd(m).V.shape == (3, 2)
assert torch.linalg.svd(m).Vh.shape == (3, 3)  # unless full_matrices=False

# %%
# How few numbers make a photograph?
# ----------------------------------
#
# A grey photograph is a matrix. Written as a sum, its decomposition is a stack of layers, each an ``outer`` product, ordered by weight:
# :math:`\mathbf{A} = \sum_i \sigma_i \, \mathbf{u}_i \mathbf{v}_i^\top`. Keep the first :math:`k` and throw the rest away.

from pytorch_course.datasets.bundled import photographs

photo = photographs().columns["image"][0].double().mean(dim=0) / 255
U, S, Vh = torch.linalg.svd(photo, full_matrices=False)


def rank(k):
    """Return the photograph rebuilt from its first k layers."""
    return U[:, :k] * S[:k] @ Vh[:k]


layers = [S[i] * torch.outer(U[:, i], Vh[i]) for i in range(5)]
torch.testing.assert_close(sum(layers), rank(5))
torch.testing.assert_close(rank(len(S)), photo)

# %%
# How many layers do you need to see a temple?

ranks = (1, 5, 20, 60, 150, len(S))
fig, axes = plt.subplots(2, 3, figsize=(6.4, 3.2))
for ax, k in zip(axes.flat, ranks, strict=True):
    ax.imshow(rank(k).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{k} layers" if k > 1 else "1 layer")
    ax.axis("off")

# %%
# .. caption:: The same photograph from 1, 5, 20, 60, 150 and all 427 layers. At 20 you know what it is; at 150 you hardly miss the rest.
#    :alt: Six grey versions of a photograph of a Chinese temple. With one layer only bands are visible, with five a blurred building, with
#       twenty its storeys, with sixty most details, and the last two look alike.
#
# What did it cost? A layer is one row, one column and one weight. And what did it lose? Eckart and Young proved in 1936 that the error is
# the length of what you threw away, and that no other matrix of rank :math:`k` comes closer :cite:p:`eckart1936`:
#
# .. math:: \lVert \mathbf{A} - \mathbf{A}_k \rVert_F = \sqrt{\sigma_{k+1}^2 + \sigma_{k+2}^2 + \dots}

height, width = photo.shape
size_of = torch.linalg.matrix_norm  # the square root of the sum of squares
print("layers  numbers  of the photo  error")
for k in ranks:
    numbers = k * (height + 1 + width)
    error = size_of(photo - rank(k))
    torch.testing.assert_close(error, S[k:].square().sum().sqrt(), rtol=1e-6, atol=1e-9)
    print(f"{k:6d} {numbers:8,d} {numbers / photo.numel():13.1%} {error / size_of(photo):6.3f}")

for _ in range(10):  # rivals: the best rank-20 image within 20 random directions
    directions = torch.linalg.qr(torch.randn(height, 20, dtype=torch.float64)).Q
    rival = directions @ (directions.T @ photo)
    assert size_of(photo - rival) > 1.1 * size_of(photo - rank(20))

# %%
# Look at the last line: all layers together need *more* numbers than the photograph has. A decomposition saves memory only if you throw
# something away.

tail = S.square().flip(0).cumsum(0).flip(0).sqrt()  # the error with 0, 1, 2 ... layers
tail = tail / tail[0]
fig, ax = plt.subplots()
ax.plot(tail)
ax.plot(ranks[:-1], tail[list(ranks[:-1])], "o", color="C3")
break_even = photo.numel() / (height + 1 + width)
ax.axvline(break_even, color="0.6", linestyle=":")
ax.text(break_even + 5, 0.5, "as many numbers as pixels")
ax.set(xlabel="layers kept", ylabel="relative error", ylim=(0, 1.03))

# %%
# .. caption:: The error falls steeply, then slowly: the first layers carry the picture. Dots mark the photographs above. Right of the
#    dotted line nothing is saved.
#    :alt: A curve that drops from 1 at no layers to below 0.3 at one and about 0.14 at twenty, then declines slowly to 0 at 427. A dotted
#       vertical line stands at about 256 layers.
#
# Change something
# ----------------
#
# * Make ``A`` singular, ``[[1.0, 2.0], [0.5, 1.0]]``, and draw the circle again. What is left of the ellipse? (A line: ``S[1]`` is 0, up
#   to rounding.)
# * Use the flower instead, ``["image"][1]``. For an error below 0.1, does it need more layers than the temple, or fewer?
# * Replace the photograph by ``torch.rand_like(photo)`` and look at the curve. Why can noise not be compressed?
#
# Exercises
# ---------
#
# 1. Write the sentence for :func:`torch.einsum` that returns all the dot products between the rows of two matrices. Which expression with
#    ``@`` does the same?
# 2. ``A @ x`` for a ``(1000, 1000)`` matrix and ``(x * A).sum(dim=1)`` agree. Which intermediate result does the second one store?
# 3. Find the smallest number of layers with a relative error below 0.1, without a loop.
#
# .. dropdown:: Answers
#
#    1. ``torch.einsum("ik,jk->ij", m, n)``, which is ``m @ n.T``.
#    2. All million products, before it adds them up. ``A @ x`` keeps only the sums.
#    3. ``(tail < 0.1).int().argmax()``: the first place where it is true, and ``tail[k]`` is the error with ``k`` layers.
