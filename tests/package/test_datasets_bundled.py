"""The bundled data, against scikit-learn's own arrays."""

import numpy as np
import torch
from sklearn import datasets as sklearn_datasets
from torch.utils.data import DataLoader

from pytorch_course.datasets import digits, photographs


def test_digits() -> None:
    images, labels = digits().tensors
    source = sklearn_datasets.load_digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert np.array_equal((images * 16).numpy()[:, 0], source.images)  # sixteenths are exact
    assert labels.dtype == torch.int64 and np.array_equal(labels.numpy(), source.target)


def test_photographs_are_channels_first() -> None:
    images, labels = photographs().tensors
    assert images.shape == (2, 3, 427, 640) and images.dtype == torch.uint8 and images.is_contiguous()
    for image, name in zip(images, ("china.jpg", "flower.jpg"), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), sklearn_datasets.load_sample_image(name))
    assert labels.tolist() == [0, 1]


def test_each_is_fresh_writable_and_loads_in_batches() -> None:
    for load in (digits, photographs):
        data = load()
        assert [len(part) for part in next(iter(DataLoader(data, batch_size=2)))] == [2, 2]
        before = data.tensors[0].clone()
        data.tensors[0].zero_()
        assert torch.equal(load().tensors[0], before)
