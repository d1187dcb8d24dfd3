r"""
Averaging gradients by hand
===========================

Train one model with two processes, and know where they equal a single process and where
they do not.

.. lesson::
   :needs: distributed/01_processes_and_collectives training/03_training_loop
   :data: scikit-learn's handwritten digits
   :keywords: data parallel, data parallelism, distributed training, synchronous SGD,
      average gradients, all_reduce gradients, multi-GPU, several GPUs, large batch,
      effective batch size, uneven batches, unequal shards, weighted mean, batch
      normalization, SyncBatchNorm, broadcast weights, replicas diverge, different
      seeds, not bit identical, floating point order
   :thumbnail: 2
   :alone:
"""

# %%
# Can two workers share one batch?
# --------------------------------
#
# You have a batch of 64 digits and two workers. Each takes 32 digits and computes a gradient. Now there are two gradients, and the model
# needs one. Compare each of them with the :term:`gradient` of the whole batch, and their average as well:

import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

images, labels = digits().tensors
images = images.flatten(1)  # 1797 digits of 64 pixels


def build(seed=0):
    """Return a network for digits, with weights that follow from the seed."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def gradient(model, x, y):
    """Return the gradient of the mean loss as one vector."""
    loss = F.cross_entropy(model(x), y)
    return parameters_to_vector(torch.autograd.grad(loss, model.parameters()))


# %%

model = build()
whole = gradient(model, images[:64], labels[:64])
first = gradient(model, images[:32], labels[:32])
second = gradient(model, images[32:64], labels[32:64])
average = (first + second) / 2


def error(vector, right):
    """Return the length of the difference, as a share of the right vector's length."""
    return ((vector - right).norm() / right.norm()).item()


for name, vector in [("first", first), ("second", second), ("average", average)]:
    print(f"{name:8} differs from the whole by {error(vector, whole):.1%}")
assert error(average, whole) < 1e-5 < 0.1 < error(first, whole)

# %%

# fold: every element of the gradients against the whole batch's
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(7, 3))
for ax, vector, name, colour in zip(
    axes, (first, average), ("half", "average"), ["C1", "C0"]
):
    ax.plot(whole, vector, ".", color=colour, markersize=3)
    ax.set(title=f"{name} against whole", xlabel="gradient of 64")
axes[0].set_ylabel("gradient")

# %%
# .. caption:: One point for each of the 4810 numbers of a gradient: across, its value from all 64 digits; upwards, from the first half
#    (left) and from the average of both halves (right). A half alone scatters; the average lies on the diagonal.
#    :alt: Left, a cloud of points around the diagonal. Right, all points on the diagonal.
#
# (Both halves are off by the same amount, because the whole lies halfway between them.) It is not an accident that the average fits. The
# loss is a mean over samples, and the gradient of a mean is the mean of the gradients. With
# :math:`\mathbf{g}^{(i)}` for the gradient of sample :math:`i`,
#
# .. math:: \frac{1}{64} \sum_{i=0}^{63} \mathbf{g}^{(i)}
#    = \frac12 \Bigl( \frac{1}{32} \sum_{i=0}^{31} \mathbf{g}^{(i)} + \frac{1}{32} \sum_{i=32}^{63} \mathbf{g}^{(i)} \Bigr).
#
# So each worker keeps the whole model, takes a part of each batch, and before every update all average their gradients. This is
# :term:`data parallel` training.
#
# Does it hold for a whole training?
# ----------------------------------
#
# Now with real processes. New are the lines of ``average_gradients``: the sum over all processes, divided by their number. ``world()``
# joins the others, as in :doc:`/lessons/distributed/01_processes_and_collectives`; ``w.size`` says how many they are and ``w.rank`` which
# one this is. So ``chunk(w.size)[w.rank]`` is its part of the batch.

import torch.distributed as dist
from pytorch_course.distributed import launch, world


def average_gradients(model):
    """Replace each gradient by its mean over all processes."""
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)  # now it holds the sum
        parameter.grad /= dist.get_world_size()


# %%


def train(seeds=(0, 0), prepare=None):
    """Train on all processes; return this one's losses and its weights over time."""
    losses, weights = [], []
    with world() as w:
        model = build(seeds[w.rank])
        if prepare:
            prepare(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for start in list(range(0, 1280, 64)) * 3:  # three epochs of 20 batches
            x = images[start : start + 64].chunk(w.size)[w.rank]  # my part
            y = labels[start : start + 64].chunk(w.size)[w.rank]
            weights.append(parameters_to_vector(model.parameters()).detach())
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            average_gradients(model)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return torch.tensor(losses), torch.stack(weights)


# %%
# The same function runs in one process, where ``chunk(1)`` is the whole batch, and in two. (``seeds`` and ``prepare`` are for later.)

one, weights_one = launch(train, nproc=1)[0]
(loss_0, weights_0), (loss_1, weights_1) = launch(train, nproc=2)

print("after 59 updates, loss of batch 60")
print(f"  one process           {one[-1]:.4f}")
print(f"  rank 0 and rank 1     {loss_0[-1]:.4f} {loss_1[-1]:.4f}")
print(f"  their mean            {(loss_0[-1] + loss_1[-1]) / 2:.4f}")

# %%

# fold: the losses of one process and of two
fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(loss_0, "C1.", label="rank 0")
ax.plot(loss_1, "C2.", label="rank 1")
ax.plot((loss_0 + loss_1) / 2, "C7", linewidth=5, alpha=0.4, label="their mean")
ax.plot(one, "C0", linewidth=1, label="one process")
ax.set(xlabel="update", ylabel="loss")
ax.legend(ncols=2)

# %%
# .. caption:: Dots: what each rank sees, the loss on its half of the batch. Their mean (broad band) is the loss of one process that sees
#    the whole batch (thin line), update after update.
#    :alt: Sixty updates. Two kinds of dots scatter around a falling line; a broad band lies exactly behind it.
#
# How close are the weights? Compare the two ranks with each other, and with the one process.


def apart(a, b):
    """Return the largest difference between two sets of weights."""
    return (a - b).abs().max().item()


print("between the ranks", apart(weights_0, weights_1))
print(f"measured between two processes and one {apart(weights_0, weights_one):.1e}")
assert apart(weights_0, weights_1) == 0
assert 0 < apart(weights_0, weights_one) < 1e-5

# %%
# The ranks agree to the last bit before each of the 60 updates. That must be so: they start with the same weights, and ``all_reduce`` gives
# all of them the same sum. With the one process they agree to about seven digits, and no further.
#
# Why not to the last bit?
# ------------------------
#
# Because floats are rounded after every addition, and so the sum depends on the order in which you add :cite:p:`goldberg1991`:

print((0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3))
assert (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)

# %%
# One process adds up 64 contributions to each number of the gradient; two processes add up 32 each, and then the two sums. If that is the
# only cause, then *one* process that works in this order must get the bits of *two*. It computes the gradient of one half, adds that of
# the other half to it, and only then updates: this is *gradient accumulation*.


def accumulate():
    """Train in one process, each batch in two halves."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights = []
    for start in list(range(0, 1280, 64)) * 3:
        weights.append(parameters_to_vector(model.parameters()).detach())
        for half in (slice(start, start + 32), slice(start + 32, start + 64)):
            loss = F.cross_entropy(model(images[half]), labels[half]) / 2
            loss.backward()  # adds to the gradient that is there
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(weights)


halves = launch(accumulate, nproc=1)[0]
print("two processes, and one that accumulates:", apart(weights_0, halves))
assert apart(weights_0, halves) == 0

# %%
# No bit differs. (The halves must be weighed by exactly a half, as they are.) So compare two processes with one by
# :func:`torch.testing.assert_close`, not by equality, and look for a mistake as soon as the difference is much larger than rounding.
#
# Is it faster?
# -------------
#
# Half a batch should take less time, but averaging takes time as well. Measure a whole batch, half of it and the averaging, for a small
# batch and for a large one; each number is the fastest of 30 tries.

import time


def fastest(work):
    """Return the milliseconds of the fastest of 30 tries."""
    times = []
    for _ in range(30):
        dist.barrier()  # all begin together
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


# %%


def milliseconds(size):
    """Return the time of a batch, of half of it, and of averaging."""
    model = build()
    x, y = images.repeat(3, 1)[:size], labels.repeat(3)[:size]
    F.cross_entropy(model(x), y).backward()
    of_all = fastest(lambda: gradient(model, x, y))
    of_half = fastest(lambda: gradient(model, x[: size // 2], y[: size // 2]))
    return of_all, of_half, fastest(lambda: average_gradients(model))


def measure():
    """Return the times for a small and for a large batch."""
    with world():
        return milliseconds(64), milliseconds(4096)


times = launch(measure, nproc=2)[0]
for size, (of_all, of_half, averaging) in zip((64, 4096), times):
    print(f"measured batch of {size:4}: whole {of_all:.2f} ms", end="")
    print(f", half {of_half:.2f} ms, averaging {averaging:.2f} ms")

# %%
# The gradient has as many numbers as the model, however large the batch is. So averaging has the same work to do for both sizes, while
# computing grows with the batch. Two processes pay where half a batch and the averaging together take less time than the whole batch. Add
# up the last two numbers of each line and compare. (Both processes measure at the same time here, and share the machine.) With a batch of
# 64 and so small a network half the batch takes hardly less time, because each operation has fixed costs.
#
# And if the shares are unequal?
# ------------------------------
#
# The last batch of an epoch has 40 digits, say, and rank 0 got 32 of them, rank 1 only 8. You expect that the average is right again.
# Try it, beside the remedy: each rank multiplies its gradient by its number of samples, and the sum of all is divided by the number of all
# samples.


def uneven():
    """Return the plain mean of two unequal shares' gradients, and the weighted one."""
    with world() as w:
        part = [slice(0, 32), slice(32, 40)][w.rank]
        plain = gradient(build(), images[part], labels[part])
        count = torch.tensor(float(len(images[part])))
        weighted = plain * count
        for tensor in (plain, weighted, count):
            dist.all_reduce(tensor)
    return plain / w.size, weighted / count


plain, weighted = launch(uneven, nproc=2)[0]
right = gradient(model, images[:40], labels[:40])
print(f"mean of the means: {error(plain, right):.1%} off")
print(f"weighted mean:     {error(weighted, right):.1%} off")
assert error(weighted, right) < 1e-5 < 0.1 < error(plain, right)

# %%
# In the plain mean each of the 8 digits counts :math:`\frac12 \cdot \frac18 = \frac1{16}`, each of the 32 only :math:`\frac1{64}`: the few
# count four times as much, without any error. The same happens with sentences of different lengths, where the loss is a mean
# over words: weigh by words.
#
# What is not averaged?
# ---------------------
#
# Only gradients are. A model can also have :term:`buffers <buffer>`, as the running averages of batch normalisation, which each process
# updates from its own share. Train one, with averaged gradients, and compare the ``state_dict`` of both ranks.


def with_batch_norm():
    """Train a model that has buffers; return all that it holds."""
    with world() as w:
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for start in range(0, 1280, 64):
            part = slice(start + 32 * w.rank, start + 32 * w.rank + 32)
            F.cross_entropy(model(images[part]), labels[part]).backward()
            average_gradients(model)
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


rank_0, rank_1 = launch(with_batch_norm, nproc=2)
for name in rank_0:
    print(f"{name:21} differs by {apart(rank_0[name], rank_1[name]):.3f}")
assert apart(rank_0["1.weight"], rank_1["1.weight"]) == 0
assert apart(rank_0["0.running_mean"], rank_1["0.running_mean"]) > 0.01

# %%
# All parameters agree, and yet in eval mode there are two different models. If each rank saved its own, they would give different
# predictions. The usual remedy is that one rank saves, and that all take the buffers of rank 0 before each forward pass; the next lesson's
# ``DistributedDataParallel`` does the latter.
#
# Batch normalisation breaks more than that. It uses the mean and the spread of the batch *that it sees*, so the halves are not normalised
# as the whole would be. Then our formula does not hold, because a sample's gradient depends on its neighbours:

torch.manual_seed(0)
normalised = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
whole_bn = gradient(normalised, images[:64], labels[:64])
first = gradient(normalised, images[:32], labels[:32])
second = gradient(normalised, images[32:64], labels[32:64])
print(f"with batch normalisation: {error((first + second) / 2, whole_bn):.1%} off")
assert error((first + second) / 2, whole_bn) > 0.01

# %%
# "Two processes equal one big batch" holds for models that treat each sample by itself and draw no random numbers. Batch normalisation
# does not, which often does little harm as long as the shares are not tiny. Otherwise take ``LayerNorm`` or ``GroupNorm``, which look at
# one sample at a time, or :class:`torch.nn.SyncBatchNorm`, which averages over all processes and runs on GPUs only.
#
# Must all begin alike?
# ---------------------
#
# Each process builds its own model. What if the seeds differ? Everyone adds the same averaged gradient, so you might hope that the copies,
# the *replicas*, grow alike. Run it, and once more with one new line: :func:`torch.distributed.broadcast` sends each tensor of rank 0 to
# all.


def broadcast(model):
    """Give every process the parameters and buffers of rank 0."""
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)


(lost_0, apart_0), (lost_1, apart_1) = launch(train, seeds=(0, 1), nproc=2)
(_, same_0), (_, same_1) = launch(train, seeds=(0, 1), prepare=broadcast, nproc=2)

# %%

# fold: the distance between the replicas over the updates
fig, ax = plt.subplots(figsize=(6.4, 2.8))
ax.plot((apart_0 - apart_1).norm(dim=1), "C1", label="seeds 0 and 1")
ax.plot((same_0 - same_1).norm(dim=1), "C0", label="the same, then broadcast")
ax.set(xlabel="update", ylabel="distance of replicas", ylim=(-0.3, None))
ax.legend(loc="center right")

# %%
# .. caption:: The length of the difference between the weights of rank 0 and rank 1. It stays what it was at the start, to the end, unless
#    rank 0 sends its weights to all before the first update.
#    :alt: Two level lines over 60 updates, one at about 7, the other at 0.
#
# Both replicas add the *same* vector to *different* weights, so the difference between them does not change. (With weight decay, which
# pulls each towards zero, it would shrink slowly.) And the vector is the gradient of neither:

distance = (apart_0 - apart_1).norm(dim=1)
print(f"distance {distance[0]:.3f} at the start, {distance[-1]:.3f} at the end")
for name, losses in [("seeds differ", (lost_0 + lost_1) / 2), ("one process", one)]:
    print(f"{name:13} mean loss in the last epoch {losses[-20:].mean():.2f}")
torch.testing.assert_close(distance[0], distance[-1])
assert apart(same_0, weights_0) == 0  # with broadcast: the first run again

# %%
# The loss falls, if more slowly; so this mistake is easily missed. The same seed on all ranks is not a safe remedy either. One more draw on
# one rank, to show a random sample perhaps, and the models differ:

torch.manual_seed(0)
sample = torch.randint(1280, (1,))  # only on rank 0
late = nn.Linear(64, 64)
for name, layer in [("rank 1", model[0]), ("rank 0, after the draw", late)]:
    print(f"first weight of {name}: {layer.weight[0, 0].item():.4f}")

# %%
# So broadcast at the start, and let the seeds differ afterwards. With the same seed, :term:`dropout` would switch off the same units for
# the first sample of each rank, for the second, and so on.
#
# Take this with you
# ------------------
#
# Broadcast once, average before every update. Put it into ``script.py`` with the imports, call ``main()`` at its end and start it with
# ``torchrun --nproc-per-node=2 script.py``. Your data and your model take the place of the zeros and ones and of the linear layer. On GPUs,
# say ``"nccl"`` instead of ``"gloo"`` and put model and data on the GPU of this rank.


def main():
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    x, y = torch.ones(64, 8)[rank::size], torch.zeros(64, 1)[rank::size]
    model = nn.Linear(8, 1)
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, src=0)
    F.mse_loss(model(x), y).backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad.div_(size))
    print(f"rank {rank} of {size}: {len(x)} samples of mine, gradients averaged")
    dist.destroy_process_group()


# %%
# Here, on two processes:

_ = launch(main, nproc=2)

# %%
# Change something
# ----------------
#
# * In ``average_gradients``, leave out the division. Do the two ranks still agree with each other? With one process?
# * Compute in double precision: ``build(seeds[w.rank]).double()`` and ``images.double()[start : start + 64]`` in ``train``. How far apart
#   are two processes and one now?
# * Let rank 1 stop early: ``if w.rank == 1 and start == 640: break`` as the first line of the loop in ``train``. What does rank 0 do?
#
# .. dropdown:: What happens
#
#    * With each other to the last bit; with one process no longer, and the assertion stops the page. The gradient is twice as long, as if
#      the learning rate were 1. By luck the loss even falls faster here. ``lr=0.25`` for two processes gives the old numbers back.
#    * About 4e-16 instead of 2e-07: twice as many digits, and still not the last bit. (The assertion about ``accumulate``, which still
#      computes in single precision, stops the page further down.)
#    * It waits in ``all_reduce`` for a gradient that never comes, until it notices that the connection is gone. ``launch`` raises a
#      ``LaunchError``: rank 0 raised "Connection reset by peer" (or "closed"), rank 1 "returned". All ranks must do the same number of
#      updates, so look for the rank that did *not* complain.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the learning rate
#
#    Four processes train with plain SGD and the learning rate 0.1, on 16 samples each. They add up their gradients and forget the division.
#    One process sees all 64 samples. With which learning rate does it get the same weights?

### BEGIN SOLUTION
guess = 0.4
### END SOLUTION

four = [
    gradient(model, x, y) for x, y in zip(images[:64].chunk(4), labels[:64].chunk(4))
]
step = 0.1 * sum(four)
expect(guess, (step.norm() / whole.norm()).item(), rtol=1e-3)

# %%
# .. exercise:: Fix the weighting
#
#    A library divides the sum of all gradients by the number of processes, and you cannot change that. Your shares are unequal. So
#    you multiply each rank's mean loss by a factor before ``backward``. A colleague takes the rank's share of all samples,
#    ``counts[rank] / sum(counts)``, and all updates are too small. Write ``factor``, with which the library's result is right.


def factor(counts, rank):
    ### BEGIN SOLUTION
    return counts[rank] * len(counts) / sum(counts)
    ### END SOLUTION


def library():
    """Average three scaled gradients of unequal shares."""
    counts = [20, 8, 12]
    parts = zip(images[:40].split(counts), labels[:40].split(counts))
    scaled = [
        factor(counts, r) * gradient(model, x, y) for r, (x, y) in enumerate(parts)
    ]
    return sum(scaled) / len(scaled)


expect(library, right)

# %%
# .. exercise:: Build a clipped update
#
#    Training clips gradients: if the length of the gradient is above ``limit``, it is scaled down to that length. Someone clips on
#    every rank and averages then, and the result is not that of one process. Write ``clipped``: it takes the list of all ranks' gradients
#    and returns what every rank should use.


def clipped(gradients, limit):
    ### BEGIN SOLUTION
    mean = sum(gradients) / len(gradients)
    return mean * min(1.0, limit / mean.norm().item())
    ### END SOLUTION


ranks = [torch.tensor([6.0, 0.0]), torch.tensor([0.0, 2.0])]
expect(lambda: clipped(ranks, limit=1.0), torch.tensor([3.0, 1.0]) / 10**0.5)
expect(lambda: clipped(ranks, limit=5.0), torch.tensor([3.0, 1.0]))
