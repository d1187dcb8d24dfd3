"""Nothing passes for run that did not run."""

import json


def test_lessons_json_is_the_record_of_the_run(site):
    """It names lessons and chapters, and says which of them ran in this build."""
    site.lesson("01_a", "x = 1\nassert x\n\n# %%\n# Text\n\nassert x == 1")
    site.chapter("b", "print(1)")
    assert site.build().returncode == 0
    proof = json.loads((site.html / "lessons.json").read_text())
    (lesson,) = proof["lessons"]
    assert (lesson["id"], lesson["cells"], lesson["checks"], lesson["ran_now"]) == ("one/01_a", 2, 2, True)
    assert [chapter["id"] for chapter in proof["chapters"]] == ["start/b"]
    assert site.build().returncode == 0
    assert site.proof()["01_a"]["ran_now"] is False


def test_times_when_pages_are_read_side_by_side(site):
    """The table of times changes with a lesson also when another process reads the pages."""
    for number in range(1, 7):
        site.lesson(f"0{number}_a", "assert True")
    assert site.build("-j", "2").returncode == 0
    assert site.page("index").count("<p>6</p>") == 2, "cells and checks"
    site.lesson("06_a", "assert True\nassert True")
    assert site.build("-j", "2").returncode == 0
    assert site.page("index").count("<p>7</p>") == 1


def test_no_setting_leaves_a_lesson_out(site):
    """Every lesson runs, whatever pattern its path follows: on Windows none followed one with slashes."""
    site.lesson("01_a", "assert True")
    site.lesson("02_b", "print('2 ran')")
    conf = site.root / "docs/conf.py"
    conf.write_text(conf.read_text() + '\nsphinx_gallery_conf["filename_pattern"] = "01_a"\n')
    assert site.build("-D", "plot_gallery=False").returncode == 0
    assert "2 ran" in site.page("lessons/one/02_b")


def test_a_chapter_that_does_not_run(site):
    """Execution switched off, or a cell that fails, stops the book."""
    site.lesson("01_a", "assert True")
    site.chapter("b", "print(1)")
    done = site.build("-D", "nb_execution_mode=off")
    assert done.returncode != 0
    assert "the cells of this chapter did not run" in done.stderr
    assert site.proof() is None
    site.chapter("b", "import warnings\nwarnings.warn('a warning is an error here')")
    done = site.build()
    assert done.returncode != 0
    assert site.proof() is None
