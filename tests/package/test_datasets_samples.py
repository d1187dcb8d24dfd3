"""Samples: the shape in which every dataset comes."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset, random_split

from pytorch_course.datasets.samples import Samples, TextSamples

WORDS = ("fig", "kiwi", "plum", "quince", "pear")


def fruit() -> TextSamples:
    columns = {"size": torch.arange(10.0).reshape(5, 2), "label": torch.tensor([0, 1, 0, 1, 0])}
    return TextSamples("fruit", {"name": WORDS}, columns, classes="ab")


def test_tensors_are_the_tensor_columns_in_order() -> None:
    data = fruit()
    assert isinstance(data, TensorDataset)
    assert [tensor.shape for tensor in data.tensors] == [(5, 2), (5,)]
    assert data.columns["name"] == WORDS
    assert len(data) == 5


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(-5, 4), max_size=8), st.slices(5))
def test_every_kind_of_index_agrees_with_numpy(rows: list[int], part: slice) -> None:
    data, words = fruit(), np.array(WORDS)
    for index in (rows, torch.tensor(rows, dtype=torch.int64)):
        names, sizes, labels = data[index]
        assert names == words[np.array(rows, dtype=int)].tolist()
        assert torch.equal(sizes, data.tensors[0][rows])
        assert torch.equal(labels, data.tensors[1][rows])
    if part.step is None or part.step > 0:  # torch has no negative steps
        assert data[part][0] == words[part].tolist()


def test_one_sample_and_a_mask() -> None:
    data = fruit()
    name, size, label = data[torch.tensor(-1)]
    assert (name, size.tolist(), label.item()) == ("pear", [8.0, 9.0], 0)
    assert data[1][0] == "kiwi"
    assert data[data.tensors[1] == 1][0] == ["kiwi", "quince"]
    with pytest.raises(IndexError):
        data[5]


def test_a_loader_batches_text_and_tensors() -> None:
    batches = list(DataLoader(fruit(), batch_size=2))
    assert [list(names) for names, _, _ in batches] == [["fig", "kiwi"], ["plum", "quince"], ["pear"]]
    assert torch.equal(torch.cat([labels for _, _, labels in batches]), fruit().tensors[1])


def test_torch_can_split_and_pickle_can_carry_it() -> None:
    first, second = random_split(fruit(), [3, 2], generator=torch.Generator().manual_seed(0))
    assert sorted(sample[0] for part in (first, second) for sample in part) == sorted(WORDS)
    assert repr(pickle.loads(pickle.dumps(fruit()))) == repr(fruit())


def test_without_text_it_reads_samples_as_torch_does() -> None:
    data = Samples("numbers", {"x": torch.rand(6, 3), "label": torch.arange(6)})
    plain = TensorDataset(*data.tensors)
    assert Samples.__getitem__ is TensorDataset.__getitem__
    for index in (2, slice(1, 4), [5, 0], torch.tensor([3, 3])):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(data[index], plain[index], strict=True))
    assert torch.equal(data.targets, torch.arange(6))


def test_the_package_splits_it_by_label_and_loads_it() -> None:
    from pytorch_course.data import loader, split

    numbers = Samples("numbers", {"x": torch.arange(40.0), "label": torch.arange(40) % 4})
    words = TextSamples("words", {"word": [f"w{i}" for i in range(40)]}, {"label": torch.arange(40) % 4})
    for data in (numbers, words):
        train, test = split(data, 0.5, 0.5)
        assert data.targets[train.indices].bincount().tolist() == [5, 5, 5, 5]
        assert sorted(train.indices + test.indices) == list(range(40))
        firsts = [first for batch, _ in loader(train, 8) for first in batch]
        assert sorted(firsts) == sorted(data[train.indices][0])


@pytest.mark.parametrize(
    "columns",
    [{}, {"x": torch.zeros(3, 2), "y": torch.zeros(2)}, {"x": torch.zeros(3, 2), "y": torch.zeros(0)}],
)
def test_columns_that_do_not_fit_are_refused(columns: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="same length"):
        Samples("bad", columns)
    with pytest.raises(ValueError, match="same length"):
        TextSamples("bad", {"name": ["a", "b", "c"]}, columns)


def test_texts_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\{'name': 5, 'label': 4\}"):
        TextSamples("bad", {"name": WORDS}, {"label": torch.zeros(4)})


def test_print_out() -> None:
    assert repr(fruit()).splitlines() == [
        "fruit: 5 samples",
        "  name     text, 3 to 6 characters",
        "  size     float32 [2], 0 to 9",
        "  label    int64, 0 to 1",
        "  classes  a, b",
    ]
    empty = TextSamples("none", {"text": []}, {"mask": torch.zeros(0, 4, dtype=torch.bool), "label": torch.zeros(0)})
    assert [line.split(None, 1)[1] for line in repr(empty).splitlines()[1:]] == ["text", "bool [4]", "float32"]
    many = Samples("many", {"x": torch.zeros(2)}, feature_names=[f"feature {i}" for i in range(99)])
    assert repr(many).endswith("feature 4, ... (99 in all)")
    assert max(map(len, repr(many).splitlines())) < 100
