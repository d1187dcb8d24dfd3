"""Docstrings and topics: own text only, no near copies, the same in every process."""

import hashlib
import inspect
import os
import subprocess
import sys
from pydoc_data.topics import topics as pages

import pytest
import torch

from pytorch_course.datasets.samples import TextSamples
from pytorch_course.datasets.text import LIBRARIES, _texts, docstrings, fingerprint, topics


@pytest.fixture(scope="module")
def everything() -> TextSamples:
    return docstrings()


def runs(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}


def test_every_library_is_there(everything: TextSamples) -> None:
    assert everything.classes == tuple(LIBRARIES)
    assert everything.tensors[0].bincount().min() > 300
    for name, label in zip(everything.columns["object"], everything.tensors[0].tolist(), strict=True):
        assert name.split(".")[0] == everything.classes[label]


def test_texts_are_the_objects_own(everything: TextSamples) -> None:
    text, _, label = everything[everything.columns["object"].index("torch.matmul")]
    assert text == inspect.cleandoc(torch.matmul.__doc__)
    assert label == 0


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


def test_no_text_is_mostly_made_of_earlier_ones(everything: TextSamples) -> None:
    known: set[str] = set()
    for text in everything.columns["text"]:
        own = runs(text)
        assert len(own - known) >= len(own) / 2 > 0
        known |= own


def test_the_split_is_by_object(everything: TextSamples) -> None:
    train, test = docstrings(train=True), docstrings(train=False)
    assert not set(train.columns["object"]) & set(test.columns["object"])
    assert sorted(train.columns["text"] + test.columns["text"]) == sorted(everything.columns["text"])
    objects = len(set(everything.columns["object"]))
    assert 0.15 < len(set(test.columns["object"])) / objects < 0.25
    assert test.tensors[0].bincount().min() > 40


def test_the_order_of_packages_gives_the_labels() -> None:
    data = docstrings(["numpy", "torch"])
    assert data.classes == ("numpy", "torch")
    assert data.columns["object"][0].startswith("numpy.")


@pytest.mark.parametrize("packages", [[], ["tomch"], ["torch", "torch"], "torch"])
def test_bad_packages_are_named(packages: list[str]) -> None:
    with pytest.raises(ValueError, match="expected names out of torch, numpy"):
        docstrings(packages)


def test_another_process_collects_the_same() -> None:
    """Sets in another order, fewer modules loaded: none of it may show."""
    packages = ["matplotlib", "pandas", "numpy"]
    program = f"from pytorch_course.datasets.text import *; print(fingerprint(docstrings({packages})))"
    command, environment = [sys.executable, "-c", program], {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == fingerprint(docstrings(packages))


def test_topics_is_every_page_in_order() -> None:
    text = topics()
    assert len(text) == sum(len(page.strip()) + 2 for page in pages.values()) - 1
    assert text == topics()
    place = 0
    for name in sorted(pages):
        place = text.index(pages[name].strip(), place) + len(pages[name].strip())


def test_fingerprint_sees_every_column() -> None:
    assert fingerprint("ß") == hashlib.sha256(b"\xc3\x9f").hexdigest()
    base = TextSamples("t", {"text": ["a", "b"]}, {"label": torch.tensor([0, 1])})
    others = [
        TextSamples("t", {"text": ["a", "c"]}, {"label": torch.tensor([0, 1])}),
        TextSamples("t", {"text": ["a", "b"]}, {"label": torch.tensor([1, 0])}),
    ]
    assert fingerprint(base) == fingerprint(TextSamples("u", {"x": ["a", "b"]}, {"y": torch.tensor([0, 1])}))
    assert all(fingerprint(base) != fingerprint(other) for other in others)
