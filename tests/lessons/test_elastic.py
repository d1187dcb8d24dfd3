"""The core of the lesson on elastic training, as often as ELASTIC_RUNS says: kill, restart, resume, and the same bits.

Each run kills another process after another update. `ELASTIC_RUNS=50 pytest tests/lessons/test_elastic.py` is the long form.
"""

import ast
import os

import pytest

NAMES = ("IMPORTS", "FUNCTIONS", "CALL", "SETTINGS")
RUNS = int(os.environ.get("ELASTIC_RUNS", "2"))
UPDATES, EVERY = 48, 10


@pytest.fixture(scope="module")
def core(request):
    """Return the names that the lesson defines, without running its demonstrations."""
    path = request.config.rootpath / "gallery" / "distributed" / "04_elastic_training.py"
    kept = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        constant = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in NAMES
        if constant or isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)):
            kept.append(node)
    names = {}
    exec(compile(ast.Module(kept, []), str(path), "exec"), names)
    return names


@pytest.fixture(scope="module")
def undisturbed(core, tmp_path_factory):
    """Return the hash of the run that nobody kills."""
    folder = tmp_path_factory.mktemp("elastic") / "undisturbed"
    code, out, err = core["torchrun"](folder, every=EVERY)
    assert code == 0, err
    assert core["journal"](out) == [(0, step) for step in range(1, UPDATES + 1)]
    return core["fingerprint"](folder)


@pytest.mark.parametrize("number", range(RUNS))
def test_a_killed_run_ends_with_the_same_bits(number, core, undisturbed, tmp_path):
    """One process dies, all are started again, go on from the checkpoint, and both end with the undisturbed weights."""
    victim, fatal = (number + 1) % 2, (number * 17 + 26) % UPDATES + 1
    code, out, err = core["torchrun"](tmp_path / "killed", every=EVERY, victim=victim, fatal=fatal)
    assert code == 0, err
    attempts = core["journal"](out, victim)
    again = range(fatal // EVERY * EVERY + 1, UPDATES + 1)
    assert attempts == [(0, step) for step in range(1, fatal + 1)] + [(1, step) for step in again]
    assert [core["fingerprint"](tmp_path / "killed", rank) for rank in (0, 1)] == [undisturbed] * 2
