"""Link the code of every chapter that is written, also of one that Sphinx writes again without reading it again.

sphinx-codeautolink links pages that were read in this build. A page written anew for another reason would lose its links.
"""

from pathlib import Path

from sphinx_codeautolink.extension import SphinxCodeAutoLink


def setup(app):
    """Connect to the writing of pages."""
    app.connect("html-page-context", remember)
    return {"parallel_read_safe": True}


def remember(app, name, *_):
    """Tell sphinx-codeautolink that this page is new."""
    owners = (getattr(listener.handler, "__self__", None) for listener in app.events.listeners["build-finished"])
    for owner in owners:
        if isinstance(owner, SphinxCodeAutoLink):
            owner.outdated_docs.add(str(Path(name)))
