"""The training loop as a generator: it yields after every optimizer update, and your loop body is the callback."""

import cmath
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple
from warnings import warn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import lr_scheduler
from torch.utils.data import RandomSampler

from pytorch_course.data import EpochSampler, to_device
from pytorch_course.state import TrainState


class Step(NamedTuple):
    """What :func:`train` yields after every optimizer update.

    Attributes
    ----------
    number : int
        The ``step`` of the state, counted from 1.
    epoch, batch : int
        The epoch of the update, counted from 0, and how many of its batches are done, those of the update included.
    loss : Tensor
        Mean loss of the update's batches, before the update: scalar, detached, where the model is. On many processes it is
        the share of this one, and the mean over the processes is the loss.
    grad_norm : Tensor or None
        Norm of the gradient before it was clipped, scalar. None without ``max_grad_norm``.
    end_of_epoch : bool
        Whether this was the last update of the epoch.
    """

    number: int
    epoch: int
    batch: int
    loss: Tensor
    grad_norm: Tensor | None
    end_of_epoch: bool


class NonFiniteError(FloatingPointError):
    """The loss or the gradient is NaN or infinite. The weights have not been updated with it, on any process.

    ``batches.batch_sampler.set_epoch(error.epoch, error.batch)`` and then ``next(iter(batches))`` give the batch again.

    Its attributes are the number of the ``step`` that did not happen, counted from 1, ``epoch`` and ``batch``, the position of
    its first batch, and ``what``, whose loss or gradient it was.
    """

    def __init__(self, step: int, epoch: int, batch: int, what: str) -> None:
        super().__init__(step, epoch, batch, what)
        self.step, self.epoch, self.batch, self.what = step, epoch, batch, what

    def __str__(self) -> str:
        return (
            f"{self.what} at step {self.step} (epoch {self.epoch}, batch {self.batch}); the weights are those before it"
        )


def train(
    state: TrainState,
    batches: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor | tuple[Tensor, Any]],
    *,
    epochs: int,
    device: torch.device | str | None = None,
    accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    autocast: torch.dtype | None = None,
) -> Iterator[Step]:
    """Train, and yield a :class:`Step` after every optimizer update.

    Logging, evaluation, checkpoints and early stopping are lines in the body of the loop; the gradients of the update are
    still there. ``break`` stops, and a second call goes on as if nothing had happened, because `state` knows the position.
    So does Ctrl-C: it waits until an update is done. The body may load a checkpoint: the next step is the one after it.

    Parameters
    ----------
    state : TrainState
        Model, optimizer and position. It changes with every update.
    batches : iterable
        With a length, best from :func:`pytorch_course.data.loader`. Others are asked for their first batches again after a
        ``break``, and must give the same ones.
    loss_fn : callable
        ``loss_fn(model, batch)`` returns the mean loss over the samples of the batch, a scalar. When the mean is over
        something else (tokens, pixels, what a mask leaves), it returns ``(sum, count)``: then the gradient is that of
        one large batch, however the batch is split into windows and over processes.
    epochs : int
        When training is over, counted from the beginning and not from now.
    device : torch.device or str, optional
        Where batches go. By default where the model is.
    accumulation_steps : int
        Batches per update.
    max_grad_norm : float, optional
        Largest norm of the gradient of all the optimizer's parameters together.
    autocast : torch.dtype, optional
        Precision of forward pass and loss, such as ``torch.bfloat16``.

    Raises
    ------
    NonFiniteError
        Before an update whose loss or gradient is not finite. Running averages, such as those of batch normalization, have
        seen the batch. A scaler is trusted with infinite gradients: it leaves the update out.
    TypeError, ValueError
        At the call, if an argument is out of range or cannot work in this loop.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> state = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.5))
    >>> batches = [(torch.tensor([[1.0], [-1.0]]), torch.tensor([[3.0], [-1.0]]))]
    >>> def loss_fn(model, batch):
    ...     x, y = batch
    ...     return nn.functional.mse_loss(model(x), y)
    >>> for step in train(state, batches, loss_fn, epochs=40):
    ...     if step.loss < 1e-6:
    ...         break
    >>> f"weight {model.weight.item():.2f}, bias {model.bias.item():.2f}"
    'weight 2.00, bias 1.00'
    """
    _check(state, batches, epochs, accumulation_steps, max_grad_norm, autocast)
    here = next((parameter.device for parameter in state.model.parameters()), torch.device("cpu"))
    device = here if device is None else torch.device(device)
    model, optimizer, scaler = state.model, state.optimizer, state.scaler

    hold = _Hold()

    def updates() -> Iterator[Step]:
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        precision = nullcontext() if autocast is None else torch.autocast(device.type, autocast)
        ranks = _ranks(model)
        if not (model.training and inner.training):
            model.train()
        while state.epoch < epochs:
            modules = list(model.modules())
            for window, weights, end_of_epoch in _windows(state, batches, accumulation_steps, ranks):
                # 1. Gradients of the window's mean loss, batch by batch.
                optimizer.zero_grad()
                loss, expected, counted = torch.zeros(()), 0.0, 0.0
                for position, batch in enumerate(window):
                    try:
                        with _exchange_gradients(model, position == len(window) - 1):
                            with precision:
                                part = loss_fn(model, to_device(batch, device))
                            if isinstance(part, tuple):
                                part, count = part
                                count = _mean_over_ranks(count, device, ranks)
                                expected = expected or (count or 1.0) * len(window)
                                counted += count
                                part = part / expected
                            elif weights is not None:
                                part = part * weights[position]
                            elif len(window) > 1:
                                raise TypeError(
                                    "no tensor in the batch tells how many samples it has: return (sum, count)"
                                )
                            if not isinstance(part, Tensor):
                                raise TypeError(
                                    f"loss_fn returned a {type(part).__name__}, expected a scalar tensor or (sum, count)"
                                )
                            (part if scaler is None else scaler.scale(part)).backward()  # type: ignore[no-untyped-call]
                    except Exception as error:
                        where = f"step {state.step + 1}, epoch {state.epoch}, with the model on {device}"
                        error.add_note(f"This was loss_fn(model, batch) at {where} and the batch {_describe(batch)}.")
                        raise
                    loss = loss + part.detach() if position else part.detach()
                gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
                if counted != expected:  # the batches of the window did not all count the same
                    correction = expected / counted if counted else 1.0
                    loss = loss * correction
                    for gradient in gradients:
                        gradient.mul_(correction)

                # 2. Look before the weights change, and clip.
                norm = None
                if max_grad_norm is not None:
                    if scaler is not None:
                        scaler.unscale_(optimizer)
                    norm = nn.utils.get_total_norm(gradients)
                problem = _problem(state, loss, gradients, norm)
                if ranks > 1:
                    problem = _anyones_problem(problem, state, loss, window, loss_fn, device, ranks)
                if problem is not None:
                    optimizer.zero_grad()
                    raise NonFiniteError(state.step + 1, state.epoch, state.batch, problem)
                if max_grad_norm is not None and norm is not None:
                    nn.utils.clip_grads_with_norm_(_parameters(state), max_grad_norm, norm)

                # 3. Update the weights and the position, both or neither.
                with hold:
                    if scaler is None:
                        optimizer.step()
                    else:
                        scale = scaler.get_scale()
                        scaler.step(optimizer)
                        scaler.update()
                    if state.scheduler is not None and (scaler is None or scaler.get_scale() >= scale):
                        state.scheduler.step()  # not when the scaler has left the update out
                    state.step, state.batch = state.step + 1, state.batch + len(window)
                    step = Step(state.step, state.epoch, state.batch, loss, _whole(norm), end_of_epoch)
                    if end_of_epoch:
                        state.epoch, state.batch = state.epoch + 1, 0

                # 4. The reader's turn. Parts that were in evaluation mode before it are so after it, and no others.
                modes = [module.training for module in modules]
                yield step
                if not (model.training and inner.training):
                    for module, mode in zip(modules, modes, strict=True):
                        module.training = mode

    def released_in_the_end() -> Iterator[Step]:
        try:
            yield from updates()
        finally:
            hold.release()

    return released_in_the_end()


def _windows(
    state: TrainState, batches: Any, accumulation_steps: int, ranks: int
) -> Iterator[tuple[list[Any], list[float] | None, bool]]:
    """The batches of one epoch from the state's position on, in windows, with weights, and whether the epoch ends.

    A weight is what the mean loss of a batch counts in that of the window: its share of the samples. Frameworks for many
    processes average over the ranks as if all had the same number of samples, so a rank with more counts more.
    """
    epoch, batch, length = state.epoch, state.batch, len(batches)
    sampler = getattr(batches, "batch_sampler", None)
    if isinstance(sampler, EpochSampler):
        sampler.set_epoch(epoch, batch)
        rest = iter(batches)
    else:
        samplers: tuple[Any, ...] = (sampler, getattr(batches, "sampler", None))
        for other in samplers:
            if hasattr(other, "set_epoch"):
                other.set_epoch(epoch)
        rest = islice(batches, batch, None)
    # The position is elsewhere when the body has loaded a checkpoint: then these batches are the wrong ones.
    while batch < length and state.batch == batch and state.epoch == epoch:
        window = list(islice(rest, accumulation_steps))
        if not window:
            raise ValueError(f"batches has a length of {length}, but epoch {epoch} ended after {batch}")
        weights = None
        if isinstance(sampler, EpochSampler) and (len(window) > 1 or ranks > 1):
            counts = [sampler.counts(batch + number) for number in range(len(window))]
            total = sum(everyones for _, everyones in counts) / ranks
            weights = [mine / total for mine, _ in counts]
        elif len(window) > 1:
            samples = [_samples(part) for part in window]
            weights = [mine / sum(samples) for mine in samples] if all(samples) else None
        batch += len(window)
        yield window, weights, batch >= length


def _samples(batch: Any) -> int:
    """The length of the first tensor in a batch."""
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    for part in batch.values() if isinstance(batch, dict) else batch if isinstance(batch, (tuple, list)) else ():
        if samples := _samples(part):
            return samples
    return 0


def _exchange_gradients(model: Any, now: bool) -> AbstractContextManager[Any]:
    """Let processes exchange gradients only in the last batch of a window."""
    if not now and hasattr(model, "no_sync"):  # DistributedDataParallel, also inside torch.compile
        return model.no_sync()  # type: ignore[no-any-return]
    return _unsynchronised(model) if not now and hasattr(model, "set_requires_gradient_sync") else nullcontext()


@contextmanager
def _unsynchronised(model: Any) -> Iterator[None]:
    """What fully_shard has no context for: switched on again also after an exception."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


class _Hold:
    """Lets Ctrl-C wait for the end of an update. It stays the handler between updates: to set one each time is slow."""

    def __init__(self) -> None:
        self.handler: Any = None
        self.caught: list[tuple[Any, ...]] = []
        self.updating = False

    def __call__(self, *arguments: Any) -> None:
        if self.updating:
            self.caught.append(arguments)
        else:
            self.handler(*arguments)

    def __enter__(self) -> None:
        handler: Any = signal.getsignal(signal.SIGINT)
        if handler is not self and callable(handler) and threading.current_thread() is threading.main_thread():
            self.handler = handler
            signal.signal(signal.SIGINT, self)
        self.updating = True

    def __exit__(self, *_: object) -> None:
        self.updating = False
        if self.caught:
            self.handler(*self.caught.pop())

    def release(self) -> None:
        """Give the signal back to the handler that was there before."""
        current: Any = signal.getsignal(signal.SIGINT)
        if current is self and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self.handler)


def _ranks(model: nn.Module) -> int:
    """How many processes train this model together."""
    together = any(isinstance(module, DistributedDataParallel) for module in model.modules()) or any(
        hasattr(parameter, "full_tensor") for parameter in model.parameters()
    )
    return dist.get_world_size() if together and dist.is_initialized() else 1


def _mean_over_ranks(count: Any, device: torch.device, ranks: int) -> float:
    if ranks == 1:
        return float(count)
    total = torch.tensor(float(count), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item() / ranks


def _parameters(state: TrainState) -> list[Tensor]:
    return [parameter for group in state.optimizer.param_groups for parameter in group["params"]]


def _whole(norm: Any) -> Any:
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _finite(values: list[Any]) -> bool:
    """Whether all numbers are finite: NaN and infinity do not vanish in a sum."""
    sums = []
    for value in values:
        value = value.to_local() if hasattr(value, "to_local") else value
        sums.append(value.sum(dtype=torch.float32) if value.dtype == torch.float16 else value.sum())
    if not sums or sums[0].device.type == "cpu":
        return all(cmath.isfinite(total.item()) for total in sums)
    return cmath.isfinite(torch.stack(sums).sum().item())  # the CPU waits for an accelerator once


def _problem(state: TrainState, loss: Tensor, gradients: list[Tensor], norm: Any) -> str | None:
    """What is not finite, in words. A scaler looks at gradients itself: that they overflow is its daily bread."""
    value = loss.item()
    if not cmath.isfinite(value):
        return f"the loss is {value}"
    if state.scaler is not None or (cmath.isfinite(_whole(norm).item()) if norm is not None else _finite(gradients)):
        return None
    names = state.parameter_names()
    guilty = [names.get(p, "a parameter") for p in _parameters(state) if p.grad is not None and not _finite([p.grad])]
    return f"the gradient of {', '.join(guilty)} is not finite" if guilty else f"the gradient's norm is {norm.item()}"


def _anyones_problem(
    problem: str | None,
    state: TrainState,
    loss: Tensor,
    window: list[Any],
    loss_fn: Callable[[nn.Module, Any], Any],
    device: torch.device,
    ranks: int,
) -> str | None:
    """Let all ranks agree before any of them updates, and find out whose loss or gradient it was."""
    anyone = torch.tensor(float(problem is not None), device=device)
    dist.all_reduce(anyone)
    if not anyone.item():
        return None
    own = problem
    if isinstance(state.model, DistributedDataParallel) and cmath.isfinite(loss.item()):
        # The gradient that every rank holds is the mean over the ranks. The model inside the wrapper computes this rank's own.
        state.optimizer.zero_grad()
        for batch in window:
            part = loss_fn(state.model.module, to_device(batch, device))
            (part[0] if isinstance(part, tuple) else part).backward()
        own = _problem(state, loss, [p.grad for p in _parameters(state) if p.grad is not None], None)
    texts: list[Any] = [None] * ranks
    dist.all_gather_object(texts, own)
    told = [f"on rank {rank} {text}" for rank, text in enumerate(texts) if text is not None]
    losses = [text for text in told if "the loss is" in text]  # then gradients are a consequence
    return "; ".join(losses or told) or f"after averaging over the ranks {problem}"


def _check(
    state: TrainState,
    batches: Any,
    epochs: int,
    accumulation_steps: int,
    max_grad_norm: float | None,
    autocast: torch.dtype | None,
) -> None:
    """Refuse what cannot work before anything moves."""
    for name, value, least in (("epochs", epochs, 0), ("accumulation_steps", accumulation_steps, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}, expected a whole number of at least {least}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ValueError(f"max_grad_norm is {max_grad_norm}, expected a positive norm or None")
    if isinstance(state.optimizer, torch.optim.LBFGS):
        raise TypeError("optimizer is an LBFGS, which needs several losses per step: write its loop with a closure")
    if autocast == torch.float16 and state.scaler is None:
        raise ValueError("autocast is torch.float16 without a scaler: TrainState(..., scaler=torch.amp.GradScaler())")
    if not hasattr(batches, "__len__"):
        raise TypeError(f"batches is a {type(batches).__name__} without a length, expected a list or a DataLoader")
    length = len(batches)
    if state.epoch < epochs and state.batch >= length:
        raise ValueError(f"the state is at batch {state.batch} of epoch {state.epoch}, but batches has {length}")
    _check_data(state, batches)
    updates = max(0, epochs - state.epoch) * -(-length // accumulation_steps) - state.batch // accumulation_steps
    _check_scheduler(state.scheduler, updates, epochs)


def _check_data(state: TrainState, batches: Any) -> None:
    """Inside an epoch, only the same batches in the same order lead on from where the run was."""
    sampler = getattr(batches, "batch_sampler", None)
    here: dict[str, Any] = {"batches": len(batches)}
    if isinstance(sampler, EpochSampler):
        here = {"samples": sampler.n, "batch size on all processes": sampler.batch_size * sampler.size}
        here |= {"seed": sampler.seed, "shuffle": sampler.shuffle, "drop_last": sampler.drop_last}
    if state.batch and state.data is not None and state.data != here:
        raise ValueError(
            f"up to batch {state.batch} of epoch {state.epoch} the run has read {state.data}, and batches is {here}: "
            "use the same, or set state.batch = 0 to begin the epoch again"
        )
    if state.batch and isinstance(getattr(batches, "sampler", None), RandomSampler):
        warn(
            f"the run goes on at batch {state.batch} of epoch {state.epoch}, but this DataLoader shuffles anew: some samples "
            "will come twice and others not at all; pytorch_course.data.loader gives the same order again",
            stacklevel=4,
        )
    state.data = here


def _check_scheduler(scheduler: Any, updates: int, epochs: int) -> None:
    """The schedule is stepped per update, `updates` times from now on."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        raise TypeError(
            "scheduler is a ReduceLROnPlateau, which needs a measurement: pass it as an extra, TrainState(..., "
            "plateau=scheduler), and call scheduler.step(loss) in the body"
        )
    kinds = {lr_scheduler.CosineAnnealingLR: "T_max", lr_scheduler.OneCycleLR: "total_steps"}
    name = kinds.get(type(scheduler))
    if name and scheduler.last_epoch + updates > getattr(scheduler, name):
        raise ValueError(
            f"{name} of the scheduler is {getattr(scheduler, name)}, but it is stepped once per update and {epochs} epochs "
            f"end after {scheduler.last_epoch + updates} updates: build it with that number"
        )


def _describe(batch: Any) -> str:
    """Shapes, types and devices of the tensors in a batch."""
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')} {batch.device}"
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{name}: {_describe(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, (tuple, list)):
        return "(" + ", ".join(map(_describe, batch)) + ")"
    return type(batch).__name__
