"""Tests of `pytorch_course.evaluate`."""

import sys

import cloudpickle
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset

from pytorch_course.data import loader
from pytorch_course.distributed import launch, world
from pytorch_course.evaluate import evaluate, predict
from pytorch_course.rng import rng_state, set_rng_state
from pytorch_course.state import TrainState
from pytorch_course.train import train

per_sample_loss = nn.CrossEntropyLoss(reduction="none")


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(autouse=True)
def _leave_no_trace():
    before = rng_state()
    yield
    set_rng_state(before)


def right(output, target):
    return output.argmax(1) == target


def samples(n):
    generator = torch.Generator().manual_seed(5)
    return TensorDataset(torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator))


def load(n, batch_size=8, **kwargs):
    return loader(samples(n), batch_size, seed=0, **kwargs)


def noisy(x, label):
    return x + torch.randn(6), label


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3))


def at_once(model, data):
    """Outputs of one forward pass over all samples."""
    model.eval()
    with torch.no_grad():
        output = model(data.tensors[0])
    model.train()
    return output


# evaluate


@settings(deadline=None, derandomize=True, max_examples=40)
@given(n=st.integers(1, 60), batch_size=st.integers(1, 70), shuffle=st.booleans())
def test_figures_do_not_depend_on_how_the_data_is_cut(n, batch_size, shuffle):
    model, data = network(), samples(n)
    output = at_once(model, data)
    batches = loader(data, min(batch_size, n), seed=0, shuffle=shuffle)
    figures = evaluate(model, batches, {"accuracy": right, "loss": per_sample_loss})
    assert list(figures) == ["accuracy", "loss"]
    assert figures["accuracy"] == right(output, data.tensors[1]).double().mean().item()
    assert figures["loss"] == pytest.approx(per_sample_loss(output, data.tensors[1]).double().mean().item(), rel=1e-5)


def test_a_mean_of_batch_means_would_be_another_number():
    batches = [(torch.zeros(3, 1), torch.ones(3)), (torch.zeros(1, 1), torch.zeros(1))]
    assert evaluate(nn.Identity(), batches, {"ones": lambda _, target: target == 1}) == {"ones": 0.75}


@pytest.mark.parametrize("kind", [lambda value: value, int])
def test_a_sum_and_a_count_make_a_mean_over_tokens(kind):
    """Tokens that a mask leaves out do not count."""
    batches = [(torch.zeros(2, 5), torch.ones(2, 5)), (torch.zeros(1, 5), torch.tensor([[0, 0, -1, -1, -1]]))]

    def ones(_, target):
        return kind((target == 1).sum()), kind((target >= 0).sum())

    assert evaluate(nn.Identity(), batches, {"ones": ones}) == {"ones": pytest.approx(10 / 12)}


def test_metrics_that_are_no_mean_are_exact_too():
    from torchmetrics.classification import MulticlassF1Score

    model, data = network(), samples(37)
    whole = MulticlassF1Score(3, average="macro")
    expected = whole(at_once(model, data), data.tensors[1]).item()
    score = MulticlassF1Score(3, average="macro")
    for _ in range(2):  # what it saw before does not count
        figures = evaluate(model, loader(data, 8, seed=0), {"accuracy": right, "f1": score})
        assert figures["f1"] == pytest.approx(expected, rel=1e-6)
        assert list(figures) == ["accuracy", "f1"]
    per_class = MulticlassF1Score(3, average="none")
    with pytest.raises(ValueError, match="metric 'f1' has more than one figure"):
        evaluate(model, loader(data, 8, seed=0), {"f1": per_class})


class Largest:
    """The least that a metric of one's own needs."""

    def reset(self):
        self.value = float("-inf")

    def update(self, output, target):
        self.value = max(self.value, output.max().item())

    def compute(self):
        return self.value


def test_metrics_of_your_own():
    model, data = network(), samples(37)
    assert evaluate(model, loader(data, 8, seed=0), {"largest": Largest()}) == {
        "largest": at_once(model, data).max().item()
    }


def test_modes_come_back_and_nothing_is_recorded():
    model = network()
    model[1].eval()
    before = [module.training for module in model.modules()]
    seen = []

    def look(module, inputs, output):
        seen.append((module.training, torch.is_grad_enabled()))

    model[2].register_forward_hook(look)
    evaluate(model, load(20), {"accuracy": right})
    assert seen == [(False, False)] * 3
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == before
    model.eval()
    predict(model, load(20))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("where", ["metric", "model"])
def test_modes_come_back_after_an_error(where):
    model = network()

    def fail(*_):
        raise KeyError("broken")

    if where == "model":
        model[0].register_forward_hook(fail)
    try:
        evaluate(model, load(20), {"broken": fail})
    except KeyError:
        # Inside the handler: the traceback still holds every frame.
        assert all(module.training for module in model.modules())
    else:
        pytest.fail("no error")


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}])
def test_a_pass_that_is_under_way_is_not_disturbed(options):
    """Measuring put the loader back to epoch 0, and with persistent workers it ended the pass."""

    def passes(look):
        batches, seen = load(20, transform=noisy, **options), []
        for _epoch in range(2):
            for x, _ in batches:
                seen.append(x.sum().item())
                if look and len(seen) in (2, 6):
                    evaluate(network(), batches, {"accuracy": right})
                    predict(network(), batches)
        return seen, batches.batch_sampler.position

    assert passes(look=True) == passes(look=False)


class Stream(IterableDataset):
    def __iter__(self):
        yield from samples(20)


@pytest.mark.parametrize("data", [samples(20), Stream()])
def test_a_pass_over_a_plain_loader_is_not_disturbed(data):
    batches = DataLoader(data, 4, num_workers=1, persistent_workers=True)
    assert sum(len(x) for x, _ in batches if evaluate(network(), batches, {"accuracy": right})) == 20


def test_evaluation_in_the_loop_does_not_change_the_training():
    def weights(look):
        state = TrainState(model := network(), torch.optim.AdamW(model.parameters(), lr=0.1))
        torch.manual_seed(0)
        batches = load(40)
        for _ in train(state, batches, cross_entropy, epochs=2):
            if look:
                evaluate(model, batches, {"accuracy": right})
                predict(model, load(40, 7, shuffle=False))
        return torch.cat([parameter.flatten() for parameter in model.parameters()])

    assert torch.equal(weights(look=False), weights(look=True))


def test_the_same_figures_every_time_even_with_random_transforms():
    batches = load(20, transform=noisy)
    figures = [evaluate(network(), batches, {"loss": per_sample_loss})["loss"] for _ in range(3)]
    assert len(set(figures)) == 1


def test_what_a_model_keeps_can_be_trained_on_afterwards():
    class Keeper(nn.Linear):
        mask = None

        def forward(self, x):
            if self.mask is None:
                self.mask = torch.ones_like(x)
            return super().forward(x * self.mask)

    model = Keeper(6, 3)
    evaluate(model, load(4, 4), {"accuracy": right})
    model(samples(4).tensors[0].requires_grad_()).sum().backward()
    assert model.weight.grad is not None


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (nn.CrossEntropyLoss(), r"returned shape \(\) for a batch of 8 samples, .* shape \(8,\), .* reduction='none'"),
        (lambda *pair: nn.functional.cross_entropy(*pair)[None], r"returned shape \(1,\)"),
        (
            lambda output, _: output,
            r"returned shape \(8, 3\) .* for tokens or pixels return \(values.sum\(\), values.numel",
        ),
        (lambda output, _: output.flatten(), r"returned shape \(24,\)"),
        (lambda output, target: 3, "returned type int for a batch"),
        (lambda output, target: (output, 3), "returned type tuple"),
        (lambda output, target: (1, 2, 3), "returned type tuple"),
    ],
)
def test_metrics_that_are_not_per_sample_are_refused(metric, message):
    """A mean in a tensor of one element, and values that `ignore_index` set to 0, were taken for values of samples."""
    with pytest.raises(ValueError, match=f"metric 'm' .*{message}"):
        evaluate(network(), load(24), {"m": metric})


def test_a_batch_of_names_is_refused():
    data = [{"x": torch.zeros(6), "y": 0}] * 4
    for measure in (lambda m, d: evaluate(m, d, {"accuracy": right}), predict):
        with pytest.raises(
            TypeError, match=r"a batch is a dict, expected \(input, target\): give the loader a collate_fn"
        ):
            measure(network(), loader(data, 2, seed=0))


def test_samples_are_counted_by_the_first_tensor():
    batches = [([torch.zeros(2), torch.zeros(3), torch.zeros(4)], torch.zeros(3)), (torch.zeros(2, 4), ["a", "b"])]
    for batch in batches:
        metric = {"m": lambda output, target: torch.ones(len(target))}
        assert evaluate(nn.Identity(), [batch], metric) == {"m": 1}


def test_half_precision_is_added_up_in_double_precision():
    data = [(torch.full((500, 1), 0.1), torch.zeros(500))] * 3
    figures = evaluate(nn.Identity(), data, {"m": lambda output, _: output[:, 0].bfloat16()})
    assert figures["m"] == pytest.approx(torch.tensor(0.1).bfloat16().item())
    output = predict(nn.Identity(), loader(TensorDataset(torch.arange(5.0).bfloat16()), 2, seed=1))
    assert output.dtype == torch.bfloat16
    assert output.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("measure", [lambda m, d: evaluate(m, d, {"accuracy": right}), predict])
def test_data_that_is_not_whole_is_refused(measure):
    with pytest.raises(ValueError, match="the dataset is empty"):
        measure(network(), [])
    for batches in (load(20, drop_last=True), DataLoader(samples(20), 8, drop_last=True)):
        with pytest.raises(ValueError, match="the loader leaves samples out"):
            measure(network(), batches)


@pytest.mark.parametrize("device", [None, "meta"])
def test_batches_go_to_the_device(device):
    model = network().to("cpu" if device else "meta")
    seen = []

    def look(module, inputs):
        seen.append(inputs[0].device.type)
        raise KeyError("seen enough")

    model.register_forward_pre_hook(look)
    with pytest.raises(KeyError):
        predict(model, load(4, 2), device=device)
    assert seen == ["meta"]


# predict


@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 9), shuffle=st.booleans())
def test_outputs_come_in_the_order_of_the_data(n, batch_size, shuffle):
    data = TensorDataset(torch.arange(n).float())
    assert predict(nn.Flatten(0), loader(data, min(n, batch_size), seed=0, shuffle=shuffle)).tolist() == list(range(n))


def test_kinds_of_batches():
    x = torch.arange(12.0).view(6, 2)
    assert torch.equal(predict(nn.Identity(), list(x.split(4))), x)
    assert torch.equal(predict(nn.Identity(), DataLoader(TensorDataset(x), 4)), x)
    assert torch.equal(predict(nn.Identity(), DataLoader(x, 4)), x)
    assert torch.equal(predict(nn.Flatten(0), DataLoader(x, batch_size=None)), x.flatten())
    part = Subset(TensorDataset(x, x), [5, 0, 2])
    assert torch.equal(
        predict(nn.Identity(), loader(part, 2, seed=0, num_workers=1, transform=lambda a, b: (-a, b))), -x[[5, 0, 2]]
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("RandomSampler", {"batch_size": 2, "shuffle": True}),
        ("RandomSampler", {"batch_sampler": BatchSampler(RandomSampler(range(4)), 2, drop_last=False)}),
        ("list", {"batch_sampler": [[3, 2], [1, 0]]}),
        ("RandomSampler", {"batch_size": None, "shuffle": True}),
    ],
)
def test_an_order_that_cannot_be_undone_is_refused(name, options):
    with pytest.raises(ValueError, match=f"the order of {name} cannot be undone: use shuffle=False"):
        predict(nn.Identity(), DataLoader(TensorDataset(torch.arange(4.0)), **options))


def test_a_stream_keeps_its_order_without_workers():
    """The advice was to leave out shuffle, which a stream cannot have."""
    assert torch.equal(predict(nn.Identity(), DataLoader(Stream(), 6)), samples(20).tensors[0])
    with pytest.raises(ValueError, match="workers mix the order of an IterableDataset: use num_workers=0"):
        predict(nn.Identity(), DataLoader(Stream(), 2, num_workers=2))


def test_predictions_can_be_computed_with():
    output = predict(nn.Identity(), loader(TensorDataset(torch.ones(3, 2)), 4, seed=0, shuffle=False))
    weight = torch.ones(2, requires_grad=True)
    (output @ weight).sum().backward()
    assert weight.grad.tolist() == [3, 3]


# several processes


def on_ranks(n):
    """Everything that must be the same on one process and on two."""
    from torchmetrics.classification import MulticlassF1Score

    with world("cpu") as w:
        model = network()
        model[1].running_mean += w.rank  # the ranks' own averages; those of rank 0 are saved, so they must count
        wrapped = w.wrap(model)
        data = samples(n)
        batches = loader(data, 8 // w.size, seed=0, world=w, shuffle=False)
        metrics = {"accuracy": right, "loss": per_sample_loss, "f1": MulticlassF1Score(3, average="macro")}
        figures = evaluate(wrapped, batches, metrics)
        outputs = predict(wrapped, loader(data, 8 // w.size, seed=0, world=w))
        # One rank alone, with a wrapper that waits for the others whenever it can
        alone = evaluate(wrapped, loader(data, 8, seed=0), {"accuracy": right}) if w.main else None
        w.barrier()
        return figures, outputs.tolist(), alone


@pytest.fixture
def _sent_by_value():
    """Send the functions of this module to launched processes as they are, because nobody can import it there."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("_sent_by_value")
def test_two_processes_find_what_one_finds():
    """33 samples and batches of 8 together: one sample is left over, and goes to one of the two."""
    figures, outputs, alone = on_ranks(33)
    results = launch(on_ranks, 33, nproc=2)
    assert results[0][:2] == results[1][:2]
    for name, figure in figures.items():
        assert results[0][0][name] == pytest.approx(figure, rel=1e-6)
    torch.testing.assert_close(torch.tensor(results[0][1]), torch.tensor(outputs), rtol=1e-5, atol=1e-6)
    assert [result[2] for result in results] == [alone, None]


def test_a_sharded_model_can_be_trained_after_it_was_measured():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        data = samples(20)
        expected = at_once(network(), data)
        model = dist.fsdp.fully_shard(network())
        torch.testing.assert_close(predict(model, loader(data, 8, seed=0)), expected)
        state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for _ in train(state, loader(data, 8, seed=0), cross_entropy, epochs=2):
            evaluate(model, loader(data, 8, seed=0), {"accuracy": right})
        assert state.step == 6
    finally:
        dist.destroy_process_group()
