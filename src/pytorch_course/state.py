"""The state of a training run: what to train with, how far it has come, and a snapshot that it goes on from bit for bit."""

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any
from warnings import warn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from pytorch_course.checkpoint import CheckpointError
from pytorch_course.rng import rng_state, seed_everything, set_rng_state

_COUNTERS = ("step", "epoch", "batch")


class TrainState:
    """Everything that decides how training goes on: what to train with, and the position in the data.

    Parameters
    ----------
    model : torch.nn.Module
        Plain, compiled, or wrapped for several processes. In a snapshot the names are those of the plain model.
    optimizer : torch.optim.Optimizer
        Updates its parameters. They belong to the model or to an extra module.
    scheduler : torch.optim.lr_scheduler.LRScheduler, optional
        Stepped once per update. One that is stepped per epoch is an extra, stepped in the body of the loop.
    scaler : torch.amp.GradScaler, optional
        Scales the loss, which float16 needs.
    **extras
        What else has ``state_dict`` and ``load_state_dict`` and shall be saved: a loss with parameters, an average of the
        weights, a scheduler stepped per epoch. Found in ``extras``.

    Attributes
    ----------
    step : int
        Updates since the beginning. The next batch is ``batch`` of ``epoch``, both counted from 0.
    data : dict or None
        What :func:`pytorch_course.train.train` read last; inside an epoch it goes on only with the same.

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

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None = None,
        scaler: torch.amp.GradScaler | None = None,
        **extras: Any,
    ) -> None:
        for name, extra in extras.items():
            if not (hasattr(extra, "state_dict") and hasattr(extra, "load_state_dict")):
                raise TypeError(f"{name} is a {type(extra).__name__}, expected state_dict() and load_state_dict()")
        self.model, self.optimizer, self.scheduler, self.scaler = model, optimizer, scheduler, scaler
        self.extras = extras
        self.step = self.epoch = self.batch = 0
        self.data: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Take a snapshot. Later steps do not change it, and taking it does not change how training goes on.

        Every process of a group must call it, because the random generators of all ranks are collected.

        It holds tensors on the CPU, numbers, strings, and lists, tuples and dictionaries of them.

        A parameter of the optimizer that belongs neither to the model nor to an extra would be lost: a ValueError.
        """
        parts = {name: None if part is None else _copy(part.state_dict()) for name, part in self._parts().items()}
        return {
            **{name: getattr(self, name) for name in _COUNTERS},
            "model": _module_state(self.model),
            "optimizer": self._optimizer_state(),
            "parts": parts,
            "kinds": self._kinds(),
            "data": copy(self.data),
            "rng": _everyones_rng(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a snapshot. Everything is checked first, so a snapshot that does not fit changes nothing.

        Moments and other state of the optimizer find their parameters by name. With the same number of processes training
        goes on bit for bit. With another number the random generators, and so dropout, cannot go on where they were: they
        are seeded anew from the snapshot and the rank, with a warning.

        Raises
        ------
        pytorch_course.checkpoint.CheckpointError
            If it does not fit, with all reasons: names that are missing, unexpected or of another shape; another kind of
            optimizer, scheduler, scaler or extra; other groups of parameters. Or if its random generators are damaged.
        """
        self._require_fit(saved)
        try:
            _restore_rng(saved["rng"])  # first, because it checks what it is given
        except ValueError as error:
            raise CheckpointError(f"the snapshot does not fit, nothing was changed\n  {error}") from error
        _load_module(self.model, saved["model"])
        self._load_optimizer(saved["optimizer"])
        for name, part in self._parts().items():
            if isinstance(part, nn.Module):
                _load_module(part, saved["parts"][name])
            elif part is not None:
                part.load_state_dict(_copy(saved["parts"][name]))
        self.data = copy(saved["data"])
        for name in _COUNTERS:
            setattr(self, name, saved[name])

    def parameter_names(self) -> dict[Tensor, str]:
        """Give every parameter its name in a snapshot: ``0.weight`` of the model, ``loss.centres`` of the extra ``loss``.

        Examples
        --------
        >>> state = TrainState(model := nn.Linear(2, 1), torch.optim.SGD(model.parameters()))
        >>> list(state.parameter_names().values())
        ['weight', 'bias']
        """
        names = {parameter: name for name, parameter in _plain(self.model, self.model.named_parameters())}
        for prefix, extra in self.extras.items():
            if isinstance(extra, nn.Module):
                for name, parameter in _plain(extra, extra.named_parameters()):
                    names.setdefault(parameter, f"{prefix}.{name}")
        return names

    def _parts(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler, "scaler": self.scaler, **self.extras}

    def _kinds(self) -> dict[str, str]:
        return {name: type(part).__name__ for name, part in {"optimizer": self.optimizer, **self._parts()}.items()}

    def _optimizer_names(self) -> list[list[str]]:
        names = self.parameter_names()
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter not in names:
                    raise ValueError(
                        f"the optimizer updates a parameter of shape {tuple(parameter.shape)} that belongs neither to the model "
                        "nor to an extra and would not be saved: pass its module too, TrainState(model, optimizer, loss=module)"
                    )
        return [[names[parameter] for parameter in group["params"]] for group in self.optimizer.param_groups]

    def _optimizer_state(self) -> dict[str, Any]:
        """The optimizer's state with names for numbers."""
        # By hand, because torch.distributed.checkpoint fills an empty state by taking a step, after which most optimizers
        # train differently, and it refuses SGD without momentum.
        saved, groups = self.optimizer.state_dict(), self._optimizer_names()
        names = dict(enumerate(name for group in groups for name in group))  # torch numbers parameters in this order
        return {
            "state": {names[number]: _copy(entry) for number, entry in saved["state"].items()},
            "param_groups": [
                _copy({**group, "params": own}) for group, own in zip(saved["param_groups"], groups, strict=True)
            ],
        }

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        groups = self._optimizer_names()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        numbers = {name: number for number, name in enumerate(name for group in groups for name in group)}
        same = [next(old for old in saved["param_groups"] if set(old["params"]) == set(names)) for names in groups]
        state = {
            numbers[name]: {key: _sharded_like(parameters[numbers[name]], value) for key, value in _copy(entry).items()}
            for name, entry in saved["state"].items()
        }
        renumbered = [
            _copy({**old, "params": [numbers[name] for name in names]}) for old, names in zip(same, groups, strict=True)
        ]
        self.optimizer.load_state_dict({"state": state, "param_groups": renumbered})

    def _require_fit(self, saved: dict[str, Any]) -> None:
        if lacking := sorted({*_COUNTERS, "model", "optimizer", "parts", "kinds", "data", "rng"} - set(saved)):
            raise CheckpointError(f"this is not the snapshot of a TrainState: it has no {', '.join(lacking)}")
        problems = _misfits(self.model, saved["model"])
        there, here = saved["kinds"], self._kinds()
        problems += [
            f"{name}: {there.get(name, 'nothing')} instead of {here.get(name, 'nothing')}"
            for name in {**here, **there}
            if there.get(name) != here.get(name)
        ]
        for name, extra in self.extras.items():
            if isinstance(extra, nn.Module) and there.get(name) == here[name]:
                problems += [f"{name}: {problem}" for problem in _misfits(extra, saved["parts"][name])]
        groups = {frozenset(group["params"]) for group in saved["optimizer"]["param_groups"]}
        for number, names in enumerate([] if problems else self._optimizer_names()):
            if frozenset(names) not in groups:
                problems.append(
                    f"no group of the saved optimizer holds the parameters of group {number}: {', '.join(names)}"
                )
        if not problems and len(groups) > len(self.optimizer.param_groups):
            problems.append(f"groups of the optimizer: {len(groups)} instead of {len(self.optimizer.param_groups)}")
        if problems:
            raise CheckpointError("\n  ".join(["the snapshot does not fit, nothing was changed", *problems]))


def _plain(module: nn.Module, named: Any) -> Iterator[tuple[str, Any]]:
    """Names without those that torch.compile and DistributedDataParallel put into them."""
    wrapped = any(isinstance(part, DistributedDataParallel) for part in module.modules())
    for name, value in named:
        name = name.replace("_orig_mod.", "")
        yield name.removeprefix("module.") if wrapped else name, value


def _module_state(module: nn.Module) -> dict[str, Any]:
    return {name: _copy(value) for name, value in _plain(module, module.state_dict().items())}


def _load_module(module: nn.Module, saved: Mapping[str, Any]) -> None:
    raw = module.state_dict()
    names = [name for name, _ in _plain(module, raw.items())]
    module.load_state_dict({key: _sharded_like(raw[key], saved[name]) for key, name in zip(raw, names, strict=True)})


def _misfits(module: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    here, there = (
        {name: tuple(value.shape) if isinstance(value, Tensor) else None for name, value in named}
        for named in (_plain(module, module.state_dict().items()), saved.items())
    )
    shapes = [
        f"{name} {there[name]} instead of {here[name]}" for name in here.keys() & there if here[name] != there[name]
    ]
    problems = {"missing": here.keys() - there, "unexpected": there.keys() - here, "of another shape": shapes}
    return [f"{kind}: {', '.join(sorted(names))}" for kind, names in problems.items() if names]


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


def _sharded_like(parameter: Any, value: Any) -> Any:
    """Spread a whole tensor over the processes in the way the parameter is."""
    if not hasattr(parameter, "device_mesh") or not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


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
