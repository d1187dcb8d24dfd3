"""Exact figures over a whole dataset, and the outputs of a model in the order of the data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Number
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from pytorch_course.data import EpochSampler, to_device

# What makes two samplers, or two loaders, give the same batches.
_SAMPLER = ("n", "batch_size", "seed", "rank", "size", "shuffle")
_WORKERS = ("num_workers", "prefetch_factor", "timeout", "worker_init_fn", "multiprocessing_context", "in_order")
_LOADER = (*_WORKERS, "collate_fn", "pin_memory")


def evaluate(
    model: nn.Module, batches: Any, metrics: Mapping[str, Any], *, device: torch.device | str | None = None
) -> dict[str, float]:
    """Measure a model, exactly over every sample: a float for the name of every metric.

    A mean of batch means is wrong when the last batch is short. So values are added up over all batches and all processes
    before anything is divided. The model is in evaluation mode and computes no gradients; afterwards every submodule has its
    own mode back. A DataLoader is read through another one with the same options, as in epoch 0, so that a pass over it that
    is under way, or comes later, does not notice.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(input)``.
    batches : iterable
        Tuples or lists with the input first and the target last. When :func:`pytorch_course.data.loader` made them for several
        processes, all of these must call, each measures its share, and all get the figures for the whole data.
    metrics : mapping
        Functions ``f(output, target)`` or objects, by name. A function returns one value per sample, shape (N,), and the
        figure is their mean; or ``(sum, count)`` where a mean goes over something else, such as tokens that a mask leaves.
        An object, for figures that are no mean, has ``update``, ``compute`` and ``reset``, as in torchmetrics.
    device : torch.device or str, optional
        Where batches go. By default where the model is.

    Raises
    ------
    ValueError, TypeError
        If there is no batch, a batch is a mapping, the loader leaves samples out, or a metric returns something else.

    Examples
    --------
    >>> scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    >>> batches = [(scores[:2], torch.tensor([0, 0])), (scores[2:], torch.tensor([0]))]
    >>> evaluate(nn.Identity(), batches, {"accuracy": lambda output, target: output.argmax(1) == target})
    {'accuracy': 0.6666666666666666}
    """
    batches, sampler = _apart(batches)
    device = _device(model, device)
    objects = {name: metric for name, metric in metrics.items() if hasattr(metric, "compute")}
    functions = {name: metric for name, metric in metrics.items() if name not in objects}
    for metric in objects.values():
        metric.reset()
    # float64, so that the figure does not depend on how samples were cut into batches; Apple's devices have none.
    totals = torch.zeros(
        len(functions), 2, device=device, dtype=torch.float32 if device.type == "mps" else torch.float64
    )
    with _evaluation_mode(model):
        for inputs, target, output in _outputs(model, batches, device, sampler):
            for metric in objects.values():
                (metric.to(device) if hasattr(metric, "to") else metric).update(output, target)
            for total, (name, function) in zip(totals, functions.items(), strict=True):
                total += _sum_and_count(name, function(output, target), _samples(target, inputs, output), total)
    if functions and sampler is not None and sampler.size > 1:
        dist.all_reduce(totals)
    means = dict(zip(functions, (totals[:, 0] / totals[:, 1]).tolist(), strict=True))
    return {name: means[name] if name in means else _figure(name, objects[name].compute()) for name in metrics}


def predict(model: nn.Module, batches: Any, *, device: torch.device | str | None = None) -> Tensor:
    """Compute the output of a model for every sample, in the order of the data.

    This holds for a shuffled loader of :func:`pytorch_course.data.loader` as well, and on many processes, where every process
    gets all the outputs. Modes, gradients and loaders are handled as in :func:`evaluate`.

    The outputs are on the CPU, one row per sample. A batch is a tuple or list with the input first, or the input alone.

    Raises
    ------
    ValueError, TypeError
        If there is no batch, a batch is a mapping, or the loader leaves samples out or has an order that cannot be undone.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> from pytorch_course.data import loader
    >>> predict(nn.Flatten(0), loader(TensorDataset(torch.arange(5.0)), 2, seed=3))
    tensor([0., 1., 2., 3., 4.])
    """
    batches, sampler = _apart(batches)
    if sampler is None and isinstance(batches, DataLoader):
        order: Any = batches.sampler if batches.batch_sampler is None else batches.batch_sampler
        order = order.sampler if type(order) is BatchSampler else order
        if isinstance(batches.dataset, IterableDataset):
            if batches.num_workers:
                raise ValueError("workers mix the order of an IterableDataset: use num_workers=0")
        elif not isinstance(order, SequentialSampler):
            kind = type(order).__name__
            raise ValueError(f"the order of {kind} cannot be undone: use shuffle=False, or pytorch_course.data.loader")
    with _evaluation_mode(model):
        outputs = torch.cat([output.cpu() for *_, output in _outputs(model, batches, _device(model, device), sampler)])
    if sampler is None:
        return outputs
    everyones: list[Any] = [outputs]
    if sampler.size > 1:
        everyones = [None] * sampler.size
        dist.all_gather_object(everyones, outputs)
    result = outputs.new_empty(sampler.n, *outputs.shape[1:])
    for rank, part in enumerate(everyones):
        result[torch.tensor(sampler.of_rank(0, rank))] = part
    return result


def _apart(batches: Any) -> tuple[Any, EpochSampler | None]:
    """The same batches from workers, a generator and a sampler of their own; and the sampler, if it is an EpochSampler."""
    sampler: Any = getattr(batches, "batch_sampler", None)
    if getattr(sampler, "drop_last", False):
        raise ValueError("the loader leaves samples out: build it with drop_last=False")
    if not isinstance(batches, DataLoader):
        return batches, None
    options = {name: getattr(batches, name) for name in _LOADER}
    options["generator"] = torch.Generator().manual_seed(0)
    if isinstance(batches.dataset, IterableDataset):
        options["batch_size"] = batches.batch_size
    elif sampler is None:
        options |= {"batch_size": None, "sampler": batches.sampler}
    else:
        ours = isinstance(sampler, EpochSampler)
        options["batch_sampler"] = EpochSampler(**{n: getattr(sampler, n) for n in _SAMPLER}) if ours else sampler
    fresh: DataLoader[Any] = DataLoader(batches.dataset, **options)
    return fresh, fresh.batch_sampler if isinstance(fresh.batch_sampler, EpochSampler) else None


def _device(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _outputs(
    model: nn.Module, batches: Any, device: torch.device, sampler: EpochSampler | None
) -> Iterator[tuple[Any, Any, Any]]:
    """Inputs, targets and outputs, batch by batch."""
    # Before a forward pass, this wrapper waits for all other processes. When this one measures alone they do not come.
    alone = sampler is None or sampler.size == 1
    forward = model.module if isinstance(model, DistributedDataParallel) and alone else model
    batch = None
    for batch in batches:
        if isinstance(batch, Mapping):
            kind = type(batch).__name__
            raise TypeError(f"a batch is a {kind}, expected (input, target): give the loader a collate_fn")
        here = to_device(batch, device)
        inputs, target = (here[0], here[-1]) if isinstance(here, (tuple, list)) else (here, None)
        yield inputs, target, forward(inputs)
    if batch is None:
        raise ValueError("the dataset is empty: the loader gave no batch")


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        # Not inference_mode: what a model keeps from there, such as a mask or the weights that fully_shard has gathered,
        # could not be trained on afterwards.
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _samples(*parts: Any) -> int:
    """How many samples a batch has, by its first tensor, or else by its first list."""
    tensors = [part for part in parts if isinstance(part, Tensor) and part.dim()]
    lists = [part for part in parts if isinstance(part, (tuple, list))]
    return len([*tensors, *lists, ()][0])


def _sum_and_count(name: str, value: Any, n: int, like: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.shape == (n,):
        pair: Any = (value.to(like).sum(), n)
    else:
        pair = value if isinstance(value, tuple) else ()
    if len(pair) != 2 or not all(isinstance(part, Number) or getattr(part, "shape", None) == () for part in pair):
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise ValueError(
            f"metric {name!r} returned {what} for a batch of {n} samples, expected one value per sample, shape ({n},), as a "
            "loss of torch.nn gives with reduction='none'; for tokens or pixels return (values.sum(), values.numel())"
        )
    return torch.stack([torch.as_tensor(part, dtype=like.dtype, device=like.device) for part in pair])


def _figure(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric {name!r} has more than one figure, expected one: {value!r}") from error
