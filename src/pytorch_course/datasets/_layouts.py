"""What stands where on a generated page: letters, invoices, articles, tables and forms."""

import math
from collections.abc import Sequence

from pytorch_course.datasets._sheet import BLUE, COLOURS, DARK, GAP, GREY, Colour, Sheet

_WORDS, _NOUNS, _CITIES, _NAMES, _FIELDS, _SECTIONS, _MONTHS = (
    text.split(", ")
    for text in (
        "a, above, after, all, along, and, any, are, as, at, back, bridge, but, by, can, come, day, down, each, end, "
        "for, from, garden, give, good, half, have, here, high, house, if, in, into, is, island, it, large, less, "
        "light, line, long, many, more, most, much, never, new, north, not, now, of, old, on, only, open, or, order, "
        "other, out, over, own, part, people, plan, river, road, small, some, still, story, table, take, than, that, "
        "the, there, they, this, time, to, town, tree, under, very, village, water, way, we, well, what, will, "
        "winter, with, word, work, would, year",
        "Bridge, Garden, Harbour, Island, Lantern, Ruler, Notebook, Orchard, Paper, Lamp, Folder, Valley, Copper, Ink",
        "Alder, Brook, Eastmere, Fenwick, Hallow, Kestrel, Linden, Norwood",
        "Ada Arden, Ben Castell, Cleo Dahl, Emil Farrow, Greta Holm, Ivo Jansen, Mara Novak, Otto Quist",
        "Name, City, Street, Date, Phone, Email, Number, Reason, Country, Amount, Age",
        "About You, Your Address, Your Order, Details, For the Office, Membership",
        "January, February, March, April, May, June, July, August, September, October, November, December",
    )
)


def _lines(
    s: Sheet, texts: Sequence[str], *, label: str = "text", size: float = 0, bold: bool = False, align: float = 0,
    colour: Colour = DARK,
) -> None:  # fmt: skip
    """Write given lines as one region."""
    size = size or s.size
    lead = max(s.lead, 1.2 * size)
    with s.region(label, (len(texts) - 1) * lead + 1.05 * size):
        for k, text in enumerate(texts):
            s.text(s.x + align * s.inner, s.y + k * lead, text, size=size, bold=bold, align=align, colour=colour)


def _title(s: Sheet, text: str, low: float = 15, high: float = 24, align: float = 0) -> None:
    """Write a title, smaller where it would be too wide."""
    size = s.rng.uniform(low, high)
    size = min(size, size * s.inner / s.measure(text, size, True))
    _lines(s, [text], label="title", size=size, bold=True, align=align, colour=s.accent)


def _heading(s: Sheet, text: str) -> None:
    _title(s, text, 1.2 * s.size, 1.2 * s.size)


def _paragraph(s: Sheet, low: int, high: int, scale: float = 1) -> None:
    """Fill some lines with prose as one region, as many as there is room for."""
    size, lead = scale * s.size, scale * s.lead
    count = min(s.rng.randint(low, high), int((s.bottom - s.y - size) / lead) + 1)
    if count < 1:
        return
    space = s.measure("n n", size) - s.measure("nn", size)
    word, full = s.rng.choice(_WORDS).capitalize(), True
    with s.region("text", (count - 1) * lead + 1.05 * size):
        for k in range(count):
            full = k < count - 1
            room = s.inner if full else s.inner * s.rng.uniform(0.4, 0.9)
            line, length = [word], s.measure(word, size)
            while length + space + s.measure(word := _word(s, line[-1]), size) <= room:
                line.append(word)
                length += space + s.measure(word, size)
            spread = (s.inner - length) / (len(line) - 1) if s.justified and full and len(line) > 2 else 0
            s.text(s.x, s.y + k * lead, " ".join(line), size=size, spread=spread)


def _word(s: Sheet, before: str) -> str:
    """Any word, at times the last of a sentence."""
    word = s.rng.choice(_WORDS)
    word = word.capitalize() if before.endswith(".") else word
    return f"{word}." if s.rng.random() < 0.1 else word


def _phrase(s: Sheet, low: int, high: int) -> str:
    return " ".join([s.rng.choice(_NOUNS), *s.rng.choices(_WORDS, k=s.rng.randint(low, high)), s.rng.choice(_NOUNS)])


def _address(s: Sheet) -> list[str]:
    choice, number = s.rng.choice, s.rng.randint
    return [choice(_NAMES), f"{number(1, 199)} {choice(_NOUNS)} Road", f"{number(10000, 99999)} {choice(_CITIES)}"]


def _date(s: Sheet) -> str:
    day, month, year = s.rng.randint(1, 28), s.rng.randint(1, 12), s.rng.randint(1995, 2029)
    forms = (f"{day} {_MONTHS[month - 1]} {year}", f"{year}-{month:02}-{day:02}", f"{day:02}.{month:02}.{year}")
    return s.rng.choice(forms)


def _table(s: Sheet, rows: Sequence[Sequence[str]], *, sums: int = 0) -> None:
    """Draw rows of cells, the first as the head, the last `sums` as sums: bold, under a rule. Empty cells stay empty."""
    pad, style = s.rng.uniform(2.5, 5), s.rng.choice(("rules", "lines", "grid", "zebra"))
    needs = [max(s.measure(cell, 0.92, True) for cell in column if cell) for column in zip(*rows, strict=True)]
    size = min(s.size, (s.inner - 4 * pad * len(needs)) / sum(needs))
    spare = (s.inner - size * sum(needs)) / len(needs)
    edges = [s.x + size * sum(needs[:k]) + k * spare for k in range(len(needs) + 1)]
    tops = [s.y + k * (1.1 * size + 2 * pad) for k in range(len(rows) + 1)]
    with s.region("table", tops[-1] - s.y):
        for k in range(1, len(rows), 2) if style == "zebra" else ():
            s.box(s.x, tops[k], edges[-1], tops[k + 1], fill=(0.9, 0.9, 0.9))
        for k in range(len(tops)) if style in ("lines", "grid") else {0, 1, len(rows) - sums, len(rows)}:
            s.path([(s.x, tops[k]), (edges[-1], tops[k])], line=DARK)
        for edge in edges if style == "grid" else ():
            s.path([(edge, tops[0]), (edge, tops[-1])], line=DARK)
        for k, row in enumerate(rows):
            for j, cell in enumerate(row):
                place, bold = edges[j + 1] - pad if j else s.x + pad, k == 0 or k >= len(rows) - sums
                if cell:
                    last = s.text(place, tops[k] + pad, cell, size=0.92 * size, bold=bold, align=min(j, 1))
        if sums:
            s.facts["total"] = rows[-1][-1], last


def _figure(s: Sheet, height: float) -> None:
    """Bars, curves, or mountains as on a photograph."""
    x, y, rng, kind = s.x, s.y, s.rng, s.rng.choice(("bars", "curves", "scene"))
    with s.region("figure", height):
        s.box(x, y, x + s.inner, y + height, line=DARK, fill=(0.78, 0.85, 0.9) if kind == "scene" else None)
        for far in (0.62, 0.45, 0.3):
            if kind == "scene":
                tops = [(x + k * s.inner / 6, y + height * rng.uniform(0.85 - far, 1.1 - far)) for k in range(7)]
                s.path([(x, y + height), *tops, (x + s.inner, y + height)], fill=(far, far + 0.06, far + 0.08))
            elif kind == "curves":
                level, swing, turns = rng.uniform(0.3, 0.7), rng.uniform(0.05, 0.28), rng.uniform(2, 9)
                steps = [(k / 24, level + swing * math.sin(9 * far + turns * k / 24)) for k in range(25)]
                s.path([(x + t * s.inner, y + height * u) for t, u in steps], line=rng.choice(COLOURS), width=1.6)
        count, colour = rng.randint(4, 9) if kind == "bars" else 0, rng.choice(COLOURS)
        for k in range(count):
            left, top = x + (k + 0.2) * s.inner / count, y + height * rng.uniform(0.1, 0.9)
            s.box(left, top, left + 0.6 * s.inner / count, y + height, fill=colour)


def _logo(s: Sheet, side: int) -> None:
    """A disc on a square, at the left (0) or right (1)."""
    x = s.x + side * (s.inner - 40)
    with s.region("figure", 40):
        s.box(x, s.y, x + 40, s.y + 40, fill=s.accent)
        turns = [k * math.pi / 8 for k in range(16)]
        s.path([(x + 20 + 13 * math.cos(t), s.y + 20 + 13 * math.sin(t)) for t in turns], fill=GREY)


def letter(s: Sheet) -> None:
    """Addresses, a date, some paragraphs, at times a logo and a signature."""
    rng, top, side = s.rng, s.y, s.rng.choice((0, 1))
    if rng.random() < 0.6:
        _logo(s, 1 - side)
    below, s.y = s.y, top
    _lines(s, _address(s), align=side)
    s.y = max(s.y, below) + rng.uniform(0, 30)
    _lines(s, _address(s))
    _lines(s, [_date(s)], align=rng.choice((0, 1)))
    if rng.random() < 0.6:
        _heading(s, _phrase(s, 1, 4))
    _lines(s, [f"Dear {rng.choice(_NAMES)},"])
    s.bottom -= 100
    for _ in range(rng.randint(1, 5)):
        _paragraph(s, 2, 9)
    _lines(s, [rng.choice(("Yours sincerely,", "Kind regards,", "Best wishes,"))])
    if rng.random() < 0.7:
        steps = [k / 39 for k in range(40)]
        wave = [(110 * t + 9 * math.sin(37 * t), 15 + (14 - 9 * t) * math.sin(23 * t + 9 * t * t)) for t in steps]
        with s.region("figure", 30):
            s.path([(s.x + 4 + a, s.y + b) for a, b in wave], line=BLUE, width=1.3)
    _lines(s, [rng.choice(_NAMES)])


def invoice(s: Sheet) -> None:
    """Who pays whom, number and date, a table of what it costs that adds up, the total in it or below it."""
    rng, top, side = s.rng, s.y, s.rng.choice((0, 1))
    s.inner /= 2
    s.x += side * s.inner
    _title(s, rng.choice(("Invoice", "INVOICE", "Bill")), 18, 28, align=side)
    s.x, s.inner, below, s.y = s.x - side * s.inner, 2 * s.inner, s.y, top
    if rng.random() < 0.6:
        _logo(s, 1 - side)
    s.y = max(s.y, below)
    _lines(s, _address(s), align=1 - side)
    top = s.y = s.y + rng.uniform(0, 25)
    _lines(s, _address(s))
    below, s.y = s.y, top
    _pairs(s, {"Number": f"{rng.choice('ABKR')}-{rng.randint(1000, 99999)}", "Date": _date(s)})
    s.y = max(s.y, below) + rng.uniform(0, 15)
    _bill(s)
    if rng.random() < 0.7:
        _paragraph(s, 1, 3)


def _pairs(s: Sheet, pairs: dict[str, str]) -> None:
    """Names and values as one region at the right margin. The values become facts of the page."""
    with s.region("text", (len(pairs) - 1) * s.lead + 1.05 * s.size):
        for k, (name, value) in enumerate(pairs.items()):
            y, bold = s.y + k * s.lead, name == "Total"
            s.text(s.x + 0.64 * s.inner, y, name, bold=bold)
            s.facts[name.lower()] = value, s.text(s.x + s.inner, y, value, align=1, bold=bold)


def _bill(s: Sheet) -> None:
    rng, room = s.rng, int((s.bottom - s.y - 140) / (1.1 * s.size + 10))
    rows, net, rate = [["Item", "Count", "Price", "Amount"]], 0, s.rng.choice((7, 19, 20))
    for item in rng.sample(_NOUNS, min(rng.randint(2, 12), max(2, room))):
        count, price = rng.choice((1, 1, 2, 3, 5, 10, 25)), rng.randint(90, 30000)
        net += count * price
        rows.append([item, str(count), f"{price / 100:,.2f}", f"{count * price / 100:,.2f}"])
    tax = (net * rate + 50) // 100
    sums = {"Subtotal": net, f"VAT {rate}%": tax, "Total": net + tax}
    shown = {name: f"{cents / 100:,.2f}" for name, cents in sums.items()}
    if rng.random() < 0.5:
        _table(s, [*rows, *([name, "", "", value] for name, value in shown.items())], sums=3)
    else:
        _table(s, rows)
        _pairs(s, shown)
    s.facts = {name: s.facts[name] for name in ("number", "date", "total")}


def article(s: Sheet) -> None:
    """A title, authors, at times an abstract, then one or two columns of sections, figures and a few tables."""
    rng, align, columns = s.rng, s.rng.choice((0.0, 0.5)), s.rng.choice((1, 2, 2))
    _title(s, _phrase(s, 2, 5).capitalize(), align=align)
    _lines(s, [", ".join(rng.sample(_NAMES, rng.randint(1, 3)))], align=align)
    if rng.random() < 0.7:
        _paragraph(s, 3, 7, 0.92)
    top, s.bottom = s.y, s.bottom if rng.random() < 0.75 else rng.uniform(s.y + 200, s.bottom)
    pitch = (s.inner + GAP + 4) / columns
    s.inner = pitch - GAP - 4
    for _ in range(columns):
        _flow(s)
        s.x, s.y = s.x + pitch, top


def _flow(s: Sheet) -> None:
    rng, full = s.rng, len(s.regions) + 8
    while (room := s.bottom - s.y) > 4 * s.lead and len(s.regions) < full:
        chance = rng.random()
        if chance < 0.25 and room > 190:
            _figure(s, rng.uniform(80, 130))
            _paragraph(s, 1, 2, 0.85)
        elif chance < 0.33 and room > 190:
            _table(s, _numbers(s, rng.randint(4, 6), rng.randint(2, 3)))
        else:
            if rng.random() < 0.6 and room > 8 * s.lead:
                _heading(s, _phrase(s, 0, 1))
            _paragraph(s, 5, 24)


def _numbers(s: Sheet, rows: int, columns: int) -> list[list[str]]:
    """Cells of a table of numbers with a head, and a name or year before each row."""
    rng, heads = s.rng, s.rng.choice((_CITIES, [month[:3] for month in _MONTHS]))
    digits, scale, years = rng.randint(0, 2), 10 ** rng.randint(1, 4), rng.random() < 0.4
    cells = [[rng.choice(("Place", "Name", "Group")), *rng.sample(heads, columns)]]
    for k in range(rows):
        name = str(1990 + k) if years else rng.choice(_NOUNS)
        cells.append([name, *(f"{rng.uniform(0, scale):,.{digits}f}" for _ in range(columns))])
    return cells


def table(s: Sheet) -> None:
    """A title, one or two tables of numbers, at times text around them."""
    rng = s.rng
    _title(s, _phrase(s, 1, 3).capitalize(), align=rng.choice((0.0, 0.5)))
    if rng.random() < 0.5:
        _paragraph(s, 1, 3)
    for _ in range(rng.choice((1, 1, 2))):
        room = int((s.bottom - 60 - s.y) / (1.1 * s.size + 10)) - 1
        if room >= 6:
            _table(s, _numbers(s, rng.randint(6, room), rng.randint(2, 7)))
    if rng.random() < 0.6:
        _paragraph(s, 1, 2, 0.85)


def form(s: Sheet) -> None:
    """Headed groups of fields on a line or in a box, in some forms filled in."""
    rng = s.rng
    _title(s, f"{_phrase(s, 0, 1)} Form", 15, 20)
    if rng.random() < 0.6:
        _paragraph(s, 1, 3)
    boxed, filled = rng.random() < 0.5, rng.choice((0, 0, 0.7))
    pitch = (3.7 if boxed else 2.4) * s.size
    for section in rng.sample(_SECTIONS, rng.randint(2, 4)):
        rows = min(rng.randint(2, 5), int((s.bottom - 40 - s.y) / pitch))
        if rows >= 2:
            _heading(s, section)
            with s.region("text", rows * pitch):
                for k in range(rows):
                    _fields(s, s.y + k * pitch, boxed, filled)


def _fields(s: Sheet, y: float, boxed: bool, filled: float) -> None:
    """One row of fields."""
    names = s.rng.sample(_FIELDS, s.rng.choice((1, 2, 2, 3)))
    width, size = (s.inner + GAP) / len(names), s.size
    for j, name in enumerate(names):
        left, right = s.x + j * width, s.x + (j + 1) * width - GAP
        s.text(left, y, name, size=0.8 * size)
        if boxed:
            s.box(left, y + 1.15 * size, right, y + 3.0 * size, line=GREY)
            place = left + 5, y + 1.6 * size
        else:
            place = left + 0.8 * s.measure(name, size) + 6, y - 0.1 * size
            s.path([(place[0], y + size), (right, y + size)], line=DARK)
        if s.rng.random() < filled:
            s.text(*place, s.rng.choice(_CITIES), colour=BLUE)


LAYOUTS = {draw.__name__: draw for draw in (letter, invoice, article, table, form)}
