"""Docstrings and topics: own text only, no near copies, the same in every process."""

import hashlib
import inspect
import os
import subprocess
import sys
from pydoc_data.topics import topics as pages

import pytest
import torch

from pytorch_course.datasets import docstrings, topics
from pytorch_course.datasets._text import LIBRARIES, _texts, _walk


@pytest.fixture(scope="module")
def everything() -> list[tuple[str, int]]:
    return docstrings()


def runs(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}


def test_every_library_is_there(everything: list[tuple[str, int]]) -> None:
    counts = [sum(label == k for _, label in everything) for k in range(len(LIBRARIES))]
    assert min(counts) > 300
    assert (inspect.cleandoc(torch.matmul.__doc__), list(LIBRARIES).index("torch")) in everything


class Base:
    """Base."""

    def old(self) -> None:
        """Inherited."""

    def redone(self) -> None:
        """Documented in the base only."""


class Child(Base):
    """Child.

    Its second paragraph is dedented.
    """

    def redone(self) -> None: ...

    def new(self) -> None:
        """New."""

    @property
    def size(self) -> int:
        """Size."""
        return 0

    @staticmethod
    def make() -> None:
        """Make."""

    @classmethod
    def build(cls) -> None:
        """Build."""

    def _private(self) -> None:
        """Private."""

    constant = 3
    Inner = Base


def test_inherited_private_and_undocumented_members_are_left_out() -> None:
    expected = ["Child.\n\nIts second paragraph is dedented.", "Build.", "Make.", "New.", "Size."]
    assert list(_texts(Child)) == expected


def test_no_text_is_mostly_made_of_earlier_ones(everything: list[tuple[str, int]]) -> None:
    known: set[str] = set()
    for text, _ in everything:
        own = runs(text)
        assert len(own - known) >= len(own) / 2 > 0
        known |= own


def test_the_split_is_by_object(everything: list[tuple[str, int]]) -> None:
    train, test = docstrings(train=True), docstrings(train=False)
    assert sorted(train + test) == sorted(everything)
    assert 0.15 < len(test) / len(everything) < 0.25
    names: dict[str, set[str]] = {}
    for package in LIBRARIES:
        for name, text in _walk(package):
            names.setdefault(text, set()).add(name)
    objects = [{name for text, _ in part if len(names[text]) == 1 for name in names[text]} for part in (train, test)]
    assert min(map(len, objects)) > 100
    assert not objects[0] & objects[1]


def test_the_order_of_packages_gives_the_labels() -> None:
    both, alone = docstrings(["numpy", "torch"]), docstrings(["numpy"])
    assert [text for text, label in both if label == 0] == [text for text, _ in alone]


@pytest.mark.parametrize("packages", [[], ["tomch"], ["torch", "torch"], "torch"])
def test_bad_packages_are_named(packages: list[str]) -> None:
    with pytest.raises(ValueError, match="expected names out of torch, numpy"):
        docstrings(packages)


def test_another_process_collects_the_same() -> None:
    """Sets in another order, fewer modules loaded: none of it may show."""
    packages = ["matplotlib", "pandas", "numpy"]
    program = (
        "import hashlib; from pytorch_course.datasets import docstrings; "
        f"print(hashlib.sha256(repr(docstrings({packages})).encode()).hexdigest())"
    )
    command, environment = [sys.executable, "-c", program], {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == hashlib.sha256(repr(docstrings(packages)).encode()).hexdigest()


def test_topics_is_every_page_in_order() -> None:
    text = topics()
    assert len(text) == sum(len(page.strip()) + 2 for page in pages.values()) - 1
    assert text == topics()
    place = 0
    for name in sorted(pages):
        place = text.index(pages[name].strip(), place) + len(pages[name].strip())
