"""The four pictures that most lessons need: curves, a grid of images, a mask over an image, and a confusion matrix.

They draw in the current Matplotlib style and never show or save. The style of the book is ``pytorch_course.book``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import numpy

_BLUE, _VERMILION = "#0072B2", "#D55E00"
_CLASSES = (_BLUE, "#E69F00", "#009E73", "#CC79A7", "#F0E442", _VERMILION, "#56B4E9")
_PAGE = 6.4


def curves(
    history: Mapping[str, Iterable[Any]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    ax: matplotlib.axes.Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw one line per name, labelled at its end where the labels have room, otherwise in a legend.

    Parameters
    ----------
    history : dict of str to list
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


def _points(name: str, values: Iterable[Any]) -> numpy.ndarray:
    pairs = []
    for step, value in enumerate(values):
        pair = tuple(value) if isinstance(value, Sequence) or getattr(value, "ndim", 0) > 0 else (step, value)
        if len(pair) != 2:
            raise ValueError(f"history[{name!r}] must hold numbers or (step, value) pairs, got {len(pair)} numbers")
        pairs.append([float(number.item() if isinstance(number, torch.Tensor) else number) for number in pair])
    if not np.isfinite(np.array(pairs).reshape(-1, 2)).all(axis=1).any():
        raise ValueError(f"history[{name!r}] has no finite value to draw")
    return np.array(pairs)


def _name_lines(ax: matplotlib.axes.Axes, lines: Mapping[str, numpy.ndarray]) -> None:
    from matplotlib import rcParams

    ends = np.array([points[np.isfinite(points).all(axis=1)][-1] for points in lines.values()])
    # The layout decides how high the axes are, and so how close the labels come.
    inch = _settled(ax)[2]
    x, y = ax.transData.transform(ends).T / inch
    # Only where all lines end together does no label lie on another line.
    if np.ptp(x) > 0.01 or np.diff(np.sort(y)).min(initial=np.inf) < 1.3 * rcParams["font.size"] / 72:
        ax.legend()
        return
    for name, end, line in zip(lines, ends, ax.get_lines()[-len(lines) :], strict=True):
        ax.plot(*end, "o", color=line.get_color(), clip_on=False)
        ax.annotate(name, tuple(end), xytext=(8, 0), textcoords="offset points", va="center", annotation_clip=False)


def image_grid(
    images: torch.Tensor | numpy.ndarray,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    *,
    value_range: tuple[float, float] | None = None,
) -> matplotlib.figure.Figure:
    """Draw a batch of images in rows.

    Parameters
    ----------
    images : torch.Tensor or numpy.ndarray
        (N, C, H, W) with C = 1 for grey or 3 for red, green, blue; or (N, H, W) for grey. Whole numbers of type
        uint8, booleans, or floating numbers from 0 to 1.
    titles : list of str, optional
        A short text above each image.
    columns : int, default 8
        Images per row.
    value_range : tuple of float, optional
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
    >>> figure = image_grid(np.zeros((10, 1, 8, 8)), columns=5)
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
    # In whole pixels, because an image that starts inside a pixel gets a ragged border. Few images do not grow beyond a
    # third of the page; the grid stands in the middle.
    dpi = plt.rcParams["figure.dpi"]
    page, gap, head = round(_PAGE * dpi), round(0.08 * dpi), round(0.26 * dpi) if titles is not None else 0
    wide = min((page - gap) // columns - gap, round(2.1 * dpi))
    high = max(1, round(wide * pictures.shape[1] / pictures.shape[2]))
    left, total = (page - columns * (wide + gap) + gap) // 2, rows * (high + head + gap) + gap
    figure = plt.figure(figsize=(page / dpi, total / dpi), layout="constrained")
    # Not layout="none" at once: after a first save Matplotlib would then fall back to the layout of the style.
    figure.set_layout_engine("none")
    for n, picture in enumerate(pictures):
        row, column = divmod(n, columns)
        x, y = left + column * (wide + gap), total - (row + 1) * (high + head + gap)
        ax = figure.add_axes((x / page, y / total, wide / page, high / total))
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect="auto")
        ax.set_axis_off()
        if titles is not None:
            ax.set_title(str(titles[n]), fontsize="small", pad=3)
    return figure


def overlay(
    image: torch.Tensor | numpy.ndarray,
    mask: torch.Tensor | numpy.ndarray,
    classes: Sequence[str],
    *,
    background: int | None = 0,
    ax: matplotlib.axes.Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw a segmentation mask over its image, each class in a colour of its own, with a legend.

    Parameters
    ----------
    image : torch.Tensor or numpy.ndarray
        (C, H, W) or (H, W), as for :func:`image_grid`.
    mask : torch.Tensor or numpy.ndarray
        (H, W) of whole numbers: the class of each pixel.
    classes : list of str
        Name of class 0, 1, 2, ... At most seven are coloured.
    background : int or None, default 0
        The class that stays uncoloured. None colours all.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the picture.

    Raises
    ------
    TypeError
        If the mask does not hold whole numbers.
    ValueError
        If image and mask differ in size, a class has no name, or there are too many classes.

    Examples
    --------
    >>> ax = overlay(np.zeros((3, 4, 4)), np.eye(4, dtype=int), ["background", "cat"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['cat']
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise ValueError(f"image must be (1, H, W), (3, H, W) or (H, W), got {tuple(image.shape)}")
    picture = _pictures(image[None], None)[0]
    labels = _labels(mask, picture.shape[:2], len(classes))
    colours = dict(zip((k for k in range(len(classes)) if k != background), _CLASSES, strict=False))
    if len(colours) < len(classes) - (background is not None and 0 <= background < len(classes)):
        raise ValueError(
            f"overlay tells {len(_CLASSES)} classes apart besides the background, got {len(classes)} names"
        )
    if ax is None:
        ax = plt.subplots(layout="constrained")[1]
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    for k, colour in colours.items():
        here = labels == k
        layer = np.zeros((*here.shape, 4))
        layer[here] = to_rgba(colour, 0.55)
        ax.imshow(layer, interpolation="nearest")
        if here.any() and not here.all():
            ax.contour(here, levels=[0.5], colors=[colour], linewidths=1.5)
    patches = [Patch(facecolor=to_rgba(colour, 0.7), edgecolor=colour) for colour in colours.values()]
    ax.legend(patches, [classes[k] for k in colours], loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_axis_off()
    # The first run of the layout does not know yet how far the legend moves with the picture; the next one does.
    _settled(ax)
    return ax


def confusion(
    matrix: torch.Tensor | numpy.ndarray, labels: Sequence[str], *, ax: matplotlib.axes.Axes | None = None
) -> matplotlib.axes.Axes:
    """Draw a confusion matrix with its counts: right answers in blue, errors in vermilion.

    The strength of a colour is the share within the row, so that rare classes count as much as frequent ones.

    Parameters
    ----------
    matrix : torch.Tensor or numpy.ndarray
        (K, K) counts: ``matrix[i, j]`` samples of the true class i were taken for class j.
    labels : list of str
        Name of each of the K classes.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the matrix.

    Raises
    ------
    ValueError
        If the matrix is not square, holds something other than counts, or does not fit the labels.

    Examples
    --------
    >>> ax = confusion(np.array([[9, 1], [0, 5]]), ["cat", "dog"])
    >>> [text.get_text() for text in ax.texts]
    ['9', '1', '0', '5']
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgb

    counts = _array(matrix)
    if not labels:
        raise ValueError("confusion needs at least one label")
    if counts.shape != (len(labels), len(labels)):
        raise ValueError(f"matrix must have one row and column per label: {len(labels)} labels, shape {counts.shape}")
    if not (np.isfinite(counts).all() and (counts >= 0).all() and (counts == counts.round()).all()):
        raise ValueError("matrix must hold counts, that is whole numbers from 0; pass it before normalising")
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    right = np.eye(len(labels), dtype=bool)[..., None]
    colour = np.where(right, to_rgb(_BLUE), to_rgb(_VERMILION))
    # The square root lets a few errors in a hundred be seen.
    cells = 1 - np.sqrt(share)[..., None] * (1 - colour)
    if ax is None:
        side = min(_PAGE, 1.4 + 0.48 * max(4, len(labels)))
        ax = plt.subplots(figsize=(_PAGE, side), layout="constrained")[1]
    ax.imshow(cells)
    ticks = np.arange(len(labels))
    steep = max(map(len, labels)) > 3
    ax.set_xticks(ticks, labels, rotation=45 if steep else 0, ha="right" if steep else "center", rotation_mode="anchor")
    ax.set_yticks(ticks, labels)
    ax.set_xticks(ticks[1:] - 0.5, minor=True)
    ax.set_yticks(ticks[1:] - 0.5, minor=True)
    ax.grid(which="minor", color="#DDDDDD", linewidth=0.7)
    ax.spines[:].set(visible=True, color="#DDDDDD")
    ax.tick_params(which="both", length=0)
    ax.set(xlabel="predicted", ylabel="true")
    _write_counts(ax, counts, cells)
    return ax


def _write_counts(ax: matplotlib.axes.Axes, counts: numpy.ndarray, cells: numpy.ndarray) -> None:
    from matplotlib import rcParams

    # A bold digit is 0.7 times as wide as its size; the longest count fills at most nine tenths of a cell.
    cell = _settled(ax)[0] * 72 / len(counts)
    size = min(rcParams["font.size"], 0.9 * cell / (0.7 * len(f"{counts.max():.0f}")))
    for (row, column), count in np.ndenumerate(counts):
        colour = _ink(cells[row, column]) if count else "#6B6B6B"
        weight = "bold" if row == column else "normal"
        ax.text(column, row, f"{count:.0f}", size=size, color=colour, weight=weight, ha="center", va="center")


def _settled(ax: matplotlib.axes.Axes) -> tuple[float, float, float]:
    """Run the layout of the figure; return the width and the height of the axes in inches, and an inch in pixels."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    room = ax.get_window_extent()
    return room.width / figure.dpi, room.height / figure.dpi, figure.dpi


def _array(values: torch.Tensor | numpy.ndarray) -> numpy.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _pictures(images: torch.Tensor | numpy.ndarray, value_range: tuple[float, float] | None) -> numpy.ndarray:
    """Return (N, H, W) or (N, H, W, 3) from 0 to 1."""
    pixels = _array(images)
    if pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[1] not in (1, 3)) or 0 in pixels.shape:
        raise ValueError(f"images must be (N, 1, H, W), (N, 3, H, W) or (N, H, W) and not empty, got {pixels.shape}")
    if pixels.ndim == 4:
        pixels = pixels[:, 0] if pixels.shape[1] == 1 else np.moveaxis(pixels, 1, -1)
    if pixels.dtype in (np.uint8, np.bool_):
        return pixels / (255.0 if pixels.dtype == np.uint8 else 1.0)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise TypeError(f"images must be uint8, bool or floating, got {pixels.dtype}")
    low, high = value_range or (0.0, 1.0)
    if not low < high:
        raise ValueError(f"value_range must rise, got {value_range}")
    least, most = float(pixels.min()), float(pixels.max())
    # A filter or a resize may step over the border by a rounding error; nan fails the comparison.
    if value_range is None and not (least >= -1e-3 and most <= 1 + 1e-3):
        raise ValueError(f"floating images must be within 0 to 1, got {least:.3g} to {most:.3g}; undo a normalisation")
    return np.clip((pixels.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def _labels(mask: torch.Tensor | numpy.ndarray, shape: tuple[int, ...], classes: int) -> numpy.ndarray:
    labels = _array(mask)
    if labels.shape != shape:
        raise ValueError(f"mask must have the height and width of the image, {shape}, got shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) and labels.dtype != np.bool_:
        raise TypeError(f"mask must hold whole numbers, got {labels.dtype}")
    unknown = [k for k in np.unique(labels).tolist() if not 0 <= k < classes]
    if unknown:
        raise ValueError(f"mask holds classes {unknown}, but there are names for 0 to {classes - 1}")
    return labels


def _ink(colour: numpy.ndarray) -> str:
    # Relative luminance and the contrast of WCAG 2.2: black wins where it contrasts more than white.
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#FFFFFF"
