"""What does the training loop itself cost? The same training, written by hand and with ``pytorch_course.train``.

Run ``python benchmarks/loop_overhead.py``. Ignite, Accelerate and Lightning are measured as well when they are installed.

All loops train the same small network on the same batches in memory and must end with the same loss, to the last bit. The
network is small on purpose: what a loop costs per step is fixed, so in a step of 100 ms every ratio below becomes 1.

Other work on the machine disturbs every timing. So each round runs every loop once, in another order, and a ratio compares
two times of one round; the figures are medians over the rounds. The hand-written loop is entered twice: the ratio of these
two, which should be 1, shows how far the other ratios can be trusted.
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
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from pytorch_course.train import TrainState, train

BATCHES, BATCH_SIZE = 100, 64
loss_fn = nn.CrossEntropyLoss()


def ingredients():
    """Return a new model, its optimizer and the batches: the same ones each time."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCHES, BATCH_SIZE, 20, generator=generator)
    targets = torch.randint(2, (BATCHES, BATCH_SIZE), generator=generator)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.01), list(zip(inputs, targets, strict=True))


def timed(run: Callable[[], object]) -> float:
    """Seconds that `run` takes, without the garbage of others."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        run()
        return time.process_time() - start
    finally:
        gc.enable()


def by_hand(epochs):
    """Write the loop out."""
    model, optimizer, batches = ingredients()
    last = None

    def run():
        nonlocal last
        model.train()
        for _ in range(epochs):
            for x, y in batches:
                loss = loss_fn(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                last = loss.detach()

    return timed(run), last


def ours(epochs):
    """Use the generator of the book."""
    model, optimizer, batches = ingredients()
    state, last = TrainState(model, optimizer), None

    def run():
        nonlocal last
        for step in train(state, batches, loss_fn, epochs=epochs):
            last = step.loss

    return timed(run), last


def ignite(epochs):
    """Use an Engine without handlers."""
    from ignite.engine import Engine

    model, optimizer, batches = ingredients()

    def update(_, batch):
        x, y = batch
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    engine = Engine(update)
    model.train()
    seconds = timed(lambda: engine.run(batches, max_epochs=epochs))
    return seconds, engine.state.output


def accelerate(epochs):
    """Use Accelerator.prepare and Accelerator.backward."""
    from accelerate import Accelerator

    model, optimizer, batches = ingredients()
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    last = None

    def run():
        nonlocal last
        model.train()
        for _ in range(epochs):
            for x, y in batches:
                loss = loss_fn(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                last = loss.detach()

    return timed(run), last


def lightning(epochs):
    """Use a Trainer with everything off that can be turned off."""
    from lightning.pytorch import LightningModule, Trainer

    model, optimizer, batches = ingredients()

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.last = model, None

        def training_step(self, batch, _):
            x, y = batch
            loss = loss_fn(self.model(x), y)
            self.last = loss.detach()
            return loss

        def configure_optimizers(self):
            return optimizer

    module = Module()
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", devices=1, barebones=False, **dict.fromkeys(off, False))
    return timed(lambda: trainer.fit(module, batches)), module.last


def contenders():
    """Return the loops that can run here, by name. The first is what the others are compared with."""
    loops = {"by hand": by_hand, "by hand, again": by_hand, "pytorch_course.train": ours}
    others = {"ignite": ignite, "accelerate": accelerate, "lightning": lightning}
    return loops | {name: loop for name, loop in others.items() if importlib.util.find_spec(name)}


def measure(rounds, epochs, loops):
    """Seconds of every loop in every round. Stop when a loop ends with another loss than the first."""
    seconds = {name: [] for name in loops}
    expected = by_hand(epochs)[1]
    for loop in loops.values():
        loop(1)  # the first run of a loop imports and allocates
    for number in range(rounds):
        names = list(loops)
        random.Random(number).shuffle(names)
        for name in names:
            elapsed, loss = loops[name](epochs)
            if not torch.equal(loss, expected):
                raise SystemExit(f"{name} ended with the loss {loss}, the loop by hand with {expected}")
            seconds[name].append(elapsed)
    return seconds


def ratios(seconds):
    """Median of the ratios to the first loop, round by round, and their quartiles."""
    base = next(iter(seconds.values()))
    for name, own in seconds.items():
        low, middle, high = statistics.quantiles((a / b for a, b in zip(own, base, strict=True)), n=4)
        yield name, statistics.median(own), low, middle, high


def machine():
    """Describe the machine, and what else it is doing."""
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    name = models[0] if models else platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, torch {torch.__version__}, 1 thread"
    )


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--epochs", type=int, default=4, help=f"of {BATCHES} steps, in each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    seconds = measure(options.rounds, options.epochs, contenders())
    steps = options.epochs * BATCHES
    print(machine())
    print(f"network 20-32-2, batch {BATCH_SIZE}, SGD; n = {options.rounds} rounds of {steps} steps; equal losses")
    print(f"{'loop':22}{'us/step':>9}{'ratio':>8}   quartiles")
    for name, median, low, middle, high in ratios(seconds):
        print(f"{name:22}{1e6 * median / steps:9.1f}{middle:8.3f}   {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
