"""Under each function of the helper package, list the lessons that use it."""

import json
from collections import defaultdict
from pathlib import Path

import api_names
from course_map import lesson_list

PAGES = "api/pytorch_course/"


def setup(app):
    """Connect to the build."""
    app.connect("autodoc-process-docstring", add_lessons)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "env_version": 1}


def add_lessons(app, what, name, obj, options, lines):
    """Append the list to a docstring."""
    pages = uses(app.env).get(name)
    if pages and what in ("function", "class"):
        lessons = [lesson for part in app.course for lesson in part.lessons if lesson.docname in pages]
        lines += ["", ".. rubric:: Lessons that use it", "", *lesson_list(Path(app.srcdir), lessons)]


def uses(env):
    """Return, for each full name of the package, the lessons that use it, in reading order."""
    if not hasattr(env, "temp_data_used_in") or env.temp_data_used_in[0] != api_names.digest(env):
        found = defaultdict(list)
        for lesson, path in api_names.records(env).items():
            code = json.loads(path.read_text(encoding="utf-8"))
            full = {f"{place}.{item['name']}" for items in code.values() for item in items for place in modules(item)}
            for name in sorted(full):
                found[name].append(lesson)
        env.temp_data_used_in = (api_names.digest(env), dict(found))
    return env.temp_data_used_in[1]


def modules(item):
    """Return the modules under which a name may be documented."""
    return {item["module"], item["module_short"]}


def outdated(app, env, *_):
    """Read the package's pages again when the lessons' names changed."""
    now = api_names.digest(env)
    before, env.used_in_digest = getattr(env, "used_in_digest", None), now
    return [page for page in env.found_docs if page.startswith(PAGES)] if now != before else []
