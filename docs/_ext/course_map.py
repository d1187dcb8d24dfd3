"""The course drawn from its own lessons: the map on the first page and the list on each part's page."""

from html import escape

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

WIDTH, LEFT, BOX, HEIGHT, GAP, BETWEEN = 760, 170, 184, 44, 14, 22
COLUMNS = 3


def setup(app):
    """Register the directives."""
    app.add_node(course_map, html=(visit_map, None), gettext=(_skip, None), text=(_skip, None))
    app.add_directive("course-map", CourseMap)
    app.add_directive("lessons", PartLessons)
    return {"parallel_read_safe": True}


def _skip(visitor, node):
    raise nodes.SkipNode


class course_map(nodes.General, nodes.Element):
    """Stands for the drawing, which is made when the page is written."""


class CourseMap(SphinxDirective):
    """``.. course-map::`` draws every lesson of the book and what each needs."""

    def run(self):
        """Leave a mark; the titles are known only at the end."""
        return [course_map()]


class PartLessons(SphinxDirective):
    """``.. lessons::`` on a part's opening page lists its lessons and puts them into the sidebar."""

    def run(self):
        """Write the list as reST, so that titles and goals are translated like all text."""
        folder = self.env.docname.split("/")[1]
        part = next(part for part in self.env.app.course if part.path.name == folder)
        lines = [".. rst-class:: lesson-list", ""]
        for lesson in part.lessons:
            lines += [f"* :doc:`/{lesson.docname}`", "", f"  {lesson.goal}", ""]
        lines += [".. toctree::", "   :hidden:", "", *(f"   {lesson.path.stem}" for lesson in part.lessons)]
        return self.parse_text_to_nodes("\n".join(lines))


def place(course):
    """Return the middle of each part's band, the corner of each lesson's box, and the height of the drawing."""
    middles, corners, y = {}, {}, 4
    for part in course:
        rows = -(-len(part.lessons) // COLUMNS)
        for index, lesson in enumerate(part.lessons):
            row, column = divmod(index, COLUMNS)
            corners[lesson.id] = (LEFT + column * (BOX + GAP), y + row * (HEIGHT + GAP))
        middles[part.docname] = y + HEIGHT / 2
        y += rows * (HEIGHT + GAP) - GAP + BETWEEN
    return middles, corners, y - BETWEEN + 4


def wrap(title, width=25):
    """Break a title into at most two lines."""
    words, lines = title.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) + 1 > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines if len(lines) <= 2 else [lines[0], lines[1][: width - 2] + " …"]


def label(lines, x, y):
    """Return lines of text around the height y."""
    first = y + 4.5 - 8 * (len(lines) - 1)
    return "".join(
        f'<tspan x="{x}" y="{first + 16 * number}">{escape(line)}</tspan>' for number, line in enumerate(lines)
    )


def curve(start, end):
    """Return the path of one need, from the bottom of a box to the top of another."""
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        return f"M{x0 + BOX},{y0 + HEIGHT / 2} L{x1},{y1 + HEIGHT / 2}"
    x0, y0, x1 = x0 + BOX / 2, y0 + HEIGHT, x1 + BOX / 2
    half = (y1 - y0) / 2
    return f"M{x0},{y0} C{x0},{y0 + half} {x1},{y1 - half} {x1},{y1}"


def visit_map(self, node):
    """Write the drawing as SVG whose colours come from the theme and whose boxes are links."""
    builder, env = self.builder, self.builder.env
    here = builder.current_docname
    middles, corners, height = place(env.app.course)
    out = [f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" xmlns="http://www.w3.org/2000/svg">']
    for part in env.app.course:
        href = builder.get_relative_uri(here, part.docname)
        title = label(wrap(env.titles[part.docname].astext(), width=20), 4, middles[part.docname])
        out.append(f'<a href="{href}"><text class="part">{title}</text></a>')
    lessons = [lesson for part in env.app.course for lesson in part.lessons]
    for lesson in lessons:
        out += [f'<path class="need" d="{curve(corners[need], corners[lesson.id])}"/>' for need in lesson.needs]
    for lesson in lessons:
        x, y = corners[lesson.id]
        text = label(wrap(env.titles[lesson.docname].astext()), x + BOX / 2, y + HEIGHT / 2)
        href = builder.get_relative_uri(here, lesson.docname)
        out.append(
            f'<a href="{href}"><rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="8"/><text>{text}</text></a>'
        )
    name = "Course map: every lesson, with a line from each lesson to those that need it"
    self.body.append(f'<nav class="course-map" aria-label="{name}" tabindex="0">{"".join(out)}</svg></nav>\n')
    raise nodes.SkipNode
