"""The four pictures that most lessons need: curves, a grid of images, a mask over an image, and a confusion matrix.

They draw in the current Matplotlib style and never show or save. ``plt.style.use("pytorch_course.book")`` is the book's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _VERMILION = "#0072B2", "#D55E00"
_CLASSES = (_BLUE, "#E69F00", "#009E73", "#CC79A7", "#F0E442", _VERMILION, "#56B4E9")
_PAGE = 6.4


def curves(
    history: Mapping[str, Iterable[Any]], *, xlabel: str, ylabel: str, log: bool = False, ax: Axes | None = None
) -> Axes:
    """Draw one line per name, labelled at its end where the labels have room, otherwise in a legend.

    Parameters
    ----------
    history : mapping of str to sequence
        Per name either numbers, which are drawn at 0, 1, 2, ..., or pairs ``(step, value)``. Numbers may be
        tensors with one element.
    xlabel, ylabel : str
        What the axes show, with the unit.
    log : bool, default False
        Whether the vertical axis is logarithmic.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the lines.

    Raises
    ------
    ValueError
        If there is nothing to draw, or ``log`` is set and a value is not positive.

    Examples
    --------
    >>> ax = curves({"train": [0.9, 0.5, 0.3], "test": [(0, 0.9), (2, 0.6)]}, xlabel="epoch", ylabel="loss")
    >>> [text.get_text() for text in ax.texts]
    ['train', 'test']
    """
    import matplotlib.pyplot as plt

    if not history:
        raise ValueError("history has no entry; expected at least one name with its values")
    lines = {name: _points(name, values) for name, values in history.items()}
    for name, points in lines.items():
        if log and (points[:, 1] <= 0).any():
            raise ValueError(f"history[{name!r}] has values of 0 or less, which a logarithmic axis cannot show")
    if ax is None:
        ax = plt.subplots(layout="constrained")[1]
    for name, points in lines.items():
        ax.plot(points[:, 0], points[:, 1], label=name, marker="o" if len(points) == 1 else "")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        ax.set_yscale("log")
    ax.grid(axis="y")
    _name_lines(ax, lines)
    return ax


def _points(name: str, values: Iterable[Any]) -> NDArray[np.float64]:
    pairs = []
    for step, value in enumerate(values):
        pair = (step, value) if np.ndim(value) == 0 else tuple(value)
        if len(pair) != 2:
            raise ValueError(f"history[{name!r}] must hold numbers or (step, value) pairs, got {len(pair)} numbers")
        pairs.append([float(number) for number in pair])
    if not np.isfinite(np.array(pairs).reshape(-1, 2)).all(axis=1).any():
        raise ValueError(f"history[{name!r}] has no finite value to draw")
    return np.array(pairs)


def _name_lines(ax: Axes, lines: Mapping[str, NDArray[np.float64]]) -> None:
    ends = np.array([points[np.isfinite(points).all(axis=1)][-1] for points in lines.values()])
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    pixels = ax.transData.transform(ends)
    # Room for a line of text, and all lines end together, so that no label lies on another line.
    high = 1.3 * ax.yaxis.label.get_size() * figure.dpi / 72
    apart = np.diff(np.sort(pixels[:, 1])).min(initial=np.inf)
    if apart < high or np.ptp(pixels[:, 0]) > 1:
        ax.legend()
        return
    for name, end, line in zip(lines, ends, ax.get_lines()[-len(lines) :], strict=True):
        ax.plot(*end, "o", color=line.get_color(), clip_on=False)
        ax.annotate(name, tuple(end), xytext=(8, 0), textcoords="offset points", va="center", annotation_clip=False)


def image_grid(
    images: Tensor | NDArray[Any],
    titles: Sequence[str] | None = None,
    columns: int = 8,
    *,
    value_range: tuple[float, float] | None = None,
) -> Figure:
    """Draw a batch of images in rows.

    Parameters
    ----------
    images : Tensor or array
        (N, C, H, W) with C = 1 for grey or 3 for red, green, blue; or (N, H, W) for grey. Whole numbers of type
        uint8, booleans, or floating numbers from 0 to 1.
    titles : sequence of str, optional
        A short text above each image.
    columns : int, default 8
        Images per row.
    value_range : (float, float), optional
        The values of floating numbers that become black and white, for pictures that are not photographs, such
        as filters. By default 0 and 1, and any other value is an error.

    Returns
    -------
    matplotlib.figure.Figure
        A new figure as wide as a page.

    Raises
    ------
    TypeError
        If the numbers are of another type.
    ValueError
        If the shape, the number of titles, the number of columns or the range of values is wrong.

    Examples
    --------
    >>> figure = image_grid(torch.zeros(10, 1, 8, 8), columns=5)
    >>> len(figure.axes)
    10
    """
    import matplotlib.pyplot as plt

    pictures = _pictures(images, value_range)
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"titles must be one per image: {len(pictures)} images, {len(titles)} titles")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    # Inches. Few images do not grow beyond a third of the page; the grid stands in the middle.
    gap, head = 0.08, 0.26 if titles is not None else 0.0
    wide = min((_PAGE - gap) / columns - gap, 2.1)
    high = wide * pictures.shape[1] / pictures.shape[2]
    left, total = (_PAGE - columns * (wide + gap) - gap) / 2 + gap, rows * (high + head + gap) + gap
    figure = plt.figure(figsize=(_PAGE, total), layout="none")
    for n, picture in enumerate(pictures):
        row, column = divmod(n, columns)
        x, y = left + column * (wide + gap), total - (row + 1) * (high + head + gap)
        ax = figure.add_axes((x / _PAGE, y / total, wide / _PAGE, high / total))
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set_axis_off()
        if titles is not None:
            ax.set_title(str(titles[n]), fontsize="small", pad=3)
    return figure
