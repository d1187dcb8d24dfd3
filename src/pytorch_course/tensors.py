"""How tensors read memory: layout, shared storage and broadcasting, as frozen data that prints and draws itself."""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, Literal, NamedTuple, SupportsIndex

import torch

if TYPE_CHECKING:
    import matplotlib.axes

Shape = tuple[int, ...]
Band = tuple[str, str]  # the text and the colour of one layer of a drawn cell

DRAWABLE = 32  # more cells than this cannot be read, neither in a figure nor in a fixed-width drawing
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")  # Okabe and Ito
VERMILION = "#D55E00"
BLACK = "#000000"
GREY = "#595959"
PALE = "#BFBFBF"


def _storage(t: torch.Tensor, name: str) -> torch.UntypedStorage:
    """Return the storage behind a plain strided tensor, or say why there is none."""
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}")
    if t.is_nested:
        raise TypeError(f"{name} is a nested tensor: its parts differ in shape; pass one of {name}.unbind()")
    if t.layout != torch.strided:
        raise TypeError(f"{name} has layout {t.layout}: it is not one strided storage; pass {name}.to_dense()")
    if t.is_quantized:
        raise TypeError(f"{name} is quantised: its storage holds codes, not elements; pass {name}.int_repr()")
    try:
        storage = t.untyped_storage()
        memory = storage.device.type != "meta"
        if memory:
            storage.data_ptr()  # raises where a wrapper only pretends to have a storage
    except RuntimeError as error:  # such as inside torch.func transforms
        raise TypeError(f"{name} wraps another tensor and has no storage of its own") from error
    if not memory:
        raise ValueError(f"{name} is a meta or fake tensor: it has a shape but no memory")
    return storage


@dataclass(frozen=True)
class Layout:
    """How a tensor reads its storage. Made by :func:`pytorch_course.tensors.layout`.

    Attributes
    ----------
    shape : tuple of int
        Elements per axis.
    stride : tuple of int
        Cells from one element to the next along each axis.
    offset : int
        The cell that holds the first element.
    dtype : torch.dtype
        Type of the elements.
    itemsize : int
        Bytes of one element, which are the bytes of one cell.
    storage_length : int
        Cells in the whole storage; the tensor may read only some of them.
    storage_bytes : int
        Bytes in the whole storage.
    contiguous : bool
        Whether the elements lie side by side in the order of their indices.
    """

    shape: Shape
    stride: Shape
    offset: int
    dtype: torch.dtype
    itemsize: int
    storage_length: int
    storage_bytes: int
    contiguous: bool

    def address(self, *index: SupportsIndex) -> int:
        """Return the storage cell of one element: offset + sum(index * stride).

        Parameters
        ----------
        *index : int
            One index per axis. Negative ones count from the end.

        Returns
        -------
        int
            Position in the storage, in cells.

        Raises
        ------
        IndexError
            If there are too many or too few indices, or one is outside its axis.
        TypeError
            If an index is not an integer.

        Examples
        --------
        >>> columns = layout(torch.zeros(3, 4).t())
        >>> columns.address(1, 2)
        9
        """
        if len(index) != len(self.shape):
            raise IndexError(f"shape {self.shape} needs {len(self.shape)} indices, got {len(index)}: {index}")
        cell = self.offset
        for axis, (raw, size, stride) in enumerate(zip(index, self.shape, self.stride, strict=True)):
            try:
                at = operator.index(raw)
            except TypeError:
                raise TypeError(f"index of axis {axis} must be an int, got {raw!r}") from None
            if not -size <= at < size:
                allowed = f"use {-size} to {size - 1}" if size else "the axis is empty"
                raise IndexError(f"index {at} is outside axis {axis} of shape {self.shape}: {allowed}")
            cell += at % size * stride
        return cell

    def __str__(self) -> str:
        return "\n".join(f"{name:<12}{value}" for name, value in self._facts())

    def _repr_html_(self) -> str:
        return _table("pc-layout", "How the tensor reads its storage", _fact_rows(self._facts()))

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the tensor's grid above the storage.

        Each element shows the cell it reads; each cell shows the index that reads it. Rows of the tensor keep their
        colour in the storage.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. A new figure of a fitting size by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes drawn on.

        Raises
        ------
        ValueError
            If the tensor has more than 32 elements, or the storage more than 32 cells.
        """
        elements = torch.Size(self.shape).numel()
        if max(elements, self.storage_length) > DRAWABLE:
            raise ValueError(
                f"plot() can draw {DRAWABLE} cells, but the tensor has {elements} elements"
                f" and its storage {self.storage_length} cells; take a smaller tensor"
            )
        return _draw_layout(self, ax)

    def _facts(self) -> list[tuple[str, str]]:
        letters = "ijklmn" if len(self.shape) <= 6 else [f"i{axis}" for axis in range(len(self.shape))]
        names = letters[: len(self.shape)]
        terms = "".join(f" + {stride}*{name}" for stride, name in zip(self.stride, names, strict=True))
        return [
            ("shape", str(self.shape)),
            ("stride", str(self.stride)),
            ("offset", str(self.offset)),
            ("dtype", f"{self.dtype}, {_count(self.itemsize, 'byte')} each"),
            ("storage", f"{_count(self.storage_length, 'cell')}, {_count(self.storage_bytes, 'byte')}"),
            ("contiguous", "yes" if self.contiguous else "no"),
            ("address", f"[{', '.join(names)}] reads cell {self.offset}{terms}"),
        ]

    def _cells(self) -> set[int]:
        # Axis by axis, so that an expanded tensor costs no more than the cells it reads.
        cells = {self.offset}
        for size, stride in zip(self.shape, self.stride, strict=True):
            cells = {cell + step * stride for cell in cells for step in range(size if stride else min(size, 1))}
        return cells

    def _readers(self) -> dict[int, list[Shape]]:
        readers: dict[int, list[Shape]] = {}
        for index in product(*map(range, self.shape)):
            readers.setdefault(self.address(*index), []).append(index)
        return readers


def layout(t: torch.Tensor) -> Layout:
    """Describe how a tensor reads its storage.

    Parameters
    ----------
    t : torch.Tensor
        Any dense tensor with memory behind it. It is neither changed nor kept.

    Returns
    -------
    Layout
        Shape, stride, offset and storage length as plain numbers.

    Raises
    ------
    TypeError
        If ``t`` is not a tensor, or is sparse, quantised, nested or a wrapper without a strided storage.
    ValueError
        If ``t`` is on the meta device, or its storage has been freed.

    Examples
    --------
    >>> print(layout(torch.arange(12.0).reshape(3, 4)[1:, ::2]))
    shape       (2, 2)
    stride      (4, 2)
    offset      4
    dtype       torch.float32, 4 bytes each
    storage     12 cells, 48 bytes
    contiguous  no
    address     [i, j] reads cell 4 + 4*i + 2*j
    """
    return _layout(t, "t")


def _layout(t: torch.Tensor, name: str) -> Layout:
    nbytes = _storage(t, name).nbytes()
    length = nbytes // t.itemsize
    last = t.storage_offset() + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    if t.numel() and last >= length:
        raise ValueError(f"{name} reads up to cell {last}, but its storage has {_count(length, 'cell')}: it was freed")
    return Layout(
        shape=tuple(t.shape),
        stride=t.stride(),
        offset=int(t.storage_offset()),
        dtype=t.dtype,
        itemsize=t.itemsize,
        storage_length=length,
        storage_bytes=nbytes,
        contiguous=t.is_contiguous(),
    )


def same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors read the same memory.

    True for a tensor and its views, however little they overlap, and for two tensors made from one NumPy array.
    Storages are compared by where they begin, so tensors made from two different slices of an array count as different.

    Parameters
    ----------
    a, b : torch.Tensor
        Dense tensors with memory behind them.

    Returns
    -------
    bool
        Whether writing into one storage writes into the other.

    Raises
    ------
    TypeError
        If one is not a dense tensor, as for :func:`pytorch_course.tensors.layout`.
    ValueError
        If one has no memory behind it.

    Examples
    --------
    >>> x = torch.zeros(3, 4)
    >>> same_storage(x, x.t()), same_storage(x, x.clone())
    (True, False)
    """
    first, second = _storage(a, "a"), _storage(b, "b")
    if first.device != second.device or first.data_ptr() != second.data_ptr():
        return False
    if first.data_ptr():
        return True
    # Empty storages have no address: ask torch whether they are one object.
    whole = [torch.empty(0, dtype=torch.uint8, device=s.device).set_(s) for s in (first, second)]
    return whole[0].is_set_to(whole[1])


@dataclass(frozen=True)
class StorageMap:
    """Which cells of one storage each view touches. Made by :func:`pytorch_course.tensors.storage_map`.

    Printed, each cell shows the index that reads it. ``×3`` stands for three elements that read the same cell, as after
    :meth:`torch.Tensor.expand`. A storage of more than 32 cells is summed up in words.

    Attributes
    ----------
    length : int
        Cells in the storage.
    itemsize : int
        Bytes of one cell: the smallest element size among the views.
    views : tuple
        The views' names and layouts, in the order given.
    """

    length: int
    itemsize: int
    views: tuple[tuple[str, Layout], ...]

    def cells(self, name: str) -> tuple[int, ...]:
        """Return the cells that one view touches.

        Parameters
        ----------
        name : str
            The view's name.

        Returns
        -------
        tuple of int
            Positions in the storage, in rising order.

        Raises
        ------
        KeyError
            If no view has that name.

        Examples
        --------
        >>> x = torch.zeros(3, 4)
        >>> storage_map(x=x, column=x[:, 1]).cells("column")
        (1, 5, 9)
        """
        for known, view in self.views:
            if known == name:
                span = self._span(view)
                return tuple(sorted(cell * span + part for cell in view._cells() for part in range(span)))
        raise KeyError(f"no view is called {name!r}; there are {', '.join(known for known, _ in self.views)}")

    def __str__(self) -> str:
        if self.length > DRAWABLE:
            facts = [("storage", f"{self.length} cells of {_count(self.itemsize, 'byte')}"), *self._summary()]
            left = max(len(name) for name, _ in facts)
            return "\n".join(f"{name:<{left}}  {text}" for name, text in facts)
        rows = [("storage", {cell: str(cell) for cell in range(self.length)})]
        rows += [(name, self._labels(view)) for name, view in self.views]
        left = max(len(name) for name, _ in rows)
        wide = max((len(text) for _, labels in rows for text in labels.values()), default=1) + 2
        blocks = []
        for cells in self._lines(most=(79 - left) // wide):
            lines = [
                f"{name:<{left}}" + "".join(labels.get(c, ".").rjust(wide) for c in cells) for name, labels in rows
            ]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        caption = f"Cells of the storage that each view reads ({_count(self.itemsize, 'byte')} per cell)"
        if self.length > DRAWABLE:
            return _table(
                "pc-storage", caption, _fact_rows(self._summary()), ["view", f"reads, of {self.length} cells"]
            )
        lines = []
        for number, (name, view) in enumerate(self.views, start=1):
            labels = self._labels(view)
            marks = [f' class="pc-touched pc-view-{number}"' if cell in labels else "" for cell in range(self.length)]
            cells = "".join(f"<td{mark}>{labels.get(cell, '')}</td>" for cell, mark in enumerate(marks))
            lines.append(f'<th scope="row">{html.escape(name)}</th>{cells}')
        return _table("pc-storage", caption, lines, ["storage", *map(str, range(self.length))])

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the storage as a row of cells, and beneath it one row per view.

        A view's cells hold the index that reads them, or how many indices do.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. A new figure of a fitting size by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes drawn on.

        Raises
        ------
        ValueError
            If the storage has more than 32 cells.
        """
        if self.length > DRAWABLE:
            raise ValueError(f"plot() can draw {DRAWABLE} cells, but the storage has {self.length}; print() it instead")
        return _draw_map(self, ax)

    def _span(self, view: Layout) -> int:
        return view.itemsize // self.itemsize

    def _lines(self, most: int) -> list[range]:
        """Cut the storage into equal lines of at most so many cells, never inside an element."""
        widest = max(self._span(view) for _, view in self.views)
        lines = _wrap(-(-self.length // widest), most // widest)
        return [range(line.start * widest, min(line.stop * widest, self.length)) for line in lines]

    def _boxes(self, view: Layout) -> list[tuple[int, int, str]]:
        """First cell, number of cells and text of every element that the view reads."""
        span, readers = self._span(view), view._readers()
        return [(cell * span, span, _readers_text(readers[cell])) for cell in sorted(readers)]

    def _labels(self, view: Layout) -> dict[int, str]:
        return {start + part: text for start, span, text in self._boxes(view) for part in range(span)}

    def _summary(self) -> list[tuple[str, str]]:
        return [(name, _ranges(self.cells(name))) for name, _ in self.views]


def storage_map(**named: torch.Tensor) -> StorageMap:
    """Find which cells of one storage each named view touches.

    Parameters
    ----------
    **named : torch.Tensor
        Tensors that share one storage; they may differ in dtype.

    Returns
    -------
    StorageMap
        The views' layouts over the common storage.

    Raises
    ------
    ValueError
        If no tensor is given, or one does not share the storage of the others: the message names it.
    TypeError
        If a value is not a dense tensor, as for :func:`pytorch_course.tensors.layout`.

    Examples
    --------
    >>> x = torch.arange(6).reshape(2, 3)
    >>> print(storage_map(x=x, column=x[:, 1], last=x[-1]))
    storage    0    1    2    3    4    5
    x        0,0  0,1  0,2  1,0  1,1  1,2
    column     .    0    .    .    1    .
    last       .    .    .    0    1    2
    """
    if not named:
        raise ValueError("storage_map() needs at least one named tensor, such as storage_map(x=x)")
    views = tuple((name, _layout(t, name)) for name, t in named.items())
    groups = [[other for other, u in named.items() if same_storage(t, u)] for t in named.values()]
    together = max(groups, key=len)
    odd = [name for name in named if name not in together]
    if odd:
        verb = "does" if len(odd) == 1 else "do"
        raise ValueError(f"{', '.join(odd)} {verb} not share the storage of {', '.join(together)}")
    itemsize = min(view.itemsize for _, view in views)
    return StorageMap(max(view.storage_bytes for _, view in views) // itemsize, itemsize, views)


@dataclass(frozen=True)
class Broadcast:
    """How shapes line up from the right. Made by :func:`pytorch_course.tensors.broadcast`.

    Attributes
    ----------
    shapes : tuple of tuple of int
        The shapes, as given.
    result : tuple of int or None
        The common shape, or None if there is none.
    clash : int or None
        The first axis from the right on which the shapes disagree (-1 is the last axis), or None.
    """

    shapes: tuple[Shape, ...]
    result: Shape | None
    clash: int | None

    def __str__(self) -> str:
        rows = [(f"{name:<6} ({len(shape)}-d):", self._columns(shape)) for name, shape in self._named()]
        if self.clash is not None:
            rows.append((f"{'clash':<6}", ["^" if len(self._sizes(axis)) > 1 else "" for axis in self._axes()]))
        left = max(len(label) for label, _ in rows)
        wide = [max(map(len, column)) for column in zip(*(texts for _, texts in rows), strict=True)]
        lines = []
        for label, texts in rows:
            cells = [text.rjust(width) for text, width in zip(texts, wide, strict=True)]
            crosses = [" x " if text.strip().isdigit() else "   " for text in cells[:-1]]
            joined = "".join(cell + cross for cell, cross in zip(cells, [*crosses, ""], strict=False))
            lines.append(f"{label:<{left}}  {joined}")
        if self.clash is not None:
            *most, last = map(str, self._sizes(self.clash))
            lines[-1] += f"  axis {self.clash}: {', '.join(most)} and {last} differ and none is 1"
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        lines = []
        for name, shape in self._named():
            cells = zip(self._axes(), self._columns(shape), strict=True)
            marked = [f'<td class="pc-{self._mark(text, axis)}">{text}</td>' for axis, text in cells]
            lines.append(f'<th scope="row">{name}</th>{"".join(marked)}')
        if self.clash is None:
            caption = f"Shapes lined up from the right; the result is {self.result}"
        else:
            caption = f"Shapes lined up from the right; they clash on axis {self.clash}"
        return _table("pc-broadcast", caption, lines, head=["axis", *map(str, self._axes())])

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the shapes lined up from the right.

        Stretched axes are hatched, axes that a shape lacks are dashed, and a clash is vermilion.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. A new figure of a fitting size by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes drawn on.
        """
        return _draw_broadcast(self, ax)

    def _axes(self) -> range:
        return range(-max(map(len, self.shapes), default=0), 0)

    def _named(self) -> list[tuple[str, Shape]]:
        names = [chr(ord("A") + i) if i < 26 else f"#{i + 1}" for i in range(len(self.shapes))]
        result = [] if self.result is None else [("result", self.result)]
        return [*zip(names, self.shapes, strict=True), *result]

    def _columns(self, shape: Shape) -> list[str]:
        return [str(shape[axis]) if -axis <= len(shape) else "" for axis in self._axes()]

    def _sizes(self, axis: int) -> list[int]:
        """Distinct sizes other than 1 on one axis, in the order of the shapes."""
        return list(dict.fromkeys(s[axis] for s in self.shapes if -axis <= len(s) and s[axis] != 1))

    def _mark(self, text: str, axis: int) -> str:
        if not text:
            return "added"
        sizes = self._sizes(axis)
        if text == "1":
            return "stretched" if len(sizes) == 1 else "size"
        return "size" if len(sizes) == 1 else "clash"


def broadcast(*shapes: Sequence[SupportsIndex] | SupportsIndex) -> Broadcast:
    """Line shapes up from the right and find the shape that they share.

    Sizes on one axis agree when they are equal or one of them is 1; a missing axis counts as 1. A size of 1 is
    stretched to the other size, also when that is 0. The result is that of :func:`torch.broadcast_shapes`.

    Parameters
    ----------
    *shapes : tuple of int, torch.Size or int
        The shapes; an int stands for a shape of one axis.

    Returns
    -------
    Broadcast
        The common shape, or the axis on which the shapes clash: a clash is an answer, not an error.

    Raises
    ------
    TypeError
        If a shape is not made of integers.
    ValueError
        If a size is negative.

    Examples
    --------
    >>> print(broadcast((3, 1), 4))
    A      (2-d):  3 x 1
    B      (1-d):      4
    result (2-d):  3 x 4
    >>> print(broadcast((2, 3), 4))
    A      (2-d):  2 x 3
    B      (1-d):      4
    clash              ^  axis -1: 3 and 4 differ and none is 1
    """
    clean = tuple(_shape(shape, position) for position, shape in enumerate(shapes))
    found = Broadcast(clean, None, None)
    sizes = {axis: found._sizes(axis) for axis in found._axes()}
    clash = max((axis for axis, distinct in sizes.items() if len(distinct) > 1), default=None)
    result = None if clash is not None else tuple(distinct[0] if distinct else 1 for distinct in sizes.values())
    return Broadcast(clean, result, clash)


def _shape(shape: Sequence[SupportsIndex] | SupportsIndex, position: int) -> Shape:
    if isinstance(shape, torch.Tensor):
        raise TypeError(f"shape {position} is a tensor; pass its .shape")
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
    except TypeError:
        raise TypeError(f"shape {position} must be an int or a tuple of ints, got {shape!r}") from None
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape {position} has a negative size: {sizes}")
    return sizes


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _ranges(cells: tuple[int, ...]) -> str:
    """Say in words which cells these are."""
    if len(cells) < 2:
        return f"cell {cells[0]}" if cells else "no cells"
    steps = {after - before for before, after in pairwise(cells)}
    text = f"{len(cells)} cells, {cells[0]} to {cells[-1]}"
    return text if steps == {1} else f"{text}, step {steps.pop()}" if len(steps) == 1 else f"{text}, with gaps"


def _index_text(index: Shape) -> str:
    return ",".join(map(str, index)) or "()"


def _readers_text(readers: list[Shape]) -> str:
    return _index_text(readers[0]) if len(readers) == 1 else f"×{len(readers)}"


def _table(kind: str, caption: str, lines: Iterable[str], head: Sequence[str] = ()) -> str:
    """Build an HTML table around ready rows. Looks are left to the style sheet."""
    columns = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in head)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    top = f"<thead><tr>{columns}</tr></thead>" if head else ""
    return f'<table class="pc-table {kind}"><caption>{html.escape(caption)}</caption>{top}<tbody>{body}</tbody></table>'


def _fact_rows(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f'<th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td>' for name, value in facts]


def _wrap(length: int, most: int) -> list[range]:
    """Cut so many cells into lines of nearly equal length, each of at most ``most`` cells."""
    lines = max(1, -(-length // max(1, most)))
    step = max(1, -(-length // lines))
    return [range(start, min(start + step, length)) for start in range(0, max(1, length), step)]


class _Canvas:
    """Axes measured in cells, with the origin at the top left and text that fits its cell."""

    def __init__(self, ax: matplotlib.axes.Axes | None, width: float, height: float) -> None:
        if ax is None:
            import matplotlib.pyplot as plt

            inch = min(0.45, 8 / width)
            # A subplot that fills the figure: free axes would make a constrained layout warn.
            ax = plt.figure(figsize=(width * inch, height * inch)).add_subplot()
            ax.set_position((0.0, 0.0, 1.0, 1.0))
        ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        ax.set_axis_off()
        box, dpi = ax.get_window_extent(), ax.figure.dpi
        self.ax = ax
        self.scale = 72 / dpi * min(box.width / width, box.height / height)  # points per cell

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 0.4,
        colour: str = BLACK,
        align: Literal["left", "center", "right"] = "center",
    ) -> None:
        """Write text, vertically centred at (x, y), in a size given in cells."""
        self.ax.text(x, y, text, size=size * self.scale, color=colour, ha=align, va="center_baseline")

    def cell(
        self, x: float, y: float, wide: float, high: float, bands: Sequence[Band], edge: str = BLACK, line: str = "-"
    ) -> None:
        """Draw one cell, cut into a layer per band."""
        from matplotlib.patches import Rectangle

        part = high / max(1, len(bands))
        for i, (text, colour) in enumerate(bands):
            self.ax.add_patch(Rectangle((x, y + i * part), wide, part, facecolor=colour, edgecolor="none"))
            size = min(0.42, 0.75 * part, 0.9 * wide / (0.62 * max(1, len(text))))
            self.text(x + wide / 2, y + (i + 0.5) * part, text, size)
        border = Rectangle((x, y), wide, high, fill=False, edgecolor=edge, linestyle=line, linewidth=0.03 * self.scale)
        self.ax.add_patch(border).set_zorder(2 if edge == BLACK else 1.5)  # black edges lie over pale ones

    def hatch(self, x: float, y: float, wide: float, high: float, colour: str) -> None:
        """Draw slanted lines behind the text of the latest cell."""
        plate = {"facecolor": _tint(colour), "edgecolor": "none", "pad": 0.04 * self.scale}
        self.ax.texts[-1].set_bbox(plate if self.ax.texts[-1].get_text() else None)
        steps = [0.25 * i for i in range(1, int((wide + high) / 0.25) + 1)]
        ends = [((x + max(0, s - high), y + min(s, high)), (x + min(s, wide), y + max(0, s - wide))) for s in steps]
        for start, end in ends:
            self.ax.plot(
                *zip(start, end, strict=True),
                color=colour,
                linewidth=0.04 * self.scale,
                zorder=1.2,
                solid_capstyle="butt",
            )


def _colour(number: int) -> str:
    return _tint(COLOURS[number % len(COLOURS)])


def _tint(colour: str) -> str:
    """Mix a colour with white, so that black text on it stays readable."""
    parts = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(255 - 0.55 * (255 - part)):02x}" for part in parts)


def _row_colour(index: Shape, shape: Shape) -> str:
    row = 0
    for at, size in zip(index[:-1], shape, strict=False):
        row = row * size + at
    return _colour(row)


def _draw_layout(view: Layout, ax: matplotlib.axes.Axes | None) -> matplotlib.axes.Axes:
    readers = view._readers()
    wide = max([1.0, *(0.27 * len(_index_text(index)) for who in readers.values() for index in who)])
    high = max([1.0, *(0.6 * min(3, len(who)) for who in readers.values())])
    grids = _place_grids(view.shape)
    lines = _wrap(view.storage_length, int(16.5 / wide))
    top = max((grid.y + len(grid.rows) for grid in grids), default=1.4) + 0.9
    right = max([8.0, 0.9 + len(lines[0]) * wide, *(grid.x + len(grid.columns) for grid in grids)])
    canvas = _Canvas(ax, right + 0.4, top + 0.5 + len(lines) * (high + 0.9))
    canvas.text(0.9, 0.5, "tensor, with storage positions", align="left")
    canvas.text(0.9, top, "storage, with tensor indices", align="left")
    if not grids:
        canvas.text(0.9, 1.2, "no elements", 0.36, GREY, align="left")
    for grid in grids:
        _draw_grid(canvas, view, grid)
    for line, cells in enumerate(lines):
        for cell in cells:
            x, y = 0.9 + (cell - cells.start) * wide, top + 0.5 + line * (high + 0.9)
            bands = [(_index_text(index), _row_colour(index, view.shape)) for index in readers.get(cell, [])]
            bands = bands if len(bands) <= 3 else [*bands[:2], (f"+{len(bands) - 2}", "#FFFFFF")]
            canvas.cell(x, y, wide, high, bands, BLACK if bands else PALE)
            canvas.text(x + wide / 2, y + high + 0.3, str(cell), 0.34, GREY)
    return canvas.ax


class _Grid(NamedTuple):
    """Where one two-dimensional piece of a tensor is drawn."""

    x: float
    y: float
    lead: Shape
    rows: range
    columns: range


def _place_grids(shape: Shape) -> list[_Grid]:
    """Cut a tensor into two-dimensional pieces, put them side by side and wrap them."""
    if 0 in shape:
        return []
    rows, columns = (_wrap(size, most) for size, most in zip((1, 1, *shape)[-2:], (8, 16), strict=True))
    pieces = list(product(product(*map(range, shape[:-2])), rows, columns))
    head = (1.0, 1.5, 1.5, 2.1)[min(len(shape), 3)]
    across, down = len(columns[0]) + 0.9, len(rows[0]) + head - 0.5
    lines = _wrap(len(pieces), int(17 / across))
    return [
        _Grid(0.9 + (i - line.start) * across, head + number * down, *pieces[i])
        for number, line in enumerate(lines)
        for i in line
    ]


def _draw_grid(canvas: _Canvas, view: Layout, grid: _Grid) -> None:
    dims = len(view.shape)
    if dims > 2:
        label, wide = f"[{', '.join(map(str, grid.lead))}, :, :]", len(grid.columns)
        canvas.text(grid.x + wide / 2, grid.y - 0.9, label, min(0.36, 1.6 * (wide + 0.7) / len(label)))
    for (down, row), (across, column) in product(enumerate(grid.rows), enumerate(grid.columns)):
        x, y = grid.x + across, grid.y + down
        index = (*grid.lead, row, column)[len(grid.lead) + 2 - dims :]
        canvas.cell(x, y, 1, 1, [(str(view.address(*index)), _row_colour(index, view.shape))])
        if down == 0 and dims > 0:
            canvas.text(x + 0.5, y - 0.3, str(column), 0.34, GREY)
        if across == 0 and dims > 1:
            canvas.text(x - 0.2, y + 0.5, str(row), 0.34, GREY, align="right")


def _draw_map(found: StorageMap, ax: matplotlib.axes.Axes | None) -> matplotlib.axes.Axes:
    rows = [(name, found._boxes(view)) for name, view in found.views]
    wide = max([1.0, *(0.27 * len(text) / span for _, boxes in rows for _, span, text in boxes)])
    left = 0.5 + 0.27 * max(len(name) for name in ("storage", *dict(rows)))
    lines = found._lines(most=int(16.5 / wide))
    down = 1.2 * len(rows) + 1.9
    canvas = _Canvas(ax, left + len(lines[0]) * wide + 0.3, len(lines) * down - 0.2)
    for line, cells in enumerate(lines):
        y = 0.3 + line * down
        canvas.text(left - 0.25, y + 0.5, "storage", align="right")
        for cell in cells:
            canvas.cell(left + (cell - cells.start) * wide, y, wide, 1, [(str(cell), "#FFFFFF")])
        for number, (name, boxes) in enumerate(rows):
            y += 1.2
            canvas.text(left - 0.25, y + 0.5, name, align="right")
            for cell in cells:
                canvas.cell(left + (cell - cells.start) * wide, y, wide, 1, [], PALE)
            for start, span, text in boxes:
                if start in cells:
                    band = (text, _colour(number))
                    canvas.cell(left + (start - cells.start) * wide, y, span * wide, 1, [band])
    return canvas.ax


_WORDS = {"stretched": "stretched", "added": "missing", "clash": "clash"}  # the legend, by mark


def _draw_broadcast(found: Broadcast, ax: matplotlib.axes.Axes | None) -> matplotlib.axes.Axes:
    rows, axes = found._named(), found._axes()
    longest = max((len(f"1 > {size}") for axis in axes for size in found._sizes(axis)), default=1)
    wide, left = max(1.7, 0.27 * longest + 0.5), 2.0 if axes else 2.6
    marks = {
        found._mark(text, axis) for _, shape in rows for axis, text in zip(axes, found._columns(shape), strict=True)
    }
    legend = [(mark, word) for mark, word in _WORDS.items() if mark in marks]
    bottom = 1.2 + 1.25 * len(rows)
    canvas = _Canvas(ax, max(left + len(axes) * wide, 0.3 + 2.8 * len(legend)) + 0.3, bottom + 0.9 * bool(legend))
    for column, axis in enumerate(axes):
        canvas.text(left + (column + 0.5) * wide - 0.1, 0.5, f"axis {axis}".replace("-", "\u2212"), 0.34, GREY)
    for number, (name, shape) in enumerate(rows):
        y = 0.9 + number * 1.25 + (0.2 if name == "result" else 0)
        canvas.text(left - 0.3, y + 0.5, name if axes else f"{name}: ()", align="right")
        for column, (axis, text) in enumerate(zip(axes, found._columns(shape), strict=True)):
            mark = "result" if name == "result" else found._mark(text, axis)
            target = found._sizes(axis)
            grows = len(target) == 1 and mark in ("stretched", "added")
            shown = f"{text or 1} \u2192 {target[0]}" if grows else text or "1"
            _draw_size(canvas, left + column * wide, y, wide - 0.2, 1, shown, mark)
    for number, (mark, word) in enumerate(legend):
        _draw_size(canvas, 0.5 + 2.8 * number, bottom + 0.1, 0.6, 0.4, "", mark)
        canvas.text(1.25 + 2.8 * number, bottom + 0.3, word, 0.34, align="left")
    return canvas.ax


def _draw_size(canvas: _Canvas, x: float, y: float, wide: float, high: float, text: str, mark: str) -> None:
    colours = {"size": _tint("#56B4E9"), "stretched": _tint("#E69F00"), "clash": VERMILION}
    line = "--" if mark == "added" else "-"
    canvas.cell(x, y, wide, high, [(text, colours.get(mark, "#FFFFFF"))], line=line)
    if mark == "stretched":
        canvas.hatch(x, y, wide, high, "#E69F00")
