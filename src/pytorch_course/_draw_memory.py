"""The drawings of :mod:`pytorch_course.tensors`, and the one palette of both drawing modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pytorch_course.tensors import Layout

Shape = tuple[int, ...]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")  # Okabe and Ito
BLUE, ORANGE, SKY, VERMILION = COLOURS[0], COLOURS[1], COLOURS[4], COLOURS[5]
BLACK, GREY, PALE, WHITE = "#000000", "#595959", "#BFBFBF", "#FFFFFF"


def tint(colour: str, strength: float = 0.55) -> str:
    """Mix a colour with white, so that black text on it stays readable."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02x}" for part in parts)


def index_text(index: Shape) -> str:
    """Write an index as short as can be."""
    return ",".join(map(str, index)) or "()"


def wrap(length: int, most: int) -> list[range]:
    """Cut so many cells into lines of nearly equal length, each of at most ``most`` cells."""
    lines = max(1, -(-length // max(1, most)))
    step = max(1, -(-length // lines))
    return [range(start, min(start + step, length)) for start in range(0, max(1, length), step)]


def full_axes(width: float, height: float) -> Axes:
    """Open a figure of this size in inches, and axes that fill it."""
    import matplotlib.pyplot as plt

    ax = plt.figure(figsize=(width, height)).add_subplot()  # free axes would make a constrained layout warn
    ax.set_position((0.0, 0.0, 1.0, 1.0))
    return ax


class _Canvas:
    """Axes measured in cells, with the origin at the top left and text that fits its cell."""

    def __init__(self, ax: Axes | None, width: float, height: float) -> None:
        inch = min(0.45, 8 / width, 10 / height)
        ax = ax or full_axes(width * inch, height * inch)
        ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        ax.set_axis_off()
        box, dpi = ax.get_window_extent(), ax.figure.dpi
        self.ax = ax
        self.scale = 72 / dpi * min(box.width / width, box.height / height)  # points per cell

    def text(self, x: float, y: float, text: str, size: float = 0.4, **style: Any) -> None:
        """Write text, vertically centred at (x, y), in a size given in cells."""
        style = {"ha": "center", "va": "center_baseline", "color": BLACK} | style
        self.ax.text(x, y, text, size=size * self.scale, **style)

    def cell(self, x: float, y: float, wide: float, bands: Sequence[tuple[str, str]], **style: Any) -> None:
        """Draw one cell, cut into a layer per (text, colour); its height is 1 unless the style says otherwise."""
        from matplotlib.patches import Rectangle

        high, hatch = style.pop("high", 1), style.pop("hatch", None)
        part = high / max(1, len(bands))
        for i, (text, colour) in enumerate(bands):
            band = Rectangle((x, y + i * part), wide, part, fc=colour, ec=hatch, lw=0, hatch="///" if hatch else None)
            self.ax.add_patch(band)
            size = min(0.42, 0.75 * part, 0.9 * wide / (0.62 * max(1, len(text))))
            plate = {"facecolor": colour, "linewidth": 0, "pad": 0.04 * self.scale} if hatch and text else None
            self.text(x + wide / 2, y + (i + 0.5) * part, text, size, bbox=plate)
        border = Rectangle((x, y), wide, high, fill=False, linewidth=0.03 * self.scale, **style)
        border.set(edgecolor=BLACK if bands else PALE, zorder=2 if bands else 1.5)  # black edges lie over pale ones
        self.ax.add_patch(border)


def draw_layout(view: Layout, readers: Mapping[int, Sequence[Shape]], ax: Axes | None) -> Axes:
    """Draw the cell of every element, with a row for each index of the axes before the last, above the storage."""
    columns, heads = (view.shape or (1,))[-1], list(product(*map(range, view.shape[:-1])))
    colours = {head: tint(COLOURS[row % len(COLOURS)]) for row, head in enumerate(heads)}
    wide = max([1.0, *(0.27 * len(index_text(index)) for who in readers.values() for index in who)])
    high = max([1.0, *(0.6 * min(3, len(who)) for who in readers.values())])
    lines = wrap(view.storage, int(16.5 / wide))
    left = 0.6 + 0.27 * max([1, *(len(index_text(head)) for head in heads)])
    top = 2.4 + (0 if 0 in view.shape else len(heads))
    right = max(8.0, left + columns, left + len(lines[0]) * wide)
    canvas = _Canvas(ax, right + 0.4, top + 0.5 + len(lines) * (high + 0.9))
    canvas.text(left, 0.5, "tensor, with storage positions", ha="left")
    canvas.text(left, top, "storage, with tensor indices", ha="left")
    if 0 in view.shape:
        canvas.text(left, 1.2, "no elements", 0.36, color=GREY, ha="left")
    for number, index in enumerate(product(*map(range, view.shape))):
        row, column = divmod(number, columns)
        x, y = left + column, 1.5 + row
        canvas.cell(x, y, 1, [(str(view.address(*index)), colours[index[:-1]])])
        if row == 0 and len(index) > 0:
            canvas.text(x + 0.5, y - 0.3, str(column), 0.36, color=GREY)
        if column == 0 and len(index) > 1:
            canvas.text(x - 0.2, y + 0.5, index_text(index[:-1]), 0.36, color=GREY, ha="right")
    for line, cells in enumerate(lines):
        for cell in cells:
            x, y = left + (cell - cells.start) * wide, top + 0.5 + line * (high + 0.9)
            bands = [(index_text(index), colours[index[:-1]]) for index in readers.get(cell, [])]
            bands = bands if len(bands) <= 3 else [*bands[:2], (f"+{len(bands) - 2}", WHITE)]
            canvas.cell(x, y, wide, bands, high=high)
            canvas.text(x + wide / 2, y + high + 0.3, str(cell), 0.36, color=GREY)
    return canvas.ax


def draw_map(rows: Sequence[tuple[str, Mapping[int, str]]], length: int, ax: Axes | None) -> Axes:
    """Draw a row of so many cells per name, with the texts that are given for some of them."""
    wide = max([1.0, *(0.27 * len(text) for _, row in rows for text in row.values())])
    left = 0.5 + 0.27 * max(len(name) for name, _ in rows)
    lines = wrap(length, int(16.5 / wide))
    down = 1.2 * len(rows) + 0.7
    canvas = _Canvas(ax, left + len(lines[0]) * wide + 0.3, len(lines) * down - 0.2)
    colours = [WHITE, *map(tint, COLOURS)]
    for line, cells in enumerate(lines):
        for number, (name, row) in enumerate(rows):
            y, colour = 0.3 + line * down + 1.2 * number, colours[(number - 1) % len(COLOURS) + 1 if number else 0]
            canvas.text(left - 0.25, y + 0.5, name, ha="right")
            for cell in cells:
                bands = [(row[cell], colour)] if cell in row else []
                canvas.cell(left + (cell - cells.start) * wide, y, wide, bands)
    return canvas.ax


_LOOKS: dict[str, tuple[str, dict[str, Any]]] = {  # the colour and style of a size, by its mark
    "size": (tint(SKY), {}),
    "stretched": (tint(ORANGE), {"hatch": ORANGE}),
    "missing": (WHITE, {"linestyle": "--"}),
    "clash": (VERMILION, {}),
    "result": (WHITE, {}),
}


def draw_broadcast(rows: Sequence[tuple[str, Sequence[tuple[str, str]]]], ax: Axes | None) -> Axes:
    """Draw a row per shape; each of its sizes has a text and a mark: size, stretched, missing or clash."""
    axes = max((len(sizes) for _, sizes in rows), default=0)
    longest = max((len(text) for _, sizes in rows for text, _ in sizes), default=1)
    wide, left = max(1.7, 0.27 * longest + 0.5), 2.0 if axes else 2.6
    marks = {mark for _, sizes in rows for _, mark in sizes}
    legend = [mark for mark in ("stretched", "missing", "clash") if mark in marks]
    bottom = 1.2 + 1.25 * len(rows)
    canvas = _Canvas(ax, max(left + axes * wide, 0.3 + 2.8 * len(legend)) + 0.3, bottom + 0.9 * bool(legend))
    for column in range(axes):
        canvas.text(left + (column + 0.5) * wide - 0.1, 0.5, f"axis \u2212{axes - column}", 0.34, color=GREY)
    for number, (name, sizes) in enumerate(rows):
        y = 0.9 + number * 1.25 + (0.2 if name == "result" else 0)
        canvas.text(left - 0.3, y + 0.5, name if axes else f"{name}: ()", ha="right")
        for column, (text, mark) in enumerate(sizes):
            colour, style = _LOOKS["result" if name == "result" else mark]
            canvas.cell(left + column * wide, y, wide - 0.2, [(text, colour)], **style)
    for number, mark in enumerate(legend):
        colour, style = _LOOKS[mark]
        canvas.cell(0.5 + 2.8 * number, bottom + 0.1, 0.6, [("", colour)], high=0.4, **style)
        canvas.text(1.25 + 2.8 * number, bottom + 0.3, mark, 0.34, ha="left")
    return canvas.ax
