"""What do the guarantees of ``pytorch_course.checkpoint`` cost? Seconds per save, against plain ``torch.save``.

Run ``python benchmarks/checkpoint_cost.py``. Plain ``torch.save`` leaves the bytes in the memory of the system and writes over
the old file. ``save`` writes beside it, reads back and checks every byte, and waits until the disk has them. So there is a
third contender: ``torch.save`` that also waits for the disk. Between it and ``save`` lies the check alone.

Other work on the machine and its disk disturb every timing. So each round runs every contender once, in another order, and a
ratio compares two times of one round; the figures are medians over the rounds, with quartiles. Plain ``torch.save`` is entered
twice: the ratio of these two, which should be 1, shows how far the other ratios can be trusted. Time is elapsed time, because
waiting for the disk uses no processor.
"""

import argparse
import os
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from pytorch_course.checkpoint import Checkpoints, save

MEGABYTE = 1_000_000


class State:
    """A training state of a given size: ten tensors."""

    def __init__(self, size):
        generator = torch.Generator().manual_seed(0)
        self.tensors = {f"layer{index}": torch.randn(size // 40, generator=generator) for index in range(10)}
        self.step = 0

    def state_dict(self):
        """Give everything."""
        return {"model": self.tensors, "step": self.step}

    def load_state_dict(self, state):
        """Take everything."""
        self.tensors, self.step = state["model"], state["step"]


def contenders(folder, state):
    """Return what is timed, by name. The first is what the others are compared with."""
    checkpoints = Checkpoints(folder / "run", keep=3)

    def plain():
        torch.save(state.state_dict(), folder / "plain.pt")

    def synced():
        with (folder / "synced.pt").open("wb") as file:
            torch.save(state.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())

    return {
        "torch.save": plain,
        "torch.save, again": plain,
        "torch.save and fsync": synced,
        "save": lambda: save(state.state_dict(), folder / "save.pt"),
        "Checkpoints.save": lambda: checkpoints.save(state),
    }


def measure(rounds, size, folder):
    """Seconds of every contender in every round."""
    state = State(size)
    runs = contenders(folder, state)
    seconds = {name: [] for name in runs}
    for number in range(-1, rounds):  # the first round makes folders and files, and is not counted
        names = list(runs)
        random.Random(number).shuffle(names)
        for name in names:
            state.step += 1
            start = time.perf_counter()
            runs[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def machine(folder):
    """Describe the machine, its disk, and what else it is doing."""
    cpuinfo, mounts = Path("/proc/cpuinfo"), Path("/proc/mounts")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    places = [line.split()[1:3] for line in mounts.read_text().splitlines()] if mounts.exists() else []
    inside = [(len(place), kind) for place, kind in places if Path(folder).resolve().is_relative_to(place)]
    disk = f"; file system {max(inside)[1]}" if inside else ""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{name}, {os.cpu_count()} cores{load}{disk}; {versions}, {torch.get_num_threads()} thread"


def main():
    """Measure and print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--folder", help="where to write; by default the system's folder for temporary files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(machine(folder))
        for megabytes in (1, 25):
            place = Path(folder, str(megabytes))
            place.mkdir()
            seconds = measure(options.rounds, megabytes * MEGABYTE, place)
            print(
                f"\nstate of {megabytes} MB in 10 tensors; n = {options.rounds} rounds, one save each; all rounds counted"
            )
            print(f"{'':22}{'ms/save':>9}   {'quartiles':17}{'ratio':>7}   quartiles")
            base = next(iter(seconds.values()))
            for name, own in seconds.items():
                low, middle, high = (1e3 * value for value in statistics.quantiles(own, n=4))
                ratios = statistics.quantiles((a / b for a, b in zip(own, base, strict=True)), n=4)
                spread = f"{low:.2f} to {high:.2f}"
                print(f"{name:22}{middle:9.2f}   {spread:17}{ratios[1]:7.2f}   {ratios[0]:.2f} to {ratios[2]:.2f}")


if __name__ == "__main__":
    main()
