"""Public data sets for readers who are online: found or fetched, checked by SHA-256, then read."""

import gzip
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from pytorch_course.datasets._fetch import locate
from pytorch_course.datasets._sources import SOURCES
from pytorch_course.datasets.samples import Samples

PET_SIZE = 128
"""Side of the square to which every photograph of a pet is resized."""


def public(name: str, *, train: bool = True, root: str | Path | None = None, download: bool = False) -> Samples:
    """Read a public data set. It is never fetched unasked, never used unchecked and never replaced in silence.

    Parameters
    ----------
    name : str
        ``MNIST``, ``FashionMNIST``, ``KMNIST``, ``CIFAR10`` or ``OxfordIIITPet``.
    train : bool
        The training part, or the test part.
    root : str or Path, optional
        The data folder, laid out as torchvision does: ``<root>/MNIST/raw``. MNIST's files may also lie in
        ``<root>/mnist`` or in `root` itself. Without it:
        :func:`pytorch_course.datasets.public.data_folder`.
    download : bool
        Fetch what is missing, over https only.

    Returns
    -------
    Samples
        ``image`` uint8 [N, C, H, W], 0 to 255, and last ``label`` int64 [N]. The three MNISTs have 60,000 or 10,000
        images of [1, 28, 28], CIFAR10 50,000 or 10,000 of [3, 32, 32], OxfordIIITPet 3,680 or 3,669, resized to
        [3, 128, 128]. Between them the pets have ``mask`` uint8 [N, 128, 128]: 0 pet, 1 background, 2 border.

    Raises
    ------
    DatasetError
        If a file is missing, cannot be fetched, or has not the SHA-256 it should have.
    ValueError
        If `name` is none of the five.

    Notes
    -----
    The three MNISTs are read here, which spares the import of torchvision. The other two are unpacked into a temporary
    folder and read by torchvision: what is used is what was checked. Decoding the pets takes time.

    Examples
    --------
    >>> public("SVHN")
    Traceback (most recent call last):
    ValueError: name is 'SVHN', expected one of MNIST, FashionMNIST, KMNIST, CIFAR10, OxfordIIITPet
    """
    if name not in SOURCES:
        raise ValueError(f"name is {name!r}, expected one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = data_folder() if root is None else Path(root).expanduser()
    part = "" if not name.endswith("MNIST") else "train-" if train else "t10k-"
    files = [locate(name, file, folder, download) for file in source.files if file.startswith(part)]
    if part:
        images, labels = (_read_idx(file) for file in files)
        return Samples(name, {"image": images.unsqueeze(1), "label": labels.long()}, classes=source.classes)
    from torchvision.datasets.utils import extract_archive  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            extract_archive(file, Path(scratch) / source.folders[0])
        return _cifar10(scratch, train) if name == "CIFAR10" else _pets(scratch, train)


def data_folder() -> Path:
    """Name the folder of the public data sets: ``PYTORCH_COURSE_DATA``, or a cache folder of this user.

    Returns
    -------
    Path
        It need not exist yet.

    Examples
    --------
    >>> from unittest.mock import patch
    >>> with patch.dict(os.environ, PYTORCH_COURSE_DATA="my-data"):
    ...     print(data_folder())
    my-data
    """
    if named := os.environ.get("PYTORCH_COURSE_DATA"):
        return Path(named).expanduser()
    caches = {"win32": "AppData/Local", "darwin": "Library/Caches"}
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / caches.get(sys.platform, ".cache")
    return Path(cache) / "pytorch_course"


def _read_idx(path: Path) -> torch.Tensor:
    """Tensor of an IDX file: two zero bytes, type (8 is uint8), number of dimensions, sizes (big-endian), values."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        data = stream.read()
    dims = data[3]
    shape = np.frombuffer(data, ">u4", count=dims, offset=4).tolist()
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape).copy())


def _cifar10(folder: str, train: bool) -> Samples:
    from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

    data = CIFAR10(folder, train=train)
    columns = {
        "image": torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(),
        "label": torch.tensor(data.targets),
    }
    return Samples("CIFAR10", columns, classes=data.classes)


def _pets(folder: str, train: bool) -> Samples:
    from torchvision.datasets import OxfordIIITPet
    from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
    from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

    data = OxfordIIITPet(folder, split="trainval" if train else "test", target_types=["category", "segmentation"])
    images = torch.empty(len(data), 3, PET_SIZE, PET_SIZE, dtype=torch.uint8)
    masks = torch.empty(len(data), PET_SIZE, PET_SIZE, dtype=torch.uint8)
    labels = torch.empty(len(data), dtype=torch.int64)
    for row, (photograph, (label, trimap)) in enumerate(data):
        images[row] = F.resize(F.pil_to_tensor(photograph), [PET_SIZE, PET_SIZE])
        masks[row] = F.resize(F.pil_to_tensor(trimap), [PET_SIZE, PET_SIZE], InterpolationMode.NEAREST_EXACT)[0] - 1
        labels[row] = label
    return Samples("OxfordIIITPet", {"image": images, "mask": masks, "label": labels}, classes=data.classes)
