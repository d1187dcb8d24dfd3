"""The downloaded notebooks of all lessons hold Markdown: nothing is left of the lessons' own markup."""

import json
import re

MARKUP = re.compile(r":[a-z:]+:`|^\s*\.\. [a-z-]+::|(?<!`)``(?!`)|### (?:BEGIN|END) SOLUTION", flags=re.M)


def test_no_markup_is_left(html):
    """No role, no directive, no double backticks, no marker."""
    notebooks = sorted(html.glob("_downloads/*/*.ipynb"))
    assert len(notebooks) == len(json.loads((html / "lessons.json").read_text())["lessons"])
    for path in notebooks:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                text = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)
            left = MARKUP.findall(text) if cell["cell_type"] == "markdown" else re.findall("### (?:BEGIN|END)", text)
            assert not left, f"{path.name}: {left} in {text[:200]!r}"
