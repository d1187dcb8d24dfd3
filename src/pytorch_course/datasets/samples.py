"""The one shape in which every dataset of the package comes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import TensorDataset

Column = torch.Tensor | tuple[str, ...]


class Samples(TensorDataset):
    """Named columns of equal length. Row i of all columns together is sample i.

    It is a :class:`torch.utils.data.TensorDataset` that can also hold text and prints what it holds. So
    :class:`torch.utils.data.DataLoader` takes it, ``images, labels = digits().tensors`` takes it apart, and a slice,
    a list or a tensor of indices picks many rows at once.

    Parameters
    ----------
    title : str
        Name of the dataset, for the print-out.
    columns : mapping of str to Tensor or sequence of str
        In the order in which a sample lists them. At least one is a tensor. The label, where there is one, comes last.
    classes : sequence of str
        ``classes[k]`` is the name of label k. Empty if there are no classes.
    feature_names : sequence of str
        ``feature_names[j]`` is the name of column j of a table. Empty if the data is no table.

    Attributes
    ----------
    columns : dict
        Every column by its name; text columns are tuples of strings.
    tensors : tuple of Tensor
        The columns that are tensors, in order.

    Raises
    ------
    ValueError
        If no column is a tensor, or the columns differ in length.

    Examples
    --------
    >>> fruit = Samples("fruit", {"name": ["fig", "kiwi"], "label": torch.tensor([1, 0])}, classes=["green", "violet"])
    >>> fruit
    fruit: 2 samples
      name     text, 3 to 4 characters
      label    int64, 0 to 1
      classes  green, violet
    >>> fruit[0], fruit[:2]
    (('fig', tensor(1)), (['fig', 'kiwi'], tensor([1, 0])))
    """

    def __init__(
        self,
        title: str,
        columns: Mapping[str, torch.Tensor | Sequence[str]],
        *,
        classes: Sequence[str] = (),
        feature_names: Sequence[str] = (),
    ) -> None:
        self.title = title
        self.columns: dict[str, Column] = {
            name: column if isinstance(column, torch.Tensor) else tuple(column) for name, column in columns.items()
        }
        self.classes = tuple(map(str, classes))
        self.feature_names = tuple(map(str, feature_names))
        tensors = [column for column in self.columns.values() if isinstance(column, torch.Tensor)]
        lengths = {name: len(column) for name, column in self.columns.items()}
        if not tensors or len(set(lengths.values())) > 1:
            raise ValueError(f"columns need equal lengths and at least one tensor, but these are {lengths}")
        super().__init__(*tensors)

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        """Pick one sample by an integer, or a batch by a slice, a list or a tensor of indices."""
        return tuple(
            column[index] if isinstance(column, torch.Tensor) else _pick(column, index)
            for column in self.columns.values()
        )

    def __repr__(self) -> str:
        rows = {name: _describe(column) for name, column in self.columns.items()}
        if self.classes:
            rows["classes"] = _shorten(self.classes)
        if self.feature_names:
            rows["feature_names"] = _shorten(self.feature_names)
        width = max(map(len, rows))
        lines = [f"{self.title}: {len(self):,} samples"]
        return "\n".join(lines + [f"  {name:{width}}  {text}" for name, text in rows.items()])


def _pick(texts: tuple[str, ...], index: Any) -> str | list[str]:
    if isinstance(index, int):
        return texts[index]
    rows = torch.arange(len(texts))[index]
    return texts[int(rows)] if rows.dim() == 0 else [texts[row] for row in rows.tolist()]


def _describe(column: Column) -> str:
    if not isinstance(column, torch.Tensor):
        lengths = [len(text) for text in column]
        return f"text, {min(lengths):,} to {max(lengths):,} characters" if lengths else "text"
    kind = str(column.dtype).removeprefix("torch.")
    shape = f" {list(column.shape[1:])}" if column.dim() > 1 else ""
    if column.dtype == torch.bool or column.numel() == 0:
        return kind + shape
    low, high = (bound.item() for bound in column.aminmax())
    return f"{kind}{shape}, {low:.4g} to {high:.4g}"


def _shorten(names: tuple[str, ...], limit: int = 60) -> str:
    text = ", ".join(names)
    return text if len(text) <= limit else f"{text[:limit].rsplit(', ', 1)[0]}, ... ({len(names)} in all)"
