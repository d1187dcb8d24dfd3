"""Configuration of the book: strings and plain data only, so that Sphinx can cache what it builds."""

import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext")]

project = "PyTorch in Practice"
author = "the PyTorch in Practice maintainers"
copyright = "2026, the PyTorch in Practice maintainers. Text: CC BY 4.0, code: BSD-3-Clause"
language = "en"
release = re.search(r'__version__ = "(.*)"', (HERE.parent / "src/pytorch_course/__init__.py").read_text())[1]

extensions = [
    "harness",
    "fresh",
    "runner",
    "pages",
    "inventories",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxcontrib.katex",
    "proof",
    "wheel",
    "lesson_page",
    "cells",
    "notebooks",
    "course_map",
    "collected",
    "api_names",
    "used_in",
    "accessible",
    "lean",
    "code_links",
]
exclude_patterns = [
    "_build",
    "_ext",
    "_templates",
    "lessons/**.ipynb",
    "sg_execution_times.rst",
    "**/sg_execution_times.rst",
]
templates_path = ["_templates"]
nitpicky = True
nitpick_ignore = [("py:class", "pytorch_course.distributed.T")]  # a type variable has no page
keep_warnings = False
smartquotes = True
default_role = "code"
rst_epilog = ""

# The book: parts in reading order. A folder of gallery/ that is not here, or the other way round, stops the build.
book_parts = ["tensors", "optimization", "networks", "training", "distributed", "deployment"]
book_only = os.environ.get("BOOK_ONLY", "").split()
book_libraries = ["torch", "torchvision", "sklearn.datasets", "pandas", "matplotlib.pyplot"]  # loaded once for all
book_seconds = {
    "distributed": 120,
    "vision": 120,
    "text": 120,
    "deployment": 120,
}  # of CPU time, at which one is stopped

sphinx_gallery_conf = {
    "examples_dirs": [f"../gallery/{part}" for part in book_parts],
    "gallery_dirs": [f"lessons/{part}" for part in book_parts],
    "ignore_pattern": r"__init__",
    "copyfile_regex": r"index\.rst",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": ("_repr_html_",),
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "remove_config_comments": True,
}

nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "chapters")
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 120
nb_output_stderr = "warn"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_rtype = True
napoleon_use_ivar = True
napoleon_preprocess_types = True
napoleon_attr_annotations = False  # it writes into autodoc_type_aliases, and each build would read all pages again
napoleon_type_aliases = {  # short words of the docstrings, and where they lead
    "Dataset": "torch.utils.data.Dataset",
    "DataLoader": "torch.utils.data.DataLoader",
    "Path": "pathlib.Path",
    "Samples": "pytorch_course.datasets.Samples",
    "Subset": "torch.utils.data.Subset",
    "Tensor": "torch.Tensor",
    "TrainState": "pytorch_course.state.TrainState",
    "World": "pytorch_course.distributed.World",
    "callable": ":class:`callable <collections.abc.Callable>`",
    "iterable": ":class:`iterable <collections.abc.Iterable>`",
    "iterator": ":class:`iterator <collections.abc.Iterator>`",
    "mapping": ":class:`mapping <collections.abc.Mapping>`",
    "path": ":class:`path <pathlib.Path>`",
    "sequence": ":class:`sequence <collections.abc.Sequence>`",
}

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

katex_css_path = "katex.css"  # KaTeX writes MathML here, so neither its style sheet nor its fonts are needed
katex_options = "output: 'mathml', throwOnError: true"

html_theme = "furo"
html_title = "PyTorch in Practice"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = []
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_search_summary = False
html_permalinks_icon = "#"
html_baseurl = os.environ.get("BOOK_URL", "")
html_additional_pages = {"404": "404.html"}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {
        "color-brand-primary": "#0b5c94",
        "color-brand-content": "#0b5c94",
        "color-brand-visited": "#5b4a9e",
    },
    "dark_css_variables": {
        "color-brand-primary": "#6cb8ee",
        "color-brand-content": "#6cb8ee",
        "color-brand-visited": "#b9a7f0",
    },
}
copybutton_exclude = ".linenos, .gp, .go"
suppress_warnings = ["config.cache"]
