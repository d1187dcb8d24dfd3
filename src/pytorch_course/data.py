"""Batches whose order and augmentation follow from (seed, epoch, index), never from what happened before.

So the same batches come back after a kill or a ``break``, with any number of workers and on any number of processes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, TensorDataset

from pytorch_course.distributed import World
from pytorch_course.rng import keyed

_ALONE = World()


class _Batch(list[int]):
    """The indices of one batch. They carry their epoch, so that it reaches every kind of worker."""

    epoch = 0


class Order(Sampler[list[int]]):
    """Batches of indices as a pure function of (seed, epoch).

    A global batch is ``batch_size * size`` consecutive samples of the epoch's order, and the rank takes every `size`-th of
    them. So global batch b holds the same samples on one process and on many. These rules hold for the end of an epoch:

    * Every sample comes exactly once. The last batch is short unless ``drop_last``.
    * Every rank has the same number of batches, because ranks that wait for each other must take the same number of steps.
      Within a batch the ranks differ by at most one sample.
    * So when fewer than `size` samples are left over, they join the batch before. This is the one case in which the number
      of processes changes the batches.

    Use it as the ``batch_sampler`` of a :class:`torch.utils.data.DataLoader`. Each pass is the next epoch, so nobody has to
    remember :meth:`set_epoch`. A position in the data is two integers: the epoch and the batch.

    Parameters
    ----------
    n : int
        Number of samples.
    batch_size : int
        Samples per batch on each process.
    seed : int
        Another seed gives another order.
    rank, size : int
        Which of how many processes this is.
    shuffle : bool
        False keeps the order of the data in every epoch.
    drop_last : bool
        Leave out the samples at the end of the epoch that do not fill a global batch. Each epoch leaves out others.

    Raises
    ------
    ValueError
        If there is no sample, or too few: shuffled data must fill one global batch, data in order must give every rank a
        sample.

    Examples
    --------
    >>> order = Order(10, 4, seed=1)
    >>> [len(batch) for batch in order]
    [4, 4, 2]
    >>> halves = [list(Order(10, 2, seed=1, rank=rank, size=2)) for rank in (0, 1)]
    >>> order.set_epoch(0, batch=1)
    >>> sorted(next(iter(order))) == sorted(halves[0][1] + halves[1][1])
    True
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        size: int = 1,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank is {rank} and size is {size}, expected 0 <= rank < size")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        if n < 1:
            raise ValueError("the dataset is empty")
        everyone = batch_size * size
        if n < (everyone if shuffle or drop_last else size):
            raise ValueError(
                f"{n} samples are too few for one global batch: {size} process(es) of batch_size {batch_size} take {everyone}"
            )
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.rank, self.size, self.shuffle, self.drop_last = rank, size, shuffle, drop_last
        self._full, left = divmod(n, everyone)
        self._batches = max(1, self._full + (left >= size and not drop_last))
        self._end = self._full * everyone if drop_last else n
        self._next = (0, 0)

    def __len__(self) -> int:
        """Batches in a whole epoch, the same on every rank."""
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the next epoch, from the position that :meth:`set_epoch` named."""
        # A generator reads the position at the first batch: a loader with workers asks for two iterators and drops one.
        epoch, start = self._next
        self._next = (epoch + 1, 0)
        order = self.order(epoch)
        for batch in range(start, self._batches):
            indices = _Batch(self._cut(order, batch, self.rank))
            indices.epoch = epoch
            yield indices

    def set_epoch(self, epoch: int, batch: int = 0) -> None:
        """Say where the next pass begins.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        batch : int
            Number of batches to leave out. The pass after the next one begins at batch 0 again.
        """
        self._next = (epoch, batch)

    def order(self, epoch: int) -> Tensor:
        """Give the order of all samples in one epoch, before it is cut into batches.

        Parameters
        ----------
        epoch : int
            Counted from 0.

        Returns
        -------
        Tensor
            A permutation of 0 to n - 1, int64, shape (n,).
        """
        if not self.shuffle:
            return torch.arange(self.n)
        with keyed("order", self.seed, epoch):
            return torch.randperm(self.n)

    def of_rank(self, epoch: int, rank: int) -> list[int]:
        """List the samples that one rank sees in an epoch, in the order in which it sees them.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        rank : int
            Any rank, not only this one.

        Returns
        -------
        list of int
            Its batches, one after the other.
        """
        order = self.order(epoch)
        return [index for batch in range(self._batches) for index in self._cut(order, batch, rank)]

    def samples(self, batch: int) -> int:
        """Count the samples in a batch, all ranks together.

        Parameters
        ----------
        batch : int
            Counted from 0.

        Returns
        -------
        int
            ``batch_size * size``, except in a last batch.
        """
        begin, end = self._bounds(batch)
        return end - begin

    def _cut(self, order: Tensor, batch: int, rank: int) -> list[int]:
        begin, end = self._bounds(batch)
        indices: list[int] = order[begin + rank : end : self.size].tolist()
        return indices

    def _bounds(self, batch: int) -> tuple[int, int]:
        everyone = self.batch_size * self.size
        return batch * everyone, self._end if batch == self._batches - 1 else (batch + 1) * everyone


class Keyed(Dataset[Any]):
    """A dataset whose random transforms depend only on (seed, epoch, index).

    Each sample is read and transformed inside :func:`pytorch_course.rng.keyed`. So every epoch augments a sample anew, and
    yet an epoch can be repeated, in the main process and in any worker, whatever came before. This covers torch's generator
    and Python's :mod:`random`; NumPy's global generator is not covered.

    The epoch travels with the batch from :class:`Order`. Behind another sampler every epoch is epoch 0.

    Parameters
    ----------
    data : Dataset or sequence
        Where samples come from.
    transform : callable, optional
        Called with the parts of a sample, ``transform(input, target)``, and returns the new sample. An image and its mask
        are then turned together. Transforms of ``torchvision.transforms.v2`` take this form.
    seed : int
        Another seed gives other draws.

    Examples
    --------
    >>> def noise(x, label):
    ...     return x + torch.rand(()), label
    >>> data = Keyed([(0.0, 7)], noise)
    >>> data[0] == data[0]
    True
    >>> data[0] == data[1, 0]  # sample 0 in epoch 1
    False
    """

    def __init__(self, data: Dataset[Any] | Sequence[Any], transform: Any = None, *, seed: int = 0) -> None:
        self.data, self.transform, self.seed = data, transform, seed

    def __len__(self) -> int:
        return _length(self.data)

    def __getitem__(self, index: int | tuple[int, int]) -> Any:
        """Give a sample in epoch 0, or with ``data[epoch, index]`` in any epoch."""
        epoch, index = index if isinstance(index, tuple) else (0, index)
        index = range(len(self))[index]  # -1 is the last sample and has its key
        try:
            with keyed("sample", self.seed, epoch, index):
                sample = self.data[index]
                if self.transform is None:
                    return sample
                return self.transform(*sample) if isinstance(sample, tuple) else self.transform(sample)
        except Exception as error:
            error.add_note(f"This was sample {index} in epoch {epoch}.")
            raise

    def __getitems__(self, batch: list[int]) -> list[Any]:
        """Give the samples of one batch; a :class:`torch.utils.data.DataLoader` prefers this to single samples."""
        epoch = getattr(batch, "epoch", 0)
        return [self[epoch, index] for index in batch]


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
    world: World = _ALONE,
    seed: int = 0,
    transform: Any = None,
    shuffle: bool = True,
    drop_last: bool = False,
    **kwargs: Any,
) -> DataLoader[Any]:
    """Build a :class:`torch.utils.data.DataLoader` whose batches are a function of (seed, epoch).

    Workers change how fast the batches come, never what is in them. Iterating draws nothing from the global generators.
    A :class:`torch.utils.data.TensorDataset` without transform, or a subset of one, is indexed a whole batch at a time. So are
    its subclasses that leave ``__getitem__`` alone.

    Parameters
    ----------
    data : Dataset or sequence
        Samples with a length, such as ``(input, target)``.
    batch_size : int
        Samples per batch on each process. The global batch is ``batch_size * world.size``.
    world : World
        The processes that share the data. By default this process reads all of it.
    seed : int
        Decides the order, see :class:`Order`, and the draws of the transforms, see :class:`Keyed`.
    transform : callable, optional
        ``transform(input, target)`` gives the new sample, see :class:`Keyed`.
    shuffle, drop_last : bool
        See :class:`Order`. Evaluation wants ``shuffle=False``.
    **kwargs
        Passed on, such as ``num_workers=2``, ``persistent_workers=True`` or ``multiprocessing_context="forkserver"``.

    Returns
    -------
    DataLoader
        Its ``batch_sampler`` is an :class:`Order`.

    Raises
    ------
    ValueError
        If there are too few samples, or a transform is wrapped around or inside a :class:`Keyed` dataset.
    TypeError
        If the data has no length.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> batches = loader(TensorDataset(torch.arange(6.0)), 4, shuffle=False)
    >>> [x.tolist() for (x,) in batches]
    [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0]]
    """
    order = Order(
        _length(data), batch_size, seed=seed, rank=world.rank, size=world.size, shuffle=shuffle, drop_last=drop_last
    )
    base, rows = _unwrap(data)
    if isinstance(base, Keyed) and (base is not data or transform is not None):
        raise ValueError(
            "data already contains a Keyed dataset: split the plain data, then pass the transform to loader()"
        )
    if _plain(base) and transform is None and "collate_fn" not in kwargs:
        data, kwargs = _Resident(base.tensors, rows), {**kwargs, "collate_fn": _as_it_is}
    elif not isinstance(data, Keyed):
        data = Keyed(data, transform, seed=seed)
    # DataLoader draws a seed for its workers at every pass. From its own generator, so that the global one stays where it is.
    kwargs = {"generator": torch.Generator().manual_seed(seed), **kwargs}
    return DataLoader(data, batch_sampler=order, **kwargs)


def split(data: Dataset[Any] | Sequence[Any], *fractions: float, seed: int = 0) -> list[Subset[Any]]:
    """Cut data into disjoint parts with the same mixture of classes.

    Every sample lands in exactly one part. If samples have an integer label, each class is shared out by itself: no part's
    count of a class is off by one or more from the exact fraction. Labels are read from a
    :class:`torch.utils.data.TensorDataset` (its last tensor), from ``data.targets``, or else from the last element of every
    sample, which reads all the data once.

    Parameters
    ----------
    data : Dataset or sequence
        The samples.
    *fractions : float
        Share of each part. They are positive and add up to 1.
    seed : int
        Decides which sample goes where.

    Returns
    -------
    list of Subset
        One per fraction, each in the order of the data.

    Raises
    ------
    ValueError
        If the data is empty, the fractions are not positive with sum 1, or a part would get no sample.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.randn(10, 3), torch.tensor([0] * 6 + [1] * 4))
    >>> train, test = split(data, 0.5, 0.5)
    >>> sum(label.item() for _, label in train), len(train)
    (2, 5)
    """
    if not (fractions and min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-6):  # a NaN fails as well
        raise ValueError(f"fractions are {fractions} with sum {sum(fractions):g}, expected positive numbers with sum 1")
    n = _length(data)
    if n < 1:
        raise ValueError("the dataset is empty")
    labels = _labels(data)
    classes = torch.zeros(n, dtype=torch.int64) if labels is None else torch.unique(labels, return_inverse=True)[1]
    with keyed("split", seed):
        shuffled = torch.randperm(n)
    exact = torch.tensor(fractions, dtype=torch.float64)
    counts = _share(torch.bincount(classes), exact / exact.sum())
    parts: list[list[Tensor]] = [[] for _ in fractions]
    for label, count in enumerate(counts.tolist()):
        for part, members in zip(parts, torch.split(shuffled[classes[shuffled] == label], count), strict=True):
            part.append(members)
    indices = [torch.cat(part).sort().values.tolist() for part in parts]
    if not all(indices):
        raise ValueError(f"{n} samples are too few for the fractions {fractions}: a part would be empty")
    return [Subset(data, part) for part in indices]  # type: ignore[arg-type]


def to_device(batch: Any, device: torch.device) -> Any:
    """Move every tensor of a batch to a device.

    Parameters
    ----------
    batch : object
        A tensor, or tuples, lists and mappings of tensors, nested in any way. Other things stay as they are.
    device : torch.device
        Where to.

    Returns
    -------
    object
        The same structure. Tensors that are there already are not copied.

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


def _unwrap(data: Any) -> tuple[Any, Tensor | None]:
    """The dataset below plain subsets, and the rows of it that they select."""
    rows: Tensor | None = None
    while type(data) is Subset:
        here = torch.as_tensor(data.indices)
        rows, data = (here if rows is None else here[rows]), data.dataset
    return data, rows


def _plain(data: Any) -> TypeGuard[TensorDataset]:
    """Whether a sample is nothing but one row of every tensor. A subclass may choose its samples otherwise."""
    return isinstance(data, TensorDataset) and type(data).__getitem__ is TensorDataset.__getitem__


def _labels(data: Any) -> Tensor | None:
    """One integer per sample, or None when the samples have no such thing. Draws nothing from the global generators."""
    base, rows = _unwrap(data)
    if _plain(base):
        found = base.tensors[-1] if len(base.tensors) > 1 else None
    elif hasattr(base, "targets"):
        found = _tensor(base.targets)
    else:
        rows = None
        samples = Keyed(data)
        last = [
            sample[-1] if isinstance(sample := samples[index], (tuple, list)) else None for index in range(len(data))
        ]
        found = _tensor(last)
    if found is None or found.dim() != 1 or found.is_floating_point() or found.is_complex():
        return None
    return (found if rows is None else found[rows]).cpu()


def _tensor(values: Any) -> Tensor | None:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):  # ragged, or no numbers
        return None


def _share(sizes: Tensor, fractions: Tensor) -> Tensor:
    """How many of each class go to each part: exact products rounded down, or up where a part's total still lacks some."""
    counts = (sizes[:, None] * fractions).floor().long()
    exact = sizes.sum() * fractions
    wanted = exact.floor().long()
    wanted[(wanted - exact).argsort(stable=True)[: sizes.sum() - wanted.sum()]] += 1
    missing = wanted - counts.sum(0)
    for count, left in zip(counts, (sizes - counts.sum(1)).tolist(), strict=True):
        chosen = missing.argsort(descending=True, stable=True)[:left]
        count[chosen] += 1
        missing[chosen] -= 1
    return counts
