"""What a lesson's page shows around its cells: facts, downloads, captions."""

import re

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.locale import get_translation
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
_ = get_translation("book")

WORDS = 6  # of a caption, that make the address of its figure: one before it does not change it
INSTALL = 'python -m pip install "pytorch_course-{version}-py3-none-any.whl[lessons]"'


def setup(app):
    """Register directives and transforms."""
    app.add_node(lesson_facts, html=(visit_facts, depart_facts), gettext=(_skip, None), text=(_skip, None))
    app.add_directive("lesson", LessonFacts)
    app.add_directive("caption", Caption)
    app.connect("doctree-read", tidy, priority=400)  # before Sphinx collects images and downloads
    return {"parallel_read_safe": True, "env_version": 1}


def _skip(visitor, node):
    raise nodes.SkipNode


class lesson_facts(nodes.General, nodes.Element):
    """The box under a lesson's title. Its children are the download links."""


class LessonFacts(SphinxDirective):
    """``.. lesson::`` with the lessons it needs and the data it uses; time and checks come from the run.

    ``:keywords:`` are words that the page does not show and the search finds; ``:thumbnail:`` and ``:alone:`` are read by
    the machinery that runs lessons.
    """

    option_spec = {
        "needs": directives.unchanged,
        "data": directives.unchanged_required,
        "keywords": directives.unchanged_required,
        "thumbnail": directives.positive_int,
        "alone": directives.flag,
    }

    def run(self):
        """Make the box, and the words for the search; the options were checked when the course was read."""
        words = dict.fromkeys(re.findall(r"\w+", self.options.get("keywords", "")))
        keywords = nodes.meta(name="keywords", content=", ".join(words))
        return [keywords, lesson_facts(needs=self.options["needs"].split(), data=self.options["data"])]


class caption_mark(nodes.General, nodes.Element):
    """Says what the figure just above shows."""


class Caption(SphinxDirective):
    """``.. caption:: What to see`` with ``:alt:``, right after the cell that draws the figure."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"alt": directives.unchanged_required}

    def run(self):
        """Keep the parsed caption for `tidy`."""
        if "alt" not in self.options:
            raise self.error("a caption needs ':alt:', what the figure shows to a reader who cannot see it")
        children, messages = self.parse_inline(self.arguments[0])
        mark = caption_mark("", nodes.caption("", "", *children), alt=self.options["alt"])
        self.set_source_info(mark)
        self.set_source_info(mark[0])
        return [mark, *messages]


def tidy(app, doctree):
    """Replace Sphinx-Gallery's notes by the box, and put captions and alternative texts on figures."""
    if not app.env.docname.startswith("lessons/") or app.env.docname.endswith("/index"):
        return
    downloads = [link.deepcopy() for link in doctree.findall(addnodes.download_reference)]
    for node in list(doctree.findall(addnodes.only)):
        node.parent.remove(node)
    for facts in doctree.findall(lesson_facts):
        facts += [_named(link) for link in downloads if not link["reftarget"].endswith(".zip")]
    for mark in list(doctree.findall(caption_mark)):
        _caption(app, mark)
    for figure in doctree.findall(nodes.figure):
        words = [word for caption in figure.findall(nodes.caption) for word in caption.astext().split()[:WORDS]]
        figure["ids"] = figure["ids"] or ([nodes.make_id(f"figure-{' '.join(words)}")] if words else [])
    for image in doctree.findall(drawn):
        if not isinstance(image.parent, nodes.figure):
            logger.warning("a figure without a caption: add '.. caption::' after its cell", location=image)


def drawn(node):
    """Say whether a node is a figure that a cell drew."""
    return isinstance(node, nodes.image) and any(name.startswith("sphx-glr") for name in node["classes"])


def _named(link):
    """Give a download link of Sphinx-Gallery a short name."""
    suffix = link["reftarget"].rpartition(".")[2]
    words = {"py": _("script (.py)"), "ipynb": _("notebook (.ipynb)")}
    link.children = []
    link += nodes.inline("", words[suffix])
    return link


def _caption(app, mark):
    """Find the figures of the cell above, make each a figure with the alternative text, the last with the caption."""
    images = []
    siblings = mark.parent.children
    for block in reversed(siblings[: siblings.index(mark)]):
        if isinstance(block, nodes.literal_block) and "sphx-glr-script-out" not in block["classes"]:
            break
        images = list(block.findall(drawn)) or images
    record = app.records[app.env.docname.removeprefix("lessons/")]
    if not images and record and not record["problems"]:
        logger.warning("a caption without a figure above it", location=mark)
    for image in images:
        image["alt"] = mark["alt"]
        figure = nodes.figure("", classes=["lesson-figure"])
        image.parent.replace(image, figure)
        figure += image
    if images:
        figure += mark[0]
    mark.parent.remove(mark)


def visit_facts(self, node):
    """Write the box up to the downloads."""
    env, builder = self.builder.env, self.builder
    here = self.docnames[-1] if hasattr(self, "docnames") else builder.current_docname
    record = env.app.records.get(here.removeprefix("lessons/"))
    links = [
        f'<a href="{builder.get_relative_uri(here, f"lessons/{need}")}">{self.encode(env.titles[f"lessons/{need}"].astext())}</a>'
        for need in node["needs"]
    ]
    rows = [(_("You need"), ", ".join(links) or _("nothing but Python")), (_("Data"), self.encode(node["data"]))]
    if record:
        ran = _("%(seconds)s s on torch %(torch)s, Python %(python)s: %(cells)s cells, %(checks)s checks passed")
        rows.append((_("Ran in"), ran % record))
    body = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    self.body.append(f'<div class="lesson-facts"><dl>{body}<div><dt>{_("Download")}</dt><dd class="lesson-downloads">')


def depart_facts(self, node):
    """Write the wheel's link and close the box."""
    wheel = self.builder.env.app.wheel
    root = "../" * self.builder.current_docname.count("/")
    link = f'<a class="reference download" href="{root}_downloads/{wheel}" download>{_("package (.whl)")}</a>'
    self.body.append(f"{link}</dd></div></dl></div>\n")
