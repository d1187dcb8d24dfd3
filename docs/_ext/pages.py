"""Make the page of a lesson from its text and from the outputs of its last run, so that a changed sentence runs nothing.

Sphinx-Gallery makes the pages, but executes none of them: it leaves alone what is marked as done, which are the pages that
a run has just made, and those of which nothing changed. The others are made without outputs, which are then put in.
"""

import json
import re
from pathlib import Path

import sources
from sphinx_gallery.utils import get_md5sum, scale_image

PIECE = re.compile(r"^(?=\.\. GENERATED FROM PYTHON SOURCE LINES \d+-\d+$)", flags=re.M)
FOOT = "\n.. _sphx_glr_download_"


def setup(app):
    """Connect to the build, around Sphinx-Gallery's pass at 500."""
    app.connect("config-inited", configure)
    app.connect("builder-inited", mark_done, priority=450)
    app.connect("builder-inited", put_outputs, priority=550)
    return {"parallel_read_safe": True}


def configure(app, config):
    """Have Sphinx-Gallery run nothing, and accept a checkout in a path with spaces: no lesson's own name has any."""
    config.plot_gallery = "False"
    config.suppress_warnings = [*config.suppress_warnings, "sphinx_gallery.space_in_filename"]


def read_record(app, lesson):
    """Return what the last run of a lesson wrote down, or None."""
    path = Path(app.srcdir, f"{lesson.docname}.record.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path, record):
    """Write a record whole or not at all, however the build ends."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def write_new(path, text):
    """Write a file on which pages depend, unless it says so already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def is_rewritten(app, lesson):
    """Return whether the text of a lesson is not that of its page any more."""
    record = read_record(app, lesson) or {}
    return "text" in record and record["text"] != sources.file(lesson.path)


def mark_done(app):
    """Mark each page that Sphinx-Gallery need not make."""
    changed = [lesson for lesson in app.picked if is_rewritten(app, lesson)]
    for lesson in app.lessons:
        page = Path(app.srcdir, f"{lesson.docname}.rst")
        mark = page.with_suffix(".py.md5")
        mark.unlink(missing_ok=True)
        if page.exists() and lesson not in changed:
            mark.write_text(get_md5sum(lesson.path, mode="t"))


def put_outputs(app):
    """Put the outputs of the last run into each page that was made without."""
    for lesson in (lesson for lesson in app.picked if is_rewritten(app, lesson)):
        page, record = Path(app.srcdir, f"{lesson.docname}.rst"), read_record(app, lesson)
        parts = pieces(page.read_text(encoding="utf-8"), sources.cells(lesson.path))
        page.chmod(0o644)  # Sphinx-Gallery warns writers off
        page.write_text(joined(*parts, record["outputs"]), encoding="utf-8")
        size = app.config.sphinx_gallery_conf["thumbnail_size"]
        problems = choose_thumbnail(page, lesson.thumbnail, size)
        record |= {"text": sources.file(lesson.path), "problems": problems}
        write(page.with_suffix(".record.json"), record)


def pieces(page, blocks):
    """Return what comes before the first cell, what stands for each cell, text or code, and what comes after the last."""
    body, foot, end = page.partition(FOOT)
    head, *parts = PIECE.split(body)
    return head, list(zip(blocks[1:], parts, strict=False)), foot + end


def joined(head, parts, foot, outputs):
    """Return a page in which each cell of code is as a run left it, with its output."""
    outputs = iter(outputs)
    return head + "".join(next(outputs) if block.type == "code" else part for block, part in parts) + foot


def choose_thumbnail(page, number, size):
    """Put the figure that a lesson chose for lists in the place of the first; return what is wrong with its choice."""
    images, stem = page.parent / "images", f"sphx_glr_{page.stem}"
    figure = next(images.glob(f"{stem}_{number:03}.*"), None)
    if number == 1:
        return []
    if figure is None:
        return [f"draws no figure {number}, which ':thumbnail:' names"]
    for first in images.glob(f"thumb/{stem}_thumb.*"):
        first.unlink()
    scale_image(figure, images / "thumb" / f"{stem}_thumb{figure.suffix}", *size)
    return []
