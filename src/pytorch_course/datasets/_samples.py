"""The one form in which pictures come, and the error of a data set that does not."""

from collections.abc import Mapping, Sequence

import torch
from torch.utils.data import TensorDataset


class DatasetError(RuntimeError):
    """A data set or a file is missing or damaged. The message names the file, the folder and what to do."""


class Samples(TensorDataset):
    """Named tensors of equal length: a :class:`torch.utils.data.TensorDataset` that prints what it holds.

    A :class:`torch.utils.data.DataLoader` takes it, ``images, labels = digits().tensors`` takes it apart, and
    ``data.columns["image"]`` is one of them. Columns that differ in length, or none, raise a ValueError.

    Parameters
    ----------
    columns : mapping of str to Tensor
        In the order in which a sample lists them, the label last.
    title, classes : str, sequence of str
        Name of the data, for the print-out, and ``classes[k]``, the name of label k.

    Examples
    --------
    >>> Samples("fruit", {"size": torch.ones(3, 2), "label": torch.tensor([1, 0, 1])}, classes=["fig", "kiwi"])
    fruit: 3 samples
      size     float32 [2], 1 to 1
      label    int64, 0 to 1
      classes  fig, kiwi
    """

    def __init__(self, title: str, columns: Mapping[str, torch.Tensor], *, classes: Sequence[str] = ()) -> None:
        self.title, self.columns, self.classes = title, dict(columns), tuple(classes)
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns need the same length, and at least one column, but these have {lengths}")
        super().__init__(*columns.values())

    def __repr__(self) -> str:
        rows = {name: _describe(column) for name, column in self.columns.items()}
        if self.classes:
            shown = [*self.classes[:10], f"... ({len(self.classes)} in all)"][: len(self.classes)]
            rows["classes"] = ", ".join(shown)
        lines = [f"  {name:{max(map(len, rows))}}  {text}" for name, text in rows.items()]
        return "\n".join([f"{self.title}: {len(self):,} samples", *lines])


def at_least(**bounds: tuple[int, int]) -> None:
    """Refuse a ``name=(value, least)`` whose value is no integer or is below the least."""
    for name, (value, least) in bounds.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}, expected an integer of at least {least}")


def _describe(column: torch.Tensor) -> str:
    kind = str(column.dtype).removeprefix("torch.") + (f" {list(column.shape[1:])}" if column.dim() > 1 else "")
    if column.dtype == torch.bool or column.numel() == 0:
        return kind
    low, high = (bound.item() for bound in column.aminmax())
    return f"{kind}, {low:.4g} to {high:.4g}"
