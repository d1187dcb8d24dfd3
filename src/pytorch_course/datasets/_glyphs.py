"""Letters and digits of several scripts, drawn from the fonts that Matplotlib ships, bent and made noisy."""

from collections.abc import Sequence
from functools import lru_cache
from math import radians
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pytorch_course.datasets._samples import Samples, at_least
from pytorch_course.rng import keyed

_STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
_FONTS = (
    *(f"{family}{style}" for family in ("DejaVuSans", "DejaVuSansMono") for style in _STYLES),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmti10", "cmmi10", "cmss10", "cmtt10"),
)
_BLOCK = 256


def glyphs(
    n: int, *, classes: Sequence[str] = "0123456789", size: int = 28, seed: int = 0, distortion: float = 1.0
) -> Samples:
    """Draw `n` pictures of characters, white on black as in MNIST: ``image`` uint8 [n, 1, size, size], ``label`` [n].

    Each picture takes a random character and a random font that has it, turns it by up to 15 degrees, shears, scales
    and shifts it, varies its contrast and adds noise. Picture i depends on `seed` and i (and on the other arguments),
    not on `n`. Use another seed for test data. An argument out of range raises a ValueError.

    Parameters
    ----------
    n, size, seed : int
        Number of pictures, their height and width in pixels (at least 8), and what chooses them.
    classes : str or sequence of str
        The characters to draw, each once, of any script of the fonts: Latin, Greek, Cyrillic, Hebrew, Arabic ...
        ``classes[k]`` has the label k. Some look alike (``O`` and ``0``): nobody can tell those apart.
    distortion : float
        1 as described, 0 for clean, upright, centred characters, at most 3. Larger is harder.

    Examples
    --------
    >>> images, labels = glyphs(100, classes="αβγ").tensors
    >>> images.shape, labels.max()
    (torch.Size([100, 1, 28, 28]), tensor(2))
    """
    at_least(n=(n, 0), size=(size, 8))
    if not 0 <= distortion <= 3:
        raise ValueError(f"distortion is {distortion}, expected a number from 0 to 3")
    if not classes or len(set(classes)) < len(classes) or any(len(char) != 1 for char in classes):
        raise ValueError(f"classes is {classes!r}, expected single characters, at least one and none twice")
    atlas, first, count = _atlas(tuple(classes), size)
    blocks = []
    for start in range(0, max(n, 1), _BLOCK):
        with keyed("glyphs", seed, start // _BLOCK):
            pick, place, noise = torch.rand(2, _BLOCK), torch.rand(8, _BLOCK), torch.randn(_BLOCK, 1, size, size)
        label = (pick[0] * len(classes)).long()
        drawn = _distort(atlas[first[label] + (pick[1] * count[label]).long()], place, noise, size, distortion)
        blocks.append((drawn, label))
    images, labels = (torch.cat(column)[:n] for column in zip(*blocks, strict=True))
    return Samples("glyphs", {"image": images, "label": labels}, classes=classes)


def _distort(sources: Tensor, place: Tensor, noise: Tensor, size: int, distortion: float) -> Tensor:
    """Sample each source under its own affine map, then set contrast and add noise: uint8 [B, 1, size, size]."""
    turn, shear, stretch_x, stretch_y, shift_x, shift_y = distortion * (2 * place[:6] - 1)
    cos, sin = (radians(15) * turn).cos(), (radians(15) * turn).sin()
    scale_x, scale_y = 1 + 0.15 * stretch_x, 1 + 0.15 * stretch_y
    # grid_sample asks, for each target pixel, where in the source to look: so this is the inverse of the movement.
    across = [cos / scale_x, (sin + 0.2 * shear) / scale_x, 0.12 * shift_x]
    down = [-sin / scale_y, cos / scale_y, 0.12 * shift_y]
    theta = torch.stack([*across, *down], -1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(sources), 1, size, size], align_corners=False)
    ink: Tensor = F.grid_sample(sources, grid, mode="bilinear", align_corners=False)
    dim, grain = (distortion * place[6:]).view(2, -1, 1, 1, 1)
    ink = ink * (1 - 0.4 * dim).clamp(min=0.2) + noise * (0.12 * grain)
    return ink.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


@lru_cache(maxsize=8)
def _atlas(classes: tuple[str, ...], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every character in every font that has it, at twice the size; where each class starts, how many it has."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    faces = [FT2Font(str(folder / f"{name}.ttf")) for name in _FONTS]
    drawn = [[_draw(face, char, 2 * size) for face in faces if _can_draw(face, char)] for char in classes]
    if missing := [char for char, pictures in zip(classes, drawn, strict=True) if not pictures]:
        raise ValueError(f"classes has {missing}, which none of the fonts can draw")
    count = torch.tensor([len(pictures) for pictures in drawn])
    atlas = torch.stack([picture for pictures in drawn for picture in pictures]).unsqueeze(1)
    # A 2x2 mean now saves averaging at each sampling: without it, thin strokes would flicker.
    return F.avg_pool2d(F.pad(atlas, (0, 1, 0, 1)), 2, stride=1), count.cumsum(0) - count, count


def _can_draw(face: Any, char: str) -> bool:
    # Computer Modern has other signs behind the codes of punctuation.
    usable = char.isalnum() or not face.family_name.startswith("cm")
    return usable and char.isprintable() and not char.isspace() and ord(char) in face.get_charmap()


def _draw(face: Any, char: str, side: int) -> Tensor:
    """One character centred in a square, its larger dimension at most 0.85 of the side: float32 [side, side]."""
    height = 0.82 * side
    for _ in range(2):
        face.set_size(height, 72)
        face.set_text(char)
        face.draw_glyphs_to_bitmap(antialiased=True)
        bitmap = np.asarray(face.get_image(), dtype=np.float32) / 255
        rows, columns = (np.flatnonzero(bitmap.any(axis)) for axis in (1, 0))
        bitmap = bitmap[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height *= min(1, 0.85 * side / max(bitmap.shape))
    top, left = ((side - length) // 2 for length in bitmap.shape)
    return F.pad(torch.from_numpy(bitmap), (left, side - left - bitmap.shape[1], top, side - top - bitmap.shape[0]))
