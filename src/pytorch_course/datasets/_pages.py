"""Document pages as real PDF files, with the exact kind, regions and facts of each, and a reader of any PDF."""

import random
from dataclasses import dataclass, field
from io import BytesIO
from math import ceil, floor
from pathlib import Path

import torch
from torch.nn import functional as F

from pytorch_course.datasets._layouts import LAYOUTS
from pytorch_course.datasets._samples import DatasetError, Samples, at_least
from pytorch_course.datasets._sheet import Box, Sheet

KINDS = tuple(LAYOUTS)
REGIONS = ("background", "title", "text", "table", "figure")
"""What a pixel of a page can belong to. The position is its value in a mask."""

_MOST_REGIONS, _MOST_PIXELS, _FINER, _BLOCK = 24, 100_000_000, 3, 50


@dataclass(frozen=True)
class Page:
    """One page: its ``kind``, the ``pdf`` file, ``width`` and ``height`` in points (1/72 inch), and what is on it.

    A kind is letter, invoice, article, table or form. ``regions`` has of every region its label out of ``REGIONS`` and
    the box around its ink, as left, top, right, bottom in points from the top left corner; no two overlap. ``facts``
    has texts of an invoice, each with its box: ``number``, ``date`` and ``total``.
    """

    kind: str
    pdf: bytes = field(repr=False)
    width: float
    height: float
    regions: tuple[tuple[str, Box], ...]
    facts: dict[str, tuple[str, Box]]


def page(index: int, *, seed: int = 0, kind: str | None = None) -> Page:
    """Draw page number `index`: a pure function of its arguments, down to the bytes of the file.

    The text is words without sense, in fonts that Matplotlib ships; the amounts of an invoice add up. The `kind` is
    random by default, and one that does not exist raises a ValueError. Use another seed for test data.

    Examples
    --------
    >>> invoice = page(3, kind="invoice")
    >>> sorted(invoice.facts), [label for label, box in invoice.regions].count("table")
    (['date', 'number', 'total'], 1)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    pdf, [(kind, sheet)] = _draw(range(index, index + 1), seed, kind)
    return Page(kind, pdf, sheet.width, sheet.height, tuple(sheet.regions), sheet.facts)


def _draw(indices: range, seed: int, only: str | None = None) -> tuple[bytes, list[tuple[str, Sheet]]]:
    """One file of some pages, as each file embeds its fonts; and of each page its kind and what lies where."""
    from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

    file, drawn = BytesIO(), []
    canvas = Canvas(file, bottomup=0, invariant=1, pageCompression=0)  # invariant: no date, no random identifier
    for index in indices:
        rng = random.Random(f"pages {seed} {index}")
        kind, sheet = rng.choice(KINDS), Sheet(canvas, rng)
        LAYOUTS[only or kind](sheet)
        drawn.append((only or kind, sheet))
        canvas.showPage()
    canvas.save()
    return file.getvalue(), drawn


def pages(n: int, *, size: int = 128, seed: int = 0) -> Samples:
    """Draw `n` pages and render them in squares of `size` pixels, at least 64: to classify, to segment, to detect.

    Sample i is ``page(i, seed=seed)`` as :func:`render` shows it. An argument out of range raises a ValueError.

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

    Examples
    --------
    >>> pages(4).classes
    ('letter', 'invoice', 'article', 'table', 'form')
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
        pdf, drawn = _draw(range(start, min(n, start + _BLOCK)), seed)
        for i, ((kind, sheet), image) in enumerate(zip(drawn, render(pdf, size=size), strict=True), start):
            columns["image"][i], columns["label"][i], columns["count"][i] = image, KINDS.index(kind), len(sheet.regions)
            for k, (label, ends) in enumerate(sheet.regions):
                left, top, right, bottom = box = [size / sheet.height * end for end in ends]
                columns["box"][i, k], columns["region"][i, k] = torch.tensor(box), REGIONS.index(label)
                columns["mask"][i, floor(top) : ceil(bottom), floor(left) : ceil(right)] = REGIONS.index(label)
    return Samples("pages", columns, classes=KINDS)


def render(pdf: bytes | str | Path, *, size: int = 128, dpi: float | None = None) -> list[torch.Tensor]:
    """Turn a PDF, its bytes or its path, into grey images: one uint8 [1, H, W] per page, 0 (black) to 255 (paper).

    A page is fitted into a square of `size` pixels and lies at its top left: a point is ``size / max(width, height)``
    pixels long, and the rest of the square is white. With `dpi`, pixels per inch, an image has the shape of the page.
    150 is enough to read a letter. Edges are exact to about a third of a pixel, or to one pixel with `dpi`. Fields of a
    form are drawn as they are filled in. PDFium, the renderer, must be used from one thread at a time. A size or dpi
    that is not positive raises a ValueError.

    Raises
    ------
    DatasetError
        If the file is missing, damaged, empty or locked by a password, or its images have over 100 million pixels.

    Examples
    --------
    >>> render(page(0).pdf)[0].shape
    torch.Size([1, 128, 128])
    """
    at_least(size=(size, 1))
    if dpi is not None and dpi <= 0:
        raise ValueError(f"dpi is {dpi}, expected a positive number")
    import pypdfium2

    name = f"the PDF of {len(pdf)} bytes" if isinstance(pdf, bytes) else str(pdf)
    try:
        with pypdfium2.PdfDocument(pdf) as document:
            document.init_forms()
            sizes = [document.get_page_size(k) for k in range(len(document))]
            scales = [dpi / 72 if dpi else _FINER * size / max(ends) for ends in sizes]
            pixels = sum(width * height * scale**2 for (width, height), scale in zip(sizes, scales, strict=True))
            if pixels > _MOST_PIXELS:
                raise DatasetError(f"{name} would have {pixels:,.0f} pixels: choose a smaller size or dpi")
            drawn = [document[k].render(scale=scale, grayscale=True).to_numpy() for k, scale in enumerate(scales)]
            grids = [torch.from_numpy(grid.copy()).reshape(1, *grid.shape[:2]) for grid in drawn]
    except FileNotFoundError:
        raise DatasetError(f"{name} is no file") from None
    except pypdfium2.PdfiumError as error:
        # PDFium may report the reason of an earlier failure, so its word is not enough.
        text = f"cannot read {name}: it is damaged, has no pages or is locked by a password ({error})"
        raise DatasetError(text) from error
    if dpi:
        return grids
    # Drawn finer first, so that small text is an even grey.
    squares = [F.pad(g, (0, _FINER * size - g.shape[2], 0, _FINER * size - g.shape[1]), value=255) for g in grids]
    return [F.avg_pool2d(square.float(), _FINER).round_().to(torch.uint8) for square in squares]
