"""A lesson that offers a public data set runs on it, too: every path that a page offers is tried."""

import os
from pathlib import Path

import pytest

LESSONS = {"training/04_handwritten_digits": "MNIST"}


@pytest.mark.parametrize(("script", "name"), LESSONS.items(), ids=LESSONS)
def test_on_the_real_data(script, name, root, play):
    """BOOK_PUBLIC_DATA names a folder with the files; .ci/run sets it where it has them."""
    folder = os.environ.get("BOOK_PUBLIC_DATA")
    if folder is None:
        pytest.skip(f"BOOK_PUBLIC_DATA names no folder with {name}")
    assert Path(folder).is_dir(), f"BOOK_PUBLIC_DATA is {folder}, which is no folder"
    run = play(root / "gallery" / f"{script}.py", PYTORCH_COURSE_DATA=str(Path(folder).resolve()))
    assert run.returncode == 0, run.stderr
    assert f"{name} (" in run.stdout
