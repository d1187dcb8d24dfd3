r"""
Tuning without magic
====================

Spend a budget of trials where it matters, tell a better setting from luck, and report a
number that survives new data.

.. lesson::
   :needs: optimization/07_optimizers optimization/08_learning_rates
      training/03_training_loop
   :data: scikit-learn's handwritten digits
   :keywords: hyperparameter tuning, hyperparameter optimization, HPO, grid search,
      random search, successive halving, Hyperband, ablation study, Optuna, Ray Tune,
      sweep, seed variance, validation set overfitting, model selection, which learning
      rate
   :thumbnail: 2
"""

# %%
# Which of ten knobs should I turn?
# ---------------------------------
#
# Your network reads handwritten digits, not very well, and the list of things you could change is long: learning rate, optimiser, more
# neurons, more layers, dropout, ... You have time to train it about a hundred times. Some people seem to know by magic what to try. You
# can find out with a list of trials and a rule or two.
#
# Such a setting, chosen by you and not by training, is a :term:`hyperparameter`. Here are ours, and the data in three parts: 1,000 digits
# to train, 300 to choose settings by (the :term:`validation set`), and the rest, the :term:`test set`, for the end.

import matplotlib.pyplot as plt
import torch
from pytorch_course.datasets import digits
from torch import nn
from torch.nn import functional as F

plt.style.use("pytorch_course.book")
images, labels = digits().tensors
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, validation, test = order[:1000], order[1000:1300], order[1300:]
print(
    "digits:",
    len(train),
    "to train,",
    len(validation),
    "to choose,",
    len(test),
    "for the end",
)

# %%

BASE = {
    "lr": 0.3,
    "optimizer": torch.optim.SGD,
    "width": 32,  # neurons of a hidden layer
    "depth": 1,  # hidden layers
    "start": 1.0,  # start weights: times this
    "dropout": 0.0,
    "weight_decay": 0.0,
    "shift": False,  # augmentation: move the pictures by up to a pixel
    "samples": 1000,  # training digits used
}

# %%
# A trial is a network with its settings and its seed. It can run some steps, tell its accuracy, and later run further. One trial of 120
# steps takes a fraction of a second.


class Trial:
    def __init__(self, seed=0, **changes):
        self.setting = BASE | changes
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        sizes = [64] + [self.setting["width"]] * self.setting["depth"]
        layers = [nn.Flatten()]
        for inputs, outputs in zip(sizes, sizes[1:]):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        layers += [nn.Dropout(self.setting["dropout"]), nn.Linear(sizes[-1], 10)]
        self.model = nn.Sequential(*layers)
        for weight in self.model.parameters():
            weight.data *= self.setting["start"]
        self.optimizer = self.setting["optimizer"](
            self.model.parameters(),
            lr=self.setting["lr"],
            weight_decay=self.setting["weight_decay"],
        )


# %%
# Its two methods, the usual loop and the usual measure:


def run(trial, steps):
    """Train for some more steps with batches of 64; return the trial."""
    trial.model.train()
    for _ in range(steps):
        count = trial.setting["samples"]
        picks = torch.randint(count, (64,), generator=trial.generator)
        x, t = images[train[picks]], labels[train[picks]]
        if trial.setting["shift"]:
            moves = torch.randint(-1, 2, (2,), generator=trial.generator)
            x = x.roll(moves.tolist(), dims=(2, 3))
        loss = F.cross_entropy(trial.model(x), t)
        trial.optimizer.zero_grad()
        loss.backward()
        trial.optimizer.step()
    return trial


@torch.no_grad()
def accuracy(trial, part):
    answers = trial.model.eval()(images[part]).argmax(1)
    return (answers == labels[part]).float().mean().item()


# %%
# Now change one thing at a time and leave the rest as it is. That is an **ablation**. Five seeds each, so that you see what is luck:

ADAM = torch.optim.Adam
changes = {
    "as it is": {},
    "rate / 10": {"lr": 0.03},
    "rate x 3": {"lr": 0.9},
    "Adam, rate 0.01": {"optimizer": ADAM, "lr": 0.01},
    "128 neurons": {"width": 128},
    "2 layers": {"depth": 2},
    "start x 0.3": {"start": 0.3},
    "dropout 0.3": {"dropout": 0.3},
    "weight decay": {"weight_decay": 0.001},
    "shifted": {"shift": True},
    "300 digits": {"samples": 300},
}
trials, ablation = {}, {}
for name, change in changes.items():
    trials[name] = [run(Trial(seed, **change), 120) for seed in range(5)]
    ablation[name] = [accuracy(trial, validation) for trial in trials[name]]
    print(f"{name:16}", " ".join(f"{value:.3f}" for value in ablation[name]))

# %%

# fold: validation accuracy of each change
fig, ax = plt.subplots(figsize=(6, 3.4))
ax.axvspan(min(ablation["as it is"]), max(ablation["as it is"]), color="0.9")
for row, (name, values) in enumerate(ablation.items()):
    colour = "C1" if "rate" in name else "C0"
    ax.plot(values, [row] * 5, "o", color=colour, alpha=0.7)
ax.set(yticks=range(len(ablation)), yticklabels=list(ablation))
ax.set(xlabel="validation accuracy", ylim=(len(ablation) - 0.5, -0.5))

# %%
# .. caption:: Each dot is a training; the grey band holds the five of the setting as it is. Rows that change the learning rate have the
#    second colour.
#    :alt: Eleven rows of five dots. Most rows overlap the grey band at 0.9. The row rate / 10 lies far left, around 0.5, shifted around
#       0.74, and Adam lies right of the band.
#
# Dividing the learning rate by ten costs more than any other change, and *Adam*, which comes with a rate of its own, gains most. That is
# common: tune the rate first, and again after a change of optimiser. *128 neurons* gain a little. With 300 digits to learn from
# instead of 1,000, two of the five trainings still reach the band.
#
# A second layer and shifted pictures do harm here. Do not conclude that layers or augmentation are bad. They may need more than 120
# steps, or another rate: an ablation tells what a change does with everything else as it is. (One lever is not in the list: to start from a
# network that was trained on other data.)

from statistics import mean

average = {name: mean(values) for name, values in ablation.items()}
assert min(average, key=average.get) == "rate / 10"
assert average["Adam, rate 0.01"] > average["as it is"] + 0.02

# %%
# Is 1 % better better?
# ---------------------
#
# Look at the first row again. The setting is the same five times; only the seed differs, so the start weights and the batches. You would
# expect the same accuracy. A friend who compares *as it is* with *weight decay*, one training each with seeds as they come, can find
# either of them ahead:

first, second = ablation["as it is"], ablation["weight decay"]
differences = [b - a for a in first for b in second]
print(f"one setting, five seeds: from {min(first):.3f} to {max(first):.3f}")
print(f"weight decay better by {min(differences):+.3f} to {max(differences):+.3f}")
print(f"with the same seeds: {[round(b - a, 3) for a, b in zip(first, second)]}")
assert max(first) - min(first) > 0.01 and min(differences) < 0 < max(differences)

# %%
# Any difference smaller than the spread between seeds is no finding from one run each. Give both settings several seeds. Giving both
# the *same* seeds helps if the settings are alike: then they share their start and their luck, as in the last line.
#
# There is a second kind of luck: which digits are in the validation part. An accuracy :math:`p` counted on :math:`n` samples has a
# standard error of :math:`\sqrt{p(1-p)/n}`:

p, n = average["as it is"], len(validation)
error = (p * (1 - p) / n) ** 0.5
print(f"accuracy {p:.3f} on {n} digits: give or take {error:.3f}")
assert 0.01 < error < 0.03

# %%
# Grid or random?
# ---------------
#
# Now tune two knobs together, the learning rate from 0.0001 to 100, because nobody told you where to look, and dropout from 0 to 0.8.
# You can pay for 25 trials of 120 steps, 3,000 steps in all. A **grid** takes five values of each. A **random search** draws each pair
# anew. For rates, draw the exponent: 0.001 to 0.01 is as long a way as 1 to 10.

BUDGET = 25 * 120
generator = torch.Generator().manual_seed(0)


def draw(count):
    """Draw settings: the rate evenly by its exponent, dropout evenly."""
    a, b = torch.rand(2, count, generator=generator)
    rates, dropouts = 10 ** (6 * a - 4), 0.8 * b
    pairs = zip(rates.tolist(), dropouts.tolist())
    return [{"lr": rate, "dropout": dropout} for rate, dropout in pairs]


rates = torch.logspace(-4, 2, 5).tolist()
dropouts = torch.linspace(0, 0.8, 5).tolist()
grid = [{"lr": rate, "dropout": dropout} for rate in rates for dropout in dropouts]
log = []
for method, settings in (("grid", grid), ("random", draw(25))):
    for setting in settings:
        value = accuracy(run(Trial(**setting), 120), validation)
        log.append({"method": method, "accuracy": value, "steps": 120, **setting})

# %%
# Every trial goes into a log, the bad ones, too: a table is all the magic there is.

import pandas as pd

table = pd.DataFrame(log)
for method, part in table.groupby("method"):
    print(method, "tried", part["lr"].nunique(), "different rates; its best:")
    best_three = part.nlargest(3, "accuracy")[["lr", "dropout", "accuracy"]]
    print(best_three.round(3).to_string(index=False))

# %%

# fold: the trials of grid and random search
fig, axes = plt.subplots(1, 2, sharey=True, figsize=(6.6, 2.9))
for ax, method in zip(axes, ("grid", "random")):
    part = table[table["method"] == method]
    dots = ax.scatter(part["lr"], part["dropout"], c=part["accuracy"], vmin=0, vmax=1)
    good = part[part["accuracy"] > 0.85]
    ax.scatter(good["lr"], good["dropout"], s=110, facecolor="none", edgecolor="C1")
    ax.set(xscale="log", xlabel="learning rate", title=method)
axes[0].set_ylabel("dropout")
fig.colorbar(dots, ax=axes, label="validation accuracy")

# %%
# .. caption:: 25 trials each. The lighter, the more accurate; a ring marks those above 0.85.
#    :alt: Left, a grid of five columns of dots; only the middle column is light, and no dot has a ring. Right, 25 scattered dots; four
#       near a learning rate of 1 have rings.
#
# Within a column of the grid the colour changes little, from column to column much: the rate matters more than dropout, and the grid has
# spent five trials on each of only five rates. The good rates are a narrow band. The random search has tried 25 rates for the same price.
# A grid can be lucky, if a column falls into the band (the second edit below tries it); you cannot know beforehand.

tried = table.groupby("method")["lr"].nunique()
best = table.groupby("method")["accuracy"].max()
assert tried["grid"] == 5 and tried["random"] == 25
assert best["random"] > best["grid"]

# %%
# Must I train the bad ones to the end?
# -------------------------------------
#
# Most dots above are dark: settings that learnt nothing, paid in full. **Successive halving** starts many trials, runs all a little,
# keeps the better half, runs those further, and so on. 80 trials of 15 steps are 1,200 steps; 40 of 15 more are 600; 20 of 30, and 10 of
# 60, are 600 each: the same budget.

running = [Trial(**setting) for setting in draw(80)]
spent = 0
for steps, keep in ((15, 40), (15, 20), (30, 10), (60, 10)):
    running = [run(trial, steps) for trial in running]
    spent += steps * len(running)
    running.sort(key=lambda trial: accuracy(trial, validation), reverse=True)
    leader = accuracy(running[0], validation)
    print(f"{len(running)} trials, {spent} steps spent, best {leader:.3f}")
    running = running[:keep]
best["halving"] = accuracy(running[0], validation)
print(best.round(3).to_dict())
assert spent == BUDGET and best["halving"] > 0.85

# %%
# For the price of 25 full trials it looked at 80. The danger: a trial that starts slowly and would end best is thrown out early.
# And one search each does not tell which method is better, halving or random: their two best differ by no more than seeds do.
#
# Why is my best number too good?
# -------------------------------
#
# You tried many settings and report the best validation accuracy. What could be wrong? You trained on other digits. Let the models only
# guess, each digit at random, and choose the best guesser. (Guesses teach us nothing about the test part, so it may serve as new digits.)

guesses = torch.randint(10, (2000, len(images)), generator=generator)
right = (guesses == labels).float()
on_validation, on_test = right[:, validation].mean(1), right[:, test].mean(1)
counts = [1, 10, 100, 2000]
chosen = [on_validation[:count].argmax().item() for count in counts]
for count, best_one in zip(counts, chosen):
    seen, new = on_validation[best_one], on_test[best_one]
    print(f"best of {count:4d} guessers: validation {seen:.3f}, new digits {new:.3f}")
assert on_validation.max() > 0.14 and on_test[chosen[-1]] < 0.14

# %%

# fold: the best guesser so far
fig, ax = plt.subplots(figsize=(5, 2.8))
tries = torch.arange(1, 2001)
top = on_validation.cummax(0)
ax.step(tries, top.values, label="on validation")
ax.step(tries, on_test[top.indices], "--", label="on new digits")
ax.set(xscale="log", xlabel="guessers tried", ylabel="accuracy of the best")
ax.legend(loc="upper left")

# %%
# .. caption:: The best guesser so far (logarithmic axis). Its validation accuracy climbs; on new digits it goes on guessing.
#    :alt: Two stepped curves over 1 to 2,000 guessers. The one on validation climbs. The dashed one on new
#       digits goes up and down around 0.1.
#
# The best of many was chosen *because* luck was on its side on these digits. With each choice the validation part is used up a little.
# Networks do the same, less strongly. Take the 55 trainings of the ablation, choose the best by some of the validation digits,
# and see how it does on the rest of them; averaged over 500 ways to divide them:

everyone = [trial for group in trials.values() for trial in group]
with torch.no_grad():
    said = [t.model.eval()(images[validation]).argmax(1) for t in everyone]
right = (torch.stack(said) == labels[validation]).float()
gaps = {}
for count in (20, 50, 150):
    seen, new = [], []
    for _ in range(500):
        mix = torch.randperm(300, generator=generator)
        a, b = right[:, mix[:count]].mean(1), right[:, mix[count:]].mean(1)
        seen.append(a.max().item())
        new.append(b[a.argmax()].item())
    gaps[count] = mean(seen) - mean(new)
    print(f"chosen by {count:3d}: {mean(seen):.3f} there, {mean(new):.3f} on the rest")
assert gaps[20] > gaps[50] > gaps[150] > 0

# %%
# The fewer digits choose among the 55, the more the winner promises above what it keeps. So the validation number chooses, and the test
# part reports: one setting, decided before you look, several seeds, once. We take the winner of the halving:

winner = {name: running[0].setting[name] for name in ("lr", "dropout")}
final = [accuracy(run(Trial(seed, **winner), 120), test) for seed in range(1, 6)]
print({name: round(value, 3) for name, value in winner.items()})
print("test accuracy, five seeds:", " ".join(f"{value:.3f}" for value in final))
assert mean(final) > 0.85

# %%
# Compare them with the halving's best on validation. Here the promise was not too good: what choosing added is less than the
# uncertainty of 300 digits, and the 497 others may be easier. You could not have known that before this look. If you go on tuning after
# it, the test part is a validation part, too, and you need new digits.
#
# Take this with you
# ------------------
#
# Draw the settings at random, rates by their exponent, log every trial with its seed, choose on validation, give the winner new seeds,
# and only then look at the test set.

import random


def score(setting, seed):  # your training, then its validation accuracy
    return accuracy(run(Trial(seed, **setting), 15), validation)


dice, rows = random.Random(0), []
for _ in range(5):
    setting = {"lr": 10 ** dice.uniform(-3, 1), "dropout": dice.uniform(0, 0.5)}
    rows.append({"seed": 0, **setting, "score": score(setting, seed=0)})
rows.sort(key=lambda row: row["score"], reverse=True)

# %%
# Change something
# ----------------
#
# * In the ablation, train for 480 steps instead of 120. Which rows change most?
# * Move the grid: ``torch.logspace(-4.8, 1.2, 5)``. How good is its best now?
# * Start the halving with 5 steps instead of 15. Which learning rates are among the 40 that it keeps?
#
# .. dropdown:: What happens
#
#    * *2 layers* catches up with the best (0.94 to 0.96 with the first three seeds), and *rate / 10* rises above 0.8: both only needed more
#      steps. *shifted* is last now, so the assertion about ``rate / 10`` stops the page.
#    * One column falls at a rate of 0.5, and the best of the grid is 0.917, near that of the random search. The other columns are as
#      useless as before.
#    * After 5 steps it keeps rates of 10 to 96, whose networks guess, and throws out 0.07 and 0.09, which are kept after 15 steps: too
#      early, the ranking is mostly luck. The assertion about the budget stops the page, since less was spent.
#
# Exercises
# ---------

from pytorch_course.exercises import expect

# %%
# .. exercise:: Predict the columns
#    :kind: predict
#
#    You tune four settings with a grid of three values each, then add one more value to every setting. How many more trials does the
#    larger grid need?

### BEGIN SOLUTION
guess = 175
### END SOLUTION

from itertools import product

small, large = (list(product(range(k), repeat=4)) for k in (3, 4))
expect(guess, len(large) - len(small))

# %%
# .. exercise:: Fix a search that forgets small rates
#    :kind: fix
#
#    A colleague draws learning rates with ``low + (high - low) * u``, where ``u`` is evenly spread from 0 to 1. Between 0.0001 and 1, nine
#    of ten are above 0.1. Write ``rate``, so that equal steps of ``u`` multiply the rate by equal factors.


def rate(u, low, high):
    ### BEGIN SOLUTION
    return low * (high / low) ** u
    ### END SOLUTION


spread = torch.linspace(0, 1, 6, dtype=torch.float64)
expect(
    lambda: rate(spread, 0.002, 20.0),
    torch.logspace(torch.tensor(0.002).log10(), torch.tensor(20.0).log10(), 6).double(),
    rtol=1e-4,
    atol=1e-8,
)

# %%
# .. exercise:: Build the halving plan
#    :kind: build
#
#    ``plan(trials, steps)`` returns the rounds of a halving as pairs (trials running, steps that each of them runs in this round). Every
#    trial has run ``steps`` after the first round, and twice as many steps in all after each further one; half of the trials, rounded
#    down, go on. The last round has one trial.


def plan(trials, steps):
    ### BEGIN SOLUTION
    rounds = [(trials, steps)]
    while trials > 1:
        trials = trials // 2
        rounds.append((trials, steps))
        steps = 2 * steps
    return rounds
    ### END SOLUTION


expect(lambda: plan(9, 10), [(9, 10), (4, 10), (2, 20), (1, 40)])
expect(lambda: plan(2, 3), [(2, 3), (1, 3)])
