"""Coloured shapes on a canvas, with the exact class, box and mask of each: for detection and segmentation."""

from collections.abc import Callable, Sequence
from math import pi, sqrt

import torch

from pytorch_course.datasets._samples import Samples, at_least
from pytorch_course.rng import keyed

# Whether a point lies inside the shape that fits a circle of radius 1 around (0, 0).
_INSIDE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) <= sqrt(1 / 2),
    "triangle": lambda x, y: torch.maximum(y, x.abs() * sqrt(3 / 4) - y / 2) <= 1 / 2,
    "cross": lambda x, y: (torch.maximum(x.abs(), y.abs()) <= 0.95) & (torch.minimum(x.abs(), y.abs()) <= 0.3),
    "ring": lambda x, y: (x * x + y * y - 0.65).abs() <= 0.35,
}

SHAPES = tuple(_INSIDE)
"""Names of the shapes that can be drawn, in the order of their labels."""

_BLOCK = 16


def shapes(
    n: int, *, size: int = 64, max_objects: int = 4, seed: int = 0, classes: Sequence[str] = SHAPES[:3]
) -> Samples:
    """Draw `n` pictures with one to `max_objects` shapes each, bright on a dark canvas, at any angle.

    A shape lies wholly on the canvas, and others cover a fifth of it at most. A shape that finds no such place is left
    out, so small numbers are a little more frequent than large ones.
    Picture i depends on `seed` and i (and on the other arguments), not on `n`. Use another seed for test data.

    Parameters
    ----------
    n : int
        Number of pictures.
    size : int
        Height and width of a picture in pixels, at least 16. A shape is 0.22 to 0.44 as large.
    max_objects : int
        Most shapes on a picture, at least 1. Call it M.
    seed : int
        Chooses the pictures.
    classes : sequence of str
        Names out of ``SHAPES``, each once.

    Returns
    -------
    Samples
        ``image`` uint8 [n, 3, size, size], 0 to 255.
        ``mask`` bool [n, M, size, size], the visible pixels of each shape. No two masks of a picture overlap.
        ``box`` float32 [n, M, 4], the tightest box around each mask as left, top, right, bottom in pixels, the last two
        exclusive: ``image[top:bottom, left:right]`` is the cut-out.
        ``label`` int64 [n, M], the position in `classes`.
        ``count`` int64 [n], how many shapes there are. Rows of the others beyond it are empty: False, 0 and -1.

    Raises
    ------
    ValueError
        If an argument is out of range or names an unknown shape.

    Examples
    --------
    >>> data = shapes(100, max_objects=2)
    >>> data
    shapes: 100 samples
      image    uint8 [3, 64, 64], 0 to 255
      mask     bool [2, 64, 64]
      box      float32 [2, 4], 0 to 64
      label    int64 [2], -1 to 2
      count    int64, 1 to 2
      classes  circle, square, triangle
    >>> image, mask, box, label, count = data[7]
    >>> target = {"boxes": box[:count], "labels": label[:count] + 1, "masks": mask[:count]}  # as torchvision wants it
    """
    at_least(n=(n, 0), size=(size, 16), max_objects=(max_objects, 1))
    if not classes or set(classes) - set(SHAPES) or len(set(classes)) < len(classes):
        raise ValueError(f"classes is {classes}, expected names out of {', '.join(SHAPES)}, each once")
    columns = {
        "image": torch.empty(n, 3, size, size, dtype=torch.uint8),
        "mask": torch.empty(n, max_objects, size, size, dtype=torch.bool),
        "box": torch.empty(n, max_objects, 4),
        "label": torch.empty(n, max_objects, dtype=torch.int64),
        "count": torch.empty(n, dtype=torch.int64),
    }
    for start in range(0, n, _BLOCK):
        with keyed("shapes", seed, start // _BLOCK):
            place, number = torch.rand(_BLOCK, max_objects + 2, 8), torch.rand(_BLOCK)
            canvas, noise = torch.rand(_BLOCK, 3), torch.randn(_BLOCK, 3, size, size)
        label = (place[..., 0] * len(classes)).long()
        full = torch.zeros(*label.shape, size, size, dtype=torch.bool)
        for k, name in enumerate(classes):
            full[label == k] = _draw(name, place[label == k], size)
        mask, rows, count = _keep(full, 1 + (number * max_objects).long(), max_objects)
        there = torch.arange(max_objects) < count[:, None]
        block = {
            "image": _paint(mask, place[rows][..., 5:], canvas, noise),
            "mask": mask,
            "box": _boxes(mask).where(there[..., None], 0.0),
            "label": label[rows].where(there, -1),
            "count": count,
        }
        for name, column in columns.items():
            column[start : start + _BLOCK] = block[name][: n - start]
    return Samples("shapes", columns, classes=classes)


def _draw(name: str, place: torch.Tensor, size: int) -> torch.Tensor:
    """Whole masks of K shapes: bool [K, size, size], the pixels whose centres lie inside."""
    across, down, scale, turn = place[:, 1:5, None, None].unbind(1)
    radius = size * (0.11 + 0.11 * scale)
    pixel = torch.arange(size) + 0.5
    x = (pixel - radius - (size - 2 * radius) * across) / radius
    y = (pixel[:, None] - radius - (size - 2 * radius) * down) / radius
    cos, sin = (2 * pi * turn).cos(), (2 * pi * turn).sin()
    return _INSIDE[name](cos * x + sin * y, cos * y - sin * x)


def _keep(
    full: torch.Tensor, wanted: torch.Tensor, most: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Visible masks of the shapes that stay, the index that picks them out of other columns, how many there are."""
    taken, found = torch.zeros_like(full[:, 0]), torch.zeros_like(wanted)
    kept = torch.zeros(full.shape[:2], dtype=torch.bool)
    for j, mask in enumerate(full.unbind(1)):  # the first lies on top
        area = mask.sum((1, 2))
        mask &= ~taken
        kept[:, j] = (found < wanted) & (mask.sum((1, 2)) >= 0.8 * area)
        mask &= kept[:, j, None, None]
        taken |= mask
        found += kept[:, j]
    order = kept.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    rows = (torch.arange(len(full))[:, None], order)
    return full[rows], rows, found


def _paint(mask: torch.Tensor, hue: torch.Tensor, canvas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    weight = torch.cat([mask, ~mask.any(1, keepdim=True)], 1).float()
    colour = torch.cat([0.4 + 0.6 * hue, 0.25 * canvas[:, None]], 1)
    image = torch.einsum("bmyx,bmc->bcyx", weight, colour) + 0.04 * noise
    return image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _boxes(mask: torch.Tensor) -> torch.Tensor:
    size = mask.shape[-1]
    ends = []
    for lines in (mask.any(2), mask.any(3)):  # columns, then rows
        ends += [lines.int().argmax(-1), size - lines.flip(-1).int().argmax(-1)]
    left, right, top, bottom = ends
    return torch.stack([left, top, right, bottom], -1).float()
