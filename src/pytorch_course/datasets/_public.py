"""Public data sets for readers who are online: found or fetched, checked by SHA-256, then read by torchvision."""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pytorch_course.datasets._samples import DatasetError, Samples


class Source(NamedTuple):
    """Where the files of one set live, online and here, what their bytes hash to, and what to use instead."""

    url: str
    folder: str  # under the data folder, as torchvision lays it out
    files: Mapping[str, str]  # name: SHA-256
    stand_in: str


# MNIST circulates packed by different versions of gzip, so what is inside is hashed: measured, and the same sums are
# published widely. The others are sums of the archives as TensorFlow Datasets and Keras publish them.
_SUMS = """
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  MNIST/raw/train-images-idx3-ubyte.gz
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  MNIST/raw/train-labels-idx1-ubyte.gz
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  MNIST/raw/t10k-images-idx3-ubyte.gz
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  MNIST/raw/t10k-labels-idx1-ubyte.gz
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84  FashionMNIST/raw/train-images-idx3-ubyte.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845  FashionMNIST/raw/train-labels-idx1-ubyte.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073  FashionMNIST/raw/t10k-images-idx3-ubyte.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5  FashionMNIST/raw/t10k-labels-idx1-ubyte.gz
51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4  KMNIST/raw/train-images-idx3-ubyte.gz
e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17  KMNIST/raw/train-labels-idx1-ubyte.gz
edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5  KMNIST/raw/t10k-images-idx3-ubyte.gz
20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c  KMNIST/raw/t10k-labels-idx1-ubyte.gz
6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce  cifar-10-python.tar.gz
67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d  oxford-iiit-pet/images.tar.gz
52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91  oxford-iiit-pet/annotations.tar.gz
"""


def _source(url: str, folder: str, stand_in: str) -> Source:
    rows = [(*path.rpartition("/"), total) for total, path in map(str.split, _SUMS.strip().splitlines())]
    return Source(url, folder, {file: total for parent, _, file, total in rows if parent == folder}, stand_in)


SOURCES = {
    "MNIST": _source("https://ossci-datasets.s3.amazonaws.com/mnist/", "MNIST/raw", "glyphs"),
    "FashionMNIST": _source(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "FashionMNIST/raw",
        "glyphs",
    ),
    "KMNIST": _source("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "KMNIST/raw", "glyphs"),
    "CIFAR10": _source("https://www.cs.toronto.edu/~kriz/", "", "shapes"),
    "OxfordIIITPet": _source("https://thor.robots.ox.ac.uk/~vgg/data/pets/", "oxford-iiit-pet", "shapes"),
}


def public(name: str, *, train: bool = True, download: bool = False) -> Samples:
    """Read a public data set. It is never fetched unasked, never used unchecked and never replaced in silence.

    The folder that ``PYTORCH_COURSE_DATA`` names, or else a cache folder of this user, holds the archives as
    torchvision lays them out, such as ``MNIST/raw``, or those of MNIST in ``mnist``. They are unpacked into a temporary
    folder and read by torchvision: what is used is what was checked.

    Parameters
    ----------
    name : str
        ``MNIST``, ``FashionMNIST``, ``KMNIST``, ``CIFAR10`` or ``OxfordIIITPet``, else a ValueError.
    train, download : bool
        The training part or the test part, and whether to fetch what is missing.

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

    Examples
    --------
    >>> public("SVHN")
    Traceback (most recent call last):
    ValueError: name is 'SVHN', expected one of MNIST, FashionMNIST, KMNIST, CIFAR10, OxfordIIITPet
    """
    if name not in SOURCES:
        raise ValueError(f"name is {name!r}, expected one of {', '.join(SOURCES)}")
    if not isinstance(train, bool):
        raise TypeError(f"train is {train!r}, expected True or False")
    files = [_locate(name, file, download) for file in SOURCES[name].files]
    import torchvision  # type: ignore[import-untyped]
    from torchvision.datasets.utils import extract_archive  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, SOURCES[name].folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            extract_archive(file, folder)
        if name == "OxfordIIITPet":
            return _pets(scratch, train)
        data = getattr(torchvision.datasets, name)(scratch, train=train)
    images = torch.as_tensor(data.data)
    images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()
    return Samples(name, {"image": images, "label": torch.as_tensor(data.targets)}, classes=data.classes)


def _locate(name: str, file: str, download: bool) -> Path:
    import pooch  # type: ignore[import-untyped]

    source = SOURCES[name]
    root = Path(os.environ.get("PYTORCH_COURSE_DATA") or pooch.os_cache("pytorch_course")).expanduser()
    target = root / source.folder / file
    for path in filter(Path.is_file, (target, root / name.lower() / file)):
        _check(path, source, f"{path}", "Delete it, then fetch it with download=True.")
        return path
    if not download:
        raise DatasetError(
            f"{name} is not here: no file {file} in {target.parent}\n"
            f'Online: public("{name}", download=True) fetches it from {source.url}\n'
            "Already have it? Put it there, or let PYTORCH_COURSE_DATA name the folder that holds it.\n"
            f"Offline: use the stand-in pytorch_course.datasets.{source.stand_in}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Checked beside its place, then renamed: a broken download leaves nothing behind.
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            path = Path(scratch, file)
            torch.hub.download_url_to_file(source.url + file, f"{path}")
            _check(path, source, f"what came from {source.url + file}", "Nothing was kept. Try again later.")
            path.replace(target)
    except OSError as error:
        raise DatasetError(f"cannot fetch {source.url + file} into {target.parent}: {error}") from error
    return target


def _check(path: Path, source: Source, shown: str, advice: str) -> None:
    inside = source.folder == "MNIST/raw"
    try:
        with gzip.open(path) if inside else path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        found = f"none, as it does not unpack ({error})"
    if found != source.files[path.name]:
        sums = f"SHA-256{' inside' * inside}\n  expected: {source.files[path.name]}\n  found:    {found}"
        raise DatasetError(f"{shown} is damaged, or is another file\n{sums}\n{advice}")


def _pets(folder: str, train: bool) -> Samples:
    from torchvision.datasets import OxfordIIITPet  # type: ignore[import-untyped]
    from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
    from torchvision.transforms.v2.functional import pil_to_tensor, resize  # type: ignore[import-untyped]

    data: Any = OxfordIIITPet(folder, split="trainval" if train else "test", target_types=["category", "segmentation"])
    nearest = InterpolationMode.NEAREST_EXACT
    columns: dict[str, list[Any]] = {"image": [], "mask": [], "label": []}
    for photograph, (label, trimap) in data:
        columns["image"].append(resize(pil_to_tensor(photograph), [128, 128]))
        columns["mask"].append(resize(pil_to_tensor(trimap), [128, 128], nearest)[0] - 1)
        columns["label"].append(torch.tensor(label))
    return Samples("OxfordIIITPet", {k: torch.stack(v) for k, v in columns.items()}, classes=data.classes)
