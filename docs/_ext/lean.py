"""Load a script only on the pages that need it: KaTeX is larger than a page without formulas."""

from docutils import nodes


def setup(app):
    """Connect to the writing of pages."""
    app.connect("html-page-context", drop_katex)
    return {"parallel_read_safe": True}


def drop_katex(app, name, template, context, doctree):
    """Leave KaTeX out of a page that shows no formula."""
    if doctree is None or not any(doctree.findall(lambda node: isinstance(node, (nodes.math, nodes.math_block)))):
        for kind in ("script_files", "css_files"):
            context[kind] = [
                file
                for file in context[kind]
                if "katex" not in str(file.filename) and "auto-render" not in str(file.filename)
            ]
