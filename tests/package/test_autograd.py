"""The backward graph as data, text and picture."""

import itertools

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from torch import nn

from pytorch_course.autograd import Graph, Node, graph

mpl.use("agg")


@pytest.fixture(autouse=True)
def _book_style():
    with plt.style.context("pytorch_course.book"):
        yield
    plt.close("all")


class Double(torch.autograd.Function):
    """Somebody's own function. Its context has an attribute that leaves have as well."""

    @staticmethod
    def forward(ctx, x):
        ctx.variable = "not a tensor"
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def first_example():
    x = torch.ones(3, 4, requires_grad=True)
    y = x + 2
    z = y.pow(3).mean()
    return z, {"x": x, "y": y, "z": z}


def two_layers():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    loss = nn.functional.cross_entropy(model(torch.ones(2, 4)), torch.tensor([0, 1]))
    return loss, {**dict(model.named_parameters()), "loss": loss}


def shared():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    c = a * b
    d = c.sin() + c
    e = d * a
    return e, {"a": a, "b": b, "c": c, "d": d, "e": e}


def residual():
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    conv, norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
    return (norm(conv(x)).relu() + x).relu().mean(), {"x": x}


def recurrent():
    cell = nn.LSTMCell(2, 2)
    return cell(torch.ones(1, 2))[0].sum(), dict(cell.named_parameters())


def wide():
    leaves = [torch.ones(2, requires_grad=True) for _ in range(23)]
    return torch.stack(leaves).sum(), {f"weight {k}": leaf for k, leaf in enumerate(leaves)}


EXAMPLES = [first_example, two_layers, shared, residual, recurrent, wide]


@st.composite
def programs(draw, most=22):
    """A random computation on a few leaves, some of which need no gradient; the last value is the result."""
    needs = draw(st.lists(st.booleans(), min_size=1, max_size=4).filter(any))
    values = [torch.full((2,), 0.5 + k, requires_grad=need) for k, need in enumerate(needs)]
    values.sort(key=lambda v: v.requires_grad)
    leaves = list(values)
    for _ in range(draw(st.integers(1, most - len(values)))):
        operation = draw(st.sampled_from(["sin", "mul", "add", "sum of three", "halves"]))
        # Mostly recent values, so that graphs become deep as well as wide.
        pick = st.integers(max(0, len(values) - 4), len(values) - 1) | st.integers(0, len(values) - 1)
        a, b, c = (values[draw(pick)] for _ in range(3))
        if operation == "sin":
            values.append(a.sin())
        elif operation == "mul":
            values.append(a * b)
        elif operation == "add":
            values.append(a + b)
        elif operation == "sum of three":
            values.append(torch.cat([a, b, c])[:2])
        else:
            first, second = a.unbind(0)
            values.append(torch.stack([second, first * b[0]]))
    result = values[-1] if values[-1].requires_grad else values[-1] + values[len(leaves) - 1]
    return result, leaves


def walk(function, functions, edges):
    """A recursive traversal to compare with."""
    if function in functions:
        return
    functions.append(function)
    for child, _ in function.next_functions:
        if child is not None:
            edges.append((function, child))
            walk(child, functions, edges)


# ---------------------------------------------------------------------------------------------------------------- graph


def test_first_example_as_data_and_text():
    z, names = first_example()
    found = graph(z, names)
    assert found.nodes == (
        Node("MeanBackward0", "z"),
        Node("PowBackward0"),
        Node("AddBackward0", "y"),
        Node("AccumulateGrad", "x", (3, 4)),
    )
    assert found.edges == ((0, 1), (1, 2), (2, 3))
    assert repr(graph(z)) == str(graph(z))
    assert str(graph(z)).splitlines() == [
        "[0] MeanBackward0",
        "└─ [1] PowBackward0",
        "   └─ [2] AddBackward0",
        "      └─ [3] AccumulateGrad: (3, 4)",
    ]


def test_shared_node_appears_once_and_is_not_unfolded_twice():
    e, names = shared()
    found = graph(e, names)
    assert [node.operation for node in found.nodes].count("MulBackward0") == 2
    assert found.edges == ((0, 1), (0, 4), (1, 2), (1, 3), (2, 3), (3, 4), (3, 5))
    assert str(found).splitlines() == [
        "[0] MulBackward0: e",
        "├─ [1] AddBackward0: d",
        "│  ├─ [2] SinBackward0",
        "│  │  └─ [3] MulBackward0: c",
        "│  │     ├─ [4] AccumulateGrad: a ()",
        "│  │     └─ [5] AccumulateGrad: b ()",
        "│  └─ [3] MulBackward0: c, see above",
        "└─ [4] AccumulateGrad: a (), see above",
    ]


def test_square_has_two_edges_to_its_leaf():
    x = torch.ones((), requires_grad=True)
    assert graph(x * x).edges == ((0, 1), (0, 1))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(programs())
def test_agrees_with_a_recursive_walk_and_with_torch(program):
    result, leaves = program
    found = graph(result, {f"leaf {k}": leaf for k, leaf in enumerate(leaves)})
    functions, edges = [], []
    walk(result.grad_fn, functions, edges)
    assert [node.operation for node in found.nodes] == [f.name().split("::")[-1] for f in functions]
    assert sorted(found.edges) == sorted((functions.index(a), functions.index(b)) for a, b in edges)
    gradients = torch.autograd.grad(result.sum(), [v for v in leaves if v.requires_grad], allow_unused=True)
    positions = [k for k, leaf in enumerate(leaves) if leaf.requires_grad]
    reached = {(f"leaf {k}", (2,)) for k, g in zip(positions, gradients, strict=True) if g is not None}
    assert {(node.name, node.shape) for node in found.nodes if node.operation == "AccumulateGrad"} == reached
    assert {node.shape for node in found.nodes if node.operation != "AccumulateGrad"} == {None}


@pytest.mark.parametrize("example", EXAMPLES)
def test_same_program_gives_the_same_text_without_addresses(example):
    one, other = (graph(*example()) for _ in range(2))
    assert one == other
    assert str(one) == str(other)
    assert "0x" not in str(one)


def test_graph_is_frozen_and_changes_nothing():
    z, names = first_example()
    found = graph(z, names)
    with pytest.raises(AttributeError):
        found.nodes = ()
    with pytest.raises(AttributeError):
        found.nodes[0].name = "other"
    z.backward()
    assert torch.equal(names["x"].grad, torch.full((3, 4), 2.25))
    assert names["y"].grad_fn is not None
    # The graph is data: it survives the computation that it was read from.
    before = str(found)
    del z, names
    assert str(found) == before


def test_deep_chain_needs_no_recursion():
    x = torch.ones((), requires_grad=True)
    y = x
    for k in range(10_000):
        y = y.sin() if k % 2 else Double.apply(y)
    found = graph(y, {"x": x})
    assert len(found.nodes) == 10_001
    assert found.edges == tuple((k, k + 1) for k in range(10_000))
    lines = str(found).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "... 9,901 of 10,001 nodes are not shown"
    assert len(str(found)) < 50_000
    with pytest.raises(ValueError, match=r"plot\(\) draws 25 nodes, but the graph has 10,001; print\(\) it"):
        found.plot()


def test_tree_that_just_fits_names_no_missing_nodes():
    y = torch.ones((), requires_grad=True)
    for _ in range(99):
        y = y.sin()
    assert len(str(graph(y)).splitlines()) == 100
    assert "not shown" not in str(graph(y))
    assert str(graph(y.sin())).endswith("... 1 of 101 nodes are not shown")


def test_own_function_shows_its_name():
    x = torch.ones(2, requires_grad=True)
    nodes = graph(Double.apply(x), {"x": x}).nodes
    assert nodes == (Node("DoubleBackward"), Node("AccumulateGrad", "x", (2,)))


def test_a_second_derivative_has_a_graph_too():
    x = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(x**3, x, create_graph=True)
    assert [node.name for node in graph(slope, {"x": x}).nodes if node.shape is not None] == ["x"]


def test_names_of_outputs_of_one_operation_are_joined():
    x = torch.ones(2, requires_grad=True)
    left, right = x.unbind(0)
    found = graph(left * right, {"left": left, "right": right, "x": x, "also x": x})
    assert [node.name for node in found.nodes] == [None, "left, right", "x, also x"]
    assert found.edges == ((0, 1), (0, 1), (1, 2))


def test_names_of_tensors_outside_the_graph_are_ignored():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    other = torch.ones(2, requires_grad=True)
    names = {**dict(model.named_parameters()), "other": other, "elsewhere": other * 2, "data": torch.ones(1)}
    found = graph(model(torch.ones(2)), names)
    assert {node.name for node in found.nodes} == {None, "weight"}


def test_in_place_operations_count():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.add_(1)
    assert [node.operation for node in graph(y, {"y": y}).nodes] == ["AddBackward0", "MulBackward0", "AccumulateGrad"]
    assert graph(y, {"y": y}).nodes[0].name == "y"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x, "is a leaf; pass a result that was computed from it"),
        (lambda x: torch.ones(3) + 1, "has no graph: no input requires a gradient"),
        (lambda x: (x * 2).detach(), "has no graph: .* detached"),
        (lambda x: torch.no_grad()(lambda: x * 2)(), r"has no graph: .* under torch.no_grad\(\)"),
    ],
)
def test_what_has_no_graph_is_named_and_refused(make, message):
    with pytest.raises(ValueError, match=rf"^t \(shape \(3,\), torch.float32\) {message}"):
        graph(make(torch.ones(3, requires_grad=True)))


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="t must be a tensor, got float"):
        graph(3.0)
    z, _ = first_example()
    with pytest.raises(TypeError, match=r"names\['y'\] must be a tensor, got int"):
        graph(z, {"y": 3})


# -------------------------------------------------------------------------------------------------------------- picture


def boxes_of(ax, found):
    boxes = [patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
    assert len(boxes) == len(found.nodes)
    return boxes


def arrows_of(ax):
    """Points along each arrow, in pixels, up to the tip of its head."""
    arrows = []
    for patch in ax.patches:
        if isinstance(patch, FancyArrowPatch):
            path = patch.get_path()
            head = int(np.flatnonzero(path.codes == Path.MOVETO)[1])
            curves = [curve for curve, _ in Path(path.vertices[:head], path.codes[:head]).iter_bezier()]
            points = np.concatenate([[curve(t) for t in np.linspace(0, 1, 25)] for curve in curves])
            arrows.append(ax.transData.transform(points))
    return arrows


def is_inside(box, points, slack=1.0):
    x, y = np.asarray(points).T
    return (x > box.x0 + slack) & (x < box.x1 - slack) & (y > box.y0 + slack) & (y < box.y1 - slack)


def check_picture(found, ax):
    """No two boxes touch, all text is in its box, all is in the axes, and every arrow leads from its box to its box."""
    ax.figure.draw_without_rendering()
    renderer = ax.figure.canvas.get_renderer()
    frame = ax.get_window_extent()
    boxes = boxes_of(ax, found)
    for k, box in enumerate(boxes):
        assert is_inside(frame, box.corners(), slack=0.0).all()
        assert not any(box.overlaps(other) for other in boxes[:k])
    for text in ax.texts:
        assert sum(is_inside(box, text.get_window_extent(renderer).corners(), slack=0.0).all() for box in boxes) == 1
    arrows = arrows_of(ax)
    assert len(arrows) == len(found.edges)
    for (start, end), points in zip(found.edges, arrows, strict=True):
        assert not any(is_inside(box, points).any() for box in boxes)
        assert is_inside(boxes[start], points[:1], slack=-1.0).all()
        assert is_inside(boxes[end], points[-1:], slack=-4.0).all()  # the mitre of the tip takes up to 4 pixels


def cross(one, other):
    """Whether two polylines cut each other."""

    def side(a, b, c):
        return np.sign((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0])

    a, b = one[:-1, None], one[1:, None]
    c, d = other[None, :-1], other[None, 1:]
    return bool(((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).any())


@pytest.mark.parametrize("example", EXAMPLES)
def test_picture_is_clean_and_all_arrows_run_one_way_and_do_not_cross(example):
    found = graph(*example())
    ax = found.plot()
    check_picture(found, ax)
    shown = [text.get_text() for text in ax.texts]
    assert sorted(shown) == sorted(text for node in found.nodes for text in (node.operation, node.detail) if text)
    boxes = boxes_of(ax, found)
    right = all(boxes[start].x1 < boxes[end].x0 for start, end in found.edges)
    assert right or all(boxes[start].y0 > boxes[end].y1 for start, end in found.edges)
    assert not any(cross(one, other) for one, other in itertools.combinations(arrows_of(ax), 2))


@settings(deadline=None, max_examples=25, derandomize=True)
@given(programs())
def test_picture_of_any_small_graph_is_clean(program):
    found = graph(program[0])
    if len(found.nodes) > 25:
        with pytest.raises(ValueError, match="25 nodes"):
            found.plot()
    else:
        check_picture(found, found.plot())
    plt.close("all")


def test_first_picture_runs_from_left_to_right_like_its_text():
    found = graph(*first_example())
    ax = found.plot()
    boxes = boxes_of(ax, found)
    assert len({round((box.y0 + box.y1) / 2, 3) for box in boxes}) == 1
    assert [box.x0 for box in boxes] == sorted(box.x0 for box in boxes)
    shown = sorted((text.get_position()[0], text.get_text()) for text in ax.texts if "Backward" in text.get_text())
    assert [name for _, name in shown] == [line.split()[-1] for line in str(graph(first_example()[0])).splitlines()[:3]]
    assert all(points[-1][0] > points[0][0] for points in arrows_of(ax))


def test_leaves_side_by_side_keep_the_order_of_the_text():
    found = graph(*wide())
    tops = [box.y1 for box, node in zip(boxes_of(found.plot(), found), found.nodes, strict=True) if node.shape]
    assert tops == sorted(tops, reverse=True)


def test_text_is_measured_without_outlines_of_its_letters(monkeypatch):
    # They took nine tenths of the second that a drawing of twenty nodes needed.
    monkeypatch.setattr(TextPath, "get_extents", lambda self, *_: pytest.fail("an outline was built"))
    found = graph(*recurrent())
    check_picture(found, found.plot())


def test_names_are_no_formulas():
    x = torch.ones(2, requires_grad=True)
    ax = graph(x + 1, {r"$\nothing$": x}).plot()
    ax.figure.draw_without_rendering()
    assert ax.texts[-1].get_text() == r"$\nothing$ (2,)"


def test_a_deep_graph_runs_downwards_and_fits_the_page():
    assert graph(*two_layers()).plot().figure.get_figwidth() <= 7.2


def test_chains_are_straight():
    found = graph(*two_layers())
    boxes = boxes_of(found.plot(), found)
    middle = [(box.x0 + box.x1) / 2 for box in boxes]
    # Loss, log-softmax, addmm; and each transposed weight under its operation.
    for start, end in [(0, 1), (1, 2), (4, 5), (7, 8), (9, 10)]:
        assert middle[start] == pytest.approx(middle[end], abs=1.0)


def test_leaves_differ_from_operations_in_colour_and_shape():
    found = graph(*first_example())
    patches = [patch for patch in found.plot().patches if isinstance(patch, FancyBboxPatch)]
    looks = [(p.get_facecolor(), p.get_edgecolor(), p.get_boxstyle().rounding_size) for p in patches]
    assert looks[0] == looks[1] == looks[2]
    assert all(a != b for a, b in zip(looks[0], looks[3], strict=True))


def test_no_two_arrows_share_an_arrow_head():
    found = graph(*recurrent())
    found.plot()
    heads = [tuple(points[-1].round(1)) for points in arrows_of(plt.gca())]
    assert len(set(heads)) == len(found.edges)


@pytest.mark.parametrize("size", [(6.4, 3.2), (2.0, 6.0), (3.0, 3.0)])
@pytest.mark.parametrize("example", [first_example, two_layers, shared])
def test_graph_shrinks_into_given_axes(example, size):
    found = graph(*example())
    figure, axes = plt.subplots(1, 2, figsize=size)
    axes[0].set_title("left")
    assert found.plot(axes[1]) is axes[1]
    assert plt.get_fignums() == [figure.number]
    check_picture(found, axes[1])


def test_graph_does_not_grow_in_large_axes():
    ax = plt.figure(figsize=(12, 8), layout="constrained").add_subplot()
    assert {text.get_fontsize() for text in graph(*first_example()).plot(ax).texts} == {10.0}


def test_graph_fits_a_part_of_a_figure_without_layout():
    found = graph(*shared())
    ax = plt.figure(figsize=(6, 4), layout="none").add_axes((0.5, 0.5, 0.5, 0.5))
    found.plot(ax)
    check_picture(found, ax)
    assert max(text.get_fontsize() for text in ax.texts) < 10.0


def test_picture_can_be_saved_twice(tmp_path):
    # Saved in two resolutions, as the book does.
    figure = graph(*first_example()).plot().figure
    for dpi in (100, 200):
        figure.savefig(tmp_path / f"{dpi}.png", dpi=dpi)
    assert (tmp_path / "200.png").stat().st_size > 5_000


def test_graph_without_edges_can_be_drawn():
    found = Graph((Node("NothingBackward"),), ())
    check_picture(found, found.plot())
    assert str(found) == "[0] NothingBackward"
