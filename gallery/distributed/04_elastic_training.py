r"""
Elastic training
================

Let a run of several processes survive the sudden death of one of them, end with the
same bits, and know what that costs.

.. lesson::
   :needs: distributed/03_distributed_data_parallel training/05_saving_and_resuming
   :data: none
   :keywords: elastic training, fault tolerance, fault-tolerant, torchrun, torchelastic,
      torch.distributed.run, max-restarts, restart, SIGKILL, exitcode -9,
      ChildFailedError, preemption, spot instance, node failure, resume, checkpoint
      interval, Young, Daly, MTBF, rendezvous, standalone, nnodes, Connection closed by
      peer, Gloo connectFullMesh failed, Connection refused
   :thumbnail: 1
   :alone:
"""

# %%
# Will my run survive the night?
# ------------------------------
#
# One computer rarely fails. Many computers often do. When Meta trained Llama 3 on 16,384 GPUs, 419 unexpected failures stopped the run
# in 54 days :cite:p:`grattafiori2024`. (Not all of them were failures of a GPU; count them as if they were.) Suppose that your GPUs
# fail as often, each on its own, and that the run stops when one fails. How likely is a night of twelve hours without a failure?

import math

hours_of_one = 16_384 * 54 * 24 / 419  # hours of one GPU, for each failure
print(f"one GPU: a failure in {hours_of_one / 24 / 365:.1f} years")
for gpus in (8, 1024, 16_384):
    survives = math.exp(-12 * gpus / hours_of_one)
    print(f"{gpus:6} GPUs: survives the night with probability {survives:.3f}")
assert survives < 0.05

# %%
# (If a failure is equally likely at every moment, the chance to see none is :math:`e^{-m}`, where :math:`m` is how many you expect.) So
# a large run must survive failures. In this lesson a run of two processes is killed on purpose. It goes on by itself, and ends with the
# same weights, bit for bit, as if nothing had happened.
#
# What runs?
# ----------
#
# A small network learns which points of a plane lie outside a circle: 1024 points, batches of 64, three epochs, 48 updates. Each
# function below also goes into a file ``train.py``, which several processes will run. First what is the same for all of them:

import signal
import sys

import torch
import torch.distributed as dist
from torch import nn


def make_parts():
    """Return the data, a network and its optimizer, the same in every process."""
    torch.manual_seed(0)
    points = torch.randn(1024, 2)
    outside = (points.norm(dim=1) > 1.2).float()
    hidden, last = nn.Linear(2, 16), nn.Linear(16, 1)
    network = nn.Sequential(hidden, nn.Tanh(), last, nn.Flatten(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    return TensorDataset(points, outside), network, optimizer


# %%
# Then the order. ``DistributedSampler`` shuffles with a generator of its own, seeded by ``seed`` and the number of the epoch, and gives
# each process its share. So the place in the data is one number, the updates done: 16 make an epoch, and ``step // 16`` is the
# epoch, ``step % 16`` the batch in it.

from itertools import islice

from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def batches(data, step, rank, size):
    """Yield this process's share of each batch of 64, from an update on."""
    sampler = DistributedSampler(data, num_replicas=size, rank=rank, seed=0)
    loader = DataLoader(data, 64 // size, sampler=sampler)
    for epoch in range(step // len(loader), 3):
        sampler.set_epoch(epoch)
        yield from islice(loader, step % len(loader), None)
        step = 0  # only the first of these epochs begins in the middle


# %%
# Saving and resuming are those of :doc:`/lessons/training/05_saving_and_resuming`: write beside the old file, force the bytes to
# the disk, rename. Whoever starts looks for this :term:`checkpoint` first.

import os
from pathlib import Path


def save(path, network, optimizer, step):
    """Write a file that is either the whole old one or the whole new one."""
    parts = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    with open(f"{path}.draft", "wb") as file:
        torch.save({**parts, "step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.draft", path)


def resume(path, network, optimizer):
    """Load the checkpoint, if there is one; return how many updates are done."""
    if not path.exists():
        return 0
    content = torch.load(path, map_location="cpu")
    network.load_state_dict(content["network"])
    optimizer.load_state_dict(content["optimizer"])
    return content["step"]


# %%
# Last, the training. Every ten updates (``every``) the process of :term:`rank <rank (process)>` 0 saves, and the others wait for it at a
# :term:`barrier`. One process can be told to die: in the first attempt, after the update ``fatal``, the process ``victim`` sends itself
# SIGKILL, the signal that no program can catch. The system sends it when memory runs out. It then closes the connections of the dead
# process, so the others notice at once. (A machine without power closes nothing: there the others wait until a timeout.) torchrun
# counts the attempts in an environment variable. (It also starts Python without output buffers, so each line is out before the kill.)


def train(folder, every, victim, fatal):
    """Train on all processes; write rank, attempt and number of each update."""
    rank, size = dist.get_rank(), dist.get_world_size()
    attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    data, network, optimizer = make_parts()
    step = resume(folder / "run.pt", network, optimizer)
    parallel = nn.parallel.DistributedDataParallel(network)
    for points, outside in batches(data, step, rank, size):
        nn.BCEWithLogitsLoss()(parallel(points), outside).backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        sys.stdout.write(f"{rank} {attempt} {step}\n")
        if every and step % every == 0:
            if rank == 0:
                save(folder / "run.pt", network, optimizer, step)
            dist.barrier()
        if (rank, attempt, step) == (victim, 0, fatal):
            os.kill(os.getpid(), signal.SIGKILL)
    torch.save(network.state_dict(), folder / f"final-{rank}.pt")


# %%
# ``train.py`` consists of its imports, the functions above and a few lines that call the last one between joining the group and leaving
# it:

IMPORTS = """import os, signal, sys
from itertools import islice
from pathlib import Path
import torch, torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset"""
FUNCTIONS = [make_parts, batches, save, resume, train]
CALL = """dist.init_process_group("gloo")
train(Path(sys.argv[1]), *map(int, sys.argv[2:]))
dist.destroy_process_group()"""

# %%
# ``torchrun`` starts the processes. It is a command, and ``python -m torch.distributed.run`` is the same. ``--standalone`` means this
# machine alone, on a free port; ``--max-restarts`` says how often torchrun may start all processes again after one has failed.
# (:func:`inspect.getsource` gives the text of a function.)

import inspect
import subprocess

SETTINGS = {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(folder, every=10, victim=1, fatal=0, nproc=2, restarts=1):
    """Run train.py in a folder; return the exit code, the output and the errors."""
    folder.mkdir(exist_ok=True)
    program = "\n\n".join([IMPORTS, *map(inspect.getsource, FUNCTIONS), CALL])
    (folder / "train.py").write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={nproc}", f"--max-restarts={restarts}"]
    command += map(str, (folder / "train.py", folder, every, victim, fatal))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | SETTINGS, **pipes) as process:
        try:
            out, err = process.communicate(timeout=300)
        finally:
            process.terminate()  # at a timeout, torchrun ends its processes, too
    return process.returncode, out, err


# %%
# The two settings: one thread for each process; and a new store for each attempt. The processes find each other through a *store* of
# names and addresses. Without the second setting torchrun keeps one store for all attempts, and a process of the second attempt may read
# there the address of one that is dead: "Gloo connectFullMesh failed", "Connection refused"
# (`issue 135712 <https://github.com/pytorch/pytorch/issues/135712>`__).
#
# First a run that nobody disturbs. To compare runs, take a hash of all bits of the final weights; and from what the processes wrote, keep
# the lines of one rank.

import hashlib
import tempfile

temporary = tempfile.TemporaryDirectory()
root = Path(temporary.name)


def fingerprint(folder, rank=0):
    """Return a hash of all bits of the final weights of a process."""
    weights = torch.load(folder / f"final-{rank}.pt").values()
    bits = b"".join(tensor.numpy().tobytes() for tensor in weights)
    return hashlib.sha256(bits).hexdigest()[:16]


def journal(out, rank=1):
    """Return (attempt, update) for each update of a process, in order."""
    lines = [tuple(map(int, line.split())) for line in out.splitlines()]
    return [(attempt, step) for number, attempt, step in lines if number == rank]


# %%

code, out, err = torchrun(root / "undisturbed")
whole = journal(out)
hashes = [fingerprint(root / "undisturbed", rank) for rank in (0, 1)]
print(f"measured hashes of ranks 0 and 1 after {len(whole)} updates:", *hashes)
assert hashes[0] == hashes[1]

# %%
# (The hash may be another one on another processor.)
#
# What does one death do to the others?
# -------------------------------------
#
# Now the same without any precaution: no checkpoint, no restart. Rank 1 dies after update 27.

code, out, err = torchrun(root / "careless", every=0, fatal=27, restarts=0)
exit_code = err.split("rank      : 1")[1].split("exitcode  : ")[1].split()[0]
print(f"rank 1: last update {journal(out)[-1][1]}, exit code {exit_code}")
assert exit_code == "-9" and not list((root / "careless").glob("*.pt"))

# %%
# Everything is over, also for the healthy rank 0. In its 28th update it waits for the gradient of a process that is gone, and either gets
# an error ("Connection closed by peer") or torchrun ends it first. torchrun ends with a report on all; the cell looks in it for the
# lines "rank : 1" and "exitcode". −9 means that signal 9, SIGKILL, ended the process. So look for the process that did not complain.
# The work of 27 updates is lost.
#
# Can the run go on by itself?
# ----------------------------
#
# With a file to go on from and one restart:

killed = root / "killed"
code, out, err = torchrun(killed, every=10, fatal=27, restarts=1)
story = journal(out)
for attempt in (0, 1):
    steps = [step for number, step in story if number == attempt]
    print(f"attempt {attempt}: updates {steps[0]} to {steps[-1]}")
print("measured hashes: undisturbed", hashes[0], "killed", fingerprint(killed))
assert fingerprint(killed) == fingerprint(killed, rank=1) == hashes[0]
assert len(story) - len(whole) == 27 - 20

# %%
# The hash is the same: the run that was killed ends with the weights of the undisturbed one. The price is seven updates, those from 21
# to 27, which were done twice.

# fold: the number of the last update, over the updates computed
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 3.2))
ax.plot([*range(1, 28), *range(1, 49)], "C2:", label="no file: begins again")
ax.plot([step for _, step in story], "C1", label="file at update 20")
ax.plot([step for _, step in whole], "C0--", label="undisturbed")
ax.annotate("SIGKILL", (26, 27), (12, 36), arrowprops={"arrowstyle": "->"})
ax.set(xlabel="updates computed", ylabel="update reached")
ax.legend(loc="lower right")

# %%
# .. caption:: How far rank 1 has come, over the updates that it has computed. The kill after update 27 throws it back to update 20. The
#    dotted line was not run: it is what a restart without a file would do.
#    :alt: Three rising lines. The dashed one goes straight to 48. The solid one follows it to 27, drops to 21 and reaches 48 after 55
#       updates. The dotted one drops to 1 and reaches 48 after 75.
#
# Note that *all* processes were started again, also the healthy one. torchrun does not repair a group; it ends it and makes a new one,
# which meets at a new :term:`rendezvous`. So your program has no code for the failure, only a beginning that can be anywhere. Three
# things must hold:
#
# * **What decides the next update is in the file**: weights, optimizer, place in the data, and where a network draws random numbers
#   (ours does not), the generators of all ranks, which are sent to rank 0 before it writes (``torch.distributed.all_gather_object``).
# * **The order follows from the epoch.** A ``DataLoader`` with ``shuffle=True`` would draw another order than the one that was cut off.
# * **One process writes, and the file is always whole.** If two wrote to one name, they could mix; and the kill may come in the middle.
#   After the barrier all can rely on the file.
#
# What if fewer processes come back?
# ----------------------------------
#
# A machine may stay broken. With ``--nnodes=1:2`` torchrun goes on with one node when the second is gone
# (:doc:`/lessons/distributed/06_many_machines`). What becomes of the result? Let a single process finish what two began, from the file
# of update 40 that is still in the folder:

code, out, err = torchrun(killed, nproc=1)
steps = [step for _, step in journal(out, rank=0)]
print(f"one process: updates {steps[0]} to {steps[-1]}")

two, one = (torch.load(end / "final-0.pt") for end in (root / "undisturbed", killed))
apart = max((two[name] - one[name]).abs().max() for name in two)
print(f"measured: the weights of one and of two end {apart:.0e} apart")
assert steps[0] == 41 and apart < 1e-4

# %%
# The last digits may differ, because the mean of 64 gradients is added up in another order than two means of 32. The rest stays, for
# two reasons. ``batches`` divides 64 by the number of processes, so an update means the same 64 points; and *which* 64 follows from
# seed and epoch, not from the number of processes. Here are the smallest eight numbers of the points in batch 8, which one, two or four
# processes read together:

together = {}
for size in (1, 2, 4):
    samplers = [DistributedSampler(range(1024), size, rank) for rank in range(size)]
    shares = torch.tensor([list(sampler) for sampler in samplers])
    batch = shares[:, 8 * 64 // size : 9 * 64 // size]  # number 8, of all ranks
    together[size] = batch.flatten().sort().values.tolist()
    print(f"size {size}:", *together[size][:8], "...")
assert together[1] == together[2] == together[4]

# %%
# Had each process kept batches of 32 of its own, the one alone would take batches of 32. Its epochs would have 32 updates, so update 40
# would be in epoch 1, not 2, and data that is done would come once more. So write the size of the *global* batch
# into your settings, and divide it.
#
# All this needs a number of processes that divides 64, and 1024. With three, ``64 // 3`` is 21: the global batch has 63 points, and an
# epoch 17 updates. And a ``DistributedSampler`` repeats samples until every rank has equally many, so two points would come twice. The
# sampler in :func:`pytorch_course.data.loader` gives the ranks unequal shares of the last batch instead. That function, ``world``,
# ``TrainState`` and ``Checkpoints`` of the helper package do together what this lesson does by hand, for generators too.
#
# How often should it save?
# -------------------------
#
# Saving costs time, and so does work that is lost. Let :math:`T` be the time between two checkpoints, :math:`C` the time to write one,
# :math:`R` the time of a restart, and :math:`M` the mean time between two failures. A failure comes on average in the middle
# of an interval. So each minute of work costs about so many minutes more:
#
# .. math:: \frac{C}{T} + \frac{T/2 + R}{M}, \qquad\text{least at}\qquad T = \sqrt{2\,C\,M}.
#
# That is Young's formula :cite:p:`young1974`. Here is what it says of our run, if it failed once an hour:

import timeit

import numpy as np

_, network, optimizer = make_parts()
timer = timeit.Timer(lambda: save(root / "timed.pt", network, optimizer, 0))
cost = sorted(timer.repeat(9, number=1))[4]
best = math.sqrt(2 * cost * 3600)
print(f"measured: writing takes {cost * 1000:.1f} ms; save every {best:.1f} s")

# %%
# Is the formula right? Simulate a large run: a failure every 186 minutes on average, as in the Llama run, a checkpoint of one
# minute and a restart of five (these two are assumptions).


def lost(interval, cost=1.0, restart=5.0, between=186.0, work=200_000.0):
    """Simulate a run; return the minutes lost for each minute of work."""
    random = np.random.default_rng(0)
    clock = done = 0.0
    failure = random.exponential(between)  # minutes until the next one
    while done < work:
        if failure > interval + cost:
            done += interval
            clock += interval + cost
            failure -= interval + cost
        else:
            clock += failure + restart
            failure = random.exponential(between)
    return clock / done - 1


young = math.sqrt(2 * 1.0 * 186.0)
for interval in (young / 3, young, 3 * young):
    print(f"every {interval:2.0f} minutes: lost {lost(interval):.3f} a minute")
assert lost(young) < min(lost(young / 3), lost(young * 3))

# %%

# fold: the time lost, over the interval
intervals = np.geomspace(2, 120, 30)
fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(intervals, [lost(each) for each in intervals], "C0o", ms=4, label="simulated")
formula = 1 / intervals + (intervals / 2 + 5) / 186
ax.plot(intervals, formula, "C1", label="formula")
ax.set(xlabel="minutes between checkpoints", ylabel="lost per minute", ylim=(0, 0.6))
ax.legend(loc="upper center")

# %%
# .. caption:: Minutes lost for each minute of work. Young's choice is 19 minutes. The formula always says a little too little, and more so
#    for long intervals: it leaves out that the same interval may be hit again.
#    :alt: Dots and a curve. From 2 minutes on both fall steeply, are lowest near 20 minutes, at about 0.14, and rise slowly. The dots
#       lie a little above the curve, and farther above it beyond 40 minutes.
#
# A wrong interval costs something: three times too short or too long loses 0.21 or 0.23 a minute, not 0.14. But :math:`T` follows the
# square root of :math:`M`. For such an interval your guess of :math:`M` must be wrong by a factor of nine. Writing
# while the training goes on (*asynchronous* checkpoints) makes :math:`C` smaller, and with it the best interval.
#
# Take this with you
# ------------------
#
# A program that may be killed and started again at any time. Yours has more in ``state``: put the state_dict of the network and of the
# optimizer in before ``torch.save``, and give both back with ``load_state_dict`` right after ``torch.load``, before DDP. The barrier
# stands for your update, in which the processes wait for each other's gradients. If the machine may lose power, force the bytes to the
# disk as in ``save`` above.
#
# For a file ``script.py``, import ``os``, ``torch``, ``torch.distributed as dist`` and ``Path`` from ``pathlib``, and call ``main()``
# at the end. Start it with ``TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --nproc-per-node=2 --max-restarts=3 script.py``.


def main(path="run.pt"):
    """Count to 30; killed and started again, go on from the last ten."""
    dist.init_process_group("gloo")
    state = torch.load(path) if Path(path).exists() else {"step": 0}
    while state["step"] < 30:
        state["step"] += 1  # your update
        if state["step"] % 10 == 0 and dist.get_rank() == 0:
            torch.save(state, f"{path}.draft")
            os.replace(f"{path}.draft", path)
            print("saved at update", state["step"])
        dist.barrier()
    dist.destroy_process_group()


# %%

from pytorch_course.distributed import launch

_ = launch(main, root / "count.pt", nproc=2)
temporary.cleanup()

# %%
# Change something
# ----------------
#
# Start the page again from the top for each: the folder ``killed`` must be empty.
#
# * Let rank 0 die instead, the one that saves: give the run in the folder ``killed`` the argument ``victim=0``.
# * Give it ``every=0``. What becomes of the hash, and of the number of updates?
# * ``DistributedDataParallel`` sends the weights of rank 0 to all others at its start. So need rank 1 read the file? In ``train``, below
#   ``resume``, let it begin with a new optimizer: ``if rank == 1: optimizer = torch.optim.Adam(network.parameters(), lr=0.02)``.
#
# .. dropdown:: What happens
#
#    * Nothing else. The hash is the same, and again seven updates are done twice.
#    * The hash is the same again, but each process computes 75 updates, because the second attempt begins at update 1. The assertion
#      that counts seven stops the page.
#    * The run ends without an error, and the two ranks end with *different* weights; only the assertion about the hashes notices. DDP
#      sends weights at its start, not what the optimizer knows, and afterwards compares nothing. So every process reads the file.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the price of two kills
#
#    A run of 200 updates saves every 25. It is killed after update 118, starts again, is killed after update 130, and starts again. How
#    many updates does each process compute in all?

### BEGIN SOLUTION
guess = 223
### END SOLUTION

reached, computed = 0, 0
for end in (118, 130, 200):
    computed += end - reached
    reached = end // 25 * 25
expect(guess, computed)

# %%
# .. exercise:: Fix the epochs after the restart
#
#    The first version of ``batches`` lacked its last line. After the restart at update 20 the run was done at update 44, not 48: *every*
#    epoch began at batch 4. Write ``places``: the list of (epoch, batch) still to come after ``step`` updates.


def places(step, epochs, batches_per_epoch):
    ### BEGIN SOLUTION
    total = epochs * batches_per_epoch
    return [divmod(each, batches_per_epoch) for each in range(step, total)]
    ### END SOLUTION


expect(lambda: places(5, 3, 3), [(1, 2), (2, 0), (2, 1), (2, 2)])
expect(lambda: places(2, 2, 2), [(1, 0), (1, 1)])

# %%
# .. exercise:: Choose an interval for your cluster
#
#    One GPU fails every ``hours`` hours, and a run stops when any of its ``gpus`` fails. Writing a checkpoint takes ``minutes``. After
#    how many minutes should the run save?


def interval(hours, gpus, minutes):
    ### BEGIN SOLUTION
    return math.sqrt(2 * minutes * hours * 60 / gpus)
    ### END SOLUTION


expect(lambda: interval(hours=30_000, gpus=4000, minutes=4), 60.0)
expect(lambda: interval(hours=50_000, gpus=1000, minutes=2), 109.5445, rtol=1e-4)
