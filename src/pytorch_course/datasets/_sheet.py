"""A sheet of paper, drawn into a PDF block by block, that records where its ink is."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]
Colour = tuple[float, float, float]

GAP = 15.0  # Points between two regions: at least a pixel, even on an image of 64 pixels.
_BOLD = {family: f"{family}-Bold" for family in ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")}
_BOLD["STIXGeneral"] = "STIXGeneralBol"
_DARK = (0.08, 0.08, 0.08)
_COLOURS = (_DARK, (0.0, 0.31, 0.49), (0.55, 0.13, 0.1), (0.0, 0.36, 0.27), (0.32, 0.2, 0.4), (0.6, 0.35, 0.0))
_TEXT = (
    "a, above, after, all, any, back, bridge, by, can, come, day, down, each, end, for, garden, good, here, high, in, "
    "is, island, large, light, many, more, never, not, of, old, on, open, other, part, people, plan, river. In, tower, "
    "small, still, story. We, that, there, this, time, to, town. At, tree, under, village. A, water, with, year"
)
_PROSE = _TEXT.split(", ")


class Sheet:
    """An empty page, next on a canvas of ReportLab, with a style drawn at random. Points, from the top left."""

    def __init__(self, canvas: Any, rng: random.Random) -> None:
        self.rng, self._canvas = rng, canvas
        self.width, self.height = rng.choice(((595.0, 842.0), (612.0, 792.0)))
        self._family = rng.choice(list(_BOLD))
        self.size = rng.uniform(8.5, 10 if "Mono" in self._family else 11.5)
        self.lead = self.size * rng.uniform(1.2, 1.5)
        self._accent = rng.choice(_COLOURS)
        margin, shift = rng.uniform(48, 80), rng.uniform(-8, 8)
        # Where the next region may stand: the left and the width of a column, how far down it is filled, and its end.
        self.x, self.inner = margin + shift, self.width - 2 * margin
        self.y, self.bottom = rng.uniform(40, 80), self.height - rng.uniform(45, 80)
        self.regions: list[tuple[str, Box]] = []
        self.facts: dict[str, tuple[str, Box]] = {}
        self._ink: list[Box] = []
        canvas.setPageSize((self.width, self.height))
        canvas.setLineJoin(1)  # round, so that no corner sticks out of the box

    @contextmanager
    def _region(self, label: str, height: float) -> Iterator[None]:
        """Make one region of all that is drawn inside the block, and go down by a height and a gap."""
        self._ink = []
        yield
        self.regions.append((label, _hull(self._ink)))
        self.y += height + GAP

    def _measure(self, text: str, size: float, bold: bool = False) -> float:
        return _extent(_BOLD[self._family] if bold else self._family, text)[0] * size

    def _text(
        self, x: float, y: float, text: str, *, size: float = 0, bold: bool = False, align: float = 0,
        colour: Colour = _DARK,
    ) -> Box:  # fmt: skip
        """Write one line with its top at y, and x at its left (align 0), middle (0.5) or right end (1)."""
        size, font = size or self.size, _BOLD[self._family] if bold else self._family
        advance, (left, bottom, right, top) = _extent(font, text)
        x, base = x - align * advance * size, y + 0.8 * size
        self._ink.append((x + left * size, base - top * size, x + right * size, base - bottom * size))
        self._canvas.setFillColorRGB(*colour)
        self._canvas.setFont(font, size)
        self._canvas.drawString(x, base, text)
        return self._ink[-1]

    def _path(self, points: Sequence[tuple[float, float]], colour: Colour = _DARK, width: float = 0.7) -> None:
        """Draw a line through the points."""
        self._ink += [(x - width / 2, y - width / 2, x + width / 2, y + width / 2) for x, y in points]
        self._canvas.setStrokeColorRGB(*colour)
        self._canvas.setLineWidth(width)
        path = self._canvas.beginPath()
        path.moveTo(*points[0])
        for point in points[1:]:
            path.lineTo(*point)
        self._canvas.drawPath(path)

    def _fill(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle."""
        self._ink.append((left, top, right, bottom))
        self._canvas.setFillColorRGB(*colour)
        self._canvas.rect(left, top, right - left, bottom - top, stroke=0, fill=1)

    def lines(self, texts: Sequence[str], align: float = 0) -> None:
        """Write lines of text as one region."""
        with self._region("text", (len(texts) - 1) * self.lead + 1.05 * self.size):
            for k, text in enumerate(texts):
                self._text(self.x + align * self.inner, self.y + k * self.lead, text, align=align)

    def pairs(self, pairs: dict[str, str]) -> None:
        """Write names and values as one region at the right margin. Each value becomes a fact of the page."""
        with self._region("text", (len(pairs) - 1) * self.lead + 1.05 * self.size):
            for k, (name, value) in enumerate(pairs.items()):
                y, bold = self.y + k * self.lead, name == "Total"
                self._text(self.x + 0.64 * self.inner, y, name, bold=bold)
                self.facts[name.lower()] = value, self._text(self.x + self.inner, y, value, align=1, bold=bold)

    def title(self, text: str, size: float = 0, align: float = 0) -> None:
        """Write a title, or a heading of a given size, smaller where it would be too wide."""
        size = size or self.rng.uniform(15, 26)
        size = min(size, size * self.inner / self._measure(text, size, True))
        x = self.x + align * self.inner
        with self._region("title", 1.05 * size):
            self._text(x, self.y, text, size=size, bold=True, align=align, colour=self._accent)

    def paragraph(self, low: int, high: int, scale: float = 1) -> None:
        """Fill some lines with prose as one region, as many as there is room for."""
        size, lead = scale * self.size, scale * self.lead
        count = min(self.rng.randint(low, high), int((self.bottom - self.y - size) / lead) + 1)
        if count < 1:
            return
        word = "The"
        with self._region("text", (count - 1) * lead + 1.05 * size):
            for k in range(count):
                room = self.inner * (1 if k < count - 1 else self.rng.uniform(0.4, 0.9))
                line, length = word, self._measure(word, size)
                while (length := length + self._measure(" " + (word := self.rng.choice(_PROSE)), size)) <= room:
                    line += f" {word}"
                self._text(self.x, self.y + k * lead, line, size=size)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Draw rows of cells, the first as the head. Columns are as wide as they need, the first begins at its left."""
        pad, style = self.rng.uniform(2.5, 5), self.rng.choice(("rules", "lines", "grid"))
        needs = [max(self._measure(cell, 1, True) for cell in column) for column in zip(*rows, strict=True)]
        size = min(0.92 * self.size, 0.8 * self.inner / sum(needs))
        edges = [self.x + self.inner * sum(needs[:k]) / sum(needs) for k in range(len(needs) + 1)]
        tops = [self.y + k * (1.2 * size + 2 * pad) for k in range(len(rows) + 1)]
        with self._region("table", tops[-1] - self.y):
            for top in (tops[0], tops[1], tops[-1]) if style == "rules" else tops:
                self._path([(self.x, top), (edges[-1], top)])
            for edge in edges if style == "grid" else ():
                self._path([(edge, tops[0]), (edge, tops[-1])])
            for k, row in enumerate(rows):
                for j, cell in enumerate(row):
                    place = edges[j + 1] - pad if j else self.x + pad
                    self._text(place, tops[k] + pad, cell, size=size, bold=k == 0, align=min(j, 1))

    def figure(self, height: float) -> None:
        """Draw a chart between two axes: bars or a line."""
        count, colour, curved = self.rng.randint(4, 9), self.rng.choice(_COLOURS), self.rng.random() < 0.5
        x, y, step = self.x, self.y, self.inner / count
        points = [(x + (k + 0.2) * step, y + height * self.rng.uniform(0.1, 0.9)) for k in range(count)]
        with self._region("figure", height):
            self._path([(x, y), (x, y + height), (x + self.inner, y + height)])
            if curved:
                self._path(points, colour, width=1.6)
            for left, top in () if curved else points:
                self._fill(left, top, left + 0.6 * step, y + height, colour)

    def logo(self, side: int) -> None:
        """Draw a square at the left (0) or right (1) of what comes next."""
        left = self.x + side * (self.inner - 40)
        with self._region("figure", -GAP):
            self._fill(left, self.y, left + 40, self.y + 40, self._accent)

    def fields(self, names: Sequence[str]) -> None:
        """Draw fields to fill in side by side."""
        width = (self.inner + GAP) / len(names)
        with self._region("text", 1.05 * self.size):
            for k, name in enumerate(names):
                left, base = self.x + k * width, self.y + self.size
                self._text(left, self.y, name)
                self._path([(left + self._measure(name, self.size) + 6, base), (left + width - GAP, base)])


@lru_cache(maxsize=10_000)
def _extent(font: str, text: str) -> tuple[float, Box]:
    """Advance, and ink as left, bottom, right, top around the origin, both at size 1."""
    x, parts = 0.0, []
    for advance, ink in map(_face(font).__getitem__, text):
        if ink is not None:
            parts.append((x + ink[0], ink[1], x + ink[2], ink[3]))
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
        face[chr(code)] = int(pdfmetrics.getFont(name).face.getCharWidth(code)) / 1000, ends  # as PDFium rounds it
    return face


def _hull(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
