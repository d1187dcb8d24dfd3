"""Items per second of every generator of the package, on one thread.

Run ``python benchmarks/generators.py``. Each generator runs once to warm up, then five times; the median and the slowest
and fastest run are printed. Time is CPU time of this process, so that other work on the machine counts little.
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pytorch_course.datasets import dates, docstrings, glyphs, page, pages, shapes

ROUNDS = 5
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def rate(make: Callable[[], object], items: int) -> tuple[float, float, float]:
    """Items per CPU second: median, slowest and fastest of the rounds."""
    make()
    seconds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        make()
        seconds.append(time.process_time() - start)
    return items / statistics.median(seconds), items / max(seconds), items / min(seconds)


def processor() -> str:
    """Name of the processor as the system gives it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    """Print one line per generator."""
    torch.set_num_threads(1)
    print(f"{processor()}, 1 thread, Python {sys.version.split()[0]}, torch {torch.__version__}, {ROUNDS} rounds")
    corpus = docstrings()
    for title, items, make in [
        ("glyphs(10_000)", 10_000, lambda: glyphs(10_000)),
        (f'glyphs(10_000, classes="{LATIN}")', 10_000, lambda: glyphs(10_000, classes=LATIN)),
        ("glyphs(2_000, size=64)", 2_000, lambda: glyphs(2_000, size=64)),
        ("shapes(2_000)", 2_000, lambda: shapes(2_000)),
        ("shapes(500, size=128)", 500, lambda: shapes(500, size=128)),
        ("page(i), 200 PDF files", 200, lambda: [page(i) for i in range(200)]),
        ("pages(200)", 200, lambda: pages(200)),
        ("dates(10_000)", 10_000, lambda: dates(10_000)),
        ("docstrings(), libraries imported", len(corpus), docstrings),
    ]:
        median, slowest, fastest = rate(make, items)
        print(f"{title:52} {median:12,.0f} items/s  ({slowest:,.0f} to {fastest:,.0f})")


if __name__ == "__main__":
    main()
