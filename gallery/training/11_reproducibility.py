r"""
The same numbers again
======================

Make a training give the same weights twice, bit for bit, and know which changes of
program or machine make that impossible, and why.

.. lesson::
   :needs: training/03_training_loop training/05_saving_and_resuming
   :data: scikit-learn's handwritten digits
   :keywords: reproducibility, reproducible results, random seed, manual_seed, set seed,
      torch.Generator, deterministic, nondeterministic, use_deterministic_algorithms,
      does not have a deterministic implementation, worker_init_fn, num_workers,
      different results every run, floating-point, associative, rounding error,
      allclose, assert_close, tolerance, rtol, atol, bfloat16, CUBLAS_WORKSPACE_CONFIG
   :thumbnail: 3
   :alone:
"""

# %%
# Did my change help?
# -------------------
#
# You changed the :term:`dropout` of your network from 0.2 to 0.3. Does it now read more handwritten digits correctly? The answer is worth
# little if the next run of the same program gives another one. This page is about repeating results: what makes two runs differ, what
# you can do about it, and which differences remain.
#
# Train both versions five times. What differs between the five is the :term:`seed`. (``train`` can also disturb a run a little, for later
# sections: ``draw_one`` draws one random number before the training, and ``nudge`` changes each weight of the first layer by one rounding.)

import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

images, labels = digits().tensors


# %%


def train(seed, dropout=0.2, draw_one=False, nudge=False):
    """Train for ten epochs; return the model, and its weights after each update."""
    torch.manual_seed(seed)
    dense, scores = nn.Linear(64, 64), nn.Linear(64, 10)
    model = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), nn.Dropout(dropout), scores)
    if draw_one:
        torch.rand(1)
    if nudge:
        weight = dense.weight.detach()
        weight.copy_(torch.nextafter(weight, torch.tensor(1.0)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    path = []
    for _ in range(10):
        for rows in torch.randperm(1408).split(64):
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            path.append(parameters_to_vector(model.parameters()).detach())
    return model.eval(), path


# %%


def right(model):
    """Return how many of the last 389 digits a model reads correctly."""
    return (model(images[1408:]).argmax(1) == labels[1408:]).sum().item()


counts = {}
for dropout in (0.2, 0.3):
    counts[dropout] = [right(train(seed, dropout)[0]) for seed in range(5)]
    print(f"dropout {dropout}: {counts[dropout]} of 389 right")
pairs = [low - high for low, high in zip(counts[0.2], counts[0.3])]
print(f"0.2 minus 0.3, seed by seed: {pairs}, mean {sum(pairs) / 5:.1f}")
assert max(counts[0.3]) > min(counts[0.2]) and max(counts[0.2]) > min(counts[0.3])

# %%

# fold: the counts of both settings
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 1.8))
ax.plot(counts[0.2], [0] * 5, "o", color="C0", alpha=0.7)
ax.plot(counts[0.3], [1] * 5, "s", color="C1", alpha=0.7)
ax.set(xlabel="right, of 389", yticks=[0, 1], ylim=(-0.6, 1.6))
ax.set_yticklabels(["dropout 0.2", "dropout 0.3"])

# %%
# .. caption:: Each mark is a training from another seed. The rows overlap, so one training of each version would not answer the question.
#    :alt: Two rows of five marks on an axis of right answers. The rows overlap.
#
# The seed alone changes the result. Did the change help, then? Compare the two runs of each seed: they share start weights and the order of
# the samples. Five differences can show a large effect. They cannot settle a small one: if the change did nothing, the signs would be
# like five coins, and at least four of five coins fall on the same side in 12 of 32 cases. Four of five wins is a hint; for more, take
# more seeds.
#
# To find out what *one* changed line does to a run, hold the chance fixed: the same seed twice gives the same weights, to the last bit.

_, first = train(seed=0)
_, second = train(seed=0)
difference = (first[-1] - second[-1]).abs().max().item()
print(f"{len(first[-1]):,} weights, largest difference {difference}")
assert torch.equal(first[-1], second[-1])

# %%
# What does a seed do?
# --------------------
#
# A :class:`torch.Generator` computes one number after the other, from a state that looks like chance. The seed sets the state. After
# that there is no chance left: who reads from the same place gets the same numbers. Python, NumPy and PyTorch each have a
# generator of their own, and ``torch.manual_seed`` sets only PyTorch's (and that of a GPU):

import random

import numpy as np

random.seed(0)
np.random.seed(0)
seen = {"torch": [], "numpy": [], "random": []}
for _ in range(2):
    torch.manual_seed(0)
    seen["torch"].append(torch.rand(()).item())
    seen["numpy"].append(np.random.rand())
    seen["random"].append(random.random())
for name, (once, again) in seen.items():
    print(f"{name:6} {once:.3f}, then {again:.3f}")
    assert (once == again) == (name == "torch")
first_number = seen["torch"][0]

# %%
# What if I draw one number more?
# -------------------------------
#
# You add a line that draws a single random number, to look at a random sample, say. It changes nothing else:

_, shifted = train(seed=0, draw_one=True)
difference = (first[-1] - shifted[-1]).abs().max().item()
print(f"largest difference after one more draw: {difference:.2f}")
assert difference > 0.05

# %%
# You get other weights. The order of the samples and the dropout read from the *same* stream of numbers, and everything after your line
# reads one place further. Such a draw can hide: each pass over a :class:`~torch.utils.data.DataLoader` draws one number, even if nothing is
# shuffled.

from torch.utils.data import DataLoader, Dataset

drawn = []
for generator in (None, torch.Generator()):
    torch.manual_seed(0)
    list(DataLoader([1, 2, 3], generator=generator))
    drawn.append(torch.rand(()).item())
    print("own generator" if generator else "none", f"- next number {drawn[-1]:.3f}")
assert drawn[0] != first_number == drawn[1]

# %%
# The remedy is to give each purpose its own numbers, computed from *what they are for* instead of from what was drawn before. Take a key,
# such as ("noise", epoch, index), and make a seed of it with a hash. (To repeat an experiment with other noise, put the number of the
# experiment into the key as well.) It is not enough to add epoch and index: epoch 1, index 2 would get the numbers of epoch 2,
# index 1. Python's ``hash`` does not work either, because for strings it gives another result in every process.

import hashlib


def seed_of(*key):
    """Return a seed that depends on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def numbers_for(*key):
    """Return two random numbers that depend on the key alone."""
    return torch.rand(2, generator=torch.Generator().manual_seed(seed_of(*key)))


a = numbers_for("noise", 1, 2)
torch.rand(1000)  # whatever happens in between
print(a, numbers_for("noise", 1, 2), numbers_for("noise", 2, 1))
assert torch.equal(a, numbers_for("noise", 1, 2))
assert not torch.equal(a, numbers_for("noise", 2, 1))

# %%
# ``keyed`` of the helper package does it for functions that take no generator, such as the transforms of torchvision: inside the block the
# global generator follows the key, and afterwards it is back where it was.

from pytorch_course.rng import keyed

torch.manual_seed(0)
with keyed("noise", 1, 2):
    inside = torch.rand(2)
after = torch.rand(()).item()
with keyed("noise", 1, 2):
    assert torch.equal(inside, torch.rand(2))
print(f"after the block: {after:.3f}, without it: {first_number:.3f}")
assert after == first_number

# %%
# Do more workers change the data?
# --------------------------------
#
# A dataset that adds noise draws it in a worker process, and each worker has a generator of its own. Its seed is the number that the loader
# drew for this pass, plus the number of the worker; PyTorch sets Python's and NumPy's in the same way. (A ``worker_init_fn`` is
# needed only for further generators.) So which noise a sample gets depends on who reads it. (The key below has no epoch, because we
# read the data once. In a training, tell the dataset the epoch and put it into the key, or the noise is the same in every epoch.)

import multiprocessing


class Noise(Dataset):
    """Eight samples that are nothing but noise, by a key or from the stream."""

    def __init__(self, by_key):
        self.by_key = by_key

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return numbers_for("noise", index)[0] if self.by_key else torch.rand(())


def read(data, workers):
    """Return the samples, read by so many workers."""
    fork = "fork" in multiprocessing.get_all_start_methods() and workers > 0
    how = {"num_workers": workers, "multiprocessing_context": "fork"} if fork else {}
    start = torch.Generator().manual_seed(0)
    return torch.cat(list(DataLoader(data, batch_size=2, generator=start, **how)))


# %%

rows = {}
for by_key in (False, True):
    torch.manual_seed(0)
    for workers in (0, 1, 2):
        rows[by_key, workers] = read(Noise(by_key), workers)
        text = " ".join(f"{number:.2f}" for number in rows[by_key, workers])
        print("by key   " if by_key else "by stream", workers, "workers:", text)
assert torch.equal(rows[False, 2], read(Noise(False), 2))
assert torch.equal(rows[True, 0], rows[True, 1])
assert torch.equal(rows[True, 0], rows[True, 2])

# %%
# By the stream, the same number of workers gives the same noise again, and another number gives another noise. By the key, workers change
# nothing. (A forked worker knows the class ``Noise``. On Windows and macOS, and on Linux from Python 3.14 on, workers begin as new
# processes: there the class must be in a module of its own, and the program under ``if __name__ == "__main__":``. Without fork this page
# reads everything in one process.)
#
# Is a sum always the same?
# -------------------------
#
# Now no chance is left, and still the last digits can change. Floating-point addition rounds, so it matters in which order you add:

one, big = torch.tensor(1.0), torch.tensor(1e8)
sums = [((one + big) - big).item(), (one + (big - big)).item()]
print("(1 + 1e8) - 1e8 =", sums[0], "   1 + (1e8 - 1e8) =", sums[1])
assert sums == [0.0, 1.0]

# %%
# Take five thousand numbers and their negatives: their sum is 0. Add them in a thousand orders. Each addition is exact to about seven
# digits:

half = torch.randn(5_000, generator=torch.Generator().manual_seed(0))
values = torch.cat([half, -half])
results = []
for shuffle in range(1000):
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(shuffle))
    results.append(values[order].sum().item())
low, high = min(results), max(results)
print(f"measured {len(set(results))} different sums, {low:.1e} to {high:.1e}")
assert len(set(results)) > 10

# %%

# fold: the thousand sums
fig, ax = plt.subplots(figsize=(6.4, 2.6))
ax.hist(results, bins=40, color="C0")
ax.axvline(0, color="C1", linestyle="--", label="exact sum")
ax.set(xlabel="sum", ylabel="orders")
ax.legend()

# %%
# .. caption:: The same numbers, added in a thousand orders.
#    :alt: A histogram, highest at the dashed line of the exact sum, that falls off to both sides. High and low bars alternate.
#
# The order is not yours to choose. Several threads add a part each, and then the parts. Another processor adds 8 or 16 numbers at once;
# another version of a library splits the work in another way. On a GPU, some functions add in the order in which threads
# happen to finish, which may change from one run to the next. Here is the same sum in several parts, and then a larger sum with several
# threads. Some lines may agree, by chance or because the work was split in the same way; nothing promises it.

for parts in (1, 2, 4, 8):
    total = sum(part.sum() for part in values[order].chunk(parts))
    print(f"measured in {parts} parts: {total:.2e}")

many = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
threads = torch.get_num_threads()
for count in (1, 2, 3, 4):
    torch.set_num_threads(count)
    print(f"measured with {count} threads: {many.sum():.6f}")
torch.set_num_threads(threads)

# %%
# Does the last digit matter?
# ---------------------------
#
# Train again from the same seed, with one difference: each of the 4,096 weights of the first layer becomes the *next* number that float32
# can hold. A smaller change of a weight does not exist.

nudged_model, nudged = train(seed=0, nudge=True)
model, _ = train(seed=0)
gaps = [(a - b).abs().max().item() for a, b in zip(first, nudged)]
print(f"measured gap after 1 update {gaps[0]:.0e}, after {len(gaps)} {gaps[-1]:.0e}")
print("measured right:", right(model), "and", right(nudged_model), "of 389")
assert gaps[-1] > 100 * gaps[0] > 0

# %%

# fold: how far the two trainings are apart
fig, ax = plt.subplots(figsize=(6.4, 2.6))
ax.semilogy(range(1, len(gaps) + 1), gaps, color="C0")
ax.set(xlabel="update", ylabel="largest gap", ylim=(1e-9, 10))

# %%
# .. caption:: Two trainings whose start weights differ by one rounding each in the first layer: the largest difference between their
#    weights, on a logarithmic axis. For a long time it grows slowly; at a few updates it jumps.
#    :alt: A curve on a logarithmic axis that rises from about ten to the minus eight by several powers of ten, with steep steps.
#
# Roundings grow into another set of weights, here about as good as the first. So do not compare *trained* weights between two machines.
# Compare something early, with a tolerance: the output of the same weights for the same input, or the weights after one update.
#
# How large is a fair tolerance? Here is one matrix product, computed twice: the second time the 32 products in each sum are added in
# another order. A third time it is computed in :term:`bfloat16`, which has only two to three digits.

matrix = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
mixed = torch.randperm(32, generator=torch.Generator().manual_seed(2))
a, b = matrix @ matrix, matrix[:, mixed] @ matrix[mixed]
coarse = (matrix.bfloat16() @ matrix.bfloat16()).float()
for name, other in (("another order", b), ("bfloat16", coarse)):
    gap = (a - other).abs()
    print(
        f"measured {name}: {(gap > 0).sum()} of 1,024 differ, at most {gap.max():.0e}"
    )

# %%
# ``torch.testing.assert_close`` accepts :math:`|a - b| \le \text{atol} + \text{rtol}\,|b|`. Its defaults depend on the type: an rtol of
# 0.0000013 for float32, and of 0.016 for bfloat16.

torch.testing.assert_close(a, b)
share = ((a - b).abs() / (1e-5 + 1.3e-6 * b.abs())).max()
print(f"measured float32 uses {share:.0%} of the tolerance")
assert share <= 1

# %%
# How do I find what is not repeatable?
# -------------------------------------
#
# ``torch.use_deterministic_algorithms(True)`` switches to repeatable versions of functions, and raises an error where there is none.
# ``put_`` writes values to places; if a place comes twice, nobody says which value stays:

torch.use_deterministic_algorithms(True)
try:
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
except RuntimeError as error:
    refused = str(error).partition(",")[0]
print(refused)
print("torch.empty now holds", torch.empty(3))
assert "deterministic" in refused and torch.empty(3).isnan().all()
torch.use_deterministic_algorithms(False)

# %%
# It also fills the memory of ``torch.empty`` with NaN, so that you notice when a program reads what it never wrote. Most of the
# functions that it refuses are those of GPUs. There it costs some speed, and matrix products need the environment variable
# ``CUBLAS_WORKSPACE_CONFIG=:4096:8``, set before the program starts.
#
# What can you promise, then?
#
# ==========================================  ==========================================
# you run the program                         the numbers are
# ==========================================  ==========================================
# again, on the same machine                  equal, with seeds and deterministic functions
# with another number of workers              equal, if random numbers follow from keys
# with another number of threads              close at first; after a training, about as good
# on another processor, or with a new torch   close at first; after a training, about as good
# with another seed                           about as good
# ==========================================  ==========================================
#
# Take this with you
# ------------------
#
# Seed all three libraries, give each loader its own generator, and let PyTorch refuse what cannot be repeated. On a GPU, start the program
# with ``CUBLAS_WORKSPACE_CONFIG=:4096:8 python train.py``. Run the cell twice, and it prints the same number. Report several seeds.

seed = 0
random.seed(seed)
np.random.seed(seed)
torch.manual_seed(seed)  # accelerators included
torch.use_deterministic_algorithms(True)
generator = torch.Generator().manual_seed(seed)
batches = DataLoader(images, batch_size=64, shuffle=True, generator=generator)
print(f"mean of the first batch: {next(iter(batches)).mean():.4f}")

# %%
# Only for the rest of this page:

torch.use_deterministic_algorithms(False)

# %%
# Change something
# ----------------
#
# * In ``train``, let ``randperm`` draw from a generator of its own: ``order = torch.Generator().manual_seed(seed)`` before the loop, then
#   ``torch.randperm(1408, generator=order)``. Does one more draw still change the training?
# * Do the same with ``dropout=0.0`` in both calls. And now?
# * Add in float64: ``values[order].double().sum()``. How many different sums are left, and how far from 0 are they?
#
# .. dropdown:: What happens
#
#    * Yes. The order stays, but dropout still reads from the global generator, one place further.
#    * No, the weights are equal to the last bit, and the assert stops the page. Nothing draws from the global generator any more once
#      the weights have their start values.
#    * One, and it is 0: float64 has room for 29 binary digits more than float32, enough to add these numbers without any
#      rounding. The assert stops the page.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict where counting stops
#
#    Begin at 0 in float32 and add 1.0, again and again. At which number does the sum stop growing? (A float32 holds 24 binary digits.)

### BEGIN SOLUTION
guess = 16_777_216
### END SOLUTION

powers = [2.0**exponent for exponent in range(60)]
stuck = [power for power in powers if torch.tensor(power) + 1 == torch.tensor(power)]
expect(guess, int(stuck[0]))

# %%
# .. exercise:: Fix the split that moves
#
#    A colleague splits files into training and test part with a seeded ``randperm``. It is repeatable, until a file is added: then files
#    move from the test part into the training part, and the old model has seen test data. Write ``in_test``, which decides for a name
#    alone, with ``seed_of("split", name)``, whose values lie between 0 and :math:`2^{64}`.


def in_test(name, share):
    ### BEGIN SOLUTION
    return seed_of("split", name) < share * 2**64
    ### END SOLUTION


names = [f"scan-{number}.png" for number in range(2000)]


def answers():
    """Return how many files of two thousand are in the test part, in tenths of all."""
    return round(sum(in_test(name, 0.2) for name in names) / 200)


expect(answers, 2)
expect(lambda: in_test("scan-7.png", 1.0), True)
expect(lambda: in_test("scan-7.png", 0.0), False)

# %%
# .. exercise:: Build a measure of closeness
#
#    Write ``excess``: the largest :math:`|a - b| / (\text{atol} + \text{rtol}\,|b|)` over all elements. For finite numbers, and where
#    the denominator is above 0, it is at most 1 exactly when :func:`torch.allclose` says yes.


def excess(a, b, rtol, atol):
    ### BEGIN SOLUTION
    return ((a - b).abs() / (atol + rtol * b.abs())).max().item()
    ### END SOLUTION


b = torch.tensor([1.0, 100.0, 0.0])
expect(lambda: excess(b + torch.tensor([0.5, 1.0, 0.25]), b, 0.0, 0.5), 2.0)
c = torch.tensor([1.0, -100.0])
expect(lambda: excess(c * torch.tensor([1.0, 1.5]), c, 0.25, 0.0), 2.0)
