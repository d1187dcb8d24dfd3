"""Whether a model still computes the same after it was exported to another runtime."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_Run = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True)
class Parity:
    """How far the outputs of an exported model are from those of the model.

    Attributes
    ----------
    runtime : str
        What ran the exported model.
    shapes : tuple of tuple of int
        Of every output, in order.
    absolute : float
        The largest difference of two numbers; ``nan`` if a number is.
    relative : float
        The largest difference in relation to the model's number. It means little where that number is almost 0.
    ok : bool
        Whether every number is within ``atol + rtol * abs(number of the model)``.
    """

    runtime: str
    shapes: tuple[tuple[int, ...], ...]
    absolute: float
    relative: float
    ok: bool

    def __str__(self) -> str:
        shapes = ", ".join(map(str, self.shapes))
        verdict = "agrees" if self.ok else "DIFFERS"
        return (
            f"{self.runtime} {verdict}: largest difference {self.absolute:.1e}, relative {self.relative:.1e}; {shapes}"
        )


def check_export(model: nn.Module, exported: Any, *inputs: Any, rtol: float = 1e-4, atol: float = 1e-5) -> Parity:
    """Run a model and its exported form on the same inputs and compare all outputs.

    Both run in evaluation mode and without gradients. Afterwards every submodule has its own mode back.

    Parameters
    ----------
    model : torch.nn.Module
        The original, on any device.
    exported : object
        What to compare with, in one of the forms listed in the notes.
    *inputs : Tensor
        What the model is called with.
    rtol, atol : float
        Relative and absolute tolerance, as in :func:`torch.testing.assert_close`.

    Returns
    -------
    Parity
        The largest differences. Its ``ok`` says whether they are within the tolerance.

    Raises
    ------
    ValueError
        If the number or a shape of the outputs differs, they are empty, or a runtime takes another number of inputs.
    TypeError
        If `exported` is none of those in the notes, or an output is no tensor.
    FileNotFoundError, ModuleNotFoundError
        If the file is missing, or the library that runs it.

    Notes
    -----
    The exported model may be:

    * a :class:`torch.export.ExportedProgram`;
    * anything that is called like the model, such as what :func:`torch.compile` returns;
    * ONNX, run by ONNX Runtime on the CPU: the path of an ``.onnx`` file, its bytes, what ``torch.onnx.export`` returns, or
      an ``onnxruntime.InferenceSession``;
    * OpenVINO: the path of an ``.xml`` file, a model, or a compiled model. A compiled model runs as it is. Everything else
      is compiled for the CPU with ``INFERENCE_PRECISION_HINT`` set to f32. Without the hint, OpenVINO takes bfloat16 on
      processors that have it (AVX512-BF16, AMX), and only two or three digits agree.

    Examples
    --------
    >>> model = nn.Linear(3, 2)
    >>> print(check_export(model, lambda x: model(x) + 1e-3, torch.ones(4, 3)).ok)
    False
    """
    runtime, run = _runner(exported)
    modules = [module for module in (model, exported) if isinstance(module, nn.Module)]
    with torch.no_grad(), _evaluation_mode(modules):
        wanted, found = list(_tensors(model(*inputs))), list(_tensors(run(inputs)))
    shapes, others = (tuple(tuple(output.shape) for output in outputs) for outputs in (wanted, found))
    if shapes != others:
        raise ValueError(f"the model's outputs have the shapes {list(shapes)}, those of {runtime} {list(others)}")
    if not sum(output.numel() for output in wanted):
        raise ValueError(f"the outputs have the shapes {list(shapes)}: there is nothing to compare")
    a, b = (torch.cat([_wide(output).flatten() for output in outputs]) for outputs in (wanted, found))
    difference = torch.where(a == b, 0.0, (a - b).abs())  # equal infinities do not differ
    relative = torch.where(difference == 0, 0.0, difference / a.abs())
    ok = bool(torch.isclose(b, a, rtol=rtol, atol=atol).all())
    return Parity(runtime, shapes, difference.max().item(), relative.max().item(), ok)


def _runner(exported: Any) -> tuple[str, _Run]:
    """The name of what runs `exported`, and a function that runs it on the model's inputs."""
    origin = type(exported).__module__.partition(".")[0]
    if isinstance(exported, torch.export.ExportedProgram):
        module = exported.module()
        return "torch.export", lambda inputs: module(*inputs)
    if isinstance(exported, torch.onnx.ONNXProgram):
        exported = exported.model_proto.SerializeToString()
    if isinstance(exported, (str, os.PathLike)):
        path = Path(exported)
        if path.suffix not in (".onnx", ".xml"):
            raise TypeError(f"exported is the path {path}, expected a file named .onnx (ONNX) or .xml (OpenVINO)")
        if not path.is_file():
            raise FileNotFoundError(f"there is no exported model at {path.resolve()}")
        return _onnx(str(path)) if path.suffix == ".onnx" else _openvino(str(path))
    if isinstance(exported, bytes) or origin == "onnxruntime":
        return _onnx(exported)
    if origin == "openvino":
        return _openvino(exported)
    if callable(exported):
        kind = type(exported).__name__
        return {"OptimizedModule": "torch.compile"}.get(kind, kind), lambda inputs: exported(*inputs)
    raise TypeError(
        f"exported is of type {type(exported).__name__}, expected a program, a callable, or ONNX or OpenVINO"
    )


def _onnx(source: Any) -> tuple[str, _Run]:
    """ONNX Runtime on a path, bytes or a session."""
    session = source
    if isinstance(source, (str, bytes)):
        session = _need("onnxruntime", "an ONNX model").InferenceSession(source, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return "ONNX Runtime", lambda inputs: session.run(None, dict(zip(names, _arrays(inputs, names), strict=True)))


def _openvino(source: Any) -> tuple[str, _Run]:
    """OpenVINO on a path, a model or a compiled model."""
    compiled = source
    if not hasattr(source, "create_infer_request"):
        core = _need("openvino", "an OpenVINO model").Core()
        compiled = core.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [argument.any_name if argument.names else str(index) for index, argument in enumerate(compiled.inputs)]
    return "OpenVINO", lambda inputs: list(compiled(_arrays(inputs, names)).values())


def _need(library: str, what: str) -> Any:
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"exported is {what}, and {library} is needed to run it: install it with `pip install {library}`",
            name=library,
        ) from error


def _arrays(inputs: Sequence[Any], names: Sequence[str]) -> list[Any]:
    arrays = [tensor.numpy() for tensor in _tensors(inputs)]
    if len(arrays) != len(names):
        raise ValueError(f"the exported model takes {len(names)} inputs ({', '.join(names)}), and {len(arrays)} came")
    return arrays


def _wide(output: Tensor) -> Tensor:
    return output.to(torch.complex128 if output.is_complex() else torch.float64)


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings, on the CPU."""
    if isinstance(value, Tensor):
        yield value.detach().cpu()
    elif isinstance(value, np.ndarray):
        yield torch.from_numpy(value)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    else:
        raise TypeError(f"an input or output is of type {type(value).__name__}, expected tensors")


@contextmanager
def _evaluation_mode(models: Sequence[nn.Module]) -> Iterator[None]:
    # Not through eval(): the modules inside an exported program refuse it.
    modes = [(module, module.training) for model in models for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
