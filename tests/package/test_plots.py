"""Curves, grids of images, masks and confusion matrices, and the book's figure style."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex, to_rgba

from pytorch_course.plots import confusion, curves, image_grid, overlay

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


def test_labels_stand_at_the_ends_of_their_lines():
    history = {"train": [1, 0.5, 0.2], "test": [1, 0.7, 0.6]}
    ax = curves(history, xlabel="epoch", ylabel="loss")
    assert ax.get_legend() is None
    assert [text.get_text() for text in ax.texts] == ["train", "test"]
    boxes = extents(ax.texts)
    assert_apart_and_inside(boxes, ax.figure.bbox)
    for box, values in zip(boxes, history.values(), strict=True):
        x, y = ax.transData.transform((2, values[-1]))
        assert box.x0 > x
        assert box.y0 < y < box.y1
    dots = ax.get_lines()[2:]
    assert [dot.get_color() for dot in dots] == [line.get_color() for line in ax.get_lines()[:2]]


@pytest.mark.parametrize(
    "history",
    [
        {"train": [1, 0.50], "test": [1, 0.51]},
        {"short": [1, 0.2], "long": [1, 0.8, 0.7]},
        {"train": [1, 0.2], "test": [1, 0.2]},
    ],
    ids=["close", "different ends", "same end"],
)
def test_a_legend_where_labels_would_collide(history):
    ax = curves(history, xlabel="epoch", ylabel="loss")
    assert list(ax.texts) == []
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(history)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=7), st.booleans())
def test_labels_never_overlap(ends, log):
    ax = curves({f"line {k}": [1, end] for k, end in enumerate(ends)}, xlabel="x", ylabel="y", log=log)
    if ax.get_legend() is None:
        assert len(ax.texts) == len(ends)
        assert_apart_and_inside(extents(ax.texts), ax.figure.bbox)
    plt.close("all")


def test_curves_in_given_axes():
    figure, axes = plt.subplots(1, 2)
    axes[1].plot([0, 1], [5, 5])
    assert curves({"a": [1, 2]}, xlabel="x", ylabel="y", log=True, ax=axes[1]) is axes[1]
    assert axes[1].get_yscale() == "log"
    assert plt.get_fignums() == [figure.number]
    assert (
        axes[1].get_lines()[-1].get_color() == axes[1].get_lines()[1].get_color() != axes[1].get_lines()[0].get_color()
    )


def test_gaps_are_left_open_and_the_label_stands_at_the_last_number():
    ax = curves({"a": [1, float("nan"), 3, float("nan")]}, xlabel="x", ylabel="y")
    assert np.isnan(ax.get_lines()[0].get_ydata()[1])
    assert ax.texts[0].xy == (2, 3)


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
    assert np.allclose(pictures_of(image_grid(grey.half())), grey[:, 0].half())


def test_grey_is_black_to_white_and_not_stretched(tmp_path):
    figure = image_grid(torch.tensor([[[0.25, 0.5]]]), columns=1)
    (image,) = figure.axes[0].get_images()
    assert image.get_clim() == (0, 1)
    assert to_hex(image.to_rgba(np.array([0.5]))[0]) == "#808080"
    figure.savefig(tmp_path / "grid.png")
    shades = np.unique((plt.imread(tmp_path / "grid.png")[..., 0] * 255).round())
    assert shades.tolist() == [64, 128, 255]


def test_value_range_maps_any_numbers():
    figure = image_grid(torch.tensor([[[-3.0, -2.0, 0.0, 2.0]]]), value_range=(-2, 2))
    assert pictures_of(figure)[0].tolist() == [[0, 0, 0.5, 1]]


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
        ((torch.full((2, 8, 8), 255.0),), ValueError, "within 0 to 1, got 255 to 255; undo a normalisation"),
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


def test_an_empty_value_range_is_explained():
    with pytest.raises(ValueError, match=r"value_range must rise, got \(1, 1\)"):
        image_grid(torch.zeros(2, 8, 8), value_range=(1, 1))


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
    assert len(colours) == 2
    assert colours < OKABE_ITO
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


# ------------------------------------------------------------------------------------------------------------ confusion


def test_confusion_writes_every_count_and_names_both_axes():
    ax = confusion(torch.tensor([[50, 0, 1], [2, 47, 1], [0, 9, 41]]), ["setosa", "versicolor", "virginica"])
    shown = {text.get_position(): text.get_text() for text in ax.texts}
    assert shown[0, 0] == "50"
    assert shown[1, 2] == "9"  # column 1, row 2: nine virginica were taken for versicolor
    assert shown[2, 1] == "1"
    assert len(shown) == 9
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["setosa", "versicolor", "virginica"]


def test_colour_tells_right_from_wrong_and_is_the_share_of_the_row():
    ax = confusion(np.array([[1, 3], [0, 900]]), ["a", "b"])
    (right, wrong), (none, all_right) = np.asarray(ax.get_images()[0].get_array())
    assert to_hex(all_right).upper() == "#0072B2"
    assert to_hex(none) == "#ffffff"
    assert right[2] > right[0]  # blue
    assert wrong[0] > wrong[2]  # vermilion
    weights = {text.get_position(): text.get_weight() for text in ax.texts}
    assert [position for position, weight in weights.items() if weight == "bold"] == [(0, 0), (1, 1)]
    scaled = confusion(np.array([[1000, 3000], [0, 9]]), ["a", "b"])
    assert np.array_equal(scaled.get_images()[0].get_array(), ax.get_images()[0].get_array())


@settings(deadline=None, max_examples=8, derandomize=True)
@given(st.integers(1, 15).flatmap(lambda k: arrays.arrays(np.int64, (k, k), elements=st.integers(0, 9_999))))
@example(np.diag(np.full(20, 9_999)))
def test_counts_are_readable_and_stay_in_their_cells(counts):
    ax = confusion(counts, [str(k) for k in range(len(counts))])
    cells = np.asarray(ax.get_images()[0].get_array())
    assert [int(text.get_text()) for text in ax.texts] == counts.ravel().tolist()
    for text, box in zip(ax.texts, extents(ax.texts), strict=True):
        column, row = text.get_position()
        assert contrast(text.get_color(), cells[row, column]) >= 4.5
        (x0, y0), (x1, y1) = ax.transData.transform([(column - 0.5, row + 0.5), (column + 0.5, row - 0.5)])
        assert x0 <= box.x0 < box.x1 <= x1
        assert y0 <= box.y0 < box.y1 <= y1
    plt.close("all")


def test_a_class_without_samples_is_white():
    ax = confusion(torch.zeros(2, 2), ["a", "b"])
    assert (np.asarray(ax.get_images()[0].get_array()) == 1).all()
    assert {text.get_text() for text in ax.texts} == {"0"}


def test_long_names_do_not_overlap():
    names = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
    ax = confusion(torch.eye(10), names)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert {label.get_rotation() for label in labels} in ({45.0}, {0.0})
    frame = ax.figure.bbox
    for box in extents([*ax.get_xticklabels(), *ax.get_yticklabels(), ax.xaxis.label, ax.yaxis.label]):
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
    assert_apart_and_inside(extents(ax.get_yticklabels()), frame)


def test_confusion_in_given_axes():
    figure, axes = plt.subplots(1, 2)
    assert confusion(torch.eye(2), ["a", "b"], ax=axes[0]) is axes[0]
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize(
    ("matrix", "labels", "message"),
    [
        (torch.eye(3), ["a", "b"], r"2 labels, shape \(3, 3\)"),
        (torch.ones(2, 3), ["a", "b"], r"2 labels, shape \(2, 3\)"),
        (torch.ones(0, 0), [], "at least one label"),
        (torch.tensor([[0.9, 0.1], [0.2, 0.8]]), ["a", "b"], "must hold counts"),
        (torch.tensor([[1, -1], [0, 1]]), ["a", "b"], "must hold counts"),
        (torch.tensor([[1.0, float("nan")], [0, 1]]), ["a", "b"], "must hold counts"),
    ],
)
def test_what_is_no_confusion_matrix_is_explained(matrix, labels, message):
    with pytest.raises(ValueError, match=message):
        confusion(matrix, labels)
    assert plt.get_fignums() == []
