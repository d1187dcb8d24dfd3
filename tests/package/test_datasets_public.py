"""Public data sets: found, checked, read and fetched, without a network. Tiny files stand for the real ones."""

import gzip
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pytorch_course import datasets
from pytorch_course.datasets import DatasetError, public
from pytorch_course.datasets._public import SOURCES

MNISTS = ("MNIST", "FashionMNIST", "KMNIST")


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def trust(monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> None:
    """Let the tiny contents be what the set should hash to."""
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setitem(SOURCES, name, SOURCES[name]._replace(files=sums))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data, which does not exist yet."""
    monkeypatch.setenv("PYTORCH_COURSE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of the three MNISTs as they lie on disk: 5 training images, 3 test images."""
    rng, files = np.random.default_rng(0), {}
    for part, n in (("train", 5), ("t10k", 3)):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (n, 28, 28)))
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(np.arange(n))
    packed = {name: gzip.compress(content) for name, content in files.items()}
    trust(monkeypatch, "MNIST", files)
    for name in MNISTS[1:]:
        trust(monkeypatch, name, packed)
    return packed


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", MNISTS)
@pytest.mark.parametrize(("train", "n"), [(True, 5), (False, 3)])
def test_the_mnists_are_read_from_torchvisions_layout(tiny, folder: Path, name: str, train: bool, n: int) -> None:
    write(folder / name / "raw", tiny)
    data = public(name, train=train)
    images, labels = data.tensors
    pixels = gzip.decompress(tiny[f"{'train' if train else 't10k'}-images-idx3-ubyte.gz"])[16:]
    assert (images.shape, images.dtype, labels.dtype) == ((n, 1, 28, 28), torch.uint8, torch.int64)
    assert images.numpy().tobytes() == pixels
    assert labels.tolist() == list(range(n))
    assert len(data.classes) == 10
    assert repr(data).startswith(f"{name}: {n} samples")
    assert sorted(path.name for path in (folder / name / "raw").iterdir()) == sorted(tiny)  # nothing unpacked stays


@pytest.mark.parametrize("train", ["test", 1, None])
def test_mnist_is_found_in_a_folder_of_its_name_and_train_is_a_truth_value(tiny, folder: Path, train: object) -> None:
    write(folder / "mnist", tiny)
    assert len(public("MNIST")) == 5
    with pytest.raises(TypeError, match=f"train is {train!r}, expected True or False"):
        public("MNIST", train=train)


def test_a_missing_file_says_which_where_and_what_to_do(tiny, folder: Path) -> None:
    write(folder / "KMNIST" / "raw", {name: raw for name, raw in tiny.items() if "labels" not in name})
    with pytest.raises(DatasetError) as caught:
        public("KMNIST")
    place = folder / "KMNIST" / "raw"
    for part in (
        f"train-labels-idx1-ubyte.gz in {place}",
        'public("KMNIST", download=True)',
        "https://codh",
        "COURSE_DATA",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_absent_set_names_a_stand_in_that_exists_and_nothing_is_created(folder: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"is not here(.|\n)*download=True(.|\n)*https://(.|\n)*stand-in") as caught:
        public(name)
    function = re.search(r"stand-in pytorch_course\.datasets\.(\w+)", str(caught.value)).group(1)
    assert callable(getattr(datasets, function))
    assert not folder.exists()


def test_without_the_variable_it_is_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    monkeypatch.delenv("PYTORCH_COURSE_DATA")
    with pytest.raises(DatasetError, match=re.escape(str(pooch.os_cache("pytorch_course")))):
        public("KMNIST")


@pytest.mark.parametrize("name", MNISTS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
def test_a_damaged_file_is_refused(tiny, folder: Path, name: str, damage: str) -> None:
    path = write(folder / name / "raw", tiny) / "train-images-idx3-ubyte.gz"
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    path.write_bytes({"truncate": raw[:-40], "empty": b"", "text": b"<html>not found</html>"}.get(damage, raw))
    with pytest.raises(DatasetError) as caught:
        public(name, download=True)
    for part in (str(path), f"expected: {SOURCES[name].files[path.name]}", "found: "):
        assert part in str(caught.value)
    assert path.exists()  # only the reader deletes


def test_wrong_content_in_a_sound_archive_is_refused(tiny, folder: Path) -> None:
    zeros = idx(np.zeros((5, 28, 28)))
    write(folder / "MNIST" / "raw", {**tiny, "train-images-idx3-ubyte.gz": gzip.compress(zeros)})
    with pytest.raises(DatasetError, match=hashlib.sha256(zeros).hexdigest()):
        public("MNIST")


class Web(dict[str, bytes]):
    """What a server on this machine answers, by file name, and what was asked. Other names are not found."""

    asked: list[str]
    url: str


@pytest.fixture
def web(tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pages = Web(tiny)
    pages.asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rsplit("/", 1)[1]
            pages.asked.append(name)
            body = pages.get(name, b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body) + (9 if b"cut off" in body else 0)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        pages.url = f"http://127.0.0.1:{server.server_port}/"
        for name in MNISTS:
            monkeypatch.setitem(SOURCES, name, SOURCES[name]._replace(url=pages.url))
        yield pages
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", MNISTS)
def test_download_fetches_checks_and_keeps(web: Web, folder: Path, name: str) -> None:
    assert len(public(name, download=True)) == 5
    assert web.asked == list(web)
    assert sorted(path.name for path in (folder / name / "raw").iterdir()) == sorted(web)
    assert len(public(name, train=False)) == 3
    assert len(web.asked) == 4  # what is here is not fetched again


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (b"<html>captive portal</html>", "what came from http://.* is damaged"),
        (b"", "404"),
        (b"cut off", "is damaged"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(web: Web, folder: Path, page: bytes, problem: str) -> None:
    web["train-images-idx3-ubyte.gz"] = page
    with pytest.raises(DatasetError, match=problem) as caught:
        public("MNIST", download=True)
    assert f"{web.url}train-images-idx3-ubyte.gz" in str(caught.value)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_no_connection_and_a_folder_that_cannot_be_written(tiny, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(SOURCES, "MNIST", SOURCES["MNIST"]._replace(url="http://127.0.0.1:9/"))
    with pytest.raises(DatasetError, match=r"cannot fetch http://127\.0\.0\.1:9/train-images-idx3-ubyte\.gz into"):
        public("MNIST", download=True)
    shutil.rmtree(folder)
    folder.write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match="cannot fetch http"):
        public("MNIST", download=True)


def test_every_source_is_https_and_every_sum_a_sha256() -> None:
    sums = [value for source in SOURCES.values() for value in source.files.values()]
    assert all(len(value) == 64 and int(value, 16) for value in sums)
    assert len(set(sums)) == len(sums) == 15
    assert all(source.url.startswith("https://") and source.url.endswith("/") for source in SOURCES.values())


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.cifar as theirs

    rng = np.random.default_rng(0)
    pixels = {file: rng.integers(0, 256, (2, 3072), dtype=np.uint8) for file, _ in theirs.CIFAR10.train_list}
    pixels["test_batch"] = rng.integers(0, 256, (1, 3072), dtype=np.uint8)
    names = ["plane", "car"]
    entries = {file: {"data": data, "labels": [1] * len(data)} for file, data in pixels.items()}
    entries["batches.meta"] = {"label_names": names}
    members = {f"cifar-10-batches-py/{file}": pickle.dumps(entry) for file, entry in entries.items()}
    packed = archive(members)
    trust(monkeypatch, "CIFAR10", {"cifar-10-python.tar.gz": packed})
    monkeypatch.setattr(theirs, "check_integrity", lambda path, md5: Path(path).is_file())  # tiny files, other MD5
    write(folder, {"cifar-10-python.tar.gz": packed})
    images, labels = public("CIFAR10").tensors
    assert images.shape == (10, 3, 32, 32)
    assert images.numpy().tobytes() == b"".join(pixels[f"data_batch_{k}"].tobytes() for k in range(1, 6))
    assert labels.tolist() == [1] * 10
    test = public("CIFAR10", train=False)
    assert test.tensors[0].numpy().tobytes() == pixels["test_batch"].tobytes()
    assert test.classes == ("plane", "car")
    assert [path.name for path in folder.iterdir()] == ["cifar-10-python.tar.gz"]  # nothing unpacked stays


def test_a_pickle_that_was_not_checked_is_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    evil = archive({"cifar-10-batches-py/data_batch_1": pickle.dumps(Evil())})
    write(tmp_path / "data", {"cifar-10-python.tar.gz": evil})
    with pytest.raises(DatasetError, match="is damaged, or is another file"):
        public("CIFAR10")
    assert not marker.exists()


def picture(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def test_pets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colours = {"Abyssinian_1": (250, 10, 10), "pug_2": (10, 250, 10), "pug_3": (10, 10, 250)}
    photographs = {f"images/{pet}.jpg": picture(Image.new("RGB", (60, 90), c), "JPEG") for pet, c in colours.items()}
    trimap = Image.fromarray(np.repeat(np.array([1, 2, 3], np.uint8), 30)[:, None].repeat(60, 1))
    marks = {f"annotations/trimaps/{pet}.png": picture(trimap, "PNG") for pet in colours}
    lists = {
        "annotations/trainval.txt": b"Abyssinian_1 1 1 1\npug_2 2 2 1\n",
        "annotations/test.txt": b"pug_3 2 2 1\n",
    }
    packed = {"images.tar.gz": archive(photographs), "annotations.tar.gz": archive({**marks, **lists})}
    trust(monkeypatch, "OxfordIIITPet", packed)
    write(folder / "oxford-iiit-pet", packed)
    data = public("OxfordIIITPet")
    images, masks, labels = data.tensors
    assert (images.shape, masks.shape) == ((2, 3, 128, 128), (2, 128, 128))
    assert (images.dtype, masks.dtype, labels.tolist()) == (torch.uint8, torch.uint8, [0, 1])
    assert data.classes == ("Abyssinian", "Pug")
    assert (images[1].float().mean((1, 2)) - torch.tensor([10.0, 250.0, 10.0])).abs().max() < 6  # JPEG is lossy
    assert masks[0, [0, 64, 127], 5].tolist() == [0, 1, 2]
    assert len(public("OxfordIIITPet", train=False)) == 1
