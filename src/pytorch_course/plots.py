"""The three pictures that most lessons need: curves, a grid of images, and a mask over an image.

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


def curves(
    history: Mapping[str, Iterable[Any]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    ax: matplotlib.axes.Axes | None = None,
) -> matplotlib.axes.Axes:
    """Draw one line per name, with a legend.

    Parameters
    ----------
    history : dict of str to list
        Per name numbers, drawn at 0, 1, 2, ..., or pairs ``(step, value)``. Numbers may be tensors with one element.
    xlabel, ylabel : str
        What the axes show, with the unit.
    log : bool, default False
        Whether the vertical axis is logarithmic.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default a new figure.

    Raises
    ------
    ValueError
        If there is nothing to draw, or ``log`` is set and a value is not positive.

    Examples
    --------
    >>> ax = curves({"train": [0.9, 0.5, 0.3], "test": [(0, 0.9), (2, 0.6)]}, xlabel="epoch", ylabel="loss")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
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
    ax.legend()
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


def image_grid(
    images: torch.Tensor | numpy.ndarray, titles: Sequence[str] | None = None, columns: int = 8
) -> matplotlib.figure.Figure:
    """Draw a batch of images in rows, on a new figure as wide as the style's figures.

    Parameters
    ----------
    images : torch.Tensor or numpy.ndarray
        (N, C, H, W) with C = 1 for grey or 3 for red, green, blue; or (N, H, W) for grey. Of type uint8, boolean, or
        floating from 0 to 1.
    titles : list of str, optional
        A short text above each image.
    columns : int
        Images per row.

    Raises
    ------
    TypeError, ValueError
        If the type, the shape, the number of titles or columns, or a value is wrong.

    Examples
    --------
    >>> figure = image_grid(np.zeros((10, 1, 8, 8)), columns=5)
    >>> len(figure.axes)
    10
    """
    import matplotlib.pyplot as plt

    pictures = _pictures(images)
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"titles must be one per image: {len(pictures)} images, {len(titles)} titles")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    # In whole pixels, because an image that starts inside a pixel gets a ragged border. Few images do not grow beyond a
    # third of the page; the grid stands in the middle.
    dpi = plt.rcParams["figure.dpi"]
    page, gap = round(plt.rcParams["figure.figsize"][0] * dpi), round(0.08 * dpi)
    head = round(0.26 * dpi) if titles is not None else 0
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
    """Draw a segmentation mask over its image, each class in a colour of the style, with a legend.

    Parameters
    ----------
    image : torch.Tensor or numpy.ndarray
        (C, H, W) or (H, W), as for :func:`image_grid`.
    mask : torch.Tensor or numpy.ndarray
        (H, W) of whole numbers: the class of each pixel.
    classes : list of str
        Name of class 0, 1, 2, ... At most as many are coloured as the style has colours: seven in this book.
    background : int or None, default 0
        The class that stays uncoloured. None colours all.
    ax : matplotlib.axes.Axes, optional
        Where to draw. By default a new figure.

    Raises
    ------
    TypeError, ValueError
        If image and mask differ in size, the mask does not hold whole numbers, a class has no name, or there are too many.

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
    picture = _pictures(image[None])[0]
    labels = _labels(mask, picture.shape[:2], len(classes))
    palette = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    shown = [k for k in range(len(classes)) if k != background]
    if len(shown) > len(palette):
        raise ValueError(f"overlay tells {len(palette)} classes apart besides the background, got {len(classes)} names")
    if ax is None:
        ax = plt.subplots(layout="constrained")[1]
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    patches = []
    for k, colour in zip(shown, palette, strict=False):
        layer = np.zeros((*labels.shape, 4))
        layer[labels == k] = to_rgba(colour, 0.55)
        ax.imshow(layer, interpolation="nearest")
        patches.append(Patch(facecolor=to_rgba(colour, 0.7), edgecolor=colour, label=classes[k]))
    ax.legend(handles=patches, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_axis_off()
    # The first run of the layout does not know yet how far the legend moves with the picture; the next one does.
    if (figure := ax.get_figure(root=True)) is not None:
        figure.draw_without_rendering()
    return ax


def _array(values: torch.Tensor | numpy.ndarray) -> numpy.ndarray:
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # NumPy has no bfloat16


def _pictures(images: torch.Tensor | numpy.ndarray) -> numpy.ndarray:
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
    least, most = float(pixels.min()), float(pixels.max())
    # A filter or a resize may step over the border by a rounding error; nan fails the comparison.
    if not (least >= -1e-3 and most <= 1 + 1e-3):
        raise ValueError(f"floating images must be within 0 to 1, got {least:.3g} to {most:.3g}: rescale them")
    return np.clip(pixels.astype(np.float64), 0.0, 1.0)


def _labels(mask: torch.Tensor | numpy.ndarray, shape: tuple[int, ...], classes: int) -> numpy.ndarray:
    labels = _array(mask)
    if labels.shape != shape:
        raise ValueError(f"mask must have the height and width of the image, {shape}, got shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) and labels.dtype != np.bool_:
        raise TypeError(f"mask must hold whole numbers, got {labels.dtype}")
    if unknown := [k for k in np.unique(labels).tolist() if not 0 <= k < classes]:
        raise ValueError(f"mask holds classes {unknown}, but there are names for 0 to {classes - 1}")
    return labels
