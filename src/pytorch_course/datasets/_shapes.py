"""Coloured shapes on a canvas, with the exact class, box and mask of each: for detection and segmentation."""

from collections.abc import Callable, Sequence
from math import pi, sqrt

import torch
from torch import Tensor

from pytorch_course.datasets._samples import Samples, at_least
from pytorch_course.rng import keyed

# Whether a point lies inside the shape that fits a circle of radius 1 around (0, 0).
_INSIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) <= sqrt(1 / 2),
    "triangle": lambda x, y: torch.maximum(y, x.abs() * sqrt(3 / 4) - y / 2) <= 1 / 2,
    "cross": lambda x, y: (torch.maximum(x.abs(), y.abs()) <= 0.95) & (torch.minimum(x.abs(), y.abs()) <= 0.3),
    "ring": lambda x, y: (x * x + y * y - 0.65).abs() <= 0.35,
}
SHAPES = tuple(_INSIDE)
_BLOCK = 16


def shapes(
    n: int, *, size: int = 64, max_objects: int = 4, seed: int = 0, classes: Sequence[str] = SHAPES[:3]
) -> Samples:
    """Draw `n` pictures with one to `max_objects` shapes each, bright on a dark canvas, at any angle.

    A shape lies wholly on the canvas, is 0.22 to 0.44 as large, and others cover a fifth of it at most. One that finds
    no such place is left out, so small numbers are a little more frequent than large ones. Picture i depends on `seed`
    and i (and on the other arguments), not on `n`. An argument out of range raises a ValueError.

    Parameters
    ----------
    n, size, max_objects, seed : int
        Number of pictures, their height and width in pixels (at least 16), most shapes on a picture (call it M), and
        what chooses them: use another for test data.
    classes : sequence of str
        Names out of circle, square, triangle, cross and ring, each once.

    Returns
    -------
    Samples
        ``image`` uint8 [n, 3, size, size], 0 to 255.
        ``mask`` bool [n, M, size, size], the visible pixels of each shape. No two masks of a picture overlap.
        ``box`` float32 [n, M, 4], the tightest around each mask: ``image[top:bottom, left:right]`` is what it cuts out.
        ``label`` int64 [n, M], the position in `classes`.
        ``count`` int64 [n], how many shapes there are. Rows beyond it are empty: False, 0 and -1.

    Examples
    --------
    >>> image, mask, box, label, count = shapes(8)[7]
    >>> target = {"boxes": box[:count], "labels": label[:count] + 1, "masks": mask[:count]}  # as torchvision wants it
    >>> image.shape, len(target["masks"]) == count
    (torch.Size([3, 64, 64]), tensor(True))
    """
    at_least(n=(n, 0), size=(size, 16), max_objects=(max_objects, 1))
    if not classes or set(classes) - set(SHAPES) or len(set(classes)) < len(classes):
        raise ValueError(f"classes is {classes}, expected names out of {', '.join(SHAPES)}, each once")
    blocks = []
    for start in range(0, max(n, 1), _BLOCK):
        with keyed("shapes", seed, start // _BLOCK):
            place, number = torch.rand(_BLOCK, max_objects + 2, 8), torch.rand(_BLOCK)
            canvas, noise = torch.rand(_BLOCK, 3), torch.randn(_BLOCK, 3, size, size)
        label = (place[..., 0] * len(classes)).long()
        full = torch.zeros(*label.shape, size, size, dtype=torch.bool)
        for k, name in enumerate(classes):
            full[label == k] = _draw(name, place[label == k], size)
        mask, rows, count = _keep(full, 1 + (number * max_objects).long(), max_objects)
        there = torch.arange(max_objects) < count[:, None]
        image = _paint(mask, place[rows][..., 5:], canvas, noise)
        box = _boxes(mask).where(there[..., None], 0.0)
        blocks.append((image, mask, box, label[rows].where(there, -1), count))
    names = ("image", "mask", "box", "label", "count")
    columns = (torch.cat(column)[:n] for column in zip(*blocks, strict=True))
    return Samples("shapes", dict(zip(names, columns, strict=True)), classes=classes)


def _draw(name: str, place: Tensor, size: int) -> Tensor:
    """Whole masks of K shapes: bool [K, size, size], the pixels whose centres lie inside."""
    across, down, scale, turn = place[:, 1:5, None, None].unbind(1)
    radius = size * (0.11 + 0.11 * scale)
    pixel = torch.arange(size) + 0.5
    x = (pixel - radius - (size - 2 * radius) * across) / radius
    y = (pixel[:, None] - radius - (size - 2 * radius) * down) / radius
    cos, sin = (2 * pi * turn).cos(), (2 * pi * turn).sin()
    return _INSIDE[name](cos * x + sin * y, cos * y - sin * x)


def _keep(full: Tensor, wanted: Tensor, most: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
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


def _paint(mask: Tensor, hue: Tensor, canvas: Tensor, noise: Tensor) -> Tensor:
    weight = torch.cat([mask, ~mask.any(1, keepdim=True)], 1).float()
    colour = torch.cat([0.4 + 0.6 * hue, 0.25 * canvas[:, None]], 1)
    image = torch.einsum("bmyx,bmc->bcyx", weight, colour) + 0.04 * noise
    return image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _boxes(mask: Tensor) -> Tensor:
    """Left, top, right, bottom of the pixels that are True, the last two exclusive: float32 [..., 4]."""
    lines = torch.stack([mask.any(-2), mask.any(-1)], -2).int()  # columns and rows
    ends = [lines.argmax(-1), mask.shape[-1] - lines.flip(-1).argmax(-1)]
    return torch.cat(ends, -1).float()
