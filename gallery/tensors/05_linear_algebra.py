r"""
Linear algebra
==============

Price two shopping baskets at once, find prices from receipts, and rebuild a photograph
from a fraction of its numbers.

.. lesson::
   :needs: tensors/04_tensor_maths
   :data: one of scikit-learn's two photographs
   :keywords: matrix multiplication, matmul, mm, bmm, dot product, outer product, cross
      product, einsum, transpose, trace, diag, tril, triu, inverse, inv, solve, singular
      matrix, ill-conditioned, condition number, svd, singular value decomposition, low
      rank, PCA, compression, torch.svd deprecated, symeig, torch.qr, lstsq, mat1 and
      mat2 shapes cannot be multiplied, mat1 and mat2 must have the same dtype, expected
      m1 and m2 to have the same dtype, This function was deprecated since version 1.9
      and is now removed
   :thumbnail: 4
"""

# %%
# Which shop is cheaper for whom?
# -------------------------------
#
# Ann wants 4 loaves, 1 litre of milk and 2 apples; Ben 1 loaf, 4 litres and no apple. Two shops, two lists of prices. Four totals to
# compare:

import torch

baskets = torch.tensor([[4.0, 1.0, 2.0], [1.0, 4.0, 0.0]])  # a row per person
prices = torch.tensor([[3.0, 2.0], [1.0, 1.5], [0.5, 1.0]])  # a column per shop
totals = baskets @ prices
print(totals)

# %%
# Ann should go to the second shop, Ben to the first. ``@`` is the **matrix product**: each row of the first meets each column of the
# second. On paper, write the second matrix above the result and the first beside it.

# fold: the two matrices and their product, as on paper
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 3.2))
used = {"pad": 7, "facecolor": "C1", "alpha": 0.4, "linewidth": 0}
plain = used | {"facecolor": "0.9", "alpha": 1}
matrices = [(baskets, 0, 4, 0, None), (prices, 4, 0, None, 1), (totals, 4, 4, 0, 1)]
for matrix, left, top, row, column in matrices:
    for i in range(matrix.shape[0]):
        for j in range(matrix.shape[1]):
            colour = used if row in (i, None) and column in (j, None) else plain
            text = f"{matrix[i, j]:g}"
            ax.text(left + j, top + i, text, ha="center", va="center", bbox=colour)
for row, name in enumerate(("loaf", "milk", "apple")):
    ax.text(6, row, name, va="center")
ax.text(5.9, 4, r"$4 \cdot 2 + 1 \cdot 1.5 + 2 \cdot 1$", va="center", fontsize=10)
ax.text(-0.8, 4, "Ann", ha="right", va="center")
ax.text(-0.8, 5, "Ben", ha="right", va="center")
ax.set(xlim=(-2, 9), ylim=(5.6, -0.6))
ax.axis("off")

# %%
# .. caption:: Ann's row and the column of the second shop make one number: 11.5.
#    :alt: The prices, three rows and two columns, stand above the result; the baskets, two rows and three columns, to its left. Ann's row
#       4, 1, 2, the second column of prices 2, 1.5, 1 and the result 11.5 are orange.
#
# .. math:: C_{ij} = \sum_k A_{ik} B_{kj}
#
# Three loops say the same.


def by_loops(A, B):
    """Return the matrix product, number by number."""
    C = torch.zeros(A.shape[0], B.shape[1])
    for i in range(A.shape[0]):
        for j in range(B.shape[1]):
            for k in range(A.shape[1]):
                C[i, j] += A[i, k] * B[k, j]
    return C


print(by_loops(baskets, prices))
torch.testing.assert_close(by_loops(baskets, prices), totals)

# %%
# Which product did you mean?
# ---------------------------
#
# ``*`` multiplies element by element. With baskets and prices the shapes forbid it, but with two square matrices ``*`` and ``@`` both run,
# with different results. The other products differ in the shapes they take. ``einsum`` writes each as a formula: one letter per axis,
# and a letter that is missing behind the arrow is summed over.

torch.manual_seed(0)
x, y, m, n = torch.randn(3), torch.randn(3), torch.randn(2, 3), torch.randn(3, 4)
many_m, many_n = m.expand(5, 2, 3), n.expand(5, 3, 4)
products = [("dot", "i,i->", x, y), ("mv", "ij,j->i", m, x), ("mm", "ik,kj->ij", m, n)]
products += [("bmm", "bik,bkj->bij", many_m, many_n), ("outer", "i,j->ij", x, y)]
for name, sentence, left, right in products:
    result = getattr(torch, name)(left, right)
    shapes = f"{tuple(left.shape)} {tuple(right.shape)} -> {tuple(result.shape)}"
    print(f"{name:<5} {sentence:<13} {shapes}")
    torch.testing.assert_close(result, torch.einsum(sentence, left, right))
    if name != "outer":
        torch.testing.assert_close(result, left @ right)
        torch.testing.assert_close(result, torch.matmul(left, right))

# %%
# ``@`` is :func:`torch.matmul`. It reads the shapes and does the work of ``dot``, ``mv``, ``mm`` and ``bmm``; it also multiplies each
# matrix of a batch by the same matrix. The narrow names refuse everything else:

print((many_m @ n).shape)
for attempt in (lambda: torch.mm(many_m, many_n), lambda: m @ m):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", error)
assert (many_m @ n).shape == (5, 2, 4)

# %%
# Some course notes call ``mm`` the *cross product*. That is something else: it takes two vectors of three numbers and returns a third, at
# right angles to both. If you mean it, say :func:`torch.linalg.cross`.

e = torch.eye(3)
print(torch.linalg.cross(e[0], e[1]))
normal = torch.linalg.cross(x, y)
print(f"inner products: {abs(normal @ x):.3f} and {abs(normal @ y):.3f}")
assert abs(normal @ x) < 1e-5 and abs(normal @ y) < 1e-5

# %%
# Why will my NumPy numbers not multiply?
# ---------------------------------------
#
# NumPy makes ``float64``, and PyTorch's weights are ``float32``. A sum promotes in silence, as :doc:`/lessons/tensors/04_tensor_maths`
# shows. A matrix product does not.

import numpy as np

table = torch.from_numpy(np.linspace(0, 1, 12).reshape(4, 3))
weight = torch.ones(2, 3)
layer = torch.nn.Linear(3, 2)
for attempt in (lambda: table @ weight.T, lambda: layer(table)):
    try:
        attempt()
    except RuntimeError as error:
        print("RuntimeError:", error)
print((table + weight[0]).dtype, (table.float() @ weight.T).dtype)
torch.testing.assert_close(
    layer(table.float()), table.float() @ layer.weight.T + layer.bias
)

# %%
# The fix is ``.float()``, once, where the data comes in. Do not convert the model: ``float64`` weights take twice the memory.
#
# How do I transpose a matrix, or take a part?
# --------------------------------------------
#
# ``.T`` and ``.t()`` transpose a matrix. Both return a :term:`view`: nothing moves. In a batch, ``.mT`` transposes each matrix. For parts
# there are ``diag``, ``tril`` and ``triu``; the argument counts diagonals from the main one.

print("T", tuple(m.T.shape), " mT", tuple(many_m.mT.shape))
assert m.T.data_ptr() == m.t().data_ptr() == m.mT.data_ptr() == m.data_ptr()
torch.testing.assert_close((m @ n).T, n.T @ m.T)  # the order turns round

grid = torch.arange(1.0, 10).reshape(3, 3)
print(grid.tril())
print(grid.triu(1))
print("diag", grid.diag().tolist(), " trace", grid.trace().item())
assert torch.equal(grid.tril() + grid.triu(1), grid)
assert grid.trace() == grid.diag().sum() == torch.einsum("ii->", grid) == 15
assert torch.tensor([3.0, 4.0]).diag().tolist() == [[3, 0], [0, 4]]  # and back

# %%
# Language models use ``tril``: row :math:`i` says what position :math:`i` may see, which is nothing to its right.
#
# What did each thing cost?
# -------------------------
#
# Now backwards. Three receipts of one shop show what was bought and the total, and no prices. That is
# :math:`\mathbf{A}\mathbf{x} = \mathbf{b}`, and you look for :math:`\mathbf{x}`.

bought = torch.tensor([[4.0, 1.0, 2.0], [1.0, 4.0, 0.0], [2.0, 2.0, 5.0]])
paid = torch.tensor([14.0, 7.0, 10.5])
print("solve:  ", torch.linalg.solve(bought, paid))
inverse = torch.linalg.inv(bought)
print("inverse:", inverse @ paid)
torch.testing.assert_close(torch.linalg.solve(bought, paid), prices[:, 0])
torch.testing.assert_close(inverse @ bought, torch.eye(3))
torch.testing.assert_close(torch.inverse(bought), inverse)  # an older spelling

# %%
# Those are the prices of the first shop. If the third customer bought exactly twice what Ann did and paid twice as much, the third receipt
# says nothing new. Two facts do not fix three prices. Such a matrix is **singular**:

bought[2], paid[2] = 2 * bought[0], 2 * paid[0]
try:
    torch.linalg.solve(bought, paid)
except torch.linalg.LinAlgError as error:
    message = str(error)
print("LinAlgError:", message)
assert "singular" in message

# %%
# Is the inverse good enough?
# ---------------------------
#
# What you expect: ``solve`` is a shortcut for the inverse. What happens shows on a matrix that is *nearly* singular, the Hilbert matrix
# :math:`H_{ij} = 1 / (i + j + 1)`. Solve both ways and measure two things. The **misfit**: put the answer back in, and
# compare :math:`\mathbf{H}\mathbf{x}` with :math:`\mathbf{b}`. The **error**: compare the answer with the right one, which is known here.

misfits = {"solve": [], "inverse": []}
errors = {"solve": [], "inverse": []}
sizes = range(3, 13)
for size in sizes:
    k = torch.arange(size, dtype=torch.float64)
    H = 1 / (k[:, None] + k + 1)
    b = H.sum(dim=1)  # so the right answer is all ones
    answers = {"solve": torch.linalg.solve(H, b), "inverse": torch.linalg.inv(H) @ b}
    for name, answer in answers.items():
        misfits[name].append((H @ answer - b).abs().max().item())
        errors[name].append((answer - 1).abs().max().item())
for name in answers:
    print(
        f"size 12, {name}: misfit {misfits[name][-1]:.0e}, error {errors[name][-1]:.0e}"
    )
print(f"condition number {torch.linalg.cond(H):.0e}")
assert misfits["inverse"][-1] > 1000 * misfits["solve"][-1]
assert errors["solve"][-1] > 1e6 * misfits["solve"][-1]

# %%

# fold: the misfit and the error against the size
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3), sharey=True)
for ax, title, measured in zip(axes, ("misfit", "error"), (misfits, errors)):
    for (name, values), style in zip(measured.items(), ("o-", "s--")):
        ax.semilogy(sizes, np.maximum(values, 1e-17), style, label=name)
    ax.set(xlabel="size", title=title, ylim=(3e-18, 1e3))
axes[0].legend()

# %%
# .. caption:: Left: the answer of ``solve`` fits to rounding error, that of the inverse ever worse. Right: both answers lose their digits.
#    A misfit of exactly 0 is drawn at 1e-17.
#    :alt: Two logarithmic plots for sizes 3 to 12. Misfit: the line of solve stays below 1e-14, the line of the inverse climbs from below
#       1e-13 to about 0.1. Error: both lines climb together, to about 0.3 for solve and about 10 for the inverse.
#
# So call ``solve``: its answer at least fits the equations. A good fit does not make the answer right, as the printed error for size 12
# shows. The condition number :func:`torch.linalg.cond` warns you. Roughly, its power of ten is the number of digits that you lose, and
# ``float64`` has 16.
#
# What is a matrix made of?
# -------------------------
#
# A matrix moves points: it turns a circle into an ellipse, in the worst case a flat one. The **singular value decomposition** does it in
# three simple steps:
#
# .. math:: \mathbf{A} = \mathbf{U} \, \operatorname{diag}(\sigma_1, \sigma_2, \dots) \, \mathbf{V}^\top
#
# Read it from right to left. The columns of :math:`\mathbf{V}` are directions at right angles, which :math:`\mathbf{V}^\top` turns onto the
# axes. The **singular values** :math:`\sigma_i`, largest first, stretch each axis. :math:`\mathbf{U}` turns the axes to where the ellipse
# lies. PyTorch returns ``U``, ``S`` (the singular values) and ``Vh``, which is :math:`\mathbf{V}^\top`.
#
# By hand: in :math:`\mathbf{A}^\top\mathbf{A} = \mathbf{V} \operatorname{diag}(\sigma_i^2) \, \mathbf{V}^\top` the :math:`\mathbf{U}` has
# cancelled, so the singular values are the roots of its eigenvalues: it only stretches the columns :math:`\mathbf{v}_i`, each by
# :math:`\sigma_i^2`.

A = torch.tensor([[1.5, 0.9], [0.1, 0.8]])
U, S, Vh = torch.linalg.svd(A)
print("stretches", S)
print(f"det U {torch.linalg.det(U):.0f}, det Vh {torch.linalg.det(Vh):.0f}")
torch.testing.assert_close(U @ S.diag() @ Vh, A)
torch.testing.assert_close(U.T @ U, torch.eye(2))
by_hand = torch.linalg.eigvalsh(A.T @ A).sqrt()  # the smallest first
torch.testing.assert_close(S, by_hand.flip(0))
signs = torch.linalg.det(U) * torch.linalg.det(Vh)
torch.testing.assert_close(signs * S.prod(), torch.linalg.det(A))

# %%

# fold: a circle and two arrows after each of the three steps
angle = torch.linspace(0, 2 * torch.pi, 200)
circle = torch.stack([angle.cos(), angle.sin()])  # one point per column
steps = {"circle": torch.eye(2), "Vh": Vh, "S": S.diag() @ Vh, "U": A}
fig, axes = plt.subplots(1, 4, figsize=(6.4, 1.9), sharex=True, sharey=True)
for ax, (name, matrix) in zip(axes, steps.items()):
    ax.fill(*(matrix @ circle), facecolor="0.94", edgecolor="0.6")
    for start, colour, style in zip(Vh, ("C0", "C3"), ("-", "--")):
        tip = matrix @ start
        arrow = {"arrowstyle": "->", "color": colour, "linestyle": style, "lw": 2}
        ax.annotate("", tip.tolist(), (0, 0), arrowprops=arrow)
    ax.set(aspect="equal", title=name, xticks=(-1, 0, 1), yticks=(-1, 0, 1))

# %%
# .. caption:: Turn or mirror (``Vh``), stretch along the axes (``S``), turn or mirror again (``U``). The two arrows keep their right angle.
#    :alt: Four panels: a circle with two arrows at a right angle; the circle with the arrows along the axes; an ellipse, long in the
#       direction of the first arrow and short in that of the second; the same ellipse, tilted.
#
# :math:`\mathbf{U}` and :math:`\mathbf{V}^\top` change no length. A determinant of 1 means a turn, -1 a mirror image. The signs are not
# unique: flip a column of :math:`\mathbf{U}` together with its row of :math:`\mathbf{V}^\top`, and the product stays. Only the product of
# the two determinants is fixed: it has the sign of :math:`\det \mathbf{A}`.
#
# How few numbers make a photograph?
# ----------------------------------
#
# A grey photograph is a matrix, too. Its decomposition is a sum of pieces, each an outer product of a column and a row, ordered by
# weight: :math:`\mathbf{A} = \sum_i \sigma_i \, \mathbf{u}_i \mathbf{v}_i^\top`. Keep the first :math:`k` and throw the rest away.

from pytorch_course.datasets import photographs

photo = photographs().columns["image"][0].double().mean(dim=0) / 255
U, S, Vh = torch.linalg.svd(photo, full_matrices=False)


def rank(k):
    """Return the photograph rebuilt from its first k pieces."""
    return (U[:, :k] * S[:k]) @ Vh[:k]


pieces = [S[i] * torch.outer(U[:, i], Vh[i]) for i in range(5)]
torch.testing.assert_close(sum(pieces), rank(5))
torch.testing.assert_close(rank(len(S)), photo)

# %%

# fold: the photograph from 1, 5, 20 and 100 pieces
fig, axes = plt.subplots(2, 2, figsize=(6.4, 4.6))
for ax, k in zip(axes.flat, (1, 5, 20, 100)):
    ax.imshow(rank(k).numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"pieces: {k}")
    ax.axis("off")

# %%
# .. caption:: With 20 of 427 pieces you know what it is; with 100 the fine detail is still soft.
#    :alt: Four grey versions of a photograph of a Chinese temple. With one piece only bands are visible, with five a blurred building, with
#       twenty its storeys, and with a hundred most details.
#
# A piece costs one row, one column and one weight. :math:`k` pieces make a matrix of **rank** :math:`k`, and no other matrix of that rank
# comes closer :cite:p:`eckart1936`. The distance is the **Frobenius norm**: square all numbers, sum, take the root. It follows from the
# singular values that you threw away:
#
# .. math:: \lVert \mathbf{A} - \mathbf{A}_k \rVert_F = \sqrt{\sigma_{k+1}^2 + \sigma_{k+2}^2 + \dots}

height, width = photo.shape
whole = torch.linalg.matrix_norm(photo)
for k in (1, 5, 20, 100, len(S)):
    numbers = k * (height + 1 + width) / photo.numel()
    error = torch.linalg.matrix_norm(photo - rank(k))
    print(f"pieces {k:3}: {numbers:6.1%} of the numbers, error {error / whole:.3f}")
    torch.testing.assert_close(error, (S[k:] ** 2).sum().sqrt(), rtol=1e-6, atol=1e-9)

# %%
# The errors are fractions of the norm of the photograph. The last line: all pieces need *more* numbers than the photograph. You save memory
# only if you throw something away.
#
# Is this function deprecated?
# ----------------------------
#
# Old pages call ``torch.svd``, ``torch.symeig``, ``torch.qr``. Ask three things: does the documentation say "deprecated", does a warning
# come, and does the function run?

import re
import warnings

P = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 4.0]])
for name in ("inverse", "norm", "svd", "symeig", "qr", "cholesky"):
    function = getattr(torch, name)
    documented = "deprecated" in (function.__doc__ or "")
    said = "runs"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function(P)
        except RuntimeError as error:
            successor = re.search(r"torch\.linalg\.\w+", str(error)).group()
            said = f"is removed, use {successor}"
    documents = "deprecated" if documented else "-"
    print(f"{name:<9}docs: {documents:<11} warnings: {len(caught)}  {said}")

# %%
# ``svd`` and ``norm`` run without a warning, and only the documentation calls them deprecated. The message of a removed function names
# its successor. Mind the letters: ``torch.svd`` returns :math:`\mathbf{V}`, :func:`torch.linalg.svd` its transpose. For a square matrix the
# mix-up has the right shape and the wrong numbers:

old_U, old_S, old_V = torch.svd(P)
right = old_U @ old_S.diag() @ old_V.T
wrong = old_U @ old_S.diag() @ old_V
for name, rebuilt in [("V.T", right), ("V", wrong)]:
    print(f"with {name}: largest error {(rebuilt - P).abs().max():.2f}")
assert "deprecated" in torch.svd.__doc__
assert torch.svd(m).V.shape == (3, 2) and torch.linalg.svd(m).Vh.shape == (3, 3)

# %%
# Take this with you
# ------------------
#
# ``@`` for products, ``solve`` for equations, ``svd`` to keep what matters.

A = torch.rand(6, 4)  # what comes from NumPy: torch.from_numpy(a).float()
product = A.mT @ A  # (4, 6) @ (6, 4)
x = torch.linalg.solve(product + torch.eye(4), torch.ones(4))  # not inv(...) @ b
U, S, Vh = torch.linalg.svd(A, full_matrices=False)
k = 2
closest = (U[:, :k] * S[:k]) @ Vh[:k]  # the best matrix of rank 2
error = (S[k:] ** 2).sum().sqrt()

# %%
# Change something
# ----------------
#
# * Swap the two rows of the ``A`` with the ellipse. Which stays: the stretches, or the product of the two determinants?
# * Take the other photograph, ``["image"][1]``. Does the flower need more pieces than the temple for the same error?
# * Below the line that makes ``photo``, add ``photo = torch.rand_like(photo)``. How well can noise be compressed?
#
# .. dropdown:: What happens
#
#    * The stretches stay. The product of the determinants becomes negative, as the determinant of ``A`` does: one of the two is 1 now and
#      the other -1. Which one is which depends on the signs that the library picks. The last ellipse is mirrored at the diagonal.
#    * With few layers, yes: its error is larger at 1 and at 5. From 20 layers on it is smaller, since the blurred background is simple.
#    * Badly. One piece catches the mean grey, then the error falls slowly; 100 pieces still leave a third. Noise has no rows that resemble
#      each other.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict three shapes
#
#    ``a`` has shape (7, 2, 3), ``b`` (3, 4) and ``x`` (3,). Which shapes have ``a @ b``, ``a @ x`` and ``b.T @ x``?

### BEGIN SOLUTION
guess = [(7, 2, 4), (7, 2), (4,)]
### END SOLUTION

a, b, x = torch.zeros(7, 2, 3), torch.zeros(3, 4), torch.zeros(3)
expect(guess, [tuple(result.shape) for result in (a @ b, a @ x, b.T @ x)])

# %%
# .. exercise:: Fix a compression
#
#    A colleague replaced ``torch.svd`` by ``torch.linalg.svd`` and kept the rest: ``U, S, V = torch.linalg.svd(M)``, then
#    ``(U[:, :k] * S[:k]) @ V[:, :k].T``. No error comes, and the result has the right shape, but the picture is nonsense. Write
#    ``compress`` so that it returns the closest matrix of rank ``k``.


def compress(M, k):
    ### BEGIN SOLUTION
    U, S, Vh = torch.linalg.svd(M, full_matrices=False)
    return (U[:, :k] * S[:k]) @ Vh[:k]
    ### END SOLUTION


strong = 5 * torch.outer(torch.tensor([0.6, 0.8]), torch.tensor([2.0, 2.0, 1.0]) / 3)
weak = torch.outer(torch.tensor([-0.8, 0.6]), torch.tensor([2.0, -1.0, -2.0]) / 3)
expect(lambda: compress(strong + weak, 1), strong)
expect(lambda: compress((strong + weak).T, 2), (strong + weak).T)

# %%
# .. exercise:: Look up a function
#
#    With more receipts than prices, no prices fit all of them exactly. Old code calls ``torch.lstsq`` for the best ones; call it, and the
#    message names its successor. Look that one up on its page and write ``best_prices``: it returns one number per column of ``bought``.


def best_prices(bought, paid):
    ### BEGIN SOLUTION
    return torch.linalg.lstsq(bought, paid[:, None]).solution[:, 0]
    ### END SOLUTION


receipts = torch.tensor([[4.0, 1.0], [1.0, 4.0], [2.0, 2.0], [3.0, 0.0]])
sums = torch.tensor([13.2, 6.9, 8.1, 8.7])
normal = torch.linalg.solve(receipts.T @ receipts, receipts.T @ sums)
expect(lambda: best_prices(receipts, sums), normal, rtol=1e-4)
