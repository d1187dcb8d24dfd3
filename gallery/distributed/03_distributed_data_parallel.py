r"""
DistributedDataParallel
=======================

Let PyTorch average the gradients, deal the data to the processes, and start them on one
machine or on many.

.. lesson::
   :needs: distributed/02_data_parallel_by_hand training/05_saving_and_resuming
   :data: scikit-learn's handwritten digits
   :keywords: DDP, DistributedDataParallel, DataParallel, multi-GPU, multi-node, several
      machines, DistributedSampler, set_epoch, no_sync, gradient accumulation,
      find_unused_parameters, Expected to have finished reduction in the prior iteration
      before starting a new one, module prefix, Missing key(s) in state_dict, local
      rank, node rank, LOCAL_RANK, RANK, WORLD_SIZE, MASTER_ADDR, env://, mp.spawn,
      torch.distributed.launch, args.distributed, torchrun, nccl
   :thumbnail: 2
   :alone:
"""

# %%
# Can I have that in one line?
# ----------------------------
#
# Your training runs on one process. You would like to use two, and to change as little as possible. In the last lesson you sent the weights
# of rank 0 to all, and averaged the gradients before every update. :class:`~torch.nn.parallel.DistributedDataParallel`, DDP for short, does
# both: you wrap the model, and the loop stays as it is. Train once by hand and once with DDP, with another seed on each rank:

import copy

import torch
import torch.distributed as dist
from pytorch_course.datasets import digits
from pytorch_course.distributed import launch, world
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parameters_to_vector

images, labels = digits().tensors
images = images.flatten(1)  # 1797 digits of 64 pixels

# %%


def train(model, w, by_hand=False):
    """Train on this process's half of each of 20 batches; return all weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for x, y in zip(images[:1280].split(64), labels[:1280].split(64)):
        x, y = x.chunk(w.size)[w.rank], y.chunk(w.size)[w.rank]
        F.cross_entropy(model(x), y).backward()
        if by_hand:  # as in the lesson before
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= w.size
        optimizer.step()
        optimizer.zero_grad()
    return parameters_to_vector(model.parameters()).detach()


# %%


def compare():
    with world() as w:
        torch.manual_seed(w.rank)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        ddp = DistributedDataParallel(model)  # now all have rank 0's weights
        twin = copy.deepcopy(model)
        return train(ddp, w), train(twin, w, by_hand=True)


(ddp_0, hand_0), (ddp_1, hand_1) = launch(compare, nproc=2)
print("DDP against by hand:", (ddp_0 - hand_0).abs().max().item())
assert torch.equal(ddp_0, ddp_1) and torch.equal(ddp_0, hand_0)

# %%
# Not one bit differs. (With more than two processes the sums may be taken in another order, and then the last
# digits differ.) DDP also gives all ranks the :term:`buffers <buffer>` of rank 0, before each forward pass.
#
# When does it send?
# ------------------
#
# By hand, each process first computes all gradients and then sends them; while it sends, it does not compute. DDP starts earlier. It
# collects parameters in *buckets*, and as soon as all gradients of a bucket are there, it sends the bucket, while the backward
# pass goes on :cite:p:`li2020`. Watch it: a hook on each weight writes into a list when its gradient is there, and one on the sending
# (``register_comm_hook``) when a bucket leaves. ``bucket_cap_mb`` makes the buckets tiny, so that there are several; the default is 25 MB.

from contextlib import nullcontext

from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


def watched(log):
    """Return a model with DDP that writes into a list what happens when."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])

    def note(number):
        return lambda weight: log.append(f"gradient {number}")

    for number, layer in enumerate(model):
        layer.weight.register_post_accumulate_grad_hook(note(number))

    def send(group, bucket):
        log.append(f"send {bucket.index()}")
        return allreduce_hook(group, bucket)

    ddp = DistributedDataParallel(model, bucket_cap_mb=0.01)
    ddp.register_comm_hook(None, send)
    return ddp


# %%


def four_passes(quiet=0):
    """Run four backward passes; return what happened, and the gradient."""
    log = []
    with world() as w:
        ddp = watched(log)
        for number in range(4):
            start = 64 * number + 32 * w.rank
            x, y = images[start : start + 32], labels[start : start + 32]
            with ddp.no_sync() if number < quiet else nullcontext():
                F.cross_entropy(ddp(x), y).backward()
    return log, parameters_to_vector([p.grad for p in ddp.parameters()])


both = launch(lambda: (four_passes(), four_passes(quiet=3)), nproc=2)[0]
(log, loud), (few, quiet) = both
print(*log[-8:], sep=", ")
assert log[-8:].index("send 0") < log[-8:].index("gradient 0")

# %%
# This is the last of four passes. (In the first one DDP only learns in which order the gradients come, and it sends one bucket at the end.
# ``quiet=3`` is for later.) The gradients come from the last layer to the first. Each bucket leaves while gradients of earlier layers are
# still to come, all but the last one.
#
# Who gets which sample?
# ----------------------
#
# With ``chunk`` you dealt each batch by hand. ``DistributedSampler`` deals a whole data set: it shuffles the numbers of all samples, in the
# same way on every rank, and takes each second one, beginning at its rank. You pass it to the ``DataLoader`` as ``sampler``. In a
# process group it finds out rank and size by itself; here we tell it, so that one process can play all ranks. Deal 11 samples to two
# ranks, in three epochs:

from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def deal(set_epoch):
    """Return for three epochs which samples rank 0 and rank 1 get."""
    epochs = []
    samplers = [DistributedSampler(range(11), num_replicas=2, rank=r) for r in (0, 1)]
    for epoch in range(3):
        if set_epoch:
            for sampler in samplers:
                sampler.set_epoch(epoch)
        epochs.append([list(sampler) for sampler in samplers])
    return epochs


stale, fresh = deal(set_epoch=False), deal(set_epoch=True)
for epoch in range(3):
    print(f"rank 0, epoch {epoch}: {stale[epoch][0]}, with set_epoch {fresh[epoch][0]}")
assert stale[0] == stale[1] == stale[2] and fresh[0] != fresh[1] != fresh[2]

# %%

# fold: which rank gets which sample in which epoch
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, axes = plt.subplots(1, 2, figsize=(7, 2.4), sharey=True)
for ax, epochs, title in zip(axes, (stale, fresh), ("without set_epoch", "with")):
    for epoch, (first, second) in enumerate(epochs):
        for place, sample in enumerate(first + second):
            edge = "black" if sample in first and sample in second else "none"
            box = {"facecolor": (f"C{place // 6}", 0.25), "edgecolor": edge, "pad": 2}
            ax.text(place + place // 6, epoch, f"{sample:2}", ha="center", bbox=box)
    ax.set(xticks=[2.5, 9.5], xticklabels=["rank 0", "rank 1"], yticks=range(3))
    ax.set(xlim=(-1, 13), ylim=(2.5, -0.7), title=title, ylabel="epoch")

# %%
# .. caption:: Which samples the two ranks get, in their order; a row is an epoch. Without ``set_epoch`` (left) all rows are the same. A
#    black frame marks the sample that both ranks get.
#    :alt: Two tables with three rows each; every row has six numbers of rank 0 and six of rank 1. Left, the rows are equal; right, they
#       differ. In each row one number stands twice, framed.
#
# You expect that ``shuffle=True``, the default of the sampler, shuffles anew for every epoch. It does not: the order follows from the seed
# and the number of the epoch, and nobody told the sampler that a new epoch has begun. Nothing fails; the model only sees the same batches
# again and again. So call ``set_epoch`` at the start of each epoch.
#
# Eleven is odd, but all ranks must do equally many updates, or one would wait for the others in vain. So the sampler fills up with a
# sample that it has dealt already:

first, second = fresh[0]
print(len(first), "+", len(second), "dealt,", len(set(first + second)), "different")
assert len(first) == len(second) and set(first + second) == set(range(11))

# %%
# (``drop_last=True`` leaves one out instead.) For training either is fine. For a test accuracy it is not: a sample counts twice, or not
# at all. Deal the test set yourself, without repeats, and add up hits and counts with ``all_reduce``. Ask ``ddp.module`` then, not
# ``ddp``: the wrapper sends buffers before each forward pass, and would wait for ranks that have fewer batches.
#
# One more surprise: the ``batch_size`` of a loader is that of *one process*. With 32 each, two processes make updates from 64 samples, and
# half as many of them. Divide the batch size by the number of processes, or expect to tune the learning rate again :cite:p:`goyal2017`.
#
# How do I accumulate?
# --------------------
#
# When a batch does not fit into memory, you call ``backward`` for parts of it (each loss divided by their number) and update once:
# *gradient accumulation*. DDP sends in each ``backward``, though only the sum at the end matters. Inside ``ddp.no_sync()`` it keeps
# quiet. ``four_passes`` with ``quiet=3`` did the first three passes that way; forward and backward must both be in the block.

for name, events in [("always", log), ("with no_sync", few)]:
    print(f"{name:12} {sum('send' in event for event in events):2} buckets sent")
torch.testing.assert_close(loud, quiet)

# %%
# Up to rounding, both gradients are the same. (Thirteen buckets: one in the first pass, four in each of the others. With ``no_sync`` only
# one pass sends, and for DDP it is the first.)
#
# What if a layer is not used?
# ----------------------------
#
# Many models have parts that do not run for every input. This one has a second layer that its ``forward`` never calls:


def two_passes(find):
    """Run a model with an unused layer twice; return what DDP says."""
    model = nn.Linear(64, 10)
    model.idle = nn.Linear(64, 10)
    with world():
        ddp = DistributedDataParallel(model, find_unused_parameters=find)
        try:
            for _ in range(2):
                F.cross_entropy(ddp(images[:32]), labels[:32]).backward()
        except RuntimeError as error:
            return str(error)
    return "no error"


error, no_error = launch(lambda: (two_passes(False), two_passes(True)), nproc=2)[0]
print(error.split(" You can")[0])
print(next(line for line in error.splitlines() if "indices" in line))
print("with find_unused_parameters=True:", no_error)

# %%
# DDP waits for a gradient of each parameter. Two of them (numbers 2 and 3, the weight and the bias of ``idle``) never get one. A bucket
# leaves only when it is complete, so in this first pass, with its single bucket, nothing was sent. DDP notices when the next pass begins.
#
# If the layer is there by mistake, remove it. If it is used in some passes only, say ``find_unused_parameters=True``: then DDP looks
# through the graph after each forward pass for parameters that will get no gradient. That takes time in every pass, so it is not the
# default.
#
# Who saves?
# ----------
#
# All ranks hold the same weights, so one rank writes. If all wrote to the same file at once, it could end up damaged. And ``ddp`` is a
# :term:`module` around yours, which is its attribute ``module``. Save both ways:

import tempfile
from pathlib import Path

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def save():
    with world() as w:
        ddp = DistributedDataParallel(nn.Linear(64, 10))
        if w.rank == 0:
            torch.save(ddp.state_dict(), folder / "wrapped.pt")
            torch.save(ddp.module.state_dict(), folder / "plain.pt")
        dist.barrier()  # the others go on when the files are there


launch(save, nproc=2)
torch.manual_seed(0)
model = nn.Linear(64, 10)  # a single process, without DDP
try:
    model.load_state_dict(torch.load(folder / "wrapped.pt"))
except RuntimeError as error:
    print(error)
print(model.load_state_dict(torch.load(folder / "plain.pt")))

# %%
# So save ``ddp.module.state_dict()``. For a file that has the prefix already, see :doc:`/lessons/training/05_saving_and_resuming`.
#
# Node, rank, local rank?
# -----------------------
#
# Four words say where a process is. A **node** is a machine. The **local rank** counts the processes of one node from 0; it also
# says which GPU a process takes. The **rank** counts the processes of all nodes, and the **world size** says how many they are. With
# two nodes of two processes each:

# fold: two machines with two processes each
fig, ax = plt.subplots(figsize=(7, 1.7))
for rank in range(4):
    node, local = divmod(rank, 2)
    box = {"facecolor": f"C{node}", "alpha": 0.25, "boxstyle": "round,pad=0.6"}
    words = f"rank {rank}\nlocal rank {local}"
    ax.text(0.12 + 0.22 * rank + 0.08 * node, 0.25, words, ha="center", bbox=box)
for node in range(2):
    ax.text(0.23 + 0.52 * node, 0.83, f"node {node}", ha="center")
    ax.axvspan(0.01 + 0.52 * node, 0.45 + 0.52 * node, color="0.93")
ax.axis("off")

# %%
# .. caption:: Two nodes with two processes each: the world size is 4. The local rank begins anew on each node, the rank does not:
#    rank = node × processes on a node + local rank.
#    :alt: Two areas, node 0 and node 1. In node 0 are rank 0 with local rank 0 and rank 1 with local rank 1; in node 1 are rank 2 with
#       local rank 0 and rank 3 with local rank 1.
#
# What does old code do?
# ----------------------
#
# In older repositories and courses you find programs with ``args.distributed``, ``args.dist_url == "env://"`` and ``mp.spawn``. They were
# started once on each machine, with the number of the machine in the environment variable ``RANK`` (``env://`` means: look into the
# environment). Each then started one process for every GPU, and the process computed its own rank by the formula above. In copies from web
# pages the line with the formula may be broken, such as ``/*`` for ``*``. Here is such a program,
# repaired. Its work is one sum. ``gloo`` replaces ``nccl``, so that it runs without GPUs. (The line break is printed with the text, so that
# lines of two processes cannot mix.)

_ = (folder / "old.py").write_text(r"""import argparse, os, torch
import torch.distributed as dist, torch.multiprocessing as mp

def worker(gpu, per_node, args):
    if args.dist_url == "env://" and args.rank == -1:
        args.rank = int(os.environ["RANK"])       # the number of the machine
    node = args.rank
    args.rank = args.rank * per_node + gpu        # now the number of the process
    dist.init_process_group("gloo", init_method=args.dist_url, rank=args.rank,
                            world_size=args.world_size)
    total = torch.tensor(args.rank)
    dist.all_reduce(total)
    print(f"node {node} local rank {gpu} rank {args.rank} sum {total}\n", end="")
    dist.destroy_process_group()

if __name__ == "__main__":                        # mp.spawn imports this file
    args = argparse.Namespace(dist_url="env://", rank=-1, world_size=2)  # machines
    args.world_size *= 2                          # now the number of processes
    mp.spawn(worker, args=(2, args), nprocs=2)
""")

# %%
# Run it on two machines. ``launch`` plays them: it starts two processes, gives them ``RANK`` 0 and 1, and says in ``MASTER_ADDR`` and
# ``MASTER_PORT`` where to meet. Each of them starts the program, and the program starts two processes.

import subprocess
import sys


def start(*command):
    """Run a Python program and return the lines it prints, sorted."""
    output = subprocess.check_output([sys.executable, *command], text=True)
    return sorted(output.splitlines())


machines = launch(start, folder / "old.py", nproc=2, timeout=300)
lines = machines[0] + machines[1]
print(*lines, sep="\n")
assert lines == [f"node {r // 2} local rank {r % 2} rank {r} sum 6" for r in range(4)]

# %%
# Four processes with the ranks of the picture, and :math:`0 + 1 + 2 + 3 = 6`. It works. But ``args.rank`` and ``args.world_size`` mean
# first machines and then processes, each program has its own arithmetic, and when one process dies, nobody starts it again.
# (``args.distributed`` only said whether there was more than one process.)
#
# How do I write that today?
# --------------------------
#
# ``torchrun`` starts the processes, does the arithmetic, and tells each process through its environment who it is. So the program
# becomes shorter:
#
# =======================================  ===========================================================
# then                                     now
# =======================================  ===========================================================
# ``mp.spawn(worker, nprocs=2)``           ``torchrun --nproc-per-node=2``
# ``RANK`` set by you: the machine         ``GROUP_RANK``, if you need it at all
# ``args.rank * per_node + gpu``           ``RANK``: the process; ``init_process_group`` reads it
# ``args.world_size * per_node``           ``WORLD_SIZE``; ``init_process_group`` reads it, too
# ``gpu``, an argument                     ``LOCAL_RANK``
# =======================================  ===========================================================

_ = (folder / "new.py").write_text(r"""import os, torch
import torch.distributed as dist

dist.init_process_group("gloo")
node, local = os.environ["GROUP_RANK"], os.environ["LOCAL_RANK"]
total = torch.tensor(dist.get_rank())
dist.all_reduce(total)
print(f"node {node} local rank {local} rank {dist.get_rank()} sum {total}\n", end="")
dist.destroy_process_group()
""")
torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
lines = launch(start, *torchrun, folder / "new.py", nproc=1, timeout=300)[0]
print(*lines, sep="\n")
assert lines == [f"node 0 local rank {r} rank {r} sum 1" for r in (0, 1)]
temporary.cleanup()

# %%
# ``--standalone`` says that there is one machine. (``torchrun`` is short for ``python -m torch.distributed.run``.) On several, give
# all of them one address to meet, and run the same line on each; they number themselves. For two machines:
#
# .. code-block:: console
#
#    $ torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=machine0:29500 train.py
#
# On GPUs the program says in addition which one is its own, and ``"nccl"`` sends from GPU to GPU:
#
# .. code-block:: python
#
#    local_rank = int(os.environ["LOCAL_RANK"])
#    torch.cuda.set_device(local_rank)
#    dist.init_process_group("nccl")
#    model = DistributedDataParallel(model.to(local_rank), device_ids=[local_rank])
#
# Beware of mixing old and new: under ``torchrun``, ``RANK`` is the process. The old program would take it for the machine, so each of the
# two processes would start two more, and you would train with four where you asked for two.
#
# And DataParallel?
# -----------------
#
# :class:`torch.nn.DataParallel` is older, and one word shorter. It is *one* process with a thread for each GPU. In every forward pass it
# copies the model to all GPUs, splits the batch, and collects the outputs on the first GPU. The threads share one Python interpreter, and
# the copying costs time, so its documentation recommends DDP, also on one machine. It does not warn you. Without a GPU it only calls the
# model:

parallel = nn.DataParallel(model)
print("GPUs", parallel.device_ids, "keys", *parallel.state_dict())
assert torch.equal(parallel(images[:4]), model(images[:4]))

# %%
# If you find it in old code, replace it by DDP. The prefix ``module.`` is in its files, too.
#
# Take this with you
# ------------------
#
# What a program with one process per share of the data adds to a plain one. Start it with ``torchrun --nproc-per-node=2 script.py``. Put
# in your data, your model, and your optimizer: made after the model is wrapped, with its ``step`` and ``zero_grad`` below ``backward``,
# as ever.


def main():
    dist.init_process_group("gloo")  # on GPUs: "nccl"
    data = TensorDataset(torch.ones(640, 8), torch.ones(640, 1))
    loader = DataLoader(data, batch_size=32, sampler=DistributedSampler(data))
    model = DistributedDataParallel(nn.Linear(8, 1))
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        for x, y in loader:
            F.mse_loss(model(x), y).backward()  # then your optimizer's step
    if dist.get_rank() == 0:  # torch.save(model.module.state_dict(), path)
        print("rank 0 saves", *model.module.state_dict())
    dist.destroy_process_group()


# %%
# Here, on two processes:

_ = launch(main, nproc=2)

# %%
# Change something
# ----------------
#
# * In ``four_passes``, do the forward pass, ``loss = F.cross_entropy(ddp(x), y)``, before the ``with``, and only ``loss.backward()`` in it.
#   How many buckets are sent with ``no_sync`` now?
# * Shuffle in both places: ``DataLoader(data, batch_size=32, shuffle=True, sampler=DistributedSampler(data))`` in ``main``.
# * In ``deal``, give the sampler ``shuffle=False``. Which samples does rank 0 get, and what does ``set_epoch`` change?
#
# .. dropdown:: What happens
#
#    * 13, as without ``no_sync``: DDP decides in the *forward* pass whether it will send. Nothing fails, and the gradient is right, but you
#      have saved nothing.
#    * ``launch`` raises a ``LaunchError`` with a ``ValueError`` of both ranks: "sampler option is mutually exclusive with shuffle". The
#      sampler shuffles already.
#    * 0, 2, 4 and so on up to 10, in each epoch. Nothing is left that ``set_epoch`` could change, so the assertion stops the page. Rank 1
#      gets the odd numbers, and sample 0 again.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the updates
#
#    A data set has 1280 samples; ``DataLoader`` gets ``batch_size=32`` and a ``DistributedSampler``. Three machines start with four
#    processes each. How many updates has an epoch? (1280 / 12 is 106 and two thirds, and all processes get equally many samples.)

### BEGIN SOLUTION
guess = 4
### END SOLUTION

sampler = DistributedSampler(range(1280), num_replicas=12, rank=9)
expect(guess, len(DataLoader(range(1280), batch_size=32, sampler=sampler)))

# %%
# .. exercise:: Fix an evaluation
#
#    A colleague evaluates 11 samples on 4 ranks with a ``DistributedSampler``, and the accuracy depends on the number of ranks. Write
#    ``share``: which samples does a rank get, so that all of them together are each sample once? It returns a list.


def share(length, rank, size):
    ### BEGIN SOLUTION
    return list(range(rank, length, size))
    ### END SOLUTION


def all_shares():
    return sorted(sample for rank in range(4) for sample in share(11, rank, 4))


expect(all_shares, list(range(11)))
expect(lambda: max(len(share(11, rank, 4)) for rank in range(4)), 3)

# %%
# .. exercise:: Build a sampler
#
#    Write ``dealt``: the samples of one rank in one epoch, as ``DistributedSampler`` deals them when the length is a multiple of the size.
#    It shuffles with :func:`torch.randperm` and a generator whose seed is ``seed + epoch``, then takes each ``size``-th from ``rank`` on.


def dealt(length, rank, size, epoch, seed=0):
    ### BEGIN SOLUTION
    generator = torch.Generator().manual_seed(seed + epoch)
    return torch.randperm(length, generator=generator)[rank::size].tolist()
    ### END SOLUTION


sampler = DistributedSampler(range(12), num_replicas=3, rank=2, seed=5)
sampler.set_epoch(7)
expect(lambda: dealt(12, rank=2, size=3, epoch=7, seed=5), list(sampler))
