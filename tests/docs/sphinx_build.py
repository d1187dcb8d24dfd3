"""Build a book; before the fork, `load` what every build of a tiny book imports, but nothing of ours."""

import sys


def load():
    """Import Sphinx and its extensions, and what lessons draw with."""
    import jupyter_cache.executors
    import matplotlib.backends.backend_agg
    import matplotlib.pyplot
    import myst_nb.sphinx_ext
    import PIL.Image
    import sphinx.builders.html
    import sphinx_design
    import sphinx_gallery.gen_gallery  # noqa: F401


def main(*arguments):
    """Build the book and end with Sphinx's exit code."""
    from sphinx.cmd.build import main

    sys.exit(main(arguments))
