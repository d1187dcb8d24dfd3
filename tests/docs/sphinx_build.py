"""Build a book, as ``python -m sphinx`` does, in a fork: see `server`."""

import importlib
import sys

from sphinx.cmd.build import main as build

LIBRARIES = (  # what every tiny book and its lessons import, and nothing of ours
    "jupyter_cache.executors",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "myst_nb.sphinx_ext",
    "PIL.Image",
    "sphinx.builders.html",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
)


def load():
    """Import libraries before the fork."""
    for name in LIBRARIES:
        importlib.import_module(name)


def main(*arguments):
    """Build the book and end with Sphinx's exit code."""
    sys.exit(build(arguments))
