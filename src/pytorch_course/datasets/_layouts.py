"""What stands where on a generated page: letters, invoices, articles, tables and forms."""

from pytorch_course.datasets._sheet import GAP, Sheet

_NOUNS = ["Bridge", "Garden", "Book", "Island", "Ruler", "Paper", "Lamp", "Ink", "Valley", "Copper", "Pencil", "Desk"]
_CITIES = ["Alder", "Brook", "Eastmere", "Fenwick", "Hallow", "Kestrel", "Linden", "Norwood"]
_NAMES = ["Ada Arden", "Ben Castell", "Cleo Dahl", "Emil Farrow", "Greta Holm", "Ivo Jansen", "Mara Novak"]
_FIELDS = ["Name", "City", "Street", "Date", "Phone", "Email", "Number", "Reason", "Country", "Amount", "Age"]


def _phrase(s: Sheet, low: int, high: int) -> str:
    return " ".join(s.rng.sample(_NOUNS, s.rng.randint(low, high)))


def _address(s: Sheet) -> list[str]:
    choice, number = s.rng.choice, s.rng.randint
    return [choice(_NAMES), f"{number(1, 199)} {choice(_NOUNS)} Road", f"{number(10000, 99999)} {choice(_CITIES)}"]


def _date(s: Sheet) -> str:
    year, month, day = (f"{s.rng.randint(low, high):02}" for low, high in ((1995, 2029), (1, 12), (1, 28)))
    return s.rng.choice((f"{day}.{month}.{year}", f"{year}-{month}-{day}", f"{month}/{day}/{year}"))


def _numbers(s: Sheet, rows: int, columns: int) -> list[list[str]]:
    """Cells of a table of numbers, with a head and a name or year before each row."""
    rng, digits, scale = s.rng, s.rng.randint(0, 2), 10 ** s.rng.randint(1, 4)
    names = [str(1990 + k) for k in range(rows)] if rng.random() < 0.4 else rng.choices(_NOUNS, k=rows)
    body = [[name, *(f"{rng.uniform(0, scale):,.{digits}f}" for _ in range(columns))] for name in names]
    return [[rng.choice(("Place", "Name", "Group")), *rng.sample(_CITIES, columns)], *body]


def letter(s: Sheet) -> None:
    """Addresses, a date, some paragraphs, at times a logo."""
    rng, side = s.rng, s.rng.choice((0, 1))
    if rng.random() < 0.6:
        s.logo(1 - side)
    s.lines(_address(s), side)
    s.y += rng.uniform(15, 40)
    s.lines(_address(s))
    s.lines([_date(s)], rng.choice((0, 1)))
    if rng.random() < 0.6:
        s.title(_phrase(s, 2, 4), 1.2 * s.size)
    s.lines([f"Dear {rng.choice(_NAMES)},"])
    s.bottom -= 60
    for _ in range(rng.randint(1, 5)):
        s.paragraph(2, 9)
    s.lines([rng.choice(("Yours sincerely,", "Kind regards,", "Best wishes,")), rng.choice(_NAMES)])


def invoice(s: Sheet) -> None:
    """Who pays whom, number and date, a table of what it costs, and below it the sums, which add up."""
    rng, side = s.rng, s.rng.choice((0, 1))
    if rng.random() < 0.6:
        s.logo(1 - side)
    s.title(rng.choice(("Invoice", "INVOICE", "Bill")), align=side)
    s.y += rng.uniform(25, 40)
    s.lines(_address(s), 1 - side)
    top = s.y = s.y + rng.uniform(0, 25)
    s.pairs({"Number": f"{rng.choice('ABKR')}-{rng.randint(1000, 99999)}", "Date": _date(s)})
    s.y = top
    s.lines(_address(s))
    rows, net, rate = [["Item", "Count", "Price", "Amount"]], 0, rng.choice((7, 19, 20))
    for item in rng.sample(_NOUNS, rng.randint(2, 12)):
        count, price = rng.choice((1, 1, 2, 3, 5, 10, 25)), rng.randint(90, 30000)
        net += count * price
        rows.append([item, str(count), f"{price / 100:,.2f}", f"{count * price / 100:,.2f}"])
    s.table(rows)
    tax = (net * rate + 50) // 100
    sums = {"Subtotal": net, f"VAT {rate}%": tax, "Total": net + tax}
    s.pairs({name: f"{cents / 100:,.2f}" for name, cents in sums.items()})
    s.facts = {name: s.facts[name] for name in ("number", "date", "total")}
    if rng.random() < 0.7:
        s.paragraph(1, 3)


def article(s: Sheet) -> None:
    """A title, authors, at times an abstract, then one or two columns of sections, figures and a few tables."""
    rng, align, columns = s.rng, s.rng.choice((0.0, 0.5)), s.rng.choice((1, 2, 2))
    s.title(_phrase(s, 3, 7).capitalize(), align=align)
    s.lines([", ".join(rng.sample(_NAMES, rng.randint(1, 3)))], align)
    if rng.random() < 0.7:
        s.paragraph(3, 7, 0.92)
    top, pitch = s.y, (s.inner + GAP + 4) / columns
    s.inner = pitch - GAP - 4
    for column in range(columns):
        while (room := s.bottom - s.y) > 4 * s.lead and len(s.regions) < 11 + 8 * column:
            chance = rng.random() if room > 190 else 1
            if chance < 0.25:
                s.figure(rng.uniform(80, 130))
                s.paragraph(1, 2, 0.85)
            elif chance < 0.33:
                s.table(_numbers(s, rng.randint(4, 6), rng.randint(2, 3)))
            else:
                if rng.random() < 0.6 and room > 8 * s.lead:
                    s.title(_phrase(s, 2, 3), 1.2 * s.size)
                s.paragraph(5, 24)
        s.x, s.y = s.x + pitch, top


def table(s: Sheet) -> None:
    """A title, one or two tables of numbers, at times text around them."""
    rng = s.rng
    s.title(_phrase(s, 3, 5).capitalize(), align=rng.choice((0.0, 0.5)))
    if rng.random() < 0.5:
        s.paragraph(1, 3)
    for _ in range(rng.choice((1, 1, 2))):
        room = int((s.bottom - 60 - s.y) / (1.1 * s.size + 10)) - 1
        if room >= 6:
            s.table(_numbers(s, rng.randint(6, room), rng.randint(2, 7)))
    if rng.random() < 0.6:
        s.paragraph(1, 2, 0.85)


def form(s: Sheet) -> None:
    """Headed groups of fields to fill in."""
    rng = s.rng
    s.title(f"{_phrase(s, 2, 3)} Form")
    if rng.random() < 0.6:
        s.paragraph(1, 3)
    for _ in range(rng.randint(2, 4)):
        s.title(_phrase(s, 1, 2), 1.2 * s.size)
        for _ in range(rng.randint(2, 4)):
            s.fields(rng.sample(_FIELDS, rng.choice((1, 2, 2, 3))))


LAYOUTS = {draw.__name__: draw for draw in (letter, invoice, article, table, form)}
