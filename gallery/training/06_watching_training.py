r"""
Watching training
=================

Log a training so that you can see trouble before the loss shows it, and read the log
back from TensorBoard, Visdom or a plain file.

.. lesson::
   :needs: training/03_training_loop optimization/08_learning_rates
   :data: scikit-learn's handwritten digits
   :keywords: TensorBoard, SummaryWriter, add_scalar, add_histogram, event file,
      tfevents, EventAccumulator, tensorboardX, Visdom, tqdm, progress bar, loss curve,
      visualize training, logging metrics, JSON lines, exponential moving average,
      smoothing, update-to-weight ratio, diverging loss, loss explodes, learning rate
      too high
   :thumbnail: 2
"""

# %%
# Which run would you stop?
# -------------------------
#
# Two trainings have been running for sixty updates. They read handwritten digits, and they differ in one number, the learning rate at the
# end of their warm-up: it grows over 200 updates, to 0.1 in the run *calm* and to 1.0 in the run *hot*. You may let only one of them go
# on. Here is the loop; it yields some facts after each update.

import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F

images, labels = digits().tensors


def make_model(seed):
    """Return a network with two hidden layers."""
    torch.manual_seed(seed)
    sizes = (64, 64, 64, 10)
    layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])]
    return nn.Sequential(
        nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]
    )


# %%


def updates(model, peak, count=300, seed=0):
    """Train with a warm-up; yield step, loss and ratio after each update."""
    optimizer = torch.optim.SGD(model.parameters(), lr=peak, momentum=0.9)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 200, total_iters=200)
    generator = torch.Generator().manual_seed(seed)
    weight = model[1].weight  # of the first layer
    for step in range(count):
        rows = torch.randint(1408, (64,), generator=generator)
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        before = weight.detach().clone()
        optimizer.step()
        warm_up.step()
        ratio = (weight.detach() - before).norm() / before.norm()
        yield {"step": step, "loss": loss.item(), "ratio": ratio.item()}


# %%

peaks = {"calm": 0.1, "hot": 1.0}
runs = {name: list(updates(make_model(0), peak)) for name, peak in peaks.items()}


def mean(name, key, begin, end):
    """Return the mean of a fact over some updates of a run."""
    return sum(row[key] for row in runs[name][begin:end]) / (end - begin)


for name in runs:
    print(f"{name:4} loss in updates 50 to 59: {mean(name, 'loss', 50, 60):.2f}")
assert mean("hot", "loss", 50, 60) < mean("calm", "loss", 50, 60) - 0.5

# %%

# fold: the first sixty losses
import matplotlib.pyplot as plt

plt.style.use("pytorch_course.book")
fig, ax = plt.subplots(figsize=(6.4, 2.6))
for name, style in (("calm", "C0-"), ("hot", "C1--")):
    ax.plot([row["loss"] for row in runs[name][:60]], style, label=name)
ax.set(xlabel="update", ylabel="loss", xlim=(0, 300), ylim=(0, 2.6))
ax.legend(loc="lower right")

# %%
# .. caption:: The first sixty updates. The hot run is far ahead, and its loss is less steady.
#    :alt: Two loss curves over the updates 0 to 59, on an axis up to 300. The calm one is nearly level; the hot one has fallen by more than
#       half and jumps up and down.
#
# By the height of the loss you would stop the calm run. The jumps of the hot one may warn you; but with batches of 64 digits some
# jumping is normal, and the picture does not say how much is too much. Look at one more number.
#
# How far does one update move the weights?
# -----------------------------------------
#
# That is the **update-to-weight ratio**: the length of an update, divided by the length of the weights it changes. The loop above measures
# it for the matrix of the first layer, :math:`\lVert\Delta\mathbf{W}\rVert / \lVert\mathbf{W}\rVert`. A ratio of 0.001 means that about
# a thousand such updates in one direction would replace the weights; with 0.05, twenty would. The learning rate alone does not tell you
# this: the layer, the optimizer and the warm-up decide with it, and the ratio says what the rate means for these weights.

for name in runs:
    print(f"{name:4} ratio in updates 50 to 59: {mean(name, 'ratio', 50, 60):.4f}")
assert mean("hot", "ratio", 50, 60) > 4 * mean("calm", "ratio", 50, 60)

# %%

# fold: losses and ratios of the whole runs
fig, (upper, lower) = plt.subplots(2, 1, figsize=(6.4, 4.4), sharex=True)
for name, style in (("calm", "C0-"), ("hot", "C1--")):
    steps = [row["step"] for row in runs[name]]
    upper.plot(steps, [row["loss"] for row in runs[name]], style, label=name)
    lower.plot(steps, [row["ratio"] for row in runs[name]], style)
for ax in (upper, lower):
    ax.axvline(60, color="0.5", linestyle=":", linewidth=1)
lower.axhspan(1e-3, 1e-2, color="0.9")
upper.set(ylabel="loss", ylim=(0, 4))
lower.set(ylabel="update / weights", xlabel="update", yscale="log", ylim=(1e-5, 1))
upper.legend(loc="upper left")

# %%
# .. caption:: The same runs to their end. Left of the dotted line is what you saw. The grey band marks ratios from 0.001 to 0.01. The axis
#    of the loss ends at 4; single losses of the hot run lie far above it.
#    :alt: Above, the losses: the calm one falls to near zero; the hot one falls first, then rises to about 2.3 and stays, with a few peaks
#       that leave the picture. Below, the ratios on a logarithmic axis: the calm one stays near 0.01; the hot one is near 0.05 from
#       update 30 on, later falls by several powers of ten, jumps up once more and falls again.
#
# The hot run learns fast, breaks, and ends near the loss of guessing (:math:`\log 10 \approx 2.3`). Its ratio was far above the band long
# before. The band is a hint and not a test: the calm run leaves it at times, and the broken run passes through it on its way down. A ratio
# that falls by powers of ten is a sign of trouble, too: these weights hardly move any more.
#
# A rule of thumb says that a ratio of about **0.001** is healthy in long trainings. Short trainings of small networks, like this one, live
# with 0.01. The exact number matters less than its power of ten.
#
# Is it always so? Here are five pairs of runs, each pair from its own start weights. The ratio is the mean over the updates 30 to 59, the
# loss is the mean over the last twenty.

for seed in range(5):
    text = f"seed {seed}:"
    for name, peak in peaks.items():
        run = list(updates(make_model(seed), peak, seed=seed))
        ratio = sum(row["ratio"] for row in run[30:60]) / 30
        last = sum(row["loss"] for row in run[280:]) / 20
        text += f"   {name} ratio {ratio:.3f}, last loss {last:.2f}"
        assert (
            (ratio > 0.03 and last > 1)
            if name == "hot"
            else (ratio < 0.01 and last < 0.3)
        )
    print(text)

# %%
# In each pair, the run with the ratio of a few hundredths is the one that ends badly. Five pairs of one small network are no law; try it
# on yours.
#
# What is the smallest log that always works?
# -------------------------------------------
#
# A text file with one line of JSON for each update. It needs no library, you can read it while it grows, and a killed run loses at
# most its last line. ``flush`` hands each line to the operating system at once.

import json
import tempfile
from pathlib import Path

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

with open(folder / "hot.jsonl", "w") as log:
    for row in updates(make_model(0), peak=1.0):
        print(json.dumps(row), file=log, flush=True)

lines = (folder / "hot.jsonl").read_text().splitlines()
from_file = [json.loads(line) for line in lines]
print(f"{len(lines)} lines; keys of the first: {list(from_file[0])}")
assert from_file == runs["hot"]

# %%
# How long will it take?
# ----------------------
#
# Wrap the loop in ``tqdm``. It counts, measures and draws a bar, again and again on the same line of the terminal. Here it writes into a
# string instead. This is the last thing it drew:

import io

from tqdm import tqdm

screen = io.StringIO()
bar = tqdm(updates(make_model(0), peak=0.1), total=300, file=screen, ascii=True)
for row in bar:
    if row["step"] % 50 == 49:
        bar.set_postfix(loss=f"{row['loss']:.2f}", refresh=False)
drawn = screen.getvalue().strip().split("\r")
print("measured", drawn[-1])
assert "300/300" in drawn[-1]

# %%
# In a terminal the character ``\r`` moves back to the beginning of the line. In the log file of a batch job it does not, and the bar
# fills it with copies of itself. With ``disable=None``, tqdm draws only if the output is a terminal.
# A string is none:

silent = io.StringIO()
list(tqdm(range(100), file=silent, disable=None))
print("characters written:", len(silent.getvalue()))
assert not silent.getvalue()

# %%
# How do I get it into TensorBoard?
# ---------------------------------
#
# TensorBoard is a program that draws curves of all your runs in a browser, live, and side by side. It was made for TensorFlow and does
# not need it: ``torch.utils.tensorboard`` writes its files. One folder is one run. The name of a curve is its **tag**; a slash in it
# makes a group.

from torch.utils.tensorboard import SummaryWriter

for name, peak in peaks.items():
    model = make_model(0)
    with SummaryWriter(folder / "runs" / name) as writer:
        for row in updates(model, peak):
            writer.add_scalar("train/loss", row["loss"], row["step"])
            writer.add_scalar("train/ratio", row["ratio"], row["step"])
            if row["step"] % 30 == 29:
                weight = model[1].weight
                writer.add_histogram("first/weight", weight, row["step"], bins=40)
                writer.add_histogram("first/gradient", weight.grad, row["step"])

# %%
# Now you would type ``tensorboard --logdir runs`` and open the address that it prints. This page has no browser, so it reads the
# events back with the class that the program uses itself. By default it keeps only some of them: 10,000 scalars of a tag and *one*
# histogram. ``size_guidance`` changes that, and 0 means all.

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = {}
for name in peaks:
    run = str(folder / "runs" / name)
    events[name] = EventAccumulator(run, size_guidance={"histograms": 0})
    events[name].Reload()
    tags = events[name].Tags()
    print(name, tags["scalars"], tags["histograms"])
    losses = [event.value for event in events[name].Scalars("train/loss")]
    assert losses == [row["loss"] for row in runs[name]]

# %%
# It is the same run, in two kinds of file. The losses are equal to the last bit because they are float32 numbers, and TensorBoard stores
# scalars as float32; others it would round. (A writer collects events and writes them now and then; here the ``with`` closed it, and that
# wrote the rest. A program that is killed never gets there. Call ``writer.flush()`` after events that you cannot afford to lose.)
#
# What does TensorBoard's smoothing do?
# -------------------------------------
#
# The page draws each curve twice: pale as it is, and strong with **smoothing**. Each smoothed value is a mean of all values so far, in
# which a value counts less the older it is. For values :math:`y_1, y_2, \dots` and the weight :math:`w` of the slider, at first 0.6:
#
# .. math:: m_i = w\,m_{i-1} + (1 - w)\,y_i, \qquad \hat y_i = \frac{m_i}{1 - w^i}, \qquad m_0 = 0
#
# The division makes up for the beginning at zero. Pandas has the same average; its ``alpha`` is :math:`1 - w`:

import pandas as pd


def smooth(values, weight):
    """Return what TensorBoard draws: a debiased exponential moving average."""
    average, smoothed = 0.0, []
    for count, value in enumerate(values, start=1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed


hot = [event.value for event in events["hot"].Scalars("train/loss")]
by_hand = torch.tensor(smooth(hot, 0.9))
library = pd.Series(hot).ewm(alpha=0.1).mean()
print("first three:", by_hand[:3].numpy().round(3), library[:3].to_numpy().round(3))
torch.testing.assert_close(by_hand, torch.tensor(library.to_list()))

# %%

# fold: TensorBoard's picture with a smoothing of 0.9
fig, ax = plt.subplots(figsize=(6.4, 3))
for name, colour, style in (("calm", "C0", "-"), ("hot", "C1", "--")):
    values = [event.value for event in events[name].Scalars("train/loss")]
    ax.plot(values, color=colour, alpha=0.3, linewidth=1)
    ax.plot(smooth(values, 0.9), style, color=colour, label=f"runs/{name}")
ax.set(xlabel="step", title="train/loss", ylim=(0, 4))
ax.legend(loc="upper left")

# %%
# .. caption:: What TensorBoard draws from these events: pale the losses, strong the same with a smoothing of 0.9. The axis is cut at 4.
#    :alt: Two pale ragged curves and two strong smooth ones over the steps 0 to 300. Where the pale curve of the hot run jumps up, the
#       strong one follows a little later and less high.
#
# Smoothing makes a trend visible, and it looks back: every peak becomes lower and every turn later. When does the loss of the hot run
# climb above 1.5? Two answers: when it is above for the first time after update 60, and from when on it stays above.

first = {}
for weight in (0.0, 0.6, 0.9, 0.97):
    curve = smooth(hot, weight)
    first[weight] = next(step for step in range(60, 300) if curve[step] > 1.5)
    stays = max(step for step in range(60, 300) if curve[step] <= 1.5) + 1
    top = max(curve[60:])
    print(f"smoothing {weight:4}: first {first[weight]}, stays {stays}, top {top:.1f}")
assert first[0.0] < first[0.97]

# %%
# If "first" is much smaller than "stays", then it was a short peak, after which the loss fell back; a strong smoothing hides such a
# peak. The break itself is where the loss stays above, and that column shows how many updates late each curve tells you.
#
# What do histograms show?
# ------------------------
#
# All weights of a layer at a glance, every 30 updates. TensorBoard stacks them, the latest in front. Here are the first four; the
# typical size is the root of the mean square.

spread = {}
for name in peaks:
    for event in events[name].Histograms("first/weight")[:4]:
        values = event.histogram_value
        spread[name] = (values.sum_squares / values.num) ** 0.5
        print(f"{name:4} update {event.step:3}: typical size {spread[name]:.3f}")
assert spread["hot"] > 1.3 * spread["calm"]

# %%

# fold: the histograms of both runs, stacked
fig, axes = plt.subplots(1, 2, figsize=(6.4, 3), sharex=True, sharey=True)
for ax, (name, colour) in zip(axes, (("calm", "C0"), ("hot", "C1"))):
    for row, event in enumerate(events[name].Histograms("first/weight")[:4]):
        limits = torch.tensor(event.histogram_value.bucket_limit)
        counts = torch.tensor(event.histogram_value.bucket)
        height = 1.5 * counts / counts.max() - row
        ax.fill_between(limits, height, -row, color=colour, alpha=0.7, zorder=row)
        ax.plot(limits, height, color="white", linewidth=0.8, zorder=row)
    ax.set(title=name, xlabel="weight", xlim=(-0.8, 0.8))
    ax.set_yticks([0, -1, -2, -3], [29, 59, 89, 119])
    ax.set_ylabel("update")

# %%
# .. caption:: The weights of the first layer after so many updates, each histogram scaled to the same height. Those of the hot run
#    spread sooner and further.
#    :alt: Two panels with four stacked histograms each. Left, they stay narrow. Right, the later ones have long tails.
#
# The gradients of the last histogram:

for name in peaks:
    event = events[name].Histograms("first/gradient")[-1]
    low, high = event.histogram_value.min, event.histogram_value.max
    print(f"{name:4} update {event.step}: gradients from {low:.1e} to {high:.1e}")

# %%
# If those of the hot run are all 0, its hidden units are off for every digit of the batch: a ReLU that gives 0 passes no gradient on.
# Another batch may still bring a gradient. When this page was written, that happened once, near update 244 in the second picture: the
# ratio jumps, and the loss leaves the picture. It did not help here.
#
# And Visdom, and tensorboardX?
# -----------------------------
#
# **tensorboardX** is the older library from which ``torch.utils.tensorboard`` came. It writes the same events and is still maintained;
# take it where there is no torch, for a training in NumPy or JAX, say, or to export all scalars as JSON. **Visdom** draws in a browser as
# well, and you send it points one by one. It is not installed with this book, because its release 0.2.4 does not build with a current
# setuptools.
#
# Visdom can write what it sends into a log: a line is a pair of an address and a message. The first message makes a window, the others
# append to it. The next cell writes such lines by hand for the hot run, with the keys that matter. So this section shows the form of
# the log and how to read it; no Visdom has written or read these lines.

with open(folder / "visdom.log", "w") as log:
    for row in runs["hot"]:
        point = {"x": [row["step"]], "y": [row["loss"]], "name": "hot", "mode": "lines"}
        message = {"win": "loss", "eid": "main", "data": [point]}
        message["append"] = row["step"] > 0
        address = "update" if row["step"] else "events"
        print(json.dumps([address, message]), file=log)
print((folder / "visdom.log").read_text().splitlines()[1][:88])

# %%
# With a real log, ``Visdom().replay_log("visdom.log")`` sends the messages to a server again. To get at the numbers you need no Visdom.
# A few lines read a log of this form:

windows = {}
for line in (folder / "visdom.log").read_text().splitlines():
    address, message = json.loads(line)
    if address == "events":
        windows[message["win"]] = []
    for trace in message["data"]:
        windows[message["win"]] += zip(trace["x"], trace["y"])
print("points of the window 'loss':", len(windows["loss"]))
assert [loss for _, loss in windows["loss"]] == hot
temporary.cleanup()

# %%
# Take this with you
# ------------------
#
# Log the loss, the learning rate and the update-to-weight ratio of each matrix. A ratio far above 0.01 hints that the learning rate is
# too high; on this page it did so while the loss still fell.

model = make_model(0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = F.cross_entropy(model(images), labels)
loss.backward()
before = {name: p.detach().clone() for name, p in model.named_parameters()}
optimizer.step()
row = {"loss": round(loss.item(), 4), "lr": optimizer.param_groups[0]["lr"]}
for name, p in model.named_parameters():
    if p.dim() > 1:
        ratio = (p.detach() - before[name]).norm() / before[name].norm()
        row[name] = round(ratio.item(), 6)
print(json.dumps(row))

# %%
# Change something
# ----------------
#
# * Give *hot* a peak of 0.3. Which loss does it reach, and how large is its ratio in the updates 50 to 59?
# * Leave out ``size_guidance={"histograms": 0}``. How many histograms of each tag does the reader keep?
# * Multiply ``images`` by 16 right after they are loaded, as if you had forgotten to scale the pixels. What do both runs do?
#
# .. dropdown:: What happens
#
#    * It ends at 0.20 and not at 0.04, and its ratio is 0.03: better than *hot* and worse than *calm*, and the ratio, too, lies
#      between theirs. An assert about *hot* stops the page.
#    * One, the latest of each tag. Such a sample of a log is easily taken for the whole.
#    * Both fail. The hot run is at 2.3 in the updates 50 to 59 and at the end; the calm one falls to 0.3 and ends at 2.3 after all, with
#      a ratio of 0.02 in the updates 50 to 59. Inputs that are 16 times larger have the effect of a larger learning rate.
#
# Exercises
# ---------

import contextlib

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict a smoothed step
#
#    Ten values are 0, and from then on all values are 1. With a smoothing of 0.5, after how many ones is the smoothed curve above 0.9 for
#    the first time?

### BEGIN SOLUTION
guess = 4
### END SOLUTION

step_up = smooth([0.0] * 10 + [1.0] * 10, 0.5)
expect(guess, next(n for n in range(1, 11) if step_up[9 + n] > 0.9))

# %%
# .. exercise:: Fix the reader of a killed run
#
#    A run was killed while it wrote, and the last line of its log is ``{"step": 7, "lo``. The list comprehension of this page stops there
#    with a ``JSONDecodeError``, and you get nothing. Write ``read_rows``, from the text of a log to the list of its rows; a broken *last*
#    line is left out, one in the middle is still an error.


def read_rows(text):
    ### BEGIN SOLUTION
    lines = text.splitlines()
    rows = [json.loads(line) for line in lines[:-1]]
    with contextlib.suppress(json.JSONDecodeError):
        rows.append(json.loads(lines[-1]))
    return rows
    ### END SOLUTION


whole = '{"step": 5}\n{"step": 6}\n'
expect(lambda: read_rows(whole + '{"step": 7, "lo'), [{"step": 5}, {"step": 6}])
expect(lambda: read_rows(whole), [{"step": 5}, {"step": 6}])

# %%
# .. exercise:: Build an alarm
#
#    Write ``first_alarm``: from a list of ratios, return the first update at which the *median* of the last five is above a limit, or
#    ``None``. The median lets a single outlier pass. Before the fifth update there is no alarm.


def first_alarm(ratios, limit):
    ### BEGIN SOLUTION
    for step in range(4, len(ratios)):
        if torch.tensor(ratios[step - 4 : step + 1]).median() > limit:
            return step
    return None
    ### END SOLUTION


series = [0.01, 0.9, 0.01, 0.01, 0.01, 0.2, 0.3, 0.01, 0.4, 0.5]
expect(lambda: first_alarm(series, limit=0.1), 8)
expect(lambda: first_alarm(series[:8], limit=0.1), None)
