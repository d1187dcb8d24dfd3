"""A sheet of paper that records where its ink is, and the fonts to write on it."""

import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

Box = tuple[float, float, float, float]
Colour = tuple[float, float, float]
Point = tuple[float, float]

FAMILIES = {
    "DejaVuSans": "DejaVuSans-Bold",
    "DejaVuSerif": "DejaVuSerif-Bold",
    "DejaVuSansMono": "DejaVuSansMono-Bold",
    "STIXGeneral": "STIXGeneralBol",
}

_ACCENTS = ((0.1, 0.1, 0.1), (0.1, 0.1, 0.1), (0.0, 0.31, 0.49), (0.55, 0.13, 0.1), (0.0, 0.36, 0.27), (0.32, 0.2, 0.4))
DARK, GREY = (0.08, 0.08, 0.08), (0.55, 0.55, 0.55)


@dataclass(frozen=True)
class Face:
    """A font file cut down to the ASCII characters, and its measures in units of its size."""

    data: bytes
    advance: dict[str, int]  # thousandths, whole numbers as in the PDF, so that positions do not drift
    outline: dict[str, Box]


@dataclass(frozen=True)
class Region:
    """One labelled part of a sheet: the box around its ink in points from the top left, and the PDF operators."""

    label: str
    box: Box
    operators: str


@lru_cache
def face(name: str) -> Face:
    """Read a font that Matplotlib ships and keep its ASCII characters."""
    import matplotlib
    from fontTools import subset, ttLib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")
    font = ttLib.TTFont(path, recalcTimestamp=False)
    options = subset.Options(hinting=False, layout_features=[], name_IDs=[], notdef_outline=True)
    options.drop_tables += ["FFTM", "GDEF", "GPOS", "GSUB", "MATH", "gasp"]
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=range(32, 127))
    cutter.subset(font)
    file = io.BytesIO()
    font.save(file)
    unit, glyphs, widths = font["head"].unitsPerEm, font["glyf"], font["hmtx"]
    advance, outline = {}, {}
    for code, glyph in font.getBestCmap().items():
        advance[chr(code)] = round(1000 * widths[glyph][0] / unit)
        if glyphs[glyph].numberOfContours:
            ends = (getattr(glyphs[glyph], end) / unit for end in ("xMin", "yMin", "xMax", "yMax"))
            outline[chr(code)] = tuple(ends)
    return Face(file.getvalue(), advance, outline)


@lru_cache(maxsize=10_000)
def _extent(name: str, text: str) -> tuple[float, Box]:
    """Advance, and ink as left, bottom, right, top around the origin, both at size 1."""
    font, x, parts = face(name), 0.0, []
    for char in text:
        if char in font.outline:
            left, bottom, right, top = font.outline[char]
            parts.append((x + left, bottom, x + right, top))
        x += font.advance[char] / 1000
    lefts, bottoms, rights, tops = zip(*parts, strict=True)
    return x, (min(lefts), min(bottoms), max(rights), max(tops))


class Sheet:
    """An empty page with a style drawn at random. Points, from the top left; what is drawn lies in a region."""

    def __init__(self, *, turned: bool = False) -> None:
        self.width, self.height = random.choice(((595.0, 842.0), (612.0, 792.0)))
        if turned:
            self.width, self.height = self.height, self.width
        self.family = random.choice(list(FAMILIES))
        self.size = random.uniform(8.5, 10) if "Mono" in self.family else random.uniform(8.5, 11.5)
        self.lead = self.size * random.uniform(1.2, 1.5)
        self.accent = random.choice(_ACCENTS)
        self.justified = random.random() < 0.5
        margin, shift = random.uniform(48, 80), random.uniform(-8, 8)
        self.left, self.right = margin + shift, self.width - margin + shift
        self.top, self.bottom = random.uniform(40, 80), self.height - random.uniform(45, 80)
        self.regions: list[Region] = []
        self.facts: dict[str, tuple[str, Box]] = {}
        self._ink: list[Box] = []
        self._operators: list[str] = []

    @property
    def inner(self) -> float:
        """Width between the margins."""
        return self.right - self.left

    @property
    def last(self) -> Box:
        """Box of what was drawn last."""
        return self._ink[-1]

    @contextmanager
    def region(self, label: str) -> Iterator[None]:
        """Make one region of all that is drawn inside the block."""
        self._ink, self._operators = [], []
        yield
        self.regions.append(Region(label, self._hull(), "\n".join(self._operators)))

    def _hull(self) -> Box:
        lefts, tops, rights, bottoms = zip(*self._ink, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def measure(self, text: str, size: float, bold: bool = False) -> float:
        """Width of a text."""
        return _extent(self._font(bold), text)[0] * size

    def _font(self, bold: bool) -> str:
        return FAMILIES[self.family] if bold else self.family

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 0,
        bold: bool = False,
        align: float = 0,
        colour: Colour = DARK,
        spread: float = 0,
    ) -> Box:
        """Write one line with its top at y, and x at its left (align 0), middle (0.5) or right end (1)."""
        size = size or self.size
        advance, (left, bottom, right, top) = _extent(self._font(bold), text)
        x -= align * advance * size
        base = y + 0.8 * size
        box = (x + left * size, base - top * size, x + right * size + spread * text.count(" "), base - bottom * size)
        self._ink.append(box)
        escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        self._operators.append(
            f"BT {_rgb(colour)} rg /F{int(bold)} {size:.3f} Tf {spread:.4f} Tw "
            f"{x:.3f} {self.height - base:.3f} Td ({escaped}) Tj ET"
        )
        return box

    def path(
        self, points: Sequence[Point], *, line: Colour | None = None, fill: Colour | None = None, width: float = 0.7
    ) -> None:
        """Draw a line through the points, or fill the polygon, or a closed polygon with both."""
        reach = width / 2 if line else 0.0
        for x, y in points:
            self._ink.append((x - reach, y - reach, x + reach, y + reach))
        steps = " ".join(f"{x:.3f} {self.height - y:.3f} {'l' if k else 'm'}" for k, (x, y) in enumerate(points))
        paint = "S" if fill is None else "f" if line is None else "b"
        colours = (f"{_rgb(fill)} rg " if fill else "") + (f"{_rgb(line)} RG {width:.2f} w 1 j " if line else "")
        self._operators.append(f"{colours}{steps} {paint}")

    def box(self, left: float, top: float, right: float, bottom: float, **paint: Colour | None) -> None:
        """Draw a rectangle."""
        points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        if paint.get("fill") is None:
            points.append((left, top))
        self.path(points, line=paint.get("line"), fill=paint.get("fill"))


def _rgb(colour: Colour) -> str:
    return "{:.2f} {:.2f} {:.2f}".format(*colour)
