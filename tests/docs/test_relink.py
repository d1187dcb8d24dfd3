"""Every page that is written counts as new for sphinx-codeautolink, so that its code is linked again."""

from types import SimpleNamespace

from relink import remember
from sphinx_codeautolink.extension import SphinxCodeAutoLink


def test_a_written_page_is_remembered():
    """The page is told to sphinx-codeautolink, and to nobody else."""
    linker = SphinxCodeAutoLink()
    assert not linker.outdated_docs
    handlers = (linker.apply_links, print, "".join)
    listeners = [SimpleNamespace(handler=handler) for handler in handlers]
    app = SimpleNamespace(events=SimpleNamespace(listeners={"build-finished": listeners}))
    remember(app, "start/vocabulary", "page.html", {}, None)
    assert linker.outdated_docs == {"start/vocabulary"}
