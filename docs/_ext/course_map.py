"""The course drawn from its own lessons: the map on the first page, and lists of lessons with their pictures."""

from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROW, RAIL = 32, 46  # height of a lesson's row and width of the arcs beside it, in pixels


def setup(app):
    """Register the directives."""
    app.add_node(course_map, html=(visit_map, None), gettext=(_skip, None), text=(_skip, None))
    app.add_directive("course-map", CourseMap)
    app.add_directive("lessons", PartLessons)
    app.connect("html-page-context", add_rules)
    return {"parallel_read_safe": True, "env_version": 2}


def _skip(visitor, node):
    raise nodes.SkipNode


class course_map(nodes.General, nodes.Element):
    """Stands for the map, which is made when the page is written."""


class CourseMap(SphinxDirective):
    """``.. course-map::`` shows every part as a card, with its lessons and what each needs."""

    def run(self):
        """Leave a mark; the titles are known only at the end."""
        self.env.note_dependency("lessons/course.json")
        return [course_map()]


class PartLessons(SphinxDirective):
    """``.. lessons::`` on a part's opening page lists its lessons and puts them into the sidebar."""

    def run(self):
        """Write the list as reST, so that titles and goals are translated like all text."""
        self.env.note_dependency("lessons/course.json")
        folder = self.env.docname.split("/")[1]
        part = next(part for part in self.env.app.course if part.path.name == folder)
        lines = lesson_list(Path(self.env.srcdir), part.lessons, goals=True)
        lines += [".. toctree::", "   :hidden:", "", *(f"   {lesson.path.stem}" for lesson in part.lessons)]
        return self.parse_text_to_nodes("\n".join(lines))


def lesson_list(source, lessons, goals=False):
    """Return the reST of a list of lessons, each with its first figure; `source` is the folder of the documents, a path."""
    lines = [".. rst-class:: lesson-list", ""]
    for lesson in lessons:
        (file,) = source.glob(f"lessons/{lesson.part}/images/thumb/sphx_glr_{lesson.path.stem}_thumb.*")
        picture = f"/{file.relative_to(source).as_posix()}"
        lines += [
            f"* .. image:: {picture}",
            "     :alt:",
            "     :class: lesson-thumb",
            "",
            f"  :doc:`/{lesson.docname}`",
            "",
        ]
        lines += [f"  {lesson.goal}", ""] if goals else []
    return lines


def mark(lesson_id):
    """Return the identifier of a lesson on the map."""
    return nodes.make_id(f"map-{lesson_id}")


def arcs(lessons):
    """Return the arcs from each lesson of a part to those of the same part that need it."""
    rows = {lesson.id: number for number, lesson in enumerate(lessons)}
    paths = []
    for lesson in lessons:
        for need in rows.keys() & set(lesson.needs):
            first, last = rows[need], rows[lesson.id]
            width = min(RAIL - 12, 6 + 6 * (last - first))
            top, bottom = ROW * (first + 0.5), ROW * (last + 0.5)
            path = f"M{RAIL - 8},{top} A{width},{(bottom - top) / 2} 0 0 0 {RAIL - 8},{bottom}"
            paths.append(f'<path d="{path}"/>')
    dots = [f'<circle cx="{RAIL - 8}" cy="{ROW * (row + 0.5)}" r="4"/>' for row in rows.values()]
    size = f'width="{RAIL}" height="{ROW * len(rows)}" viewBox="0 0 {RAIL} {ROW * len(rows)}"'
    return f'<svg {size} aria-hidden="true">{"".join(sorted(paths) + dots)}</svg>'


def visit_map(self, node):
    """Write one card for each part; its lessons are links, and arcs join those that need each other."""
    builder, env = self.builder, self.builder.env
    here = builder.current_docname
    self.body.append('<nav class="course-map" aria-label="Course map">\n')
    for part in env.app.course:
        title = self.encode(env.titles[part.docname].astext())
        heading = f'<a href="{builder.get_relative_uri(here, part.docname)}">{title}</a>'
        self.body.append(f'<section class="part"><h3>{heading}</h3><div class="rail">{arcs(part.lessons)}<ol>\n')
        for lesson in part.lessons:
            title = self.encode(env.titles[lesson.docname].astext())
            href = builder.get_relative_uri(here, lesson.docname)
            self.body.append(f'<li><a id="{mark(lesson.id)}" href="{href}">{title}</a></li>\n')
        self.body.append("</ol></div></section>\n")
    self.body.append("</nav>\n")
    raise nodes.SkipNode


def add_rules(app, page, template, context, doctree):
    """Let a lesson on the map, when pointed at, light up what it needs and what builds on it, in every part."""
    if doctree is None or not any(doctree.findall(course_map)):
        return
    lessons = [lesson for part in app.course for lesson in part.lessons]
    rules = []
    for lesson in lessons:
        pointed = f".course-map:has(#{mark(lesson.id)}:is(:hover, :focus-visible))"
        needed = [f"#{mark(need)}" for need in lesson.needs]
        built = [f"#{mark(other.id)}" for other in lessons if lesson.id in other.needs]
        rules += [f"{pointed} :is({', '.join(needed)}) {{ background: var(--book-needed); }}"] if needed else []
        rules += [f"{pointed} :is({', '.join(built)}) {{ outline: 2px dashed var(--book-arc); }}"] if built else []
    context["metatags"] = context.get("metatags", "") + f"<style>\n{chr(10).join(rules)}\n</style>\n"
