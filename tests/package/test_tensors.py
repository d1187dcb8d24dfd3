import subprocess
import sys
from dataclasses import FrozenInstanceError
from html.parser import HTMLParser
from itertools import combinations, product

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

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


# --- Random chains of views: each operation draws its arguments for the tensor that it meets. ---


def _slice(draw, t):
    axis = draw(st.integers(0, t.ndim - 1))
    start, stop = draw(st.integers(0, t.shape[axis])), draw(st.integers(0, t.shape[axis]))
    return t[(slice(None),) * axis + (slice(start, stop, draw(st.integers(1, 3))),)]


def _select(draw, t):
    axis = draw(st.integers(0, t.ndim - 1))
    return t.select(axis, draw(st.integers(0, t.shape[axis] - 1))) if t.shape[axis] else t


def _narrow(draw, t):
    axis = draw(st.integers(0, t.ndim - 1))
    start = draw(st.integers(0, t.shape[axis]))
    return t.narrow(axis, start, draw(st.integers(0, t.shape[axis] - start)))


def _transpose(draw, t):
    return t.transpose(draw(st.integers(0, t.ndim - 1)), draw(st.integers(0, t.ndim - 1)))


def _permute(draw, t):
    return t.permute(draw(st.permutations(range(t.ndim))))


def _expand(draw, t):
    sizes = [draw(st.integers(1, 3)) if size == 1 else size for size in t.shape]
    return t.expand(*([draw(st.integers(1, 2))] if t.ndim < 5 else []), *sizes)


def _unfold(draw, t):
    axis = draw(st.integers(0, t.ndim - 1))
    return t.unfold(axis, draw(st.integers(0, t.shape[axis])), draw(st.integers(1, 2))) if t.ndim < 5 else t


def _unsqueeze(draw, t):
    return t.unsqueeze(draw(st.integers(0, t.ndim))) if t.ndim < 5 else t


def _reshape(draw, t):
    divisors = [n for n in range(1, t.numel() + 1) if t.numel() % n == 0]
    return t.reshape(draw(st.sampled_from(divisors)), -1) if divisors else t.reshape(-1)


def _diagonal(_draw, t):
    return t.diagonal() if t.ndim > 1 else t


CHAIN = [_slice, _select, _narrow, _transpose, _permute, _expand, _unfold, _unsqueeze, _reshape, _diagonal]


@st.composite
def view_chains(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.int64, torch.uint8]))
    base = torch.arange(torch.Size(shape).numel(), dtype=dtype).reshape(shape)
    t = base
    for operation in draw(st.lists(st.sampled_from(CHAIN), max_size=6)):
        if t.ndim and t.numel() < 300:
            t = operation(draw, t)
    return base, t


@settings(deadline=None, derandomize=True, max_examples=2000)
@given(view_chains())
def test_layout_finds_every_element_of_every_view(chain):
    _, t = chain
    found = layout(t)
    assert (found.shape, found.stride, found.offset) == (t.shape, t.stride(), t.storage_offset())
    assert (found.dtype, found.itemsize) == (t.dtype, t.element_size())
    assert found.storage_bytes == t.untyped_storage().nbytes() == found.storage_length * found.itemsize
    assert found.contiguous is t.is_contiguous()
    indices = list(product(*map(range, t.shape)))
    addresses = [found.address(*index) for index in indices]
    negative = [found.address(*(i - n for i, n in zip(index, t.shape, strict=True))) for index in indices]
    assert cells_of(t)[addresses].tolist() == t.flatten().tolist()
    assert negative == addresses


@settings(deadline=None, derandomize=True, max_examples=1200)
@given(view_chains())
def test_same_storage_says_whether_a_write_is_seen(chain):
    base, t = chain
    before = cells_of(base).clone()
    cells_of(t).add_(1)
    seen = not torch.equal(cells_of(base), before)
    assert same_storage(base, t) is seen
    assert same_storage(t, base) is seen
    assert same_storage(t, t.clone()) is False


@settings(deadline=None, derandomize=True, max_examples=500)
@given(view_chains())
def test_storage_map_touches_exactly_the_cells_that_a_write_changes(chain):
    base, t = chain
    if not same_storage(base, t):
        with pytest.raises(ValueError, match=r"^view does not share the storage of base$"):
            storage_map(base=base, view=t)
        return
    cells_of(base).zero_()
    t.fill_(1)
    changed = cells_of(base).nonzero().flatten().tolist()
    found = storage_map(base=base, view=t)
    assert list(found.cells("view")) == changed
    assert list(found.cells("base")) == list(range(base.numel()))
    assert found.length == base.numel()


# --- Layout ---


def test_layout_prints_its_facts():
    assert str(layout(torch.zeros(2, 3, dtype=torch.int16).t())) == (
        "shape       (3, 2)\n"
        "stride      (1, 3)\n"
        "offset      0\n"
        "dtype       torch.int16, 2 bytes each\n"
        "storage     6 cells, 12 bytes\n"
        "contiguous  no\n"
        "address     [i, j] reads cell 0 + 1*i + 3*j"
    )


def test_layout_of_one_byte_and_of_many_axes():
    assert "dtype       torch.bool, 1 byte each\nstorage     1 cell, 1 byte\n" in str(layout(torch.tensor(True)))
    assert str(layout(torch.tensor(True))).endswith("[] reads cell 0")
    many = layout(torch.zeros(1, 1, 1, 1, 1, 1, 2))
    assert "[i0, i1, i2, i3, i4, i5, i6] reads cell 0 + 2*i0" in str(many)


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
    with pytest.raises(TypeError, match=r"index of axis 1 must be an int, got 1\.0"):
        layout(torch.zeros(3, 4)).address(0, 1.0)


def test_address_takes_whatever_counts_as_an_integer():
    assert layout(torch.zeros(3, 4)).address(np.int64(2), torch.tensor(1)) == 9


def _freed():
    t = torch.ones(3)
    t.untyped_storage().resize_(0)
    return t


def _fake():
    with FakeTensorMode():
        return torch.ones(3)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: [1, 2], TypeError, "must be a torch.Tensor, got list"),
        (lambda: np.ones(2), TypeError, "must be a torch.Tensor, got ndarray"),
        (lambda: torch.eye(2).to_sparse(), TypeError, "layout torch.sparse_coo.*to_dense"),
        (lambda: torch.eye(2).to_sparse_csr(), TypeError, "layout torch.sparse_csr.*to_dense"),
        (lambda: torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.quint8), TypeError, "quantised.*int_repr"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), TypeError, "nested.*unbind"),
        (lambda: torch.zeros(2, device="meta"), ValueError, "no memory"),
        (_fake, ValueError, "no memory"),
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


def test_wrappers_inside_function_transforms_are_refused():
    with pytest.raises(TypeError, match="t wraps another tensor"):
        torch.vmap(lambda row: (layout(row), row)[1])(torch.ones(2, 3))
    with pytest.raises(TypeError, match="t wraps another tensor"):
        torch.func.grad(lambda x: (layout(x), x.sum())[1])(torch.ones(3))


class Hollow(torch.Tensor):
    """A wrapper whose storage object has no memory, as distributed tensors have."""

    @staticmethod
    def __new__(cls):
        return torch.Tensor._make_wrapper_subclass(cls, (2,))

    __torch_dispatch__ = None


def test_hollow_wrappers_are_refused():
    with pytest.raises(TypeError, match="t wraps another tensor"):
        layout(Hollow())


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


def test_map_of_views_with_different_element_sizes():
    z = torch.zeros(2, dtype=torch.complex64)
    found = storage_map(z=z, real=z.real, bytes=z.view(torch.uint8)[8:10])
    assert (found.length, found.itemsize) == (16, 1)
    assert found.cells("z") == tuple(range(16))
    assert found.cells("real") == (0, 1, 2, 3, 8, 9, 10, 11)
    assert found.cells("bytes") == (8, 9)
    assert str(storage_map(z=z, imag=z.imag)) == (
        "storage  0  1  2  3\n"
        "z        0  0  1  1\n"
        "imag     .  0  .  1"
    )  # fmt: skip


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


def test_map_never_cuts_an_element():
    z = torch.zeros(10, dtype=torch.complex128)
    found = storage_map(z=z, shorts=z.view(torch.int64)[:3])
    assert [len(line) for line in found._lines(most=7)] == [6, 6, 6, 2]
    odd = torch.zeros(6, dtype=torch.uint8)
    short = storage_map(all=odd, word=odd[:4].view(torch.int32))
    assert [list(line) for line in short._lines(most=4)] == [[0, 1, 2, 3], [4, 5]]


def test_map_of_a_long_storage_is_summed_up():
    x = torch.zeros(5, 20)
    assert str(storage_map(x=x, one=x[0, 3], column=x[:, 3], block=x[:2, :2], none=x[:0])) == (
        "storage  100 cells of 4 bytes\n"
        "x        100 cells, 0 to 99\n"
        "one      cell 3\n"
        "column   5 cells, 3 to 83, step 20\n"
        "block    4 cells, 0 to 21, with gaps\n"
        "none     no cells"
    )


def test_map_of_an_empty_storage():
    assert str(storage_map(x=torch.zeros(0))) == "storage\nx      "


def test_map_names_the_odd_ones_out():
    x = torch.zeros(4)
    with pytest.raises(ValueError, match=r"^stray does not share the storage of x, view$"):
        storage_map(stray=x.clone(), x=x, view=x[1:])
    with pytest.raises(ValueError, match=r"^a, b do not share the storage of x, view$"):
        storage_map(x=x, a=x.clone(), view=x[1:], b=x.clone())
    with pytest.raises(ValueError, match="at least one named tensor"):
        storage_map()


def test_map_names_the_views_it_knows():
    x = torch.zeros(4)
    with pytest.raises(KeyError, match="no view is called 'y'; there are x, tail"):
        storage_map(x=x, tail=x[2:]).cells("y")


def test_map_of_a_hugely_expanded_tensor_is_cheap():
    x = torch.zeros(2)
    assert storage_map(x=x.expand(10**12, 2)).cells("x") == (0, 1)


# --- Broadcast ---

shape_lists = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4).map(tuple), max_size=4)


def torch_agrees(shapes):
    try:
        return tuple(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None


@settings(deadline=None, derandomize=True, max_examples=2000)
@given(shape_lists)
def test_broadcast_agrees_with_torch(shapes):
    found = broadcast(*shapes)
    assert found.result == torch_agrees(shapes)
    assert found.shapes == tuple(shapes)
    # The clash is the first axis from the right that torch refuses on its own.
    columns = {axis: [(s[axis],) for s in shapes if len(s) >= -axis] for axis in range(-4, 0)}
    refused = [axis for axis, column in columns.items() if torch_agrees(column) is None]
    assert found.clash == max(refused, default=None)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(shape_lists.filter(bool))
def test_broadcast_agrees_with_real_tensors(shapes):
    found = broadcast(*shapes)
    tensors = [torch.zeros(shape, device="meta") for shape in shapes]
    if found.result is None:
        with pytest.raises(RuntimeError):
            torch.broadcast_tensors(*tensors)
    else:
        assert {tuple(t.shape) for t in torch.broadcast_tensors(*tensors)} == {found.result}


@settings(deadline=None, derandomize=True, max_examples=500)
@given(shape_lists)
def test_broadcast_prints_every_size_in_its_column(shapes):
    found = broadcast(*shapes)
    lines = str(found).splitlines()
    assert len(lines) == len(shapes) + 1
    for line, shape in zip(lines, shapes, strict=False):
        head, sizes = line.split(":")
        assert head.split()[-1] == f"({len(shape)}-d)"
        assert sizes.split() == " x ".join(map(str, shape)).split()
        assert line == line.rstrip()
    ends = {len(line) for line, shape in zip(lines, shapes, strict=False) if shape}
    assert len(ends) <= 1  # aligned on the right
    assert lines[-1].startswith("clash" if found.result is None else "result")


def test_broadcast_takes_ints_sizes_and_lists():
    assert broadcast(torch.Size([3, 1]), 4, [1], np.int64(1)).result == (3, 4)
    assert broadcast().result == ()
    assert broadcast((), ()).result == ()


def test_broadcast_prints_like_the_manuals():
    assert str(broadcast((8, 1, 6, 1), (7, 1, 5))) == (
        "A      (4-d):  8 x 1 x 6 x 1\n"
        "B      (3-d):      7 x 1 x 5\n"
        "result (4-d):  8 x 7 x 6 x 5"
    )  # fmt: skip
    assert str(broadcast((64, 3, 224), (3, 1))) == (
        "A      (3-d):  64 x 3 x 224\n"
        "B      (2-d):       3 x   1\n"
        "result (3-d):  64 x 3 x 224"
    )  # fmt: skip


def test_broadcast_marks_each_clash_and_explains_the_first():
    assert str(broadcast((2, 3, 4), (5, 1), (1, 6, 4))) == (
        "A      (3-d):  2 x 3 x 4\n"
        "B      (2-d):      5 x 1\n"
        "C      (3-d):  1 x 6 x 4\n"
        "clash              ^      axis -2: 3, 5 and 6 differ and none is 1"
    )
    assert str(broadcast((2, 3), (3, 2))).endswith("clash          ^   ^  axis -1: 3 and 2 differ and none is 1")


def test_broadcast_numbers_shapes_beyond_the_alphabet():
    assert "#27    (1-d):  1" in str(broadcast(*[1] * 27))


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


# --- HTML ---


class Page(HTMLParser):
    """Collects tags and text, and checks that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


x = torch.zeros(3, 4)
INSPECTORS = {
    "layout": layout(x[1:, ::2]),
    "map": storage_map(x=x, column=x[:, 1]),
    "long map": storage_map(y=torch.zeros(100)),
    "broadcast": broadcast((3, 1), 4),
    "clash": broadcast((2, 3), 4),
}


@pytest.mark.parametrize("name", INSPECTORS)
def test_html_is_an_accessible_table_without_looks(name):
    page = Page(INSPECTORS[name]._repr_html_())
    tags = [tag for tag, _ in page.tags]
    assert tags[:2] == ["table", "caption"]
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert all(attributes.keys() <= {"class", "scope"} for _, attributes in page.tags)
    classes = [word for _, attributes in page.tags for word in attributes.get("class", "").split()]
    assert all(word.startswith("pc-") for word in classes)
    assert len({len(row) for row in page.rows}) == 1


def test_html_of_a_map_marks_the_touched_cells():
    found = INSPECTORS["map"]
    page = Page(found._repr_html_())
    assert page.rows[0] == ["storage", *map(str, range(12))]
    assert page.rows[2] == ["column", "", "0", "", "", "", "1", "", "", "", "2", "", ""]
    marks = [attributes.get("class") for tag, attributes in page.tags if tag == "td"]
    assert marks[:12] == ["pc-touched pc-view-1"] * 12
    assert [cell for cell, mark in enumerate(marks[12:]) if mark] == [1, 5, 9]


def test_html_of_a_broadcast_marks_what_happens():
    marks = [a["class"] for tag, a in Page(broadcast((3, 1), 4)._repr_html_()).tags if tag == "td"]
    assert marks == ["pc-size", "pc-stretched", "pc-added", "pc-size", "pc-size", "pc-size"]
    marks = [a["class"] for tag, a in Page(broadcast((2, 3), 4, (1, 1))._repr_html_()).tags if tag == "td"]
    assert marks == ["pc-size", "pc-clash", "pc-added", "pc-clash", "pc-stretched", "pc-size"]


def test_html_escapes_names():
    assert "<b>" not in storage_map(**{"<b>": torch.zeros(2)})._repr_html_()
    assert "<b>" not in storage_map(**{"<b>": torch.zeros(200)})._repr_html_()


# --- Drawings ---

z = torch.zeros(2, 3, dtype=torch.complex64)
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
    "complex map": storage_map(z=z, real=z.real, imag=z.imag),
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
    if max(t.numel(), found.storage_length) > 32:
        with pytest.raises(ValueError, match=r"plot\(\) can draw 32 cells"):
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
    with pytest.raises(ValueError, match=r"32 cells, but the tensor has 2 elements and its storage 33 cells"):
        layout(torch.zeros(33)[:2]).plot()
    with pytest.raises(ValueError, match=r"32 cells, but the tensor has 33 elements and its storage 1 cells"):
        layout(torch.zeros(1).expand(33)).plot()
    with pytest.raises(ValueError, match=r"32 cells, but the storage has 33; print\(\) it instead"):
        storage_map(x=torch.zeros(33)).plot()


def test_clash_is_vermilion_and_stretch_is_hatched():
    ax = broadcast((2, 3, 1), (4, 5)).plot()
    colour = dict(cells_in(ax))
    assert {text for text, c in colour.items() if c == "#d55e00"} == {"3", "4"}
    assert ax.lines  # the hatch of "1 → 5"
    assert not broadcast((2, 3), (2, 3)).plot().lines


def test_nothing_is_printed_or_changed(capsys):
    t = torch.arange(12.0).reshape(3, 4)
    before, version = t.clone(), t._version
    for inspector in (layout(t), storage_map(t=t, turned=t.t()), broadcast(t.shape, 4)):
        str(inspector), repr(inspector), inspector._repr_html_(), inspector.plot()
    same_storage(t, t.t())
    assert torch.equal(t, before)
    assert t._version == version
    assert capsys.readouterr() == ("", "")


def test_import_does_not_load_matplotlib():
    code = "import sys, pytorch_course.tensors; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_broadcast_is_plain_data():
    assert broadcast((3, 1), 4) == Broadcast(((3, 1), (4,)), (3, 4), None)
