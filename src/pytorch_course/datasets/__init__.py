"""Data for the lessons, without a download: bundled real data, generated data, and loaders of public data sets.

Pictures come as :class:`Samples`, texts as lists of pairs.
"""

from pytorch_course.datasets._bundled import digits, photographs
from pytorch_course.datasets._dates import dates
from pytorch_course.datasets._glyphs import glyphs
from pytorch_course.datasets._pages import REGIONS, Page, page, pages, render
from pytorch_course.datasets._public import public
from pytorch_course.datasets._samples import DatasetError, Samples
from pytorch_course.datasets._shapes import shapes
from pytorch_course.datasets._text import docstrings, topics

__all__ = [
    "REGIONS", "DatasetError", "Page", "Samples", "dates", "digits", "docstrings", "glyphs", "page", "pages",
    "photographs", "public", "render", "shapes", "topics",
]  # fmt: skip
