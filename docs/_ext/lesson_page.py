"""What a lesson's page shows around its cells: facts, downloads, captions; and the same facts in its notebook."""

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.locale import get_translation
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
_ = get_translation("book")

INSTALL = 'python -m pip install "pytorch_course-{version}-py3-none-any.whl[lessons]"'


def setup(app):
    """Register directives and transforms."""
    app.add_node(lesson_facts, html=(visit_facts, depart_facts), gettext=(_skip, None), text=(_skip, None))
    app.add_directive("lesson", LessonFacts)
    app.add_directive("caption", Caption)
    app.connect("builder-inited", write_notebooks, priority=600)  # after Sphinx-Gallery
    app.connect("doctree-read", tidy, priority=400)  # before Sphinx collects images and downloads
    return {"parallel_read_safe": True, "env_version": 1}


def _skip(visitor, node):
    raise nodes.SkipNode


class lesson_facts(nodes.General, nodes.Element):
    """The box under a lesson's title. Its children are the download links."""


class LessonFacts(SphinxDirective):
    """``.. lesson::`` with the lessons it needs and the data it uses; time and checks come from the run."""

    option_spec = {"needs": directives.unchanged, "data": directives.unchanged_required, "alone": directives.flag}

    def run(self):
        """Make the box; the needs were checked when the course was read."""
        return [lesson_facts(needs=self.options["needs"].split(), data=self.options["data"])]


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
    for number, figure in enumerate(doctree.findall(nodes.figure), start=1):
        figure["ids"] = figure["ids"] or [f"figure-{number}"]
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


def write_notebooks(app):
    """Write the facts of the lesson directive, captions and references in each notebook as plain Markdown."""
    install = INSTALL.format(version=app.config.release)
    for lesson in (lesson for part in app.course for lesson in part.lessons):
        path = Path(app.srcdir) / f"{lesson.docname}.ipynb"
        before = path.read_text(encoding="utf-8") if path.exists() else "{}"
        notebook = json.loads(before)
        for cell in notebook.get("cells", []):
            if cell["cell_type"] == "markdown":
                cell["source"] = [plain(text, install) for text in ["".join(cell["source"])]]
        after = json.dumps(notebook, indent=1, ensure_ascii=False)
        if after != before:
            path.write_text(after, encoding="utf-8")


def plain(text, install):
    """Turn what reStructuredText leaves in a notebook's Markdown into words."""
    text = re.sub(r"^\.\. lesson::\n((?:   .*\n?)+)", lambda match: _facts_text(match[1], install), text, flags=re.M)
    text = re.sub(
        r"^\.\. caption:: (.*(?:\n   [^:\s].*)*)(?:\n   :alt:.*(?:\n    .*)*)?", r"*Figure: \1*", text, flags=re.M
    )
    text = re.sub(r":doc:`([^`<]+?) *<[^`]*>`", r"\1", text)
    return re.sub(r":[a-z:]+:`~?(?:[^`<]*\.)?([^`<>]+)`", r"`\1`", text)


def _facts_text(options, install):
    facts = dict(re.findall(r":(\w+):[ \t]*(.*)", options))
    lines = [f"**You need:** {facts['needs'] or 'nothing but Python'}", f"**Data:** {facts['data']}"]
    return "\n\n".join([*lines, f"**Install once:** `{install}`"]) + "\n"
