"""Tests of `pytorch_course.models`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from pytorch_course.models import GPT, ResNet, UNet

some = settings(deadline=None, derandomize=True, max_examples=15)
small = {
    "ResNet": lambda: ResNet(8, width=4),
    "UNet": lambda: UNet(width=4),
    "GPT": lambda: GPT(11, context=12, width=16, blocks=2),
}


def example(name, batch=3):
    """An input that the model of this name takes."""
    generator = torch.Generator().manual_seed(1)
    if name == "GPT":
        return torch.randint(11, (batch, 12), generator=generator)
    return torch.randn(batch, 1, 28, 28, generator=generator)


def built(name, seed=0):
    """A small model of this name. The global generator stays where it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return small[name]()


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def conv(a, b, kernel=3):
    """Weights of a convolution without bias, and two numbers per map for batch normalisation."""
    return a * b * kernel * kernel + 2 * b


# Shapes


@some
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 9), st.sampled_from([1, 3]))
def test_resnet_gives_one_score_per_class(height, width, classes, channels):
    with torch.device("meta"):
        model = ResNet(classes=classes, channels=channels)
        images = torch.empty(2, channels, height, width)
        assert model(images).shape == (2, classes)
        assert model.features(images).dim() == 4


@some
@given(st.integers(1, 4), st.data())
def test_unet_keeps_height_and_width(levels, data):
    height, width = (data.draw(st.integers(2**levels, 70)) for _ in range(2))
    with torch.device("meta"):
        model = UNet(classes=3, channels=2, width=2, levels=levels)
        assert model(torch.empty(2, 2, height, width)).shape == (2, 3, height, width)


@some
@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 3))
def test_gpt_scores_every_token(time, heads, blocks):
    with torch.device("meta"):
        model = GPT(7, context=20, width=4 * heads, heads=heads, blocks=blocks)
        tokens = torch.empty(2, time, dtype=torch.int64)
        assert model(tokens).shape == (2, time, 7)
        assert model.features(tokens).shape == (2, time, 4 * heads)


def test_the_smallest_images_run_for_real():
    for model, size in [(ResNet(), 1), (UNet(), 4)]:
        assert model.eval()(torch.zeros(1, 1, size, size)).isfinite().all()


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (14, 2), (20, 3)])
def test_a_shortcut_projects_only_where_the_shape_changes(depth, blocks):
    with torch.device("meta"):
        model = ResNet(depth, width=4)
        x = model.features[0](torch.empty(2, 1, 30, 30))
        sides = []
        for number, block in enumerate(model.features[1:]):
            changes = number in (blocks, 2 * blocks)
            assert isinstance(block.shortcut, nn.Identity) is not changes
            assert block.shortcut(x).shape == block.body(x).shape
            x = block(x)
            sides.append((x.shape[1], x.shape[2]))
    assert sides == [(4, 30)] * blocks + [(8, 15)] * blocks + [(16, 8)] * blocks


def test_depth_counts_the_layers_on_the_main_path():
    for depth in (8, 20, 32):
        with torch.device("meta"):
            names = [name for name, m in ResNet(depth).named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert sum("shortcut" not in name for name in names) == depth


# Parameters


def test_the_numbers_of_parameters_are_those_of_the_formulas():
    with torch.device("meta"):
        resnet, unet = ResNet(20, channels=3), UNet(classes=5)
    # The paper gives 0.27 million for depth 20.
    stages = 6 * conv(16, 16) + conv(16, 32) + 5 * conv(32, 32) + conv(32, 64) + 5 * conv(64, 64)
    assert parameters(resnet) == conv(3, 16) + stages + conv(16, 32, 1) + conv(32, 64, 1) + 10 * 65
    assert round(parameters(resnet) / 1e6, 2) == 0.27
    down = conv(1, 12) + conv(12, 12) + conv(12, 24) + conv(24, 24) + conv(24, 48) + conv(48, 48)
    assert parameters(unet) == down + conv(72, 24) + conv(24, 24) + conv(36, 12) + conv(12, 12) + 5 * 13


def test_the_number_of_parameters_of_gpt():
    v, t, w, blocks = 50, 30, 24, 3
    with torch.device("meta"):
        model = GPT(v, context=t, width=w, heads=2, blocks=blocks)
    block = 12 * w * w + 9 * w + 4 * w  # weights, biases, two normalisations
    assert parameters(model) == v * w + t * w + blocks * block + 2 * w
    assert model.head.weight is model.tokens.weight


@pytest.mark.parametrize("name", small)
def test_gradients_reach_every_parameter(name):
    model = built(name)
    output = model(example(name, batch=8))
    torch.manual_seed(0)
    (output * torch.randn_like(output)).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", small)
def test_scores_begin_finite_and_of_moderate_size(name):
    output = built(name)(example(name, batch=16))
    assert output.isfinite().all()
    assert 0.01 < output.std() < 10


def test_depth_does_not_make_the_stream_of_gpt_grow():
    torch.manual_seed(0)
    tokens = torch.randint(11, (4, 12))
    spread = {}
    for blocks in (1, 16):
        model = GPT(11, context=12, width=64, blocks=blocks)
        seen = []
        model.norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].std().item()))
        model(tokens)
        spread[blocks] = seen[0]
    assert spread[16] < 1.5 * spread[1]


@pytest.mark.parametrize("name", small)
def test_a_state_dict_makes_another_model_the_same(name):
    first, second = built(name).eval(), built(name, seed=1).eval()
    x = example(name)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", small)
def test_a_model_learns_one_batch_by_heart(name):
    model, x = built(name), example(name, batch=4)
    target = {"UNet": (x[:, 0] > 0).long(), "GPT": x.roll(-1, 1)}.get(name, torch.arange(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        output = model(x)
        loss = F.cross_entropy(
            output.flatten(0, 1) if name == "GPT" else output, target.flatten() if name == "GPT" else target
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# What each is meant to be


@some
@given(st.integers(0, 11), st.integers(0, 2**31))
def test_gpt_never_looks_ahead(position, seed):
    model = built("GPT").eval()
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (2, 12), generator=generator)
    changed = tokens.clone()
    changed[:, position:] = (tokens[:, position:] + 1 + torch.randint(10, (2, 12 - position), generator=generator)) % 11
    with torch.no_grad():
        a, b = model(tokens), model(changed)
    torch.testing.assert_close(a[:, :position], b[:, :position], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(a[:, position], b[:, position])


def test_gpt_looks_back_and_knows_positions():
    model = built("GPT").eval()
    tokens = torch.arange(11)[None]
    changed = tokens.clone()
    changed[:, 0] = 5
    with torch.no_grad():
        assert not torch.allclose(model(tokens)[:, -1], model(changed)[:, -1], atol=1e-6)
        same = model(torch.zeros(1, 2, dtype=torch.int64))
    assert not torch.allclose(same[:, 0], same[:, 1], atol=1e-6)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, tokens = GPT(11, context=12, width=16, dropout=0.5), example("GPT")
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_attention_by_hand():
    block = built("GPT").blocks[0].eval()
    x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    query, key, value = block.query_key_value(block.norm_1(x)).chunk(3, dim=-1)
    later = torch.ones(5, 5).triu(1).bool()
    heads = []
    for part in range(4):
        q, k, v = (tensor[..., 4 * part : 4 * part + 4] for tensor in (query, key, value))
        heads.append(((q @ k.mT / 2).masked_fill(later, float("-inf")).softmax(-1)) @ v)
    after = x + block.add_attention(torch.cat(heads, -1))
    expected = after + block.add_widened(F.gelu(block.widen(block.norm_2(after))))
    torch.testing.assert_close(block(x), expected)


def test_the_skip_connections_of_unet_carry_detail():
    model = built("UNet").eval()
    x = example("UNet")
    before = model(x)
    with torch.no_grad():
        model.up[-1][0][0].weight[:, :4] = 0  # the first four maps are those of the skip connection
    assert not torch.allclose(before, model(x))


@pytest.mark.parametrize("name", small)
def test_models_can_be_exported(name):
    model, x = built(name).eval(), example(name)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))


# Mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(classes=0), "classes is 0, expected an integer of at least 1"),
        (lambda: ResNet(channels=1.0), r"channels is 1\.0, expected an integer of at least 1"),
        (lambda: ResNet(18), r"depth is 18, expected 8, 14, 20, 26 \.\.\.: 6 n \+ 2"),
        (lambda: ResNet(2), "depth is 2, expected an integer of at least 8"),
        (lambda: UNet(levels=0), "levels is 0"),
        (lambda: UNet(levels=3)(torch.zeros(1, 1, 64, 7)), "images are 64x7, expected sides of at least 8 pixels"),
        (lambda: GPT(10, width=30, heads=4), "width is 30, expected a multiple of heads, which is 4"),
        (lambda: GPT(10, dropout=1.0), r"dropout is 1\.0, expected at least 0 and below 1"),
        (lambda: GPT(10, heads=0), "heads is 0"),
        (lambda: GPT(10, context=4)(torch.zeros(1, 5, dtype=torch.int64)), "5 tokens came, and the context holds 4"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
