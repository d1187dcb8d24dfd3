"""Shared by all tests: where things are, and the option that picks lessons."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    """Let `nox -s lessons -- tensors/07` pick lessons by the beginning of their names."""
    parser.addoption("--lesson", action="append", default=[], help="run only lessons whose name begins so")


@pytest.fixture(scope="session")
def root():
    """Return the root of the repository."""
    return ROOT
