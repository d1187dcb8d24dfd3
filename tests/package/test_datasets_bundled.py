"""The bundled data, against scikit-learn's own arrays."""

import numpy as np
import pytest
import torch
from sklearn import datasets as sklearn_datasets
from torch.utils.data import DataLoader

from pytorch_course.datasets import bundled
from pytorch_course.datasets.samples import Samples


def test_digits() -> None:
    images, labels = bundled.digits().tensors
    source = sklearn_datasets.load_digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert np.array_equal((images * 16).numpy()[:, 0], source.images)  # sixteenths are exact
    assert labels.dtype == torch.int64
    assert np.array_equal(labels.numpy(), source.target)


@pytest.mark.parametrize(
    ("load", "source", "counts"),
    [
        (bundled.iris, sklearn_datasets.load_iris, [50, 50, 50]),
        (bundled.wine, sklearn_datasets.load_wine, [59, 71, 48]),
        (bundled.breast_cancer, sklearn_datasets.load_breast_cancer, [212, 357]),
    ],
)
def test_tables_to_classify(load, source, counts) -> None:
    data, bunch = load(), source()
    features, labels = data.tensors
    assert features.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert np.array_equal(features.numpy(), bunch.data.astype(np.float32))
    assert np.array_equal(labels.numpy(), bunch.target)
    assert labels.bincount().tolist() == counts
    assert data.feature_names == tuple(bunch.feature_names)
    assert data.classes == tuple(bunch.target_names)
    assert all(type(name) is str for name in data.classes + data.feature_names)


def test_diabetes_is_a_regression_with_unscaled_features() -> None:
    data = bundled.diabetes()
    features, target = data.tensors
    assert list(data.columns) == ["features", "target"]
    assert features.shape == (442, 10)
    assert target.dtype == torch.float32
    assert data.classes == ()
    age = features[:, data.feature_names.index("age")]
    assert (age.min().item(), age.max().item()) == (19.0, 79.0)
    scaled = (features - features.mean(0)) / features.std(0, correction=0) / 442**0.5
    expected = torch.tensor(sklearn_datasets.load_diabetes().data, dtype=torch.float32)
    torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-5)


def test_photographs_are_channels_first() -> None:
    images, labels = bundled.photographs().tensors
    assert images.shape == (2, 3, 427, 640)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    for image, name in zip(images, ("china.jpg", "flower.jpg"), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), sklearn_datasets.load_sample_image(name))
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer", "diabetes", "photographs"])
def test_each_is_fresh_writable_and_loads_in_batches(name: str) -> None:
    load = getattr(bundled, name)
    data: Samples = load()
    first, last = next(iter(DataLoader(data, batch_size=2)))
    assert len(first) == len(last) == 2
    before = data.tensors[0].clone()
    data.tensors[0].zero_()
    assert torch.equal(load().tensors[0], before)
    assert repr(data).startswith(name.replace("_", " "))
