"""Curves, grids of images, masks, and the book's figure style."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba

from pytorch_course.plots import curves, image_grid, overlay

mpl.use("agg")

OKABE_ITO = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}


@pytest.fixture(autouse=True)
def _book_style():
    with plt.style.context("pytorch_course.book"):
        before = dict(mpl.rcParams)
        yield
        assert dict(mpl.rcParams) == before
    plt.close("all")


def extents(artists):
    """Places in pixels, once everything is laid out."""
    artists = list(artists)
    figure = artists[0].get_figure(root=True)
    figure.draw_without_rendering()
    return [artist.get_window_extent(figure.canvas.get_renderer()) for artist in artists]


def assert_apart_and_inside(boxes, frame):
    for k, box in enumerate(boxes):
        assert frame.x0 - 0.5 <= box.x0 < box.x1 <= frame.x1 + 0.5
        assert frame.y0 - 0.5 <= box.y0 < box.y1 <= frame.y1 + 0.5
        assert not any(box.overlaps(other) for other in boxes[:k])


def contrast(one, other):
    """Contrast of two colours as WCAG 2.2 defines it."""
    shades = []
    for colour in (one, other):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgba(colour)[:3]]
        shades.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(shades) + 0.05) / (min(shades) + 0.05)


# ---------------------------------------------------------------------------------------------------------------- style


def test_style_is_found_by_its_dotted_name():
    assert mpl.rcParams["figure.figsize"] == [6.4, 3.2]
    assert mpl.rcParams["font.sans-serif"][0] == "DejaVu Sans"
    assert mpl.rcParams["figure.constrained_layout.use"]
    assert not mpl.rcParams["axes.spines.top"]
    assert not mpl.rcParams["axes.spines.right"]
    assert not mpl.rcParams["axes.grid"]
    assert mpl.rcParams["image.cmap"] == "cividis"


def test_style_cycles_through_colours_that_everybody_can_tell_apart():
    colours = ["#" + colour.lstrip("#") for colour in mpl.rcParams["axes.prop_cycle"].by_key()["color"]]
    assert colours == ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"]
    assert set(colours) < OKABE_ITO


def test_style_draws_on_solid_white_at_the_width_of_a_page(tmp_path):
    figure, ax = plt.subplots()
    ax.plot([0, 1])
    figure.savefig(tmp_path / "figure.png")
    pixels = plt.imread(tmp_path / "figure.png")
    assert pixels.shape[:2] == (360, 720)
    assert (pixels[:3] == 1).all()
    assert (pixels[..., 3] == 1).all()


def test_text_of_the_style_is_dark():
    for name in ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"):
        assert contrast(mpl.rcParams[name], "white") > 12


# --------------------------------------------------------------------------------------------------------------- curves


def test_curves_draw_numbers_at_their_places_and_pairs_at_their_steps():
    ax = curves(
        {"numbers": [3, 2.5, torch.tensor(2.0)], "pairs": [(0, 1), (5, torch.tensor([0.5])), (10, np.float32(0.25))]},
        xlabel="step",
        ylabel="loss",
    )
    numbers, pairs = ax.get_lines()[:2]
    assert numbers.get_xydata().tolist() == [[0, 3], [1, 2.5], [2, 2]]
    assert pairs.get_xydata().tolist() == [[0, 1], [5, 0.5], [10, 0.25]]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_yscale()) == ("step", "loss", "linear")


def test_curves_take_tensors_arrays_and_values_with_gradients():
    value = torch.tensor(1.0, requires_grad=True)
    ax = curves(
        {
            "vector": torch.tensor([1.0, 2.0], requires_grad=True),
            "rows": torch.tensor([[0.0, 4.0], [1.0, 5.0]]),
            "array": np.array([[0, 6], [1, 7]]),
            "losses": [value, value * 9],
        },
        xlabel="x",
        ylabel="y",
    )
    assert [line.get_ydata().tolist() for line in ax.get_lines()[:4]] == [[1, 2], [4, 5], [6, 7], [1, 9]]


def test_a_legend_names_the_lines():
    ax = curves({"train": [1, 0.5], "test": [1, 0.7]}, xlabel="epoch", ylabel="loss")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["train", "test"]
    assert list(ax.texts) == []


def test_curves_in_given_axes():
    figure, axes = plt.subplots(1, 2)
    axes[1].plot([0, 1], [5, 5])
    assert curves({"a": [1, 2]}, xlabel="x", ylabel="y", log=True, ax=axes[1]) is axes[1]
    assert axes[1].get_yscale() == "log"
    assert plt.get_fignums() == [figure.number]
    assert (
        axes[1].get_lines()[-1].get_color() == axes[1].get_lines()[1].get_color() != axes[1].get_lines()[0].get_color()
    )


def test_gaps_are_left_open():
    ax = curves({"a": [1, float("nan"), 3]}, xlabel="x", ylabel="y")
    assert np.isnan(ax.get_lines()[0].get_ydata()[1])


def test_a_single_point_is_visible():
    ax = curves({"a": [1]}, xlabel="x", ylabel="y")
    assert ax.get_lines()[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({}, "history has no entry"),
        ({"a": []}, r"history\['a'\] has no finite value"),
        ({"a": [float("nan")]}, r"history\['a'\] has no finite value"),
        ({"a": [(1, 2, 3)]}, r"history\['a'\] must hold numbers or \(step, value\) pairs, got 3 numbers"),
    ],
)
def test_curves_without_data_are_explained(history, message):
    with pytest.raises(ValueError, match=message):
        curves(history, xlabel="x", ylabel="y")
    assert plt.get_fignums() == []


def test_logarithm_of_zero_is_explained():
    with pytest.raises(ValueError, match=r"history\['a'\] has values of 0 or less"):
        curves({"a": [1, 0]}, xlabel="x", ylabel="y", log=True)


# ----------------------------------------------------------------------------------------------------------- image_grid


def pictures_of(figure):
    return [np.asarray(ax.get_images()[0].get_array()) for ax in figure.axes]


def test_grid_shows_every_kind_of_image():
    grey, colour = torch.rand(3, 1, 4, 6), torch.rand(2, 3, 4, 6)
    bytes_ = (grey * 255).to(torch.uint8)
    assert np.allclose(pictures_of(image_grid(grey)), grey[:, 0])
    assert np.allclose(pictures_of(image_grid(grey[:, 0].numpy())), grey[:, 0])
    assert np.allclose(pictures_of(image_grid(colour.requires_grad_())), colour.detach().permute(0, 2, 3, 1))
    assert np.allclose(pictures_of(image_grid(bytes_)), bytes_[:, 0] / 255)
    assert np.allclose(pictures_of(image_grid(grey[:, 0] > 0.5)), grey[:, 0] > 0.5)
    for dtype in (torch.float16, torch.bfloat16):
        assert np.allclose(pictures_of(image_grid(grey.to(dtype))), grey[:, 0].to(dtype).float())


def test_grey_is_black_to_white_and_not_stretched(tmp_path):
    figure = image_grid(torch.tensor([[[0.25, 0.5]]]), columns=1)
    (image,) = figure.axes[0].get_images()
    assert image.get_clim() == (0, 1)
    assert to_hex(image.to_rgba(np.array([0.5]))[0]) == "#808080"
    figure.savefig(tmp_path / "grid.png")
    shades = np.unique((plt.imread(tmp_path / "grid.png")[..., 0] * 255).round())
    assert shades.tolist() == [64, 128, 255]


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_grid_is_in_order_and_nothing_overlaps(n, columns, height, width, titled):
    titles = [f"{k}" for k in range(n)] if titled else None
    figure = image_grid(torch.zeros(n, height, width), titles, columns)
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert len(boxes) == n
    assert_apart_and_inside(boxes + (extents(ax.title for ax in figure.axes) if titled else []), figure.bbox)
    assert figure.get_figwidth() == pytest.approx(6.4, abs=0.01)
    for k, box in enumerate(boxes):
        row, column = divmod(k, columns)
        if column:
            assert box.y0 == pytest.approx(boxes[k - 1].y0)
            assert box.x0 > boxes[k - 1].x1
        elif row:
            assert box.y1 < boxes[k - 1].y0
        # True to scale within the rounding to whole pixels.
        assert abs(box.height - box.width * height / width) <= 1
        assert np.allclose(box.extents, np.round(box.extents), atol=1e-6)
    plt.close("all")


def test_titles_stand_above_their_images():
    figure = image_grid(torch.zeros(3, 8, 8), ["7", 1, "9 not 4"])
    assert [ax.get_title() for ax in figure.axes] == ["7", "1", "9 not 4"]


def test_grid_can_be_saved_twice(tmp_path):
    figure = image_grid(torch.zeros(3, 8, 8))
    for dpi in (112.5, 225):
        figure.savefig(tmp_path / "grid.png", dpi=dpi)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(8, 8),), ValueError, r"images must be .* not empty, got \(8, 8\)"),
        ((torch.zeros(2, 8, 8, 3),), ValueError, r"got \(2, 8, 8, 3\)"),
        ((torch.zeros(0, 8, 8),), ValueError, r"not empty, got \(0, 8, 8\)"),
        ((torch.zeros(2, 8, 8, dtype=torch.int64),), TypeError, "uint8, bool or floating, got int64"),
        ((torch.full((2, 8, 8), 255.0),), ValueError, "within 0 to 1, got 255 to 255: rescale them"),
        ((torch.tensor([[[-0.5, 1.0]]]),), ValueError, "got -0.5 to 1"),
        ((torch.full((2, 8, 8), float("nan")),), ValueError, "got nan to nan"),
        ((torch.zeros(2, 8, 8), ["one"]), ValueError, "one per image: 2 images, 1 titles"),
        ((torch.zeros(2, 8, 8), None, 0), ValueError, "columns must be at least 1, got 0"),
    ],
)
def test_images_that_cannot_be_drawn_are_explained(arguments, error, message):
    with pytest.raises(error, match=message):
        image_grid(*arguments)
    assert plt.get_fignums() == []


# -------------------------------------------------------------------------------------------------------------- overlay


def test_overlay_colours_exactly_the_mask():
    image, mask = torch.rand(3, 6, 8), torch.zeros(6, 8, dtype=torch.int64)
    mask[:2], mask[4:, 3:] = 1, 2
    ax = overlay(image, mask, ["background", "sky", "road"])
    picture, sky, road = (np.asarray(shown.get_array()) for shown in ax.get_images())
    assert np.allclose(picture, image.permute(1, 2, 0))
    assert ((sky[..., 3] > 0) == (mask == 1).numpy()).all()
    assert ((road[..., 3] > 0) == (mask == 2).numpy()).all()
    colours = {to_hex(layer[layer[..., 3] > 0][0]).upper() for layer in (sky, road)}
    assert colours == {"#0072B2", "#E69F00"}  # the first two of the style
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["sky", "road"]
    assert {to_hex(patch.get_facecolor()).upper() for patch in legend.get_patches()} == colours


def test_legend_of_an_overlay_stands_beside_the_picture():
    ax = overlay(torch.rand(20, 30), torch.zeros(20, 30, dtype=torch.uint8), ["background", "a long name", "another"])
    assert_apart_and_inside([ax.get_window_extent(), *extents([ax.get_legend()])], ax.figure.bbox)


def test_every_class_can_be_coloured():
    mask = torch.arange(7).repeat(4, 1)
    ax = overlay(torch.rand(4, 7), mask, list("abcdefg"), background=None)
    assert len(ax.get_images()) == 8
    colours = {to_hex(patch.get_facecolor()).upper() for patch in ax.get_legend().get_patches()}
    assert len(colours) == 7
    assert colours < OKABE_ITO
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list("abcdefg")


def test_background_may_be_another_class():
    ax = overlay(torch.rand(2, 2), torch.tensor([[0, 1], [2, 2]]), ["a", "b", "void"], background=2)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_overlay_in_given_axes_and_with_truth_values():
    figure, axes = plt.subplots(1, 2)
    full, empty = torch.ones(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    for ax, mask in zip(axes, (full, empty), strict=True):
        assert overlay(torch.zeros(1, 4, 4), mask, ["background", "cell"], ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize(
    ("image", "mask", "classes", "error", "message"),
    [
        (torch.zeros(4, 4), torch.zeros(4, 5, dtype=int), ["a"], ValueError, r"\(4, 4\), got shape \(4, 5\)"),
        (torch.zeros(4, 4), torch.zeros(4, 4), ["a"], TypeError, "mask must hold whole numbers, got float32"),
        (torch.zeros(1, 2), torch.tensor([[0, 255]]), ["a", "b"], ValueError, r"classes \[255\], .* names for 0 to 1"),
        (torch.zeros(1, 2), torch.tensor([[0, -1]]), ["a", "b"], ValueError, r"classes \[-1\]"),
        (torch.zeros(1, 2), torch.tensor([[0, 1]]), list("abcdefghi"), ValueError, "7 classes .* got 9 names"),
        (torch.zeros(2, 4, 4), torch.zeros(4, 4, dtype=int), ["a"], ValueError, r"image must be .* got \(2, 4, 4\)"),
        (
            torch.zeros(2, 3, 4, 4),
            torch.zeros(4, 4, dtype=int),
            ["a"],
            ValueError,
            r"image must be .* got \(2, 3, 4, 4\)",
        ),
    ],
)
def test_masks_that_cannot_be_drawn_are_explained(image, mask, classes, error, message):
    with pytest.raises(error, match=message):
        overlay(image, mask, classes)
    assert plt.get_fignums() == []
