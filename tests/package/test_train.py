"""Tests of `pytorch_course.train` and `state`. Run as a script, this file is the run that a test kills again and again."""

import contextlib
import copy
import functools
import hashlib
import importlib.util
import io
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from pytorch_course.checkpoint import CheckpointError, Checkpoints
from pytorch_course.data import loader
from pytorch_course.distributed import launch, world
from pytorch_course.evaluate import evaluate
from pytorch_course.rng import rng_state, set_rng_state
from pytorch_course.state import TrainState
from pytorch_course.train import NonFiniteError, Step, train

ROOT = Path(__file__).parents[2]
N, BATCH, EPOCHS = 75, 16, 4
STEPS = EPOCHS * 5


def loss_fn(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


@pytest.fixture(autouse=True)
def _leave_no_trace():
    before = rng_state()
    yield
    set_rng_state(before)


@pytest.fixture
def _group():
    """A process group of one process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def samples(n=N, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(n, 6, generator=generator), torch.randint(3, (n,), generator=generator))


def augment(x, label):
    return x + 0.1 * torch.randn_like(x), label


def network():
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def new_state(make_optimizer=adamw, make_model=network, schedule=True):
    """A run at its beginning: the weights, and the generator that dropout draws from."""
    torch.manual_seed(0)
    model = make_model()
    optimizer = make_optimizer(model.parameters())
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS) if schedule else None
    return TrainState(model, optimizer, scheduler)


def batches(**kwargs):
    return loader(samples(), BATCH, seed=3, transform=augment, **kwargs)


def fingerprint(model):
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def finish(state, data=None, epochs=EPOCHS, **kwargs):
    for _ in train(state, batches() if data is None else data, loss_fn, epochs=epochs, **kwargs):
        pass
    return fingerprint(state.model)


@pytest.fixture(scope="module")
def expected():
    """The weights of the loop written by hand."""
    state = new_state()
    data = batches()
    state.model.train()
    for _ in range(EPOCHS):
        for x, y in data:
            state.optimizer.zero_grad()
            loss_fn(state.model, (x, y)).backward()
            state.optimizer.step()
            state.scheduler.step()
    return fingerprint(state.model)


# the loop itself


def test_the_weights_are_those_of_the_loop_written_by_hand(expected):
    state = new_state()
    assert finish(state) == expected
    assert (state.step, state.epoch, state.batch) == (STEPS, EPOCHS, 0)


def test_clipping_autocast_and_scaling_are_those_of_the_loop_written_by_hand(expected):
    by_hand, scaler = new_state(), torch.amp.GradScaler("cpu", init_scale=8.0)
    for x, y in batches():
        by_hand.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(by_hand.model, (x, y))
        scaler.scale(loss).backward()
        scaler.unscale_(by_hand.optimizer)
        nn.utils.clip_grad_norm_(by_hand.model.parameters(), 0.1)
        scaler.step(by_hand.optimizer)
        scaler.update()
        by_hand.scheduler.step()
    ours, plain = new_state(), new_state()
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert finish(ours, epochs=1, max_grad_norm=0.1, autocast=torch.bfloat16) == fingerprint(by_hand.model)
    assert finish(plain, epochs=1) != fingerprint(by_hand.model)


def test_steps_say_where_training_is():
    state = new_state()
    steps = list(train(state, batches(), loss_fn, epochs=2))
    assert [step.number for step in steps] == list(range(1, 11))
    assert [(step.epoch, step.batch) for step in steps] == [(epoch, batch) for epoch in (0, 1) for batch in range(1, 6)]
    assert [step.number for step in steps if step.end_of_epoch] == [5, 10]
    assert all(isinstance(step, Step) and step.loss.dim() == 0 and not step.loss.requires_grad for step in steps)


def test_the_position_is_past_the_step_when_the_body_runs():
    state = new_state()
    seen = [(state.step, state.epoch, state.batch) for _ in train(state, batches(), loss_fn, epochs=1)]
    assert seen == [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4), (5, 1, 0)]


def test_epochs_counts_from_the_beginning():
    state = new_state()
    assert len(list(train(state, batches(), loss_fn, epochs=1))) == 5
    assert list(train(state, batches(), loss_fn, epochs=1)) == []
    assert len(list(train(state, batches(), loss_fn, epochs=3))) == 10


@pytest.mark.parametrize("stops", [[1], [5], [3, 4, 5, 6, 11], list(range(1, STEPS))])
def test_a_break_leaves_no_trace(stops, expected):
    state = new_state()
    data = batches()
    for stop in stops:
        for step in train(state, data, loss_fn, epochs=EPOCHS):
            if step.number == stop:
                break
        assert state.step == stop
    assert finish(state, data) == expected


@pytest.fixture
def _importable(monkeypatch):
    """A worker that is not forked imports the functions of this module by its name."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.usefixtures("_importable")
@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_workers_do_not_change_the_weights(context, expected):
    # One worker where each has to import everything anew
    workers = 2 if context == "fork" else 1
    data = batches(num_workers=workers, multiprocessing_context=context, persistent_workers=context != "fork")
    state = new_state()
    for step in train(state, data, loss_fn, epochs=EPOCHS):
        if step.number == 7:
            break
    assert finish(state, data) == expected


def test_evaluation_in_the_body_does_no_harm(expected):
    state = new_state()
    for _ in train(state, batches(), loss_fn, epochs=EPOCHS):
        state.model.eval()
        with torch.no_grad():
            state.model(torch.zeros(1, 6))
    assert fingerprint(state.model) == expected


def test_a_part_that_was_frozen_in_evaluation_mode_stays_so():
    state = new_state()
    state.model[1].eval()
    for _ in train(state, batches(), loss_fn, epochs=1):
        assert state.model.training
        assert not state.model[1].training
        state.model.eval()  # a body that looks at the model and forgets to put it back
    assert torch.equal(state.model[1].running_mean, torch.zeros(16))


def test_evaluation_of_the_training_batches_in_the_body_does_no_harm(expected):
    state, data = new_state(), batches()
    for step in train(state, data, loss_fn, epochs=EPOCHS):
        if step.number % 3 == 0:
            evaluate(
                state.model, data, {"loss": lambda output, y: nn.functional.cross_entropy(output, y, reduction="none")}
            )
    assert fingerprint(state.model) == expected


def test_parameters_come_from_the_optimizer():
    """Those of the loss are clipped, and so is a layer that the body adds."""
    torch.manual_seed(0)
    model, centres = linear(), nn.Linear(3, 3)
    optimizer = torch.optim.SGD([*model.parameters(), *centres.parameters()], lr=0.1)
    state = TrainState(model, optimizer, centres=centres)

    def loss_fn(model, batch):
        return 100 * nn.functional.cross_entropy(centres(model(batch[0])), batch[1])

    for _ in train(state, batches(), loss_fn, epochs=1, max_grad_norm=0.01):
        norm = nn.utils.get_total_norm([p.grad for p in [*model.parameters(), *centres.parameters()]])
        assert norm == pytest.approx(0.01, rel=1e-3)
    assert state.step == 5


def test_gradients_left_behind_are_not_used(expected):
    state = new_state()
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert finish(state) == expected


def test_the_body_sees_the_gradients_of_the_update_and_their_norm():
    state = new_state(make_model=linear)
    for step in train(state, batches(), loss_fn, epochs=1, max_grad_norm=0.01):
        clipped = nn.utils.get_total_norm([parameter.grad for parameter in state.model.parameters()])
        assert step.grad_norm > 0.01
        assert clipped == pytest.approx(0.01, rel=1e-3)
    assert state.model.weight.grad is not None
    assert next(train(state, batches(), loss_fn, epochs=2)).grad_norm is None


def test_a_list_of_batches_will_do_and_goes_on_where_it_was():
    data = [(x, y) for x, y in loader(samples(), BATCH, seed=0)]
    whole = new_state()
    finish(whole, data, epochs=2)
    state = new_state()
    for step in train(state, data, loss_fn, epochs=2):
        if step.number in (3, 7):
            break
    assert finish(state, data, epochs=2) == fingerprint(whole.model)


def test_samplers_of_torch_are_told_the_epoch():
    sampler = DistributedSampler(samples(), num_replicas=1, rank=0)
    state = new_state()
    epochs = [sampler.epoch for _ in train(state, DataLoader(samples(), 25, sampler=sampler), loss_fn, epochs=3)]
    assert epochs == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_model_without_parameters_trains_nothing_but_runs():
    w = torch.ones(1, requires_grad=True)
    state = TrainState(nn.Identity(), torch.optim.SGD([w], lr=0.1))
    (step,) = train(
        state,
        [(torch.ones(1), torch.zeros(1))],
        lambda model, batch: (w * batch[0] - batch[1]).square().mean(),
        epochs=1,
    )
    assert step.loss == 1
    assert w.item() == pytest.approx(0.8)


# accumulation


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def with_gaps(n=N):
    """Labels of which some do not count; how many differs from batch to batch."""
    x, y = samples(n).tensors
    y = y.clone()
    y[::2][torch.arange(len(y[::2])) < n // 3] = -100
    return TensorDataset(x.double(), y)


def mean_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def sum_and_count(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y, reduction="sum"), (y != -100).sum()


def accumulated(data, loss_fn, batch, accumulation_steps):
    model = small_model()
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5))
    batches = loader(data, batch, seed=1)
    options = {"accumulation_steps": accumulation_steps, "max_grad_norm": 0.3}
    steps = list(train(state, batches, loss_fn, epochs=2, **options))
    return steps, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=st.integers(32, 90), accumulation_steps=st.integers(1, 8), masked=st.booleans())
def test_accumulated_batches_equal_the_large_batch(n, accumulation_steps, masked):
    x, y = samples(n).tensors
    data, loss = (with_gaps(n), sum_and_count) if masked else (TensorDataset(x.double(), y), mean_loss)
    small, weights = accumulated(data, loss, 4, accumulation_steps)
    large, expected = accumulated(data, loss, 4 * accumulation_steps, 1)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)
    assert [step.end_of_epoch for step in small] == [step.end_of_epoch for step in large]
    torch.testing.assert_close(torch.stack([step.loss for step in small]), torch.stack([step.loss for step in large]))


def test_the_mean_over_what_a_mask_leaves_needs_its_count():
    """The check above would notice: with the mean of each batch, windows differ from the large batch."""
    _, weights = accumulated(with_gaps(), mean_loss, 8, 2)
    _, expected = accumulated(with_gaps(), mean_loss, 16, 1)
    assert (weights - expected).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_batches_of_any_kind_count_their_samples(kind):
    x, y = samples(10).tensors
    parts = [(x[:6].double(), y[:6]), (x[6:].double(), y[6:])]
    data = [{"mask": None, "x": a, "y": b} if kind == "dict" else [[a], b] for a, b in parts]

    def loss_fn(model, batch):
        pair = (batch["x"], batch["y"]) if kind == "dict" else (batch[0][0], batch[1])
        return mean_loss(model, pair)

    models = [small_model(), small_model()]
    states = [TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5)) for model in models]
    list(train(states[0], data, loss_fn, epochs=1, accumulation_steps=2))
    list(train(states[1], [(x.double(), y)], mean_loss, epochs=1))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_a_bare_tensor_reaches_the_loss_as_it_is():
    model = nn.Linear(6, 6)
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    shapes = []

    def loss_fn(model, batch):
        shapes.append(tuple(batch.shape))
        return (model(batch) - batch).square().mean()

    list(train(state, list(samples(5).tensors[0].split(2)), loss_fn, epochs=1))
    assert shapes == [(2, 6), (2, 6), (1, 6)]


def test_the_scheduler_goes_with_the_updates_not_with_the_batches():
    state = new_state()
    steps = list(train(state, batches(), loss_fn, epochs=2, accumulation_steps=2))
    assert [(step.number, step.batch) for step in steps] == [(1, 2), (2, 4), (3, 5), (4, 2), (5, 4), (6, 5)]
    assert state.scheduler.last_epoch == 6


# what can go wrong


def poisoned(*where):
    """Batches in which some inputs are not finite."""
    data = [(x.clone(), y) for x, y in loader(samples(), BATCH, seed=0)]
    for batch in where:
        data[batch][0][0, 0] = float("nan")
    return data


def linear():
    return nn.Linear(6, 3)


def test_a_loss_that_is_not_finite_stops_before_the_update():
    state = new_state(make_model=linear)
    data = poisoned()
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 8 \(epoch 1, batch 2\)") as caught:  # noqa: PT012
        for step in train(state, data, loss_fn, epochs=2):
            if step.number == 5:
                data[2] = poisoned(2)[2]
            before = fingerprint(state.model)
    error = caught.value
    assert (error.step, error.epoch, error.batch) == (8, 1, 2)
    assert fingerprint(state.model) == before
    assert (state.step, state.epoch, state.batch) == (7, 1, 2)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    # Mended data: training goes on as if nothing had happened.
    repaired = new_state(make_model=linear)
    assert finish(state, poisoned(), epochs=2) == finish(repaired, poisoned(), epochs=2)


def test_the_error_leads_to_the_batch():
    x, y = samples().tensors
    x = x.clone()
    x[40] = float("inf")
    data = loader(TensorDataset(x, y), BATCH, seed=3)
    with pytest.raises(NonFiniteError) as caught:
        finish(new_state(), data)
    data.batch_sampler.set_epoch(caught.value.epoch, caught.value.batch)
    assert any(torch.equal(row, x[40]) for row in next(iter(data))[0])


def infinite_slope(model, batch):
    """A loss of 0 whose gradient is NaN."""
    return (model(batch[0]).sum() * 0).sqrt()


@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gradient_that_is_not_finite_stops_before_the_update_too(max_grad_norm, dtype):
    state = new_state(make_model=lambda: linear().to(dtype))
    before = copy.deepcopy(state.model.state_dict())
    run = train(state, [(torch.ones(1, 6, dtype=dtype),)], infinite_slope, epochs=1, max_grad_norm=max_grad_norm)
    with pytest.raises(NonFiniteError, match=r"^the gradient of weight, bias is not finite at step 1"):
        next(run)
    torch.testing.assert_close(state.model.state_dict(), before, rtol=0, atol=0)
    assert state.step == 0


def test_large_gradients_of_half_precision_are_finite():
    state = new_state(make_model=lambda: linear().half())
    x = torch.full((4, 6), 150.0).half()
    step = next(train(state, [x], lambda model, batch: 100 * model(batch).float().sum(), epochs=1))
    assert step.number == 1
    assert state.model.weight.grad.sum().isinf()  # in half precision the sum would not be


def test_a_scaler_that_finds_an_overflow_skips_the_update():
    state = new_state(make_model=linear)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # the largest power of two in float32
    before = fingerprint(state.model)
    step = next(train(state, batches(), lambda model, batch: 100 * loss_fn(model, batch), epochs=1, max_grad_norm=1.0))
    assert step.loss.isfinite()
    assert (state.step, state.scheduler.last_epoch) == (1, 0)
    assert fingerprint(state.model) == before
    assert state.scaler.get_scale() == 2.0**126


def test_errors_keep_their_text_and_say_where_they_happened():
    state = new_state()
    data = [*list(batches())[:2], (torch.zeros(16, 5), torch.zeros(16, dtype=torch.int64))]
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        finish(state, data)
    (note,) = caught.value.__notes__
    assert note == (
        "This was loss_fn(model, batch) at step 3, epoch 0, with the model on cpu and the batch ((16, 5) float32 cpu, (16,) int64 cpu)."
    )


@pytest.mark.parametrize(
    ("batch", "kind", "text"),
    [
        ({"x": torch.zeros(2), "y": 3, "z": None}, ValueError, "the batch {x: (2,) float32 cpu, y: int, z: NoneType}."),
        ((torch.zeros(2, 6), torch.ones(2)), RuntimeError, "the batch ((2, 6) float32 cpu, (2,) float32 cpu)."),
    ],
)
def test_batches_that_do_not_fit_are_described(batch, kind, text):
    with pytest.raises(kind) as caught:
        finish(new_state(), [batch])
    assert caught.value.__notes__[0].endswith(text)


class Liar(list):
    def __len__(self):
        return 7


def test_loaders_with_wrong_lengths():
    state = new_state(schedule=False)
    with pytest.raises(ValueError, match="batches has a length of 7, but epoch 0 ended after 5"):
        finish(state, Liar(batches()))
    state.batch = 5
    with pytest.raises(ValueError, match="the state is at batch 5 of epoch 0, but batches has 5"):
        train(state, batches(), loss_fn, epochs=1)
    with pytest.raises(ValueError, match="batches has 0"):
        train(new_state(), [], loss_fn, epochs=1)
    with pytest.raises(TypeError, match="batches is a generator without a length"):
        train(new_state(), (batch for batch in batches()), loss_fn, epochs=1)


def schedule(make):
    state = new_state(schedule=False)
    state.scheduler = make(state.optimizer)
    return state


@pytest.mark.parametrize(
    ("state", "option", "error", "message"),
    [
        (new_state, {"epochs": -7}, ValueError, "epochs is -7"),
        (new_state, {"epochs": 1.5}, ValueError, "epochs is 1.5"),
        (new_state, {"accumulation_steps": 0}, ValueError, "accumulation_steps is 0"),
        (new_state, {"max_grad_norm": 0.0}, ValueError, "max_grad_norm is 0.0"),
        (new_state, {"max_grad_norm": float("nan")}, ValueError, "max_grad_norm is nan"),
        (new_state, {"autocast": torch.float16}, ValueError, "torch.float16 without a scaler"),
        (lambda: new_state(make_optimizer=torch.optim.LBFGS), {}, TypeError, "LBFGS.*with a closure"),
        (
            lambda: schedule(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS)),
            {},
            ValueError,
            "T_max of the scheduler is 4, but it is stepped once per update and 4 epochs end after 20 updates",
        ),
        (
            lambda: schedule(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=19)),
            {},
            ValueError,
            "total_steps of the scheduler is 19",
        ),
        (
            lambda: schedule(torch.optim.lr_scheduler.ReduceLROnPlateau),
            {},
            TypeError,
            "ReduceLROnPlateau, which needs a measurement",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_call(state, option, error, message):
    state = state()
    before = copy.deepcopy(state.model.state_dict())
    with pytest.raises(error, match=message):
        train(state, batches(), loss_fn, **{"epochs": EPOCHS, **option})  # never iterated
    torch.testing.assert_close(state.model.state_dict(), before, rtol=0, atol=0)


def test_a_schedule_that_fits_is_not_refused():
    state = schedule(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10))
    finish_at(state, 3, epochs=2)
    finish(state, epochs=2)
    with pytest.raises(ValueError, match="total_steps of the scheduler is 10"):
        finish(state, epochs=3)
    two = schedule(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 6))
    assert len(list(train(two, batches(), loss_fn, epochs=2, accumulation_steps=2))) == 6


@pytest.mark.parametrize("value", [1.5, None, (torch.zeros(()), 1, 2)])
def test_what_is_no_loss_is_refused(value):
    with pytest.raises((TypeError, ValueError)) as caught:
        next(train(new_state(), batches(), lambda model, batch: value, epochs=1))
    assert "loss_fn(model, batch)" in caught.value.__notes__[0]


@pytest.mark.parametrize("device", [None, "meta", torch.device("meta")])
def test_batches_go_to_the_device(device):
    state = new_state(make_model=linear)
    if device is None:
        state.model.to("meta")
    seen = []

    class EnoughError(Exception):
        pass

    def look(module, inputs):
        seen.append(inputs[0].device.type)
        raise EnoughError

    state.model.register_forward_pre_hook(look)
    with pytest.raises(EnoughError):
        finish(state, poisoned(), device=device)
    assert seen == ["meta"]


# interruptions


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_body_leaves_the_state_at_a_step(signal_number, workers, expected):
    def stop(number, frame):
        raise StoppedError

    before = signal.signal(signal_number, stop)
    state, data = new_state(), batches(num_workers=workers)
    try:
        for stop_at in (3, 9):
            with pytest.raises(StoppedError):  # noqa: PT012
                for step in train(state, data, loss_fn, epochs=EPOCHS):
                    if step.number == stop_at:
                        os.kill(os.getpid(), signal_number)
                        time.sleep(1)
            assert state.step == stop_at
            assert multiprocessing.active_children() == []
    finally:
        signal.signal(signal_number, before)
    assert finish(state, data) == expected


def test_an_interrupt_in_the_forward_pass_leaves_the_state_before_the_step(expected):
    state = new_state()

    def interrupt(module, inputs):
        if state.step == 4:
            raise KeyboardInterrupt

    hook = state.model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        finish(state)
    hook.remove()
    assert (state.step, state.epoch, state.batch) == (4, 0, 4)
    assert finish(state) == expected


def test_an_interrupt_within_an_update_waits_until_it_is_done(expected, request):
    """Interrupt, run the cell again: that is how people work in a notebook."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    state, data, times = new_state(), batches(), []

    def interrupt(*_):
        if state.step in (4, 11) and state.step not in times:
            times.append(state.step)
            signal.raise_signal(signal.SIGINT)  # before the first weight moves

    state.optimizer.register_step_pre_hook(interrupt)
    for done in (5, 12):
        with pytest.raises(KeyboardInterrupt):
            finish(state, data)
        assert state.step == state.scheduler.last_epoch == done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert finish(state, data) == expected


def test_a_handler_that_the_body_sets_is_the_handler(request):
    """It is asked during the run and stays after it."""
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    seen, state = [], new_state()
    for step in train(state, batches(), loss_fn, epochs=1):
        if step.number == 1:
            signal.signal(signal.SIGINT, lambda *_: seen.append(state.step))
            mine = signal.getsignal(signal.SIGINT)
        if step.number == 3:
            signal.raise_signal(signal.SIGINT)
    assert seen == [3] and signal.getsignal(signal.SIGINT) is mine


def test_killed_runs_end_with_the_weights_of_a_run_that_was_not(tmp_path):
    """At least 50 kills with SIGKILL: half of them in the body, half at a random time, be it in a step or in a save."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path])}
    run = [sys.executable, __file__, str(tmp_path), "50"]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kills, *weights = done.stdout.split()
    assert int(kills) >= 50
    assert len(weights) >= 4
    assert len(set(weights)) == 1


# the state


class Partial(nn.Module):
    """A model with a layer that is never used and one that is frozen."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.frozen = network(), nn.Linear(2, 2), nn.Linear(6, 6).requires_grad_(False)

    def forward(self, x):
        return self.used(self.frozen(x))


def two_groups(parameters):
    first, *rest = parameters
    return torch.optim.AdamW([{"params": [first], "lr": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01)


OPTIMIZERS = {
    "AdamW": adamw,
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "learning rate in a tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "two groups": two_groups,
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_snapshot_has_no_side_effect_and_a_new_process_goes_on_from_it(name):
    make = {"make_optimizer": OPTIMIZERS[name], "make_model": Partial}
    whole = finish(new_state(**make), epochs=2)
    for stop in (0, 7):
        state = new_state(**make)
        if stop:
            finish_at(state, stop)
        file = io.BytesIO()
        torch.save(state.state_dict(), file)
        assert finish(state, epochs=2) == whole
        fresh = new_state(**make)
        with torch.no_grad():
            for parameter in fresh.model.parameters():
                parameter.fill_(0.5)
        file.seek(0)
        fresh.load_state_dict(torch.load(file, weights_only=True))
        assert fresh.step == stop
        assert finish(fresh, epochs=2) == whole


def finish_at(state, stop, data=None, epochs=EPOCHS):
    for step in train(state, batches() if data is None else data, loss_fn, epochs=epochs):
        if step.number == stop:
            return


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [3, 8, 12]),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o, 0.1), torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS)],
            milestones=[4],
        ),
    ],
)
def test_schedules_go_on_from_a_snapshot(schedule, tmp_path):
    def begin():
        state = new_state(schedule=False)
        state.scheduler = schedule(state.optimizer)
        return state

    whole = begin()
    expected = finish(whole)
    state = begin()
    finish_at(state, 7)
    Checkpoints(tmp_path).save(state)
    fresh = begin()
    assert Checkpoints(tmp_path).resume(fresh) == 7
    assert finish(fresh) == expected
    assert fresh.scheduler.get_last_lr() == whole.scheduler.get_last_lr()
    assert type(fresh.scheduler.state_dict().get("milestones")) is type(whole.scheduler.state_dict().get("milestones"))


def test_a_scaler_goes_on_from_a_snapshot():
    states = [new_state(make_model=linear) for _ in range(2)]
    for state in states:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    finish_at(states[0], 4)
    states[1].load_state_dict(states[0].state_dict())
    assert finish(states[0]) == finish(states[1])
    assert states[0].scaler.get_scale() == states[1].scaler.get_scale() == 2.0**16


def test_a_snapshot_shares_nothing_with_the_run():
    state = new_state()
    finish_at(state, 3)
    snapshot = state.state_dict()
    frozen = copy.deepcopy(snapshot)
    finish(state)
    first, second = new_state(), new_state()
    first.load_state_dict(snapshot)
    finish(first)
    second.load_state_dict(snapshot)
    assert finish(second) == fingerprint(first.model) == fingerprint(state.model)
    assert str(snapshot) == str(frozen)


def test_going_back_inside_the_body(tmp_path, expected):
    state, checkpoints, went_back = new_state(), Checkpoints(tmp_path), False
    numbers = []
    for step in train(state, batches(), loss_fn, epochs=EPOCHS):
        numbers.append(step.number)
        if step.number == 6:
            checkpoints.save(state)
        if step.number == 13 and not went_back:
            went_back = checkpoints.resume(state) == 6
    assert numbers == [*range(1, 14), *range(7, STEPS + 1)]
    assert fingerprint(state.model) == expected


def wrapped(kind, state):
    """Wrap the model of a state, and give its optimizer the parameters of the wrapped one."""
    if kind == "compiled":
        model = torch.compile(state.model, backend="eager")
    elif kind == "data parallel":
        model = nn.parallel.DistributedDataParallel(state.model)
    elif kind == "both":
        model = torch.compile(nn.parallel.DistributedDataParallel(state.model), backend="eager")
    elif kind == "sharded":
        model = dist.fsdp.fully_shard(state.model)
    else:
        model = state.model
    optimizer = adamw(model.parameters())
    return TrainState(model, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS))


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("kind", ["compiled", "data parallel", "both", "sharded"])
def test_snapshots_of_wrapped_models_are_those_of_the_plain_model(kind):
    plain, state = new_state(), wrapped(kind, new_state())
    torch.manual_seed(0)
    finish_at(plain, 3)
    snapshot = plain.state_dict()
    state.load_state_dict(snapshot)
    again = state.state_dict()
    assert list(again["model"]) == list(snapshot["model"])
    assert str(again | {"model": dict(again["model"])}) == str(snapshot | {"model": dict(snapshot["model"])})
    for run in (state, plain):
        torch.manual_seed(1)
        for _ in train(run, batches(), loss_fn, epochs=2, accumulation_steps=2, max_grad_norm=0.5):
            pass
    left, right = plain.state_dict(), state.state_dict()
    torch.testing.assert_close(left["model"], right["model"], rtol=0, atol=0)
    torch.testing.assert_close(left["optimizer"]["state"], right["optimizer"]["state"], rtol=0, atol=0)


@pytest.mark.usefixtures("_group")
def test_gradients_are_exchanged_once_per_window(monkeypatch):
    state = wrapped("data parallel", new_state())
    calls = []
    no_sync = state.model.no_sync
    monkeypatch.setattr(state.model, "no_sync", lambda: calls.append(state.batch) or no_sync())
    finish(state, epochs=1, accumulation_steps=3)
    assert calls == [0, 0, 3]
    sharded = wrapped("sharded", new_state())
    monkeypatch.setattr(sharded.model, "set_requires_gradient_sync", calls.append)
    assert len(list(train(sharded, batches(), loss_fn, epochs=1, accumulation_steps=3))) == 2
    assert calls[3:] == [False, True] * 3  # off for all but the last batch of a window, and on again whatever happens


@pytest.mark.usefixtures("_group")
def test_evaluation_mode_of_the_model_inside_a_wrapper_is_noticed():
    state = wrapped("data parallel", new_state())
    for _ in train(state, batches(), loss_fn, epochs=1):
        assert state.model.module.training
        state.model.module.eval()


def test_tied_and_scalar_parameters_fit_a_snapshot():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.out.weight = self.embedding.weight

    class Scalar(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(1.5))

    for kind in (Tied, Scalar):
        old, new = kind(), kind()
        states = [TrainState(model, adamw(model.parameters())) for model in (old, new)]
        with torch.no_grad():
            next(new.parameters()).zero_()
        states[1].load_state_dict(states[0].state_dict())
        assert fingerprint(new) == fingerprint(old)


@pytest.mark.parametrize("groups", [1, 2])
def test_the_optimizer_finds_its_parameters_by_name(groups):
    """A run whose parameters are listed in another order goes on as if nothing had happened."""

    def listed(parameters):
        parts = [list(parameters)] if groups == 1 else [[parameters[0]], parameters[1:]]
        return torch.optim.AdamW([{"params": part, "lr": 0.01 * (1 + len(part))} for part in parts])

    def begin(turn):
        torch.manual_seed(0)
        model = network()
        optimizer = listed(list(model.parameters()))
        if turn:
            optimizer = torch.optim.AdamW(
                [{**group, "params": group["params"][::-1]} for group in optimizer.param_groups[::-1]]
            )
        return TrainState(model, optimizer)

    expected = finish(begin(False))
    state, turned = begin(False), begin(True)
    finish_at(state, 7)
    turned.load_state_dict(state.state_dict())
    assert finish(turned) == expected


def test_moments_of_another_parameter_are_refused():
    state, other = new_state(schedule=False), new_state(schedule=False)
    finish_at(state, 3)
    two, one = new_state(two_groups, schedule=False), new_state(schedule=False)
    one.optimizer = torch.optim.AdamW(list(one.model.parameters())[1:])
    with pytest.raises(CheckpointError, match="groups of the optimizer: 2 instead of 1"):
        one.load_state_dict(two.state_dict())
    other.optimizer = torch.optim.AdamW(list(other.model.parameters())[:2])
    with pytest.raises(
        CheckpointError, match=r"no group of the saved optimizer holds the parameters of group 0: 0.weight, 0.bias"
    ):
        other.load_state_dict(state.state_dict())


def test_extras_are_saved_and_restored(expected):
    def begin():
        state = new_state()
        average = torch.optim.swa_utils.AveragedModel(state.model)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(state.optimizer, patience=0)
        return TrainState(state.model, state.optimizer, state.scheduler, average=average, plateau=plateau)

    def go_on(state, stop=None):
        for step in train(state, batches(), loss_fn, epochs=EPOCHS):
            state.extras["average"].update_parameters(state.model)
            if step.end_of_epoch:
                state.extras["plateau"].step(1.0)
            if step.number == stop:
                break
        return fingerprint(state.extras["average"].module), state.extras["plateau"].state_dict()

    whole = go_on(begin())
    state, fresh = begin(), begin()
    go_on(state, stop=12)
    fresh.load_state_dict(state.state_dict())
    assert go_on(fresh) == whole
    without = new_state()
    with pytest.raises(CheckpointError, match="average: AveragedModel instead of nothing"):
        without.load_state_dict(state.state_dict())
    with pytest.raises(TypeError, match=r"best is a float, expected state_dict\(\)"):
        TrainState(state.model, state.optimizer, best=0.5)


def test_parameters_of_the_loss_are_saved_or_missed():
    def begin(known):
        torch.manual_seed(0)
        model, centres = linear(), nn.Linear(3, 3)
        optimizer = adamw([*model.parameters(), *centres.parameters()])
        return TrainState(model, optimizer, **({"centres": centres} if known else {}))

    state = begin(known=True)
    names = list(state.state_dict()["optimizer"]["param_groups"][0]["params"])
    assert names == ["weight", "bias", "centres.weight", "centres.bias"]
    with pytest.raises(
        ValueError, match=r"a parameter of shape \(3, 3\) that belongs neither to the model nor to an extra"
    ):
        begin(known=False).state_dict()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: loader(samples(), 8, seed=3, transform=augment), "'batch size on all processes': 8"),
        (lambda: loader(samples(), BATCH, seed=4, transform=augment), "'seed': 4"),
        (lambda: loader(samples(64), BATCH, seed=3, transform=augment), "'samples': 64"),
        (lambda: loader(samples(), BATCH, seed=3, shuffle=False), "'shuffle': False"),
        (lambda: list(batches()), "'batches': 5"),
    ],
)
def test_a_run_goes_on_inside_an_epoch_only_with_the_same_data(data, message):
    state, fresh = new_state(), new_state()
    finish_at(state, 7)
    fresh.load_state_dict(state.state_dict())
    with pytest.raises(ValueError, match="up to batch 2 of epoch 1 the run has read.*" + message):
        train(fresh, data(), loss_fn, epochs=EPOCHS)
    fresh.scheduler, fresh.batch = None, 0
    assert next(train(fresh, data(), loss_fn, epochs=EPOCHS)).number == 8


def test_at_the_beginning_of_an_epoch_the_data_may_change():
    state = new_state(schedule=False)
    finish_at(state, 5)
    finish_at(state, 8, loader(samples(40), 10, seed=9))
    assert (state.epoch, state.batch, state.data["samples"]) == (1, 3, 40)


def test_a_loader_that_shuffles_anew_is_warned_of_after_a_break():
    state, data = new_state(), DataLoader(samples(), BATCH, shuffle=True)
    finish_at(state, 3, data)
    with pytest.warns(
        UserWarning, match=r"at batch 3 of epoch 0.*pytorch_course.data.loader gives the same order again"
    ):
        next(train(state, data, loss_fn, epochs=EPOCHS))


def test_another_architecture_is_refused_and_nothing_changes():
    def wider():
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16, affine=False), nn.Linear(16, 4), nn.Linear(4, 3))

    state, other = new_state(), new_state(make_model=wider)
    finish_at(state, 3)
    before, generators = copy.deepcopy(other.state_dict()), rng_state()
    with pytest.raises(CheckpointError) as caught:
        other.load_state_dict(state.state_dict())
    assert str(caught.value).splitlines() == [
        "the snapshot does not fit, nothing was changed",
        "  missing: 2.bias, 2.weight, 3.bias, 3.weight",
        "  unexpected: 1.bias, 1.weight, 4.bias, 4.weight",
    ]
    assert str(other.state_dict()) == str(before)
    assert torch.equal(rng_state()["torch"], generators["torch"])


def test_all_that_does_not_fit_is_in_one_error():
    state = new_state()
    other = new_state(make_model=lambda: nn.Sequential(nn.Linear(6, 3)), make_optimizer=two_groups, schedule=False)
    other.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(CheckpointError) as caught:
        other.load_state_dict(state.state_dict())
    text = str(caught.value)
    assert "of another shape: 0.bias (16,) instead of (3,), 0.weight (16, 6) instead of (3, 6)" in text
    assert "scheduler: CosineAnnealingLR instead of NoneType" in text
    assert "scaler: NoneType instead of GradScaler" in text
    sgd = new_state(make_optimizer=OPTIMIZERS["SGD"])
    with pytest.raises(CheckpointError, match="optimizer: AdamW instead of SGD"):
        sgd.load_state_dict(state.state_dict())


def test_what_is_not_a_snapshot_is_refused():
    with pytest.raises(CheckpointError, match=r"it has no batch, data, epoch, kinds, .*, step"):
        new_state().load_state_dict({"model": {}})
    state = new_state()
    snapshot = state.state_dict()
    snapshot["rng"][0]["torch"] = snapshot["rng"][0]["torch"][:7]
    snapshot["model"]["0.weight"].zero_()
    with pytest.raises(CheckpointError, match="the part 'torch' of the RNG state is damaged"):
        state.load_state_dict(snapshot)
    assert state.model[0].weight.abs().sum() > 0


def test_another_number_of_processes_seeds_anew_and_says_so(expected):
    state = new_state()
    finish_at(state, 8)
    snapshot = state.state_dict()
    snapshot["rng"] = snapshot["rng"] * 2
    weights = set()
    for _ in range(2):
        fresh = new_state()
        with pytest.warns(
            UserWarning, match=r"is of 2 process\(es\) and this run has 1: the order of the data goes on"
        ):
            fresh.load_state_dict(snapshot)
        assert (fresh.step, fresh.epoch, fresh.batch) == (8, 1, 3)
        weights.add(finish(fresh))
    assert len(weights) == 1
    assert weights != {expected}


# several processes


def on_two_ranks(folder, n):
    """Train a model without dropout, be interrupted, go on; return weights and losses."""
    with world("cpu") as w:
        model = w.wrap(small_model())
        x, y = samples(n).tensors
        plain, masked = TensorDataset(x.double(), y), with_gaps(n)
        results = []
        for number, (data, loss, windows) in enumerate(
            [(plain, mean_loss, 1), (plain, mean_loss, 3), (masked, sum_and_count, 1), (masked, sum_and_count, 3)]
        ):
            data = loader(data, 16 // w.size, world=w, seed=1)
            for stop in (4, None):
                state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
                checkpoints = Checkpoints(Path(folder, f"{w.size}-{number}"))
                checkpoints.resume(state)
                for step in train(state, data, loss, epochs=2, accumulation_steps=windows):
                    results.append(w.mean(step.loss).item())
                    if step.number == stop:
                        checkpoints.save(state)
                        break
        return results, {name: tensor.tolist() for name, tensor in state.state_dict()["model"].items()}


def poisoned_on_one_rank(kind, wrapper):
    """Meet a loss or a gradient that is not finite on rank 1 alone; return the error, and whether the weights stayed."""
    with world("cpu") as w:
        model = small_model()
        if wrapper == "sharded":
            dist.fsdp.fully_shard(model)
        else:
            model = w.wrap(model)

        def loss_fn(model, batch):
            loss = mean_loss(model, batch)
            if w.rank == 1 and state.step == 1:
                return loss * float("nan") if kind == "loss" else loss + (loss * 0).sqrt()
            return loss

        state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5))
        x, y = samples(32).tensors
        data = loader(TensorDataset(x.double(), y), 4, world=w, seed=1)
        try:
            for _ in train(state, data, loss_fn, epochs=1, accumulation_steps=2):
                before = state.state_dict()["model"]
        except NonFiniteError as error:
            same = all(
                torch.equal(a, b) for a, b in zip(before.values(), state.state_dict()["model"].values(), strict=True)
            )
            list(train(state, data, mean_loss, epochs=1))  # the group is whole, and gradients are exchanged again
            return str(error), same, [p.tolist() for p in state.state_dict()["model"].values()]
        return None


def broken_in_a_window():
    """Leave a window of accumulated batches by an exception; return whether gradients are exchanged afterwards."""
    with world("cpu") as w:
        model = small_model()
        dist.fsdp.fully_shard(model)
        state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5))
        x, y = samples(32).tensors
        data = loader(TensorDataset(x.double(), y), 4, world=w, seed=1)

        def broken(model, batch):
            raise KeyError("typo")

        with contextlib.suppress(KeyError):
            list(train(state, data, broken, epochs=1, accumulation_steps=2))
        mean_loss(model, next(iter(data))).backward()
        return [type(p.grad.full_tensor()).__name__ for p in model.parameters()] + [
            p.grad.full_tensor().sum().item() for p in model.parameters()
        ]


@pytest.fixture
def _sent_by_value():
    """Send the functions of this module to launched processes as they are, because nobody can import it there."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("_sent_by_value")
def test_two_processes_train_the_model_of_one(tmp_path):
    """75 samples and a global batch of 16: the last batch has 11, so one rank has 6 and the other 5."""
    n = 75
    first, second = launch(on_two_ranks, tmp_path, n, nproc=2)
    assert first == second
    losses, weights = on_two_ranks(tmp_path, n)
    torch.testing.assert_close(torch.tensor(first[0]), torch.tensor(losses), rtol=1e-10, atol=0)
    for name, values in weights.items():
        torch.testing.assert_close(torch.tensor(first[1][name]), torch.tensor(values), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("_sent_by_value")
@pytest.mark.parametrize("wrapper", ["data parallel", "sharded"])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_every_rank_raises_before_any_of_them_updates(kind, wrapper):
    first, second = launch(poisoned_on_one_rank, kind, wrapper, nproc=2)
    assert first == second
    text, same, _ = first
    assert same
    assert "at step 2 (epoch 0, batch 2)" in text
    if wrapper == "data parallel" or kind == "loss":
        assert text.startswith("on rank 1 the " + kind)
    else:
        assert text.startswith("on rank 0 the gradient of 0.weight")  # shards of a mean over ranks belong to everybody


@pytest.mark.usefixtures("_sent_by_value")
def test_after_an_exception_in_a_window_gradients_are_exchanged_again():
    first, second = launch(broken_in_a_window, nproc=2)
    assert first == second


# what it costs


def test_the_benchmark_measures_equal_trainings():
    path = ROOT / "benchmarks" / "loop_overhead.py"
    spec = importlib.util.spec_from_file_location("loop_overhead", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    loops = {"by hand": benchmark.by_hand, "ours": benchmark.ours}
    figures = list(benchmark.ratios(benchmark.measure(3, loops)))
    assert [name for name, *_ in figures] == ["by hand", "ours"]
    assert figures[1][3] > 0


# the run that is killed


def killed_run(folder, kill_step, started):
    """Train to the end with a checkpoint every two steps, or to the step at which this process kills itself."""
    state, checkpoints = new_state(), Checkpoints(folder, keep=2)
    begin = checkpoints.resume(state)
    os.write(started, b"!")
    for step in train(state, batches(), loss_fn, epochs=EPOCHS):
        if step.number - begin == kill_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if step.number % 2 == 0:
            checkpoints.save(state)
    (folder / "weights").write_text(fingerprint(state.model))


def kill_and_restart(folder, chance):
    """Repeat a run until it ends by itself, and count how often it was killed."""
    folder.mkdir()
    for kills in range(1000):
        reading, started = os.pipe()
        by_itself = chance.random() < 0.5
        child = os.fork()
        if child == 0:
            status = 1
            try:
                killed_run(folder, chance.randrange(3, 9) if by_itself else -1, started)
                status = 0
            finally:
                os._exit(status)
        os.close(started)
        os.read(reading, 1)
        os.close(reading)
        if not by_itself:
            time.sleep(chance.uniform(0.0, 0.15))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:
            return kills
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"a run ended with status {status}")
    raise SystemExit("1,000 kills, and no end in sight")


def main(folder, least):
    """Print the number of kills and the fingerprints of all runs. One process is warm; the runs are its forks."""
    torch.set_num_threads(1)
    undisturbed = new_state()
    weights, kills, runs = [finish(undisturbed)], 0, 0
    undisturbed.state_dict()
    while kills < least or runs < 3:
        kills += kill_and_restart(folder / str(runs), random.Random(runs))
        weights.append((folder / str(runs) / "weights").read_text())
        runs += 1
    print(kills, *weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
