"""Run again exactly what a change can have changed, and remove the pages of what is gone.

Sphinx-Gallery's and MyST-NB's caches look at the script or the notebook alone. Here a lesson or chapter is stale as soon as
anything it imports from ``src/`` changed, directly or not, or a library's version did.
"""

import json
import re
from pathlib import Path

from course import CourseError, Sources, read_course
from sphinx.errors import ConfigError

GENERATED = ("genindex", "py-modindex", "search", "404")


def setup(app):
    """Connect to the build."""
    app.add_config_value("book_parts", [], "env")
    app.add_config_value("book_only", [], "")
    app.connect("config-inited", read, priority=100)
    app.connect("builder-inited", forget_stale_lessons, priority=100)  # Sphinx-Gallery runs at 500
    app.connect("builder-inited", forget_stale_chapters, priority=100)
    app.connect("env-get-outdated", lambda app, *_: sorted(app.stale_chapters))
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}


def read(app, config):
    """Read the course from the gallery; what does not follow the order stops the build."""
    root = Path(app.srcdir).parent
    try:
        app.course = read_course(root / "gallery", config.book_parts)
    except CourseError as error:
        raise ConfigError(str(error)) from None
    app.sources = Sources(root / "src")
    app.stale_chapters = set()
    names = [lesson.id for part in app.course for lesson in part.lessons] + sorted(chapters(app))
    unknown = [only for only in config.book_only if not any(name.startswith(only) for name in names)]
    if unknown:
        raise ConfigError(f"no lesson or chapter begins with {', '.join(unknown)}; there are: {', '.join(names)}")


def chapters(app):
    """Return every executed MyST page and the code of its cells."""
    found = {}
    for path in (*Path(app.srcdir).glob("*.md"), *Path(app.srcdir).glob("*/*.md")):
        cells = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        code = "\n".join(re.sub(r"\A(---\n.*?---\n|(:.*\n)*)", "", cell, flags=re.S) for cell in cells)
        if cells:
            found[path.relative_to(app.srcdir).with_suffix("").as_posix()] = code
    return found


def forget_stale_lessons(app):
    """Delete Sphinx-Gallery's mark of lessons whose record is of other sources, and all files of deleted lessons."""
    target = Path(app.srcdir) / "lessons"
    lessons = {lesson.id: lesson for part in app.course for lesson in part.lessons}
    for name, lesson in lessons.items():
        record = target / f"{name}.record.json"
        facts = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
        if facts.get("problems", True) or facts["key"] != app.sources.key(lesson.path.read_text(encoding="utf-8")):
            (target / f"{name}.py.md5").unlink(missing_ok=True)
            record.unlink(missing_ok=True)
            for picture in (target / lesson.part / "images").rglob(f"sphx_glr_{lesson.path.stem}_*"):
                picture.unlink()
    for path in target.glob("*/**/*"):
        stem = re.match(r"(?:sphx_glr_)?(\d\d_[a-z0-9_]+?)(?:_codeobj|_\d{3}|_thumb|\.|$)", path.name)
        if path.is_file() and stem and f"{path.relative_to(target).parts[0]}/{stem[1]}" not in lessons:
            path.unlink()
    for folder in target.glob("*"):
        if folder.is_dir() and folder.name not in app.config.book_parts:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()


def forget_stale_chapters(app):
    """Drop the cached outputs of chapters whose imports changed, and have Sphinx read them again."""
    known = _chapter_keys(app)
    old = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
    app.chapter_keys = {name: app.sources.key(code) for name, code in chapters(app).items()}
    app.stale_chapters = {name for name, key in app.chapter_keys.items() if old.get(name) != key}
    cache_path = Path(app.config.nb_execution_cache_path)
    if app.stale_chapters and cache_path.exists():
        from jupyter_cache import get_cache

        cache = get_cache(cache_path)
        for record in cache.list_cache_records():
            if Path(record.uri).relative_to(app.srcdir).with_suffix("").as_posix() in app.stale_chapters:
                cache.remove_cache(record.pk)


def _chapter_keys(app):
    return Path(app.config.nb_execution_cache_path) / "chapter_keys.json"


def finish(app, exception):
    """Remember the chapters' keys and delete the HTML of pages that no longer exist."""
    if exception or app.builder.format != "html":
        return
    known = _chapter_keys(app)
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(app.chapter_keys), encoding="utf-8")
    for page in Path(app.outdir).rglob("*.html"):
        name = page.relative_to(app.outdir).with_suffix("").as_posix()
        if name not in app.env.all_docs and name not in GENERATED and not name.startswith("_"):
            page.unlink()
