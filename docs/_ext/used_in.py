"""Under each function of the helper package, list the lessons that use it."""

from pathlib import Path

from api_names import lessons_by_name
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective


def setup(app):
    """Connect to the build."""
    app.setup_extension("api_names")
    app.add_directive("used-in", UsedIn)
    app.add_post_transform(FillLessons)
    app.connect("autodoc-process-docstring", add_mark)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 2}


class used_in(nodes.General, nodes.Element):
    """Stands for the lessons that use a function."""


def add_mark(app, what, name, obj, options, lines):
    """Append the list's mark to a docstring."""
    if what in ("function", "class"):
        lines += ["", f".. used-in:: {name}", ""]


class UsedIn(SphinxDirective):
    """``.. used-in:: name`` lists the lessons that use a function or class, each with its figure."""

    required_arguments = 1

    def run(self):
        """Leave a mark; the lessons are known only when all are read."""
        self.env.metadata[self.env.docname]["shows_uses"] = True
        return [used_in(name=self.arguments[0])]


class FillLessons(SphinxPostTransform):
    """Fill the lists, before references are resolved."""

    default_priority = 3

    def run(self, **kwargs):
        """Put the lessons in the place of each mark."""
        marks = list(self.document.findall(used_in))
        uses = lessons_by_name(self.env) if marks else {}
        for mark in marks:
            items = [self.item(lesson) for lesson in uses.get(mark["name"], ())]
            title = nodes.rubric("", "Lessons that use it")
            mark.replace_self([title, nodes.bullet_list("", *items, classes=["lesson-list"])] if items else [])

    def item(self, lesson):
        """Return a lesson's figure and its title, linked."""
        source = Path(self.env.srcdir)
        (file,) = source.glob(f"lessons/{lesson.part}/images/thumb/sphx_glr_{lesson.path.stem}_thumb.*")
        picture = file.relative_to(source).as_posix()
        image = nodes.image("", uri=picture, candidates={"*": picture}, alt="", classes=["lesson-thumb"])
        about = {"refdomain": "std", "reftype": "doc", "reftarget": f"/{lesson.docname}", "refdoc": self.env.docname}
        link = addnodes.pending_xref("", nodes.inline("", lesson.docname), **about, refexplicit=False, refwarn=True)
        return nodes.list_item("", image, nodes.paragraph("", "", link))
