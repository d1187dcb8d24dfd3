r"""
Recurrent networks
==================

Forecast the voltage of a nerve cell, write the cells of RNN, LSTM and GRU by hand, and
see when memory fades.

.. lesson::
   :needs: networks/01_modules networks/02_activations_and_initialization
      optimization/01_autograd_graph
   :data: a recording of a nerve cell that comes with Matplotlib
   :keywords: RNN, LSTM, GRU, recurrent neural network, hidden state, time series,
      forecasting, sequence, vanishing gradient, exploding gradient, clip_grad_norm_,
      gradient clipping, truncated backpropagation through time, BPTT, batch_first,
      pack_padded_sequence, trying to backward through the graph a second time, naive
      forecast, seasonal
   :thumbnail: 3
"""

# %%
# What will the nerve cell do next?
# ---------------------------------
#
# A nerve cell fires: its voltage shoots up for a moment and falls back. Matplotlib ships six seconds of a recording. Look at it,
# then say what the voltage will be 4 ms from now. We keep every fourth value, so one step is 2 ms.

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.cbook import get_sample_data
from torch import nn
from torch.nn import functional as F

plt.style.use("pytorch_course.book")
with get_sample_data("membrane.dat") as file:
    recording = np.frombuffer(file.read(), dtype=np.float32)
volts = torch.tensor(recording[::4] * 100)  # in mV, one value every 2 ms
print(f"{len(volts)} steps from {volts.min():.0f} to {volts.max():.0f} mV")

# %%

# fold: the recording and the parts that we use
fig, ax = plt.subplots(figsize=(7, 2.8))
seconds = torch.arange(3000) * 0.002
ax.plot(seconds, volts, linewidth=0.6)
for start, end, name in ((2.75, 3.5, "regular"), (4.4, 5.44, "irregular")):
    ax.axvspan(start, end, color="C1", alpha=0.25)
    ax.text((start + end) / 2, 8, name, ha="center")
ax.set(xlabel="seconds", ylabel="voltage (mV)", ylim=(-70, 18))

# %%
# .. caption:: The recording. In the two shaded stretches we test; each forecast may learn only from what came before its stretch.
#    :alt: A voltage at rest near minus 67 mV, then from one to three and a half seconds dozens of regular spikes, then irregular
#       ones until five and a half seconds, then rest again. Two stretches are shaded: one of regular, one of irregular spikes.
#
# Both trainings start at second 1. The one for the irregular stretch also sees 0.9 seconds of irregular spikes, from 3.5 to 4.4.
#
# Before any network, forecasts that cost nothing. *Last value*: it stays as it is. *One period ago*: it does what it did one spike earlier;
# we choose the shift, from 10 to 79 steps, on the regular training stretch. *Mean*: the mean of the training stretch. And the best *linear
# rule*, a weighted sum of 40 values plus a constant, by least squares. There ``unfold(0, 40, 1)`` cuts a window of 40 values at each step,
# one per row, and ``double`` gives the least squares more digits. The error is the mean of :math:`|\hat y - y|`.

AHEAD = 2  # steps, that is 4 ms
# the steps at which training starts, the test starts and the test ends
PARTS = {"regular": (500, 1375, 1750), "irregular": (500, 2200, 2720)}


def linear_rule(start, test, end):
    """Forecast each value from the 40 values up to two steps before it."""
    history = volts[start - AHEAD - 39 : end - AHEAD].unfold(0, 40, 1)  # windows of 40
    history = F.pad(history, (0, 1), value=1.0).double()  # a column of ones: constant
    n = test - start
    rule = torch.linalg.lstsq(history[:n], volts[start:test, None].double()).solution
    return (history[n:] @ rule)[:, 0].float()


# %%

errors = {}
gaps = [F.l1_loss(volts[500 - k : 1375 - k], volts[500:1375]) for k in range(10, 80)]
period = 10 + torch.stack(gaps).argmin().item()
print(f"one period: {period} steps")
for part, (start, test, end) in PARTS.items():
    forecasts = {
        "last value": volts[test - AHEAD : end - AHEAD],
        "one period ago": volts[test - period : end - period],
        "mean": volts[start:test].mean().expand(end - test),
        "linear rule": linear_rule(start, test, end),
    }
    for name, forecast in forecasts.items():
        errors[part, name] = F.l1_loss(forecast, volts[test:end]).item()
        print(f"{part:<10}{name:<15}{errors[part, name]:6.2f} mV")
assert errors["regular", "one period ago"] < errors["regular", "last value"] / 3
assert errors["irregular", "one period ago"] > errors["irregular", "mean"]

# %%
# While the spikes are regular, "one period ago" has the smallest error. When they are irregular, it is worse than the mean.
# What does a forecast need? One voltage alone does not tell whether it is rising or falling, so a forecast needs earlier values, too. The
# linear rule is given 40 of them. A recurrent network learns by itself what to keep of all that it has read.
#
# How does a network remember?
# ----------------------------
#
# A recurrent network reads one value after the other and keeps a **hidden state** :math:`\mathbf{h}`, some numbers that it updates
# at each step from the new value and from the old state, always with the same weights:
#
# .. math:: \mathbf{h}_t = \tanh(\mathbf{W}_i\mathbf{x}_t + \mathbf{b}_i + \mathbf{W}_h\mathbf{h}_{t-1} + \mathbf{b}_h)
#
# In code rows are samples, so each product is :func:`torch.nn.functional.linear`.


def rnn_cell(x, h, w_i, w_h, b_i, b_h):
    """One step of the plain recurrent network."""
    return torch.tanh(F.linear(x, w_i, b_i) + F.linear(h, w_h, b_h))


# %%
# At every step the whole state goes through a product and a ``tanh``. The **LSTM** :cite:p:`hochreiter1997` keeps a second
# state, the cell :math:`\mathbf{c}`, that is only scaled and added to. Three **gates**, numbers between 0 and 1, decide: how much
# of the new content to write (input), how much of the old to keep (forget), how much to show (output).
#
# .. math::
#
#    \mathbf{c}_t = \mathbf{f} \odot \mathbf{c}_{t-1} + \mathbf{i} \odot \mathbf{g}, \qquad
#    \mathbf{h}_t = \mathbf{o} \odot \tanh \mathbf{c}_t
#
# Here :math:`\odot` multiplies number by number, and :math:`\sigma(a) = 1 / (1 + e^{-a})` is the sigmoid. Each gate is :math:`\sigma` of a
# sum as in the formula of :math:`\mathbf{h}_t` above, with weights of its own, and the content :math:`\mathbf{g}` is the ``tanh`` of one.
# The weights of all four lie in one matrix, so the code cuts the sum into four with ``chunk``.


def lstm_cell(x, state, w_i, w_h, b_i, b_h):
    """One step of the LSTM; its state is the pair of h and c."""
    h, c = state
    i, f, g, o = (F.linear(x, w_i, b_i) + F.linear(h, w_h, b_h)).chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


# %%
# The **GRU** :cite:p:`cho2014` does with one state and two gates. *Reset*, :math:`\mathbf{r}`, hides a part of the old state from the new
# content :math:`\mathbf{n}`; *update*, :math:`\mathbf{z}`, mixes old and new. Write :math:`\mathbf{a}` for the part of a sum that comes
# from the input and :math:`\mathbf{b}` for the part that comes from the old state:
#
# .. math::
#
#    \mathbf{r} = \sigma(\mathbf{a}_r + \mathbf{b}_r), \quad
#    \mathbf{z} = \sigma(\mathbf{a}_z + \mathbf{b}_z), \quad
#    \mathbf{n} = \tanh(\mathbf{a}_n + \mathbf{r} \odot \mathbf{b}_n), \quad
#    \mathbf{h}_t = (1 - \mathbf{z}) \odot \mathbf{n} + \mathbf{z} \odot \mathbf{h}_{t-1}


def gru_cell(x, h, w_i, w_h, b_i, b_h):
    """One step of the GRU."""
    a_r, a_z, a_n = F.linear(x, w_i, b_i).chunk(3, dim=1)
    b_r, b_z, b_n = F.linear(h, w_h, b_h).chunk(3, dim=1)
    r, z = (a_r + b_r).sigmoid(), (a_z + b_z).sigmoid()
    n = torch.tanh(a_n + r * b_n)
    return (1 - z) * n + z * h


# %%
# PyTorch has the same three. Use its weights in our cells, take three steps with a batch of five samples, and go back from the last
# state: states agree, and so do the gradients of the inputs and of all weights.

torch.manual_seed(0)
inputs = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)


def unroll(step, inputs, state, weights=()):
    """Take one step per input; return the last h."""
    for x in inputs:
        state = step(x, state, *weights)
    return state[0] if isinstance(state, tuple) else state


cells = ((nn.RNNCell, rnn_cell), (nn.LSTMCell, lstm_cell), (nn.GRUCell, gru_cell))
for module, cell in cells:
    library = module(2, 4).double()  # two inputs, four hidden units
    weights = list(library.parameters())
    zeros = torch.zeros(5, 4, dtype=torch.float64)
    state = (zeros, zeros) if cell is lstm_cell else zeros
    theirs, ours = unroll(library, inputs, state), unroll(cell, inputs, state, weights)
    print(f"{module.__name__:<8} torch  ", theirs[0].detach().numpy().round(5))
    print(f"{module.__name__:<8} by hand", ours[0].detach().numpy().round(5))
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(h.sum(), [inputs, *weights]) for h in (ours, theirs)]
    torch.testing.assert_close(*grads)

# %%
# The layers :class:`torch.nn.RNN`, :class:`torch.nn.LSTM` and :class:`torch.nn.GRU` do the loop, too: one call for all steps, with the
# same weights and formulas.
#
# How far back does it remember?
# ------------------------------
#
# Ask the gradient. If the last output should depend on an input sixty steps earlier, the gradient of a loss at the end with respect to
# that input must not be zero. Take fresh networks of 32 units and random inputs. The LSTM comes twice, the second time with its **forget
# gate** opened: a bias of 3 makes it :math:`\sigma(3) \approx 0.95` before it has learnt anything.


def reach(net):
    """Return the norm of the gradient of a loss at the end, for every input."""
    torch.manual_seed(2)
    x = torch.randn(61, 8, 1, requires_grad=True)  # steps, samples, features
    out, _ = net(x)
    out[-1].square().sum().backward()
    return x.grad.norm(dim=(1, 2))


torch.manual_seed(0)
nets = {"RNN": nn.RNN(1, 32), "LSTM": nn.LSTM(1, 32)}
nets |= {"LSTM, gate open": nn.LSTM(1, 32), "RNN, weights × 4": nn.RNN(1, 32)}
with torch.no_grad():
    nets["LSTM, gate open"].bias_ih_l0[32:64] = 3.0  # the order is i, f, g, o
    nets["RNN, weights × 4"].weight_hh_l0 *= 4
norms = {name: reach(net) for name, net in nets.items()}
for name, norm in norms.items():
    print(f"{name:<17} 0 steps back {norm[60]:.1e}, 50 steps back {norm[10]:.1e}")
assert norms["RNN"][10] < 1e-6 * norms["RNN"][60]
assert norms["LSTM, gate open"][10] > 1e3 * norms["LSTM"][10]
assert norms["RNN, weights × 4"][10] > norms["RNN, weights × 4"][60]

# %%

# fold: the gradient, step by step into the past
fig, ax = plt.subplots(figsize=(6.4, 3.4))
for (name, norm), style in zip(norms.items(), ("-", "--", "-.", ":")):
    ax.semilogy(range(61), norm.flip(0), style, label=name)
ax.set(xlabel="steps back", ylabel="gradient norm")
ax.legend()

# %%
# .. caption:: How strongly a loss at the end reacts to an input so many steps earlier (logarithmic axis). It fades, or it explodes; with
#    the gate open it hardly fades.
#    :alt: Four curves over 60 steps back. RNN and LSTM fall by many powers of ten, the LSTM with an open gate stays nearly level, and
#       the RNN with larger weights rises.
#
# You may expect that an LSTM remembers and a plain RNN forgets. Fresh from the library, both fade. In the LSTM, each step back through
# :math:`\mathbf{c}` multiplies by the forget gate, and with small start weights that is about :math:`\sigma(0) = \tfrac12`: fifty steps of
# it are 15 powers of ten. It falls by fewer, because the gradient has other ways back: the gates and the content read the old
# :math:`\mathbf{h}`, too. What the LSTM has over the RNN is that the gate *can* open. It may learn to; if the memory must be long, open it
# at the start, as in the third curve. The fourth shows the opposite danger: with larger weights the RNN's gradient **explodes**, and a
# single update could throw the network anywhere.
#
# Does it forecast better?
# ------------------------
#
# An LSTM with 32 units reads the voltage, and a linear layer makes the forecast from the hidden state. It forecasts the *change* and
# adds it to the present value: so it starts near "last value". Its forget gate starts as PyTorch draws it; we did not try an open one here.
# We train on random windows of 120 steps. The first 30 errors of each window do not count, because the state starts at zero and has seen
# too little.

series = ((volts + 45) / 12)[:, None]  # about mean 0 and spread 1


class Forecaster(nn.Module):
    """Forecast a series some steps ahead, at every step."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 32, batch_first=True)  # (samples, steps, features)
        self.out = nn.Linear(32, 1)

    def forward(self, x, state=None):
        hidden, state = self.rnn(x, state)
        return x + self.out(hidden), state


# %%


def fit(start, test, seed, steps=200):
    """Train on the steps from start to test."""
    torch.manual_seed(seed)
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    windows = series[start:test].unfold(0, 120 + AHEAD, 1).mT  # all of them
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (16,))]
        forecast, _ = model(batch[:, :-AHEAD])
        loss = F.l1_loss(forecast[:, 30:], batch[:, 30 + AHEAD :])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
    return model


# %%
# :func:`torch.nn.utils.clip_grad_norm_` guards against exploding gradients: when all gradients together are longer than 1, it scales
# them down to length 1. To test, the network reads on from the training stretch; at each step it has seen the past only.

for part, (start, test, end) in PARTS.items():
    errors[part, "LSTM"] = []
    for seed in range(3):
        model = fit(start, test, seed)
        with torch.no_grad():
            forecast = model(series[None, start : end - AHEAD])[0][0, :, 0] * 12 - 45
        recent = forecast[test - start - AHEAD :]
        errors[part, "LSTM"].append(F.l1_loss(recent, volts[test:end]).item())
    print(f"{part:<10}LSTM, three starts", [f"{e:.2f}" for e in errors[part, "LSTM"]])
    for name in ("last value", "one period ago", "mean", "linear rule"):
        print(f"          {name:<15}{errors[part, name]:6.2f}")

assert max(errors["regular", "LSTM"]) < errors["regular", "last value"] / 2
assert min(errors["regular", "LSTM"]) > errors["regular", "one period ago"]
assert max(errors["irregular", "LSTM"]) < errors["irregular", "last value"]

# %%

# fold: forecast and truth in the irregular stretch
fig, ax = plt.subplots(figsize=(7, 3))
shown = slice(40, 240)
ax.plot(seconds[test:end][shown], volts[test:end][shown], label="truth")
ax.plot(seconds[test:end][shown], recent[shown], "--", label="forecast of the LSTM")
ax.set(xlabel="seconds", ylabel="voltage (mV)")
ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)

# %%
# .. caption:: The forecast of the last network, made 4 ms earlier, and what happened. It shows all five spikes, most of them
#    2 to 4 ms too early, and all too low.
#    :alt: Two curves over 0.4 seconds with five spikes. The dashed forecast is near the solid truth between the spikes; its peaks are lower
#       and most of them a little earlier.
#
# On the regular stretch the network loses: "one period ago" has the smallest error, and the linear rule is about as good as the network.
# Where a series repeats itself, you do not need more. On the irregular stretch the network wins with every start, and there the linear
# rule is worse than "last value". Print the simple forecasts beside your own, always: without them, the errors of the LSTM would look
# like success on both.
#
# May I hand the state from batch to batch?
# -----------------------------------------
#
# A long recording is trained in pieces: the state at the end of one is the start of the next. So pass it on, you may think. Three pieces,
# one backward pass for each, the state passed on as it is (``cut=False``) or cut off from its graph (``cut=True``):

pieces = series[500:740].view(1, 3, 80, 1).unbind(1)


def read_pieces(model, cut):
    """Go backward after each piece, handing the state on."""
    state = None
    for piece in pieces:
        if cut and state:
            state = tuple(part.detach() for part in state)
        forecast, state = model(piece, state)
        forecast.square().mean().backward()
    return forecast


# %%

try:
    read_pieces(model, cut=False)
except RuntimeError as error:
    print("RuntimeError:", str(error).split(" (")[0])
handed_on = read_pieces(model, cut=True)
at_once = model(series[None, 500:740])[0][:, 160:]
fresh = model(pieces[2])[0]
for name, other in (("state handed on", handed_on), ("fresh state", fresh)):
    gap = (other - at_once)[0, 0, 0].abs() * 12
    print(f"{name:<16} first value off by {gap:.4f} mV")
torch.testing.assert_close(handed_on, at_once, rtol=1e-4, atol=1e-4)

# %%
# The state is a result: its graph leads back into the piece before, and that graph has been used. :meth:`~torch.Tensor.detach` keeps the
# values and cuts the graph (*truncated backpropagation through time*). The values go on as if the series had been read at once. Hand a
# state on only where the next batch continues the same series; for unrelated samples start fresh.
#
# Which axis is time?
# -------------------
#
# By default the first one. With a :class:`~torch.utils.data.DataLoader` your first axis is the batch, and a forgotten ``batch_first=True``
# raises no error: the network takes the samples for time steps. Change the first sample and watch the second:

batch = torch.randn(5, 7, 1)  # five samples of seven steps
changed = batch.clone()
changed[0] += 1
leak = {}
for first in (False, True):
    net = nn.LSTM(1, 4, batch_first=first)
    leak[first] = (net(changed)[0] - net(batch)[0])[1].abs().max().item()
    print(f"batch_first={first!s:<5} the second sample changes by {leak[first]:.4f}")
assert leak[False] > 0 and leak[True] == 0

# %%
# The last state has the shape (layers, samples, units) in both cases. And if the samples have different lengths? Fill the short ones up,
# and *pack* them, so that each stops at its own end. ``pack_padded_sequence`` wants the longest sample first, as here; for any other order
# say ``enforce_sorted=False``.

from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

short, long = torch.randn(2, 1), torch.randn(5, 1)
padded = pad_sequence([long, short], batch_first=True)
packed = pack_padded_sequence(padded, lengths=torch.tensor([5, 2]), batch_first=True)
for name, sequence in (("padded", padded), ("packed", packed)):
    h = net(sequence)[1][0][0, 1]
    gap = (h - net(short[None])[1][0][0, 0]).abs().max().item()
    print(f"{name}: last state of the short one off by {gap:.4f}")
assert gap < 1e-6

# %%
# Take this with you
# ------------------
#
# Read on from a state without its graph, and clip before each step. The network forecasts one step ahead, so the truth is the same series,
# one step later.

net, head = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 1)
parameters = [*net.parameters(), *head.parameters()]
optimizer = torch.optim.Adam(parameters, lr=0.01)
state = None
for i in range(500, 1300, 80):  # pieces of 80 steps, in order, none left out
    hidden, (h, c) = net(series[None, i : i + 80], state)
    state = (h.detach(), c.detach())
    loss = F.mse_loss(head(hidden), series[None, i + 1 : i + 81])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()

# %%
# Change something
# ----------------
#
# * Forecast ten steps ahead instead of two: ``AHEAD = 10``. Who wins where?
# * Open the forget gate less: a bias of 1 instead of 3. How does the third curve run?
# * Leave out ``x +`` in ``Forecaster.forward``. Does the forecast suffer?
#
# .. dropdown:: What happens
#
#    * On the regular stretch still "one period ago", whose error does not depend on how far you look ahead. On the irregular
#      one the network still wins, with a far larger error, not much below that of the mean: its forecasts 20 ms ahead are poor.
#    * Between those of the other two: it falls, by some five powers of ten in fifty steps, where the fresh LSTM falls by ten. The gate
#      alone keeps :math:`\sigma(1) \approx 0.73` per step, after fifty steps a ten-millionth; the other ways back add some.
#    * Little. On the regular stretch its errors get somewhat larger, on the irregular one they are about as large as before.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the size of an LSTM
#
#    ``nn.LSTM(3, 10)`` has three inputs and ten hidden units. For each of the three gates and the content it has weights for the input,
#    weights for the state, and two biases for each unit. How many numbers is that?

### BEGIN SOLUTION
guess = 600
### END SOLUTION

expect(guess, sum(weight.numel() for weight in nn.LSTM(3, 10).parameters()))

# %%
# .. exercise:: Fix the last output of padded samples
#
#    A colleague takes ``out[:, -1]`` as the last output of every sample, out of shape (samples, steps, units). For short samples
#    that is the output after the padding. ``lengths`` holds the true lengths. Return the output at each sample's own last step.


def last_outputs(out, lengths):
    ### BEGIN SOLUTION
    return out[torch.arange(len(out)), lengths - 1]
    ### END SOLUTION


out = torch.arange(24.0).view(3, 4, 2)
right = torch.stack([out[0, 3], out[1, 0], out[2, 2]])
expect(lambda: last_outputs(out, torch.tensor([4, 1, 3])), right)

# %%
# .. exercise:: Build the clipping
#
#    Write ``clip(gradients, limit)``: if the length of all gradients together, as one long vector, is above ``limit``, return
#    them all scaled so that it is ``limit``; else return them as they are.


def clip(gradients, limit):
    ### BEGIN SOLUTION
    length = sum(gradient.square().sum() for gradient in gradients).sqrt()
    scale = min(1.0, (limit / length).item())
    return [gradient * scale for gradient in gradients]
    ### END SOLUTION


pair = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [0.0], [0.0]])]
clipped = [torch.tensor([1.2, 0.0]), torch.tensor([[1.6], [0.0], [0.0]])]
expect(lambda: clip(pair, 2.0), clipped)
expect(lambda: clip(pair, 6.0), pair)
