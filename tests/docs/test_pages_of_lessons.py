"""What stands around a lesson's cells: facts, captions, downloads, the map, the list of a part, the table of times."""

import json
import re
import zipfile

import pytest
from PIL import Image

FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 2])
print("drawn")

# %%
# .. caption:: A line that *rises*.
#    :alt: A straight line going up.
#
# More text.

plt.imshow([[x * y % 251 for x in range(200)] for y in range(200)])

# %%
# .. caption:: A pattern.
#    :alt: Many small squares.

assert True
"""


@pytest.fixture(scope="module")
def built(shared_site):
    """Build a book of two lessons, the second of which needs the first."""
    shared_site.lesson("01_draws", FIGURE, title="Drawing")
    shared_site.lesson(
        "02_after", "print('x')\nassert 1 + 1 == 2\nassert 3 == 3", needs="one/01_draws", title="After <it>"
    )
    done = shared_site.build()
    assert done.returncode == 0, done.stderr
    return shared_site


def test_facts(built):
    """The box names what is needed, the data and the run."""
    page = built.page("lessons/one/02_after")
    facts = re.search(r'<div class="lesson-facts">.*?</dl>', page, flags=re.DOTALL)[0]
    assert '<a href="01_draws.html">Drawing</a>' in facts
    assert "<dd>none</dd>" in facts
    assert "1 cells, 2 checks passed" in facts
    assert "nothing but Python" in built.page("lessons/one/01_draws")
    assert "Go to the end" not in page
    assert "Total running time" not in page


def test_caption(built):
    """A figure has its caption and its alternative text, also when its cell prints."""
    page = built.page("lessons/one/01_draws")
    figure = re.search(r"<figure.*?</figure>", page, flags=re.DOTALL)[0]
    assert 'alt="A straight line going up."' in figure
    assert "A line that <em>rises</em>." in figure
    assert page.count("<figcaption") == 2
    assert 'id="figure-a-line-that-rises"' in page and 'id="figure-a-pattern"' in page


def test_kind_of_picture(built):
    """A drawing is stored as PNG, a picture of many pixels as WebP; the list of the part shows the first."""
    page = built.page("lessons/one/01_draws")
    assert "sphx_glr_01_draws_001.png" in page
    assert "sphx_glr_01_draws_002.webp" in page
    assert (built.html / "_images/sphx_glr_01_draws_002.webp").read_bytes()[8:12] == b"WEBP"
    with Image.open(built.html / "_images/sphx_glr_01_draws_001.png") as picture:
        assert f'style="width: {picture.width // 2}px;"' in page, "drawn once, with twice the pixels"
    assert not list((built.root / "docs/lessons").rglob("*2_00x*"))
    thumb = re.search(r"<img[^>]*lesson-thumb[^>]*>", built.page("lessons/one/index"))[0]
    assert 'alt=""' in thumb
    assert "sphx_glr_01_draws_thumb.png" in thumb


def test_figure_without_caption_fails(site):
    """A figure that says nothing to a reader who cannot see it stops the build, and so does a caption without one."""
    site.lesson("01_silent", "import matplotlib.pyplot as plt\nplt.plot([1, 2])")
    site.lesson("02_stray", "x = 1\n\n# %%\n# .. caption:: Nothing.\n#    :alt: Nothing.\n\nassert x")
    site.lesson(
        "03_mute", "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n\n# %%\n# .. caption:: No text.\n\nassert 1"
    )
    done = site.build()
    assert done.returncode != 0
    assert "a figure without a caption" in done.stderr
    assert "a caption without a figure" in done.stderr
    assert "a caption needs ':alt:'" in done.stderr


def test_downloads(built):
    """Script, notebook and wheel are linked; the script and the notebook say how to install the wheel."""
    page = built.page("lessons/one/02_after")
    links = re.findall(r'href="([^"]*_downloads/[^"]+)"', page)
    assert {link.rpartition(".")[2] for link in links} == {"py", "ipynb", "whl"}
    paths = {link.rpartition(".")[2]: (built.html / "lessons/one" / link).resolve() for link in links}
    wheel = paths["whl"].name
    script = paths["py"].read_text()
    assert wheel in script.splitlines()[2]
    compile(script, "script", "exec")
    first = "".join(json.loads(paths["ipynb"].read_text())["cells"][0]["source"])
    assert wheel in first
    assert "**You need:** one/01_draws" in first
    assert any(name.startswith("tool/") for name in zipfile.ZipFile(paths["whl"]).namelist())


def test_wheel_is_built_only_when_sources_change(built):
    """The same sources, the same file; other sources, a new one."""
    wheel = next((built.html.parent / "wheel").glob("*.whl"))
    before = wheel.stat().st_mtime_ns
    assert built.build().returncode == 0
    assert wheel.stat().st_mtime_ns == before
    built.write("src/tool/new.py", "VALUE = 1\n")
    assert built.build().returncode == 0
    assert wheel.stat().st_mtime_ns != before


def test_map_list_and_times(built):
    """Map, list and table hold both lessons; titles are escaped; an arc leads from the first to the second."""
    first = built.page("index")
    card = re.search(r'<nav class="course-map".*?</nav>', first, flags=re.DOTALL)[0]
    assert card.count("<section") == 1
    assert card.count("<circle") == card.count("<li>") == 2
    assert card.count("<path") == 1
    assert "After &lt;it&gt;" in card
    rules = re.search(r"<style>\n(.*?)</style>", first, flags=re.DOTALL)[1].splitlines()
    assert [re.findall(r"#([\w-]+)", rule) for rule in rules] == [
        ["map-one-01-draws", "map-one-02-after"],
        ["map-one-02-after", "map-one-01-draws"],
    ]
    assert "<style>\n.course-map" not in built.page("lessons/one/index")
    part = built.page("lessons/one/index")
    assert part.index("Drawing") < part.index("After")
    assert part.count("Do a thing.") == 2
    table = re.search(r"<table.*?</table>", first, flags=re.DOTALL)[0]
    assert "2 lessons" in table
    assert table.count("torch") == 2
