"""Seeds, and the state of every random generator: Python's, NumPy's, torch's and the accelerator's."""

import hashlib
import operator
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsIndex

import numpy as np
import torch

_NAMES = frozenset({"python", "numpy", "torch", "accelerator"})


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, the accelerators' included.

    Parameters
    ----------
    seed : int
        From 0 to 2**32 - 1. NumPy accepts no more, and torch's CPU generator uses only the low 32 bits.

    Raises
    ------
    ValueError
        If `seed` is out of range. Nothing has been seeded then.

    Examples
    --------
    >>> seed_everything(0)
    >>> first = torch.rand(2)
    >>> seed_everything(0)
    >>> torch.equal(first, torch.rand(2))
    True
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}, expected a number from 0 to {2**32 - 1}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """Take a snapshot of every global generator, in types that a weights-only load accepts.

    An accelerator that this process has not used yet is left alone, because asking it would start it.

    Returns
    -------
    dict
        ``python`` is the tuple of :func:`random.getstate`. ``numpy`` holds ``key`` (int64, shape (624,)), ``pos``,
        ``has_gauss`` and ``gauss`` of the legacy global generator. ``torch`` is a uint8 tensor on the CPU.
        ``accelerator`` maps a device type to one uint8 tensor per device, and is empty without an accelerator.

    Raises
    ------
    RuntimeError
        If someone has given NumPy's global generator another algorithm than its default, MT19937.

    Examples
    --------
    >>> state = rng_state()
    >>> first = torch.rand(2), random.random(), np.random.rand()
    >>> set_rng_state(state)
    >>> torch.equal(first[0], torch.rand(2)), first[1] == random.random(), first[2] == np.random.rand()
    (True, True, True)
    """
    legacy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    if legacy["bit_generator"] != "MT19937":
        raise RuntimeError(f"NumPy's global generator is {legacy['bit_generator']}, expected its default, MT19937")
    return {
        "python": random.getstate(),
        "numpy": {
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "pos": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "torch": torch.default_generator.get_state(),
        "accelerator": _accelerator_state(),
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put every generator back where :func:`rng_state` found it.

    Each part is first tried on a scratch generator. So a damaged state changes nothing.

    Parameters
    ----------
    state : mapping
        What :func:`rng_state` returned, in this process or in another, tensors on any device.

    Raises
    ------
    ValueError
        If a part is missing, unknown or damaged. No generator has changed then.

    Warns
    -----
    UserWarning
        If the state holds more accelerators than this machine has. Those here are restored.

    Examples
    --------
    >>> set_rng_state({"torch": torch.zeros(8)})
    Traceback (most recent call last):
    ValueError: an RNG state has the parts accelerator, numpy, python, torch, but this one has torch
    """
    if set(state) != _NAMES:
        found = ", ".join(sorted(map(str, state))) or "none"
        raise ValueError(f"an RNG state has the parts {', '.join(sorted(_NAMES))}, but this one has {found}")
    part = "python"
    try:
        random.Random().setstate(state["python"])
        part = "numpy"
        legacy = _legacy_state(state["numpy"])
        np.random.RandomState(0).set_state(legacy)
        part = "torch"
        cpu = state["torch"].cpu()
        torch.Generator().set_state(cpu)
        part = "accelerator"
        found_here = _matching_accelerators(state["accelerator"])
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"the part {part!r} of the RNG state is damaged: {error}") from error
    random.setstate(state["python"])
    np.random.set_state(legacy)
    torch.default_generator.set_state(cpu)
    for device, tensor in found_here:
        torch.get_device_module(device).set_rng_state(tensor, device)


@contextmanager
def keyed(*key: str | SupportsIndex) -> Iterator[None]:
    """Make random numbers inside the block a function of `key` alone, and leave those outside untouched.

    It covers torch's global CPU generator and Python's :mod:`random`. It does not cover NumPy's legacy global
    generator, because saving and restoring that one costs more than twice as much as all the rest: give NumPy code
    its own ``np.random.default_rng(random.getrandbits(64))`` inside the block. Accelerators are not covered either.
    The generators belong to the process, so use it from one thread at a time.

    The key becomes a seed through BLAKE2b. So neighbouring keys give unrelated streams, the same ones on every
    platform and Python version. Torch's CPU generator keeps 32 bits of its seed: among n keys, about n**2 / 2**33
    pairs share a stream.

    Parameters
    ----------
    *key : int or str
        At least one part. Order and type matter: ``keyed(1, 2)``, ``keyed(2, 1)`` and ``keyed("1", 2)`` all differ.

    Raises
    ------
    TypeError
        If the key is empty, or a part is neither an integer nor a string.

    Examples
    --------
    >>> def noise(epoch, index):
    ...     with keyed("noise", epoch, index):
    ...         return torch.rand(2)
    >>> torch.equal(noise(0, 7), noise(0, 7)), torch.equal(noise(0, 7), noise(0, 8))
    (True, False)
    """
    digest = _digest(key)
    outer_torch, outer_python = torch.default_generator.get_state(), random.getstate()
    try:
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
        random.seed(int.from_bytes(digest[8:], "little"))
        yield
    finally:
        torch.default_generator.set_state(outer_torch)
        random.setstate(outer_python)


def _digest(key: tuple[str | SupportsIndex, ...]) -> bytes:
    """16 bytes of BLAKE2b over the parts, each tagged with its type and length so that no two keys collide."""
    if not key:
        raise TypeError("keyed() needs at least one integer or string")
    text = []
    for part in key:
        if isinstance(part, str):
            text.append(f"s{len(part)}:{part}")
        else:
            try:
                text.append(f"i{operator.index(part)};")
            except TypeError:
                raise TypeError(f"a key is made of integers and strings, but {part!r} is neither") from None
    return hashlib.blake2b("".join(text).encode(), digest_size=16).digest()


def _accelerator_state() -> dict[str, list[torch.Tensor]]:
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return {}
    module = torch.get_device_module(device)
    if hasattr(module, "is_initialized") and not module.is_initialized():
        return {}
    return {device.type: [module.get_rng_state(torch.device(device.type, i)) for i in range(module.device_count())]}


def _matching_accelerators(saved: Mapping[str, list[torch.Tensor]]) -> list[tuple[torch.device, torch.Tensor]]:
    """Pairs of (device of this machine, checked state), with a warning for the states that have no device here."""
    here = torch.accelerator.current_accelerator(check_available=True)
    pairs = []
    for kind, states in saved.items():
        count = torch.get_device_module(here).device_count() if here is not None and here.type == kind else 0
        if len(states) > count:
            text = f"the RNG state is for {len(states)} {kind} devices, this machine has {count}: the rest is restored"
            warnings.warn(text, stacklevel=3)
        for index, tensor in enumerate(states[:count]):
            device = torch.device(kind, index)
            torch.Generator(device).set_state(tensor.cpu())
            pairs.append((device, tensor.cpu()))
    return pairs


def _legacy_state(saved: Mapping[str, Any]) -> tuple[str, np.ndarray[Any, Any], int, int, float]:
    """The tuple that :func:`numpy.random.set_state` takes. NumPy does not check it: a wrong position reads outside."""
    key, position = saved["key"].cpu().numpy(), int(saved["pos"])
    if key.shape != (624,) or key.min() < 0 or key.max() >= 2**32:
        raise ValueError(f"key must hold 624 numbers from 0 to 2**32 - 1, but has shape {key.shape} or others")
    if not 0 <= position <= 624:
        raise ValueError(f"pos is {position}, expected a number from 0 to 624")
    return ("MT19937", key.astype(np.uint32), position, int(saved["has_gauss"]), float(saved["gauss"]))
