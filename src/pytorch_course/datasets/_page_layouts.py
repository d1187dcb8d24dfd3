"""What stands where on a generated page: letters, invoices, articles, tables and forms."""

import math
import random
from collections.abc import Callable, Iterator, Sequence

from pytorch_course.datasets._page_sheet import DARK, GREY, Colour, Point, Sheet

GAP = 15.0  # Points between two regions: at least a pixel, even on an image of 64 pixels.

_WORDS, _NOUNS, _ITEMS, _NAMES, _CITIES, _FIELDS, _SECTIONS, _MONTHS = (
    text.split(", ")
    for text in (
        "a, about, above, after, again, all, along, also, among, an, and, another, any, are, as, at, back, be, "
        "because, been, before, best, between, both, bridge, but, by, can, clear, come, copy, could, day, down, "
        "during, each, early, end, even, every, few, field, first, for, found, from, garden, give, good, great, had, "
        "half, has, have, here, high, house, if, in, into, is, island, it, just, keep, kind, large, last, late, "
        "learn, less, letter, light, line, long, made, many, map, measure, might, model, more, morning, most, "
        "mountain, much, near, never, new, next, no, north, not, now, of, off, often, old, on, once, one, only, "
        "open, or, order, other, our, out, over, own, paper, part, people, place, plan, point, present, river, road, "
        "same, sample, second, see, several, short, show, since, small, so, some, sound, south, still, story, such, "
        "table, take, than, that, the, their, them, then, there, these, they, thing, this, those, time, to, town, "
        "travel, tree, under, until, up, us, use, very, village, was, water, way, we, weather, well, were, west, "
        "what, when, where, which, while, who, will, winter, with, word, work, would, year, you",
        "Bridge, Garden, Harbour, Island, Lantern, Meadow, Orchard, Paper, River, Station, Valley, Window, Winter, "
        "Copper, Maple",
        "Ball pen, Desk lamp, Envelopes, Folder, Glue stick, Ink, Label roll, Notebook, Paper clips, Ruler, "
        "Shipping, Stapler",
        "Ada Arden, Ben Castell, Cleo Dahl, Emil Farrow, Greta Holm, Ivo Jansen, Kira Lund, Mara Novak, Otto Quist",
        "Alder, Brook, Eastmere, Fenwick, Hallow, Kestrel, Linden, Norwood",
        "Name, City, Street, Date, Phone, Email, Number, Reason, Country, Amount, Age",
        "About You, Your Address, Your Order, Details, For the Office, Membership",
        "January, February, March, April, May, June, July, August, September, October, November, December",
    )
)


def _lines(
    sheet: Sheet, label: str, x: float, y: float, texts: Sequence[str], *, size: float = 0, bold: bool = False,
    align: float = 0, colour: Colour = DARK,
) -> float:  # fmt: skip
    """Write given lines as one region. Like all that follow, return where the next region may begin."""
    size = size or sheet.size
    lead = max(sheet.lead, 1.2 * size)
    with sheet.region(label):
        for k, text in enumerate(texts):
            sheet.text(x, y + k * lead, text, size=size, bold=bold, align=align, colour=colour)
    return y + (len(texts) - 1) * lead + 1.05 * size + GAP


def _prose() -> Iterator[str]:
    """Words without end, in sentences."""
    while True:
        words = random.choices(_WORDS, k=random.randint(5, 16))
        words[0] = words[0].capitalize()
        words[-1] += "."
        yield from words


def _paragraph(
    sheet: Sheet, x: float, y: float, width: float, count: int, *, size: float = 0, indent: float = 0
) -> float:
    """Fill `count` lines with prose as one region of text. With an indent it is several paragraphs."""
    size = size or sheet.size
    lead = sheet.lead * size / sheet.size
    words, space = _prose(), sheet.measure("n n", size) - sheet.measure("nn", size)
    word = next(words)
    ends = True
    with sheet.region("text"):
        for k in range(count):
            start = x + (indent if ends else 0)
            ends = k == count - 1 or (indent > 0 and random.random() < 0.12)
            room = (x + width - start) * (random.uniform(0.4, 0.9) if ends else 1)
            line, length = [word], sheet.measure(word, size)
            while length + space + sheet.measure(word := next(words), size) <= room:
                line.append(word)
                length += space + sheet.measure(word, size)
            if ends:
                line[-1], word = line[-1].rstrip(".") + ".", word.capitalize()
            whole = sheet.justified and not ends and len(line) > 2
            spread = (x + width - start - length) / (len(line) - 1) if whole else 0
            sheet.text(start, y + k * lead, " ".join(line), size=size, spread=spread)
    return y + (count - 1) * lead + 1.05 * size + GAP


def _fitting(sheet: Sheet, y: float, bottom: float) -> int:
    """How many lines fit between y and bottom."""
    return int((bottom - y - sheet.size) / sheet.lead) + 1


def _phrase(low: int, high: int) -> str:
    return " ".join(
        [random.choice(_NOUNS), *random.choices(_WORDS, k=random.randint(low, high)), random.choice(_NOUNS)]
    )


def _fit(sheet: Sheet, text: str, size: float, width: float, bold: bool) -> float:
    """The size, made smaller where the text would be too wide."""
    return min(size, size * width / sheet.measure(text, size, bold))


def _title(sheet: Sheet, text: str, x: float, y: float, width: float, *, align: float = 0, size: float = 0) -> float:
    bold = random.random() < 0.8
    size = _fit(sheet, text, size or random.uniform(15, 24), width, bold)
    return _lines(sheet, "title", x + align * width, y, [text], size=size, bold=bold, align=align, colour=sheet.accent)


def _heading(sheet: Sheet, text: str, x: float, y: float, width: float) -> float:
    size = _fit(sheet, text, 1.2 * sheet.size, width, True)
    return _lines(sheet, "title", x, y, [text], size=size, bold=True, colour=sheet.accent)


def _address() -> list[str]:
    street = f"{random.randint(1, 199)} {random.choice(_NOUNS)} Road"
    return [random.choice(_NAMES), street, f"{random.randint(10000, 99999)} {random.choice(_CITIES)}"]


def _company() -> str:
    return f"{random.choice(_NOUNS)} & {random.choice(_CITIES)} {random.choice(('Ltd', 'Inc', 'Works', 'Press'))}"


def _date() -> str:
    day, month, year = random.randint(1, 28), random.randrange(12), random.randint(1995, 2029)
    forms = (f"{day} {_MONTHS[month]} {year}", f"{year}-{month + 1:02}-{day:02}", f"{day:02}.{month + 1:02}.{year}")
    return random.choice(forms)


def _money(cents: int) -> str:
    return f"{cents / 100:,.2f}"


def _table(sheet: Sheet, x: float, y: float, width: float, rows: Sequence[Sequence[str]], *, sums: int = 0) -> float:
    """Draw rows of cells, the first as the head, the last `sums` as sums: bold, under a rule. Empty cells stay empty."""
    pad, style = random.uniform(2.5, 5), random.choice(("rules", "lines", "grid", "zebra", "band"))
    columns = list(zip(*rows, strict=True))
    needs = [max(sheet.measure(cell, 0.92, True) for cell in column if cell) for column in columns]
    size = min(sheet.size, (width - 4 * pad * len(needs)) / sum(needs))
    spare = (width - size * sum(needs)) / len(needs)
    edges = [x]
    for need in needs:
        edges.append(edges[-1] + size * need + spare)
    size, pitch = 0.92 * size, 1.1 * size + 2 * pad
    tops = [y + k * pitch for k in range(len(rows) + 1)]
    with sheet.region("table"):
        _ruling(sheet, style, edges, tops, sums)
        for k, row in enumerate(rows):
            bold = k == 0 or k >= len(rows) - sums
            colour = (1.0, 1.0, 1.0) if style == "band" and k == 0 else DARK
            for j, cell in enumerate(row):
                if cell:
                    place = edges[j + 1] - pad if j else x + pad
                    sheet.text(place, tops[k] + pad, cell, size=size, bold=bold, align=min(j, 1), colour=colour)
    return tops[-1] + GAP


def _ruling(sheet: Sheet, style: str, edges: Sequence[float], tops: Sequence[float], sums: int) -> None:
    """Draw what a table has besides its text."""
    left, right, rows = edges[0], edges[-1], len(tops) - 1
    if style == "band":
        sheet.box(left, tops[0], right, tops[1], fill=sheet.accent)
    if style == "zebra":
        for k in range(1, rows, 2):
            sheet.box(left, tops[k], right, tops[k + 1], fill=(0.9, 0.9, 0.9))
    lines = range(rows + 1) if style in ("lines", "grid") else (0, 1, rows)
    for k in {*lines, rows - sums}:
        sheet.path([(left, tops[k]), (right, tops[k])], line=DARK)
    for edge in edges if style == "grid" else ():
        sheet.path([(edge, tops[0]), (edge, tops[-1])], line=DARK)


def _figure(sheet: Sheet, x: float, y: float, width: float, height: float) -> float:
    with sheet.region("figure"):
        random.choice((_bars, _curves, _scene, _boxes))(sheet, x, y, width, height)
    return y + height + GAP


def _shade() -> Colour:
    return random.choice(
        ((0.0, 0.45, 0.7), (0.84, 0.37, 0.0), (0.0, 0.62, 0.45), (0.35, 0.35, 0.35), (0.34, 0.7, 0.91))
    )


def _bars(sheet: Sheet, x: float, y: float, width: float, height: float) -> None:
    count, colour = random.randint(4, 9), _shade()
    step = width / count
    for k in range(count):
        left = x + (k + 0.2) * step
        sheet.box(left, y + height * random.uniform(0, 0.9), left + 0.6 * step, y + height, fill=colour)
    sheet.path([(x, y), (x, y + height), (x + width, y + height)], line=DARK, width=1)


def _curves(sheet: Sheet, x: float, y: float, width: float, height: float) -> None:
    for _ in range(random.randint(1, 3)):
        level, swing, phase, turns = (random.uniform(*ends) for ends in ((0.3, 0.7), (0.05, 0.28), (0, 6), (2, 9)))
        steps = [k / 40 for k in range(41)]
        points = [(x + t * width, y + height * (level + swing * math.sin(phase + turns * t))) for t in steps]
        sheet.path(points, line=_shade(), width=1.6)
    sheet.box(x, y, x + width, y + height, line=DARK)


def _scene(sheet: Sheet, x: float, y: float, width: float, height: float) -> None:
    """Mountains under the sun, as a photograph."""
    sheet.box(x, y, x + width, y + height, fill=(0.78, 0.85, 0.9))
    radius = 0.1 * min(width, height)
    _disc(sheet, x + width * random.uniform(0.2, 0.8), y + 2 * radius, radius, (1.0, 0.95, 0.75))
    for far in (0.62, 0.45, 0.3):
        ends = [(x, y + height), *((x + k * width / 6, 0.0) for k in range(7)), (x + width, y + height)]
        hills = [(a, b or y + height * random.uniform(0.85 - far, 1.1 - far)) for a, b in ends]
        sheet.path(hills, fill=(far, far + 0.06, far + 0.08))


def _boxes(sheet: Sheet, x: float, y: float, width: float, height: float) -> None:
    """Boxes joined by lines, as a diagram."""
    across, down, colour = random.randint(2, 4), random.randint(1, 3), _shade()
    step, rise = width / (across - 0.4), height / (down - 0.4)
    for row in range(down):
        middle = y + (row + 0.3) * rise
        sheet.path([(x, middle), (x + width, middle)], line=DARK, width=1.2)
        for k in range(across):
            corner = (x + k * step, y + row * rise)
            sheet.box(*corner, corner[0] + 0.6 * step, corner[1] + 0.6 * rise, line=DARK, fill=colour)


def _disc(sheet: Sheet, x: float, y: float, radius: float, colour: Colour) -> None:
    turns = [k * math.pi / 16 for k in range(32)]
    sheet.path([(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns], fill=colour)


def _logo(sheet: Sheet, x: float, y: float, height: float) -> None:
    """A sign 1.2 times as wide as high."""
    with sheet.region("figure"):
        if random.random() < 0.5:
            sheet.box(x, y, x + height, y + height, fill=sheet.accent)
            _disc(sheet, x + 0.8 * height, y + height / 2, 0.4 * height, GREY)
        else:
            _disc(sheet, x + height / 2, y + height / 2, height / 2, sheet.accent)
            sheet.path(
                [(x + 0.3 * height, y + height), (x + 0.75 * height, y), (x + 1.2 * height, y + height)], fill=GREY
            )


def _signature(sheet: Sheet, x: float, y: float) -> float:
    points: list[Point] = []
    for k in range(60):
        t = k / 59
        points.append((x + 110 * t + 9 * math.sin(37 * t), y + 15 + (14 - 9 * t) * math.sin(23 * t + 9 * t * t)))
    with sheet.region("figure"):
        sheet.path(points, line=(0.1, 0.15, 0.45), width=1.3)
    return y + 30 + GAP


def _paragraphs(sheet: Sheet, y: float, bottom: float, most: int) -> float:
    for _ in range(random.randint(1, most)):
        count = min(random.randint(2, 9), _fitting(sheet, y, bottom))
        if count >= 2:
            y = _paragraph(sheet, sheet.left, y, sheet.inner, count)
    return y


def _footer(sheet: Sheet) -> None:
    """At times a small line under the text."""
    if random.random() < 0.5:
        text = random.choice((str(random.randint(1, 99)), f"Page {random.randint(1, 9)}", f"{_company()}, {_date()}"))
        _lines(sheet, "text", sheet.left + sheet.inner / 2, sheet.bottom + GAP, [text], size=7.5, align=0.5)


def _letter(sheet: Sheet) -> None:
    y, side = sheet.top, random.choice((0.0, 0.5, 1.0))
    if side == 0.5:
        y = _title(sheet, _company(), sheet.left, y, sheet.inner, align=0.5, size=random.uniform(15, 20))
    else:
        if random.random() < 0.6:
            _logo(sheet, sheet.left + (1 - side) * (sheet.inner - 48), y, 40)
        y = max(y + 40 + GAP, _lines(sheet, "text", sheet.left + side * sheet.inner, y, _address(), align=side))
    y = _lines(sheet, "text", sheet.left, y + random.uniform(0, 30), _address())
    side = random.choice((0, 1))
    y = _lines(sheet, "text", sheet.left + side * sheet.inner, y, [_date()], align=side)
    if random.random() < 0.6:
        y = _heading(sheet, _phrase(1, 4), sheet.left, y, sheet.inner)
    y = _lines(sheet, "text", sheet.left, y, [f"Dear {random.choice(_NAMES)},"])
    y = _paragraphs(sheet, y, sheet.bottom - 100, 5)
    y = _lines(sheet, "text", sheet.left, y, [random.choice(("Yours sincerely,", "Kind regards,", "Best wishes,"))])
    if random.random() < 0.7:
        y = _signature(sheet, sheet.left + 4, y)
    _lines(sheet, "text", sheet.left, y, [random.choice(_NAMES)])
    _footer(sheet)


def _invoice(sheet: Sheet) -> None:
    y, side = sheet.top, random.choice((0, 1))
    name, half = random.choice(("Invoice", "INVOICE", "Invoice", "Bill")), sheet.inner / 2 - GAP
    below = _title(sheet, name, sheet.left + side * (half + 2 * GAP), y, half, align=side, size=random.uniform(18, 28))
    if random.random() < 0.6:
        _logo(sheet, sheet.left + (1 - side) * (sheet.inner - 48), y, 40)
        below, side = max(below, y + 40 + GAP), random.choice((0, 1))
    y = _lines(
        sheet, "text", sheet.left + (1 - side) * sheet.inner, below, [_company(), *_address()[1:]], align=1 - side
    )
    y += random.uniform(0, 25)
    below = _lines(sheet, "text", sheet.left, y, _address())
    number, date = f"{random.choice('ABKR')}-{random.randint(1000, 99999)}", _date()
    y = max(below, _pairs(sheet, y, {"Number": number, "Date": date}))
    if random.random() < 0.5:
        y = _paragraph(sheet, sheet.left, y, sheet.inner, random.randint(1, 2))
    y = _bill(sheet, y + random.uniform(0, 15))
    if random.random() < 0.7:
        _paragraph(sheet, sheet.left, y, sheet.inner, random.randint(1, 3))
    _footer(sheet)


def _pairs(sheet: Sheet, y: float, pairs: dict[str, str], *, strong: bool = False) -> float:
    """Names and values as one region at the right margin. The values become facts of the page."""
    with sheet.region("text"):
        for k, (name, value) in enumerate(pairs.items()):
            bold, line = strong and k == len(pairs) - 1, y + k * sheet.lead
            sheet.text(sheet.right - 0.36 * sheet.inner, line, name, bold=bold)
            sheet.facts[name.lower()] = value, sheet.text(sheet.right, line, value, align=1, bold=bold)
    return y + (len(pairs) - 1) * sheet.lead + 1.05 * sheet.size + GAP


def _bill(sheet: Sheet, y: float) -> float:
    """The items and what they cost, the total in the table or below it."""
    room = int((sheet.bottom - y - 140) / (1.1 * sheet.size + 10))
    items = random.sample(_ITEMS, min(random.randint(2, len(_ITEMS)), max(2, room)))
    counts, prices = (
        [random.choice((1, 1, 2, 3, 5, 10, 25)) for _ in items],
        [random.randint(90, 30000) for _ in items],
    )
    costs = [count * price for count, price in zip(counts, prices, strict=True)]
    rate = random.choice((7, 19, 20))
    tax = (sum(costs) * rate + 50) // 100
    sums = {"Subtotal": _money(sum(costs)), f"VAT {rate}%": _money(tax), "Total": _money(sum(costs) + tax)}
    wide, inside = random.random() < 0.7, random.random() < 0.5
    rows = [["Item", "Count", "Price", "Amount"]]
    rows += [list(row) for row in zip(items, map(str, counts), map(_money, prices), map(_money, costs), strict=True)]
    if inside:
        rows += [[name, "", "", value] for name, value in sums.items()]
    if not wide:
        rows = [[row[0], row[1], row[3]] for row in rows]
    y = _table(sheet, sheet.left, y, sheet.inner, rows, sums=3 * inside)
    if inside:
        sheet.facts["total"] = sums["Total"], sheet.last
        return y
    y = _pairs(sheet, y, sums, strong=True)
    sheet.facts = {name: fact for name, fact in sheet.facts.items() if name in ("number", "date", "total")}
    return y


def _article(sheet: Sheet) -> None:
    y, align, columns = sheet.top, random.choice((0.0, 0.5)), random.choice((1, 2, 2))
    y = _title(sheet, _phrase(2, 5).capitalize(), sheet.left, y, sheet.inner, align=align)
    authors = ", ".join(random.sample(_NAMES, random.randint(1, 3)))
    y = _lines(sheet, "text", sheet.left + align * sheet.inner, y, [authors], align=align, size=0.95 * sheet.size)
    if random.random() < 0.7:
        y = _paragraph(sheet, sheet.left + 35, y, sheet.inner - 70, random.randint(3, 7), size=0.92 * sheet.size)
    bottom = sheet.bottom if random.random() < 0.75 else random.uniform(y + 200, sheet.bottom)
    width = (sheet.inner + GAP + 4) / columns - GAP - 4
    for k in range(columns):
        _flow(sheet, sheet.left + k * (width + GAP + 4), y, width, bottom)
    _footer(sheet)


def _flow(sheet: Sheet, x: float, y: float, width: float, bottom: float) -> None:
    """Fill a column with sections, figures and a few tables."""
    full = len(sheet.regions) + 8
    while (room := bottom - y) > 4 * sheet.lead and len(sheet.regions) < full:
        chance = random.random()
        if chance < 0.25 and room > 190:
            y = _figure(sheet, x, y, width, random.uniform(80, 130))
            y = _paragraph(sheet, x, y, width, random.randint(1, 2), size=0.85 * sheet.size)
        elif chance < 0.33 and room > 190:
            y = _table(sheet, x, y, width, _numbers(random.randint(4, 6), random.randint(2, 3)))
        else:
            if random.random() < 0.6 and room > 8 * sheet.lead:
                y = _heading(sheet, _phrase(0, 1), x, y, width)
            count = min(random.randint(5, 24), _fitting(sheet, y, bottom))
            y = _paragraph(sheet, x, y, width, count, indent=random.choice((0, 12)))


def _numbers(rows: int, columns: int) -> list[list[str]]:
    """Cells of a table of numbers with a head, and a name or year before each row."""
    heads = random.choice((_NOUNS, [month[:3] for month in _MONTHS]))
    digits, scale, years = random.randint(0, 2), 10 ** random.randint(1, 4), random.random() < 0.4
    cells = [[random.choice(("Place", "Name", "Group")), *random.sample(heads, columns)]]
    for k in range(rows):
        name = str(1990 + k) if years else random.choice(_CITIES + _NOUNS)
        cells.append([name, *(f"{random.uniform(0, scale):,.{digits}f}" for _ in range(columns))])
    return cells


def _numeric(sheet: Sheet) -> None:
    y = _title(sheet, _phrase(1, 3).capitalize(), sheet.left, sheet.top, sheet.inner, align=random.choice((0.0, 0.5)))
    if random.random() < 0.5:
        y = _paragraph(sheet, sheet.left, y, sheet.inner, random.randint(1, 3))
    for _ in range(random.choice((1, 1, 2))):
        room = int((sheet.bottom - 60 - y) / (1.1 * sheet.size + 10)) - 1
        if room >= 6:
            y = _table(sheet, sheet.left, y, sheet.inner, _numbers(random.randint(6, room), random.randint(2, 7)))
    if random.random() < 0.6:
        _paragraph(sheet, sheet.left, y, sheet.inner, random.randint(1, 2), size=0.85 * sheet.size)
    _footer(sheet)


def _form(sheet: Sheet) -> None:
    y = _title(sheet, f"{_phrase(0, 1)} Form", sheet.left, sheet.top, sheet.inner - 90, size=random.uniform(15, 20))
    if random.random() < 0.4:
        _logo(sheet, sheet.right - 48, sheet.top, 40)
        y = max(y, sheet.top + 40 + GAP)
    if random.random() < 0.6:
        y = _paragraph(sheet, sheet.left, y, sheet.inner, random.randint(1, 3))
    boxed, filled = random.random() < 0.5, random.choice((0, 0, 0.7))
    pitch = (3.7 if boxed else 2.4) * sheet.size
    for section in random.sample(_SECTIONS, random.randint(2, 4)):
        rows = min(random.randint(2, 5), int((sheet.bottom - 70 - y - 2 * sheet.size - GAP) / pitch))
        if rows >= 2:
            y = _heading(sheet, section, sheet.left, y, sheet.inner)
            y = _fields(sheet, y, [random.choice((1, 2, 2, 3)) for _ in range(rows)], pitch, boxed, filled)
    if random.random() < 0.7:
        with sheet.region("text"):
            for left, name in ((0.0, "Date"), (0.5, "Signature")):
                sheet.path(
                    [(sheet.left + left * sheet.inner, y + 26), (sheet.left + (left + 0.4) * sheet.inner, y + 26)],
                    line=DARK,
                )
                sheet.text(sheet.left + left * sheet.inner, y + 29, name, size=0.8 * sheet.size)
    _footer(sheet)


def _fields(sheet: Sheet, y: float, rows: Sequence[int], pitch: float, boxed: bool, filled: float) -> float:
    """Rows of so many fields each, on a line or in a box, some of them filled in. One row in five is to be ticked."""
    size = sheet.size
    with sheet.region("text"):
        for k, columns in enumerate(rows):
            tick, top = random.random() < 0.2, y + k * pitch
            for j, name in enumerate(random.sample(_FIELDS, columns)):
                left = sheet.left + j * sheet.inner / columns
                right = sheet.left + (j + 1) * sheet.inner / columns - (GAP if j < columns - 1 else 0)
                value = random.choice(_CITIES) if random.random() < filled else ""
                if tick:
                    sheet.box(left, top + 0.1 * size, left + 0.85 * size, top + 0.95 * size, line=DARK)
                    sheet.text(left + 1.4 * size, top, name)
                    start = 0.0
                elif boxed:
                    sheet.text(left, top, name, size=0.8 * size)
                    sheet.box(left, top + 1.15 * size, right, top + 3.0 * size, line=GREY)
                    start, top_of_value = left + 5, top + 1.6 * size
                else:
                    sheet.text(left, top, name)
                    start, top_of_value = left + sheet.measure(name, size) + 6, top - 0.1 * size
                    sheet.path([(start, top + size), (right, top + size)], line=DARK)
                if value and start:
                    sheet.text(start, top_of_value, value, colour=(0.1, 0.15, 0.45))
    return y + (len(rows) - 1) * pitch + (3.0 if boxed else 1.1) * size + GAP


LAYOUTS: dict[str, Callable[[Sheet], None]] = {
    "letter": _letter,
    "invoice": _invoice,
    "article": _article,
    "table": _numeric,
    "form": _form,
}
