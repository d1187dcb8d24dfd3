"""Public data sets: found, checked, read and fetched, without a network. Tiny files stand for the real ones."""

import dataclasses
import gzip
import hashlib
import importlib
import io
import os
import pickle
import re
import struct
import sys
import tarfile
import threading
import urllib.error
import urllib.request
import urllib.response
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pytorch_course.datasets import DatasetError, _fetch, _sources
from pytorch_course.datasets.public import data_folder, public

MNISTS = ("MNIST", "FashionMNIST", "KMNIST")
BESIDE = Path(__file__).parents[3] / "shared" / "data" / "mnist"


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def trust(monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> None:
    """Let the tiny contents be what the set should hash to."""
    sums = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setitem(_sources.SOURCES, name, dataclasses.replace(_sources.SOURCES[name], files=sums))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of the three MNISTs as they lie on disk: 5 training images, 3 test images."""
    rng, files = np.random.default_rng(0), {}
    for part, n in (("train", 5), ("t10k", 3)):
        files[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = idx(np.arange(n))
    packed = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
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
def test_the_mnists_are_read_from_torchvisions_layout(tiny, tmp_path: Path, name: str, train: bool, n: int) -> None:
    write(tmp_path / name / "raw", tiny)
    data = public(name, train=train, root=tmp_path)
    images, labels = data.tensors
    part = "train" if train else "t10k"
    pixels = gzip.decompress(tiny[f"{part}-images-idx3-ubyte.gz"])[16:]
    assert images.shape == (n, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert images.numpy().tobytes() == pixels
    assert labels.dtype == torch.int64
    assert labels.tolist() == list(range(n))
    assert len(data.classes) == 10
    assert repr(data).startswith(f"{name}: {n} samples")


@pytest.mark.parametrize("layout", ["MNIST/raw", "mnist", "."])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist_is_found_in_three_layouts_packed_or_not(tiny, tmp_path: Path, layout: str, packed: bool) -> None:
    files = tiny if packed else {name.removesuffix(".gz"): gzip.decompress(raw) for name, raw in tiny.items()}
    write(tmp_path / layout, files)
    assert len(public("MNIST", root=tmp_path)) == 5


def test_only_mnist_is_taken_from_a_flat_folder(tiny, tmp_path: Path) -> None:
    write(tmp_path, tiny)  # the other sets use the same file names
    with pytest.raises(DatasetError, match="KMNIST is not here"):
        public("KMNIST", root=tmp_path)


def test_the_agreement_with_torchvision(tiny, tmp_path: Path) -> None:
    from torchvision.datasets import MNIST

    write(tmp_path / "MNIST" / "raw", {name.removesuffix(".gz"): gzip.decompress(raw) for name, raw in tiny.items()})
    theirs = MNIST(str(tmp_path))
    images, labels = public("MNIST", root=tmp_path).tensors
    assert torch.equal(images[:, 0], theirs.data)
    assert torch.equal(labels, theirs.targets)


def test_a_missing_file_says_which_where_and_what_to_do(tiny, tmp_path: Path) -> None:
    write(tmp_path / "KMNIST" / "raw", {name: raw for name, raw in tiny.items() if "labels" not in name})
    with pytest.raises(DatasetError) as caught:
        public("KMNIST", root=tmp_path)
    message = str(caught.value)
    assert f"no file train-labels-idx1-ubyte.gz in {tmp_path / 'KMNIST' / 'raw'}" in message
    assert 'public("KMNIST", download=True)' in message
    assert "https://codh.rois.ac.jp" in message
    assert "PYTORCH_COURSE_DATA" in message
    assert "stand-in pytorch_course.datasets.glyphs.glyphs(" in message


@pytest.mark.parametrize("name", sorted(_sources.SOURCES))
def test_every_absent_set_names_an_alternative_and_nothing_is_created(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"is not here(.|\n)*download=True(.|\n)*https://(.|\n)*stand-in"):
        public(name, root=tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MNISTS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "text"])
@pytest.mark.parametrize("download", [True, False])
def test_a_damaged_file_is_refused(tiny, tmp_path: Path, name: str, damage: str, download: bool) -> None:
    folder = write(tmp_path / name / "raw", tiny)
    path = folder / "train-images-idx3-ubyte.gz"
    raw = bytearray(path.read_bytes())
    if damage == "flip":
        raw[len(raw) // 2] ^= 1
    path.write_bytes({"truncate": raw[:-40], "empty": b"", "text": b"<html>not found</html>"}.get(damage, raw))
    with pytest.raises(DatasetError) as caught:
        public(name, root=tmp_path, download=download)
    message, file = str(caught.value), path.name if name != "MNIST" else path.stem
    assert str(path) in message
    assert f"expected: {_sources.SOURCES[name].files[file]}" in message
    assert "found: " in message
    assert path.exists()  # only the reader deletes
    assert len(public(name, train=False, root=tmp_path)) == 3  # the test part is whole


def test_wrong_content_in_a_sound_archive_is_refused(tiny, tmp_path: Path) -> None:
    zeros = gzip.compress(idx(np.zeros((5, 28, 28))))
    write(tmp_path / "MNIST" / "raw", {**tiny, "train-images-idx3-ubyte.gz": zeros})
    with pytest.raises(DatasetError, match=hashlib.sha256(idx(np.zeros((5, 28, 28)))).hexdigest()):
        public("MNIST", root=tmp_path)


def test_the_environment_names_the_folder(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_COURSE_DATA", str(tmp_path))
    write(tmp_path / "MNIST" / "raw", tiny)
    assert data_folder() == tmp_path
    assert len(public("MNIST")) == 5


def test_without_the_variable_it_is_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTORCH_COURSE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "pytorch_course"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, cache in (("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")):
        monkeypatch.setattr(sys, "platform", platform)
        assert data_folder() == tmp_path / cache / "pytorch_course"


def real_mnist() -> Path | None:
    for folder in (os.environ.get("PYTORCH_COURSE_DATA"), BESIDE):
        if folder and list(Path(folder).rglob("t10k-images-idx3-ubyte*")):
            return Path(folder)
    return None


@pytest.mark.skipif(real_mnist() is None, reason="no MNIST in PYTORCH_COURSE_DATA or ../shared/data/mnist")
def test_real_mnist() -> None:
    train, test = (public("MNIST", train=part, root=real_mnist()) for part in (True, False))
    assert train.tensors[0].shape == (60_000, 1, 28, 28)
    assert train.tensors[1].bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.tensors[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert round(train.tensors[0].float().mean().item() / 255, 4) == 0.1307


class Web:
    """Answers https requests from a dictionary, in place of the network, and notes what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pages: dict[str, bytes | str | Exception]) -> None:
        self.asked: list[str] = []

        def https_open(handler: object, request: urllib.request.Request) -> urllib.response.addinfourl:
            self.asked.append(request.full_url)
            page = pages.get(request.full_url.rsplit("/", 1)[1], b"")
            if isinstance(page, Exception):
                raise page
            headers = Message()
            if isinstance(page, str):
                headers["Location"] = page
            code = 302 if isinstance(page, str) else 200 if page else 404
            body = io.BytesIO(page if isinstance(page, bytes) else b"")
            answer = urllib.response.addinfourl(body, headers, request.full_url, code)
            answer.msg = "Not Found" if code == 404 else "OK"  # type: ignore[attr-defined]
            return answer

        monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", https_open)


@pytest.mark.parametrize("name", MNISTS)
def test_download_fetches_checks_and_keeps(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    web = Web(monkeypatch, dict(tiny))
    assert len(public(name, root=tmp_path, download=True)) == 5
    assert [url.rsplit("/", 1)[1] for url in web.asked] == list(tiny)[:2]
    assert all(url.startswith("https://") for url in web.asked)
    assert sorted(path.name for path in (tmp_path / name / "raw").iterdir()) == sorted(list(tiny)[:2])
    assert len(public(name, root=tmp_path, download=True)) == 5
    assert len(web.asked) == 2  # what is here is not fetched again


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        (b"<html>captive portal</html>", "what came from https://.* is damaged"),
        (b"", "HTTP Error 404"),
        (urllib.error.URLError("no route to host"), "no route to host"),
        (TimeoutError("timed out"), "timed out"),
        ("http://example.org/train-images-idx3-ubyte.gz", "HTTP Error 302|unknown url type: http"),
        ("file:///etc/hosts", "not allowed|unknown url type"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(tiny, tmp_path: Path, monkeypatch, page, problem: str) -> None:
    Web(monkeypatch, {**tiny, "train-images-idx3-ubyte.gz": page})
    with pytest.raises(DatasetError, match=problem) as caught:
        public("MNIST", root=tmp_path, download=True)
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz" in str(caught.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Web(monkeypatch, dict(tiny))
    (tmp_path / "MNIST").write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match="cannot fetch https://"):
        public("MNIST", root=tmp_path, download=True)


def test_the_opener_speaks_https_only() -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # pragma: no cover
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(urllib.error.URLError, match="unknown url type: http"):
                _fetch._https().open(f"http://127.0.0.1:{server.server_port}/")
        finally:
            server.shutdown()
            thread.join()
    with pytest.raises(urllib.error.URLError, match="unknown url type: file"):
        _fetch._https().open(Path(__file__).as_uri())


def test_every_source_is_https_and_every_sum_a_sha256() -> None:
    sums = [value for source in _sources.SOURCES.values() for value in source.files.values()]
    assert all(len(value) == 64 and int(value, 16) for value in sums)
    assert len(set(sums)) == len(sums) == 15
    assert all(source.url.startswith("https://") and source.url.endswith("/") for source in _sources.SOURCES.values())


def test_every_stand_in_exists() -> None:
    for source in _sources.SOURCES.values():
        module, function = re.match(r"datasets\.(\w+)\.(\w+)\(", source.stand_in).groups()
        assert callable(getattr(importlib.import_module(f"pytorch_course.datasets.{module}"), function))


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    write(tmp_path, {"cifar-10-python.tar.gz": packed})
    images, labels = public("CIFAR10", root=tmp_path).tensors
    assert images.shape == (10, 3, 32, 32)
    assert images.numpy().tobytes() == b"".join(pixels[f"data_batch_{k}"].tobytes() for k in range(1, 6))
    assert labels.tolist() == [1] * 10
    test = public("CIFAR10", train=False, root=tmp_path)
    assert test.tensors[0].numpy().tobytes() == pixels["test_batch"].tobytes()
    assert test.classes == ("plane", "car")
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]  # nothing unpacked stays


def test_a_pickle_that_was_not_checked_is_never_opened(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    evil = archive({"cifar-10-batches-py/data_batch_1": pickle.dumps(Evil())})
    write(tmp_path / "data", {"cifar-10-python.tar.gz": evil})
    with pytest.raises(DatasetError, match="is damaged, or is another file"):
        public("CIFAR10", root=tmp_path / "data")
    assert not marker.exists()


def picture(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def test_pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    write(tmp_path / "oxford-iiit-pet", packed)
    data = public("OxfordIIITPet", root=tmp_path)
    images, masks, labels = data.tensors
    assert images.shape == (2, 3, 128, 128)
    assert masks.shape == (2, 128, 128)
    assert (images.dtype, masks.dtype, labels.tolist()) == (torch.uint8, torch.uint8, [0, 1])
    assert data.classes == ("Abyssinian", "Pug")
    assert (images[1].float().mean((1, 2)) - torch.tensor([10.0, 250.0, 10.0])).abs().max() < 6  # JPEG is lossy
    assert masks[0, [0, 64, 127], 5].tolist() == [0, 1, 2]
    assert len(public("OxfordIIITPet", train=False, root=tmp_path)) == 1
