"""What keyboards and screen readers need is put into the finished HTML, and scripts are loaded only where they are needed."""

from types import SimpleNamespace

from accessible import mend
from docutils import nodes
from lean import drop_katex


def test_scrolling_blocks_can_be_reached():
    """Code and formulas are in the tab order, once."""
    once = mend('<pre>x</pre><div class="math">y</div>')
    assert once == '<pre tabindex="0">x</pre><div class="math" tabindex="0">y</div>'
    assert mend(once) == once


def test_formulas_are_valid_html():
    """Signs that mean something in HTML are escaped in a formula, once."""
    mended = '<div class="math" tabindex="0">\n\\[0 &lt; a &amp;= b\\]</div>'
    assert mend('<div class="math">\n\\[0 < a &= b\\]</div>') == mended
    assert mend('<div class="math">\n\\[0 &lt; a &amp;= b\\]</div>') == mended


def test_landmarks_have_names_and_corners_are_no_headers():
    """Two drawers are told apart; an empty header cell is a cell."""
    html = mend('<aside class="sidebar-drawer"></aside><aside class="toc-drawer"></aside><th></th>')
    assert 'aria-label="Book"' in html
    assert 'aria-label="On this page"' in html
    assert "<th>" not in html


def test_katex_only_with_formulas():
    """A page without a formula loads nothing of KaTeX."""

    def files():
        return {
            kind: [SimpleNamespace(filename=name) for name in ("_static/katex.min.js", "_static/furo.js")]
            for kind in ("script_files", "css_files")
        }

    plain, formula = nodes.container(), nodes.container("", nodes.math("", "x"))
    for tree, count in ((plain, 1), (formula, 2), (None, 1)):
        context = files()
        drop_katex(None, "page", "page.html", context, tree)
        assert [len(context[kind]) for kind in context] == [count, count]
