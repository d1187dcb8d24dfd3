"""How tensors read memory: layout, shared storage and broadcasting, as frozen data that draws itself."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product, zip_longest
from math import prod
from typing import TYPE_CHECKING, SupportsIndex

import torch

from pytorch_course._draw_memory import Shape, draw_broadcast, draw_layout, draw_map, index_text, wrap

if TYPE_CHECKING:
    import matplotlib.axes

DRAWABLE = 32  # more cells than this cannot be read, neither in a figure nor in a fixed-width drawing


def _storage(t: torch.Tensor, name: str) -> torch.UntypedStorage:
    """Return the storage behind a plain strided tensor, or say why there is none."""
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}")
    if t.is_nested or t.is_quantized or t.layout != torch.strided:
        kind = "a nested" if t.is_nested else "a quantised" if t.is_quantized else f"a {t.layout}"
        raise TypeError(f"{name} must be a dense tensor, got {kind} one, which is not a row of cells in one storage")
    try:
        storage = t.untyped_storage()
        pretended = storage.device.type == "meta" or storage.data_ptr() is None
    except RuntimeError:  # such as inside torch.func transforms
        pretended = True
    if pretended:
        raise ValueError(f"{name} must have memory of its own; it is a meta or fake tensor, or wraps another tensor")
    return storage


@dataclass(frozen=True)
class Layout:
    """How a tensor reads its storage, a row of cells of one element each. Made by :func:`pytorch_course.tensors.layout`.

    ``shape`` counts the elements on each axis, and ``stride`` the cells from one of them to the next. ``offset`` is the cell
    of the first element, ``dtype`` the type of all, ``storage`` the number of cells in the whole storage, and
    ``contiguous`` tells whether the elements lie side by side in the order of their indices.
    """

    shape: Shape
    stride: Shape
    offset: int
    dtype: torch.dtype
    storage: int
    contiguous: bool

    def address(self, *index: SupportsIndex) -> int:
        """Return the storage cell of one element, offset + sum(index * stride). Negative indices count from the end.

        Too many indices, too few or one outside its axis are an ``IndexError``.

        Examples
        --------
        >>> layout(torch.zeros(3, 4).t()).address(1, 2)
        9
        """
        if len(index) != len(self.shape):
            raise IndexError(f"shape {self.shape} needs {len(self.shape)} indices, got {len(index)}: {index}")
        cell = self.offset
        for axis, (raw, size, stride) in enumerate(zip(index, self.shape, self.stride, strict=True)):
            at = operator.index(raw)
            if not -size <= at < size:
                allowed = f"use {-size} to {size - 1}" if size else "the axis is empty"
                raise IndexError(f"index {at} is outside axis {axis} of shape {self.shape}: {allowed}")
            cell += at % size * stride
        return cell

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the tensor's grid above the storage, on ``ax`` or on a new figure of a fitting size.

        Each element shows the cell it reads; each cell shows the index that reads it. Rows of the tensor keep their
        colour in the storage. More than 32 elements or cells are a ``ValueError``.
        """
        if max(prod(self.shape), self.storage) > DRAWABLE:
            raise ValueError(f"plot() draws {DRAWABLE} cells, not {prod(self.shape)} elements in {self.storage} cells")
        return draw_layout(self, _readers(self), ax)


def layout(t: torch.Tensor) -> Layout:
    """Describe how a dense tensor reads its storage, as plain numbers with ``plot()``.

    What is no dense tensor is a ``TypeError``; one without memory, as on the meta device, is a ``ValueError``.

    Examples
    --------
    >>> layout(torch.arange(12.0).reshape(3, 4)[1:, ::2])
    Layout(shape=(2, 2), stride=(4, 2), offset=4, dtype=torch.float32, storage=12, contiguous=False)
    """
    return _layout(t, "t")


def _layout(t: torch.Tensor, name: str) -> Layout:
    length = _storage(t, name).nbytes() // t.itemsize
    last = t.storage_offset() + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    if t.numel() and last >= length:
        raise ValueError(f"{name} reads up to cell {last}, but its storage has {length} cells: it was freed")
    return Layout(tuple(t.shape), t.stride(), int(t.storage_offset()), t.dtype, length, t.is_contiguous())


def same_storage(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors read the same memory. Both must be dense, as for :func:`pytorch_course.tensors.layout`.

    True for a tensor and its views, however little they overlap, and for two tensors made from one NumPy array.
    Storages are compared by where they begin, so tensors made from two different slices of an array count as different.

    Examples
    --------
    >>> x = torch.zeros(3, 4)
    >>> same_storage(x, x.t()), same_storage(x, x.clone())
    (True, False)
    """
    first, second = _storage(a, "a"), _storage(b, "b")
    same = first.device == second.device and first.data_ptr() == second.data_ptr()
    if not same or first.data_ptr():
        return same
    # Empty storages have no address: ask torch whether they are one object.
    whole = [torch.empty(0, dtype=torch.uint8, device=s.device).set_(s) for s in (first, second)]
    return whole[0].is_set_to(whole[1])


@dataclass(frozen=True, repr=False)
class StorageMap:
    """Which cells of one storage each view touches. Made by :func:`pytorch_course.tensors.storage_map`.

    Printed, each cell shows the index that reads it. ``×3`` stands for three elements that read the same cell, as after
    :meth:`torch.Tensor.expand`. For a storage of more than 32 cells, only the views are named.

    ``length`` is the number of cells, ``views`` holds the views' names and layouts in the order given.
    """

    length: int
    views: tuple[tuple[str, Layout], ...]

    def cells(self, name: str) -> tuple[int, ...]:
        """Return the cells that the view of that name touches, in rising order. An unknown name is a ``KeyError``.

        Examples
        --------
        >>> x = torch.zeros(3, 4)
        >>> storage_map(x=x, column=x[:, 1]).cells("column")
        (1, 5, 9)
        """
        views = dict(self.views)
        if name not in views:
            raise KeyError(f"no view is called {name!r}; there are {', '.join(views)}")
        view, cells = views[name], {views[name].offset}
        for size, stride in zip(view.shape, view.stride, strict=True):
            cells = {cell + i * stride for cell in cells for i in range(size if stride else min(size, 1))}
        return tuple(sorted(cells))

    def __repr__(self) -> str:
        if self.length > DRAWABLE:
            return f"storage of {self.length} cells, with {', '.join(dict(self.views))}"
        left = max(len(name) for name in ("storage", *dict(self.views)))
        rows = self._rows()
        wide = max((len(text) for _, row in rows for text in row.values()), default=1) + 2
        return "\n\n".join(
            "\n".join(f"{name:<{left}}" + "".join(row.get(c, ".").rjust(wide) for c in cells) for name, row in rows)
            for cells in wrap(self.length, (79 - left) // wide)
        )

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the storage as a row of cells, and beneath it one row per view, on ``ax`` or on a new figure.

        A view's cells hold the index that reads them, or how many indices do. More than 32 are a ``ValueError``.
        """
        if self.length > DRAWABLE:
            raise ValueError(f"plot() draws {DRAWABLE} cells, but the storage has {self.length}; cells() lists them")
        return draw_map(self._rows(), self.length, ax)

    def _rows(self) -> list[tuple[str, dict[int, str]]]:
        """Name every row of cells and label the cells that are read."""
        rows = [("storage", {cell: str(cell) for cell in range(self.length)})]
        for name, view in self.views:
            # An axis of stride 0 is counted, not walked: expand() makes it as long as it likes.
            axes = list(zip(view.shape, view.stride, strict=True))
            repeats = prod(size for size, stride in axes if not stride)
            once = replace(view, shape=tuple(size if stride else min(size, 1) for size, stride in axes))
            texts = {cell: (index_text(who[0]), repeats * len(who)) for cell, who in _readers(once).items()}
            rows.append((name, {cell: text if times == 1 else f"×{times}" for cell, (text, times) in texts.items()}))
        return rows


def storage_map(**named: torch.Tensor) -> StorageMap:
    """Find which cells of one storage each named dense tensor touches. The map prints and has ``plot()``.

    A tensor that differs from the first in its storage or in the bytes of an element is a ``ValueError``.

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
    (first, start), *others = named.items()
    for name, t in others:
        if not same_storage(start, t):
            raise ValueError(f"{name} does not share the storage of {first}")
        if t.itemsize != start.itemsize:
            raise ValueError(f"{name} is {t.dtype}, but {first} is {start.dtype}: their elements must have one size")
    return StorageMap(views[0][1].storage, views)


def _readers(view: Layout) -> dict[int, list[Shape]]:
    """Return the indices that read each cell."""
    readers: dict[int, list[Shape]] = {}
    for index in product(*map(range, view.shape)):
        readers.setdefault(view.address(*index), []).append(index)
    return readers


@dataclass(frozen=True)
class Broadcast:
    """How shapes line up from the right. Made by :func:`pytorch_course.tensors.broadcast`.

    ``shapes`` are those given, ``result`` is the common shape or None, and ``clash`` the first axis from the right on which
    the shapes disagree (-1 is the last axis), or None.
    """

    shapes: tuple[Shape, ...]
    result: Shape | None
    clash: int | None

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the shapes lined up from the right, on ``ax`` or on a new figure of a fitting size.

        Stretched axes are hatched, axes that a shape lacks are dashed, and a clash is vermilion.
        """
        named = [(chr(ord("A") + i) if i < 26 else f"#{i + 1}", shape) for i, shape in enumerate(self.shapes)]
        named += [] if self.result is None else [("result", self.result)]
        columns, rows = _sizes(self.shapes), []
        for name, shape in named:
            texts = [""] * (len(columns) - len(shape)) + list(map(str, shape))
            marked = []
            for text, sizes in zip(texts, columns, strict=True):
                grows = text in ("", "1") and len(sizes) == 1
                clashes = text not in ("", "1") and len(sizes) > 1
                mark = "missing" if not text else "stretched" if grows else "clash" if clashes else "size"
                marked.append((f"1 \u2192 {sizes[0]}" if grows else text or "1", mark))
            rows.append((name, marked))
        return draw_broadcast(rows, ax)


def _sizes(shapes: Sequence[Shape]) -> list[list[int]]:
    """Sizes other than 1 on every axis, once each, in the order of the shapes."""
    columns = list(zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1))
    return [list(dict.fromkeys(size for size in column if size != 1)) for column in reversed(columns)]


def broadcast(*shapes: Sequence[SupportsIndex] | SupportsIndex) -> Broadcast:
    """Line shapes up from the right and find the shape that they share; an int stands for a shape of one axis.

    Sizes on one axis agree when they are equal or one of them is 1; a missing axis counts as 1. A size of 1 is
    stretched to the other size, also when that is 0. The result is that of :func:`torch.broadcast_shapes`. Where there
    is none, the axis of the clash is the answer: that is no error. A shape not made of integers is a ``TypeError``, a
    negative size a ``ValueError``.

    Examples
    --------
    >>> broadcast((3, 1), 4)
    Broadcast(shapes=((3, 1), (4,)), result=(3, 4), clash=None)
    >>> broadcast((2, 3), 4)
    Broadcast(shapes=((2, 3), (4,)), result=None, clash=-1)
    """
    clean = tuple(_shape(shape, position) for position, shape in enumerate(shapes))
    sizes = _sizes(clean)
    clash = max((axis for axis in range(-len(sizes), 0) if len(sizes[axis]) > 1), default=None)
    return Broadcast(clean, None if clash is not None else tuple(size[0] if size else 1 for size in sizes), clash)


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
