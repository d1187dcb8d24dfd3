"""Tests of `pytorch_course.train`. Run as a script, this file is the training run that a test kills again and again."""

import copy
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
from pytorch_course.rng import rng_state, set_rng_state
from pytorch_course.train import NonFiniteError, Step, TrainState, train

ROOT = Path(__file__).parents[2]
N, BATCH, EPOCHS = 75, 16, 4
STEPS = EPOCHS * 5
loss_fn = nn.CrossEntropyLoss()


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
            loss_fn(state.model(x), y).backward()
            state.optimizer.step()
            state.scheduler.step()
    return fingerprint(state.model)


# the loop itself


def test_the_weights_are_those_of_the_loop_written_by_hand(expected):
    state = new_state()
    assert finish(state) == expected
    assert (state.step, state.epoch, state.batch, state.skipped) == (STEPS, EPOCHS, 0, 0)


def test_clipping_autocast_and_scaling_are_those_of_the_loop_written_by_hand(expected):
    by_hand, scaler = new_state(), torch.amp.GradScaler("cpu", init_scale=8.0)
    for x, y in batches():
        by_hand.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(by_hand.model(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(by_hand.optimizer)
        nn.utils.clip_grad_norm_(by_hand.model.parameters(), 0.1)
        scaler.step(by_hand.optimizer)
        scaler.update()
        by_hand.scheduler.step()
    ours, plain = new_state(), new_state()
    ours.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert finish(ours, epochs=1, clip=0.1, autocast=torch.bfloat16) == fingerprint(by_hand.model)
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
    assert torch.equal(state.model[1].running_mean, torch.zeros(16))


def test_gradients_left_behind_are_not_used(expected):
    state = new_state()
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert finish(state) == expected
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_a_list_of_batches_will_do_and_goes_on_where_it_was():
    data = [(x, y) for x, y in loader(samples(), BATCH)]
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
    (step,) = train(state, [(torch.ones(1), torch.zeros(1))], lambda x, y: (w * x - y).square().mean(), epochs=1)
    assert step.loss == 1
    assert w.item() == pytest.approx(0.8)


# accumulation


def accumulated(n, batch, accumulate, clip=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5))
    x, y = samples(n).tensors
    data = loader(TensorDataset(x.double(), y), batch, seed=1)
    steps = list(train(state, data, loss_fn, epochs=2, accumulate=accumulate, clip=clip))
    return steps, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@settings(deadline=None, derandomize=True, max_examples=25)
@given(n=st.integers(32, 90), accumulate=st.integers(1, 8))
def test_accumulated_batches_equal_the_large_batch(n, accumulate):
    small, weights = accumulated(n, 4, accumulate, clip=0.3)
    large, expected = accumulated(n, 4 * accumulate, 1, clip=0.3)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-12)
    assert [step.end_of_epoch for step in small] == [step.end_of_epoch for step in large]
    torch.testing.assert_close(torch.stack([step.loss for step in small]), torch.stack([step.loss for step in large]))


def test_the_scheduler_goes_with_the_updates_not_with_the_batches():
    state = new_state()
    steps = list(train(state, batches(), loss_fn, epochs=2, accumulate=2))
    assert [(step.number, step.batch) for step in steps] == [(1, 2), (2, 4), (3, 5), (4, 2), (5, 4), (6, 5)]
    assert state.scheduler.last_epoch == 6


# what can go wrong


def poisoned(*where):
    """Batches in which some inputs are not finite."""
    data = [(x.clone(), y) for x, y in loader(samples(), BATCH)]
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


def test_updates_can_be_skipped_and_are_counted():
    state = new_state(make_model=linear)
    steps = list(train(state, poisoned(1, 4), loss_fn, epochs=1, nonfinite="skip"))
    assert [bool(step.loss.isfinite()) for step in steps] == [True, False, True, True, False]
    assert [step.end_of_epoch for step in steps] == [False] * 4 + [True]
    assert (state.step, state.skipped, state.scheduler.last_epoch) == (5, 2, 3)
    without = new_state(make_model=linear)
    clean = poisoned()
    assert fingerprint(state.model) == finish(without, [clean[i] for i in (0, 2, 3)], epochs=1)


@pytest.mark.usefixtures("_group")
def test_a_group_agrees_on_what_is_skipped():
    state = new_state(make_model=linear)
    finish(state, poisoned(1, 4), epochs=1, nonfinite="skip")
    assert (state.step, state.skipped) == (5, 2)


def test_nobody_looks_if_told_so():
    state = new_state(make_model=linear)
    steps = list(train(state, poisoned(1), loss_fn, epochs=1, nonfinite="ignore", clip=1.0))
    assert len(steps) == 5
    assert state.model.weight.isnan().all()


@pytest.mark.parametrize("nonfinite", ["raise", "skip"])
def test_with_clipping_the_gradient_is_looked_at_too(nonfinite):
    state = new_state(make_model=linear)

    def infinite_slope(output, target):
        return (output.sum() * 0).sqrt()

    before = fingerprint(state.model)
    run = train(state, [(torch.ones(1, 6), torch.ones(1))], infinite_slope, epochs=1, clip=1.0, nonfinite=nonfinite)
    if nonfinite == "skip":
        assert len(list(run)) == state.skipped == 1
    else:
        with pytest.raises(NonFiniteError, match="the norm of the gradient is nan at step 1"):
            next(run)
    assert fingerprint(state.model) == before


def test_a_scaler_that_finds_an_overflow_skips_the_update():
    state = new_state(make_model=linear)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # the largest power of two in float32
    before = fingerprint(state.model)
    step = next(train(state, batches(), lambda output, target: 100 * loss_fn(output, target), epochs=1, clip=1.0))
    assert step.loss.isfinite()
    assert (state.step, state.skipped, state.scheduler.last_epoch) == (1, 1, 0)
    assert fingerprint(state.model) == before
    assert state.scaler.get_scale() == 2.0**126


def test_errors_keep_their_text_and_say_where_they_happened():
    state = new_state()
    data = [*list(batches())[:2], (torch.zeros(16, 5), torch.zeros(16, dtype=torch.int64))]
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied") as caught:
        finish(state, data)
    (note,) = caught.value.__notes__
    assert note == (
        "This was step 3, epoch 0, with the model on cpu and the batch ((16, 5) float32 cpu, (16,) int64 cpu)."
    )


@pytest.mark.parametrize(
    ("batch", "kind", "text"),
    [
        (torch.zeros(3, 6), ValueError, "the batch (3, 6) float32 cpu."),
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
    state = new_state()
    with pytest.raises(ValueError, match="the loader has a length of 7 batches, but epoch 0 ended after 5"):
        finish(state, Liar(batches()))
    state.batch = 5
    with pytest.raises(ValueError, match="the state is at batch 5 of epoch 0, but the loader has 5 batches"):
        finish(state)
    with pytest.raises(ValueError, match="the loader has 0 batches"):
        finish(new_state(), [])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"epochs": -1}, "epochs is -1"),
        ({"accumulate": 0}, "accumulate is 0"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"nonfinite": "hide"}, "nonfinite is 'hide', expected 'raise', 'skip' or 'ignore'"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(ValueError, match=message):
        finish(new_state(), **option)


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


def finish_at(state, stop, data=None):
    for step in train(state, batches() if data is None else data, loss_fn, epochs=EPOCHS):
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
        for _ in train(run, batches(), loss_fn, epochs=2, accumulate=2, clip=0.5):
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
    finish(state, epochs=1, accumulate=3)
    assert calls == [0, 0, 3]
    sharded = wrapped("sharded", new_state())
    monkeypatch.setattr(sharded.model, "set_requires_gradient_sync", calls.append)
    finish_at_epoch = list(train(sharded, batches(), loss_fn, epochs=1, accumulate=3))
    assert len(finish_at_epoch) == 2
    assert calls[3:] == [False, False, True, False, True]


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
    assert "parameters in each group of the optimizer: [6] instead of [1, 1]" in text
    sgd = new_state(make_optimizer=OPTIMIZERS["SGD"])
    with pytest.raises(CheckpointError, match="optimizer: AdamW instead of SGD"):
        sgd.load_state_dict(state.state_dict())


def test_what_is_not_a_snapshot_is_refused():
    with pytest.raises(CheckpointError, match=r"it has no batch, epoch, kinds, .*, step"):
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
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        model = w.wrap(model)
        x, y = samples(n).tensors
        data = loader(TensorDataset(x.double(), y), 16 // w.size, world=w, seed=1)
        results = []
        for accumulate in (1, 3):
            for stop in (4, None):
                state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
                checkpoints = Checkpoints(Path(folder, f"{w.size}-{n}-{accumulate}"))
                checkpoints.resume(state)
                for step in train(state, data, loss_fn, epochs=2, accumulate=accumulate):
                    results.append(w.mean(step.loss).item())
                    if step.number == stop:
                        checkpoints.save(state)
                        break
        plain = state.state_dict()["model"]
        poison = [(torch.full((2, 6), float("nan" if w.rank == 1 else 0)).double(), torch.zeros(2, dtype=torch.int64))]
        fresh = TrainState(model, state.optimizer)
        list(train(fresh, poison, loss_fn, epochs=1, nonfinite="skip"))
        untouched = all(
            torch.equal(a, b) for a, b in zip(plain.values(), fresh.state_dict()["model"].values(), strict=True)
        )
        return results, {name: tensor.tolist() for name, tensor in plain.items()}, (fresh.skipped, untouched)


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
    losses, weights, (skipped, untouched) = on_two_ranks(tmp_path, n)
    assert (skipped, untouched) == (0, False)
    assert first[2] == (1, True)
    torch.testing.assert_close(torch.tensor(first[0]), torch.tensor(losses), rtol=1e-10, atol=0)
    for name, values in weights.items():
        torch.testing.assert_close(torch.tensor(first[1][name]), torch.tensor(values), rtol=1e-10, atol=1e-12)


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
