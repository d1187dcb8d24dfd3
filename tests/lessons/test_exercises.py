"""The exercises of every lesson: answers pass, wrong answers do not, and without an answer the script runs to its end."""

import json
from pathlib import Path

import pytest

ANSWERS = Path(__file__).with_name("answers.py")


@pytest.fixture
def problems(run_script):
    """Return a function that tries the exercises of one script and returns what is wrong with them."""

    def run(path):
        done = run_script(ANSWERS, str(path))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_exercises(lesson, problems):
    """They know right from wrong and from not done."""
    assert problems(lesson.path) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", None),
        ("torch.tensor([[4.0, 4.0], [9.0, 3.5], [6.0, 2.0]]))", "by_value(small), atol=9)", "a wrong answer passes"),
        (
            "expect(lambda: by_value(small)",
            "by_value(small)\nexpect(lambda: by_value(small)",
            "the stub stops the script",
        ),
        ("expect(lambda: by_value(small)", "expect(3, 3)\nexpect(lambda: by_value(small)", "judged without an answer"),
        ("expect(lambda: by_value(small), torch", "print(torch", "nothing is 'not done yet'"),
    ],
)
def test_faults_are_named(root, tmp_path, problems, old, new, said):
    """The sample lesson has none; each change plants one."""
    text = (root / "gallery" / "sample_lesson.py").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "01_sample.py"
    path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    found = problems(path)
    assert any(said in problem for problem in found) if said else found == []
