"""Put the package's wheel beside the downloads, make of each script what its reader runs, and list the pages for machines."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

from course import stub
from docutils import nodes
from lesson_page import INSTALL

HEADER = """\
# A lesson of PyTorch in Practice. Run it as it is: python {name}
# It needs its helper package, which lies beside it on the page you took it from:
#   {install}

"""
FIGURES = """
# %%
# Show the figures, where there is a window to show them in.

import matplotlib.pyplot as plt

if plt.get_backend().lower() != "agg":
    plt.show()
"""


def setup(app):
    """Connect to the build."""
    app.connect("builder-inited", build_wheel)
    app.connect("doctree-read", note_goal, priority=900)
    app.connect("build-finished", place_downloads)
    app.connect("build-finished", list_pages)
    return {"parallel_read_safe": True, "env_version": 1}


def build_wheel(app):
    """Build the wheel, unless the one there is of the same sources."""
    root = Path(app.srcdir).parent
    folder = Path(app.outdir).parent / "wheel"
    digest = hashlib.sha256()
    for path in [root / "pyproject.toml", *sorted((root / "src").rglob("*"))]:
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    mark = folder / "sources.sha256"
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
        mark.write_text(digest.hexdigest())
    app.wheel_path = next(folder.glob("*.whl"))
    app.wheel = app.wheel_path.name


def place_downloads(app, exception):
    """Copy the wheel next to the downloads; give every script its install line, stubs for solutions, and its figures."""
    if exception or app.builder.format != "html":
        return
    downloads = Path(app.outdir) / "_downloads"
    downloads.mkdir(exist_ok=True)
    shutil.copy(app.wheel_path, downloads)
    install = INSTALL.format(version=app.wheel.split("-")[1])
    for lesson in (lesson for part in app.course for lesson in part.lessons):
        text = HEADER.format(name=lesson.path.name, install=install) + stub(lesson.path.read_text(encoding="utf-8"))
        images = Path(app.srcdir, "lessons", lesson.part, "images")
        text += FIGURES if any(images.glob(f"sphx_glr_{lesson.path.stem}_001.*")) else ""
        places = {kind: downloads / app.env.dlfiles[Path(f"{lesson.docname}.{kind}")][1] for kind in ("py", "ipynb")}
        places["py"].write_text(text, encoding="utf-8")
        shutil.copy(
            Path(app.srcdir, f"{lesson.docname}.ipynb"), places["ipynb"]
        )  # Sphinx copied it before the page was written


def note_goal(app, doctree):
    """Keep the first paragraph of a page, which says what the page is for."""
    goal = next((paragraph.astext() for paragraph in doctree.findall(nodes.paragraph)), "")
    app.env.metadata[app.env.docname]["goal"] = " ".join(goal.split())


def list_pages(app, exception):
    """Write ``llms.txt``, each page with its goal, and ``sitemap.xml``, where the address of the book is known."""
    if exception or app.builder.format != "html":
        return
    env, root = app.env, app.config.root_doc
    base = app.config.html_baseurl and app.config.html_baseurl.rstrip("/") + "/"
    pages = {name: base + app.builder.get_target_uri(name) for name in sorted(env.found_docs)}

    def below(name):
        yield name
        for child in env.toctree_includes.get(name, []):
            yield from below(child)

    lines = [f"# {app.config.project}\n\n> {env.metadata[root]['goal']}\n"]
    for part in env.toctree_includes[root]:
        lines.append(f"\n## {env.titles[part].astext()}\n\n")
        lines += [
            f"- [{env.titles[name].astext()}]({pages[name]}): {env.metadata[name]['goal']}\n" for name in below(part)
        ]
    Path(app.outdir, "llms.txt").write_text("".join(lines), encoding="utf-8")
    sitemap = Path(app.outdir, "sitemap.xml")
    sitemap.unlink(missing_ok=True)
    if base:
        head = '<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        urls = "".join(f"<url><loc>{escape(page)}</loc></url>\n" for page in pages.values())
        sitemap.write_text(f"{head}{urls}</urlset>\n", encoding="utf-8")
