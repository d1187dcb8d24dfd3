import copy
from dataclasses import FrozenInstanceError
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pytorch_course.convolution import Field, conv_output, conv_transpose_output, receptive_field, trace_shapes

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def run(layer, channels, sizes):
    """The sizes that a real layer gives, or None if it refuses or nothing comes out."""
    try:
        found = tuple(layer(torch.empty(1, channels, *sizes, device="meta")).shape[2:])
    except RuntimeError:
        return None
    # When one axis of a transposed convolution vanishes, some of torch's back ends raise and others return nothing.
    return None if 0 in found else found


def formula(function, sizes, *settings):
    try:
        return tuple(function(*numbers) for numbers in zip(sizes, *settings, strict=True))
    except ValueError:
        return None


@st.composite
def per_axis(draw, dims, low, high):
    return tuple(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))


# --- Output sizes ---


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.data(), st.integers(1, 3), st.sampled_from([1, 2, 3]))
def test_conv_output_agrees_with_real_convolutions(data, dims, groups):
    sizes, kernel = data.draw(per_axis(dims, 1, 12)), data.draw(per_axis(dims, 1, 5))
    stride, padding = data.draw(per_axis(dims, 1, 4)), data.draw(per_axis(dims, 0, 3))
    dilation = data.draw(per_axis(dims, 1, 3))
    layer = CONV[dims](6, 6, kernel, stride, padding, dilation, groups, device="meta")
    assert formula(conv_output, sizes, kernel, stride, padding, dilation) == run(layer, 6, sizes)


@settings(deadline=None, derandomize=True, max_examples=500)
@given(st.data(), st.integers(1, 3), st.sampled_from([1, 2, 3]))
def test_conv_transpose_output_agrees_with_real_layers(data, dims, groups):
    sizes, kernel = data.draw(per_axis(dims, 1, 6)), data.draw(per_axis(dims, 1, 4))
    stride, padding = data.draw(per_axis(dims, 1, 3)), data.draw(per_axis(dims, 0, 3))
    output_padding, dilation = data.draw(per_axis(dims, 0, 2)), data.draw(per_axis(dims, 1, 3))
    layer = TRANSPOSED[dims](6, 6, kernel, stride, padding, output_padding, groups, dilation=dilation, device="meta")
    wanted = run(layer, 6, sizes)
    assert formula(conv_transpose_output, sizes, kernel, stride, padding, output_padding, dilation) == wanted


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.data(), st.integers(1, 3), st.booleans())
def test_conv_output_agrees_with_real_pooling(data, dims, largest):
    sizes, kernel = data.draw(per_axis(dims, 1, 12)), data.draw(per_axis(dims, 1, 5))
    stride = data.draw(per_axis(dims, 1, 4))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    dilation = data.draw(per_axis(dims, 1, 3)) if largest else (1,) * dims
    layer = MAX[dims](kernel, stride, padding, dilation) if largest else AVG[dims](kernel, stride, padding)
    if isinstance(
        layer, nn.AvgPool3d
    ):  # it alone refuses inputs smaller than the kernel, however much padding there is
        sizes = tuple(map(max, sizes, kernel))
    assert formula(conv_output, sizes, kernel, stride, padding, dilation) == run(layer, 2, sizes)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3))
def test_a_transposed_convolution_undoes_the_size(n, kernel, stride, padding, dilation):
    reach = dilation * (kernel - 1) + 1
    if reach > n + 2 * padding:
        return
    lost = (n + 2 * padding - reach) % stride
    small = conv_output(n, kernel, stride, padding, dilation)
    assert conv_transpose_output(small, kernel, stride, padding, lost, dilation) == n


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: conv_output(0, 3), ValueError, "n must be at least 1, got 0"),
        (lambda: conv_output(5, 0), ValueError, "kernel must be at least 1, got 0"),
        (lambda: conv_output(5, 3, stride=0), ValueError, "stride must be at least 1, got 0"),
        (lambda: conv_output(5, 3, padding=-1), ValueError, "padding must be at least 0, got -1"),
        (lambda: conv_output(5, 3, dilation=0), ValueError, "dilation must be at least 1, got 0"),
        (lambda: conv_output(5, 3, padding="same"), TypeError, "padding must be an int, got 'same'"),
        (lambda: conv_output(5, (3, 3)), TypeError, r"kernel must be an int, got \(3, 3\)"),
        (lambda: conv_output(5, True), TypeError, "kernel must be an int, got True"),
        (
            lambda: conv_output(5, 3, dilation=4, padding=1),
            ValueError,
            "covers 9 positions, but the padded input has only 7",
        ),
        (lambda: conv_output(3, 4), ValueError, "covers 4 positions, but the padded input has only 3"),
        (lambda: conv_transpose_output(0, 3), ValueError, "n must be at least 1, got 0"),
        (
            lambda: conv_transpose_output(4, 3, output_padding=-1),
            ValueError,
            "output_padding must be at least 0, got -1",
        ),
        (
            lambda: conv_transpose_output(4, 3, stride=2, output_padding=2),
            ValueError,
            "output_padding must be less than stride or dilation, 2: 2",
        ),
        (lambda: conv_transpose_output(1, 2, padding=1), ValueError, "would have size 0; padding cuts 1 from each"),
    ],
)
def test_bad_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- Receptive fields ---


@st.composite
def stacks(draw, dims, layers, pooling=True):
    """A stack of real layers that turn zeros into zeros and grow when an input grows."""
    made = []
    for _ in range(draw(st.integers(1, layers))):
        kind = draw(st.sampled_from(["conv", "same", "max", "average", "relu", "norm", "drop"]))
        kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
        if kind == "conv":
            made.append(CONV[dims](1, 1, kernel, stride, draw(st.integers(0, 3)), dilation, bias=False))
        elif kind == "same":
            padding = draw(st.sampled_from(["same", "valid"]))
            made.append(CONV[dims](1, 1, kernel, padding=padding, dilation=dilation, bias=False))
        elif kind == "max" and pooling:
            padding, ceil = draw(st.integers(0, kernel // 2)), draw(st.booleans())
            made.append(MAX[dims](kernel, stride, padding, dilation, ceil_mode=ceil))
        elif kind == "average":
            padding, ceil = draw(st.integers(0, kernel // 2)), draw(st.booleans())
            made.append(AVG[dims](kernel, draw(st.sampled_from([None, stride])), padding, ceil_mode=ceil))
        else:
            made.append({"norm": NORM[dims](1), "drop": nn.Dropout()}.get(kind, nn.ReLU()))
    cut = draw(st.integers(0, len(made)))
    for layer in made:
        if isinstance(layer, CONV[dims]):
            nn.init.ones_(layer.weight)
    return nn.Sequential(*made[:cut], nn.Sequential(*made[cut:])).double().eval()


def check_footprint(model, sees, n):
    """Compare the last field with a table that says which of n inputs each output sees."""
    field = receptive_field(model)[-1]
    inside = 0
    for i, row in enumerate(sees):
        seen = row.nonzero().flatten().tolist()
        first, last = field.start + i * field.jump, field.start + i * field.jump + field.size - 1
        if first >= 0 and last < n:
            inside += 1
            assert (seen[0], seen[-1]) == (first, last)
        else:
            assert all(first <= position <= last for position in seen)
    assert inside >= 2


def big_enough(model):
    field = receptive_field(model)[-1]
    return field.size + 3 * field.jump


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(deadline=None, derandomize=True, max_examples=300)
@given(stacks(dims=1, layers=4))
def test_receptive_field_is_the_footprint_of_single_inputs(model):
    n = big_enough(model)
    with torch.no_grad():
        sees = model(torch.eye(n, dtype=torch.double)[:, None]).squeeze(1).T != 0
    check_footprint(model, sees, n)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.integers(2, 3).flatmap(lambda dims: st.tuples(st.just(dims), stacks(dims=dims, layers=2, pooling=False))))
def test_receptive_field_is_the_footprint_of_the_gradient(case):
    dims, model = case
    n = big_enough(model)
    x = torch.ones(1, 1, *[n] * dims, dtype=torch.double, requires_grad=True)
    y = model(x)[0, 0]
    for axis in range(dims):
        outputs = y.movedim(axis, 0).flatten(1).sum(1)
        grads = [torch.autograd.grad(out, x, retain_graph=True)[0][0, 0] for out in outputs]
        sees = torch.stack([grad.movedim(axis, 0).flatten(1).any(1) for grad in grads])
        check_footprint(model, sees, n)


def test_receptive_field_of_a_small_network_by_hand():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, dilation=2),
    )
    assert receptive_field(model) == [
        Field("0.0", size=3, jump=1, start=-1),
        Field("0.1", size=3, jump=1, start=-1),
        Field("0.2", size=4, jump=2, start=-1),
        Field("1", size=12, jump=4, start=-3),
    ]


def test_receptive_field_of_one_layer_and_of_none():
    assert receptive_field(nn.Conv1d(1, 1, 7, stride=2)) == [Field("Conv1d", 7, 2, 0)]
    assert receptive_field(nn.Sequential()) == []


def test_receptive_field_counts_a_layer_used_twice():
    conv = nn.Conv1d(1, 1, 3)
    assert [field.size for field in receptive_field(nn.Sequential(conv, nn.ReLU(), conv))] == [3, 3, 5]


def test_receptive_field_matches_conv_output():
    """Every output of an unpadded stack has its whole field inside the input."""
    model = nn.Sequential(nn.Conv1d(1, 1, 5, 2), nn.MaxPool1d(3, 2), nn.Conv1d(1, 1, 3, dilation=2))
    field = receptive_field(model)[-1]
    assert (field.size, field.start) == (25, 0)
    for n in range(25, 60):
        outputs = trace_shapes(model, (1, 1, n))[""].shape[-1]
        assert outputs == conv_output(n, field.size, stride=field.jump)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Sequential(nn.ReLU(), nn.Flatten()), TypeError, "cannot follow Flatten at '1'"),
        (nn.Sequential(nn.Sequential(nn.ConvTranspose2d(1, 1, 2))), TypeError, r"ConvTranspose2d at '0\.0'"),
        (nn.Sequential(nn.InstanceNorm2d(1)), TypeError, "InstanceNorm2d at '0'"),
        (nn.Sequential(nn.Softmax(dim=-1)), TypeError, "Softmax at '0'"),
        (nn.LSTM(8, 2), TypeError, "LSTM at 'LSTM'"),
        ([nn.ReLU()], TypeError, "cannot follow list"),
        (nn.Conv2d(1, 1, (1, 7)), ValueError, r"kernel_size \(1, 7\) of 'Conv2d' differs between axes"),
        (nn.Conv2d(1, 1, 3, stride=(1, 2)), ValueError, r"stride \(1, 2\)"),
        (nn.Conv2d(1, 1, 3, padding=(0, 1)), ValueError, r"padding \(0, 1\)"),
        (nn.MaxPool2d(3, dilation=(1, 2)), ValueError, r"dilation \(1, 2\)"),
        (nn.AvgPool3d(2, padding=[0, 1, 1]), ValueError, r"padding \[0, 1, 1\]"),
    ],
)
def test_receptive_field_refuses_what_it_cannot_follow(model, error, message):
    with pytest.raises(error, match=message):
        receptive_field(model)


# --- Traces ---


class Recorder(nn.Module):
    """Counts its calls and keeps a plain tensor, as careless modules do."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.scale = torch.ones(3)

    def forward(self, x):
        self.calls += 1
        return x * self.scale + torch.arange(3)  # made on the default device


class Net(nn.Module):
    """Several inputs and outputs, tied weights, a layer used twice and one never used."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.blocks = nn.ModuleList([nn.Linear(16, 16), nn.LSTM(16, 4)])
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout()
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embed.weight
        self.spare = nn.Conv1d(2, 2, 3)
        self.nothing = Nothing()

    def forward(self, tokens, extra):
        x = self.embed(tokens) + extra
        x = self.blocks[0](self.drop(self.blocks[0](x)))
        self.blocks[1](x)
        self.nothing(x)
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return {"logits": self.head(x), "more": [x, (x.sum(), None)]}


class Nothing(nn.Module):
    def forward(self, x):
        return None


TOKENS = torch.zeros(2, 8, dtype=torch.long)


def test_trace_of_a_model_with_everything():
    found = trace_shapes(Net(), TOKENS, (8, 16))
    assert [(row.name, row.kind, row.outputs, row.parameters) for row in found.rows] == [
        ("", "Net", ((2, 8, 50), (2, 8, 16), ()), 800 + 272 + 352 + 32 + 14),
        ("embed", "Embedding", ((2, 8, 16),), 800),
        ("blocks.0", "Linear", ((2, 8, 16),), 272),
        ("drop", "Dropout", ((2, 8, 16),), 0),
        ("blocks.0", "Linear", ((2, 8, 16),), 272),
        ("blocks.1", "LSTM", ((2, 8, 4), (1, 8, 4), (1, 8, 4)), 352),
        ("nothing", "Nothing", (), 0),
        ("norm", "BatchNorm1d", ((2, 16, 8),), 32),
        ("head", "Linear", ((2, 8, 50),), 800),
        ("spare", "Conv1d", None, 14),
    ]
    assert found.parameters == sum(p.numel() for p in Net().parameters())
    assert found["head"].shape == (2, 8, 50)


def test_trace_prints_a_table():
    assert str(trace_shapes(Net(), TOKENS, (8, 16))) == (
        "layer     kind         output                           parameters\n"
        "(model)   Net          (2, 8, 50), (2, 8, 16), ()            1,470\n"
        "embed     Embedding    (2, 8, 16)                              800\n"
        "blocks.0  Linear       (2, 8, 16)                              272\n"
        "drop      Dropout      (2, 8, 16)                                0\n"
        "blocks.0  Linear       (2, 8, 16)                              272\n"
        "blocks.1  LSTM         (2, 8, 4), (1, 8, 4), (1, 8, 4)         352\n"
        "nothing   Nothing      no tensor                                 0\n"
        "norm      BatchNorm1d  (2, 16, 8)                               32\n"
        "head      Linear       (2, 8, 50)                              800\n"
        "spare     Conv1d       not called                               14"
    )


@settings(deadline=None, derandomize=True, max_examples=100)
@given(stacks(dims=1, layers=4), st.integers(30, 60))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_trace_agrees_with_a_real_run(model, n):
    wanted = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _x, y, name=name: wanted.update({name: tuple(y.shape)}))
    x = torch.zeros(2, 1, n, dtype=torch.double)
    try:
        model(x)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            trace_shapes(model, x.shape)
        return
    found = trace_shapes(model, x.shape)
    assert {row.name: row.shape for row in found.rows} == wanted
    assert [row.parameters for row in found.rows] == [
        sum(p.numel() for p in module.parameters()) for module in map(model.get_submodule, (r.name for r in found.rows))
    ]


def test_trace_leaves_the_model_and_the_random_state_alone():
    model = Net()
    fired = []
    model.blocks[0].register_forward_hook(lambda *_: fired.append("after"))
    model.blocks[0].register_forward_pre_hook(lambda *_: fired.append("before"))
    model.drop.eval()
    weights = {name: (t, t.clone(), t._version) for name, t in model.state_dict(keep_vars=True).items()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    state = torch.get_rng_state()
    trace_shapes(model, TOKENS, (8, 16))
    assert torch.equal(torch.get_rng_state(), state)
    for name, t in model.state_dict(keep_vars=True).items():
        assert t is weights[name][0]
        assert torch.equal(t, weights[name][1])
        assert t._version == weights[name][2]
    assert [module.training for module in model.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert fired == []


def test_trace_does_not_reach_plain_attributes():
    model = Recorder()
    assert trace_shapes(model, (2, 3))[""].shape == (2, 3)
    assert model.calls == 0
    assert model.scale.device.type == "cpu"


def test_trace_needs_no_memory_for_the_weights():
    model = nn.Sequential(nn.Linear(10**6, 10**6, bias=False, device="meta"))
    assert trace_shapes(model, (1, 10**6)).parameters == 10**12


def test_trace_copies_no_weights(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    monkeypatch.setattr(torch.Tensor, "__deepcopy__", lambda *_: pytest.fail("a weight was copied"))
    assert trace_shapes(model, (2, 3)).parameters == 24


class Strict(nn.Linear):
    """Insists on its own dtype, which layers on the meta device do not."""

    def forward(self, x):
        assert x.dtype is self.weight.dtype
        return super().forward(x)


def test_trace_uses_the_dtype_of_the_parameters():
    assert trace_shapes(Strict(3, 4).half(), (2, 3))[""].shape == (2, 4)
    assert trace_shapes(Strict(3, 4), torch.zeros(2, 3))[""].shape == (2, 4)
    with pytest.raises(AssertionError):
        trace_shapes(Strict(3, 4), torch.zeros(2, 3, dtype=torch.half))
    assert trace_shapes(nn.ReLU(), (2, 3))[""].shape == (2, 3)


def test_trace_follows_the_training_mode():
    model = nn.Sequential(nn.BatchNorm1d(3))
    assert trace_shapes(model.eval(), (1, 3))[""].shape == (1, 3)
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        trace_shapes(model.train(), (1, 3))
    assert caught.value.__notes__ == [
        "trace_shapes() was at '0', on the meta device, where tensors have shapes but no values"
    ]


def test_trace_names_the_place_of_an_error():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4)), nn.Linear(5, 2))
    with pytest.raises(RuntimeError) as caught:
        trace_shapes(model, (1, 3))
    assert "at '1'" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="positional argument") as caught:
        trace_shapes(Net())
    assert "in the model itself" in caught.value.__notes__[0]


def test_an_error_before_the_first_call_is_noted_too(monkeypatch):
    model = nn.Linear(3, 4)
    monkeypatch.setattr(nn.Linear, "__call__", lambda *_: 1 / 0, raising=False)
    with pytest.raises(ZeroDivisionError) as caught:
        trace_shapes(model, (1, 3))
    assert "in the model itself" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("model", "shapes", "error", "message"),
    [
        ("net", (), TypeError, "model must be a torch.nn.Module, got str"),
        (nn.ReLU(), (3, 4), TypeError, "shape 0 must be a tuple of ints or a tensor, got 3"),
        (nn.ReLU(), ((3, 4.0),), TypeError, r"shape 0 must be a tuple of ints or a tensor, got \(3, 4\.0\)"),
        (nn.Sequential(nn.LazyLinear(3)), ((1, 3),), ValueError, "LazyLinear at '0' is lazy"),
        (nn.Sequential(nn.LazyBatchNorm1d(affine=False)), ((1, 3),), ValueError, "LazyBatchNorm1d at '0' is lazy"),
    ],
)
def test_trace_explains_bad_arguments(model, shapes, error, message):
    with pytest.raises(error, match=message):
        trace_shapes(model, *shapes)


def test_trace_sees_through_reparametrised_weights():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3)))
    assert trace_shapes(model, (1, 2, 9))["0"].shape == (1, 3, 7)
    assert receptive_field(model)[0].size == 3


def test_rows_without_a_single_output_say_so():
    found = trace_shapes(Net(), TOKENS, (8, 16))
    for name, told in [("", r"the model has no single output: \(2, 8, 50\), "), ("spare", "spare .*: not called")]:
        with pytest.raises(ValueError, match=told):
            _ = found[name].shape
    with pytest.raises(KeyError, match="no module is called 'tail'; there are embed, blocks"):
        found["tail"]


def test_traces_are_frozen():
    found = trace_shapes(nn.ReLU(), (1,))
    assert found == trace_shapes(copy.deepcopy(nn.ReLU()), (1,))
    with pytest.raises(FrozenInstanceError):
        found.rows = ()
    with pytest.raises(FrozenInstanceError):
        found.rows[0].name = "x"
    with pytest.raises(FrozenInstanceError):
        receptive_field(nn.ReLU())[0].size = 2


class Page(HTMLParser):
    """Collects the tags and the text of every cell, and checks that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_trace_as_html_is_an_accessible_table_without_looks():
    model = nn.Sequential(nn.Linear(3, 4))
    model.add_module("<b>", nn.ReLU())
    text = trace_shapes(model, (2, 3))._repr_html_()
    page = Page(text)
    assert [tag for tag, _ in page.tags][:2] == ["table", "caption"]
    assert page.rows[0] == ["layer", "kind", "output", "parameters"]
    assert page.rows[1] == ["(model)", "Sequential", "(2, 4)", "16"]
    assert page.rows[3] == ["<b>", "ReLU", "(2, 4)", "0"]
    assert "<b>" not in text
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert all(attributes.keys() <= {"class", "scope"} for _, attributes in page.tags)
    classes = [word for _, attributes in page.tags for word in attributes.get("class", "").split()]
    assert all(word.startswith("pc-") for word in classes)


def test_nothing_is_printed(capsys):
    found = trace_shapes(nn.Sequential(nn.Conv1d(1, 1, 3)), (1, 1, 9))
    str(found), repr(found), found._repr_html_(), receptive_field(nn.Conv1d(1, 1, 3))
    assert capsys.readouterr() == ("", "")
