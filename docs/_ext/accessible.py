"""Mend in the finished HTML what themes and extensions leave hard to reach by keyboard or screen reader."""

import re


def setup(app):
    """Connect to the writing of pages."""
    app.connect("html-page-context", mend, priority=900)
    return {"parallel_read_safe": True}


def mend(app, pagename, templatename, context, doctree):
    """Make scrolling blocks reachable by keyboard."""
    if context.get("body"):
        context["body"] = reachable(context["body"])


def reachable(html):
    """Give every block that scrolls sideways a place in the tab order."""
    return re.sub(r"<pre(?! tabindex)", '<pre tabindex="0"', html)
