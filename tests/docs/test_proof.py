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


def test_a_lesson_that_the_build_leaves_out(site):
    """A lesson that is not executed stops the book, however its page looks."""
    site.lesson("01_a", "assert True")
    site.lesson("02_skipped", "assert True")
    conf = site.root / "docs/conf.py"
    conf.write_text(conf.read_text() + '\nsphinx_gallery_conf["filename_pattern"] = "01_a"\n')
    done = site.build()
    assert done.returncode != 0
    assert "02_skipped.py: was not run" in done.stderr
    assert site.proof() is None


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
