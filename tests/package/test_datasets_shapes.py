"""Shapes: masks, boxes and labels agree with each other and with geometry."""

from math import pi, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytorch_course.datasets import shapes
from pytorch_course.datasets._shapes import SHAPES, _draw, _keep


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 6), st.integers(16, 50), st.permutations(SHAPES), st.integers(1, 5))
def test_the_columns_agree(seed: int, most: int, size: int, order: list[str], k: int) -> None:
    data = shapes(20, size=size, max_objects=most, seed=seed, classes=order[:k])
    images, masks, boxes, labels, counts = data.tensors
    assert (images.shape, images.dtype) == ((20, 3, size, size), torch.uint8)
    assert (masks.shape, masks.dtype) == ((20, most, size, size), torch.bool)
    assert masks.sum(1).max() <= 1  # no two overlap
    assert counts.min() >= 1 and counts.max() <= most
    assert data.classes == tuple(order[:k])
    for mask, box, label, count in zip(masks, boxes, labels, counts.tolist(), strict=True):
        assert (label[:count] >= 0).all() and (label[:count] < k).all() and (label[count:] == -1).all()
        assert not mask[count:].any() and not box[count:].any()
        for pixels, (left, top, right, bottom) in zip(mask[:count], box[:count].long().tolist(), strict=True):
            y, x = pixels.nonzero().T
            assert [left, top, right, bottom] == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_boxes_agree_with_torchvision() -> None:
    from torchvision.ops import masks_to_boxes

    _, masks, boxes, _, counts = shapes(50, seed=3).tensors
    for mask, box, count in zip(masks, boxes, counts.tolist(), strict=True):
        inclusive = masks_to_boxes(mask[:count])  # theirs ends on the last pixel, ours behind it
        assert torch.equal(inclusive + torch.tensor([0, 0, 1, 1]), box[:count])


def test_a_prefix_does_not_depend_on_n() -> None:
    for few, many in [(0, 1), (5, 16), (16, 17), (20, 70)]:
        for short, long in zip(shapes(few, seed=few).tensors, shapes(many, seed=few).tensors, strict=True):
            assert torch.equal(short, long[:few])


@pytest.mark.parametrize(
    ("name", "area", "furthest"),
    [
        ("circle", pi, 1),
        ("square", 2, 1),
        ("triangle", 3 * sqrt(3) / 4, 1),
        ("cross", 4 * 0.95 * 0.6 - 0.36, sqrt(0.95**2 + 0.3**2)),
        ("ring", pi * 0.7, 1),
    ],
)
@pytest.mark.parametrize("turn", [0.0, 0.1, 0.37])
def test_each_shape_has_its_area_and_its_place_at_any_angle(
    name: str, area: float, furthest: float, turn: float
) -> None:
    size = 400
    place = torch.tensor([[0, 0.3, 0.8, 0.5, turn, 0, 0, 0]])
    (mask,) = _draw(name, place, size)
    radius = size * (0.11 + 0.11 * 0.5)
    assert mask.sum().item() / radius**2 == pytest.approx(area, rel=0.02)
    points = mask.nonzero() + 0.5
    centre = radius + (size - 2 * radius) * torch.tensor([0.8, 0.3])
    torch.testing.assert_close(points.mean(0), centre, atol=0.5, rtol=0)
    distance = (points - centre).norm(dim=1) / radius
    assert distance.max() == pytest.approx(furthest, abs=0.03)
    assert distance.max() <= furthest
    if name == "ring":
        assert distance.min() == pytest.approx(sqrt(0.3), abs=0.03)


def test_a_shape_covered_by_more_than_a_fifth_is_left_out() -> None:
    full = torch.zeros(1, 4, 10, 10, dtype=torch.bool)
    full[0, 0, :5, :5] = True
    full[0, 1, 4:9, :5] = True  # 5 of 25 pixels covered: stays, without them
    full[0, 2, 3:8, :5] = True  # covered wholly: goes
    full[0, 3, :, 9] = True
    masks, (_, order), counts = _keep(full, torch.tensor([3]), 3)
    assert counts.tolist() == [3]
    assert order.tolist() == [[0, 1, 3]]
    assert masks.sum((2, 3)).tolist() == [[25, 20, 10]]
    masks, _, counts = _keep(full, torch.tensor([2]), 3)  # never more than wanted
    assert counts.tolist() == [2]
    assert masks.sum((2, 3)).tolist() == [[25, 20, 0]]


def test_pictures_vary_with_bright_shapes_and_the_global_generator_stays() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    images, masks, _, labels, counts = shapes(500).tensors
    assert torch.equal(torch.get_rng_state(), before)
    pixels = images.float().permute(0, 2, 3, 1)
    assert pixels[masks.any(1)].mean() > 3 * pixels[~masks.any(1)].mean()
    assert counts.bincount()[1:].min() > 50
    assert labels[labels >= 0].bincount().min() > 300
    assert not torch.equal(shapes(1, seed=1).tensors[0], shapes(1).tensors[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"n": -1}, "n is -1"),
        ({"size": 15}, "size is 15"),
        ({"max_objects": 0}, "max_objects is 0"),
        ({"classes": []}, "classes is"),
        ({"classes": ["star"]}, "star"),
        ({"classes": ["ring", "ring"]}, "each once"),
    ],
)
def test_bad_arguments_are_named(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shapes(**{"n": 1, **kwargs})
