"""Mend in the finished HTML what themes and extensions leave hard to reach by keyboard or screen reader."""

import re
from html import escape, unescape

from sphinx.locale import get_translation

_ = get_translation("book")


def setup(app):
    """Hand the templates the function that mends a page."""
    app.connect("html-page-context", lambda app, name, template, context, doctree: context.update(mend=mend))
    return {"parallel_read_safe": True}


def formula(match):
    """Return a formula that scrolls by keyboard, with the signs escaped that mean something in HTML."""
    return f'<div class="math" tabindex="0">{escape(unescape(match[1]), quote=False)}</div>'


def mend(html):
    """Return the page with named landmarks, and with every block that scrolls in the tab order."""
    html = re.sub(r"<pre(?! tabindex)", '<pre tabindex="0"', str(html))
    html = re.sub(r'<div class="math">(.*?)</div>', formula, html, flags=re.DOTALL)
    html = html.replace("<th></th>", "<td></td>")  # the corner of a data frame heads nothing
    html = html.replace('<aside class="sidebar-drawer"', f'<aside class="sidebar-drawer" aria-label="{_("Book")}"')
    return html.replace('<aside class="toc-drawer', f'<aside aria-label="{_("On this page")}" class="toc-drawer')
