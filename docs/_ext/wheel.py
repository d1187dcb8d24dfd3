"""Put the package's wheel beside the downloads, and make of each script what its reader runs."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from course import stub
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
    app.connect("build-finished", place_downloads)
    return {"parallel_read_safe": True}


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
