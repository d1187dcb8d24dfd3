"""Pages: what is said to be on a page is what its PDF shows, and any other PDF can be read as well."""

import io
import re
from pathlib import Path

import pypdfium2
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytorch_course.datasets import DatasetError
from pytorch_course.datasets.pages import (
    KINDS,
    MAX_REGIONS,
    REGIONS,
    _compose,
    _write,
    page,
    pages,
    render,
)

SHEETS = [(kind, index) for kind in KINDS for index in range(3)]


def ends_of(ink: torch.Tensor) -> list[int]:
    """Left, top, right, bottom of what is not white, the last two exclusive."""
    y, x = ink.nonzero().T
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_drawn_alone_fills_its_box(kind: str) -> None:
    scale = 2  # at 144 dpi, so a pixel is half a point
    for index in range(6):
        _, sheet = _compose(index, 1, kind)
        for region in sheet.regions:
            alone = render(_write(sheet, [region]), dpi=72 * scale)[0][0]
            for found, end in zip(ends_of(alone < 250), region.box, strict=True):
                assert abs(found - scale * end) <= 1.5, (kind, index, region.label)


@pytest.mark.parametrize("kind", KINDS)
def test_every_point_of_ink_belongs_to_a_region(kind: str) -> None:
    for index in range(8):
        drawn = page(index, seed=2, kind=kind)
        ink = render(drawn.pdf, dpi=144)[0][0] < 250
        assert ink.any()
        for _, box in drawn.regions:
            left, top, right, bottom = (round(2 * end) for end in box)
            ink[top - 1 : bottom + 1, left - 1 : right + 1] = False
        assert not ink.any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_covers_the_ink_and_regions_keep_apart(kind: str) -> None:
    for index in range(40):
        drawn = page(index, seed=2, kind=kind)
        outside = render(drawn.pdf)[0][0][drawn.mask() == 0]
        assert outside.min() >= 170  # an edge is drawn up to a third of a pixel further out
        assert (outside < 250).float().mean() <= 0.02
        small = 64 / max(drawn.width, drawn.height)
        for k, (_, (left, top, right, bottom)) in enumerate(drawn.regions):
            assert 20 < left < right < drawn.width - 20
            assert 15 < top < bottom < drawn.height - 15
            for _, (left2, top2, right2, bottom2) in drawn.regions[:k]:
                gap = max(left - right2, left2 - right, top - bottom2, top2 - bottom)
                assert gap * small >= 1  # so that no pixel touches two


@pytest.mark.parametrize(("kind", "index"), SHEETS)
def test_the_file_is_well_formed(kind: str, index: int) -> None:
    pdf = page(index, kind=kind).pdf
    assert b"CreationDate" not in pdf and b"/ID" not in pdf
    start = int(pdf.split(b"startxref\n")[1].split(b"\n")[0])
    assert pdf[start:].startswith(b"xref\n0 11\n")
    offsets = re.findall(rb"(\d{10}) 00000 n \n", pdf)
    assert len(offsets) == 10
    for number, offset in enumerate(offsets, 1):
        assert pdf[int(offset) :].startswith(b"%d 0 obj\n" % number)
    for length, data in re.findall(rb"/Length (\d+) >>\nstream\n(.*?)\nendstream", pdf, re.DOTALL):
        assert len(data) == int(length)


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
        subtotal, tax, total = (
            round(100 * float(amounts[name].replace(",", ""))) for name in ("Subtotal", "VAT", "Total")
        )
        assert subtotal + tax == total
        assert amounts["Total"] == drawn.facts["total"][0]


@settings(deadline=None, derandomize=True, max_examples=8)
@given(st.integers(0, 12), st.integers(0, 12), st.integers(-3, 2**40), st.integers(64, 90))
def test_a_prefix_does_not_depend_on_n(few: int, many: int, seed: int, size: int) -> None:
    few, many = sorted((few, many))
    for short, long in zip(
        pages(few, seed=seed, size=size).tensors, pages(many, seed=seed, size=size).tensors, strict=True
    ):
        assert torch.equal(short, long[:few])


def test_the_columns_are_those_of_the_single_pages() -> None:
    data = pages(16, seed=5)
    images, masks, boxes, regions, counts, labels = data.tensors
    assert images.shape == (16, 1, 128, 128) and images.dtype == torch.uint8
    assert masks.shape == (16, 128, 128) and masks.dtype == torch.uint8
    assert boxes.shape == (16, MAX_REGIONS, 4)
    assert data.classes == KINDS
    assert set(labels.tolist()) == set(range(len(KINDS)))
    for i in range(16):
        drawn, count = page(i, seed=5), int(counts[i])
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
        assert (mask != masks[i]).sum() == 0


def test_a_page_depends_on_its_arguments_only() -> None:
    torch.manual_seed(0)
    first = page(7, seed=3)
    assert page(7, seed=3) == first
    assert page(7, seed=4).pdf != first.pdf
    assert page(8, seed=3).pdf != first.pdf
    assert page(7, seed=3, kind=first.kind) == first


def test_no_kind_runs_out_of_rows() -> None:
    counts = {kind: max(len(_compose(i, 9, kind)[1].regions) for i in range(60)) for kind in KINDS}
    assert max(counts.values()) <= MAX_REGIONS
    seen = {region.label for i in range(60) for region in _compose(i, 9, None)[1].regions}
    assert seen == set(REGIONS[1:])


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
    lock = f"/Filter /Standard /V 1 /R 2 /P -4 /O <{'11' * 32}> /U <{'22' * 32}>"
    trailer = f"trailer\n<< /Root 1 0 R /Encrypt << {lock} >> /ID [<{'33' * 16}> <{'33' * 16}>]"
    return page(0).pdf.replace(b"trailer\n<< /Root 1 0 R", trailer.encode()).replace(b"trailer\n<<", trailer.encode())


def no_pages() -> bytes:
    file = io.BytesIO()
    with pypdfium2.PdfDocument.new() as document:
        document.save(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("pdf", "dpi", "message"),
    [
        (b"", None, "cannot read the PDF of 0 bytes: it is damaged, .*format"),
        (b"Dear Sir or Madam", None, "cannot read the PDF of 17 bytes: .*format"),
        (page(0).pdf[:3000], None, "cannot read the PDF of 3000 bytes"),
        (locked(), None, r"locked by a password \(.*Incorrect password"),
        (no_pages(), None, "has no pages"),
        (Path("no-such.pdf"), None, "no-such.pdf is no file"),
        ("no-such.pdf", None, "no-such.pdf is no file"),
        (page(0).pdf, 3000, r"page 1 of the PDF of \d+ bytes would have [\d,]+ pixels"),
    ],
)
def test_what_cannot_be_read_says_why(pdf: bytes | str | Path, dpi: float | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        render(pdf, dpi=dpi)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="kind is 'poster', expected one of letter, invoice"):
        page(0, kind="poster")
    with pytest.raises(ValueError, match="size=63"):
        pages(3, size=63)
    with pytest.raises(ValueError, match="n=-1"):
        pages(-1)
    with pytest.raises(ValueError, match="dpi=0"):
        render(b"", dpi=0)
    with pytest.raises(ValueError, match="size=0"):
        render(b"", size=0)
