"""What does a training loop itself cost? The same training, written by hand and with ``pytorch_course.train``.

Run ``python benchmarks/loop_overhead.py``. Ignite, Accelerate and Lightning are measured as well when they are installed.

All loops train the same small network on the same batches in memory and must end with the same loss, to the last bit. The
network is small on purpose: what a loop adds to a step is fixed, so in a step of 100 ms every ratio below is 1.

The batches themselves keep the time: a step lasts from one request for a batch to the next. The figure of a round is the
median of its steps, so a step in which other work took the processor away does not count. Each round runs every loop once,
in another order, and a ratio compares two figures of one round. The loop by hand is entered twice: the ratio of the two,
which should be 1, tells how far the other ratios can be trusted.
"""

import argparse
import gc
import importlib.util
import logging
import os
import platform
import random
import statistics
import time
import warnings
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from pytorch_course.state import TrainState
from pytorch_course.train import train

STEPS, BATCH_SIZE = 100, 64
cross_entropy = nn.CrossEntropyLoss()


class Clock:
    """Batches that note when each of them was asked for."""

    def __init__(self, batches):
        self.batches, self.times = batches, []

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.times.append(time.perf_counter())
            yield batch

    def step(self):
        """Median of the seconds from one request to the next."""
        return statistics.median(later - earlier for earlier, later in pairwise(self.times))


def ingredients():
    """Return a new model, its optimizer and the batches: the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(STEPS, BATCH_SIZE, 64, generator=generator)
    targets = torch.randint(10, (STEPS, BATCH_SIZE), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    return model, torch.optim.AdamW(model.parameters()), Clock(list(zip(inputs, targets, strict=True)))


def by_hand():
    """Write the loop out."""
    model, optimizer, batches = ingredients()
    model.train()
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        last = loss.detach()
    return batches.step(), last


def ours():
    """Use the generator of the book."""
    model, optimizer, batches = ingredients()

    def loss_fn(model, batch):
        x, y = batch
        return cross_entropy(model(x), y)

    for step in train(TrainState(model, optimizer), batches, loss_fn, epochs=1):
        last = step.loss
    return batches.step(), last


def ignite():
    """Use an Engine without handlers."""
    from ignite.engine import Engine

    model, optimizer, batches = ingredients()

    def update(_, batch):
        x, y = batch
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    engine = Engine(update)
    model.train()
    engine.run(batches, max_epochs=1)
    return batches.step(), engine.state.output


def accelerate():
    """Use Accelerator.prepare and Accelerator.backward."""
    from accelerate import Accelerator

    model, optimizer, batches = ingredients()
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    for x, y in batches:
        loss = cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        last = loss.detach()
    return batches.step(), last


def lightning():
    """Use a Trainer with everything off that can be turned off."""
    from lightning.pytorch import LightningModule, Trainer

    model, optimizer, batches = ingredients()

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.last = model, None

        def training_step(self, batch, _):
            x, y = batch
            loss = cross_entropy(self.model(x), y)
            self.last = loss.detach()
            return loss

        def configure_optimizers(self):
            return optimizer

    module = Module()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    Trainer(max_epochs=1, accelerator="cpu", devices=1, **dict.fromkeys(off, False)).fit(module, batches)
    return batches.step(), module.last


def contenders():
    """Return the loops that can run here, by name. The first is what the others are compared with."""
    loops = {"by hand": by_hand, "by hand, again": by_hand, "pytorch_course.train": ours}
    others = {"ignite": ignite, "accelerate": accelerate, "lightning": lightning}
    return loops | {name: loop for name, loop in others.items() if importlib.util.find_spec(name)}


def measure(rounds, loops):
    """Return seconds per step of every loop in every round. Stop when a loop ends with another loss than the first."""
    seconds = {name: [] for name in loops}
    expected = by_hand()[1]
    for number in range(-1, rounds):  # round -1 does not count: a loop imports and allocates when it runs first
        for name in random.Random(number).sample(list(loops), len(loops)):
            gc.collect()
            gc.disable()
            step, loss = loops[name]()
            gc.enable()
            if not torch.equal(loss, expected):
                raise SystemExit(f"{name} ended with the loss {loss}, the loop by hand with {expected}")
            if number >= 0:
                seconds[name].append(step)
    return seconds


def ratios(seconds):
    """Yield each loop's median time, and median and quartiles of its ratio to the first loop, round by round."""
    base = next(iter(seconds.values()))
    for name, own in seconds.items():
        low, middle, high = statistics.quantiles((a / b for a, b in zip(own, base, strict=True)), n=4)
        yield name, statistics.median(own), low, middle, high


def machine():
    """Describe the machine, and how busy it is."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, torch {torch.__version__}, 1 thread"
    )


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    seconds = measure(options.rounds, contenders())
    print(machine())
    print(f"network 64-128-10, batch {BATCH_SIZE}, AdamW; n = {options.rounds} rounds of {STEPS} steps; equal losses")
    print(f"{'loop':22}{'us/step':>9}{'ratio':>8}   quartiles")
    for name, median, low, middle, high in ratios(seconds):
        print(f"{name:22}{1e6 * median:9.1f}{middle:8.3f}   {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
