"""Exact figures over a whole dataset, and the outputs of a model in the order of the data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import SequentialSampler

from pytorch_course.data import Order, to_device


def evaluate(
    model: nn.Module,
    loader: Any,
    metrics: Mapping[str, Any],
    *,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Measure a model, exactly over every sample.

    A mean of batch means is wrong when the last batch is short. So a metric gives one value per sample, and the values are
    added up over all batches and all processes before anything is divided.

    Meanwhile the model is in evaluation mode and computes no gradients. Afterwards every submodule has its own mode back.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(input)``.
    loader : iterable
        Batches ``(input, target)``. If :func:`pytorch_course.data.loader` made it with a ``world`` of several processes, each
        measures its share. Then all of them must call, and all of them get the figures for the whole data.
    metrics : mapping
        Names, and for each name one of two things. A function ``f(output, target)`` that returns one value per sample, or
        per pixel or token: the figure is the mean of all values. Or, for figures that are no mean, an object with ``update``,
        ``compute`` and ``reset``, as torchmetrics has them; those collect from all processes themselves.
    device : torch.device or str, optional
        Where batches go. By default where the model is.

    Returns
    -------
    dict
        A float for every name.

    Raises
    ------
    ValueError
        If there is no batch, the loader leaves samples out, a function returns a single number for a batch, or an object has
        more than one figure.

    Examples
    --------
    >>> scores = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    >>> batches = [(scores[:2], torch.tensor([0, 0])), (scores[2:], torch.tensor([0]))]
    >>> evaluate(nn.Identity(), batches, {"accuracy": lambda output, target: output.argmax(1) == target})
    {'accuracy': 0.6666666666666666}
    """
    order = _order(loader)
    objects = {name: metric for name, metric in metrics.items() if hasattr(metric, "compute")}
    functions = {name: metric for name, metric in metrics.items() if name not in objects}
    for metric in objects.values():
        metric.reset()
    totals: Tensor | None = None
    with _evaluation_mode(model):
        for output, target in _outputs(model, loader, device):
            for metric in objects.values():
                (metric.to(output.device) if hasattr(metric, "to") else metric).update(output, target)
            if functions:
                sums = torch.stack([_sum_and_count(name, f(output, target)) for name, f in functions.items()])
                totals = sums if totals is None else totals + sums
    if totals is not None and order is not None and order.size > 1:
        dist.all_reduce(totals)
    means = {} if totals is None else dict(zip(functions, (totals[:, 0] / totals[:, 1]).tolist(), strict=True))
    return {name: means[name] if name in means else _figure(name, objects[name].compute()) for name in metrics}


def predict(model: nn.Module, loader: Any, *, device: torch.device | str | None = None) -> Tensor:
    """Compute the output of a model for every sample, in the order of the data.

    This holds for a shuffled loader of :func:`pytorch_course.data.loader` as well, and on many processes, where every process
    gets all the outputs. Modes and gradients are handled as in :func:`evaluate`.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(input)``.
    loader : iterable
        Batches ``(input, ...)``, or inputs alone.
    device : torch.device or str, optional
        Where batches go. By default where the model is.

    Returns
    -------
    Tensor
        Outputs on the CPU, one row per sample.

    Raises
    ------
    ValueError
        If there is no batch, or the loader leaves samples out or shuffles them in a way that nobody can undo.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> from pytorch_course.data import loader
    >>> predict(nn.Flatten(0), loader(TensorDataset(torch.arange(5.0)), 2, seed=3))
    tensor([0., 1., 2., 3., 4.])
    """
    order = _order(loader)
    if order is None and hasattr(loader, "batch_sampler") and not isinstance(loader.sampler, SequentialSampler):
        raise ValueError(
            f"the order of {type(loader.sampler).__name__} cannot be undone: use shuffle=False, or pytorch_course.data.loader"
        )
    with _evaluation_mode(model):
        outputs = torch.cat([output.cpu() for output, _ in _outputs(model, loader, device)])
    if order is None:
        return outputs
    everyones: list[Any] = [outputs]
    if order.size > 1:
        everyones = [None] * order.size
        dist.all_gather_object(everyones, outputs)
    result = outputs.new_empty(order.n, *outputs.shape[1:])
    for rank, part in enumerate(everyones):
        result[torch.tensor(order.of_rank(0, rank))] = part
    return result


def _order(loader: Any) -> Order | None:
    """The order of our own loaders, at its beginning: a figure must not depend on how often it was asked for."""
    order = getattr(loader, "batch_sampler", None)
    if getattr(order, "drop_last", False):
        raise ValueError("the loader leaves samples out: build it with drop_last=False")
    if not isinstance(order, Order):
        return None
    order.set_epoch(0)
    return order


def _outputs(model: nn.Module, loader: Any, device: torch.device | str | None) -> Iterator[tuple[Any, Any]]:
    """Outputs and targets, batch by batch."""
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    order = getattr(loader, "batch_sampler", None)
    shared = isinstance(order, Order) and order.size > 1
    # Before a forward pass, this wrapper waits for all other processes. When this one measures alone they do not come.
    forward = model.module if isinstance(model, DistributedDataParallel) and not shared else model
    empty = True
    for batch in loader:
        empty = False
        batch = to_device(batch, torch.device(device))
        inputs, target = (batch[0], batch[-1]) if isinstance(batch, (tuple, list)) else (batch, None)
        yield forward(inputs), target
    if empty:
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


def _sum_and_count(name: str, values: Any) -> Tensor:
    if not isinstance(values, Tensor) or values.dim() == 0:
        raise ValueError(
            f"metric {name!r} returned {values!r} for a batch, expected a tensor with one value per sample; "
            "a loss of torch.nn gives that with reduction='none'"
        )
    # float64, so that the figure does not depend on how samples were cut into batches; some devices have none
    dtype = torch.float32 if values.device.type == "mps" else torch.float64
    total = values.detach().sum(dtype=dtype)
    return torch.stack([total, torch.full_like(total, values.numel())])


def _figure(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"metric {name!r} has more than one figure, expected one: {value!r}") from error
