"""The backward graph as data, text and picture, and the check of derivatives by hand."""

import itertools
import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import nn

from pytorch_course.autograd import Graph, Node, compare_gradients, graph

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


class WrongCube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] ** 2 * gradient


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
        Node(0, "MeanBackward0", "operation", "z"),
        Node(1, "PowBackward0", "operation"),
        Node(2, "AddBackward0", "operation", "y"),
        Node(3, "AccumulateGrad", "leaf", "x", (3, 4)),
    )
    assert found.edges == ((0, 1), (1, 2), (2, 3))
    assert found.leaves == (found.nodes[3],)
    assert repr(found) == "Graph(4 nodes, 3 edges, 1 leaves)"
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
    assert [node.id for node in found.nodes] == list(range(len(functions)))
    assert sorted(found.edges) == sorted((functions.index(a), functions.index(b)) for a, b in edges)
    gradients = torch.autograd.grad(result.sum(), [v for v in leaves if v.requires_grad], allow_unused=True)
    reached = {f"leaf {k}" for k, g in zip(_positions(leaves), gradients, strict=True) if g is not None}
    assert {leaf.name for leaf in found.leaves} == reached
    assert all(leaf.shape == (2,) and leaf.kind == "leaf" for leaf in found.leaves)


def _positions(leaves):
    return [k for k, leaf in enumerate(leaves) if leaf.requires_grad]


@pytest.mark.parametrize("example", EXAMPLES)
def test_same_program_gives_the_same_text_without_addresses(example):
    one, other = (graph(*example()) for _ in range(2))
    assert one == other
    for text in (str(one), one.to_dot(), one._repr_html_()):
        assert "0x" not in text
    assert (str(one), one.to_dot(), one._repr_html_()) == (str(other), other.to_dot(), other._repr_html_())


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
    for _ in range(10_000):
        y = y.sin()
    found = graph(y, {"x": x})
    assert len(found.nodes) == 10_001
    assert found.edges == tuple((k, k + 1) for k in range(10_000))
    lines = str(found).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "... 9,901 of 10,001 nodes are not shown"
    assert len(str(found)) < 50_000
    assert found._repr_html_().count("\n") == 100
    assert found.to_dot().count("->") == 10_000
    with pytest.raises(ValueError, match=r"up to 25 nodes, and this graph has 10,001; .*\.to_dot\(\)"):
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
    assert [str(node) for node in graph(Double.apply(x), {"x": x}).nodes] == [
        "DoubleBackward",
        "AccumulateGrad: x (2,)",
    ]


def test_deep_chain_of_own_functions():
    y = torch.ones((), requires_grad=True)
    for _ in range(2_000):
        y = Double.apply(y)
    assert len(graph(y).nodes) == 2_001


def test_a_second_derivative_has_a_graph_too():
    x = torch.tensor(2.0, requires_grad=True)
    (slope,) = torch.autograd.grad(x**3, x, create_graph=True)
    assert [leaf.name for leaf in graph(slope, {"x": x}).leaves] == ["x"]


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


def test_leaf_has_no_graph():
    with pytest.raises(ValueError, match=r"t \(shape \(3,\)\) is a leaf: it requires a gradient"):
        graph(torch.ones(3, requires_grad=True))


@pytest.mark.parametrize(
    "make", [lambda x: torch.ones(3) + 1, lambda x: (x * 2).detach(), lambda x: torch.no_grad()(lambda: x * 2)()]
)
def test_result_without_gradient_has_no_graph(make):
    with pytest.raises(ValueError, match=r"t \(shape \(3,\), torch.float32\) has no graph: .*requires_grad=True"):
        graph(make(torch.ones(3, requires_grad=True)))


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="t must be a tensor, got float"):
        graph(3.0)
    z, _ = first_example()
    with pytest.raises(TypeError, match=r"names\['y'\] must be a tensor, got int"):
        graph(z, {"y": 3})


def test_html_is_escaped_and_styled_by_class_alone():
    x = torch.ones(2, requires_grad=True)
    page = graph(x + 1, {"<b>&": x})._repr_html_()
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "style" not in page
    classes = re.findall(r'class="([^"]*)"', page)
    assert classes == ["pc-graph", "pc-operation", "pc-leaf"]


def test_dot_lists_every_node_and_edge():
    e, names = shared()
    found = graph(e, names)
    text = found.to_dot()
    assert text.startswith("digraph backward {\n")
    assert text.endswith("}\n")
    edges = [(int(a), int(b)) for a, b in re.findall(r"^  (\d+) -> (\d+);$", text, re.MULTILINE)]
    assert tuple(edges) == found.edges
    labels = re.findall(r'^  (\d+) \[label="([^"]*)", shape=(\w+)', text, re.MULTILINE)
    assert labels[0] == ("0", r"MulBackward0\ne", "box")
    assert labels[5] == ("5", r"AccumulateGrad\nb ()", "ellipse")
    assert len(labels) == len(found.nodes)


def test_dot_quotes_names():
    x = torch.ones(2, requires_grad=True)
    text = graph(x + 1, {'say "x"\\': x}).to_dot()
    assert r'label="AccumulateGrad\nsay \"x\"\\ (2,)"' in text
    assert text.count("\n") == 6


# -------------------------------------------------------------------------------------------------------------- picture


def boxes_of(ax, found):
    boxes = {patch.get_gid(): patch.get_window_extent() for patch in ax.patches if isinstance(patch, FancyBboxPatch)}
    assert len(boxes) == len(found.nodes)
    return [boxes[f"node-{node.id}"] for node in found.nodes]


def arrows_of(ax):
    """Points along each arrow, in pixels."""
    arrows = []
    for patch in ax.patches:
        if isinstance(patch, FancyArrowPatch):
            curves = [curve for curve, _ in patch._path_original.iter_bezier()]
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
        assert is_inside(boxes[end], points[-1:], slack=-1.0).all()


@pytest.mark.parametrize("example", EXAMPLES)
def test_picture_is_clean(example):
    found = graph(*example())
    ax = found.plot()
    check_picture(found, ax)
    shown = [text.get_text() for text in ax.texts]
    assert sorted(shown) == sorted(text for node in found.nodes for text in (node.operation, node.detail) if text)


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


def test_first_picture_runs_from_right_to_left_in_one_line():
    found = graph(*first_example())
    boxes = boxes_of(found.plot(), found)
    assert len({round((box.y0 + box.y1) / 2, 3) for box in boxes}) == 1
    assert [box.x0 for box in boxes] == sorted((box.x0 for box in boxes), reverse=True)
    for points in arrows_of(plt.gca()):
        assert points[-1][0] < points[0][0]


def test_a_wide_page_is_not_enough_for_a_deep_graph():
    found = graph(*two_layers())
    ax = found.plot()
    boxes = boxes_of(ax, found)
    assert all(boxes[start].y0 > boxes[end].y1 for start, end in found.edges)
    assert ax.figure.get_figwidth() <= 7.2


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
    looks = {p.get_gid(): (p.get_facecolor(), p.get_edgecolor(), p.get_boxstyle().rounding_size) for p in patches}
    assert looks["node-0"] == looks["node-1"] == looks["node-2"]
    assert all(a != b for a, b in zip(looks["node-0"], looks["node-3"], strict=True))


def cross(one, other):
    """Whether two polylines cut each other."""

    def side(a, b, c):
        return np.sign((b - a)[..., 0] * (c - a)[..., 1] - (b - a)[..., 1] * (c - a)[..., 0])

    a, b = one[:-1, None], one[1:, None]
    c, d = other[None, :-1], other[None, 1:]
    return bool(((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).any())


@pytest.mark.parametrize("example", EXAMPLES)
def test_arrows_do_not_cross_where_they_need_not(example):
    arrows = arrows_of(graph(*example()).plot())
    assert not any(cross(one, other) for one, other in itertools.combinations(arrows, 2))


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
    found = graph(*first_example())
    ax = plt.figure(figsize=(12, 8), layout="constrained").add_subplot()
    found.plot(ax)
    check_picture(found, ax)
    assert {text.get_fontsize() for text in ax.texts} == {10.0}


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
    found = Graph((Node(0, "NothingBackward", "operation"),), ())
    check_picture(found, found.plot())
    assert str(found) == "[0] NothingBackward"


# ------------------------------------------------------------------------------------------------------------ gradients


def matrix_product(a, b):
    return a @ b


FUNCTIONS = {
    "cube": (lambda x: x**3, lambda x: 3 * x**2, [(4,)]),
    "sine": (torch.sin, torch.cos, [(2, 3)]),
    "exponential": (torch.exp, torch.exp, [(3,)]),
    "sigmoid": (torch.sigmoid, lambda x: torch.sigmoid(x) * (1 - torch.sigmoid(x)), [(3, 2)]),
    "tanh": (torch.tanh, lambda x: 1 - torch.tanh(x) ** 2, [(5,)]),
    "logarithm": (lambda x: torch.log(x + 5), lambda x: 1 / (x + 5), [(3,)]),
    "square root": (lambda x: (x + 5).sqrt(), lambda x: 0.5 * (x + 5) ** -0.5, [(3,)]),
    "softplus": (nn.functional.softplus, torch.sigmoid, [(4,)]),
    "mean": (torch.mean, lambda x: torch.full_like(x, 1 / x.numel()), [(3, 4)]),
    "norm": (lambda x: x.norm(), lambda x: x / x.norm(), [(4,)]),
    "softmax": (lambda x: x.softmax(0)[0], lambda x: x.softmax(0)[0] * (torch.eye(4)[0] - x.softmax(0)), [(4,)]),
    "scalar": (lambda x: x * x, lambda x: 2 * x, [()]),
    "large": (lambda x: (10 * x).exp() * 1e3, lambda x: (10 * x).exp() * 1e4, [(3,)]),
    "product": (lambda a, b: a * b, lambda a, b: (b, a), [(3,), (3,)]),
    "quotient": (lambda a, b: a / (b + 5), lambda a, b: (1 / (b + 5), -a / (b + 5) ** 2), [(3,), (3,)]),
    "broadcast": (
        lambda a, b: a * b,
        lambda a, b: (b.sum() * torch.ones(3, 1), a.sum() * torch.ones(2)),
        [(3, 1), (2,)],
    ),
    "matrices": (
        matrix_product,
        lambda a, b: (torch.ones(2, 4, dtype=a.dtype) @ b.T, a.T @ torch.ones(2, 4, dtype=a.dtype)),
        [(2, 3), (3, 4)],
    ),
    "quadratic form": (lambda a, x: x @ a @ x, lambda a, x: [torch.outer(x, x), (a + a.T) @ x], [(3, 3), (3,)]),
    "indexing": (lambda x: x[1] ** 2, lambda x: torch.stack([0 * x[0], 2 * x[1], 0 * x[2]]), [(3,)]),
    "own function": (Double.apply, lambda x: torch.full_like(x, 2), [(3,)]),
    "cumulative sum": (lambda x: x.cumsum(0), lambda x: torch.arange(4.0, 0.0, -1.0), [(4,)]),
}


def inputs_for(shapes):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_derivatives_agree_with_autograd_and_gradcheck(name):
    f, df, shapes = FUNCTIONS[name]
    inputs = inputs_for(shapes)
    check = compare_gradients(f, df, *inputs)
    assert check.ok
    assert check.hand_autograd <= 1e-12
    assert check.hand_numeric <= 1e-7
    assert check.autograd_numeric <= 1e-7
    assert torch.autograd.gradcheck(f, [x.double().requires_grad_() for x in inputs])
    for way in (check.hand, check.autograd, check.numeric):
        assert [g.shape for g in way] == [x.shape for x in inputs]
        assert {g.dtype for g in way} == {torch.float64}
    assert str(check).endswith("ok                True")
    assert "differs" not in str(check)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_derivative_is_caught_in_any_element(name):
    f, df, shapes = FUNCTIONS[name]
    inputs = inputs_for(shapes)
    for wrong in range(len(inputs)):
        for place in range(inputs[wrong].numel()):

            def spoilt(*xs, wrong=wrong, place=place):
                right = df(*xs)
                gradients = [g.clone() for g in ((right,) if isinstance(right, torch.Tensor) else right)]
                flat = gradients[wrong].view(-1)
                flat[place] += 1e-3 * max(1.0, abs(float(flat[place])))
                return gradients

            check = compare_gradients(f, spoilt, *inputs)
            assert not check.ok
            assert check.hand_autograd == pytest.approx(1e-3, rel=0.01)
            assert check.hand_numeric == pytest.approx(1e-3, rel=0.01)
            assert check.autograd_numeric <= 1e-7
            assert str(check).count("<- differs") == 1


def test_a_wrong_autograd_function_is_caught_and_gradcheck_agrees():
    x = torch.tensor([0.5, -1.5])
    check = compare_gradients(WrongCube.apply, lambda x: 3 * x**2, x)
    assert not check.ok
    assert check.hand_numeric <= 1e-7
    assert check.hand_autograd == pytest.approx(1 / 3)
    assert check.autograd_numeric == pytest.approx(1 / 3)
    assert not torch.autograd.gradcheck(WrongCube.apply, x.double().requires_grad_(), raise_exception=False)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=5), st.floats(-3, 3), st.floats(-3, 3))
def test_ok_says_whether_the_hand_written_slope_is_the_slope(points, slope, claimed):
    x = torch.tensor(points, dtype=torch.float64)
    check = compare_gradients(lambda x: slope * x, lambda x: torch.full_like(x, claimed), x)
    difference = abs(slope - claimed) / max(1.0, abs(slope), abs(claimed))
    assert check.hand_autograd == pytest.approx(difference, abs=1e-12)
    if difference < 0.9e-6 or difference > 1.1e-6:
        assert check.ok == (difference <= 1e-6)


def test_tolerance_is_the_callers():
    check = compare_gradients(lambda x: x**2, lambda x: 2.01 * x, torch.tensor([10.0]), tolerance=0.01)
    assert check.hand_autograd == pytest.approx(0.1 / 20.1)
    assert check.ok
    assert not compare_gradients(lambda x: x**2, lambda x: 2.01 * x, torch.tensor([10.0]), tolerance=0.001).ok
    assert "within 0.01" in str(check)


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(6.0).reshape(2, 3).T,
        torch.ones(1, 3).expand(2, 3),
        torch.arange(1, 4),
        torch.tensor([1.0, 2.0], dtype=torch.float16),
        torch.ones(3, requires_grad=True),
        torch.ones(3, requires_grad=True) * 2,
        torch.ones(0, 3),
    ],
    ids=["transposed", "expanded", "whole numbers", "half", "leaf", "result", "empty"],
)
def test_inputs_are_copied_and_stay_as_they_are(x):
    before, dtype, needs, stride = x.detach().clone(), x.dtype, x.requires_grad, x.stride()

    def df(y):
        assert y.dtype == torch.float64
        slope = 3 * y**2
        y.zero_()
        return slope

    check = compare_gradients(lambda y: y**3, df, x)
    assert check.ok
    assert torch.equal(x.detach(), before)
    assert (x.dtype, x.requires_grad, x.stride()) == (dtype, needs, stride)
    if x.is_leaf:
        assert x.grad is None
    assert torch.equal(check.hand[0], 3 * before.double() ** 2)


def test_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert compare_gradients(torch.sin, torch.cos, torch.ones(2)).ok


def test_f_may_ask_autograd_for_a_derivative_itself():
    def slope_of_cube(x):
        if not x.requires_grad:
            x = x.requires_grad_()
        return torch.autograd.grad((x**3).sum(), x, create_graph=True)[0]

    assert compare_gradients(slope_of_cube, lambda x: 6 * x, torch.tensor([1.0, 2.0])).ok


def test_what_the_result_does_not_depend_on_has_gradient_zero():
    check = compare_gradients(lambda a, b: a**2, lambda a, b: (2 * a, torch.zeros(2)), torch.ones(3), torch.ones(2))
    assert check.ok
    assert torch.equal(check.autograd[1], torch.zeros(2, dtype=torch.float64))
    constant = compare_gradients(lambda x: torch.ones(2, dtype=x.dtype), torch.zeros_like, torch.ones(2))
    assert constant.ok


def test_a_detached_result_is_a_wrong_autograd():
    check = compare_gradients(lambda x: (x**2).detach(), lambda x: 2 * x, torch.ones(2))
    assert not check.ok
    assert check.hand_numeric <= 1e-7
    assert check.autograd_numeric == pytest.approx(1.0)


def test_nan_is_never_ok():
    def naive_sigmoid(x):
        return 1 / (1 + torch.exp(-x))

    def df(x):
        return torch.sigmoid(x) * (1 - torch.sigmoid(x))

    check = compare_gradients(naive_sigmoid, df, torch.tensor([0.0, -1000.0]))
    assert not check.ok
    assert np.isnan(check.hand_autograd)
    assert check.hand_numeric <= 1e-7
    assert str(check).splitlines() == [
        "             by hand  autograd  numeric",
        "input 0 [0]     0.25      0.25     0.25",
        "input 0 [1]        0       nan        0  <- differs",
        "largest difference",
        "  hand_autograd     nan",
        "  hand_numeric      within 1e-06",
        "  autograd_numeric  nan",
        "  ok                False",
    ]


def test_a_long_table_shows_wrong_elements_first():
    x = torch.arange(100.0).reshape(10, 10)

    def df(x):
        slope = 2 * x
        slope[9, 8] = 0
        return slope

    lines = str(compare_gradients(lambda x: x**2, df, x)).splitlines()
    assert len(lines) == 1 + 12 + 1 + 5
    assert lines[12].split() == ["input", "0", "[9,", "8]", "0", "196", "196", "<-", "differs"]
    assert lines[13] == "... and 88 more"
    assert lines[1].startswith("input 0 [0, 0]")
    assert lines[15] == "  hand_autograd     1"


def test_table_hides_digits_of_rounding():
    x = torch.linspace(-3, 3, 7)
    text = str(compare_gradients(torch.sigmoid, lambda x: torch.sigmoid(x) * (1 - torch.sigmoid(x)), x))
    assert "e-1" not in text
    assert "-0 " not in text
    assert text.count("within 1e-06") == 3


def test_check_shows_itself_in_a_notebook():
    check = compare_gradients(torch.sin, torch.cos, torch.ones(()))
    assert repr(check) == "GradientCheck(ok=True)"
    assert check._repr_html_() == f'<pre class="pc-gradients">{check}</pre>'
    assert str(check).splitlines()[1].startswith("input 0  ")
    wrong = compare_gradients(torch.sin, torch.sin, torch.ones(()))
    assert "&lt;- differs" in wrong._repr_html_()
    with pytest.raises(AttributeError):
        check.tolerance = 1.0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compare_gradients(torch.sin, torch.cos), ValueError, "at least one input"),
        (lambda: compare_gradients(torch.sin, torch.cos, 1.0), TypeError, "input 0 must be a tensor, got float"),
        (
            lambda: compare_gradients(torch.sin, torch.cos, torch.ones(1, dtype=torch.complex64)),
            TypeError,
            "input 0 must be real, got torch.complex64",
        ),
        (
            lambda: compare_gradients(torch.mul, lambda a, b: a, torch.ones(1), torch.ones(1)),
            ValueError,
            "one gradient per input: 2 expected, got 1",
        ),
        (
            lambda: compare_gradients(torch.sin, lambda x: x.sum(), torch.ones(3)),
            ValueError,
            r"gradient 0 returned by df has shape \(\), but input 0 has shape \(3,\)",
        ),
        (
            lambda: compare_gradients(torch.sin, lambda x: [1.0], torch.ones(3)),
            TypeError,
            "gradient 0 returned by df must be a tensor, got float",
        ),
        (
            lambda: compare_gradients(torch.sin, lambda x: 1.0, torch.ones(3)),
            TypeError,
            "df must return a tensor or a sequence of them, got float",
        ),
        (
            lambda: compare_gradients(lambda x: 1.0, torch.cos, torch.ones(3)),
            TypeError,
            "f must return a tensor, got float",
        ),
        (
            lambda: compare_gradients(lambda x: x.float(), torch.ones_like, torch.ones(3)),
            TypeError,
            "f must return float64 for float64 inputs, got torch.float32",
        ),
        (
            lambda: compare_gradients(nn.Dropout(0.5), torch.ones_like, torch.ones(100)),
            ValueError,
            "two results for the same inputs",
        ),
    ],
)
def test_wrong_use_is_explained(call, error, message):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        with pytest.raises(error, match=message):
            call()
