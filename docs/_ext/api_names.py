"""List every name that the lessons' code is linked by, with its page and the lessons that use it.

The list is made when its page is written, from what `code_links` remembers of the lessons; so it holds all that they link.
"""

from collections import defaultdict

import inventories
from code_links import names_of
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective


def setup(app):
    """Connect to the build."""
    app.setup_extension("code_links")
    app.add_directive("api-names", ApiNames)
    app.add_post_transform(FillList)
    app.connect("env-updated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 2}


class names_list(nodes.General, nodes.Element):
    """Stands for the names of one library."""


class ApiNames(SphinxDirective):
    """``.. api-names::`` lists the names by library and module, each with links to its page and to its lessons."""

    def run(self):
        """Make a section for each library, so that the page's table of contents knows them."""
        self.env.metadata[self.env.docname]["shows_uses"] = True
        titles = [library["title"] for library in inventories.libraries().values()]
        return [
            nodes.section("", nodes.title("", title), names_list(library=title), ids=[nodes.make_id(f"names-{title}")])
            for title in (*titles, self.config.project)
        ]


class FillList(SphinxPostTransform):
    """Fill the sections of the list, before references are resolved."""

    default_priority = 3

    def run(self, **kwargs):
        """List the names of each library by module."""
        marks = list(self.document.findall(names_list))
        found = defaultdict(lambda: defaultdict(dict))
        for name, lessons in lessons_by_name(self.env).items() if marks else ():
            own = name in self.env.domains.python_domain.objects
            library = self.config.project if own else inventories.find(name).library
            found[library][inventories.module_of(name)][name] = lessons
        for mark in marks:
            sections = [self.section(*module) for module in sorted(found[mark["library"]].items())]
            mark.replace_self(sections or nodes.paragraph("", "No lesson uses it yet."))

    def section(self, module, names):
        """Return the names of one module; its own stands above them."""
        items = [self.item(name, names[name]) for name in sorted(names, key=str.casefold) if name != module]
        known = module in self.env.domains.python_domain.objects or inventories.find(module)
        title = self.link("py", "obj", module) if known else nodes.literal("", module)
        content = nodes.bullet_list("", *items, classes=["api-names"])
        return nodes.section("", nodes.title("", "", title), content, ids=[nodes.make_id(f"names-of-{module}")])

    def item(self, name, lessons):
        """Return one name, linked, and the titles of the lessons that use it, linked."""
        parts = [self.link("py", "obj", name)]
        for number, lesson in enumerate(lessons):
            parts += [nodes.Text(", " if number else ": "), self.link("std", "doc", f"/{lesson.docname}")]
        return nodes.list_item("", nodes.paragraph("", "", *parts))

    def link(self, domain, role, target):
        """Return a reference that Sphinx resolves like a role in the text."""
        shown = (nodes.literal if domain == "py" else nodes.inline)(
            "", target, classes=["xref", domain, f"{domain}-{role}"]
        )
        about = {"refdomain": domain, "reftype": role, "reftarget": target, "refdoc": self.env.docname}
        return addnodes.pending_xref("", shown, **about, refexplicit=domain == "py", refwarn=True)


def lessons_by_name(env):
    """Return, for each name that the code of lessons is linked by, the lessons in reading order."""
    found = defaultdict(list)
    for part in env.app.course:
        for lesson in part.lessons:
            for name in names_of(env, lesson.docname):
                found[name].append(lesson)
    return found


def outdated(app, env):
    """Write the pages that show who uses what again when the title of a lesson or a name in its code changed."""
    pages = [lesson.docname for part in app.course for lesson in part.lessons]
    now = [(page, env.titles[page].astext(), env.metadata[page].get("names")) for page in pages]
    before, env.names_before = getattr(env, "names_before", None), now  # unresolved: that would import every library
    return [page for page in env.found_docs if env.metadata[page].get("shows_uses")] if now != before else []
