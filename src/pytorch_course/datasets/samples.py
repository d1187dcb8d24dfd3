"""The one shape in which every dataset of the package comes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import TensorDataset

Column = torch.Tensor | tuple[str, ...]


class Samples(TensorDataset):
    """Named columns of equal length. Row i of all columns together is sample i.

    It is a :class:`torch.utils.data.TensorDataset` that knows the names of things and prints what it holds. So
    :class:`torch.utils.data.DataLoader` takes it, ``images, labels = digits().tensors`` takes it apart, and a slice,
    a list or a tensor of indices picks many rows at once.

    Parameters
    ----------
    title : str
        Name of the dataset, for the print-out.
    columns : mapping of str to Tensor
        In the order in which a sample lists them. The label, where there is one, comes last.
    classes : sequence of str
        ``classes[k]`` is the name of label k. Empty if there are no classes.
    feature_names : sequence of str
        ``feature_names[j]`` is the name of column j of a table. Empty if the data is no table.

    Raises
    ------
    ValueError
        If there is no column, or the columns differ in length.

    Examples
    --------
    >>> data = Samples("fruit", {"size": torch.rand(3, 2), "label": torch.tensor([1, 0, 1])}, classes=["fig", "kiwi"])
    >>> data
    fruit: 3 samples
      size     float32 [2], ...
      label    int64, 0 to 1
      classes  fig, kiwi
    >>> size, label = data[:2]
    >>> label
    tensor([1, 0])
    """

    def __init__(
        self,
        title: str,
        columns: Mapping[str, torch.Tensor],
        *,
        classes: Sequence[str] = (),
        feature_names: Sequence[str] = (),
    ) -> None:
        self.title = title
        self.columns: dict[str, Column] = dict(columns)
        self.classes = tuple(map(str, classes))
        self.feature_names = tuple(map(str, feature_names))
        self._check_lengths()
        super().__init__(*columns.values())

    @property
    def targets(self) -> torch.Tensor:
        """The last tensor, under the name that torchvision's datasets give it."""
        return self.tensors[-1]

    def _check_lengths(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns need the same length, and at least one column, but these have {lengths}")

    def __repr__(self) -> str:
        rows = {name: _describe(column) for name, column in self.columns.items()}
        if self.classes:
            rows["classes"] = _shorten(self.classes)
        if self.feature_names:
            rows["feature_names"] = _shorten(self.feature_names)
        width = max(map(len, rows))
        lines = [f"{self.title}: {len(self):,} samples"]
        return "\n".join(lines + [f"  {name:{width}}  {text}" for name, text in rows.items()])


class TextSamples(Samples):
    """Samples with columns of text, which come before the columns of numbers.

    Parameters
    ----------
    title : str
        Name of the dataset, for the print-out.
    texts : mapping of str to sequence of str
        Read them as ``data.columns["name"]``.
    columns : mapping of str to Tensor
        At least one, all as long as the texts. The label comes last.
    classes : sequence of str
        ``classes[k]`` is the name of label k.

    Raises
    ------
    ValueError
        If there is no tensor, or the columns differ in length.

    Examples
    --------
    >>> data = TextSamples("fruit", {"name": ["fig", "kiwi"]}, {"label": torch.tensor([1, 0])})
    >>> data
    fruit: 2 samples
      name   text, 3 to 4 characters
      label  int64, 0 to 1
    >>> data[0], data[:2]
    (('fig', tensor(1)), (['fig', 'kiwi'], tensor([1, 0])))
    """

    def __init__(
        self,
        title: str,
        texts: Mapping[str, Sequence[str]],
        columns: Mapping[str, torch.Tensor],
        *,
        classes: Sequence[str] = (),
    ) -> None:
        super().__init__(title, columns, classes=classes)
        self.columns = {**{name: tuple(text) for name, text in texts.items()}, **self.columns}
        self._check_lengths()

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        """Pick one sample by an integer, or a batch by a slice, a list or a tensor of indices."""
        return tuple(
            column[index] if isinstance(column, torch.Tensor) else _pick(column, index)
            for column in self.columns.values()
        )


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
    """As many of the names as fit in one line."""
    mark = "; " if any(", " in name for name in names) else ", "
    shown = 1
    while shown < len(names) and len(mark.join(names[: shown + 1])) <= limit:
        shown += 1
    return mark.join(names) if shown == len(names) else mark.join([*names[:shown], f"... ({len(names)} in all)"])
