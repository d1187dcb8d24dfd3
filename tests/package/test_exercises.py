"""`expect`: every message, what counts as not done, and the difference between a reader and the build."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, tensor

from pytorch_course.distributed import launch
from pytorch_course.exercises import TOLERANCES, expect

ONE_TO_SIX = torch.arange(1.0, 7).reshape(2, 3)
SQUARE = tensor([[1.0, 2.0], [3.0, 4.0]])


@pytest.fixture(autouse=True)
def reader(monkeypatch):
    """Run as in a reader's hands, whatever the environment of the tests says."""
    monkeypatch.delenv("PYTORCH_COURSE_STRICT", raising=False)


@pytest.fixture
def strict(monkeypatch):
    """Run as in the build."""
    monkeypatch.setenv("PYTORCH_COURSE_STRICT", "1")


def stub(*_):
    """Hold what the reader has not written yet."""
    raise NotImplementedError  # your code


RIGHT = [
    (3, 3),
    (3.0, 3),
    (0.1 + 0.2, 0.3),
    (np.float32(0.1), 0.1000000015),
    (True, True),
    ("mean", "mean"),
    (None, None),
    ((3, 4), torch.zeros(3, 4).shape),
    ([1, (2, "a")], (1, [2, "a"])),
    (torch.float32, torch.float32),
    (np.dtype("int64"), np.arange(3).dtype),
    (torch.device("cpu"), torch.zeros(1).device),
    (np.arange(3)[::-1], np.array([2, 1, 0])),
    (np.array(["a", "b"]), np.array(["a", "b"])),
    (ONE_TO_SIX, lambda: ONE_TO_SIX.clone()),
    (tensor([1.0, torch.nan, torch.inf]), tensor([1.0, torch.nan, torch.inf])),
    (tensor([True, False]), tensor([True, False])),
    (tensor([1 + 2j]), tensor([1 + 2j])),
    (torch.zeros(0, 3), torch.zeros(0, 3)),
    (ONE_TO_SIX.clone().requires_grad_(), ONE_TO_SIX),
    ([SQUARE, 2], [SQUARE, 2]),
]


@pytest.mark.parametrize(("yours", "right"), RIGHT)
def test_right(yours, right, capsys, strict):
    """What is right is said in one line, as a value and as a function."""
    expect(yours, right)
    expect(lambda: yours, right)
    assert capsys.readouterr().out == "right\nright\n"


WRONG = {
    "nothing came back (None), expected a tensor: did you forget `return`?": (lambda: None, SQUARE),
    "yours is a number, expected a tensor": (3.0, tensor(3.0)),
    "yours is a tensor, expected a number: `.item()` takes the number out": (tensor(3.0), 3.0),
    "yours is a bool, expected a number": (True, 1),
    "yours is a value of type set, expected a list or tuple": ({1}, [1]),
    "yours 'sum', expected 'mean'": ("sum", "mean"),
    "yours torch.int64, expected torch.float32": (torch.int64, torch.float32),
    "yours 3, expected 4": (3, 4),
    "yours False, expected True": (False, True),
    "the value is 2 times too large: yours is 0.5, expected 0.25": (0.5, 0.25),
    "yours is 0.3, expected 0.25": (0.3, 0.25),
    "yours has length 1, expected 2: yours (3,), expected torch.Size([3, 4])": ((3,), torch.Size([3, 4])),
    "at position 1: yours 5, expected 4": ((3, 5), (3, 4)),
    "at position 0: at position 1: yours 'b', expected 'c'": ([["a", "b"]], [["a", "c"]]),
    "yours has shape (2,), expected (3,)": (torch.zeros(2), torch.zeros(3)),
    "yours has shape (3, 2), expected (2, 3): the same sizes in another order, so an axis is transposed": (
        ONE_TO_SIX.T,
        ONE_TO_SIX,
    ),
    "yours has shape (3,), expected (3, 1): they differ by axes of size 1 (`squeeze`, `unsqueeze`, `keepdim`); "
    "an operation on both would silently broadcast to (3, 3)": (torch.zeros(3), torch.zeros(3, 1)),
    "yours has shape (3,), expected (2, 3); an operation on both would silently broadcast to (2, 3)": (
        torch.zeros(3),
        torch.zeros(2, 3),
    ),
    "yours has dtype torch.float64, expected torch.float32: `.to(...)` changes it": (SQUARE.double(), SQUARE),
    "yours has dtype int64, expected float64: `.astype(...)` changes it": (np.arange(3), np.arange(3.0)),
    "yours is on device meta, expected cpu: `.to(device)` moves it": (SQUARE.to("meta"), SQUARE),
    "yours is cut off from the graph: no gradient flows back (`detach`, `item`, `no_grad`, `torch.tensor(...)`?)": (
        SQUARE,
        nn.Parameter(SQUARE),
    ),
    "yours is nan at index [1], expected 2; 1 of 3 values are not finite": (
        tensor([9.0, torch.nan, 3.0]),
        tensor([1.0, 2.0, 3.0]),
    ),
    "yours is -inf at index [0], expected 1; 1 of 1 values are not finite": (tensor([-torch.inf]), tensor([1.0])),
    "yours is 1 at index [0], expected nan; 1 of 1 values are wrong": (tensor([1.0]), tensor([torch.nan])),
    "every value is 2 times too large: yours is 2 at index [0, 0], expected 1; 4 of 4 values are wrong": (
        2 * SQUARE,
        SQUARE,
    ),
    "every value is 4 times too small: yours is 0.25 at index [0, 0], expected 1; 4 of 4 values are wrong": (
        SQUARE / 4,
        SQUARE,
    ),
    "every value has the wrong sign: yours is -1 at index [0, 0], expected 1; 4 of 4 values are wrong": (
        -SQUARE,
        SQUARE,
    ),
    "every value is 0.5 too large: yours is 1.5 at index [0, 0], expected 1; 4 of 4 values are wrong": (
        SQUARE + 0.5,
        SQUARE,
    ),
    "every value is 1 too small: yours is 0 at index [0], expected 1; 2 of 2 values are wrong": (
        np.array([0, 1]),
        np.array([1, 2]),
    ),
    "axes 0 and 1 are swapped (transposed): yours is 3 at index [0, 1], expected 2; 2 of 4 values are wrong": (
        SQUARE.T,
        SQUARE,
    ),
    "yours is 9 at index [1, 0], expected 3; 1 of 4 values are wrong": (tensor([[1.0, 2.0], [9.0, 4.0]]), SQUARE),
    "yours is False at index [1], expected True; 1 of 2 values are wrong": (
        tensor([True, False]),
        tensor([True, True]),
    ),
    "yours is 1.00002 at index [0], expected 1; 1 of 2 values are wrong": (tensor([1.00002, 2.0]), tensor([1.0, 2.0])),
    "yours is 0+1j at index [0], expected 1+1j; 1 of 1 values are wrong": (tensor([1j]), tensor([1 + 1j])),
    "at position 0: yours 'a', expected 'b'": (np.array(["a"]), np.array(["b"])),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong(message, capsys):
    """Each difference has its explanation."""
    expect(*WRONG[message])
    assert capsys.readouterr().out.splitlines()[0] == f"not right yet: {message}"


def test_small_tensors_stand_side_by_side(capsys):
    """Both are shown in full when they fit, and not when they do not."""
    expect(tensor([[1.0, 2.0], [9.0, 4.0]]), SQUARE)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "    yours       expected",
        "    [[1. 2.]    [[1. 2.]",
        "     [9. 4.]]    [3. 4.]]",
    ]
    expect(torch.zeros(25), torch.ones(25))
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize(
    ("yours", "right"),
    [
        (lambda: stub(), 3),
        (3, lambda: stub()),
        (..., 3),
        (lambda: ..., 3),
        ((..., 4), (3, 4)),
        (lambda: ... * 2, 3),
        (lambda: (...).shape, 3),
        (None, 3),
    ],
)
def test_not_done(yours, right, capsys, monkeypatch):
    """A stub is not done, wherever it is called from; in the build it is an error."""
    expect(yours, right)
    assert capsys.readouterr().out.startswith("not done yet")
    monkeypatch.setenv("PYTORCH_COURSE_STRICT", "1")
    with pytest.raises(AssertionError, match="not done yet"):
        expect(yours, right)


def test_a_stub_on_other_processes_is_not_done(capsys):
    """The LaunchError of a stub that every rank calls is no wrong answer."""

    def unwritten():  # inside the test, so that it is sent and not looked up by name
        raise NotImplementedError  # your code

    expect(lambda: launch(unwritten, nproc=2), [1, 1])
    assert capsys.readouterr().out == "not done yet\n"


def test_none_as_a_value_asks_for_return(capsys):
    """A function without return, called by the reader, gives None."""
    expect(None, 3)
    assert capsys.readouterr().out == "not done yet: this is None (did you forget `return`?)\n"


def test_what_libraries_have_not_implemented_is_no_stub(capsys):
    """A module without ``forward`` raises the same class, with a text."""
    expect(lambda: nn.Module()(1), 3)
    assert "your code stopped with NotImplementedError: Module [Module] is missing" in capsys.readouterr().out


def test_an_exception_is_shown_at_the_line_of_the_reader(capsys, monkeypatch):
    """Not where the library raised it; the build gets the exception itself."""

    def product():
        return torch.zeros(2, 3) @ torch.nn.functional.relu(torch.zeros(2, 3))

    def linear():
        return nn.Linear(2, 3)(torch.zeros(4))  # raised inside torch.nn

    expect(product, 3)
    assert "in product: return torch.zeros(2, 3) @" in capsys.readouterr().out
    expect(linear, 3)
    said = capsys.readouterr().out
    assert said.startswith("not right yet: your code stopped with RuntimeError: ")
    assert said.endswith("in linear: return nn.Linear(2, 3)(torch.zeros(4))  # raised inside torch.nn\n")
    monkeypatch.setenv("PYTORCH_COURSE_STRICT", "1")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        expect(linear, 3)


def test_the_build_raises(strict, capsys):
    """A wrong answer is an error there, with the same explanation."""
    with pytest.raises(AssertionError, match="yours 3, expected 4"):
        expect(3, 4)
    assert capsys.readouterr().out == ""


def test_what_cannot_be_compared_is_refused():
    """The exercise itself is at fault, so it says so in the reader's hands too."""
    with pytest.raises(TypeError, match="right is a value of type dict, expected a tensor"):
        expect({}, {})


@settings(deadline=None)
@given(st.sampled_from(sorted(TOLERANCES, key=str)), st.floats(-1e3, 1e3), st.sampled_from([0.5, 0.9, 1.1, 2.0]))
def test_tolerances_are_those_of_torch(dtype, value, share):
    """`expect` accepts and refuses what `torch.testing.assert_close` does."""
    right = tensor([value], dtype=dtype)
    yours = right + share * (TOLERANCES[dtype][1] + TOLERANCES[dtype][0] * abs(value))
    try:
        torch.testing.assert_close(yours, right)
        close = True
    except AssertionError:
        close = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTORCH_COURSE_STRICT", "1")
        if close:
            expect(yours, right)
        else:
            with pytest.raises(AssertionError):
                expect(yours, right)


def test_given_tolerances(strict):
    """They replace those of the dtype, for integers too."""
    expect(tensor([1.0, 2.0]), tensor([1.1, 2.1]), atol=0.2)
    expect(tensor([100, 200]), tensor([101, 201]), rtol=0.02)
    expect(100, 101, atol=1)
    with pytest.raises(AssertionError):
        expect(tensor([1.0, 2.0]), tensor([1.000001, 2.0]), rtol=0, atol=0)
    with pytest.raises(AssertionError, match=r"yours is 0.100000001, expected 0.1"):  # digits enough to see it
        expect(0.100000001, 0.1, rtol=1e-12, atol=0)
