import time
from dataclasses import FrozenInstanceError
from itertools import combinations, product

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytorch_course.tensors import Broadcast, broadcast, layout, same_storage, storage_map

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def cells_of(t):
    """The whole storage, read as elements of the tensor's dtype."""
    return torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())


def upto(n, least=0):
    return st.integers(least, n)


VIEWS = [  # each draws its arguments for the tensor that it meets, for an axis and its size
    lambda draw, t, axis, size: t[
        (slice(None),) * axis + (slice(draw(upto(size)), draw(upto(size)), draw(upto(3, 1))),)
    ],
    lambda draw, t, axis, size: t.select(axis, draw(upto(size - 1))) if size else t,
    lambda draw, t, axis, size: t.narrow(axis, start := draw(upto(size)), draw(upto(size - start))),
    lambda draw, t, axis, size: t.transpose(axis, draw(upto(t.ndim - 1))),
    lambda draw, t, axis, size: t.permute(draw(st.permutations(range(t.ndim)))),
    lambda draw, t, axis, size: t.expand(*(draw(upto(3, 1)) if n == 1 else n for n in t.shape)),
    lambda draw, t, axis, size: t.expand(*(draw(upto(2, 1)), *t.shape)) if t.ndim < 5 else t,
    lambda draw, t, axis, size: t.unfold(axis, draw(upto(size)), draw(upto(2, 1))) if t.ndim < 5 else t,
    lambda draw, t, axis, size: t.unsqueeze(draw(upto(t.ndim))) if t.ndim < 5 else t,
    lambda draw, t, axis, size: (
        t.reshape(draw(st.sampled_from([n for n in (1, 2, 3) if t.numel() % n == 0])), -1)
        if t.numel()
        else t.reshape(-1)
    ),
    lambda draw, t, axis, size: t.diagonal() if t.ndim > 1 else t,
]


@st.composite
def view_chains(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.int64, torch.uint8]))
    base = torch.arange(torch.Size(shape).numel(), dtype=dtype).reshape(shape)
    t = base
    for operation in draw(st.lists(st.sampled_from(VIEWS), max_size=6)):
        if t.ndim and t.numel() < 300:
            axis = draw(st.integers(0, t.ndim - 1))
            t = operation(draw, t, axis, t.shape[axis])
    return base, t


@settings(deadline=None, derandomize=True, max_examples=800)
@given(view_chains())
def test_layout_finds_every_element_of_every_view(chain):
    _, t = chain
    found = layout(t)
    assert (found.shape, found.stride, found.offset) == (t.shape, t.stride(), t.storage_offset())
    assert (found.dtype, found.storage * t.itemsize) == (t.dtype, t.untyped_storage().nbytes())
    assert found.contiguous is t.is_contiguous()
    indices = list(product(*map(range, t.shape)))
    addresses = [found.address(*index) for index in indices]
    negative = [found.address(*(i - n for i, n in zip(index, t.shape, strict=True))) for index in indices]
    assert cells_of(t)[addresses].tolist() == t.flatten().tolist()
    assert negative == addresses


@settings(deadline=None, derandomize=True, max_examples=500)
@given(view_chains())
def test_same_storage_says_whether_a_write_is_seen(chain):
    base, t = chain
    before = cells_of(base).clone()
    cells_of(t).add_(1)
    seen = not torch.equal(cells_of(base), before)
    assert same_storage(base, t) is seen
    assert same_storage(t, base) is seen
    assert same_storage(t, t.clone()) is False


@settings(deadline=None, derandomize=True, max_examples=300)
@given(view_chains())
def test_storage_map_touches_exactly_the_cells_that_a_write_changes(chain):
    base, t = chain
    if not same_storage(base, t):
        with pytest.raises(ValueError, match=r"^view does not share the storage of base$"):
            storage_map(base=base, view=t)
        return
    cells_of(base).zero_()
    t.fill_(1)
    found = storage_map(base=base, view=t)
    assert list(found.cells("view")) == cells_of(base).nonzero().flatten().tolist()
    assert found.cells("base") == tuple(range(found.length)) == tuple(range(base.numel()))


# --- Layout ---


def test_inspectors_are_frozen_and_comparable():
    x = torch.zeros(3, 4)
    for one, other in [
        (layout(x), layout(torch.ones(3, 4))),
        (storage_map(x=x, t=x.t()), storage_map(x=x, t=x.t())),
        (broadcast(3, 1), broadcast((3,), [1])),
    ]:
        assert one == other
        assert hash(one) == hash(other)
        with pytest.raises(FrozenInstanceError):
            one.shape = ()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ((0,), r"shape \(3, 4\) needs 2 indices, got 1: \(0,\)"),
        ((0, 0, 0), r"shape \(3, 4\) needs 2 indices, got 3"),
        ((0, 4), r"index 4 is outside axis 1 of shape \(3, 4\): use -4 to 3"),
        ((-4, 0), r"index -4 is outside axis 0 of shape \(3, 4\): use -3 to 2"),
    ],
)
def test_address_explains_bad_indices(index, message):
    with pytest.raises(IndexError, match=message):
        layout(torch.zeros(3, 4)).address(*index)


def test_address_of_an_empty_axis_and_of_a_non_integer():
    with pytest.raises(IndexError, match="the axis is empty"):
        layout(torch.zeros(3, 0)).address(0, 0)
    with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
        layout(torch.zeros(3, 4)).address(0, 1.0)


def test_address_takes_whatever_counts_as_an_integer():
    assert layout(torch.zeros(3, 4)).address(np.int64(2), torch.tensor(1)) == 9


def _freed():
    t = torch.ones(3)
    t.untyped_storage().resize_(0)
    return t


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: [1, 2], TypeError, "must be a torch.Tensor, got list"),
        (lambda: np.ones(2), TypeError, "must be a torch.Tensor, got ndarray"),
        (lambda: torch.eye(2).to_sparse(), TypeError, "must be a dense tensor, got a torch.sparse_coo one"),
        (lambda: torch.eye(2).to_sparse_csr(), TypeError, "must be a dense tensor, got a torch.sparse_csr one"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.quint8), TypeError, "got a quantised one"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), TypeError, "got a nested one"),
        (lambda: torch.zeros(2, device="meta"), ValueError, "must have memory of its own"),
        (_freed, ValueError, "reads up to cell 2, but its storage has 0 cells"),
    ],
)
def test_tensors_without_a_plain_storage_are_named_and_refused(make, error, message):
    t = make()
    with pytest.raises(error, match=f"^t .*{message}"):
        layout(t)
    with pytest.raises(error, match=f"^odd .*{message}"):
        storage_map(odd=t)
    if "reads up to" not in message:
        with pytest.raises(error, match=f"^b .*{message}"):
            same_storage(torch.ones(2), t)


@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())])
def test_wrappers_inside_function_transforms_are_refused(transform):
    with pytest.raises(ValueError, match=r"t must have memory of its own; .* wraps another tensor"):
        transform(lambda x: (layout(x), x)[1])(torch.ones(2, 3))


def test_parameters_and_tensors_with_a_graph_are_fine():
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    assert layout(parameter) == layout(parameter.data)
    assert same_storage(parameter, parameter.detach())
    assert same_storage(parameter, (parameter * 1).t()) is False


# --- same_storage ---


def test_same_storage_across_numpy():
    array = np.zeros(4, dtype=np.float32)
    assert same_storage(torch.from_numpy(array), torch.from_numpy(array))
    assert not same_storage(torch.from_numpy(array), torch.tensor(array))


def test_empty_storages_are_told_apart():
    empty = torch.empty(0)
    assert same_storage(empty, empty.view(0, 3))
    assert not same_storage(empty, torch.empty(0))
    assert not same_storage(empty, torch.ones(1))
    full = torch.ones(3)
    assert same_storage(full, full[:0])


def test_views_of_another_dtype_share_a_storage():
    z = torch.zeros(3, dtype=torch.complex64)
    assert same_storage(z, z.real)
    assert same_storage(z.imag, z.real)


# --- StorageMap ---


def test_map_needs_elements_of_one_size():
    z = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"^real is torch.float32, but z is torch.complex64: .* one size$"):
        storage_map(z=z, real=z.real)
    assert storage_map(real=z.real, integers=z.real.view(torch.int32)).length == 4


def test_map_counts_the_elements_that_read_one_cell():
    x = torch.zeros(2)
    assert str(storage_map(x=x, grown=x.expand(3, 2))) == (
        "storage   0   1\n"
        "x         0   1\n"
        "grown    ×3  ×3"
    )  # fmt: skip


def test_map_wraps_into_equal_lines():
    text = str(storage_map(x=torch.zeros(2, 3, 4)))
    blocks = text.split("\n\n")
    assert [len(block.splitlines()) for block in blocks] == [2, 2, 2]
    assert [len(block.splitlines()[0].split()) for block in blocks] == [9, 9, 9]
    assert all(len(line) <= 79 for line in text.splitlines())
    numbers = [word for block in blocks for word in block.splitlines()[0].split()[1:]]
    assert numbers == [str(cell) for cell in range(24)]


def test_map_of_a_long_storage_only_names_its_views():
    x = torch.zeros(5, 20)
    assert str(storage_map(x=x, one=x[0, 3])) == "storage of 100 cells, with x, one"


def test_map_of_an_empty_storage():
    assert str(storage_map(x=torch.zeros(0))) == "storage\nx      "


def test_map_names_the_odd_one_out():
    x = torch.zeros(4)
    with pytest.raises(ValueError, match=r"^stray does not share the storage of x$"):
        storage_map(x=x, view=x[1:], stray=x.clone())
    with pytest.raises(ValueError, match="at least one named tensor"):
        storage_map()


def test_map_names_the_views_it_knows():
    x = torch.zeros(4)
    with pytest.raises(KeyError, match="no view is called 'y'; there are x, tail"):
        storage_map(x=x, tail=x[2:]).cells("y")


@pytest.mark.parametrize(
    ("t", "text"),
    [
        (torch.zeros(1000, 1000), "storage of 1000000 cells, with x"),
        (torch.zeros(1).expand(3_000_000), "storage         0\nx        ×3000000"),
        (torch.zeros(40).expand(10**12, 40), "storage of 40 cells, with x"),
    ],
)
def test_printing_a_map_does_not_take_longer_for_more_elements(t, text):
    start = time.process_time()
    assert str(storage_map(x=t)) == text
    assert time.process_time() - start < 0.2


def test_map_of_a_hugely_expanded_tensor_is_cheap():
    x = torch.zeros(2).expand(10**12, 2)
    assert storage_map(x=x).cells("x") == (0, 1)
    assert [text.get_text() for text in storage_map(x=x).plot().texts][-2:] == [f"×{10**12}"] * 2


# --- Broadcast ---

shape_lists = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4).map(tuple), max_size=4)


def torch_agrees(shapes):
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None


@settings(deadline=None, derandomize=True, max_examples=800)
@given(shape_lists)
def test_broadcast_agrees_with_torch(shapes):
    found = broadcast(*shapes)
    assert found.result == torch_agrees(shapes)
    assert found.shapes == tuple(shapes)
    # The clash is the first axis from the right that torch refuses on its own.
    columns = {axis: [(s[axis],) for s in shapes if len(s) >= -axis] for axis in range(-4, 0)}
    refused = [axis for axis, column in columns.items() if torch_agrees(column) is None]
    assert found.clash == max(refused, default=None)


def test_broadcast_takes_ints_sizes_and_lists():
    assert broadcast(torch.Size([3, 1]), 4, [1], np.int64(1)).result == (3, 4)
    assert broadcast().result == ()
    assert broadcast((), ()).result == ()


def test_broadcast_names_the_first_clash_from_the_right():
    assert broadcast((2, 3, 4), (5, 1), (1, 6, 4)) == Broadcast(((2, 3, 4), (5, 1), (1, 6, 4)), None, -2)
    assert broadcast((2, 3), (3, 2)).clash == -1


def test_broadcast_numbers_shapes_beyond_the_alphabet():
    assert "#27" in [text.get_text() for text in broadcast(*[1] * 27).plot().texts]


@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        (((3,), (2, -1)), ValueError, r"shape 1 has a negative size: \(2, -1\)"),
        ((torch.zeros(3),), TypeError, r"shape 0 is a tensor; pass its \.shape"),
        (((3.0,),), TypeError, r"shape 0 must be an int or a tuple of ints, got \(3\.0,\)"),
        ((None,), TypeError, "shape 0 must be an int or a tuple of ints, got None"),
        (("34",), TypeError, "shape 0 must be an int or a tuple of ints, got '34'"),
    ],
)
def test_broadcast_explains_bad_shapes(shapes, error, message):
    with pytest.raises(error, match=message):
        broadcast(*shapes)


# --- Drawings ---

x = torch.zeros(3, 4)
DRAWINGS = {
    "matrix": layout(x),
    "transposed": layout(x.t()),
    "sliced": layout(x[1:, ::2]),
    "scalar": layout(x[1, 2]),
    "empty view": layout(x[:0]),
    "empty": layout(torch.zeros(0)),
    "expanded": layout(torch.zeros(4).expand(5, 4)),
    "unfolded": layout(torch.zeros(8).unfold(0, 3, 1)),
    "vector": layout(torch.zeros(32)),
    "tall": layout(torch.zeros(16, 2)),
    "3-d": layout(torch.zeros(2, 3, 4).transpose(0, 2)),
    "4-d": layout(torch.zeros(2, 2, 2, 4)),
    "5-d": layout(torch.zeros(2, 2, 2, 2, 2)),
    "map": storage_map(x=x, row=x[1], column=x[:, 1], turned=x.t(), none=x[:0]),
    "long map": storage_map(a_rather_long_name=torch.zeros(2, 16)),
    "empty map": storage_map(x=torch.zeros(0)),
    "stretch": broadcast((8, 1, 6, 1), (7, 1, 5)),
    "clash": broadcast((2, 3, 4), (5, 1), (6, 4)),
    "pictures": broadcast((64, 3, 224, 224), (3, 1, 1)),
    "one axis": broadcast((), 2),
    "no axes": broadcast((), ()),
    "nothing": broadcast(),
}


def texts_of(ax):
    return [text for text in ax.texts if text.get_text()]


def cells_in(ax):
    """Text and colour of every filled cell, in the order drawn."""
    cells = [patch for patch in ax.patches if patch.get_fill()]
    found = []
    for text in texts_of(ax):
        x, y = text.get_position()
        inside = [c for c in cells if 0 < x - c.get_x() < c.get_width() and 0 < y - c.get_y() < c.get_height()]
        found += [(text.get_text(), matplotlib.colors.to_hex(c.get_facecolor())) for c in inside]
    return found


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawing_has_no_clipped_and_no_overlapping_text(name):
    ax = DRAWINGS[name].plot()
    canvas = ax.figure.canvas
    canvas.draw()
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts_of(ax)]
    width, height = canvas.get_width_height()
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (one, first), (other, second) in combinations(boxes, 2):
        assert not first.overlaps(second), (one, other)
    assert all(t.get_fontsize() >= 6 for t in texts_of(ax))
    assert all(len(t.get_text().split()) <= 5 for t in texts_of(ax) if t.get_text()[0].isalpha())


@settings(deadline=None, derandomize=True, max_examples=60)
@given(view_chains())
def test_layout_drawing_shows_every_address_and_every_reader(chain):
    _, t = chain
    found = layout(t)
    if max(t.numel(), found.storage) > 32:
        with pytest.raises(ValueError, match=r"plot\(\) draws 32 cells"):
            found.plot()
        return
    ax = found.plot()
    shown = [text for text, _ in cells_in(ax)]
    plt.close(ax.figure)
    addresses = [found.address(*index) for index in product(*map(range, t.shape))]
    assert sorted(shown[: len(addresses)]) == sorted(map(str, addresses))
    indices = {",".join(map(str, index)) or "()" for index in product(*map(range, t.shape))}
    readers = shown[len(addresses) :]
    crowded = any(addresses.count(address) > 3 for address in addresses)
    assert crowded or sorted(readers) == sorted(indices)
    assert all(text in indices or text.startswith("+") for text in readers)


def test_drawing_keeps_to_the_given_axes():
    figure, axes = plt.subplots(1, 3, figsize=(12, 3))
    for inspector, ax in zip((layout(x), storage_map(x=x), broadcast((3, 1), 4)), axes, strict=True):
        assert inspector.plot(ax) is ax
        assert ax.texts
    assert plt.get_fignums() == [figure.number]


def test_rows_keep_their_colour_in_the_storage():
    colour = dict(cells_in(layout(x.t()).plot()))
    for row, column in product(range(4), range(3)):
        assert colour[f"{row},{column}"] == colour[f"{row},0"] == colour[str(layout(x.t()).address(row, column))]
    assert len({colour[f"{row},0"] for row in range(4)}) == 4
    colour = dict(cells_in(layout(torch.zeros(3, 2, 1)).plot()))
    assert len({colour[f"{block},{row},0"] for block in range(3) for row in range(2)}) == 6


def test_edges_of_read_cells_lie_over_those_of_unread_cells():
    edges = [patch for patch in layout(x[1:, ::2]).plot().patches if not patch.get_fill()]
    depth = {
        colour: {e.get_zorder() for e in edges if e.get_edgecolor() == colour}
        for colour in {e.get_edgecolor() for e in edges}
    }
    black = depth.pop((0.0, 0.0, 0.0, 1.0))
    (pale,) = depth.values()
    assert min(black) > max(pale)


def test_crowded_cells_say_how_many_more_read_them():
    texts = [t.get_text() for t in layout(torch.zeros(1).expand(9, 1)).plot().texts]
    assert texts[-4:] == ["0,0", "1,0", "+7", "0"]


def test_drawing_refuses_what_cannot_be_read():
    with pytest.raises(ValueError, match=r"plot\(\) draws 32 cells, not 2 elements in 33 cells"):
        layout(torch.zeros(33)[:2]).plot()
    with pytest.raises(ValueError, match=r"plot\(\) draws 32 cells, not 33 elements in 1 cells"):
        layout(torch.zeros(1).expand(33)).plot()
    with pytest.raises(ValueError, match=r"32 cells, but the storage has 33; cells\(\) lists them"):
        storage_map(x=torch.zeros(33)).plot()


def test_clash_is_vermilion_and_stretch_is_hatched():
    ax = broadcast((2, 3, 1), (4, 5)).plot()
    colour = dict(cells_in(ax))
    assert {text for text, c in colour.items() if c == "#d55e00"} == {"3", "4"}
    assert [patch.get_hatch() for patch in ax.patches].count("///") == 2  # "1 → 5" and the legend
    assert not any(patch.get_hatch() for patch in broadcast((2, 3), (2, 3)).plot().patches)


def test_a_size_of_one_on_a_clashing_axis_is_no_clash():
    colour = dict(cells_in(broadcast((3,), (4,), (1,)).plot()))
    assert colour["3"] == colour["4"] == "#d55e00" != colour["1"]


def test_every_size_stands_under_its_axis():
    columns = {}
    for text in texts_of(broadcast((8, 1, 6, 1), (7, 1, 5)).plot()):
        columns.setdefault(round(text.get_position()[0], 3), []).append(text.get_text())
    assert ["axis \u22124", "8", "1 \u2192 8", "8"] in columns.values()
    assert ["axis \u22123", "1 \u2192 7", "7", "7"] in columns.values()
    assert ["axis \u22122", "6", "1 \u2192 6", "6"] in columns.values()
    assert ["axis \u22121", "1 \u2192 5", "5", "5"] in columns.values()


def test_nothing_is_printed_or_changed(capsys):
    t = torch.arange(12.0).reshape(3, 4)
    before = t.clone()
    for inspector in (layout(t), storage_map(t=t, turned=t.t()), broadcast(t.shape, 4)):
        str(inspector), repr(inspector), inspector.plot()
    same_storage(t, t.t())
    assert torch.equal(t, before)
    assert capsys.readouterr() == ("", "")


def test_broadcast_is_plain_data():
    assert broadcast((3, 1), 4) == Broadcast(((3, 1), (4,)), (3, 4), None)
