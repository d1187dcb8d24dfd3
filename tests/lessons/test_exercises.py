"""The trial of exercises that every lesson undergoes finds each fault that it is there for."""

import pytest


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
def test_faults_are_named(root, tmp_path, play, old, new, said):
    """The sample lesson has none; each change plants one."""
    text = (root / "gallery" / "sample_lesson.py").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "01_sample.py"
    path.write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
    found = play(path).problems
    assert any(said in problem for problem in found) if said else found == []
