"""Glyphs: labels and pictures agree, item i depends on (seed, i) alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytorch_course.datasets import glyphs
from pytorch_course.datasets._glyphs import _FONTS, _atlas

LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя"


def test_shapes_and_types() -> None:
    data = glyphs(300, size=20, classes=["α", "β", "γ"])
    images, labels = data.tensors
    assert images.shape == (300, 1, 20, 20)
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert data.classes == ("α", "β", "γ")
    assert set(labels.tolist()) == {0, 1, 2}
    assert torch.equal(images, glyphs(300, size=20, classes="αβγ").tensors[0])
    assert repr(glyphs(0)).startswith("glyphs: 0 samples")


@settings(deadline=None, derandomize=True, max_examples=15)
@given(st.integers(0, 600), st.integers(0, 600), st.integers(0, 2**40))
def test_a_prefix_does_not_depend_on_n(few: int, many: int, seed: int) -> None:
    few, many = sorted((few, many))
    for short, long in zip(glyphs(few, seed=seed).tensors, glyphs(many, seed=seed).tensors, strict=True):
        assert torch.equal(short, long[:few])


def test_seeds_and_blocks_differ_and_the_global_generator_stays() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = glyphs(512).tensors[0], glyphs(512, seed=1).tensors[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(a[0], b[0])
    assert len(torch.unique(torch.cat([a, b]).flatten(1), dim=0)) == 1024  # no picture twice


def test_classes_are_about_equally_frequent() -> None:
    counts = glyphs(10_000).tensors[1].bincount(minlength=10)
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_clean_pictures_are_the_atlas_itself() -> None:
    """Without distortion, each picture is one of its label's own drawings: label and picture cannot come apart."""
    images, labels = glyphs(200, classes=LATIN[:10], distortion=0).tensors
    atlas, first, count = _atlas(tuple(LATIN[:10]), 28)
    small = torch.nn.functional.interpolate(atlas, 28, mode="bilinear", antialias=False)
    gap = (images.float().unsqueeze(1) / 255 - small).abs().amax((2, 3, 4))
    best = gap.argmin(1)
    assert gap.min(1).values.max() < 1 / 255
    assert torch.equal((best[:, None] >= first).sum(1) - 1, labels)
    assert count.tolist() == [len(_FONTS)] * 10


def test_labels_survive_distortion() -> None:
    """The nearest clean drawing, searched among all classes, has the right label almost always at mild distortion."""
    images, labels = glyphs(400, distortion=0.3, seed=5).tensors
    clean, clean_labels = glyphs(2000, distortion=0, seed=6).tensors
    found = clean_labels[torch.cdist(images.flatten(1).float(), clean.flatten(1).float()).argmin(1)]
    assert (found == labels).float().mean() > 0.9


@pytest.mark.parametrize("alphabet", [LATIN, GREEK, CYRILLIC, "אבגדהוזחטיכלמנסעפצקרשת", "ابتثجحخدذرزسش", "+-×÷=?!"])
def test_every_drawing_has_ink_and_keeps_off_the_edge(alphabet: str) -> None:
    atlas, first, count = _atlas(tuple(alphabet), 28)
    assert len(atlas) == count.sum() == first[-1] + count[-1]
    assert atlas.flatten(1).max(1).values.min() > 0.5
    edge = torch.cat([atlas[..., 0, :], atlas[..., -1, :], atlas[..., 0], atlas[..., -1]], -1)
    assert edge.abs().max() == 0
    for side in (2, 3):
        inked = [picture.nonzero() + 0.5 for picture in atlas.any(side)[:, 0]]
        assert all(abs((line.min() + line.max()) / 2 - 28) <= 1 for line in inked)


def test_drawings_of_different_letters_differ() -> None:
    atlas, first, _ = _atlas(tuple(GREEK), 28)
    assert len(torch.unique(atlas[first].flatten(1), dim=0)) == len(GREEK)


def test_computer_modern_draws_what_it_has() -> None:
    assert _atlas(("a", "α", "?"), 28)[2].tolist() == [22, 16, 16]  # its code of alpha holds another sign


def test_distortion_grows() -> None:
    means = [glyphs(256, distortion=d).tensors[0][:, :, :3].float().mean().item() for d in (0, 0.5, 1, 2)]
    assert means == sorted(means)
    assert means[0] == 0
    assert means[-1] > 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n": -1}, "n is -1"),
        ({"size": 7}, "size is 7"),
        ({"distortion": -0.1}, "distortion is -0.1"),
        ({"distortion": 3.1}, "distortion is 3.1"),
        ({"distortion": float("nan")}, "distortion is nan"),
        ({"classes": ""}, "classes is ''"),
        ({"classes": "aba"}, "none twice"),
        ({"classes": ["a", "bc"]}, "single characters"),
        ({"classes": "a中"}, "'中'"),
        ({"classes": "a\u200b"}, "u200b"),
        ({"classes": "a "}, r"\[' '\]"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        glyphs(**{"n": 1, **kwargs})
