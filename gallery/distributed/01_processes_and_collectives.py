r"""
Processes and collectives
=========================

Start several processes, let them work on one problem, and name the operation by which
they agree.

.. lesson::
   :needs: tensors/07_views_and_storage
   :data: none
   :keywords: torch.distributed, multiprocessing, rank, world size, rendezvous, gloo,
      NCCL, init_process_group, broadcast, all-reduce, all-gather, reduce-scatter, ring
      all-reduce, share_memory, torchrun, MASTER_ADDR
   :thumbnail: 1
   :alone:
"""

# %%
# How do three workers find one average?
# --------------------------------------
#
# Three workers train one model. Each computes the gradient of its own third of the data, and before every step they need the mean of
# the three. That is the whole difficulty of distributed training, and it has nothing to do with networks. So take plain numbers:
# thirty thousand of them, each worker knows the mean of its third, and they must agree on one. Here are three real processes:

import torch
import torch.distributed as dist
from pytorch_course.distributed import launch


def mean_of_my_third(numbers):
    """Return the mean of every third number, beginning at this worker's own."""
    dist.init_process_group("gloo")  # meet the others
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = numbers[rank::size].mean()
    print(f"I am rank {rank} of {size}, my mean is {mine:.4f}")

    together = mine.clone()
    dist.all_reduce(together)  # afterwards it holds the sum over all workers
    dist.destroy_process_group()
    return mine.item(), together.item() / size


numbers = torch.randn(30_000, generator=torch.Generator().manual_seed(0)) + 5
results = launch(mean_of_my_third, numbers, nproc=3)

# %%
# ``launch`` started three processes, each with a copy of the function, and brought back what they printed and returned. The processes
# met at an agreed address, the :term:`rendezvous`; they learnt how many they are, the :term:`world size`, and each got a
# number, its :term:`rank <rank (process)>`. One line, ``all_reduce``, then gave
# everybody the sum. Dividing it by three is right because the three shares are equally large:

for rank, (alone, together) in enumerate(results):
    print(f"rank {rank}: alone {alone:.4f}, together {together:.4f}")
print(f"one process: {numbers.mean():.4f}")
assert len({together for _, together in results}) == 1
torch.testing.assert_close(torch.tensor(results[0][1]), numbers.mean())

# %%
# Is anything shared by accident?
# -------------------------------
#
# No. You expect that a variable of the module is the same for all; but a second process is a second Python, with its own memory and
# its own copy of everything.

secret = torch.zeros(1)


def change_the_secret():
    """Add to a global variable and say what it is now."""
    secret.add_(7)
    print("secret is", secret.item())


launch(change_the_secret, nproc=2)
print("in this process, secret is", secret.item())
assert secret.item() == 0

# %%
# Both changed a copy. So what one process should know from another has to be *sent*, and sending in step is what
# :term:`collectives <collective>` do: all ranks call the same function at the same point of the program. The three lines that begin
# and end such a program are always the same, and
# ``world`` of the helper package stands for them:
#
# .. code-block:: python
#
#    with world() as w:          # init_process_group, and a device
#        ...                     # w.rank, w.size
#                                # destroy_process_group, also after an error
#
# What does each collective send?
# -------------------------------
#
# Rank 0 begins with 1 2 3, rank 1 with 10 20 30, rank 2 with 100 200 300. ``broadcast`` gives everybody what one rank has,
# ``all_reduce`` the sum, ``all_gather`` everything, and ``reduce_scatter`` to each a piece of the sum. (The names with
# ``_into_tensor`` and ``_tensor`` are the forms that fill one tensor.) Guess the numbers.

from pytorch_course.distributed import world


def tour():
    """Run each collective once and return what this rank holds before and after."""
    with world() as w:
        mine = torch.tensor([1.0, 2.0, 3.0]) * 10**w.rank
        copy, total = mine.clone(), mine.clone()
        everything, piece = torch.empty(3 * w.size), torch.empty(1)
        dist.broadcast(copy, src=0)
        dist.all_reduce(total)
        dist.all_gather_into_tensor(everything, mine)
        dist.reduce_scatter_tensor(piece, mine)
    return [t.tolist() for t in (mine, copy, total, everything, piece)]


names = ["start", "broadcast", "all_reduce", "all_gather", "reduce_scatter"]
held = launch(tour, nproc=3)

# %%

# fold: a table of what every rank holds
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(5, 1, figsize=(7, 3.8))
for operation, (ax, name) in enumerate(zip(axes, names)):
    ax.axis("off")
    ax.text(0, 0.5, name, va="center", fontsize=10, fontweight="bold")
    for rank in range(3):
        values = held[rank][operation]
        box = {"facecolor": f"C{rank}", "alpha": 0.25, "boxstyle": "round"}
        words = " ".join(f"{value:.0f}" for value in values).replace(" 10 ", "\n10 ")
        words = words.replace(" 100 ", "\n100 ")
        place = 0.32 + 0.27 * rank
        ax.text(place, 0.5, words, ha="center", va="center", fontsize=8, bbox=box)
        if operation == 0:
            ax.set_title("")
            ax.text(place, 1.3, f"rank {rank}", ha="center", fontsize=10)

# %%
# .. caption:: What each rank holds at the start and after each collective. A column is a process.
#    :alt: A table with a column for each of the ranks 0 to 2. At the start they hold 1 2 3, 10 20 30 and 100 200 300. After broadcast all
#       hold 1 2 3; after all_reduce all hold 111 222 333; after all_gather all hold the nine numbers; after reduce_scatter rank 0 holds
#       111, rank 1 222 and rank 2 333.
#
# Each in one sentence, checked against the numbers:

starts = torch.tensor([start for start, *_ in held])
for rank, (_, copy, total, everything, piece) in enumerate(held):
    assert copy == starts[0].tolist()  # broadcast: everyone gets what one rank had
    assert total == starts.sum(0).tolist()  # all_reduce: everyone gets the sum
    assert (
        everything == starts.flatten().tolist()
    )  # all_gather: everyone gets everything
    assert piece == [
        starts.sum(0)[rank].item()
    ]  # reduce_scatter: each a piece of the sum
    print(f"rank {rank} after reduce_scatter: {piece}")

# %%
# ======================  =============================================================
# you want                operation
# ======================  =============================================================
# the same start weights  :func:`torch.distributed.broadcast`
# the mean gradient       :func:`torch.distributed.all_reduce`, then divide by world size
# all predictions         :func:`torch.distributed.all_gather`
# a slice of the sum      :func:`torch.distributed.reduce_scatter`
# to wait for everyone    :func:`torch.distributed.barrier`
# ======================  =============================================================
#
# Look at the last two of the picture again. ``reduce_scatter`` gives each rank its piece of the sum; ``all_gather`` would hand the
# pieces to everyone. One after the other they are an ``all_reduce``, and that is how the fast version works.
#
# How does the sum get everywhere?
# --------------------------------
#
# The obvious way: everyone sends everything to rank 0, which adds and sends back. With :math:`p` ranks and :math:`n` numbers rank 0
# has to send :math:`(p-1)n` numbers, while the others wait. The **ring** is better :cite:p:`patarasuk2009`. Cut the tensor into
# :math:`p` pieces. In each round every rank passes one piece to its right neighbour and adds the piece from its left. After
# :math:`p-1` rounds each rank holds one finished piece; :math:`p-1` more rounds pass the finished pieces around. Every rank sends
#
# .. math:: 2\,\frac{p-1}{p}\,n
#
# numbers: less than :math:`2n`, however many ranks there are.

# fold: numbers sent by the busiest rank
sizes = torch.arange(2, 65)
fig, ax = plt.subplots(figsize=(6, 2.8))
ax.plot(sizes, sizes - 1, label="through rank 0")
ax.plot(sizes, 2 * (sizes - 1) / sizes, label="ring")
ax.set(xlabel="ranks", ylabel="tensors sent", yscale="log")
ax.legend()

# %%
# .. caption:: What the busiest rank sends, in whole tensors. Two ranks send the same either way. Then one load grows with the world,
#    and the other never reaches two.
#    :alt: Two curves over 2 to 64 ranks on a logarithmic axis. Both begin at 1. One climbs to 63; the other stays below 2.
#
# Here is the ring by hand, with plain sends and receives. A rank that only sent would wait for a neighbour that only sends, for ever;
# ``batch_isend_irecv`` starts both at once.


def exchange(piece, rank, size):
    """Send a piece to the right neighbour and return the one from the left."""
    received = torch.empty_like(piece)
    sending = dist.P2POp(dist.isend, piece, (rank + 1) % size)
    receiving = dist.P2POp(dist.irecv, received, (rank - 1) % size)
    for request in dist.batch_isend_irecv([sending, receiving]):
        request.wait()
    return received


# %%
# Now the two halves of the ring:


def ring_all_reduce(tensor, rank, size):
    """Sum a tensor over all ranks in place; return how many numbers this rank sent."""
    pieces = tensor.chunk(size)  # views: adding into a piece adds into the tensor
    sent = 0
    for turn in range(2 * (size - 1)):
        number = (rank - turn) % size
        received = exchange(pieces[number].clone(), rank, size)
        sent += received.numel()
        incoming = pieces[(number - 1) % size]
        if turn < size - 1:
            incoming.add_(received)  # first half: collect sums
        else:
            incoming.copy_(received)  # second half: hand out finished pieces
    return sent


# %%
# Compare the ring with the library, on three ranks and twelve numbers. The order of the additions differs, so the last digit may:


def compare():
    """Return the ring's sum, the library's, and how many numbers the ring sent."""
    with world() as w:
        mine = torch.Generator().manual_seed(w.rank)
        tensor = torch.randn(12, generator=mine)
        by_library = tensor.clone()
        dist.all_reduce(by_library)
        sent = ring_all_reduce(tensor, w.rank, w.size)
    return tensor, by_library, sent


results = launch(compare, nproc=3)
for rank, (by_hand, by_library, sent) in enumerate(results):
    difference = (by_hand - by_library).abs().max()
    print(f"rank {rank} sent {sent} numbers, largest difference {difference:.0e}")
    torch.testing.assert_close(by_hand, by_library)
    assert sent == 2 * (3 - 1) * 12 // 3

# %%
# Do all ranks of our ring end with the *same bits*, or with nearly the same sum? Floats added in another order differ in the last
# digit, and replicas of a model that disagree there drift apart. In a ring each piece is finished on one rank and then copied.

first = results[0][0]
apart = max((by_hand - first).abs().max().item() for by_hand, _, _ in results)
print("largest difference between two ranks:", apart)
assert apart == 0

# %%
# Can processes share memory after all?
# -------------------------------------
#
# On one machine, if you ask for it. :meth:`torch.Tensor.share_memory_` moves a tensor's storage to a place that child processes see
# too; so workers of a data loader use it to hand over batches without copying. Here a child adds one to two tensors, of which one is in
# shared memory.


def shared_memory():
    """Return two tensors after a child process has added one to both."""
    private, shared = torch.zeros(3), torch.zeros(3).share_memory_()

    def add_one():
        private.add_(1)
        shared.add_(1)

    context = torch.multiprocessing.get_context("fork")
    child = context.Process(target=add_one)
    child.start()
    child.join()
    return private.tolist(), shared.tolist()


((private, shared),) = launch(shared_memory, nproc=1)
print("private", private, "  shared", shared)
assert private == [0, 0, 0] and shared == [1, 1, 1]

# %%
# .. admonition:: From practice
#
#    The child was made by *fork*, a copy of a running process. That is safe here because the process had computed nothing with several
#    threads yet. Fork a process whose threads are at work, and the copy may wait for ever for threads that it does not have. That is why
#    ``launch`` forks its ranks from a fresh process that has only imported torch, and why the child is made inside one of them.
#
# Take this with you
# ------------------
#
# The skeleton of every distributed program. Put it into ``script.py``, call ``main()`` at its end and start it with ``torchrun
# --nproc-per-node=3 script.py``, which sets the address, the rank and the world size. ``gloo`` carries
# tensors between CPUs. On GPUs say ``"nccl"`` and put the tensor on the GPU of this rank.


def main():
    """Average one number over all processes."""
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    value = torch.tensor(float(rank))
    dist.all_reduce(value)
    if rank == 0:
        print(f"mean over {size} processes: {value.item() / size}")
    dist.destroy_process_group()


# %%
# Here, on two processes:

_ = launch(main, nproc=2)

# %%
# Change something
# ----------------
#
# * Give ``all_reduce`` in ``tour`` the argument ``op=dist.ReduceOp.MAX``. Predict what every rank holds.
# * Launch ``compare`` with ``nproc=2``. How many numbers does each rank send now? Use the formula first.
# * Let rank 1 leave ``tour`` before the ``all_reduce``: ``if w.rank == 1: return``. What do the others do, and who tells you?
#
# .. dropdown:: What happens
#
#    * 100 200 300 on every rank, the largest at each place. The assertion about the sum stops the page.
#    * Twelve: with two ranks both ways send one whole tensor. The assertion, which counts on three ranks, stops the page.
#    * ``launch`` raises a ``LaunchError`` at once: rank 0 "Connection closed by peer", rank 1 "returned", rank 2 "lost contact with
#      another rank". Two ranks ask for a third that is gone. The one to look at is the one that did *not* complain: rank 1 returned
#      too early.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a reduce_scatter
#
#    Four ranks hold 8 numbers each: rank 0 eight ones, rank 1 eight twos, rank 2 eight threes, rank 3 eight fours. What does rank 1
#    hold after
#    ``reduce_scatter_tensor``? Write a list.

### BEGIN SOLUTION
guess = [10.0, 10.0]
### END SOLUTION

ranks = torch.tensor([[1.0], [2.0], [3.0], [4.0]]).expand(4, 8)
expect(guess, ranks.sum(0).chunk(4)[1].tolist())

# %%
# .. exercise:: Fix a mean of means
#
#    Each rank has a mean loss and a number of samples. A colleague all-reduces the losses and divides by the world size; with 2.0 on
#    30 samples and 5.0 on 10 that gives 3.5, and it is wrong. Write ``mean_loss``; every rank calls it with its own two numbers,
#    between
#    ``init_process_group`` and ``destroy_process_group``.


def mean_loss(loss, samples):
    ### BEGIN SOLUTION
    sums = torch.tensor([loss * samples, samples])
    dist.all_reduce(sums)
    return (sums[0] / sums[1]).item()
    ### END SOLUTION


def on_two_ranks():
    def rank_main():
        with world() as w:
            return mean_loss(*[(2.0, 30.0), (5.0, 10.0)][w.rank])

    return launch(rank_main, nproc=2)


expect(on_two_ranks, [2.75, 2.75])

# %%
# .. exercise:: Build all_reduce from two halves
#
#    Write ``all_reduce`` with :func:`torch.distributed.reduce_scatter_tensor` and :func:`torch.distributed.all_gather_into_tensor`
#    only. It returns the sum over all ranks; the length of ``tensor`` is a multiple of the world size.


def all_reduce(tensor, size):
    ### BEGIN SOLUTION
    piece = torch.empty(len(tensor) // size)
    dist.reduce_scatter_tensor(piece, tensor)
    total = torch.empty_like(tensor)
    dist.all_gather_into_tensor(total, piece)
    return total
    ### END SOLUTION


def from_two_halves():
    def rank_main():
        with world() as w:
            return all_reduce(torch.arange(6.0) + w.rank, w.size)

    return launch(rank_main, nproc=2)[1]


expect(from_two_halves, 2 * torch.arange(6.0) + 1)
