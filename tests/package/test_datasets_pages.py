"""Pages: what is said to be on a page is what its PDF shows, and any other PDF can be read as well."""

import io
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pytest
import torch

from pytorch_course.datasets import REGIONS, DatasetError, page, pages, render
from pytorch_course.datasets._pages import KINDS


def ends_of(ink: torch.Tensor) -> list[int]:
    """Left, top, right, bottom of what is not white, the last two exclusive."""
    y, x = ink.nonzero().T
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_all_ink_lies_in_regions_and_fills_their_boxes(kind: str) -> None:
    for index in range(8):
        drawn = page(index, seed=1, kind=kind)
        ink = render(drawn.pdf, dpi=144)[0][0] < 250  # so a pixel is half a point
        for _, box in drawn.regions:
            left, top, right, bottom = (round(2 * end) for end in box)
            region = (slice(top - 3, bottom + 3), slice(left - 3, right + 3))  # the next region is further away
            for found, end, start in zip(ends_of(ink[region]), box, 2 * (left - 3, top - 3), strict=True):
                assert abs(found + start - 2 * end) <= 1.5, (index, box)
            ink[region] = False
        assert not ink.any()


def test_the_mask_covers_the_ink() -> None:
    images, masks, *_ = pages(100, seed=2).tensors
    outside = images[:, 0][masks == 0]
    assert outside.min() >= 170  # an edge is drawn up to a third of a pixel further out
    assert (outside < 250).float().mean() <= 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_regions_keep_apart_and_on_the_page(kind: str) -> None:
    for index in range(60):
        drawn = page(index, seed=2, kind=kind)
        assert len(drawn.regions) <= 24
        for k, (_, (left, top, right, bottom)) in enumerate(drawn.regions):
            assert 20 < left < right < drawn.width - 20
            assert 15 < top < bottom < drawn.height - 15
            for _, (left2, top2, right2, bottom2) in drawn.regions[:k]:
                gap = max(left - right2, left2 - right, top - bottom2, top2 - bottom)
                assert gap * 64 / drawn.height >= 1  # so that no pixel touches two, on an image of 64


def test_the_file_says_nothing_of_when_and_where_it_was_made() -> None:
    program = "import zlib; from pytorch_course.datasets import page; print(zlib.crc32(page(3).pdf))"
    environment = {**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
    assert int(done.stdout) == zlib.crc32(page(3).pdf)


def test_an_invoice_says_its_facts_where_they_are_and_adds_up() -> None:
    for index in range(40):
        drawn = page(index, kind="invoice")
        assert set(drawn.facts) == {"number", "date", "total"}
        with pypdfium2.PdfDocument(drawn.pdf) as document:
            text = document[0].get_textpage()
            for value, (left, top, right, bottom) in drawn.facts.values():
                ends = (left - 1, drawn.height - bottom - 1, right + 1, drawn.height - top + 1)
                assert text.get_text_bounded(*ends).strip() == value
            lines = text.get_text_range().splitlines()
        amounts = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("Subtotal", "VAT", "Total"))}
        cents = {name: round(100 * float(amount.replace(",", ""))) for name, amount in amounts.items()}
        assert cents["Subtotal"] + cents["VAT"] == cents["Total"]
        assert amounts["Total"] == drawn.facts["total"][0]


def test_a_prefix_does_not_depend_on_n() -> None:
    for short, long in zip(pages(3, seed=5, size=70).tensors, pages(52, seed=5, size=70).tensors, strict=True):
        assert torch.equal(short, long[:3])


def test_the_columns_are_those_of_the_single_pages() -> None:
    data = pages(16, seed=6)
    images, masks, boxes, regions, counts, labels = data.tensors
    assert (images.shape, images.dtype) == ((16, 1, 128, 128), torch.uint8)
    assert (masks.shape, masks.dtype, boxes.shape) == ((16, 128, 128), torch.uint8, (16, 24, 4))
    assert data.classes == KINDS
    assert set(labels.tolist()) == set(range(len(KINDS)))
    for i in range(16):
        drawn, count = page(i, seed=6), int(counts[i])
        scale = 128 / max(drawn.width, drawn.height)
        assert KINDS[labels[i]] == drawn.kind
        assert torch.equal(images[i], render(drawn.pdf)[0])
        assert [REGIONS[k] for k in regions[i, :count]] == [label for label, _ in drawn.regions]
        torch.testing.assert_close(boxes[i, :count], scale * torch.tensor([box for _, box in drawn.regions]))
        assert not boxes[i, count:].any() and not regions[i, count:].any()
        mask = torch.zeros_like(masks[i])
        for (left, top, right, bottom), label in zip(boxes[i, :count].tolist(), regions[i, :count], strict=True):
            pixel = torch.arange(128)
            rows, columns = (pixel + 1 > top) & (pixel < bottom), (pixel + 1 > left) & (pixel < right)
            mask[rows[:, None] & columns] = label.to(torch.uint8)
        assert torch.equal(mask, masks[i])


def test_a_page_depends_on_its_arguments_only() -> None:
    torch.manual_seed(0)
    first = page(7, seed=3)
    assert page(7, seed=3) == first
    assert page(7, seed=4).pdf != first.pdf
    assert page(8, seed=3).pdf != first.pdf
    assert page(7, seed=3, kind=first.kind) == first


def test_every_label_occurs() -> None:
    assert {label for i in range(60) for label, _ in page(i, seed=9).regions} == set(REGIONS[1:])


def stranger(*sizes: tuple[float, float]) -> bytes:
    """A PDF by Matplotlib, each page with a black quarter at the top left."""
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    file = io.BytesIO()
    with PdfPages(file) as book:
        for size in sizes:
            figure = Figure(figsize=size)
            figure.add_artist(Rectangle((0, 0.5), 0.5, 0.5, color="black"))
            book.savefig(figure)
    return file.getvalue()


def test_any_pdf_can_be_read(tmp_path: Path) -> None:
    pdf = stranger((4, 8), (8, 4))
    (tmp_path / "two.pdf").write_bytes(pdf)
    for source in (pdf, tmp_path / "two.pdf", str(tmp_path / "two.pdf")):
        tall, wide = render(source, size=64)
        assert tall.shape == wide.shape == (1, 64, 64)
        black = torch.zeros(64, 64, dtype=torch.bool)
        black[:32, :16] = True
        assert torch.equal(tall[0] < 128, black)
        assert torch.equal(wide[0] < 128, black.T)
        assert tall[0][black].max() == 0 and tall[0, 34:].min() == tall[0, :, 18:].min() == 255
    assert [tuple(image.shape) for image in render(pdf, dpi=30)] == [(1, 240, 120), (1, 120, 240)]


def test_a_turned_page_is_read_as_it_is_shown() -> None:
    file = io.BytesIO()
    with pypdfium2.PdfDocument(stranger((4, 8))) as document:
        document[0].set_rotation(90)
        document.save(file)
    image = render(file.getvalue(), size=64)[0][0]
    assert ends_of(image < 128) == [32, 0, 64, 16]


def locked() -> bytes:
    """A PDF that asks for a password nobody knows."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    Canvas(file, encrypt="secret").save()
    return file.getvalue()


def no_pages() -> bytes:
    file = io.BytesIO()
    with pypdfium2.PdfDocument.new() as document:
        document.save(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("pdf", "dpi", "message"),
    [
        (b"", None, "cannot read the PDF of 0 bytes: it is damaged, .*format"),
        (page(0).pdf[:3000], None, "cannot read the PDF of 3000 bytes"),
        (locked(), None, r"locked by a password \(.*Incorrect password"),
        (no_pages(), None, "has no pages"),
        ("no-such.pdf", None, "no-such.pdf is no file"),
        (page(0).pdf, 3000, r"the PDF of \d+ bytes would have [\d,]+ pixels"),
        (stranger(*[(8, 8)] * 20), 300, r"would have 115,200,000 pixels"),
    ],
)
def test_what_cannot_be_read_says_why(pdf: bytes | str | Path, dpi: float | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        render(pdf, dpi=dpi)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: page(0, kind="poster"), "kind is 'poster', expected one of letter, invoice"),
        (lambda: pages(3, size=63), "size is 63"),
        (lambda: pages(-1), "n is -1"),
        (lambda: render(b"", dpi=0), "dpi is 0"),
        (lambda: render(b"", size=0), "size is 0"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
