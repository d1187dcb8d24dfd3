"""Batches whose order and augmentation follow from (seed, epoch, index), never from what happened before.

So the same batches come back after a kill or a ``break``, with any number of workers and on any number of processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from itertools import accumulate, pairwise
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset

from pytorch_course.distributed import World
from pytorch_course.rng import keyed


class _Batch(list[int]):
    """The indices of one batch. They carry their epoch, so that it reaches every kind of worker."""

    epoch = 0


class EpochSampler(Sampler[list[int]]):
    """Batches of indices as a pure function of (seed, epoch).

    A global batch is ``batch_size * size`` consecutive samples of the epoch's order, and the rank takes every `size`-th of
    them. So global batch b holds the same samples on one process and on many. In an epoch every sample comes once, and the
    last batch is short unless ``drop_last``. Every rank has the same number of batches, because ranks that wait for each
    other must take the same number of steps. So when fewer than `size` samples are left over, they join the batch before;
    only then does the number of processes change the batches.

    Use it as the ``batch_sampler`` of a :class:`torch.utils.data.DataLoader`. Each pass is the next epoch. Arguments out of
    range, and fewer samples than a global batch (data in order may be shorter), are a ValueError.

    Parameters
    ----------
    n, batch_size : int
        Number of samples, and samples per batch on each process.
    seed : int
        From 0. Another seed gives another order.
    rank, size : int
        Which of how many processes this is.
    shuffle : bool
        False keeps the order of the data in every epoch.
    drop_last : bool
        Leave out what does not fill a global batch at the end of an epoch. Each epoch leaves out other samples.

    Examples
    --------
    >>> sampler = EpochSampler(10, 4, seed=1)
    >>> [len(batch) for batch in sampler]
    [4, 4, 2]
    >>> sampler.position
    (1, 0)
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank is {rank} and size is {size}, expected 0 <= rank < size")
        for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
            if not (isinstance(value, Integral) and value >= least):
                raise ValueError(f"{name} is {value!r}, expected a whole number from {least}")
        everyone = batch_size * size
        if n < (everyone if shuffle or drop_last else size):
            raise ValueError(
                f"{n} samples are too few for one global batch: {size} process(es) of batch_size {batch_size} take {everyone}"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.size, self.shuffle, self.drop_last = rank, size, shuffle, drop_last
        full, left = divmod(n, everyone)
        batches = max(1, full + (left >= size and not drop_last))
        # Where each global batch begins in the order, and where the last one ends.
        self._cuts = [*range(0, batches * everyone, everyone), full * everyone if drop_last else n]
        self._position = (0, 0)

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank."""
        return len(self._cuts) - 1

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the next epoch, from :attr:`position` on."""
        # A generator reads the position at the first batch: a loader with workers asks for two iterators and drops one.
        epoch, start = self._position
        self._position = (epoch + 1, 0)
        order = self.order(epoch)
        for batch in range(start, len(self)):
            indices = _Batch(self._share(order, batch, self.rank))
            indices.epoch = epoch
            yield indices

    @property
    def position(self) -> tuple[int, int]:
        """Epoch and batch, both counted from 0, at which the next pass begins."""
        return self._position

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Say at which epoch, and at which batch of it, the next pass begins. The one after it begins at batch 0 again."""
        self._position = (epoch, batch)

    def order(self, epoch: int) -> Tensor:
        """Give the order of all samples in one epoch: a permutation of 0 to n - 1, int64, shape (n,)."""
        if not self.shuffle:
            return torch.arange(self.n)
        with keyed("order", self.seed, epoch):
            return torch.randperm(self.n)

    def of_rank(self, epoch: int, rank: int) -> list[int]:
        """List the samples that any one rank sees in an epoch, in the order in which it sees them."""
        order = self.order(epoch)
        return [index for batch in range(len(self)) for index in self._share(order, batch, rank)]

    def counts(self, batch: int) -> tuple[int, int]:
        """Count the samples of a batch: on this rank, and on all ranks together."""
        begin, end = self._cuts[batch : batch + 2]
        return len(range(begin + self.rank, end, self.size)), end - begin

    def _share(self, order: Tensor, batch: int, rank: int) -> list[int]:
        begin, end = self._cuts[batch : batch + 2]
        return order[begin + rank : end : self.size].tolist()


# The epoch of the sample that is being read, and how many transforms around the dataset will still change it. Without the
# latter, two transforms with the same seed would draw the same numbers.
_reading: ContextVar[tuple[int, int]] = ContextVar("reading", default=(0, 0))


class SeededDataset(Dataset[Any]):
    """A dataset whose random transforms depend only on (seed, epoch, index).

    So every epoch augments a sample anew, and yet an epoch can be repeated, in the main process and in any worker. This covers
    torch's generator, from which ``torchvision.transforms.v2`` draws; for others see :func:`pytorch_course.rng.keyed`.

    The epoch comes with the batch from :class:`EpochSampler`, in :func:`loader` also through datasets in between, such as
    :class:`torch.utils.data.ConcatDataset`. Behind another sampler every epoch is epoch 0.

    Parameters
    ----------
    data : Dataset or sequence
        Where samples come from.
    transform : callable, optional
        ``transform(input, target)`` returns the new sample, so an image and its mask can be turned together.
    seed : int
        Another seed gives other draws.

    Examples
    --------
    >>> def noise(x, label):
    ...     return x + torch.rand(()), label
    >>> data = SeededDataset([(0.0, 7)], noise, seed=0)
    >>> data[0] == data[0]
    True
    >>> data[0] == data[1, 0]  # sample 0 in epoch 1
    False
    """

    def __init__(self, data: Dataset[Any] | Sequence[Any], transform: Any = None, *, seed: int) -> None:
        self.data, self.transform, self.seed = data, transform, seed

    def __len__(self) -> int:
        return _length(self.data)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        """Give a sample, or with ``data[epoch, index]`` the sample of an epoch, which otherwise is 0."""
        epoch, index = index if isinstance(index, tuple) else (_reading.get()[0], index)
        index = range(len(self))[index]  # -1 is the last sample and has its key
        return self._read(epoch, [index])[0]

    def __getitems__(self, batch: list[int]) -> list[Any]:
        """Give the samples of one batch; a :class:`torch.utils.data.DataLoader` prefers this to single samples."""
        return self._read(getattr(batch, "epoch", _reading.get()[0]), batch)

    def _read(self, epoch: int, batch: list[int]) -> list[Any]:
        depth, samples = _reading.get()[1], []
        token = _reading.set((epoch, depth + (self.transform is not None)))
        try:
            # One block for all, because saving and restoring the generator costs more than reading a row of a tensor.
            with keyed("sample", self.seed, epoch, depth) as reseed:
                for index in batch:
                    reseed(index)
                    samples.append(self._sample(epoch, index))
        finally:
            _reading.reset(token)
        return samples

    def _sample(self, epoch: int, index: int) -> Any:
        try:
            sample = self.data[index]
            if self.transform is None:
                return sample
            return self.transform(*sample) if isinstance(sample, tuple) else self.transform(sample)
        except Exception as error:
            error.add_note(f"This was sample {index} in epoch {epoch}.")
            raise


class _Resident(Dataset[Any]):
    """Tensors in memory: a batch is one indexing operation per tensor, not one per sample and a collate."""

    def __init__(self, tensors: tuple[Tensor, ...], rows: Tensor | None) -> None:
        self.tensors, self.rows = tensors, rows

    def __len__(self) -> int:
        return len(self.tensors[0] if self.rows is None else self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        row = index if self.rows is None else self.rows[index]
        return tuple(tensor[row] for tensor in self.tensors)

    def __getitems__(self, batch: list[int]) -> list[Tensor]:
        # Through NumPy, because a tensor of a list takes four times as long.
        indices = torch.from_numpy(np.array(batch))
        rows = indices if self.rows is None else self.rows[indices]
        return [tensor[rows] for tensor in self.tensors]


def loader(
    data: Dataset[Any] | Sequence[Any],
    batch_size: int,
    *,
    seed: int,
    shuffle: bool = True,
    drop_last: bool = False,
    world: World | None = None,
    transform: Any = None,
    **kwargs: Any,
) -> DataLoader[Any]:
    """Build a :class:`torch.utils.data.DataLoader` whose ``batch_sampler`` is an :class:`EpochSampler`.

    Workers change how fast the batches come, never what is in them. Iterating draws nothing from the global generators.
    A :class:`torch.utils.data.TensorDataset` without transform, or a subset of one, is indexed a whole batch at a time.

    Parameters
    ----------
    data : Dataset or sequence
        Samples with a length, such as ``(input, target)``.
    batch_size, seed, shuffle, drop_last
        See :class:`EpochSampler`. The seed decides the draws of transforms as well.
    world : World, optional
        The processes that share the data. Without it this process reads all of it.
    transform : callable, optional
        See :class:`SeededDataset`.
    **kwargs
        Passed on, such as ``num_workers=2`` or ``persistent_workers=True``.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> batches = loader(TensorDataset(torch.arange(6.0)), 4, seed=0, shuffle=False)
    >>> [x.tolist() for (x,) in batches]
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0]]
    """
    rank, size = (0, 1) if world is None else (world.rank, world.size)
    sampler = EpochSampler(
        _length(data), batch_size, seed=seed, rank=rank, size=size, shuffle=shuffle, drop_last=drop_last
    )
    resident = _resident(data)
    if resident is not None and transform is None and "collate_fn" not in kwargs:
        data, kwargs = resident, {**kwargs, "collate_fn": _as_it_is}
    elif transform is not None or not isinstance(data, SeededDataset):
        data = SeededDataset(data, transform, seed=seed)
    # DataLoader draws a seed for its workers at every pass. From its own generator, so that the global one stays where it is.
    kwargs = {"generator": torch.Generator().manual_seed(seed % 2**63), **kwargs}
    return DataLoader(data, batch_sampler=sampler, **kwargs)


def split(
    data: Dataset[Any] | Sequence[Any], *fractions: float, seed: int, labels: Sequence[Any] | Tensor | None = None
) -> list[Subset[Any]]:
    """Cut data by chance into one subset per fraction; every sample lands in exactly one, and its order is that of the data.

    Parameters
    ----------
    data : Dataset or sequence
        The samples.
    *fractions : float
        Share of each part. They are positive and add up to 1.
    seed : int
        Decides which sample goes where.
    labels : sequence or Tensor, optional
        The class of every sample, a number or a name. Then a part gets its fraction of each class, to within one sample.

    Examples
    --------
    >>> train, test = split(range(10), 0.5, 0.5, seed=0, labels=[0] * 6 + [1] * 4)
    >>> len(train), sum(number < 6 for number in train)
    (5, 3)
    """
    if not (fractions and min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-6):  # a NaN fails as well
        raise ValueError(f"fractions are {fractions} with sum {sum(fractions):g}, expected positive numbers with sum 1")
    n = _length(data)
    given = np.zeros(n, np.int64) if labels is None else np.asarray(labels)
    if given.shape != (n,) or given.dtype.kind not in "biuU":
        raise ValueError(f"labels are {given.dtype} of shape {given.shape}, expected one class for each of {n} samples")
    with keyed("split", seed):
        shuffled = torch.randperm(n).numpy()
    bounds = [0.0, *accumulate(fractions[:-1]), 1.0]
    parts: list[list[int]] = [[] for _ in fractions]
    for label in np.unique(given):
        members = shuffled[given[shuffled] == label].tolist()
        cuts = [round(bound * len(members)) for bound in bounds]
        for part, (begin, end) in zip(parts, pairwise(cuts), strict=True):
            part += members[begin:end]
    if not all(parts):
        raise ValueError(f"{n} samples are too few for the fractions {fractions}: a part would be empty")
    return [Subset(data, sorted(part)) for part in parts]  # type: ignore[arg-type]


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch to a device.

    It may be a tensor, or tuples, lists and mappings of tensors, nested in any way; other things stay as they are. Tensors
    that are there already are not copied.

    Examples
    --------
    >>> to_device((torch.zeros(2), {"name": "a"}), torch.device("cpu"))
    (tensor([0., 0.]), {'name': 'a'})
    """
    if isinstance(batch, Tensor):
        return batch if batch.device == device else batch.to(device, non_blocking=device.type == "cuda")
    if hasattr(batch, "to"):  # before tuples, because a PackedSequence is both
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [to_device(part, device) for part in batch]
        if isinstance(batch, list):
            return parts
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _length(data: Any) -> int:
    try:
        return len(data)
    except TypeError:
        raise TypeError(f"data needs a length and an index, and {type(data).__name__} has no length") from None


def _resident(data: Any) -> _Resident | None:
    """The tensors below plain subsets, if a sample is one row of each. A subclass may choose its samples otherwise."""
    rows: Tensor | None = None
    while type(data) is Subset:
        here = torch.as_tensor(data.indices)
        rows, data = (here if rows is None else here[rows]), data.dataset
    plain = isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__
    return _Resident(data.tensors, rows) if plain else None
