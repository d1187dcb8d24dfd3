"""Shared by all tests: where things are, and the options for lessons."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    """Let `nox -s lessons -- tensors/07` pick lessons by the beginning of their names."""
    parser.addoption("--lesson", action="append", default=[], help="run only lessons whose name begins so")
    parser.addoption("--notebooks", action="store_true", help="run every lesson as a notebook, too")


@pytest.fixture(scope="session")
def root():
    """Return the root of the repository."""
    return ROOT


@pytest.fixture(autouse=True)
def close_figures():
    """Close what a test or a doctest has drawn: Matplotlib warns when twenty figures stay open."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
