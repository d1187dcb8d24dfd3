"""Dates: every text reads back as the date beside it, and no text has two meanings."""

import datetime
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytorch_course.datasets import dates
from pytorch_course.datasets._dates import FORMS

# The standard library's own reading of each form, after ordinal endings are gone.
STRPTIME = {
    "3 March 2024": "%d %B %Y",
    "March 3, 2024": "%B %d, %Y",
    "3 Mar 2024": "%d %b %Y",
    "the 3rd of March, 2024": "the %d of %B, %Y",
    "Sunday, March 3rd 2024": "%A, %B %d %Y",
    "03-MAR-2024": "%d-%b-%Y",
    "2024-03-03": "%Y-%m-%d",
    "20240303": "%Y%m%d",
    "2024/3/3": "%Y/%m/%d",
    "03.03.2024": "%d.%m.%Y",
    "3/3/2024": "%m/%d/%Y",
    "2024年3月3日": "%Y年%m月%d日",
}
DAY = st.dates(datetime.date(1000, 1, 1), datetime.date(9999, 12, 31))


def chinese(numeral: str) -> int:
    """Value of 〇一二...九 written as digits, or with 十: 三十一 is 31."""
    if "十" not in numeral:
        return int("".join(str("〇一二三四五六七八九".index(sign)) for sign in numeral))
    tens, ones = numeral.split("十")
    return 10 * (chinese(tens) if tens else 1) + (chinese(ones) if ones else 0)


def read(text: str, form: str) -> datetime.date:
    if form == "二〇二四年三月三日":
        return datetime.date(*(chinese(part) for part in re.split("[年月日]", text)[:3]))
    plain = re.sub(r"(\d)(st|nd|rd|th)\b", r"\1", text)
    return datetime.datetime.strptime(plain, STRPTIME[form]).date()


@settings(deadline=None, derandomize=True, max_examples=300)
@given(DAY)
def test_every_form_reads_back(day: datetime.date) -> None:
    for form, write in FORMS.items():
        assert read(write(day), form) == day


def test_a_form_is_named_by_its_example() -> None:
    day = datetime.date(2024, 3, 3)
    assert [write(day) for write in FORMS.values()] == list(FORMS)
    assert set(FORMS) - set(STRPTIME) == {"二〇二四年三月三日"}


def test_no_text_has_two_meanings() -> None:
    meaning: dict[str, datetime.date] = {}
    for ordinal in range(datetime.date(1999, 1, 1).toordinal(), datetime.date(2013, 1, 1).toordinal()):
        day = datetime.date.fromordinal(ordinal)
        for write in FORMS.values():
            assert meaning.setdefault(write(day), day) == day
    assert len(meaning) == 13 * 5114 - 14 * 31  # 3 May 2024 is long and short at once


@pytest.mark.parametrize(
    ("day", "ordinal", "numeral"),
    [
        *((1, "1st", "一"), (2, "2nd", "二"), (3, "3rd", "三"), (10, "10th", "十"), (11, "11th", "十一")),
        *((12, "12th", "十二"), (13, "13th", "十三"), (20, "20th", "二十"), (21, "21st", "二十一")),
        *((22, "22nd", "二十二"), (23, "23rd", "二十三"), (30, "30th", "三十"), (31, "31st", "三十一")),
    ],
)
def test_ordinals_and_numerals(day: int, ordinal: str, numeral: str) -> None:
    date = datetime.date(2010, 12, day)
    assert FORMS["the 3rd of March, 2024"](date) == f"the {ordinal} of December, 2010"
    assert FORMS["二〇二四年三月三日"](date) == f"二〇一〇年十二月{numeral}日"


def test_the_pairs_agree() -> None:
    seen = dict.fromkeys(FORMS, 0)
    for text, iso in dates(3000, seed=4):
        day = datetime.date.fromisoformat(iso)
        forms = [form for form, write in FORMS.items() if write(day) == text]
        seen[forms[0]] += 1
        assert 1900 <= day.year <= 2099
        assert len(text) <= 30
    assert all(abs(count - 3000 / 13) < 75 for count in seen.values())  # five standard deviations


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**40))
def test_a_prefix_does_not_depend_on_n(few: int, many: int, seed: int) -> None:
    few, many = sorted((few, many))
    assert dates(few, seed=seed) == dates(many, seed=seed)[:few]


def test_another_seed_gives_other_pairs() -> None:
    first, second = ({text for text, _ in dates(2000, seed=seed)} for seed in (0, 1))
    assert len(first & second) < 40


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="n is -1"):
        dates(-1)
