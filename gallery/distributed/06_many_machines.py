r"""
Many machines
=============

Get one script ready for many machines: by hand, for Slurm, Kubernetes and Ray, in a dry
run on one. Then work out what a thousand bring.

.. lesson::
   :needs: distributed/01_processes_and_collectives training/05_saving_and_resuming
   :data: none
   :keywords: multi-node, cluster, Slurm, sbatch, srun, Kubernetes, Kubeflow Trainer,
      TrainJob, PyTorchJob, Ray Train, TorchTrainer, torchrun, rdzv-endpoint,
      rdzv-backend, MASTER_ADDR, MASTER_PORT, PET_NNODES, node rank, local rank, world
      size, alpha-beta model, ring all-reduce, tree all-reduce, weak scaling, strong
      scaling, linear scaling rule, firewall, The client socket has timed out after,
      DistNetworkError, gpus-per-node, HPC
   :thumbnail: 3
   :alone:
"""

# %%
# Do sixteen machines take a sixteenth of the time?
# -------------------------------------------------
#
# Your training takes 30 days on one machine, and you may use sixteen. Each computes for 0.6 seconds on its own part of the data; then all
# average their gradients. The model has 1.3 billion weights of two bytes. In a ring
# (:doc:`/lessons/distributed/01_processes_and_collectives`) each machine sends nearly twice the whole gradient. Will it be two days?

gradient = 2 * 1.3e9  # bytes
for bandwidth in (1.25e9, 50e9):
    average = 2 * (16 - 1) / 16 * gradient / bandwidth
    days = 30 / 16 * (0.6 + average) / 0.6
    print(f"{bandwidth / 1e9:4} GB/s: {average:.1f} s to average, {days:.1f} days")

# %%
# Over a network as in many offices (the first line, 10 Gbit/s) averaging takes longer than computing, and it will be two weeks. Over a
# network made for training (400 Gbit/s) it is nearly the two days you hoped for. So there are two questions. How do you start a script on
# several machines? And how much faster will it be?
#
# What must I change in the script?
# ---------------------------------
#
# Nothing, if it asks its surroundings who it is. Here is the script of this lesson, in two halves. It is small on purpose: a linear
# model, whose gradient is one line, averaged by hand. With ``DistributedDataParallel`` and an optimizer it would start in the same way.

head = """\
import os, sys, torch
import torch.distributed as dist

def main(file, last):
    if not dist.is_initialized():  # Ray has done it already
        dist.init_process_group("gloo")  # "nccl" on GPUs
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    inputs = torch.randn(480, 8)[rank::size]  # the share of this rank
    targets = inputs.exp().sum(1)
    done, weights = torch.load(file) if os.path.exists(file) else (0, torch.zeros(8))
"""

# %%
# If there is a :term:`checkpoint` it goes on from there, until ``last`` updates are done. The sum of the shares is the gradient of the
# whole batch, however many ranks there are. At the end each rank prints who it is, from which update to which it went, and its first
# weight. Only rank 0 writes the checkpoint.

body = r"""
    for update in range(done, last):
        gradient = 2 * inputs.T @ (inputs @ weights - targets) / 480
        dist.all_reduce(gradient)  # add the shares of all ranks
        weights -= 0.05 * gradient
    where = f"node {os.getenv('GROUP_RANK')}, local rank {os.getenv('LOCAL_RANK')}"
    line = f"{where}, rank {rank} of {size}: {done} to {last}, weight {weights[0]:.4f}"
    sys.stdout.write(line + "\n")  # in one piece: the other ranks write, too
    if rank == 0:
        torch.save((last, weights), file + ".new")
        os.replace(file + ".new", file)

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
    dist.destroy_process_group()
"""

# %%
# The file goes into a temporary folder. Everything stays on this machine: the address 127.0.0.1 and the network interface ``lo`` never
# leave it.

import os
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, Popen

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
(folder / "train.py").write_text(head + body)
here = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""}
here["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"

# %%
# ``run`` starts commands side by side in this folder, waits for all of them, and prints their lines, in sorted order because processes
# print in any order. ``each`` holds variables for the environment of each command.


def run(*commands, each=({}, {})):
    """Run commands at once, each with variables of its own; return what they print."""
    started, lines = [], []
    for command, own in zip(commands, each):
        options = {"cwd": folder, "env": {**os.environ, **here, **own}, "text": True}
        started.append(Popen(command, stdout=PIPE, stderr=PIPE, **options))
    for process in started:
        printed, complaint = process.communicate(timeout=150)
        assert process.returncode == 0, complaint
        lines += printed.splitlines()
    print(*sorted(lines), sep="\n")
    return sorted(lines)


# %%
# First the start that you know, three processes on one machine. (``torchrun`` is a short name for ``python -m torch.distributed.run``.)

torchrun = [sys.executable, "-m", "torch.distributed.run"]
one = run([*torchrun, "--standalone", "--nproc-per-node=3", "train.py", "one", "60"])

# %%
# What must two machines know of each other?
# ------------------------------------------
#
# Each machine, called a *node*, runs ``torchrun`` once. This *agent* starts the ranks of its node and watches over them. You tell it how
# many nodes there are, which of them it is, how many ranks it shall start, and where all meet: the address of node 0 and a port, on which
# node 0 will listen. Here are the agents of two "nodes", both on this machine. The first starts two ranks, the second one, like two
# machines with different numbers of GPUs. (``free_port`` finds a port that nobody uses now.)

import socket


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


meet = ["--nnodes=2", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
program = ["train.py", "two", "60"]
two = run(
    [*torchrun, *meet, "--node-rank=0", "--nproc-per-node=2", *program],
    [*torchrun, *meet, "--node-rank=1", "--nproc-per-node=1", *program],
)

# %%

# fold: nodes and ranks
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(7, 1.8))
for left, width, color in ((0, 4, "C0"), (4.4, 2.2, "C1")):
    ax.barh(0, width, left=left, color=color, alpha=0.25)
for line, x in zip(two, (1, 3, 5.5)):
    words = line.partition(":")[0].replace(", ", "\n")
    ax.text(x, 0, words, ha="center", va="center", bbox={"facecolor": "white"})
ax.axis("off")

# %%
# .. caption:: Two nodes, three ranks, with the numbers that the ranks printed. The rank counts through all nodes; the local rank begins
#    again at 0 on each node.
#    :alt: Two boxes. Node 0 holds rank 0 with local rank 0 and rank 1 with local rank 1. Node 1 holds rank 2 with local rank 0.
#
# The agent writes these numbers into the environment of each rank, where ``init_process_group`` and your script find them:
#
# ======================  ==============================================================
# variable                meaning
# ======================  ==============================================================
# ``GROUP_RANK``          node rank: the number of the machine
# ``LOCAL_RANK``          the number of the process on its machine; it picks the GPU
# ``RANK``                the number of the process among all
# ``LOCAL_WORLD_SIZE``    how many processes this machine has
# ``WORLD_SIZE``          how many processes there are: the :term:`world size`
# ======================  ==============================================================
#
# Did three ranks on two nodes compute the same as three ranks on one? Compare all weights:

import torch

alone, spread = (torch.load(folder / name)[1] for name in ("one", "two"))
print("largest difference:", (alone - spread).abs().max().item())
assert torch.equal(alone, spread)

# %%
# Not one bit differs. All that follows, Slurm, Kubernetes and Ray, gets you the machines and fills in these options for you.
#
# What does Slurm add?
# --------------------
#
# On most university clusters **Slurm** hands out the machines. You give it a shell script with the command ``sbatch``. Lines that begin
# with ``#SBATCH`` say what you need. When the machines are free, the script runs on the first of them, and the command ``srun`` in it
# runs something on all of them: here, one agent on each node.

slurm = r"""#!/bin/bash
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc-per-node="${RANKS:-1}" \
    --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$SLURMD_NODENAME:${PORT:-29500}" train.py shared 30
"""

# %%
# Nobody gives node ranks here. With the :term:`rendezvous` called ``c10d`` the agents meet at ``--rdzv-endpoint`` and number themselves.
# The script runs on the first node, so ``SLURMD_NODENAME`` is that node's name. ``--rdzv-id`` keeps two jobs apart. ``srun`` gets
# ``--cpus-per-task`` again, because newer versions of Slurm (from 22.05) do not take it over from ``sbatch``. For machines with eight
# GPUs you add ``#SBATCH --gpus-per-node=8`` and send ``RANKS`` along: ``sbatch --export=ALL,RANKS=8 train.sbatch``.
#
# The computer that made this page has no Slurm. What can be checked without it? First, that the shell can parse the file: ``bash -n``
# runs nothing. Second, the options. ``sbatch`` reads only the ``#SBATCH`` lines *above the first command*. To it, later ones are
# comments, and it says nothing. We read them in the same way. (A test of this book compares each with the manual of ``sbatch``.)

(folder / "train.sbatch").write_text(slurm)
assert Popen(["bash", "-n", folder / "train.sbatch"]).wait() == 0
above = slurm.partition("\n\nsrun")[0].splitlines()[1:]
options = dict(line.removeprefix("#SBATCH --").split("=") for line in above)
print(options)
assert len(options) == slurm.count("#SBATCH")

# %%
# Third, a dry run. We put a **stand-in** for ``srun`` into the search path: a shell script of our own, which starts its command once for
# each node, all on this machine. We also set the variables that Slurm would set. The batch file, the agents and the ranks are real. The
# job is to do the first 30 updates.

(folder / "srun").write_text("""#!/bin/bash
shift  # its own option
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_NODEID=$node "$@" & done
wait
""")
(folder / "srun").chmod(0o755)
path = {"PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
job = {"SLURM_JOB_ID": "7", "SLURMD_NODENAME": "127.0.0.1", "PORT": free_port()}
job |= {"SLURM_JOB_NUM_NODES": options["nodes"], "SLURM_CPUS_PER_TASK": "8"}
assert len(run(["bash", "train.sbatch"], each=[job | path])) == 2

# %%
# Two nodes with one rank each, and the same script.
#
# What does Kubernetes add?
# -------------------------
#
# In company data centres programs run in containers, and **Kubernetes** starts them. The *Kubeflow Trainer* teaches it what a distributed
# training is. Its present version 2 has one kind of job, ``TrainJob``. (Its forerunner, the Training Operator, had one for each library:
# where people speak of ``PyTorchJob``, it is the old one.) You describe the job in YAML and say ``kubectl apply -f train.yaml``. The
# image is what each container starts from; yours holds PyTorch and ``train.py``.

import yaml

description = """
apiVersion: trainer.kubeflow.org/v1alpha1
kind: TrainJob
metadata: {name: train}
spec:
  runtimeRef: {name: torch-distributed}
  trainer:
    image: our-image:1
    command: [torchrun, train.py, shared, "60"]
    numNodes: 2
    numProcPerNode: 1
    env: [{name: OMP_NUM_THREADS, value: "1"}]
"""
trainer = yaml.safe_load(description)["spec"]["trainer"]

# %%
# Here ``torchrun`` has no options. The Trainer gives them as environment variables: ``torchrun`` takes each of its options also from a
# variable named ``PET_`` and the option. ``pod`` does what the Trainer does for the *pod* (the container of one node) with a
# number. (A test compares the fields with those of ``v1alpha1``, and the variables with the options of ``torchrun``.)


def pod(number, address, port):
    """Return the variables that the Trainer sets in the pod with this number."""
    variables = {"NNODES": trainer["numNodes"], "NODE_RANK": number}
    variables |= {"NPROC_PER_NODE": trainer["numProcPerNode"]}
    variables |= {"MASTER_ADDR": address, "MASTER_PORT": port}
    return {f"PET_{name}": str(value) for name, value in variables.items()}


print(pod(1, "train-node-0-0.train", 29500))

# %%
# (The quotes in ``value: "1"`` matter. Without them YAML reads a number, and Kubernetes refuses variables that are not text.) Now run the
# command of the file twice, with the variables of the two pods. Only the address is another: this machine instead of a pod's name. The
# checkpoint is the one of the Slurm job, so the training goes on at update 30:

command, port = trainer["command"], free_port()
run(command, command, each=[path | pod(number, "127.0.0.1", port) for number in (0, 1)])
torch.testing.assert_close(torch.load(folder / "shared")[1], alone)

# %%
# In this dry run on one machine the Slurm job began the training, and the command of the Kubernetes job ended it. It has the weights of
# the unbroken run, up to rounding: the shares of two ranks are added in another order than those of three. On real machines the
# checkpoint must lie in a folder that all of them see. Our job description lacks that: a real one mounts such a folder (a *volume*)
# into each pod, and gives its path in place of ``shared``.
#
# And Ray?
# --------
#
# **Ray** is a library that runs Python functions on many machines; *Ray Train* is its part for training. There is no ``torchrun``: Ray
# starts the processes, sets the same variables (but ``NODE_RANK`` instead of ``GROUP_RANK``, so our script prints "node None"), forms the
# process group and calls your function in each. The script needs a second file beside it, and no change. Start it with
# ``python ray_train.py FILE 60 RESULTS``, and give whole paths, because Ray's processes work in folders of their own:
#
# .. code-block:: python
#
#    import sys
#
#    import ray
#    from ray.train import RunConfig, ScalingConfig
#    from ray.train.torch import TorchConfig, TorchTrainer
#    from train import main
#
#
#    def on_each_worker(config):
#        main(config["file"], config["last"])
#
#
#    ray.init()  # joins the cluster that RAY_ADDRESS names, or starts one
#    file, last, results = sys.argv[1], int(sys.argv[2]), sys.argv[3]
#    trainer = TorchTrainer(
#        on_each_worker,
#        train_loop_config={"file": file, "last": last},
#        scaling_config=ScalingConfig(num_workers=2),
#        torch_config=TorchConfig(backend="gloo"),
#        run_config=RunConfig(storage_path=results),
#    )
#    trainer.fit()
#
# Ray itself starts many processes besides the two workers, too many for this page, which does not run the file. But a test of this book
# takes these very lines from the page and runs them with the real Ray. It lets ``torchrun`` do half of the updates and Ray the other half,
# and the weights are those of ``torchrun`` alone. On several machines each worker must also find ``train.py`` to import it:
# ``ray.init(runtime_env={"working_dir": "."})`` sends the folder along.
#
# What if they do not find each other?
# ------------------------------------
#
# This is the commonest trouble of a first start on a cluster: the address is wrong, a firewall stands between the machines, or node 0 is
# not up. At first it does not look like an error. Everybody waits. Here rank 1 looks for a rank 0 that is not there, for two seconds. If
# you say nothing, ``gloo`` waits for half an hour.

from datetime import timedelta

import torch.distributed as dist
from pytorch_course.distributed import launch


def look_for(url):
    """Look for rank 0 where nobody listens; return the error message."""
    try:
        dist.init_process_group("gloo", url, timedelta(seconds=2), world_size=2, rank=1)
    except dist.DistNetworkError as error:
        return str(error).splitlines()[0]


message = launch(look_for, f"tcp://127.0.0.1:{port}", nproc=1)[0]
print(message.replace(port, "PORT"))
assert "timed out after 2000ms" in message

# %%
# "The client socket has timed out": that is the sentence to know. Under ``torchrun`` it is the agents that wait first. With
# ``--master-addr`` they wait ten minutes and end with the same sentence. With ``c10d`` it is one minute, and the last line says "The
# connection to the C10d store has failed".
#
# Then ask, in this order: does every node name the *same* address, that of node 0 and not its own? Does a plain connection from another
# node reach it (``nc -vz ADDRESS PORT``)? Do ``GLOO_SOCKET_IFNAME`` or ``NCCL_SOCKET_IFNAME`` have to name the right network card?
#
# What does an all-reduce cost?
# -----------------------------
#
# Back to the second question. Say that a message of :math:`n` bytes takes a fixed time :math:`\alpha`, the :term:`latency`, and a time
# :math:`\beta` for each byte: :math:`\alpha + \beta n`. A ring of :math:`p` ranks has :math:`2(p-1)` rounds, and in each of them every
# rank sends a piece of :math:`n/p` bytes. So
#
# .. math:: T_{\text{ring}} = 2(p-1)\left(\alpha + \beta\,\frac{n}{p}\right).
#
# Is that true? ``gloo`` uses a ring. Measure it here, for two to four ranks, from one kilobyte to eight megabytes. Five times we take the
# time of four all-reduces; the shortest counts, since the others contain what else the computer had to do.

from functools import partial
from timeit import repeat


def clock(sizes):
    """Return (ranks, bytes, seconds) of all-reduces in groups of 2, 3 and 4 ranks."""
    dist.init_process_group("gloo")
    rows = []
    for ranks in (2, 3, 4):
        group = dist.new_group(range(ranks))
        for size in sizes if dist.get_rank() < ranks else []:
            call = partial(dist.all_reduce, torch.zeros(size // 4), group=group)
            rows.append((ranks, size, min(repeat(call, number=4)) / 4))
    dist.destroy_process_group()
    return rows


rows = launch(clock, [2**power for power in (10, 13, 16, 19, 21, 23)], nproc=4)[0]

# %%
# The formula is linear in its two unknowns, so least squares finds them. We divide each row by its time: ten per cent off then weighs the
# same for a short message and for a long one.

p, n, seconds = torch.tensor(rows, dtype=torch.float64).T
parts = torch.stack([2 * (p - 1), 2 * (p - 1) * n / p], dim=1)
relative = parts / seconds[:, None]
solution = torch.linalg.lstsq(relative, torch.ones_like(relative[:, :1])).solution
alpha, beta = solution.flatten().tolist()
off = (relative @ solution).log().abs().exp()
print(f"measured: alpha {alpha * 1e6:.0f} µs, 1 / beta {1e-9 / beta:.2f} GB/s")
print(f"measured: off by a factor of {off.median():.2f}, at most {off.max():.2f}")
assert alpha > 0 and beta > 0

# %%

# fold: measured times and the fit
fig, ax = plt.subplots(figsize=(6.4, 3))
for ranks, marker in ((2, "C0o"), (3, "C1s"), (4, "C2^")):
    own = p == ranks
    ax.loglog(n[own], seconds[own] * 1e3, marker, label=f"{ranks} ranks")
    ax.loglog(n[own], (parts @ solution)[own] * 1e3, marker[:2])
ax.set(xlabel="bytes", ylabel="milliseconds")
ax.legend()

# %%
# .. caption:: Measured all-reduces (markers) and the fitted formula (lines, one colour for each number of ranks), on the computer that made
#    this page. Short messages cost their rounds, long ones their bytes.
#    :alt: Three curves on logarithmic axes for 2, 3 and 4 ranks, flat for short messages and rising for long ones, with markers near them.
#
# Two numbers describe all sizes and groups up to the factors printed above: the first is the median of the 18 measurements, the second
# the worst. Do not expect more here. There is no wire: :math:`1/\beta` is the speed at which processes on one machine copy and add
# bytes, and all ranks share its processors.
#
# And with thousands of ranks?
# ----------------------------
#
# The rounds of a ring grow with :math:`p`. A **tree** needs :math:`\log_2 p` rounds to collect the sum at its root, and as many to hand it
# down. If the tensor climbs in many small pieces, one behind the other, its bytes cost only about :math:`2\beta n` in all:
#
# .. math:: T_{\text{tree}} \approx 2\alpha\log_2 p + 2\beta n.
#
# What we measured says nothing about a data centre. So these are *assumptions*: 10 microseconds for a message, 50 GB/s for each rank, no
# congestion, nobody late. The message has 25 MiB, the size of the buckets in which ``DistributedDataParallel`` sends its gradients.

from math import log2

alpha, beta, n = 10e-6, 1 / 50e9, 25 * 2**20


def ring(p, n):
    return 2 * (p - 1) * (alpha + beta * n / p)


def tree(p, n):
    return 2 * alpha * log2(p) + 2 * beta * n


for p in (8, 64, 512, 4096):
    print(f"{p:4} ranks: ring {1e3 * ring(p, n):5.2f}, tree {1e3 * tree(p, n):.2f} ms")
assert ring(4096, n) > 50 * tree(4096, n) and ring(8, n) < tree(8, n)

# %%
# With 8 ranks the ring is a little faster. With 4096 ranks it makes 8190 rounds, with pieces of 6 kilobytes, and nearly all of its time is
# latency. That is why NCCL, which carries tensors between GPUs, has both and chooses.
#
# How much faster will it be?
# ---------------------------
#
# Take the model of the first section, with its gradient in 99 buckets. There are two ways to use more ranks. In **weak scaling** every rank
# keeps its own batch, 0.6 seconds of work, and the whole batch grows. In **strong scaling** the whole batch stays: the work of 16 ranks is
# shared by all, and a share shrinks. The efficiency is the part of its time that a rank computes. (We assume that nothing is sent
# while a rank computes. ``DistributedDataParallel`` does both at once, so real numbers are better.)


def efficiency(method, p, work):
    return work / (work + 99 * method(p, gradient / 99))


for p in (16, 256, 4096):
    weak, strong = efficiency(tree, p, 0.6), efficiency(tree, p, 0.6 * 16 / p)
    print(f"{p:4} ranks, tree: weak scaling {weak:.2f}, strong scaling {strong:.2f}")
assert strong < 0.1 < 0.8 < weak

# %%

# fold: efficiency of weak and strong scaling
fig, ax = plt.subplots(figsize=(6.4, 3))
worlds = [2**power for power in range(4, 13)]
for method, line in ((tree, "-"), (ring, "--")):
    weak = [efficiency(method, p, 0.6) for p in worlds]
    strong = [efficiency(method, p, 0.6 * 16 / p) for p in worlds]
    ax.semilogx(worlds, weak, "C0" + line, worlds, strong, "C1" + line, base=2)
ax.set(xlabel="ranks", ylabel="efficiency", ylim=(0, 1))

# %%
# .. caption:: Worked out from the assumptions, not measured. Blue: weak scaling, orange: strong scaling; solid: tree, dashed: ring.
#    :alt: Four curves of efficiency over 16 to 4096 ranks. Weak scaling with a tree stays level above 0.8, with a ring it falls to
#       nearly 0. Strong scaling falls to nearly 0 with both.
#
# With a tree, weak scaling loses hardly anything more beyond 16 ranks. Strong scaling ends where a share of the work takes less time than
# the averaging; a faster network moves that point but does not remove it. Weak scaling has its own price: the batch grows with the
# ranks, and a larger batch needs another learning rate, at least. The first exercise shows what happens otherwise.
#
# Take this with you
# ------------------
#
# Before you train on a new cluster, start this on all nodes. It says who is where and how fast they average. Put it into ``hello.py``
# with ``main()`` at its end, and start it as you would start your training. It needs ``os``, ``socket``, ``sys``, ``torch``,
# ``torch.distributed as dist``, ``partial`` from ``functools`` and ``repeat`` from ``timeit``.
#
# The number is the bytes of the tensor over the time. A ring sends :math:`2(p-1)/p` times as many through each connection, so multiply by
# that before you compare with what your network promises. On GPUs ``all_reduce`` returns before the sum is there: time a function that
# also calls :func:`torch.cuda.synchronize`.


def main():
    """Say who is where, and time an all-reduce of 64 MiB."""
    dist.init_process_group("gloo")  # on GPUs "nccl", and the tensor on a GPU
    rank, size = dist.get_rank(), dist.get_world_size()
    print(f"rank {rank} of {size}, local rank {os.environ['LOCAL_RANK']}")
    seconds = min(repeat(partial(dist.all_reduce, torch.zeros(2**24)), number=1))
    print(f"{socket.gethostname()}: {2**26 / seconds / 1e9:.2f} GB/s", file=sys.stderr)
    dist.destroy_process_group()


# %%
# Here on two processes. (The speed goes to the error stream, which ``launch`` shows only after a failure.)

_ = launch(main, nproc=2)
temporary.cleanup()

# %%
# Change something
# ----------------
#
# * In the two-node run, swap the node ranks: ``--node-rank=1`` for the first agent and 0 for the second. Which node has one rank now? Do
#   the weights change?
# * In the batch file, move the line ``#SBATCH --nodes=2`` to the end, below the ``srun`` command. What happens?
# * Assume slower messages, ``alpha = 100e-6``, as over ordinary Ethernet. From how many ranks on is the tree faster?
#
# .. dropdown:: What happens
#
#    * Node 0 has rank 0 alone, and ranks 1 and 2 are on node 1. The weights stay the same, bit by bit: a rank's share depends on its rank
#      only, and the ring adds in the order of the ranks.
#    * The page stops at the assertion: ``sbatch`` would see five options, not six. On a real cluster you would get a single node, without
#      a word of complaint.
#    * From 5 on. So the page stops at the assertion that the ring is faster with 8. The fixed time counts once a round, and the ring has
#      more rounds.
#
# Exercises
# ---------
#
# A colleague's script takes 8 samples *on each rank*. With more ranks it makes fewer and larger steps, and after one pass over 9600 samples
# it has learnt less. Here one process plays all ranks: a step takes the mean gradient of :math:`8p` samples.

from pytorch_course.exercises import expect


def loss_after(ranks, rate):
    """Train a linear model for one pass; return its loss."""
    torch.manual_seed(0)
    inputs = torch.randn(9600, 8)
    targets, weights = inputs.sum(1), torch.zeros(8)
    for rows in torch.arange(9600).split(8 * ranks):
        error = inputs[rows] @ weights - targets[rows]
        weights -= rate * 2 * inputs[rows].T @ error / len(rows)
    return (inputs @ weights - targets).square().mean().item()


for ranks in (1, 16, 64):
    print(f"{ranks:2} ranks, rate 0.01: loss {loss_after(ranks, 0.01):.4f}")

# %%
# .. exercise:: Fix the learning rate
#    :kind: fix
#
#    The colleague kept the rate of 0.01. Write ``rate_for``: it takes the number of ranks and returns 0.01 for one rank, and rates with
#    which 16 and 64 ranks have lost nothing, that is, come to a loss of 0.00 as well :cite:p:`goyal2017`. (Does your rule go on for
#    ever? Try 128 ranks afterwards.)


def rate_for(ranks):
    ### BEGIN SOLUTION
    return 0.01 * ranks  # with 128 ranks 1.28: every step overshoots, and it diverges
    ### END SOLUTION


expect(lambda: [round(loss_after(p, rate_for(p)), 2) for p in (1, 16, 64)], [0.0] * 3)
expect(lambda: rate_for(1), 0.01)

# %%
# .. exercise:: Predict the ranks
#    :kind: predict
#
#    Three nodes run ``torchrun`` with ``--nproc-per-node`` 4, 2 and 4, in the order of their node ranks. Which rank has the process with
#    local rank 1 on node 2, and how large is the world?

### BEGIN SOLUTION
guess = (7, 10)
### END SOLUTION

starts = torch.tensor([4, 2, 4]).cumsum(0)
expect(guess, (int(starts[1]) + 1, int(starts[2])))

# %%
# .. exercise:: Where does the tree win?
#    :kind: build
#
#    Write ``fewest_ranks``: the smallest power of two, at least 2, from which a tree is faster than a ring for a message of ``n`` bytes.
#    Use ``ring`` and ``tree`` from above, with their assumptions.


def fewest_ranks(n):
    ### BEGIN SOLUTION
    p = 2
    while ring(p, n) <= tree(p, n):
        p *= 2
    return p
    ### END SOLUTION


expect(lambda: [fewest_ranks(10**power) for power in (3, 6, 9)], [4, 4, 64])
