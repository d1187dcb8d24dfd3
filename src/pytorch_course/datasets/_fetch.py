"""Find, fetch and check the files of the public data sets."""

import gzip
import hashlib
import shutil
import tempfile
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from pytorch_course.datasets import DatasetError
from pytorch_course.datasets._sources import SOURCES


def locate(name: str, file: str, root: Path, download: bool) -> Path:
    """Find the file of the set `name` below `root`, or fetch it if it is missing and may be fetched, and check it.

    Raises :class:`pytorch_course.datasets.DatasetError` if there is no such file or its SHA-256 is wrong.
    """
    source = SOURCES[name]
    packed = file if file.endswith(".gz") else f"{file}.gz"
    for folder in source.folders:
        for path in (root / folder / packed, root / folder / file):
            if path.is_file():
                _check(path, file, source.files[file], f"{path}", "Delete it, then fetch it with download=True.")
                return path
    target = root / source.folders[0] / packed
    if not download:
        raise DatasetError(
            f"{name} is not here: no file {packed} in {target.parent}\n"
            f'Online: public("{name}", download=True) fetches it from {source.url}\n'
            "Already have it? Put it there, or let PYTORCH_COURSE_DATA name the folder that holds it.\n"
            f"Offline: use the stand-in pytorch_course.{source.stand_in}"
        )
    _fetch(source.url + packed, target, file, source.files[file])
    return target


def _check(path: Path, file: str, expected: str, shown: str, advice: str) -> None:
    try:
        unpack = path.suffix == ".gz" and not file.endswith(".gz")
        with gzip.open(path) if unpack else path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        found = f"none, as it does not unpack ({error})"
    if found != expected:
        raise DatasetError(
            f"{shown} is damaged, or is another file\n"
            f"SHA-256 of {file}\n  expected: {expected}\n  found:    {found}\n{advice}"
        )


def _fetch(url: str, target: Path, file: str, expected: str) -> None:
    """Download beside the target, check, then rename. So a broken download leaves nothing behind."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            path = Path(scratch) / target.name
            with _https().open(url, timeout=60) as answer, path.open("wb") as out:
                shutil.copyfileobj(answer, out)
            _check(path, file, expected, f"what came from {url}", "Nothing was kept. Try again later.")
            path.replace(target)
    except (OSError, HTTPException) as error:
        raise DatasetError(f"cannot fetch {url} into {target.parent}: {error}") from error


def _https() -> urllib.request.OpenerDirector:
    """Opener without a handler for http. So not even a redirect can leave https; torchvision's own download can."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
