"""A sheet of paper that records where its ink is, and the PDF file of some sheets."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

Box = tuple[float, float, float, float]
Colour = tuple[float, float, float]
Mark = Callable[[Any], None]  # draws on a canvas of ReportLab

FAMILIES = {
    "DejaVuSans": "DejaVuSans-Bold",
    "DejaVuSerif": "DejaVuSerif-Bold",
    "DejaVuSansMono": "DejaVuSansMono-Bold",
    "STIXGeneral": "STIXGeneralBol",
}
GAP = 15.0  # Points between two regions: at least a pixel, even on an image of 64 pixels.
DARK, GREY, BLUE = (0.08, 0.08, 0.08), (0.55, 0.55, 0.55), (0.1, 0.15, 0.45)
COLOURS = (DARK, (0.0, 0.31, 0.49), (0.55, 0.13, 0.1), (0.0, 0.36, 0.27), (0.32, 0.2, 0.4), (0.6, 0.35, 0.0))


class Region(NamedTuple):
    """One labelled part of a sheet: the box around its ink, and what draws it."""

    label: str
    box: Box
    marks: list[Mark]


class Sheet:
    """An empty page with a style drawn at random. Points, from the top left; what is drawn lies in a region."""

    def __init__(self, rng: random.Random, *, turned: bool = False) -> None:
        self.rng = rng
        self.width, self.height = rng.choice(((595.0, 842.0), (612.0, 792.0)))
        if turned:
            self.width, self.height = self.height, self.width
        self.family = rng.choice(list(FAMILIES))
        self.size = rng.uniform(8.5, 10 if "Mono" in self.family else 11.5)
        self.lead = self.size * rng.uniform(1.2, 1.5)
        self.accent = rng.choice(COLOURS)
        self.justified = rng.random() < 0.5
        margin, shift = rng.uniform(48, 80), rng.uniform(-8, 8)
        # Where the next region may stand: the left and the width of a column, how far down it is filled, and its end.
        self.x, self.inner = margin + shift, self.width - 2 * margin
        self.y, self.bottom = rng.uniform(40, 80), self.height - rng.uniform(45, 80)
        self.regions: list[Region] = []
        self.facts: dict[str, tuple[str, Box]] = {}
        self._ink: list[Box] = []
        self._marks: list[Mark] = []

    @contextmanager
    def region(self, label: str, height: float) -> Iterator[None]:
        """Make one region of all that is drawn inside the block, and go down by a height and a gap."""
        self._ink, self._marks = [], []
        yield
        self.regions.append(Region(label, _hull(self._ink), self._marks))
        self.y += height + GAP

    def measure(self, text: str, size: float, bold: bool = False) -> float:
        """Width of a text."""
        return _extent(FAMILIES[self.family] if bold else self.family, text)[0] * size

    def text(
        self, x: float, y: float, text: str, *, size: float = 0, bold: bool = False, align: float = 0,
        colour: Colour = DARK, spread: float = 0,
    ) -> Box:  # fmt: skip
        """Write one line with its top at y, and x at its left (align 0), middle (0.5) or right end (1)."""
        size, font = size or self.size, FAMILIES[self.family] if bold else self.family
        advance, (left, bottom, right, top) = _extent(font, text)
        x, base = x - align * advance * size, y + 0.8 * size
        box = (x + left * size, base - top * size, x + right * size + spread * text.count(" "), base - bottom * size)
        self._ink.append(box)

        def draw(canvas: Any) -> None:
            canvas.setFillColorRGB(*colour)
            canvas.setFont(font, size)
            canvas.drawString(x, base, text, wordSpace=spread)

        self._marks.append(draw)
        return box

    def path(
        self, points: Sequence[tuple[float, float]], *, line: Colour | None = None, fill: Colour | None = None,
        width: float = 0.7,
    ) -> None:  # fmt: skip
        """Draw a line through the points, or fill the polygon."""
        reach = width / 2 if line else 0.0
        self._ink += [(x - reach, y - reach, x + reach, y + reach) for x, y in points]

        def draw(canvas: Any) -> None:
            path = canvas.beginPath()
            path.moveTo(*points[0])
            for point in points[1:]:
                path.lineTo(*point)
            if line:
                canvas.setStrokeColorRGB(*line)
                canvas.setLineWidth(width)
            if fill:
                canvas.setFillColorRGB(*fill)
            canvas.drawPath(path, stroke=int(line is not None), fill=int(fill is not None))

        self._marks.append(draw)

    def box(
        self, left: float, top: float, right: float, bottom: float, *, line: Colour | None = None,
        fill: Colour | None = None,
    ) -> None:  # fmt: skip
        """Draw a rectangle."""
        self.path([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], line=line, fill=fill)


def write(sheets: Sequence[Sheet]) -> bytes:
    """Make a PDF with one page for each sheet."""
    from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

    file = BytesIO()
    canvas = Canvas(file, bottomup=0, invariant=1, pageCompression=0)  # invariant: no date, no random identifier
    for sheet in sheets:
        canvas.setPageSize((sheet.width, sheet.height))
        canvas.setLineJoin(1)  # round, so that no corner sticks out of the box
        for region in sheet.regions:
            for draw in region.marks:
                draw(canvas)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


@lru_cache(maxsize=10_000)
def _extent(font: str, text: str) -> tuple[float, Box]:
    """Advance, and ink as left, bottom, right, top around the origin, both at size 1."""
    x, parts = 0.0, []
    for char in text:
        advance, ink = _face(font)[char]
        if ink is not None:
            left, bottom, right, top = ink
            parts.append((x + left, bottom, x + right, top))
        x += advance
    return x, _hull(parts)


@cache
def _face(name: str) -> dict[str, tuple[float, Box | None]]:
    """Advance and ink of every ASCII character. The font is cut down to them and made known to ReportLab on the way."""
    import matplotlib
    from fontTools import subset, ttLib
    from reportlab.pdfbase import pdfmetrics  # type: ignore[import-untyped]
    from reportlab.pdfbase.ttfonts import TTFont  # type: ignore[import-untyped]

    font = ttLib.TTFont(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf"), recalcTimestamp=False)
    options = subset.Options(hinting=False)  # as hinted glyphs leave their boxes
    options.drop_tables.append("FFTM")
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=range(32, 127))
    cutter.subset(font)
    file = BytesIO()
    font.save(file)
    pdfmetrics.registerFont(TTFont(name, BytesIO(file.getvalue())))
    unit, face = font["head"].unitsPerEm, {}
    for code, glyph in font.getBestCmap().items():
        outline = font["glyf"][glyph]
        ends = tuple(getattr(outline, end) / unit for end in ("xMin", "yMin", "xMax", "yMax")) if code > 32 else None
        face[chr(code)] = pdfmetrics.stringWidth(chr(code), name, 1), ends
    return face


def _hull(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
