"""Samples: the form in which pictures come; and the one door to all data sets."""

import pickle
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import pytorch_course.datasets
from pytorch_course.datasets import Samples


def numbers() -> Samples:
    return Samples("numbers", {"x": torch.arange(18.0).reshape(6, 3), "label": torch.arange(6)}, classes="abcdef")


def test_it_reads_samples_as_torch_does() -> None:
    data, plain = numbers(), TensorDataset(*numbers().tensors)
    assert Samples.__getitem__ is TensorDataset.__getitem__  # so a loader may index whole batches
    for index in (2, slice(1, 4), [5, 0], torch.tensor([3, 3])):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(data[index], plain[index], strict=True))
    assert (list(data.columns), data.classes) == (["x", "label"], tuple("abcdef"))
    assert torch.equal(torch.cat([label for _, label in DataLoader(data, batch_size=4)]), torch.arange(6))
    assert repr(pickle.loads(pickle.dumps(data))) == repr(data)


@pytest.mark.parametrize("lengths", [[], [3, 2], [3, 0]])
def test_columns_that_do_not_fit_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="same length"):
        Samples("bad", {f"{k}": torch.zeros(length) for k, length in enumerate(lengths)})


def test_print_out() -> None:
    assert repr(numbers()).splitlines() == [
        "numbers: 6 samples",
        "  x        float32 [3], 0 to 17",
        "  label    int64, 0 to 5",
        "  classes  a, b, c, d, e, f",
    ]
    empty = Samples("none", {"mask": torch.zeros(0, 4, dtype=torch.bool), "label": torch.zeros(0)})
    assert [line.split(None, 1)[1] for line in repr(empty).splitlines()[1:]] == ["bool [4]", "float32"]
    many = Samples("many", {"x": torch.zeros(2)}, classes=[f"c{i}" for i in range(99)])
    assert repr(many).endswith("c8, c9, ... (99 in all)")
    assert repr(Samples("ten", {"x": torch.zeros(2)}, classes="0123456789")).endswith("8, 9")


def test_everything_comes_from_one_place_and_importing_it_is_cheap() -> None:
    assert all(hasattr(pytorch_course.datasets, name) for name in pytorch_course.datasets.__all__)
    heavy = "matplotlib sklearn torchvision pooch reportlab pypdfium2 pandas fontTools"
    program = f"import sys, pytorch_course.datasets; print(*set('{heavy}'.split()) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == ""
