r"""
Processes and collectives
=========================

Start several processes, let them exchange tensors, and name the collective operation that a piece of distributed training needs.

.. lesson::
   :needs: tensors/07_views_and_storage
   :data: none
   :alone:
"""

# %%
# Who is running this line?
# -------------------------
#
# A second process is a second Python: its own memory, its own variables, its own copy of your function. Start three.

import torch
import torch.distributed as dist
from pytorch_course.distributed import launch, world

secret = torch.zeros(1)


def hello():
    """Say who I am, and change a global variable."""
    with world() as w:
        secret.add_(w.rank + 1)
        print(f"I am rank {w.rank} of {w.size}; secret is now {secret.item():.0f}")
        return w.rank


# %%
# ``launch`` starts real processes and brings back what each of them printed and returned. Inside, ``world`` does what every distributed
# program does first. The processes meet at an agreed address, the **rendezvous**; they learn how many they are, the **world size**; and
# each gets a number, its **rank**. In the same call each of them runs four collective operations, which we look at one by one.


def tour():
    """Run each collective once on small tensors and return what every rank holds before and after."""
    rank = hello()
    with world() as w:
        mine = torch.tensor([1.0, 2.0, 3.0]) * 10**w.rank  # rank 0: 1 2 3, rank 1: 10 20 30, rank 2: 100 200 300
        held = {"start": mine.tolist()}
        dist.broadcast(copy := mine.clone(), src=0)
        held["broadcast"] = copy.tolist()
        dist.all_reduce(total := mine.clone())
        held["all_reduce"] = total.tolist()
        dist.all_gather_into_tensor(everything := torch.empty(3 * w.size), mine)
        held["all_gather"] = everything.tolist()
        dist.reduce_scatter_tensor(part := torch.empty(3 // w.size), mine)
        held["reduce_scatter"] = part.tolist()
    return rank, held


# %%
# Both functions run in one launch. Keep an eye on ``secret``.

results = launch(tour, nproc=3)
ranks = [rank for rank, _ in results]
held = [holding for _, holding in results]

print("in this process, secret is", secret.item())
assert ranks == [0, 1, 2]
assert secret.item() == 0

# %%
# Three processes changed ``secret``, and here it is still zero. Each worked on its own copy. Nothing is shared by accident, so everything
# that one process should know from another has to be *sent*, and sending is what collectives do.
#
# What does each collective send?
# -------------------------------
#
# All ranks call the same function at the same point of the program. The picture shows who holds what before and after.

import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
names = ["start", "broadcast", "all_reduce", "all_gather", "reduce_scatter"]
colours = ["#56B4E9", "#E69F00", "#009E73"]
fig, axes = plt.subplots(3, len(names), figsize=(9, 2.6))
for rank, row in enumerate(axes):
    for ax, name in zip(row, names):
        ax.axis("off")
        ax.text(0.5, 0.5, " ".join(f"{value:.0f}" for value in held[rank][name]), ha="center", va="center", wrap=True,
                fontsize=9, bbox={"facecolor": colours[rank], "alpha": 0.35, "boxstyle": "round"})  # fmt: skip
        if rank == 0:
            ax.set_title(name, fontsize=10)
    row[0].text(-0.35, 0.5, f"rank {rank}", ha="right", va="center", fontsize=10)

# %%
# .. caption:: What each rank holds at the start and after each collective. A row is a process.
#    :alt: A table of three rows, the ranks 0 to 2. At the start they hold 1 2 3, 10 20 30 and 100 200 300. After broadcast all hold 1 2
#       3; after all_reduce all hold 111 222 333; after all_gather all hold the nine numbers; after reduce_scatter rank 0 holds 111, rank
#       1 222 and rank 2 333.
#
# Say each in one sentence, and check it against the numbers.

starts = [torch.tensor(holding["start"]) for holding in held]
for rank, holding in enumerate(held):
    assert holding["broadcast"] == held[0]["start"]  # everyone gets what one rank had
    assert holding["all_reduce"] == sum(starts).tolist()  # everyone gets the sum
    assert holding["all_gather"] == torch.cat(starts).tolist()  # everyone gets everything
    assert holding["reduce_scatter"] == [sum(starts)[rank].item()]  # each gets one piece of the sum
print("four collectives do what their names say, on", len(held), "ranks")

# %%
# Look at the last two again. ``reduce_scatter`` gives each rank its piece of the sum; ``all_gather`` hands all pieces to everyone. One
# after the other they are an ``all_reduce``. That is more than a curiosity: it is how the fast version works.
#
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
# How does the sum get everywhere?
# --------------------------------
#
# The obvious way: everyone sends everything to rank 0, which adds and sends back. With :math:`p` ranks and :math:`n` numbers, rank 0
# moves :math:`2(p-1)n` numbers while the others wait. The **ring** is better :cite:p:`patarasuk2009`. Cut the tensor into :math:`p`
# pieces. In each round every rank passes one piece to its right neighbour and adds the piece from its left. After :math:`p-1` rounds each
# rank holds one finished piece; :math:`p-1` more rounds pass the finished pieces around. Every rank moves
#
# .. math:: 2\,\frac{p-1}{p}\,n
#
# numbers, which is less than :math:`2n` however many ranks there are. Here it is by hand, with plain sends and receives.


def exchange(piece, w):
    """Send a piece to the right neighbour and return the one from the left."""
    received = torch.empty_like(piece)
    right, left = (w.rank + 1) % w.size, (w.rank - 1) % w.size
    requests = dist.batch_isend_irecv([dist.P2POp(dist.isend, piece, right), dist.P2POp(dist.irecv, received, left)])
    for request in requests:
        request.wait()
    return received


# %%
# A rank that only sent would wait for a neighbour that only sends, for ever; ``batch_isend_irecv`` starts both at once. Now the two
# halves of the ring.


def ring_all_reduce(tensor, w):
    """Sum a tensor over all ranks in place; return how many numbers this rank sent."""
    pieces, sent = list(tensor.chunk(w.size)), 0
    for turn in range(2 * (w.size - 1)):
        outgoing = (w.rank - turn) % w.size  # in the second half these are the finished pieces
        received = exchange(pieces[outgoing].clone(), w)
        sent += received.numel()
        incoming = pieces[(outgoing - 1) % w.size]
        incoming.copy_(incoming + received if turn < w.size - 1 else received)
    return sent


# %%
# ``chunk`` returns views, so adding into a piece adds into the tensor. In the same launch rank 0 starts a child of its own, for a
# question further down.


def both():
    """Compare the ring with the library, and let rank 0 show shared memory."""
    with world() as w:
        tensor = torch.randn(12, generator=torch.Generator().manual_seed(w.rank))
        by_library = tensor.clone()
        dist.all_reduce(by_library)
        sent = ring_all_reduce(tensor, w)
        same = torch.allclose(tensor, by_library, atol=1e-6)
        everyone = w.gather(tensor.tolist())
    return same, sent, everyone, shared_memory() if w.main else None


# %%
# The child gets two tensors. One lies in ordinary memory, the other in memory that processes can share.


def shared_memory():
    """Let a child process add one to two tensors, of which only one is in shared memory."""
    private, shared = torch.zeros(3), torch.zeros(3).share_memory_()

    def add_one():
        private.add_(1)
        shared.add_(1)

    child = torch.multiprocessing.get_context("fork").Process(target=add_one)
    child.start()
    child.join()
    return private.tolist(), shared.tolist()


# %%
# Now run it, and compare with the formula for three ranks and twelve numbers.

results = launch(both, nproc=3)
sent = [count for _, count, _, _ in results]
print("the ring agrees with all_reduce:", [same for same, _, _, _ in results])
print("numbers sent by each rank:", sent)
assert all(same for same, _, _, _ in results)
assert sent == [2 * (3 - 1) * 12 // 3] * 3

# %%
# Did all ranks end with the *same bits*, or only with nearly the same sum? Floats added in another order differ in the last digit, and if
# replicas of a model disagreed in the last digit they would drift apart. In a ring each piece is finished on one rank and then copied, so
# all agree to the bit.

everyone = results[0][2]
assert everyone[0] == everyone[1] == everyone[2]
print("all ranks hold identical bits")

# %%
# As a picture: what the busiest rank moves when the world grows.

sizes = torch.arange(2, 65)
fig, ax = plt.subplots()
ax.plot(sizes, 2 * (sizes - 1), label="through rank 0")
ax.plot(sizes, 2 * (sizes - 1) / sizes, label="ring")
ax.set(xlabel="ranks", ylabel="tensors moved", yscale="log")
ax.legend()

# %%
# .. caption:: Numbers moved by the busiest rank, counted in whole tensors. Through one rank the load grows with the world; in a ring it
#    never reaches two.
#    :alt: Two curves over 2 to 64 ranks on a logarithmic axis. One climbs from 2 to above 100; the other stays between 1 and 2.
#
# Can processes share memory after all?
# -------------------------------------
#
# On one machine, if you ask for it. :meth:`torch.Tensor.share_memory_` moves a tensor's storage to a place that child processes see too;
# this is what ``torch.multiprocessing`` adds to Python's module, and how a data loader's workers hand over batches without copying. The
# child above added one to both tensors.

private, shared = results[0][3]
print("private", private, "  shared", shared)
assert private == [0, 0, 0]
assert shared == [1, 1, 1]

# %%
# .. admonition:: From practice
#
#    The child was made by *fork*, a copy of a running process. It is safe there because that process had computed nothing with several
#    threads yet. Fork a process whose thread pool is at work, and the copy may wait for ever for threads that it does not have. That is
#    why ``launch`` starts fresh processes, and why the child is made inside one of them.
#
# How does this run on a real machine?
# ------------------------------------
#
# The functions stay as they are. In a script of your own, call ``both()`` at the end and start it with ``torchrun --nproc-per-node=3
# script.py``: torchrun sets ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``, and ``world`` (which calls
# :func:`torch.distributed.init_process_group`) reads them. On GPUs the messages travel by NCCL, here by gloo. The words do not change.
#
# Change something
# ----------------
#
# * Give ``all_reduce`` the argument ``op=dist.ReduceOp.MAX``. What does every rank hold? Predict all three numbers.
# * Launch ``both`` with ``nproc=2``. How many numbers does each rank send now? Use the formula first.
# * Let rank 1 leave ``tour`` before the ``all_reduce`` (``if w.rank == 1: return rank, held``). What do the others do, and who tells you?
#
# Exercises
# ---------
#
# 1. Write ``all_reduce`` with ``reduce_scatter_tensor`` and ``all_gather_into_tensor`` only, and check it against the library.
# 2. Each rank has a loss and a number of samples: 2.0 on 30 samples, 5.0 on 10. What is the mean loss over all samples, and which two
#    numbers do the ranks have to sum to get it?
# 3. Every rank calls ``torch.manual_seed(0)`` and draws its weights. Are the replicas equal? Which extra line on one rank would break
#    that, and which collective mends it?
#
# .. dropdown:: Answers
#
#    1. Pad to a multiple of the world size; scatter the sum into a piece; gather the pieces.
#    2. 2.75. The sum of ``loss * samples`` and the sum of ``samples``; the mean of means, 3.5, is wrong.
#    3. Equal, until one rank draws one more number first. ``broadcast`` from rank 0.
