"""Say what a change makes stale, and leave nothing behind of what is gone.

Sphinx-Gallery's and MyST-NB's caches look at the script or the notebook alone. Here a lesson or chapter is stale as soon as
anything changed that its last run depended on: see `sources`.
"""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pages
import sources
from course import CourseError, read_course
from jupyter_cache import get_cache
from sphinx.util import logging

GENERATED = ("genindex", "py-modindex", "search", "404")

logger = logging.getLogger(__name__)


def setup(app):
    """Connect to the build."""
    app.add_config_value("book_parts", [], "env")
    app.add_config_value("book_only", [], "")
    begin_again(app)
    app.connect("config-inited", read, priority=100)
    app.connect("builder-inited", lambda app: _unfinished(app).touch(), priority=0)
    app.connect("builder-inited", write_course, priority=90)
    app.connect("builder-inited", forget_stale_lessons, priority=100)  # Sphinx-Gallery runs at 500
    app.connect("builder-inited", forget_stale_chapters, priority=100)
    app.connect("env-get-outdated", lambda app, *_: sorted(app.stale_chapters))
    app.connect("env-before-read-docs", lambda app, env, _: setattr(app, "order_before", _order(env)))
    app.connect("env-updated", lambda app, env: env.all_docs if _order(env) != app.order_before else [])
    app.connect("source-read", lambda app, name, _: _watch_chapter(app, name))
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True}


def _unfinished(app):
    return Path(app.outdir).parent / "unfinished"


def begin_again(app):
    """After a build that was killed, forget all pages: nobody knows which were written, or by halves. Outputs are kept."""
    if _unfinished(app).exists():
        shutil.rmtree(app.outdir, ignore_errors=True)
        Path(app.outdir).mkdir()
        for path in Path(app.doctreedir).glob("*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def read(app, config):
    """Read the course from the gallery; what does not follow the order ends the build, in words meant for its author."""
    root = Path(app.srcdir).parent
    try:
        app.course = read_course(root / "gallery", config.book_parts)
    except CourseError as error:
        sys.exit(str(error))
    app.lessons = [lesson for part in app.course for lesson in part.lessons]
    app.environment = sources.environment(config)
    app.chapters = sources.chapters(Path(app.srcdir))
    names = [lesson.id for lesson in app.lessons] + sorted(app.chapters)
    for only in config.book_only:
        if not any(name.startswith(only) for name in names):
            near = [name for name in names if name.startswith(only.partition("/")[0])] or names
            sys.exit(f"no lesson or chapter begins with {only}; there are {', '.join(near)}")
    only = tuple(config.book_only) or ("",)
    app.picked = [lesson for lesson in app.lessons if lesson.id.startswith(only)]


def write_course(app):
    """Write down what the lessons say of themselves: the pages that list lessons depend on the file."""
    facts = [asdict(lesson) | {"path": lesson.id} for lesson in app.lessons]
    pages.write_new(Path(app.srcdir, "lessons", "course.json"), json.dumps(facts, indent=1))


def _order(env):
    """Return what every page shows of the others: their titles and their order."""
    return {name: title.astext() for name, title in env.titles.items()}, dict(env.toctree_includes)


def forget_stale_lessons(app):
    """Delete what the last run of each stale lesson left, if it is to run now, and all files of deleted lessons."""
    target, root = Path(app.srcdir) / "lessons", Path(app.srcdir).parent
    app.stale_lessons = [lesson for lesson in app.picked if _is_stale(app, lesson, root)]
    keep = {lesson.id for lesson in app.lessons} - {lesson.id for lesson in app.stale_lessons}
    for path in target.glob("*/**/*"):
        stem = re.match(r"(?:sphx_glr_)?(\d\d_[a-z0-9_]+?)(?:_codeobj|_\d{3}|_thumb|\.|$)", path.name)
        if path.is_file() and stem and f"{path.relative_to(target).parts[0]}/{stem[1]}" not in keep:
            path.unlink()
    for folder in target.glob("*"):
        if folder.is_dir() and folder.name not in app.config.book_parts:
            shutil.rmtree(folder)


def _is_stale(app, lesson, root):
    made = pages.read_record(app, lesson) or {}
    if made.get("environment") != app.environment or made["problems"]:
        return True
    page = Path(app.srcdir, f"{lesson.docname}.rst")
    moved = made["shows_lines"] and made["text"] != sources.file(lesson.path)
    code = sources.code_of_lesson(sources.cells(lesson.path))
    return moved or made["code"] != code or not page.exists() or not sources.is_current(made, root)


def forget_stale_chapters(app):
    """Drop the cached outputs of stale chapters, and have Sphinx read them again."""
    app.chapter_cache = Path(app.config.nb_execution_cache_path)
    root, cache = Path(app.srcdir).parent, _open_cache(app.chapter_cache)
    keys = app.chapter_cache / "keys.json"
    old = json.loads(keys.read_text(encoding="utf-8")) if keys.exists() else {}
    app.chapter_keys = {
        name: {"environment": app.environment, "code": sources.digest(*code)} for name, code in app.chapters.items()
    }
    records = [(record, Path(record.uri).with_suffix("").as_posix()) for record in cache.list_cache_records()]
    for name, now in app.chapter_keys.items():
        made = old.get(name, {"files": {}})
        cached = any(path.endswith(f"/{name}") for _, path in records)  # a run that failed leaves no record
        if cached and made == now | {"files": made["files"]} and sources.is_current(made, root):
            app.chapter_keys[name] = made
    app.stale_chapters = {name for name, key in app.chapter_keys.items() if "files" not in key}
    for record, path in records:
        if any(path.endswith(f"/{name}") for name in app.stale_chapters):
            cache.remove_cache(record.pk)
    for name in app.stale_chapters:
        _journal(app, name).unlink(missing_ok=True)


def _open_cache(path):
    """Return MyST-NB's cache; one that a killed build left in pieces is emptied."""
    cache = get_cache(path)
    try:
        for record in cache.list_cache_records():
            cache.get_cache_bundle(record.pk)
    except Exception:  # by the database, the file system or the format of notebooks
        shutil.rmtree(path)
        cache = get_cache(path)
    return cache


def _journal(app, name):
    return Path(app.outdir).parent / "runs" / f"{name}.journal"


def _watch_chapter(app, name):
    """Have the kernel of a chapter note what it opens."""
    if name in app.chapters:
        _journal(app, name).parent.mkdir(parents=True, exist_ok=True)
        _journal(app, name).touch()
        os.environ["BOOK_JOURNAL"] = str(_journal(app, name))


def finish(app, exception):
    """Remember what the chapters were made from, and delete the files of pages and pictures that no longer exist."""
    for name in app.stale_chapters:
        if _journal(app, name).exists():
            app.chapter_keys[name]["files"] = sources.files_read(_journal(app, name), Path(app.srcdir).parent)
    pages.write(
        app.chapter_cache / "keys.json", {name: key for name, key in app.chapter_keys.items() if "files" in key}
    )
    if exception:
        if app.env.current_document.docname:
            logger.error("%s: reading this page failed", app.env.doc2path(app.env.docname))
        return
    if app.builder.format == "html":
        _prune(app)
    _unfinished(app).unlink()


def _prune(app):
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        name = page.relative_to(out).with_suffix("").as_posix()
        if name not in app.env.all_docs and name not in GENERATED and not name.startswith("_"):
            page.unlink()
    shown = {out / "_images" / name for _, name in app.env.images.values()}
    shown |= {out / "_downloads" / name for _, name in app.env.dlfiles.values()}
    for path in (*out.glob("_images/*"), *out.glob("_downloads/*/*")):
        if path not in shown:
            path.unlink()
