"""Fail the build unless every lesson and chapter ran; write ``lessons.json`` from the runs themselves."""

import json
import time
from pathlib import Path

import pages
from course import Lesson
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)


def setup(app):
    """Connect to the build."""
    app.connect("builder-inited", lambda app: setattr(app, "build_started", time.time()), priority=1)
    app.connect("builder-inited", read_records, priority=900)  # after Sphinx-Gallery has run the lessons
    app.connect("env-get-outdated", outdated)
    app.connect("env-check-consistency", check_chapters)
    app.connect("build-finished", write_proof)
    app.add_directive("timings", Timings)
    return {"parallel_read_safe": True, "env_version": 1}


def problems_of(lesson: Lesson, record: dict | None) -> list[str]:
    """Return why a lesson's record does not prove that it ran."""
    if record is None or (record["cells"] == 0 and not record["problems"]):
        return ["was not run: it holds no code, or the build left it out"]
    unfound = [] if lesson.keywords else ["'.. lesson::' has no ':keywords:', by which the search finds the page"]
    return [*record["problems"], *unfound]


def read_records(app):
    """Read what every run wrote; complain about each lesson that has no good record."""
    app.records = {lesson.id: pages.read_record(app, lesson) for lesson in app.lessons}
    app.unproved = False
    for lesson in app.picked:
        for problem in problems_of(lesson, app.records[lesson.id]):
            app.unproved = True
            logger.warning("%s: %s", lesson.path, problem, type="lesson")
    times = [(name, record and record["at"]) for name, record in app.records.items()]
    pages.write_new(times_of(app), json.dumps(times))


def times_of(app):
    """Return the file that changes with every run: pages that show times depend on it."""
    return Path(app.srcdir, "lessons", "times.json")


def outdated(app, env, *_):
    """Read again the pages of lessons that ran."""
    ran = {f"lessons/{name}": record["at"] for name, record in app.records.items() if record}
    before, env.book_ran = getattr(env, "book_ran", {}), ran
    return [name for name, at in ran.items() if before.get(name) != at]


def check_chapters(app, env):
    """Complain about each chapter whose cells did not run to their end."""
    for name in app.chapters:
        done = env.nb_metadata.get(name, {}).get("exec_data", {})
        if not done.get("succeeded"):
            app.unproved = True
            logger.warning("%s: the cells of this chapter did not run", env.doc2path(name), type="lesson")


def write_proof(app, exception):
    """Write ``lessons.json`` beside the pages, unless something in the book is unproved."""
    if exception or app.builder.format != "html" or app.unproved:
        return
    lessons = []
    for lesson in app.lessons:
        record = app.records[lesson.id]
        if record:
            facts = {key: record[key] for key in ("seconds", "cpu", "cells", "checks", "python", "torch")}
            now = record["at"] >= app.build_started
            lessons.append({"id": lesson.id, "title": lesson.title, **facts, "ran_now": now})
    chapters = [
        {"id": name, "seconds": round(app.env.nb_metadata[name]["exec_data"]["runtime"], 2)}
        for name in sorted(app.chapters)
        if app.env.nb_metadata.get(name, {}).get("exec_data")
    ]
    content = json.dumps({"lessons": lessons, "chapters": chapters}, indent=1)
    (Path(app.outdir) / "lessons.json").write_text(content + "\n", encoding="utf-8")


class Timings(SphinxDirective):
    """``.. timings::`` lists every lesson with its time, cells and checks."""

    def run(self):
        """Build the table from the records."""
        app = self.env.app
        self.env.note_dependency(times_of(app))
        head = ("Lesson", "Seconds", "CPU seconds", "Cells", "Checks passed", "Ran on")
        counted = ("seconds", "cpu", "cells", "checks")
        rows = []
        for lesson in app.lessons:
            record = app.records[lesson.id]
            if record:
                on = f"torch {record['torch']}, Python {record['python']}"
                rows.append((f":doc:`/{lesson.docname}`", *(record[name] for name in counted), on))
        totals = [round(sum(column), 1) for column in zip(*(row[1:-1] for row in rows), strict=True)]
        text = [".. list-table::", "   :header-rows: 1", "   :class: timings", ""]
        for row in (head, *rows, (f"{len(rows)} lessons", *totals, "")):
            text += [f"   {'*' if not i else ' '} - {cell}" for i, cell in enumerate(row)]
        return self.parse_text_to_nodes("\n".join(text))
