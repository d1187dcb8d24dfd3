"""The training loop as a generator: it yields after every optimizer update, and your loop body is the callback."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple
from warnings import warn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pytorch_course.checkpoint import CheckpointError
from pytorch_course.data import Order, to_device
from pytorch_course.rng import rng_state, seed_everything, set_rng_state

_NOTHING = nullcontext()
_COUNTERS = ("step", "epoch", "batch", "skipped")
_PARTS = ("optimizer", "scheduler", "scaler")


@dataclass
class TrainState:
    """Everything that decides how training goes on: what to train with, and the position in the data.

    Parameters
    ----------
    model : torch.nn.Module
        Plain, compiled, or wrapped for several processes. In a checkpoint the names are those of the plain model.
    optimizer : torch.optim.Optimizer
        Updates the model. Optimizers that need a closure, such as :class:`torch.optim.LBFGS`, do not fit this loop.
    scheduler : torch.optim.lr_scheduler.LRScheduler, optional
        Stepped once per update, not per epoch.
    scaler : torch.amp.GradScaler, optional
        Scales the loss, which float16 needs.
    step : int
        Windows of batches done since the beginning: the updates, and those that were skipped.
    epoch, batch : int
        The next batch to train on, both counted from 0.
    skipped : int
        Windows without an update: the loss was not finite, or the scaler found gradients that were not.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> saved = state.state_dict()
    >>> state.step = 7
    >>> state.load_state_dict(saved)
    >>> state.step
    0
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | None = None
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    epoch: int = 0
    batch: int = 0
    skipped: int = 0

    def state_dict(self) -> dict[str, Any]:
        """Take a snapshot. Later steps do not change it, and taking it does not change how training goes on.

        Every process of a group must call it, because the random generators of all ranks are collected.

        Returns
        -------
        dict
            Tensors on the CPU, numbers, strings, and lists, tuples and dictionaries of them: the four counters, ``model``,
            ``optimizer``, ``scheduler``, ``scaler``, ``kinds`` (class names) and ``rng`` (one entry per rank).
        """
        counters = {name: getattr(self, name) for name in _COUNTERS}
        # The optimizer numbers its parameters and needs no names. The helper of torch that would name them fills an empty
        # state by taking a step, after which most optimizers train differently, and refuses SGD without momentum.
        parts = {name: getattr(self, name) for name in _PARTS}
        states = {name: None if part is None else part.state_dict() for name, part in parts.items()}
        snapshot: dict[str, Any] = _copy({"model": self._model_state(), **states})
        return counters | snapshot | {"kinds": self._kinds(), "rng": _everyones_rng()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a snapshot. Everything is checked first, so a snapshot that does not fit changes nothing.

        With the same number of processes training goes on bit for bit. With another number the random generators, and so
        dropout, cannot go on where they were: they are seeded anew from the snapshot and the rank, with a warning.

        Parameters
        ----------
        saved : dict
            What :meth:`state_dict` returned, here or in another process.

        Raises
        ------
        pytorch_course.checkpoint.CheckpointError
            If it does not fit, with all reasons: names of the model that are missing, unexpected or of another shape;
            another optimizer, scheduler or scaler; other parameter groups. Or if its random generators are damaged.

        Warns
        -----
        UserWarning
            If the number of processes has changed.
        """
        self._require_fit(saved)
        try:
            _restore_rng(saved["rng"])  # first, because it checks what it is given
        except ValueError as error:
            raise CheckpointError(f"the snapshot does not fit, nothing was changed\n  {error}") from error
        # Imported here because it takes seconds, unless an optimizer has been built.
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        set_model_state_dict(self.model, copy(saved["model"]), options=self._options())
        self.optimizer.load_state_dict(_sharded_like(self.optimizer, _copy(saved["optimizer"])))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(_copy(saved["scheduler"]))
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        for name in _COUNTERS:
            setattr(self, name, saved[name])

    def _model_state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        return get_model_state_dict(self.model, options=self._options())

    def _options(self) -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions

        # Not for every model: it refuses models on several devices and models whose parameters are all scalars.
        return StateDictOptions(full_state_dict=any(hasattr(p, "full_tensor") for p in self.model.parameters()))

    def _kinds(self) -> dict[str, str]:
        return {name: type(getattr(self, name)).__name__ for name in _PARTS}

    def _require_fit(self, saved: dict[str, Any]) -> None:
        expected = {*_COUNTERS, *_PARTS, "model", "kinds", "rng"}
        if lacking := sorted(expected - saved.keys()):
            raise CheckpointError(f"this is not the snapshot of a TrainState: it has no {', '.join(lacking)}")
        problems = _misfits(saved["model"], self._model_state())
        kinds = self._kinds()
        problems += [
            f"{name}: {saved['kinds'][name]} instead of {kinds[name]}"
            for name in _PARTS
            if saved["kinds"][name] != kinds[name]
        ]
        there, here = (
            [len(group["params"]) for group in groups]
            for groups in (saved["optimizer"]["param_groups"], self.optimizer.param_groups)
        )
        if there != here:
            problems.append(f"parameters in each group of the optimizer: {there} instead of {here}")
        if problems:
            raise CheckpointError("\n  ".join(["the snapshot does not fit, nothing was changed", *problems]))


class Step(NamedTuple):
    """What :func:`train` yields after every optimizer update.

    Attributes
    ----------
    number : int
        The ``step`` of the state, counted from 1.
    epoch : int
        The epoch that the update belongs to, counted from 0.
    batch : int
        Batches of this epoch done so far, this one included.
    loss : Tensor
        Mean loss over the samples of the update, before the update. Scalar, detached, on the device of the model. On many
        processes it is the share of this one, and the mean over the processes is the loss.
    end_of_epoch : bool
        Whether this was the last update of the epoch.
    """

    number: int
    epoch: int
    batch: int
    loss: Tensor
    end_of_epoch: bool


class NonFiniteError(FloatingPointError):
    """The loss, or the norm of the gradient, is NaN or infinite. The weights have not been updated with it.

    ``loader.batch_sampler.set_epoch(error.epoch, error.batch)`` and then ``next(iter(loader))`` give the batch again.

    Parameters
    ----------
    step : int
        Number of the update that did not happen, counted from 1.
    epoch, batch : int
        Position of its first batch, counted from 0.
    what : str
        What was not finite, and its value.
    """

    def __init__(self, step: int, epoch: int, batch: int, what: str = "the loss") -> None:
        super().__init__(step, epoch, batch, what)
        self.step, self.epoch, self.batch, self.what = step, epoch, batch, what

    def __str__(self) -> str:
        return (
            f"{self.what} at step {self.step} (epoch {self.epoch}, batch {self.batch}); the weights are those before it"
        )


def train(
    state: TrainState,
    loader: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    epochs: int,
    device: torch.device | str | None = None,
    accumulate: int = 1,
    clip: float | None = None,
    autocast: torch.dtype | None = None,
    nonfinite: Literal["raise", "skip", "ignore"] = "raise",
) -> Iterator[Step]:
    """Train, and yield a :class:`Step` after every optimizer update.

    Logging, evaluation, checkpoints and early stopping are lines in the body of the loop. ``break`` stops, and a second call
    goes on as if nothing had happened, because `state` knows the position. The body may also load a checkpoint: then the
    next step is the one after the checkpoint. An exception in the body, such as :class:`KeyboardInterrupt`, leaves `state`
    between two steps. One that a signal raises in the midst of an update may leave half of it done; a checkpoint mends that.

    Parameters
    ----------
    state : TrainState
        Model, optimizer and position. It changes with every update.
    loader : iterable
        Batches ``(input, target)``, best from :func:`pytorch_course.data.loader`. Any other loader is asked for its first
        batches again after a ``break``, and must give the same ones.
    loss_fn : callable
        ``loss_fn(model(input), target)`` gives the mean loss over the batch, a scalar.
    epochs : int
        When training is over, counted from the beginning and not from now.
    device : torch.device or str, optional
        Where batches go. By default where the model is.
    accumulate : int
        Batches per update. Losses are weighted with the true number of samples, ``len(target)``, so that the gradient is
        that of one large batch, also at the end of an epoch.
    clip : float, optional
        Largest norm of the gradient, all parameters together.
    autocast : torch.dtype, optional
        Precision of forward pass and loss, such as ``torch.bfloat16``.
    nonfinite : {"raise", "skip", "ignore"}
        What to do when the loss is not finite, or with `clip` the norm of the gradient: raise, leave the update out and
        count it in ``state.skipped``, or do not look. Looking makes the CPU wait for an accelerator once per update.
        Running averages, such as those of batch normalization, have seen the batch in any case.

    Yields
    ------
    Step
        After every update, and after every one that was skipped.

    Raises
    ------
    NonFiniteError
        Before the update.
    ValueError
        If an argument is out of range, or the loader has fewer batches than it says or than the position of the state.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5))
    >>> batches = [(torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [-1.0]]))]
    >>> for step in train(state, batches, nn.functional.mse_loss, epochs=40):
    ...     if step.loss < 1e-6:
    ...         break
    >>> f"weight {model.weight.item():.2f}, bias {model.bias.item():.2f}"
    'weight 2.00, bias 1.00'
    """
    _check(epochs, accumulate, clip, nonfinite)
    model, parameters = state.model, list(state.model.parameters())
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    device = torch.device(device) if device is not None else next((p.device for p in parameters), torch.device("cpu"))
    backward = _Backward(state, loss_fn, device, autocast)
    state.optimizer.zero_grad()  # what an interrupted run may have left
    while state.epoch < epochs:
        for window, weights, end_of_epoch in _windows(state, loader, accumulate):
            if not (model.training and inner.training):  # parts that somebody froze in evaluation mode stay so
                model.train()
            loss = backward.window(window, weights)
            problem = None if nonfinite == "ignore" else _not_finite(loss, agree=nonfinite == "skip")
            if clip is not None and problem is None:
                problem = _clip(state, parameters, clip, look=nonfinite != "ignore")
            if problem is None:
                _update(state)
            state.optimizer.zero_grad()
            if problem is not None:
                if nonfinite == "raise":
                    raise NonFiniteError(state.step + 1, state.epoch, state.batch, problem)
                state.skipped += 1
            state.step, state.batch = state.step + 1, state.batch + len(window)
            step = Step(state.step, state.epoch, state.batch, loss.detach(), end_of_epoch)
            if end_of_epoch:
                state.epoch, state.batch = state.epoch + 1, 0
            yield step


def _check(epochs: int, accumulate: int, clip: float | None, nonfinite: str) -> None:
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}, expected at least 0")
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}, expected at least 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}, expected a positive norm or None")
    if nonfinite not in ("raise", "skip", "ignore"):
        raise ValueError(f"nonfinite is {nonfinite!r}, expected 'raise', 'skip' or 'ignore'")


def _windows(state: TrainState, loader: Any, accumulate: int) -> Iterator[tuple[list[Any], Sequence[float], bool]]:
    """The batches of one epoch from the state's position on, `accumulate` at a time, with weights, and whether it ends."""
    epoch, batch, length = state.epoch, state.batch, len(loader)
    if batch >= length:
        raise ValueError(f"the state is at batch {batch} of epoch {epoch}, but the loader has {length} batches")
    batches = _batches(loader, epoch, batch)
    order = getattr(loader, "batch_sampler", None)
    order = order if isinstance(order, Order) and order.size > 1 else None
    # The position is elsewhere when the body has loaded a checkpoint: then these batches are the wrong ones.
    while batch < length and state.batch == batch and state.epoch == epoch:
        window = list(islice(batches, accumulate))
        if not window:
            raise ValueError(f"the loader has a length of {length} batches, but epoch {epoch} ended after {batch}")
        weights = (1.0,) if len(window) == 1 and order is None else _weights(order, batch, window)
        batch += len(window)
        yield window, weights, batch >= length


def _batches(loader: Any, epoch: int, batch: int) -> Iterator[Any]:
    order: Any = getattr(loader, "batch_sampler", None)
    if isinstance(order, Order):
        order.set_epoch(epoch, batch)
        return iter(loader)
    samplers: tuple[Any, ...] = (order, getattr(loader, "sampler", None))
    for sampler in samplers:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    return islice(loader, batch, None)


def _weights(order: Order | None, first: int, window: Sequence[Any]) -> Sequence[float]:
    """What each batch counts, so that the gradients add up to the mean over all samples of the window, on all ranks.

    Frameworks for many processes average over the ranks as if all had the same number of samples.
    """
    counts = [len(target) for _, target in window]
    total: float = sum(counts)
    if order is not None:
        total = sum(order.samples(first + number) for number in range(len(window))) / order.size
    return [count / total for count in counts]


@dataclass(frozen=True)
class _Backward:
    """Forward and backward passes, which add to the gradients of the model."""

    state: TrainState
    loss_fn: Callable[[Any, Any], Tensor]
    device: torch.device
    autocast: torch.dtype | None

    def window(self, batches: Sequence[Any], weights: Sequence[float]) -> Tensor:
        if len(batches) == 1:
            return self.batch(batches[0], weights[0])
        losses = []
        for number, (batch, weight) in enumerate(zip(batches, weights, strict=True), 1):
            with _gradient_sync(self.state.model, last=number == len(batches)):
                losses.append(self.batch(batch, weight).detach())
        return torch.stack(losses).sum()

    def batch(self, batch: Any, weight: float) -> Tensor:
        state = self.state
        try:
            inputs, targets = batch if self.device.type == "cpu" else to_device(batch, self.device)
            loss: Any
            if self.autocast is None:
                loss = self.loss_fn(state.model(inputs), targets)
            else:
                with torch.autocast(self.device.type, self.autocast):
                    loss = self.loss_fn(state.model(inputs), targets)
            if weight != 1:
                loss = loss * weight
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        except Exception as error:
            where = f"step {state.step + 1}, epoch {state.epoch}, with the model on {self.device}"
            error.add_note(f"This was {where} and the batch {_describe(batch)}.")
            raise
        return loss  # type: ignore[no-any-return]


def _gradient_sync(model: Any, last: bool) -> AbstractContextManager[Any]:
    """Let processes exchange gradients only in the last batch of a window."""
    if hasattr(model, "set_requires_gradient_sync"):  # fully_shard
        model.set_requires_gradient_sync(last)
    elif hasattr(model, "no_sync") and not last:  # DistributedDataParallel, also inside torch.compile
        exchange: AbstractContextManager[Any] = model.no_sync()
        return exchange
    return _NOTHING


def _not_finite(loss: Tensor, agree: bool) -> str | None:
    value = loss.item()
    finite = math.isfinite(value)
    if agree and dist.is_initialized():
        # A rank that leaves an update out while others make theirs would train another model.
        everyone = torch.tensor(float(finite), device=loss.device)
        dist.all_reduce(everyone, dist.ReduceOp.MIN)
        finite = bool(everyone.item())
    return None if finite else f"the loss is {value}"


def _clip(state: TrainState, parameters: list[nn.Parameter], clip: float, look: bool) -> str | None:
    if state.scaler is not None:
        state.scaler.unscale_(state.optimizer)
    norm: Any = nn.utils.clip_grad_norm_(parameters, clip)
    # The scaler looks for itself: gradients that overflow are its daily bread.
    if not look or state.scaler is not None:
        return None
    value = (norm.full_tensor() if hasattr(norm, "full_tensor") else norm).item()
    return None if math.isfinite(value) else f"the norm of the gradient is {value}"


def _update(state: TrainState) -> None:
    if state.scaler is None:
        state.optimizer.step()
    else:
        scale = state.scaler.get_scale()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.scaler.get_scale() < scale:  # it found gradients that were not finite, and made no update
            state.skipped += 1
            return
    if state.scheduler is not None:
        state.scheduler.step()


def _describe(batch: Any) -> str:
    """Shapes, types and devices of the tensors in a batch."""
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')} {batch.device}"
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{name}: {_describe(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(map(_describe, batch)) + ")"
    return type(batch).__name__


def _copy(value: Any) -> Any:
    """The same structure with whole tensors of its own on the CPU."""
    if isinstance(value, Tensor):
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        return whole.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        value = copy(value)  # keeps the type: a scheduler may rely on its Counter
        for name in value:
            value[name] = _copy(value[name])
        return value
    return type(value)(map(_copy, value)) if isinstance(value, (list, tuple)) else value


def _misfits(saved: dict[str, Any], model: dict[str, Any]) -> list[str]:
    shapes = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(model[name].shape)}"
        for name in model.keys() & saved.keys()
        if isinstance(model[name], Tensor) and model[name].shape != saved[name].shape
    ]
    problems = {
        "missing": model.keys() - saved.keys(),
        "unexpected": saved.keys() - model.keys(),
        "of another shape": shapes,
    }
    return [f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names]


def _sharded_like(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Spread whole tensors over the processes in the way the parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for position, entries in saved["state"].items():
        parameter = parameters[position]
        if hasattr(parameter, "device_mesh"):
            from torch.distributed.tensor import distribute_tensor

            for name, value in entries.items():
                if isinstance(value, Tensor) and value.dim() and value.shape == parameter.shape:
                    value = value.to(parameter.device)
                    entries[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return saved


def _everyones_rng() -> list[dict[str, Any]]:
    mine = rng_state()
    if not dist.is_initialized():
        return [mine]
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    return everyones


def _restore_rng(saved: list[dict[str, Any]]) -> None:
    rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if len(saved) == size:
        set_rng_state(saved[rank])
        return
    warn(
        f"the snapshot is of {len(saved)} process(es) and this run has {size}: the order of the data goes on, "
        "random generators are seeded anew",
        stacklevel=3,
    )
    set_rng_state(saved[0])
    seed_everything(int(torch.randint(2**32, (size,))[rank]))
