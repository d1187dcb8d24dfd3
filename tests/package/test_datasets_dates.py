"""Dates: every text reads back as the date beside it, and no text has two meanings."""

import datetime
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytorch_course.datasets import dates
from pytorch_course.datasets._dates import FORMS

# The standard library's own reading of each form, after ordinal endings are gone.
READINGS = (
    "%d %B %Y;%B %d, %Y;%d %b %Y;the %d of %B, %Y;%A, %B %d %Y;%d-%b-%Y;%Y-%m-%d;%Y%m%d;%Y/%m/%d;%d.%m.%Y;%m/%d/%Y;"
    "%Y年%m月%d日"
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.dates(datetime.date(1000, 1, 1), datetime.date(9999, 12, 31)))
def test_every_form_reads_back(day: datetime.date) -> None:
    for write, reading in zip(FORMS.values(), READINGS.split(";"), strict=True):
        plain = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", write(day))
        assert datetime.datetime.strptime(plain, reading).date() == day


def test_a_form_is_named_by_its_example() -> None:
    assert [write(datetime.date(2024, 3, 3)) for write in FORMS.values()] == list(FORMS)


def test_no_text_has_two_meanings() -> None:
    meaning: dict[str, datetime.date] = {}
    for ordinal in range(datetime.date(1999, 1, 1).toordinal(), datetime.date(2013, 1, 1).toordinal()):
        day = datetime.date.fromordinal(ordinal)
        for write in FORMS.values():
            assert meaning.setdefault(write(day), day) == day
    assert len(meaning) == 12 * 5114 - 14 * 31  # 3 May 2024 is long and short at once


def test_ordinals() -> None:
    texts = [FORMS["the 3rd of March, 2024"](datetime.date(2010, 12, day)).split()[1] for day in range(1, 32)]
    assert texts[:3] == ["1st", "2nd", "3rd"]
    assert texts[20:23] == ["21st", "22nd", "23rd"]
    assert texts[30] == "31st"
    assert {text[-2:] for text in texts[3:20] + texts[23:30]} == {"th"}


def test_the_pairs_agree() -> None:
    seen = dict.fromkeys(FORMS, 0)
    for text, iso in dates(3000, seed=4):
        day = datetime.date.fromisoformat(iso)
        seen[next(form for form, write in FORMS.items() if write(day) == text)] += 1
        assert 1900 <= day.year <= 2099 and len(text) <= 30
    assert all(abs(count - 3000 / 12) < 76 for count in seen.values())  # five standard deviations


def test_a_pair_depends_on_its_number_and_the_seed_only() -> None:
    assert dates(7, seed=3) == dates(60, seed=3)[:7]
    first, second = ({text for text, _ in dates(2000, seed=seed)} for seed in (0, 1))
    assert len(first & second) < 40
    with pytest.raises(ValueError, match="n is -1"):
        dates(-1)
