"""Document pages as real PDF files, with the exact kind, regions and facts of each, and a reader of any PDF."""

import random
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from pytorch_course.datasets._layouts import LAYOUTS
from pytorch_course.datasets._samples import DatasetError, Samples, at_least
from pytorch_course.datasets._sheet import Box, Sheet, write

KINDS = tuple(LAYOUTS)
REGIONS = ("background", "title", "text", "table", "figure")
"""What a pixel of a page can belong to. The position is its value in a mask."""

_MOST_REGIONS, _MOST_PIXELS, _FINER, _BLOCK = 24, 100_000_000, 3, 50


@dataclass(frozen=True)
class Page:
    """One page and what is on it. Boxes are left, top, right, bottom in points (1/72 inch) from the top left corner.

    Parameters
    ----------
    kind : str
        ``letter``, ``invoice``, ``article``, ``table`` or ``form``.
    pdf : bytes
        The file, of one page. Write it with :meth:`pathlib.Path.write_bytes`, look at it with any PDF viewer.
    width, height : float
        In points: A4 or US letter, some tables in landscape.
    regions : tuple
        Of every region its label out of ``REGIONS`` and the box around its ink. No two boxes overlap.
    facts : dict
        Texts worth finding by name, each with its box: an invoice has ``number``, ``date`` and ``total``, others have none.
    """

    kind: str
    pdf: bytes = field(repr=False)
    width: float
    height: float
    regions: tuple[tuple[str, Box], ...]
    facts: dict[str, tuple[str, Box]]


def page(index: int, *, seed: int = 0, kind: str | None = None) -> Page:
    """Draw page number `index`: a pure function of its arguments, down to the bytes of the file.

    The text is English words without sense, set in the fonts that Matplotlib ships, which are embedded. An invoice adds
    up. Another version of Matplotlib or ReportLab may change the bytes.

    Parameters
    ----------
    index, seed : int
        Choose the page. Use another seed for test data.
    kind : str, optional
        One of the five. By default it is random, too.

    Raises
    ------
    ValueError
        If `kind` is none of the five.

    Examples
    --------
    >>> invoice = page(3, kind="invoice")
    >>> sorted(invoice.facts), [label for label, box in invoice.regions].count("table")
    (['date', 'number', 'total'], 1)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    kind, sheet = _compose(index, seed, kind)
    regions = tuple((region.label, region.box) for region in sheet.regions)
    return Page(kind, write([sheet]), sheet.width, sheet.height, regions, sheet.facts)


def _compose(index: int, seed: int, kind: str | None = None) -> tuple[str, Sheet]:
    rng = random.Random(f"pages {seed} {index}")
    drawn = rng.choice(KINDS)
    kind = kind or drawn
    sheet = Sheet(rng, turned=kind == "table" and rng.random() < 0.3)
    LAYOUTS[kind](sheet)
    return kind, sheet


def pages(n: int, *, size: int = 128, seed: int = 0) -> Samples:
    """Draw `n` pages and render them: for classification, segmentation and detection.

    Sample i is ``page(i, seed=seed)``, whatever `n` is, fitted into a square: see :func:`render`.

    Parameters
    ----------
    n : int
        Number of pages.
    size : int
        Height and width of an image in pixels, at least 64.
    seed : int
        Chooses the pages.

    Returns
    -------
    Samples
        ``image`` uint8 [n, 1, size, size], 0 (black) to 255 (paper);
        ``mask`` uint8 [n, size, size], for each pixel the position in ``REGIONS``. A region is the rectangle around its
        ink, and has every pixel that this touches;
        ``box`` float32 [n, 24, 4], the rectangles as left, top, right, bottom in pixels, not rounded;
        ``region`` int64 [n, 24], the position of each in ``REGIONS``;
        ``count`` int64 [n], how many regions there are. Rows beyond it are 0;
        ``label`` int64 [n], the position in ``classes``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> pages(20)
    pages: 20 samples
      image    uint8 [1, 128, 128], 20 to 255
      mask     uint8 [128, 128], 0 to 4
      box      float32 [24, 4], 0 to 118.7
      region   int64 [24], 0 to 4
      count    int64, 3 to 14
      label    int64, 0 to 4
      classes  letter, invoice, article, table, form
    """
    at_least(n=(n, 0), size=(size, 64))
    columns = {
        "image": torch.empty(n, 1, size, size, dtype=torch.uint8),
        "mask": torch.zeros(n, size, size, dtype=torch.uint8),
        "box": torch.zeros(n, _MOST_REGIONS, 4),
        "region": torch.zeros(n, _MOST_REGIONS, dtype=torch.int64),
        "count": torch.empty(n, dtype=torch.int64),
        "label": torch.empty(n, dtype=torch.int64),
    }
    for start in range(0, n, _BLOCK):
        drawn = [_compose(i, seed) for i in range(start, min(n, start + _BLOCK))]
        images = render(write([sheet for _, sheet in drawn]), size=size)  # one file, as each embeds its fonts
        for i, ((kind, sheet), image) in enumerate(zip(drawn, images, strict=True), start):
            scale = size / max(sheet.width, sheet.height)
            columns["image"][i], columns["label"][i], columns["count"][i] = image, KINDS.index(kind), len(sheet.regions)
            for k, region in enumerate(sheet.regions):
                left, top, right, bottom = box = [scale * end for end in region.box]
                label = REGIONS.index(region.label)
                columns["box"][i, k], columns["region"][i, k] = torch.tensor(box), label
                columns["mask"][i, floor(top) : ceil(bottom), floor(left) : ceil(right)] = label
    return Samples("pages", columns, classes=KINDS)


def render(
    pdf: bytes | str | Path, *, size: int = 128, dpi: float | None = None, max_pages: int = 100
) -> list[torch.Tensor]:
    """Turn the pages of any PDF into images, in greys.

    By default a page is fitted into a square and lies at its top left, so a point is ``size / max(width, height)``
    pixels long, and the rest of the square is white. With `dpi` an image has the shape of the page, and a point is
    ``dpi / 72`` pixels long. Edges are exact to about a third of a pixel, or to one pixel with `dpi`. Fields of a form
    are drawn as they are filled in. PDFium, the renderer, must be used from one thread at a time.

    Parameters
    ----------
    pdf : bytes, str or Path
        What is in the file, or where it lies.
    size : int
        Height and width of an image in pixels, if there is no `dpi`.
    dpi : float, optional
        Pixels per inch. 150 is enough to read a letter.
    max_pages : int
        Most pages that the file may have.

    Returns
    -------
    list of Tensor
        One uint8 [1, H, W] per page, 0 (black) to 255 (paper).

    Raises
    ------
    DatasetError
        If the file is missing, damaged, empty or locked by a password, has too many pages, or its images would have
        more than 100 million pixels together.
    ValueError
        If `size`, `dpi` or `max_pages` is not positive.

    Examples
    --------
    >>> pdf = page(0, kind="article").pdf
    >>> render(pdf)[0].shape, render(pdf, dpi=72)[0].shape
    (torch.Size([1, 128, 128]), torch.Size([1, ..., ...]))
    """
    at_least(size=(size, 1), max_pages=(max_pages, 1))
    if dpi is not None and dpi <= 0:
        raise ValueError(f"dpi is {dpi}, expected a positive number")
    import pypdfium2

    name = f"the PDF of {len(pdf)} bytes" if isinstance(pdf, bytes) else str(pdf)
    try:
        with pypdfium2.PdfDocument(pdf) as document:
            document.init_forms()
            sizes = [document.get_page_size(k) for k in range(min(len(document), max_pages + 1))]
            scales = [dpi / 72 if dpi else _FINER * size / max(ends) for ends in sizes]
            pixels = sum(width * height * scale**2 for (width, height), scale in zip(sizes, scales, strict=True))
            if len(sizes) > max_pages:
                raise DatasetError(f"{name} has {len(document)} pages, more than max_pages, which is {max_pages}")
            if pixels > _MOST_PIXELS:
                raise DatasetError(f"{name} would have {pixels:,.0f} pixels: choose a smaller size or dpi")
            return [_raster(document[k], size, scale, not dpi) for k, scale in enumerate(scales)]
    except FileNotFoundError:
        raise DatasetError(f"{name} is no file") from None
    except pypdfium2.PdfiumError as error:
        # PDFium may report the reason of an earlier failure, so its word is not enough.
        text = f"cannot read {name}: it is damaged, has no pages or is locked by a password ({error})"
        raise DatasetError(text) from error


def _raster(page: Any, size: int, scale: float, square: bool) -> torch.Tensor:
    """One page as uint8 [1, H, W]. A square is drawn finer first, so that small text is an even grey."""
    grid = torch.from_numpy(page.render(scale=scale, grayscale=True).to_numpy().copy())
    grid = grid.reshape(1, *grid.shape[:2])
    if not square:
        return grid
    side = _FINER * size
    grid = grid[:, :side, :side].float()
    grid = F.pad(grid, (0, side - grid.shape[2], 0, side - grid.shape[1]), value=255.0)
    return F.avg_pool2d(grid, _FINER).round_().to(torch.uint8)
