"""How much faster batches come from tensors in memory than from images that are transformed one at a time.

Run ``python benchmarks/resident_batches.py``. Three ways give the same batches of 28x28 images, to the last bit:

* resident: ``pytorch_course.data.loader`` on a ``TensorDataset`` that was normalised once, before the clock starts;
* one by one: a ``DataLoader`` on the same ``TensorDataset``, which picks and collates single samples;
* PIL: a ``DataLoader`` on a list of PIL images, each through torchvision's ``ToImage``, ``ToDtype`` and ``Normalize``.

The first saves its work by doing it once. That is fair only for transforms that are the same in every epoch, and for data that
fits in memory. All are shuffled, in the same order. Nobody trains: these are rates of the loading alone.

Other work on the machine disturbs every timing. So each round runs every way once, in another order, and a ratio compares two
times of one round; the figures are medians over the rounds, with quartiles. The first way is entered twice: the ratio of these
two, which should be 1, shows how far the others can be trusted. Time is CPU time of this process, with one thread.
"""

import argparse
import gc
import os
import platform
import random
import statistics
import time
from pathlib import Path

import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

from pytorch_course.data import EpochSampler, loader

MEAN, SPREAD = 0.1307, 0.3081


def normalised():
    """Return the transforms that make bytes numbers around zero."""
    return v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN], [SPREAD])


class Pictures(Dataset):
    """PIL images in memory, handed out as the datasets of torchvision do."""

    def __init__(self, images, labels):
        self.images, self.labels = [Image.fromarray(image.numpy()) for image in images], labels.tolist()
        self.transform = v2.Compose([v2.ToImage(), *normalised()])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), self.labels[index]


def ways(n, batch_size):
    """Return the ways to get batches, by name. The first is what the others are compared with."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(10, (n,), generator=generator)
    tensors = TensorDataset(v2.Compose(normalised())(images[:, None]), labels)
    pictures = Pictures(images, labels)
    return {
        "resident": loader(tensors, batch_size, seed=0),
        "resident, again": loader(tensors, batch_size, seed=0),
        "one by one": DataLoader(tensors, batch_sampler=EpochSampler(n, batch_size, seed=0)),
        "PIL": DataLoader(pictures, batch_sampler=EpochSampler(n, batch_size, seed=0)),
    }


def require_equal(loaders):
    """Stop unless all ways give the same batches."""
    for batches in zip(*loaders.values(), strict=True):
        for name, (x, y) in zip(loaders, batches, strict=True):
            if not (torch.equal(x, batches[0][0]) and torch.equal(y, batches[0][1])):
                raise SystemExit(f"{name} gives other batches than {next(iter(loaders))}")


def timed(batches, epochs):
    """Seconds for one epoch."""
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        for _ in range(epochs):
            for _ in batches:
                pass
        return (time.process_time() - start) / epochs
    finally:
        gc.enable()


def measure(rounds, loaders):
    """Seconds of every way in every round. A fast way runs more epochs in a round, so that the clock's steps do not matter."""
    once = {name: timed(batches, 1) for name, batches in loaders.items()}
    epochs = {name: max(1, round(0.3 / max(seconds, 1e-4))) for name, seconds in once.items()}
    seconds = {name: [] for name in loaders}
    for number in range(rounds):
        names = list(loaders)
        random.Random(number).shuffle(names)
        for name in names:
            seconds[name].append(timed(loaders[name], epochs[name]))
    return seconds


def machine():
    """Describe the machine, and what else it is doing."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    return f"{name}, {os.cpu_count()} cores{load}; {versions}, 1 thread, no workers"


def main():
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    for batch_size in (64, 256):
        loaders = ways(options.images, batch_size)
        require_equal(loaders)
        seconds = measure(options.rounds, loaders)
        chosen = f"n = {options.rounds} rounds, all counted; shuffled, equal batches"
        print(f"\n{options.images:,} images 28x28, batch {batch_size}; {chosen}")
        print(f"{'':22}{'images/s':>12}{'resident is faster by':>24}   quartiles")
        base = seconds["resident"]
        for name, own in seconds.items():
            low, middle, high = statistics.quantiles((a / b for a, b in zip(own, base, strict=True)), n=4)
            rate = options.images / statistics.median(own)
            print(f"{name:22}{rate:12,.0f}{middle:24.2f}   {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
