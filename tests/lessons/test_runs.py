"""Every lesson runs as a plain script in an empty folder and as a notebook, offline, and prints the same text."""

import re


def repeatable(text):
    """Drop the lines that say by their first word that they are measurements."""
    return re.sub(r"^measured.*\n", "", text, flags=re.MULTILINE)


def test_script_and_notebook_print_the_same(lesson, run_script, run_notebook):
    """Two runs in two ways: so nothing depends on the way, on earlier lessons or on chance."""
    script = run_script(lesson.path)
    assert script.returncode == 0, script.stderr
    assert script.stderr == ""
    assert script.stdout.strip(), "a lesson shows something"
    assert repeatable(run_notebook(lesson.path)) == repeatable(script.stdout)
