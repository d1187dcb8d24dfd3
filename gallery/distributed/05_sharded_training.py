r"""
Sharded training
================

Count the bytes that training takes, spread them over several processes when one device
has too few, and bring the model back together.

.. lesson::
   :needs: distributed/01_processes_and_collectives
      distributed/03_distributed_data_parallel
   :data: none
   :keywords: FSDP, FSDP2, fully_shard, FullyShardedDataParallel, ZeRO, DeepSpeed,
      DTensor, distribute_tensor, DeviceMesh, init_device_mesh, tensor parallel, tensor
      parallelism, Megatron, parallelize_module, ColwiseParallel, RowwiseParallel, model
      parallel, sharding, distributed checkpoint, torch.distributed.checkpoint, dcp,
      full_state_dict, get_model_state_dict, CUDA out of memory, 16 bytes per parameter,
      memory of Adam
   :thumbnail: 1
   :alone:
"""

# %%
# Does my model fit?
# ------------------
#
# You have a network with 7 billion parameters, and GPUs with 80 GB each. To *use* it is easy: two bytes a parameter, 14 GB. Now you want
# to train it with Adam in :term:`mixed precision`. What must be in memory for each parameter?

bytes_each = {
    "weight to compute with, bfloat16": 2,
    "its gradient, bfloat16": 2,
    "weight to update, float32": 4,
    "Adam's mean of gradients, float32": 4,
    "Adam's mean of squares, float32": 4,
}
total = sum(bytes_each.values())
print(f"{total} bytes a parameter, 7 billion parameters: {7 * total} GB")
assert total == 16 and 7 * total > 80

# %%
# The float32 weight is there because an update is often too small to change a bfloat16 number. 112 GB do not fit, and this is without
# the :term:`activations <activation>`. ``DistributedDataParallel`` does not help: it holds a whole copy in each process, however many
# there are. But why should all hold the same? If :math:`p` processes divide everything, each has :math:`16/p` bytes of a parameter.
# Dividing only what Adam needs (the last three lines) gives :math:`4 + 12/p`.

# fold: memory of a GPU, over the number of GPUs
import matplotlib.pyplot as plt
import torch

plt.style.use("pytorch_course.book")
gpus = torch.arange(1, 17)
fig, ax = plt.subplots(figsize=(6.4, 3.2))
ax.plot(gpus, 7 * 16 + 0 * gpus, "C0", label="replicated (DDP)")
ax.plot(gpus, 7 * (4 + 12 / gpus), "C1--", label="optimizer sharded")
ax.plot(gpus, 7 * 16 / gpus, "C2-.", label="all sharded (FSDP)")
ax.axhspan(80, 125, color="0.5", alpha=0.2)
ax.text(16, 84, "more than a GPU has", ha="right")
ax.set(xlabel="GPUs", ylabel="GB on each GPU", ylim=(0, 125))
ax.legend(loc=(0.52, 0.36))

# %%
# .. caption:: What each GPU must hold of 7 billion parameters, their gradients and Adam's state, activations not counted. Copies never
#    fit. On two GPUs both divisions do, with 70 and 56 GB on each. On sixteen, all sharded needs only 7 GB on each.
#    :alt: Memory over 1 to 16 GPUs. A horizontal line at 112 GB lies in a shaded area above 80 GB. Two falling curves begin there: one
#       levels off above 28 GB, the other falls to 7 GB.
#
# The idea is known as ZeRO :cite:p:`rajbhandari2020`, in PyTorch as FSDP, *fully sharded data parallel* :cite:p:`zhao2023`. A
# :term:`shard` is a piece of a tensor that one process holds.
#
# How does a process compute with a part of the weights?
# ------------------------------------------------------
#
# The forward and the backward pass need whole weights, but only for a moment. The update changes each weight by itself. So each process
# owns a piece, *borrows* the rest, computes, and throws the rest away. Two :term:`collectives <collective>` do it. ``all_gather``
# borrows the pieces of the others; ``reduce_scatter`` adds up the gradients and leaves each process the piece that it owns.
#
# The task: which of the first four numbers is the largest? 80 weights, 64 samples, two processes.

import torch.distributed as dist
from pytorch_course.distributed import launch, world
from torch.nn import functional as F


def make_data():
    """Return 64 samples of 20 numbers, and which of the first four is the largest."""
    numbers = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    return numbers, numbers[:, :4].argmax(dim=1)


def by_hand():
    """Train 80 weights, each process with its own 40 and its own samples."""
    numbers, largest = make_data()
    with world() as w:
        piece, gradient = torch.zeros(40), torch.empty(40)
        for _ in range(20):
            whole = torch.empty(80)
            dist.all_gather_into_tensor(whole, piece)
            scores = numbers[w.rank :: 2] @ whole.requires_grad_().view(20, 4)
            F.cross_entropy(scores, largest[w.rank :: 2]).backward()
            dist.reduce_scatter_tensor(gradient, whole.grad)
            piece -= 0.5 * gradient / 2  # the mean of two processes
    return piece


# %%
# And one process with all 80 weights and all 64 samples:

numbers, largest = make_data()
whole = torch.zeros(80, requires_grad=True)
for _ in range(20):
    loss = F.cross_entropy(numbers @ whole.view(20, 4), largest)
    (gradient,) = torch.autograd.grad(loss, whole)
    whole.data -= 0.5 * gradient

pieces = launch(by_hand, nproc=2)
print("weights on each rank:", [len(piece) for piece in pieces])
apart = (torch.cat(pieces) - whole).abs().max()
print(f"measured: largest difference to one process {apart:.0e}")
torch.testing.assert_close(torch.cat(pieces), whole.detach())

# %%
# The price is in the messages. DDP sends one :term:`all-reduce`, which is a ``reduce_scatter`` and an ``all_gather``. Here each update has
# these two, and when weights are given back after the forward pass, the backward pass borrows them once more: half as much again.
#
# Who does that for a real network?
# ---------------------------------
#
# :func:`torch.distributed.fsdp.fully_shard`, the second generation of FSDP. Call it on each part that shall be borrowed at once, then on
# the whole network, which takes the parameters that are left (here none) and is what you call. So only a layer or two at a time are
# whole. Borrowing all layers at once would take room for all weights on each GPU, 14 GB for the model above. A *mesh* says
# which processes take part: here a line of all of them.

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


def make_network():
    """Return a network with the same weights in every process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 1000), nn.ReLU(), nn.Linear(1000, 4))


def shard(network):
    """Leave each process its piece of every weight."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (network[0], network[2], network):
        fully_shard(part, mesh=mesh)
    return network


# %%
# (Here every process makes the whole network first, which is small. Make a large one inside ``with torch.device("meta"):``, where tensors
# have a shape and no memory. After ``fully_shard``, ``network.to_empty(device="cuda")`` gives each process room for its pieces
# only; then initialize them or load a checkpoint.)
#
# The training is the usual loop. Afterwards it counts what this process holds. A sharded parameter is a ``DTensor``, which has the shape
# of the whole; ``to_local()`` gives the piece that is here.


def fit(model, optimizer, rank, size):
    """Train for 20 updates; return the bytes of weights, gradients and Adam's means."""
    numbers, largest = make_data()
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(numbers[rank::size]), largest[rank::size]).backward()
        optimizer.step()
    weights, entries = list(model.parameters()), optimizer.state.values()
    means = [entry[name] for entry in entries for name in ("exp_avg", "exp_avg_sq")]
    return [bytes_of(weights), bytes_of(each.grad for each in weights), bytes_of(means)]


def bytes_of(tensors):
    """Count the bytes that this process holds of some tensors."""
    local = [each.to_local() if isinstance(each, DTensor) else each for each in tensors]
    return sum(each.nbytes for each in local)


# %%
# Two processes do it with copies and with shards. At the end ``dcp.save`` writes a checkpoint, of which more below; and
# ``get_model_state_dict`` with ``full_state_dict=True`` brings the pieces together to the weights of a plain network.

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as states


def compare(folder):
    """Train with copies and with shards; return what is held, and the weights."""
    with world() as w:
        copies = DistributedDataParallel(make_network())
        adam = torch.optim.Adam(copies.parameters(), lr=0.01)
        held = [fit(copies, adam, w.rank, w.size)]
        shards = shard(make_network())
        adam = torch.optim.Adam(shards.parameters(), lr=0.01)
        held.append(fit(shards, adam, w.rank, w.size))
        weight = shards[0].weight
        print(f"{tuple(weight.shape)}, here {tuple(weight.to_local().shape)}")
        model_state, adam_state = states.get_state_dict(shards, adam)
        dcp.save({"model": model_state, "adam": adam_state}, checkpoint_id=folder)
        options = states.StateDictOptions(full_state_dict=True)
        whole = states.get_model_state_dict(shards, options=options)
        return held, [each.detach() for each in copies.parameters()], whole, early(w)


# %%
# Last, ``compare`` calls ``early``, which makes a mistake that is easily made. (``full_tensor()`` brings the pieces of one ``DTensor``
# together.)


def early(w):
    """Make the optimizer before the shards; return how far a weight has moved."""
    network = make_network()
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    model = shard(network)
    fit(model, adam, w.rank, w.size)
    return (model[0].weight.full_tensor() - make_network()[0].weight).abs().max().item()


# %%

import tempfile
from pathlib import Path

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
(held, copied, sharded, moved), *_ = launch(compare, folder / "run", nproc=2)
for name, (weights, gradients, means) in zip(("DDP", "FSDP2"), held):
    print(f"{name:5} weights {weights:7,}  gradients {gradients:7,}  Adam {means:7,}")
assert [2 * part for part in held[1]] == held[0]

# %%
# The first two lines are what ``print`` said in each process: the weight of the first layer knows its whole shape, 1000 by 20, and has
# 500 rows of it here. Each process holds half of the weights, gradients and means, to the byte. (In float32 it is 16 bytes a
# parameter, too: 4 for the weight, 4 for the gradient, 8 for Adam. With ``mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)``
# the pieces stay float32, and what is borrowed is bfloat16.) And the result?

apart = max((a - b).abs().max() for a, b in zip(copied, sharded.values()))
print(f"measured: after 20 updates, DDP and FSDP2 are {apart:.0e} apart")
for a, b in zip(copied, sharded.values()):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

# %%
# The same training, in the same number of updates, and each process stores half of the weights, gradients and means. (What is borrowed
# for a moment and the activations are not in this count.)
#
# Why does my network learn nothing?
# ----------------------------------
#
# In a plain program it makes no difference whether you make the optimizer before or after you move the model. The function ``early`` made
# it *before* ``fully_shard``. After 20 updates with a learning rate of 0.01, how far has any weight of the first layer moved?

print("moved by at most", moved)
assert moved == 0

# %%
# There was no error. ``fully_shard`` replaces each parameter by a new one, a ``DTensor``; the optimizer still has the old ones, which no
# longer take part. So the order is: make the network, shard it, *then* make the optimizer. (``DistributedDataParallel`` keeps the
# parameters, so there it does not matter.)
#
# How do I get my model back?
# ---------------------------
#
# Each process saved what it holds, all at the same time. None of them collected the whole model to save it.

for file in sorted((folder / "run").iterdir()):
    print(f"measured: {file.name:15} {file.stat().st_size:8,} bytes")

# %%
# (The files differ in size because what all processes have alike, Adam's settings and counts of updates, is written by only one of them.)
# ``.metadata`` says which piece of which tensor lies in which file. So another number of processes can read it, such as one, this one.
# :func:`torch.distributed.checkpoint.load` fills the tensors that it is given. (It warns that there is no group of processes, which
# is what we want; so we ignore that warning, and no other.)

import warnings

network = make_network()
content = {"model": network.state_dict()}
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
    dcp.load(content, checkpoint_id=folder / "run")

right = (network(numbers).argmax(dim=1) == largest).float().mean()
print(f"one process, right on {right:.2f} of the samples it was trained with")
for name, weight in sharded.items():
    assert torch.equal(network.state_dict()[name], weight)

# %%
# Bit for bit the weights that the two had. For a single file to share, save the full state dict of ``compare``. With a large model, add
# ``cpu_offload=True`` to its options: then only rank 0 gets it, in the memory of its CPU.
#
# Can a layer be divided while it computes?
# -----------------------------------------
#
# FSDP divides what is *stored*; to compute, each layer is whole on each GPU for a moment. If a single layer is too large even for that,
# divide the computation: that is :term:`tensor parallelism` :cite:p:`shoeybi2019`. Take two layers with a ReLU in between. The hidden
# units do not know of each other. So each process takes half of them: their columns of the first matrix, their rows of the second.

# fold: the two matrices and who holds which half
fig, ax = plt.subplots(figsize=(6.8, 2.4))
parts = [
    (0.0, 0.8, 1.0, 0.4, "0.5", "input"),
    (1.6, 1.1, 1.6, 0.9, "C0", "half of\nlayer 1"),
    (1.6, 0.0, 1.6, 0.9, "C1", "half of\nlayer 1"),
    (3.9, 1.1, 1.0, 0.9, "C0", "half of\nlayer 2"),
    (3.9, 0.0, 1.0, 0.9, "C1", "half of\nlayer 2"),
    (5.6, 1.3, 1.0, 0.4, "C0", "partial sum"),
    (5.6, 0.3, 1.0, 0.4, "C1", "partial sum"),
    (7.4, 0.8, 1.0, 0.4, "0.5", "output"),
]
for x, y, width, height, color, text in parts:
    ax.add_patch(plt.Rectangle((x, y), width, height, color=color, alpha=0.35))
    ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)
ax.text(6.98, 1.0, "all-\nreduce", ha="center", va="center", fontsize=9)
ax.set(xlim=(-0.1, 8.5), ylim=(-0.1, 2.1))
ax.axis("off")

# %%
# .. caption:: Rank 0 (upper row) and rank 1 (lower row) compute with one half of the hidden units each, from the same input to a partial
#    sum of the output. A single all-reduce adds the two.
#    :alt: The input on the left goes into two rows. Each row has half of the first layer, half of the second and a partial sum. An
#       all-reduce joins the two sums into the output.
#
# PyTorch keeps the weight of a linear layer transposed, so the hidden units are the *rows* of the first weight and the *columns* of the
# second. By hand, and then with :func:`torch.distributed.tensor.parallel.parallelize_module`, where ``ColwiseParallel`` and
# ``RowwiseParallel`` mean the two kinds. The plan gives each layer by its name in the network, which is its number here.
# ``CommDebugMode`` counts the collectives. (The library's output is a tensor that waits for its all-reduce at its first use; ``+ 0``
# makes a plain tensor of it.)

from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel
from torch.distributed.tensor.parallel import parallelize_module


def split_by_hand(network, inputs, rank, size):
    """Compute two layers with this process's share of the hidden units."""
    first, second = network[0], network[2]
    units = slice(rank * 1000 // size, (rank + 1) * 1000 // size)
    hidden = F.relu(F.linear(inputs, first.weight[units], first.bias[units]))
    output = F.linear(hidden, second.weight[:, units])  # a part of each sum
    dist.all_reduce(output)
    return output + second.bias


# %%


def split():
    """Compute the layers by hand and with the library; return outputs and gradients."""
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    with world() as w:
        inputs = make_data()[0]
        with torch.no_grad():
            by_hand = split_by_hand(make_network(), inputs, w.rank, w.size)
        mesh = init_device_mesh("cpu", (w.size,))
        network = parallelize_module(make_network(), mesh, plan)
        with CommDebugMode() as counted:
            output = network(inputs)
        output.square().mean().backward()
        shapes = [tuple(each.to_local().shape) for each in network.parameters()]
        print(shapes[0], shapes[2], "collectives:", counted.get_total_counts())
        slopes = [each.grad.full_tensor() for each in network.parameters()]
        return by_hand, output.detach() + 0, slopes


(by_hand, by_library, slopes), _ = launch(split, nproc=2)

# %%
# The same in one process:

network = make_network()
output = network(numbers)
output.square().mean().backward()
for name, other in (("by hand", by_hand), ("by library", by_library)):
    print(f"measured: {name:10} differs by {(other - output).abs().max():.0e}")
    torch.testing.assert_close(other, output.detach())
for parameter, slope in zip(network.parameters(), slopes):
    torch.testing.assert_close(slope, parameter.grad)

# %%
# The outputs and all gradients are those of the whole network; the last digits may differ, because sums are added in another order. Two
# layers cost one collective in the forward pass, and in a deeper network another one in the backward pass. Each carries the activations
# of the whole batch, and everybody waits for it. So tensor parallelism belongs inside a machine with fast connections; FSDP also works
# between machines. With a mesh of two dimensions you can have both: ``init_device_mesh("cuda", (4, 8), mesh_dim_names=("data",
# "tensor"))`` is four machines of eight GPUs.
#
# ==========================================  ======================================================
# your model                                  divide
# ==========================================  ======================================================
# trains on one GPU                           only the data: DDP
# has weights or Adam's means too large       what is stored: ``fully_shard``
# has single layers too large                 the layers, too: ``parallelize_module``
# has activations too large                   smaller batches, or recompute (``torch.utils.checkpoint``)
# ==========================================  ======================================================
#
# Take this with you
# ------------------
#
# A program whose weights, gradients and optimizer are spread over its processes. On GPUs say ``"nccl"`` and ``"cuda"``, and call
# :func:`torch.cuda.set_device` first. ``fully_shard`` does not send weights, it keeps a piece of what each process has. So begin with
# ``torch.manual_seed(0)`` if you need the same start on any number of processes (and give each its own samples afterwards). Only the
# weights are saved; to go on with the training, save Adam's state as ``compare`` does.


def main(folder="checkpoint"):
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(nn.Linear(20, 1000), nn.ReLU(), nn.Linear(1000, 4))
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters())  # after fully_shard
    model(torch.randn(8, 20)).square().mean().backward()
    optimizer.step()
    print(sum(each.to_local().numel() for each in model.parameters()), "numbers here")
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder)
    dist.destroy_process_group()


# %%
# Here, on two processes:

_ = launch(main, folder / "taken", nproc=2)
temporary.cleanup()

# %%
# Change something
# ----------------
#
# * Launch ``compare`` with ``nproc=3``, and print ``held``, the first item of each process's result. The weight of the second layer has
#   four rows of 1000. Tell from the bytes of the weights who has how many.
# * Let each process start with other weights: ``torch.manual_seed(int(os.environ.get("RANK", 0)))`` in ``make_network`` (and ``import
#   os``). Which of the two trainings notices?
# * Exchange ``ColwiseParallel`` and ``RowwiseParallel`` in ``plan``.
#
# .. dropdown:: What happens
#
#    * 36,064 bytes of weights on the ranks 0 and 1, 27,888 on rank 2: of the four rows they hold 2, 2 and 0. The result is that of
#      DDP all the same, up to the last digits. The assertion about the half stops the page.
#    * Neither. DDP begins with the weights of rank 0 everywhere, so its result is as before. ``fully_shard`` begins with a mixture, the
#      upper half of one network and the lower half of another, and trains that. The comparison of the two stops the page.
#    * A RuntimeError: "a and b must have same reduction dim, but got [64, 40] X [20, 1000]". ``RowwiseParallel`` expects that each
#      process gives *its part* of the inputs, as a ``ColwiseParallel`` layer leaves it; so it sees 40 columns, where there are 20.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the memory of a larger model
#
#    13 billion parameters, mixed precision and Adam as at the top of the page, ``fully_shard`` over 8 GPUs. How many GB does each GPU
#    hold, without activations?

### BEGIN SOLUTION
guess = 26
### END SOLUTION

expect(guess, round(13 * total / 8))

# %%
# .. exercise:: Fix a division that loses rows
#
#    A colleague gives each rank ``rows // size`` rows of a weight. With 10 rows on 4 ranks, two rows belong to nobody. ``fully_shard``
#    divides as :func:`torch.chunk` does: pieces of ``rows / size`` rows, rounded up, and less or nothing at the end. Write ``rows_of``,
#    which returns the first row of a rank and the one after its last.


def rows_of(rank, rows, size):
    ### BEGIN SOLUTION
    step = -(-rows // size)
    return min(rank * step, rows), min((rank + 1) * step, rows)
    ### END SOLUTION


expect(
    lambda: [rows_of(rank, 10, 4) for rank in range(4)],
    [(0, 3), (3, 6), (6, 9), (9, 10)],
)
expect(lambda: rows_of(3, 4, 5), (3, 4))
expect(lambda: rows_of(3, 6, 4), (6, 6))

# %%
# .. exercise:: Build a split attention
#
#    Attention has heads, and heads are as independent as hidden units. ``values`` has the shape (heads, N, d), one output per head, and
#    ``weight`` the shape (heads, d, D): the output of the layer is the sum over all heads of ``values[h] @ weight[h]``. Write ``part``:
#    what rank ``rank`` of ``size`` contributes, so that an all-reduce of the parts gives the output. ``size`` divides the number of
#    heads.


def part(values, weight, rank, size):
    ### BEGIN SOLUTION
    mine = slice(rank * len(values) // size, (rank + 1) * len(values) // size)
    return torch.einsum("hnd,hdo->no", values[mine], weight[mine])
    ### END SOLUTION


generator = torch.Generator().manual_seed(1)
values = torch.randn(6, 5, 3, generator=generator)
weight = torch.randn(6, 3, 7, generator=generator)
joined = values.permute(1, 0, 2).reshape(5, 18) @ weight.reshape(18, 7)
expect(lambda: part(values, weight, 0, 1), joined)
expect(lambda: sum(part(values, weight, rank, 3) for rank in range(3)), joined)
