"""The lessons' assertions mean something: break a function of the package, and a lesson that uses it fails."""

import shutil

import pytest

# file, what it says, what it says when broken, a lesson that must notice
MUTANTS = {
    "addresses": ("tensors.py", "at % size * stride", "at % size + stride", "tensors/07_views_and_storage"),
    "stretching": (
        "tensors.py",
        "tuple(size[0] if size else 1",
        "tuple(size[0] if size else 2",
        "tensors/08_broadcasting",
    ),
    "sharing": (
        "tensors.py",
        "first.data_ptr() == second.data_ptr()",
        "first.data_ptr() != second.data_ptr()",
        "tensors/07_views_and_storage",
    ),
    "channels": ("datasets/_bundled.py", ".permute(0, 3, 1, 2)", ".permute(0, 3, 2, 1)", "tensors/02_numpy_on_a_photo"),
    "nodes": ("autograd.py", "if function not in children:", "if len(children) < 3:", "optimization/01_autograd_graph"),
    "clearing": (
        "train.py",
        "optimizer.zero_grad()\n                loss, expected",
        "loss, expected",
        "training/03_training_loop",
    ),
    "evaluation": ("evaluate.py", "totals[:, 0] / totals[:, 1]", "totals[:, 0] / 100", "training/03_training_loop"),
    "labels": (
        "datasets/_bundled.py",
        "torch.tensor(bunch.target)",
        "torch.tensor(bunch.target).roll(1)",
        "training/04_handwritten_digits",
    ),
    "ranks": (
        "distributed.py",
        "for number, rank in enumerate(ranks)]",
        "for number, rank in enumerate(ranks[::-1])]",
        "distributed/01_processes_and_collectives",
    ),
}


@pytest.mark.parametrize(("file", "sound", "broken", "noticing"), MUTANTS.values(), ids=MUTANTS)
def test_a_broken_function_breaks_a_lesson(file, sound, broken, noticing, root, play, tmp_path):
    """The package is copied and changed in one place; the lesson does not run to its end."""
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "src" / "pytorch_course" / file
    text = path.read_text(encoding="utf-8")
    assert text.count(sound) == 1, f"{file} no longer says {sound!r}: choose another place to break"
    path.write_text(text.replace(sound, broken), encoding="utf-8")
    run = play(root / "gallery" / f"{noticing}.py", package=tmp_path / "src")
    assert run.returncode != 0, f"{noticing} did not notice"
    assert "Error" in run.stderr
