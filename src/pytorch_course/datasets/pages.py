"""Document pages as real PDF files, with the exact kind, regions and facts of each, and a reader of any PDF."""

import random
from dataclasses import dataclass, field
from math import ceil, floor
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from pytorch_course.datasets import DatasetError
from pytorch_course.datasets._page_layouts import LAYOUTS
from pytorch_course.datasets._page_sheet import FAMILIES, Box, Region, Sheet, face
from pytorch_course.datasets.samples import Samples
from pytorch_course.rng import keyed

KINDS = tuple(LAYOUTS)
"""Names of the kinds of pages, in the order of their labels."""

REGIONS = ("background", "title", "text", "table", "figure")
"""What a pixel of a page can belong to. The position is its value in a mask."""

MAX_REGIONS = 24
"""No page has more regions than this."""

_FINER = 3
_MOST_PIXELS = 100_000_000


@dataclass(frozen=True)
class Page:
    """One page and what is on it. Boxes are left, top, right, bottom in points (1/72 inch) from the top left corner.

    Parameters
    ----------
    kind : str
        One of ``KINDS``.
    pdf : bytes
        The file, of one page. Write it with :meth:`pathlib.Path.write_bytes`, look at it with any PDF viewer.
    width, height : float
        In points: A4 or US letter, some tables in landscape.
    regions : tuple
        Of every region its label out of ``REGIONS`` and the box around its ink. No two boxes overlap.
    facts : dict
        Texts worth finding by name, each with its box: an invoice has ``number``, ``date`` and ``total``, other pages have none.

    Examples
    --------
    >>> value, box = page(3, kind="invoice").facts["total"]
    >>> value, [round(end) for end in box]
    ('8,271.59', [503, 452, 547, 460])
    """

    kind: str
    pdf: bytes = field(repr=False)
    width: float
    height: float
    regions: tuple[tuple[str, Box], ...]
    facts: dict[str, tuple[str, Box]]

    def mask(self, size: int = 128) -> torch.Tensor:
        """Paint the regions: uint8 [size, size], positions in ``REGIONS``, in the frame of :func:`render`."""
        mask = torch.zeros(size, size, dtype=torch.uint8)
        scale = size / max(self.width, self.height)
        for label, box in self.regions:
            left, top, right, bottom = (scale * end for end in box)
            mask[floor(top) : ceil(bottom), floor(left) : ceil(right)] = REGIONS.index(label)
        return mask


def page(index: int, *, seed: int = 0, kind: str | None = None) -> Page:
    """Draw page number `index`: a pure function of its arguments, down to the bytes of the file.

    The text is prose without sense in English words, set in the fonts that Matplotlib ships, which are embedded. So
    every reader draws it alike. An invoice adds up. Another version of Matplotlib or fontTools may change the bytes.

    Parameters
    ----------
    index, seed : int
        Choose the page. Use another seed for test data.
    kind : str, optional
        One of ``KINDS``. By default it is random, too.

    Returns
    -------
    Page
        The file, and what is on it.

    Raises
    ------
    ValueError
        If `kind` is none of ``KINDS``.

    Examples
    --------
    >>> letter = page(0, kind="letter")
    >>> letter.pdf[:8]
    b'%PDF-1.4'
    >>> [label for label, box in letter.regions][:4]
    ['figure', 'text', 'text', 'text']
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
    kind, sheet = _compose(index, seed, kind)
    regions = tuple((region.label, region.box) for region in sheet.regions)
    return Page(kind, _write(sheet, sheet.regions), sheet.width, sheet.height, regions, sheet.facts)


def _compose(index: int, seed: int, kind: str | None) -> tuple[str, Sheet]:
    with keyed("pages", seed, index):
        drawn = random.choice(KINDS)
        kind = kind or drawn
        sheet = Sheet(turned=kind == "table" and random.random() < 0.3)
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
        ``box`` float32 [n, K, 4], the rectangles as left, top, right, bottom in pixels, not rounded; K is
        ``MAX_REGIONS``;
        ``region`` int64 [n, K], the position of each in ``REGIONS``;
        ``count`` int64 [n], how many regions there are. Rows beyond it are 0;
        ``label`` int64 [n], the position in ``KINDS``.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> pages(20)
    pages: 20 samples
      image    uint8 [1, 128, 128], 25 to 255
      mask     uint8 [128, 128], 0 to 4
      box      float32 [24, 4], 0 to 123.3
      region   int64 [24], 0 to 4
      count    int64, 2 to 16
      label    int64, 0 to 4
      classes  letter, invoice, article, table, form
    """
    if n < 0 or size < 64:
        raise ValueError(f"need n >= 0 and size >= 64, but got {n=}, {size=}")
    columns = {
        "image": torch.empty(n, 1, size, size, dtype=torch.uint8),
        "mask": torch.empty(n, size, size, dtype=torch.uint8),
        "box": torch.zeros(n, MAX_REGIONS, 4),
        "region": torch.zeros(n, MAX_REGIONS, dtype=torch.int64),
        "count": torch.empty(n, dtype=torch.int64),
        "label": torch.empty(n, dtype=torch.int64),
    }
    for i in range(n):
        drawn = page(i, seed=seed)
        labels, boxes = zip(*drawn.regions, strict=True)
        columns["image"][i] = render(drawn.pdf, size=size)[0]
        columns["mask"][i] = drawn.mask(size)
        columns["box"][i, : len(boxes)] = torch.tensor(boxes) * (size / max(drawn.width, drawn.height))
        columns["region"][i, : len(boxes)] = torch.tensor([REGIONS.index(label) for label in labels])
        columns["count"][i], columns["label"][i] = len(boxes), KINDS.index(drawn.kind)
    return Samples("pages", columns, classes=KINDS)


def render(pdf: bytes | str | Path, *, size: int = 128, dpi: float | None = None) -> list[torch.Tensor]:
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

    Returns
    -------
    list of Tensor
        One uint8 [1, H, W] per page, 0 (black) to 255 (paper).

    Raises
    ------
    DatasetError
        If the file is missing, damaged, empty, locked by a password, or a page would have over 100 million pixels.
    ValueError
        If `size` or `dpi` is not positive.

    Examples
    --------
    >>> pdf = page(0, kind="article").pdf
    >>> render(pdf)[0].shape, render(pdf, dpi=72)[0].shape
    (torch.Size([1, 128, 128]), torch.Size([1, 792, 612]))
    """
    if size < 1 or (dpi is not None and dpi <= 0):
        raise ValueError(f"size and dpi must be positive, but got {size=}, {dpi=}")
    import pypdfium2

    name = f"the PDF of {len(pdf)} bytes" if isinstance(pdf, bytes) else str(pdf)
    try:
        with pypdfium2.PdfDocument(pdf) as document:
            document.init_forms()
            return [_raster(document[k], size, dpi, f"page {k + 1} of {name}") for k in range(len(document))]
    except FileNotFoundError:
        raise DatasetError(f"{name} is no file") from None
    except pypdfium2.PdfiumError as error:
        # PDFium may report the reason of an earlier failure, so its word is not enough.
        text = f"cannot read {name}: it is damaged, has no pages or is locked by a password ({error})"
        raise DatasetError(text) from error


def _raster(page: Any, size: int, dpi: float | None, name: str) -> torch.Tensor:
    """One page as uint8 [1, H, W]. It is drawn finer first, so that small text is an even grey."""
    width, height = page.get_size()
    scale = dpi / 72 if dpi else _FINER * size / max(width, height)
    if width * height * scale**2 > _MOST_PIXELS:
        raise DatasetError(f"{name} would have {width * height * scale**2:,.0f} pixels: choose a smaller size or dpi")
    grid = torch.from_numpy(page.render(scale=scale, grayscale=True).to_numpy().copy())
    grid = grid.reshape(1, *grid.shape[:2])
    if dpi:
        return grid
    square = torch.full((1, _FINER * size, _FINER * size), 255.0)
    grid = grid[:, : _FINER * size, : _FINER * size]
    square[:, : grid.shape[1], : grid.shape[2]] = grid
    return F.avg_pool2d(square, _FINER).round_().to(torch.uint8)


def _write(sheet: Sheet, regions: list[Region]) -> bytes:
    """A PDF of one page with these regions."""
    content = "\n".join(region.operators for region in regions)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {sheet.width:g} {sheet.height:g}] /Contents 4 0 R "
        "/Resources << /Font << /F0 5 0 R /F1 8 0 R >> >> >>".encode(),
        _stream(content.encode()),
    ]
    for name in (sheet.family, FAMILIES[sheet.family]):
        objects += _font(name, len(objects) + 1)
    file, starts = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, 1):
        starts.append(len(file))
        file += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    count, start = len(objects) + 1, len(file)
    file += f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer\n<< /Size {count} /Root 1 0 R >>\n".encode()
    file += f"startxref\n{start}\n%%EOF\n".encode()
    return bytes(file)


def _font(name: str, number: int) -> list[bytes]:
    """The three objects of an embedded TrueType font, the first with this number."""
    font = face(name)
    widths = " ".join(str(font.advance[chr(code)]) for code in range(32, 127))
    return [
        f"<< /Type /Font /Subtype /TrueType /BaseFont /CUTOUT+{name} /Encoding /WinAnsiEncoding /FirstChar 32 "
        f"/LastChar 126 /Widths [{widths}] /FontDescriptor {number + 1} 0 R >>".encode(),
        f"<< /Type /FontDescriptor /FontName /CUTOUT+{name} /Flags 32 /FontBBox [-500 -300 1500 1000] /ItalicAngle 0 "
        f"/Ascent 800 /Descent -250 /CapHeight 730 /StemV 90 /FontFile2 {number + 2} 0 R >>".encode(),
        _stream(font.data, f"/Length1 {len(font.data)} "),
    ]


def _stream(data: bytes, entries: str = "") -> bytes:
    return f"<< {entries}/Length {len(data)} >>\nstream\n".encode() + data + b"\nendstream"
