"""Tests of `pytorch_course.export`."""

import dataclasses
import sys

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from pytorch_course.export import Parity, check_export
from pytorch_course.models import GPT, LeNet


class Pair(nn.Module):
    """Two inputs, two outputs of different shapes, and layers that act otherwise in training."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.norm = nn.Linear(5, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)

    def forward(self, x, y):
        z = self.norm(self.drop(self.first(x)))
        return z, (z * y).sum(1)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Pair()


@pytest.fixture
def inputs():
    return torch.randn(6, 5), torch.randn(6, 4)


@pytest.fixture(scope="module")
def lenet():
    """A model, its inputs, its ONNX program and its OpenVINO model: exported once, because that takes seconds."""
    torch.manual_seed(0)
    model, x = LeNet().eval(), torch.randn(4, 1, 28, 28)
    program = torch.export.export(model, (x,))
    return model, x, program, torch.onnx.export(program, verbose=False), openvino.convert_model(program)


def agrees(parity, runtime, shapes=((4, 10),)):
    """Whether the exported LeNet agreed, and ran where it should."""
    assert parity.runtime == runtime
    assert parity.shapes == shapes
    assert parity.absolute < 1e-4
    return parity.ok


# Torch itself


def test_an_exported_program_agrees_and_modes_come_back(pair, inputs):
    pair.drop.eval()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    program = torch.export.export(pair.eval(), inputs)
    pair.train()
    pair.drop.eval()
    parity = check_export(pair, program, *inputs)
    assert agrees(parity, "torch.export", ((6, 4), (6,)))
    assert (pair.training, pair.drop.training, pair.norm.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


def test_a_compiled_module_agrees(pair, inputs):
    compiled = torch.compile(pair, backend="eager")
    assert agrees(check_export(pair, compiled, *inputs), "torch.compile", ((6, 4), (6,)))
    assert pair.training


def test_a_compiled_function_agrees(pair, inputs):
    assert check_export(pair, torch.compile(pair.forward, backend="eager"), *inputs).ok


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:FutureWarning")  # the subject of this test
def test_a_scripted_module_agrees(pair, inputs):
    assert agrees(check_export(pair, torch.jit.script(pair), *inputs), "RecursiveScriptModule", ((6, 4), (6,)))


def test_the_module_of_a_program_agrees(pair, inputs):
    module = torch.export.export(pair.eval(), inputs).module()
    assert check_export(pair, module, *inputs).ok


def test_modes_come_back_after_an_error(pair):
    def fail(*_):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match=r"^no$"):
        check_export(pair, fail, torch.zeros(2, 5), torch.zeros(2, 4))
    assert pair.training and pair.drop.training


def test_no_graph_is_recorded(pair, inputs):
    seen = []

    def run(x, y):
        seen.append(torch.is_grad_enabled())
        return pair(x, y)

    check_export(pair, run, *inputs)
    assert seen == [False]


# The figures


def figures(wanted, found, **tolerances):
    """Compare two constant outputs."""
    model = nn.Module()
    model.forward = lambda: wanted
    return check_export(model, lambda: found, **tolerances)


def test_differences_by_hand():
    parity = figures(torch.tensor([1.0, -4.0, 0.0]), torch.tensor([1.5, -4.0, 0.0]))
    assert parity == Parity("function", ((3,),), 0.5, 0.5, False)
    assert figures(torch.tensor([4.0]), torch.tensor([5.0])).relative == 0.25
    assert figures(torch.tensor([4.0]), torch.tensor([5.0]), rtol=0.25).ok
    assert figures(torch.tensor([4.0]), torch.tensor([5.0]), atol=0.99, rtol=0).ok is False
    assert figures(torch.tensor([0.0]), torch.tensor([1e-6])) == Parity(
        "function", ((1,),), pytest.approx(1e-6), torch.inf, True
    )


def test_the_worst_of_all_outputs_counts():
    assert figures((torch.ones(2), torch.ones(3)), [torch.ones(2), torch.tensor([1.0, 1.0, 3.0])]).absolute == 2
    assert figures({"a": torch.ones(2)}, np.ones(2)).ok
    assert figures(torch.tensor([True]), torch.tensor([False])).absolute == 1
    assert figures(torch.tensor([2**40]), torch.tensor([2**40 + 1]), rtol=0).absolute == 1
    assert figures(torch.tensor([3 + 4j]), torch.tensor([0j])).absolute == 5


def test_infinities_and_nan():
    inf, nan = torch.tensor([torch.inf]), torch.tensor([torch.nan])
    assert figures(inf, inf) == Parity("function", ((1,),), 0.0, 0.0, True)
    assert not figures(inf, torch.ones(1)).ok
    assert not figures(inf, -inf).ok
    assert not figures(torch.ones(1), inf).ok
    for parity in (figures(nan, nan), figures(nan, torch.ones(1)), figures(torch.ones(1), nan)):
        assert not parity.ok
        assert np.isnan(parity.absolute) and np.isnan(parity.relative)


def test_the_print_out():
    text = str(figures(torch.ones(2, 3), torch.ones(2, 3)))
    assert text == "function agrees: largest difference 0.0e+00, relative 0.0e+00; (2, 3)"
    text = str(figures((torch.ones(1), torch.ones(2)), (torch.ones(1), torch.zeros(2))))
    assert text == "function DIFFERS: largest difference 1.0e+00, relative 1.0e+00; (1,), (2,)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        figures(torch.ones(1), torch.ones(1)).ok = False


# ONNX Runtime


def test_every_form_of_onnx_agrees(lenet, tmp_path):
    model, x, _, program, _ = lenet
    path = tmp_path / "lenet.onnx"
    program.save(path)
    data = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for exported in (path, str(path), data, session, program):
        assert agrees(check_export(model, exported, x), "ONNX Runtime")


def test_another_model_differs(lenet):
    _, x, program, onnx, compiled = lenet
    torch.manual_seed(1)
    other = LeNet()
    for exported in (program, onnx, compiled):
        parity = check_export(other, exported, x)
        assert not parity.ok
        assert parity.absolute > 0.01


def test_whole_numbers_and_several_inputs_go_through_onnx(pair, inputs):
    names = {"input_names": ["x", "y"], "output_names": ["z", "sum"]}
    program = torch.onnx.export(pair.eval(), inputs, verbose=False, **names)
    assert agrees(check_export(pair, program, *inputs), "ONNX Runtime", ((6, 4), (6,)))
    with pytest.raises(ValueError, match=r"takes 2 inputs \(x, y\), and 1 came"):
        check_export(pair.first, program, inputs[0])
    gpt, tokens = GPT(11, context=8, width=16).eval(), torch.arange(8)[None]
    assert agrees(
        check_export(gpt, torch.onnx.export(gpt, (tokens,), verbose=False), tokens), "ONNX Runtime", ((1, 8, 11),)
    )


# OpenVINO


def test_every_form_of_openvino_agrees(lenet, tmp_path):
    model, x, _, _, converted = lenet
    path = tmp_path / "lenet.xml"
    openvino.save_model(converted, path, compress_to_fp16=False)
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for exported in (path, str(path), converted, compiled):
        assert agrees(check_export(model, exported, x), "OpenVINO")


def test_a_compiled_model_runs_as_it_is(lenet):
    model, x, _, _, converted = lenet
    compiled = openvino.compile_model(converted, "CPU")
    default = np.abs(compiled([x.numpy()])[0] - model(x).detach().numpy()).max()
    assert check_export(model, compiled, x).absolute == pytest.approx(default, rel=1e-3)


def test_openvino_takes_several_inputs(pair, inputs):
    converted = openvino.convert_model(torch.export.export(pair.eval(), inputs))
    assert agrees(check_export(pair, converted, *inputs), "OpenVINO", ((6, 4), (6,)))
    with pytest.raises(ValueError, match=r"takes 2 inputs \(.*\), and 1 came"):
        check_export(pair.first, converted, inputs[0])


# Mistakes


@pytest.mark.parametrize(
    ("exported", "error", "message"),
    [
        ("model.pt", TypeError, r"exported is the path model\.pt, expected a file named \.onnx \(ONNX\) or \.xml"),
        ("nowhere.onnx", FileNotFoundError, r"there is no exported model at .*nowhere\.onnx"),
        (3, TypeError, "exported is of type int, expected a program, a callable, or ONNX or OpenVINO"),
        (lambda _: torch.zeros(2, 3), ValueError, r"shapes \[\(2, 2\)\], those of function \[\(2, 3\)\]"),
        (
            lambda _: (torch.zeros(2, 2),) * 2,
            ValueError,
            r"shapes \[\(2, 2\)\], those of function \[\(2, 2\), \(2, 2\)\]",
        ),
        (lambda _: "four", TypeError, "an input or output is of type str, expected tensors"),
    ],
)
def test_mistakes_are_named(exported, error, message):
    with pytest.raises(error, match=message):
        check_export(nn.Identity(), exported, torch.zeros(2, 2))


def test_nothing_to_compare_is_no_agreement():
    with pytest.raises(ValueError, match=r"\[\(0, 2\)\]: there is nothing to compare"):
        check_export(nn.Identity(), nn.Identity(), torch.zeros(0, 2))


@pytest.mark.parametrize(("library", "suffix"), [("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_a_missing_library_is_named(library, suffix, tmp_path, monkeypatch):
    path = tmp_path / f"model{suffix}"
    path.touch()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ModuleNotFoundError, match=f"{library} is needed to run it: install it with `pip install {library}`"
    ):
        check_export(nn.Identity(), path, torch.zeros(1))


def test_runtimes_are_imported_only_when_needed(monkeypatch):
    for library in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, library, None)
    assert check_export(nn.Identity(), nn.Identity(), torch.ones(1)).ok
