"""Seeds, and the state of every random generator: Python's, NumPy's, torch's and the accelerators'."""

import hashlib
import operator
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any, SupportsIndex

import numpy as np
import torch

_PARTS = "accelerator, numpy, python, torch"


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, the accelerators' included.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1; anything else is a ValueError, and nothing has been seeded then.

    Examples
    --------
    >>> seed_everything(0)
    >>> torch.rand(2)
    tensor([0.4963, 0.7682])
    """
    if not (isinstance(seed, Integral) and 0 <= seed < 2**32):
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0 to {2**32 - 1}")
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))


def rng_state() -> dict[str, Any]:
    """Take a snapshot of every global generator, in types that a weights-only load accepts.

    An accelerator that this process has not used yet is left alone, because asking it would start it.

    ``python`` and ``numpy`` are the tuples of :func:`random.getstate` and :func:`numpy.random.get_state`, ``torch`` is a uint8
    tensor, and ``accelerator`` has one such tensor for each name of a device.

    Examples
    --------
    >>> state = rng_state()
    >>> first = torch.rand(2), random.random(), np.random.rand()
    >>> set_rng_state(state)
    >>> torch.equal(first[0], torch.rand(2)), first[1] == random.random(), first[2] == np.random.rand()
    (True, True, True)
    """
    legacy: Any = np.random.get_state()
    accelerators = {}
    for device in _accelerators():
        module = torch.get_device_module(device)
        if getattr(module, "is_initialized", lambda: True)():  # Apple's module has no such question
            accelerators[str(device)] = module.get_rng_state(device)
    return {
        "python": random.getstate(),
        "numpy": (legacy[0], legacy[1].tolist(), *legacy[2:]),
        "torch": torch.default_generator.get_state(),
        "accelerator": accelerators,
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put every generator back where :func:`rng_state` found it.

    If it holds an accelerator that this machine does not have, a warning says so, and the rest is restored.

    Raises
    ------
    ValueError
        If a part is missing, unknown or damaged. No generator has changed then.

    Examples
    --------
    >>> set_rng_state({"torch": torch.zeros(8)})
    Traceback (most recent call last):
    ValueError: an RNG state has the parts accelerator, numpy, python, torch, but this one has torch
    """
    if (parts := ", ".join(sorted(map(str, state)))) != _PARTS:
        raise ValueError(f"an RNG state has the parts {_PARTS}, but this one has {parts or 'none'}")
    part = "python"
    try:  # each part on a scratch generator first
        random.Random().setstate(state[part])
        part = "numpy"
        if not 0 <= state[part][2] <= 624:  # NumPy does not look, and would read outside
            raise ValueError(f"its position is {state[part][2]}, expected a number from 0 to 624")
        np.random.RandomState(0).set_state(state[part])
        part = "torch"
        torch.Generator().set_state(state[part].cpu())
        part = "accelerator"
        saved = {torch.device(name): tensor.cpu() for name, tensor in state[part].items()}
        here = [device for device in _accelerators() if device in saved]
        for device in here:
            torch.Generator(device).set_state(saved[device])
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the part {part!r} of the RNG state is damaged: {error}") from error
    if absent := [str(device) for device in saved if device not in here]:
        warnings.warn(f"this machine has no {', '.join(absent)}: the other generators are restored", stacklevel=2)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.default_generator.set_state(state["torch"].cpu())
    for device in here:
        torch.get_device_module(device).set_rng_state(saved[device], device)


def _accelerators() -> list[torch.device]:
    kind = torch.accelerator.current_accelerator(check_available=True)
    return [] if kind is None else [torch.device(kind.type, i) for i in range(torch.accelerator.device_count())]


@contextmanager
def keyed(*key: str | SupportsIndex) -> Iterator[Callable[..., None]]:
    """Make torch's random numbers inside the block a function of `key` alone, and leave those outside untouched.

    This covers torch's global CPU generator, from which the transforms of ``torchvision.transforms.v2`` draw. Give other
    code a generator of its own, ``random.Random(int(torch.randint(2**63 - 1, ())))`` inside the block, or
    :func:`numpy.random.default_rng` with such a number. Use it from one thread at a time.

    The seed is a hash of the key: neighbouring keys give unrelated streams, the same on every platform. Torch's CPU
    generator keeps 32 bits of a seed, so among n keys about n**2 / 2**33 pairs share a stream.

    Parameters
    ----------
    *key : int or str
        At least one part; others are a TypeError. ``keyed(1, 2)``, ``keyed(2, 1)`` and ``keyed("1", 2)`` all differ.

    Yields
    ------
    callable
        ``reseed(*more)`` begins the stream of ``keyed(*key, *more)``. In a loop that costs less than one block each.

    Examples
    --------
    >>> def noise(epoch, index):
    ...     with keyed("noise", epoch, index):
    ...         return torch.rand(2)
    >>> torch.equal(noise(0, 7), noise(0, 7)), torch.equal(noise(0, 7), noise(0, 8))
    (True, False)
    """
    if not key:
        raise TypeError("keyed() needs at least one integer or string")
    prefix = _encode(key)

    def reseed(*more: str | SupportsIndex) -> None:
        # Of 16 bytes: the size goes into the hash, and a run from an old checkpoint must find the seeds that it had.
        digest = hashlib.blake2b(prefix + _encode(more), digest_size=16).digest()
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))

    outer = torch.default_generator.get_state()
    try:
        reseed()
        yield reseed
    finally:
        torch.default_generator.set_state(outer)


def _encode(key: tuple[str | SupportsIndex, ...]) -> bytes:
    """Each part with its type and its length or end, so that no two keys collide."""
    try:
        text = [f"s{len(part)}:{part}" if isinstance(part, str) else f"i{operator.index(part)};" for part in key]
    except TypeError:
        raise TypeError(f"a key is made of integers and strings, but this one is {key!r}") from None
    return "".join(text).encode()
