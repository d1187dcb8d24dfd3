r"""
Saving and resuming
===================

Save a model so that others can load it without risk, and a training so that a killed
run goes on as if nothing had happened.

.. lesson::
   :needs: training/03_training_loop tensors/07_views_and_storage
   :data: scikit-learn's handwritten digits
   :keywords: save a model, load a model, checkpoint, resume training, torch.save,
      torch.load, state_dict, load_state_dict, weights_only, safetensors, pickle,
      SIGKILL, out of memory killed, spot instance, preemption, Weights only load
      failed, Unsupported global, Missing key(s) in state_dict, Unexpected key(s) in
      state_dict, size of checkpoint, PytorchStreamReader failed reading zip archive,
      map_location, Attempting to deserialize object on a CUDA device
   :thumbnail: 1
   :alone:
"""

# %%
# Do I have to begin again?
# -------------------------
#
# Your training was killed in the night, at update 200 of 264. You have the weights of that moment. Are they enough to go on?
# Try it with a small network for handwritten digits. Its :term:`learning rate` falls along a cosine, from 0.03 to 0.

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR


def make_parts(seed=0):
    """Return what changes in a training: a model, its optimizer and its schedule."""
    torch.manual_seed(seed)
    dense, scores = nn.Linear(64, 64), nn.Linear(64, 10)
    model = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), nn.Dropout(0.2), scores)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    scheduler = CosineAnnealingLR(optimizer, T_max=264)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


# %%
# The loop below gives back control after each update, and it can begin at any of them. ``step`` counts the updates done, 22 in an epoch.
# So ``step // 22`` whole epochs are done, and ``step % 22`` batches of the next one. ``islice`` drops these batches; the loader still
# loads them, which costs time but changes nothing.
#
# For this, the epoch must have the *same* order of the samples again. A plain ``shuffle=True`` would draw a new one. The order of a
# ``DistributedSampler`` follows from its seed and the number of the epoch alone, which ``set_epoch`` tells it. It was written to share
# the data among several processes, hence its name; ``num_replicas=1, rank=0`` means that there is one process, with the number 0.
#
# Last, ``generator``: each pass over a loader draws one random number, by default from the global generator. Dropout draws from that one
# too. A run that resumes begins a pass where the unbroken run began none, and its dropout would get other numbers. So the loader
# gets a generator of its own.

from itertools import islice

from pytorch_course.datasets import digits
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

images, labels = digits().tensors
data = TensorDataset(images[:1408], labels[:1408])
order = DistributedSampler(data, num_replicas=1, rank=0, seed=0)
batches = DataLoader(data, 64, sampler=order, generator=torch.Generator())


def updates(parts, step=0):
    """Train for 12 epochs, from an update on; yield how many updates are done."""
    model, optimizer, scheduler = parts.values()
    for epoch in range(step // len(batches), 12):
        batches.sampler.set_epoch(epoch)
        for images, labels in islice(batches, step % len(batches), None):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            step += 1
            yield step


# %%
# One run without a break. It writes its weights to a file at update 200:

import tempfile
from pathlib import Path

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def loss_now(model):
    """Return the loss on the 389 digits that are not trained with."""
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(images[1408:]), labels[1408:])
    model.train()
    return loss.item()


# %%

parts = make_parts()
whole = {}
for step in updates(parts):
    whole[step] = loss_now(parts["model"])
    if step == 200:
        torch.save(parts["model"].state_dict(), folder / "weights.pt")

# %%
# And one that goes on from this file, with a new optimizer and a new schedule:

half = make_parts(seed=1)
print(half["model"].load_state_dict(torch.load(folder / "weights.pt")))
broken = {200: loss_now(half["model"])}
for step in updates(half, step=200):
    broken[step] = loss_now(half["model"])

highest, worst = max(list(whole.values())[200:]), max(broken.values())
print(f"loss {whole[200]:.2f}; highest later {highest:.2f}, with the break {worst:.2f}")
assert worst > highest + 0.05

# %%

# fold: the validation loss of both runs
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 3))
ax.plot(whole.keys(), whole.values(), "C0", label="never broken")
ax.plot(broken.keys(), broken.values(), "C1--", label="weights only")
ax.set(xlabel="update", ylabel="validation loss", xlim=(100, 266), ylim=(0.2, 0.65))
ax.legend(loc="upper left")

# %%
# .. caption:: The run that has only its weights (dashed) has a new optimizer and a new schedule, so its learning rate is 0.03 again, as
#    at the start. Its loss jumps. At the end the harm is small here, but it is not the same run.
#    :alt: Two curves over the updates 100 to 264. The solid one is level. The dashed one begins at update 200, jumps up and stays uneven.
#
# The weights are not enough to go on as before. So what is?
#
# What does a state_dict hold?
# ----------------------------
#
# ``state_dict()`` gives a dictionary from names to tensors: all :term:`parameters <parameter>`, and the :term:`buffers <buffer>`, such as
# the running averages of batch normalisation. It does not hold the code of the network. Who loads it builds the network first.

model = parts["model"]
for name, tensor in model.state_dict().items():
    print(f"{name:9} {tuple(tensor.shape)}")

# %%
# The optimizer has a state, too. Adam keeps two running averages for each weight, of the gradient and of its square. So it is
# larger than the model. Its ``state_dict`` also holds the settings, under ``param_groups``, and among them the learning rate of the moment.

for number, entry in parts["optimizer"].state_dict()["state"].items():
    print(number, {key: tuple(value.shape) for key, value in entry.items()})

# %%
# What makes a run?
# -----------------
#
# Five things decide how it goes on: model, optimizer, schedule, the state of the random generator (dropout draws from it), and the place
# in the data, which here is the number of updates. Together they are a :term:`checkpoint`.


def snapshot(parts, step):
    """Return everything that the next update depends on."""
    content = {name: part.state_dict() for name, part in parts.items()}
    return content | {"rng": torch.get_rng_state(), "step": step}


def restore(parts, content):
    """Put everything back; return how many updates are done."""
    for name, part in parts.items():
        part.load_state_dict(content[name])
    torch.set_rng_state(content["rng"])
    return content["step"]


# %%
# Do we need all five? Go on from update 200 six times. In the first five rows, one of the five comes from a fresh start instead (for
# the place in the data: from the beginning of the epoch, update 198). In the last row nothing is missing. The column shows how far the
# final weights are from those of the unbroken run, at most. Predict the last row.

from torch.nn.utils import parameters_to_vector


parts = make_parts()
for step in updates(parts):
    if step == 200:
        torch.save(snapshot(parts, step), folder / "complete.pt")
unbroken = parameters_to_vector(parts["model"].parameters())

fresh = snapshot(make_parts(seed=1), step=198)
distance = {}
for missing in ("model", "optimizer", "scheduler", "rng", "step", "nothing"):
    again = make_parts(seed=2)
    content = torch.load(folder / "complete.pt")
    start = restore(again, {**content, missing: fresh.get(missing)})
    list(updates(again, start))  # train to the end
    final = parameters_to_vector(again["model"].parameters())
    distance[missing] = (final - unbroken).abs().max().item()
    print(f"without {missing:9} {distance[missing]:.3f}")

# %%
# With all five, the difference is not small but zero: no bit differs. In every other row it has become another run. (How good that run
# is, these distances do not say.) Why does the optimizer weigh more than the schedule? Above all because its state holds the learning rate:

assert distance.pop("nothing") == 0 < 0.001 < min(distance.values())
print("saved rate", round(content["optimizer"]["param_groups"][0]["lr"], 4))

# %%
# A fresh optimizer is back at 0.03, and the schedule only multiplies what it finds. Without the saved *schedule*, the small rate of update
# 200 is still there. In the first picture both were new.
#
# What if the kill comes while it writes?
# ---------------------------------------
#
# Then the file holds half of a checkpoint, and it has already replaced the one before:

everything = (folder / "weights.pt").read_bytes()
(folder / "half.pt").write_bytes(everything[: len(everything) // 2])
try:
    torch.load(folder / "half.pt")
except (OSError, RuntimeError) as error:
    print(f"half of {len(everything):,} bytes: {type(error).__name__}")

# %%
# So write beside it, force the bytes to the disk (``os.fsync``; a power cut loses what only the operating system has), and then
# rename. ``os.replace`` puts the new file in the place of the old one in a single step: whoever looks finds one or the other.

import os


def save(path, content):
    """Write a file that is either the whole old one or the whole new one."""
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


# %%
# Does it survive a real kill?
# ----------------------------
#
# Now for real. ``launch`` of the helper package runs a function in new processes and says how they ended. With ``nproc=1`` there is one,
# which the message calls "rank 0 of 1". It saves every ten updates, and after update 207 it gets the signal SIGKILL, which no process can
# catch: no ``except`` and no ``finally`` runs any more.

from pytorch_course.distributed import LaunchError, launch


def night(folder):
    """Train and save every ten updates, until the kill."""
    parts = make_parts()
    for step in updates(parts):
        if step % 10 == 0:
            save(folder / "run.pt", snapshot(parts, step))
        if step == 207:
            os.kill(os.getpid(), 9)  # SIGKILL


try:
    launch(night, folder, nproc=1)
except LaunchError as error:
    print(str(error).splitlines()[0])

# %%
# Seven updates are lost. This process knows nothing of the other one but the file:

import hashlib


def fingerprint(model):
    """Return a hash of all bits of all weights."""
    weights = parameters_to_vector(model.parameters()).detach()
    return hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16]


survivor = make_parts(seed=1)
start = restore(survivor, torch.load(folder / "run.pt", map_location="cpu"))
list(updates(survivor, start))
print("goes on at update", start)
hashes = [fingerprint(each["model"]) for each in (parts, survivor)]
print("measured never broken {}, killed and resumed {}".format(*hashes))
assert hashes[0] == hashes[1]

# %%
# Equal hashes mean equal bits. (On another processor the hash may be another one, but there too the two runs agree. See
# :doc:`/lessons/training/11_reproducibility`.)
#
# Must I write this every time?
# -----------------------------
#
# ``TrainState`` of the helper package takes the snapshot, with NumPy's and Python's generators and those of a GPU as well;
# ``Checkpoints`` writes it as above, reads it back to check it, and keeps the newest few files. This time we only break off.

from pytorch_course.checkpoint import Checkpoints
from pytorch_course.state import TrainState
from pytorch_course.train import train


def loss_fn(model, batch):
    """Return the mean loss of a batch."""
    return F.cross_entropy(model(batch[0]), batch[1])


checkpoints = Checkpoints(folder / "run", keep=2)
state = TrainState(*make_parts().values())
for update in train(state, batches, loss_fn, epochs=12):
    if update.number % 10 == 0:
        checkpoints.save(state)
    if update.number == 207:
        break

# %%

state = TrainState(*make_parts(seed=1).values())
print("goes on at update", checkpoints.resume(state))
list(train(state, batches, loss_fn, epochs=12))
print("measured with the package", fingerprint(state.model))
assert fingerprint(state.model) == hashes[0]

# %%
# Can a file do harm?
# -------------------
#
# You might think of a file of weights as numbers. ``torch.save`` uses Python's pickle, and a pickle is a small program: it may name any
# function, and whoever reads it calls that function. This one is harmless:

import pickle


class Gift:
    """An object whose pickle calls print."""

    def __reduce__(self):
        return print, ("This line was printed by a file.",)  # to call, and its argument


nothing = pickle.loads(pickle.dumps(Gift()))

# %%
# It could have deleted your files instead. So :func:`torch.load` reads **weights only**: tensors, numbers, strings and containers of
# them. That has been the default since PyTorch 2.6, and it refuses our gift. It also refuses a *whole module*, because a pickled
# module names classes to call.

for content in (Gift(), model):
    torch.save(content, folder / "gift.pt")
    try:
        torch.load(folder / "gift.pt")
    except pickle.UnpicklingError as error:
        refusal = str(error).partition("WeightsUnpickler error: ")[2]
    print(refusal.partition(". Please")[0])

# %%
# The full error text, of which you see one sentence here, also says how to switch the protection off. Do not do it for a file that you
# did not write yourself. Ask for its ``state_dict``, or for **safetensors**, the usual format for sharing weights, which cannot hold
# code at all: 8 bytes give the length of a table, the table gives each tensor's type, shape and place, and the rest is numbers. Here is a
# row of that table:

import json

from safetensors.torch import load_file, save_file

save_file(model.state_dict(), folder / "model.safetensors")
raw = (folder / "model.safetensors").read_bytes()
length = int.from_bytes(raw[:8], "little")
print("1.bias", json.loads(raw[8 : 8 + length])["1.bias"])
assert torch.equal(load_file(folder / "model.safetensors")["1.bias"], model[1].bias)

# %%
# Did all weights arrive?
# -----------------------
#
# A compiled model has longer names: ``torch.compile`` puts ``_orig_mod.`` before each of them, and ``DistributedDataParallel`` puts the
# word ``module`` and a dot. Loaded into the plain model, nothing fits, and ``load_state_dict`` says so with an error. ``strict=False``
# silences the error:

saved = torch.compile(model).state_dict()
other = make_parts(seed=1)["model"]
answer = other.load_state_dict(saved, strict=False)
print("missing", answer.missing_keys, "unexpected", answer.unexpected_keys[0], "...")
print(f"loss {loss_now(other):.2f} instead of {loss_now(model):.2f}")
assert len(answer.missing_keys) == 4 and loss_now(other) > 2

# %%
# Not one weight has arrived. Use ``strict=False`` only where some weights are meant to be missing, and read what it returns. Here
# the remedy is to save the plain model, or to remove the prefix:

nn.modules.utils.consume_prefix_in_state_dict_if_present(saved, "_orig_mod.")
print(other.load_state_dict(saved), f"loss {loss_now(other):.2f}")

# %%
# Why is the file so large?
# -------------------------
#
# A slice of a tensor shares its :term:`storage`, as in :doc:`/lessons/tensors/07_views_and_storage`. ``torch.save`` keeps that sharing,
# and so it writes the whole storage.

table = torch.zeros(10_000, 64)
torch.save(table[:2], folder / "slice.pt")
torch.save(table[:2].clone(), folder / "clone.pt")
sizes = [(folder / name).stat().st_size for name in ("slice.pt", "clone.pt")]
print("bytes for two rows: slice {:,}, clone {:,}".format(*sizes))

# %%
# And what if the GPU is gone?
# ----------------------------
#
# A tensor remembers its device, and a file from a GPU fails on a machine without one: "Attempting to deserialize object on a CUDA
# device". ``map_location`` says where the tensors go instead. With ``"cpu"`` a file opens everywhere, and ``load_state_dict`` copies to
# wherever the model is. Our file comes from a CPU, so ``"cpu"`` changes nothing here. To see a change, the second line loads to the device
# ``meta``, which has shapes and no numbers.

print(torch.load(folder / "weights.pt", map_location="cpu")["1.bias"].device)
print(torch.load(folder / "weights.pt", map_location="meta")["1.bias"].device)

# %%
# Take this with you
# ------------------
#
# Save all five beside the old file, then rename. Load with ``map_location="cpu"`` into ``parts`` that you built anew: a dictionary of
# model, optimizer and scheduler. ``torch.get_rng_state`` is the generator of the CPU only: with a GPU, save
# ``torch.cuda.get_rng_state_all()`` as well, and give it back with ``torch.cuda.set_rng_state_all``.

content = {name: part.state_dict() for name, part in parts.items()}
content |= {"rng": torch.get_rng_state(), "step": step}
with open(folder / "run.draft", "wb") as file:
    torch.save(content, file)
    file.flush()
    os.fsync(file.fileno())
os.replace(folder / "run.draft", folder / "run.pt")
content = torch.load(folder / "run.pt", map_location="cpu")
for name, part in parts.items():
    part.load_state_dict(content[name])
torch.set_rng_state(content["rng"])
step = content["step"]  # go on from here: updates(parts, step)

# %%
# Change something
# ----------------
#
# * When ``batches`` is made, leave out ``generator=torch.Generator()``. What does the row "without nothing" say now?
# * In ``updates``, leave out the line with ``set_epoch``. Is the killed run still equal to the unbroken one? Where does the page stop?
# * Before ``checkpoints.resume``, build the state from a network with 32 hidden units instead of 64. What becomes of its weights?
#
# .. dropdown:: What happens
#
#    * It is no longer zero, and the assert stops the page. Every pass over a ``DataLoader`` draws one number, by default from the global
#      generator. The resumed run begins its pass in the middle of an epoch, so dropout reads other numbers than in the unbroken run.
#    * It is equal, and yet there is a fault: every epoch has the order of epoch 0. The page stops at the comparison with ``train``, which
#      calls ``set_epoch`` itself.
#    * Nothing. ``resume`` raises a ``CheckpointError`` that lists the shapes that differ, and it checks before it changes anything.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

temporary.cleanup()

# %%
# .. exercise:: Predict the size of a state_dict
#
#    How many tensors are in the ``state_dict`` of a linear layer, a ``BatchNorm1d``, a ``ReLU`` and another linear layer? Batch
#    normalisation has a weight and a bias, and as buffers a running mean, a running variance, and the number of batches seen.

### BEGIN SOLUTION
guess = 9
### END SOLUTION

network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
expect(guess, len(network.state_dict()))

# %%
# .. exercise:: Fix the choice of the newest
#
#    A colleague finds the newest checkpoint with ``max(names)``. Until step 90 all is well; from then on, every resumed run goes on from
#    step 90. Write ``newest``, which takes a list of names such as ``"step-90.pt"`` and returns the right one.


def newest(names):
    ### BEGIN SOLUTION
    return max(names, key=lambda name: int(name.removesuffix(".pt").split("-")[1]))
    ### END SOLUTION


expect(lambda: newest(["step-80.pt", "step-90.pt", "step-100.pt"]), "step-100.pt")
expect(lambda: newest(["step-1000.pt", "step-990.pt", "step-999.pt"]), "step-1000.pt")

# %%
# .. exercise:: Build an average of checkpoints
#
#    The mean of the last few checkpoints often does better than the last one. Write ``average``, from a list of state_dicts to one:
#    tensors of floating-point numbers become their mean, all others, such as a count of batches, come from the last.


def average(states):
    ### BEGIN SOLUTION
    mean = {}
    for name, last in states[-1].items():
        if last.is_floating_point():
            last = torch.stack([state[name] for state in states]).mean(dim=0)
        mean[name] = last
    return mean
    ### END SOLUTION


three = [
    {"weight": torch.tensor([[1.0, 2.0]]), "batches": torch.tensor(10)},
    {"weight": torch.tensor([[4.0, 2.0]]), "batches": torch.tensor(20)},
    {"weight": torch.tensor([[1.0, 5.0]]), "batches": torch.tensor(31)},
]
expect(lambda: average(three)["weight"], torch.tensor([[2.0, 3.0]]))
expect(lambda: average(three)["batches"], torch.tensor(31))
