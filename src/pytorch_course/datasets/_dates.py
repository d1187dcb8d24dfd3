"""Dates as people write them, with the same date in ISO form: to translate."""

import datetime
import random
from collections.abc import Callable

from pytorch_course.datasets._samples import at_least

_YEAR = "January February March April May June July August September October November December"
_MONTHS = _YEAR.split()
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def _ordinal(day: int) -> str:
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


FORMS: dict[str, Callable[[datetime.date], str]] = {
    "3 March 2024": lambda d: f"{d.day} {_MONTHS[d.month - 1]} {d.year}",
    "March 3, 2024": lambda d: f"{_MONTHS[d.month - 1]} {d.day}, {d.year}",
    "3 Mar 2024": lambda d: f"{d.day} {_MONTHS[d.month - 1][:3]} {d.year}",
    "the 3rd of March, 2024": lambda d: f"the {_ordinal(d.day)} of {_MONTHS[d.month - 1]}, {d.year}",
    "Sunday, March 3rd 2024": lambda d: f"{_DAYS[d.weekday()]}, {_MONTHS[d.month - 1]} {_ordinal(d.day)} {d.year}",
    "03-MAR-2024": lambda d: f"{d.day:02}-{_MONTHS[d.month - 1][:3].upper()}-{d.year}",
    "2024-03-03": lambda d: d.isoformat(),
    "20240303": lambda d: f"{d:%Y%m%d}",
    "2024/3/3": lambda d: f"{d.year}/{d.month}/{d.day}",
    "03.03.2024": lambda d: f"{d.day:02}.{d.month:02}.{d.year}",
    "3/3/2024": lambda d: f"{d.month}/{d.day}/{d.year}",
    "2024年3月3日": lambda d: f"{d.year}年{d.month}月{d.day}日",
}
"""How each form writes a date; its key is 3 March 2024 in that form. Dots mean day first, slashes month first."""


def dates(n: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Write `n` random dates of the years 1900 to 2099 in random forms: pairs of a text and its date in ISO 8601.

    Every text has one meaning, by two rules: numbers with dots are day.month.year, as in Germany; numbers with slashes
    are month/day/year, as in the United States, unless the year stands first. A text has at most 30 characters.

    Pair i depends on `seed` and i, not on `n`. Days are drawn evenly, so test data under another seed shares some dates
    with the training data, seldom in the same form. A negative `n` raises a ValueError.

    Examples
    --------
    >>> for text, iso in dates(3):
    ...     print(f"{iso} is {text}")
    1985-03-13 is the 13th of March, 1985
    2078-05-06 is the 6th of May, 2078
    1917-11-24 is Saturday, November 24th 1917
    """
    at_least(n=(n, 0))
    first, last = datetime.date(1900, 1, 1).toordinal(), datetime.date(2099, 12, 31).toordinal()
    pairs = []
    for index in range(n):
        rng = random.Random(f"dates {seed} {index}")
        date = datetime.date.fromordinal(rng.randint(first, last))
        pairs.append((rng.choice(list(FORMS.values()))(date), date.isoformat()))
    return pairs
