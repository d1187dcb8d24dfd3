"""Arithmetic of convolutions: output sizes, receptive fields, and the shapes inside a model.

The size formulas are those of Dumoulin and Visin (2016), *A guide to convolution arithmetic for deep learning*,
arXiv:1603.07285. The receptive fields follow Araujo, Norris and Sim (2019), *Computing Receptive Fields of
Convolutional Neural Networks*, Distill, doi:10.23915/distill.00021.
"""

from __future__ import annotations

import copy
import html
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from torch import nn

Shape = tuple[int, ...]


def conv_output(n: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    r"""Return the output size of a convolution or pooling along one axis.

    The size is :math:`\lfloor (n + 2p - d(k - 1) - 1) / s \rfloor + 1` for input size :math:`n`, kernel :math:`k`,
    stride :math:`s`, padding :math:`p` on each side and dilation :math:`d` (Dumoulin and Visin, 2016).

    Parameters
    ----------
    n : int
        Input size.
    kernel : int
        Kernel size.
    stride : int, default 1
        Input positions from one output to the next.
    padding : int, default 0
        Positions added on each side of the input.
    dilation : int, default 1
        Input positions from one tap of the kernel to the next.

    Returns
    -------
    int
        Number of outputs.

    Raises
    ------
    ValueError
        If a number is out of range, or the kernel does not fit into the padded input.

    Examples
    --------
    >>> conv_output(28, kernel=5)
    24
    >>> conv_output(28, kernel=3, stride=2, padding=1)
    14
    """
    _check(1, n=n, kernel=kernel, stride=stride, dilation=dilation)
    _check(0, padding=padding)
    reach, room = dilation * (kernel - 1) + 1, n + 2 * padding
    if reach > room:
        raise ValueError(f"the kernel covers {reach} positions, but the padded input has only {room}")
    return (room - reach) // stride + 1


def conv_transpose_output(
    n: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    r"""Return the output size of a transposed convolution along one axis.

    The size is :math:`(n - 1)s - 2p + d(k - 1) + o + 1`, where :math:`o` is the output padding and the other letters
    are those of :func:`pytorch_course.convolution.conv_output` (Dumoulin and Visin, 2016).

    Parameters
    ----------
    n : int
        Input size.
    kernel : int
        Kernel size.
    stride : int, default 1
        Output positions from one input to the next.
    padding : int, default 0
        Positions cut from each side of the output.
    output_padding : int, default 0
        Positions added at the end of the output; less than the stride or the dilation.
    dilation : int, default 1
        Output positions from one tap of the kernel to the next.

    Returns
    -------
    int
        Number of outputs.

    Raises
    ------
    ValueError
        If a number is out of range, or nothing is left of the output.

    Examples
    --------
    >>> conv_transpose_output(14, kernel=4, stride=2, padding=1)
    28
    """
    _check(1, n=n, kernel=kernel, stride=stride, dilation=dilation)
    _check(0, padding=padding, output_padding=output_padding)
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding must be less than stride or dilation, {max(stride, dilation)}: {output_padding}"
        )
    size = (n - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1
    if size < 1:
        raise ValueError(f"nothing is left: the output would have size {size}; padding cuts {padding} from each side")
    return size


def _check(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} must be an int, got {number!r}")
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")


@dataclass(frozen=True)
class Field:
    """What one layer's outputs see of the input, along each axis.

    Output ``i`` sees the inputs from ``start + i * jump`` to ``start + i * jump + size - 1``. Positions before the
    first input, or after the last, lie in the padding.

    Attributes
    ----------
    name : str
        The layer's name in the stack.
    size : int
        Inputs from the first to the last that one output sees: the receptive field.
    jump : int
        Inputs from one output's field to the next one's: the product of the strides.
    start : int
        First input that output 0 sees; negative if padding comes first.
    """

    name: str
    size: int
    jump: int
    start: int


# Layers that compute each position from the same position alone. Batch normalisation does so in evaluation mode.
_POINTWISE = (
    *(nn.Identity, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.LocalResponseNorm),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Hardsigmoid, nn.Tanh, nn.Tanhshrink, nn.Hardtanh, nn.Hardswish, nn.Hardshrink),
    *(nn.Softplus, nn.Softshrink, nn.Softsign, nn.Threshold, nn.Softmax2d, nn.ChannelShuffle),
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def receptive_field(module: nn.Module) -> list[Field]:
    r"""Follow the receptive field through a sequential stack of layers.

    A layer with kernel :math:`k`, stride :math:`s`, padding :math:`p` and dilation :math:`d` turns the size :math:`r`,
    the jump :math:`j` and the start :math:`a` into :math:`r + d(k - 1)j`, :math:`js` and :math:`a - pj` (Araujo, Norris
    and Sim, 2019). Before the first layer they are 1, 1 and 0.

    Parameters
    ----------
    module : torch.nn.Module
        A convolution, a pooling or a pointwise layer, or a :class:`torch.nn.Sequential` of them, nested or not. Each
        layer treats all axes alike.

    Returns
    -------
    list of Field
        One field per layer, in order.

    Raises
    ------
    TypeError
        If a layer is of another kind; the message names it.
    ValueError
        If a layer's kernel, stride, padding or dilation differs between axes.

    Examples
    --------
    >>> for field in receptive_field(nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))):
    ...     print(field)
    Field(name='0', size=5, jump=1, start=-2)
    Field(name='1', size=5, jump=1, start=-2)
    Field(name='2', size=6, jump=2, start=-2)
    """
    fields: list[Field] = []
    size, jump, start = 1, 1, 0
    for name, layer in _stack(module, ""):
        kernel, stride, padding, dilation = _window(layer, name)
        size += dilation * (kernel - 1) * jump
        start -= padding * jump
        jump *= stride
        fields.append(Field(name, size, jump, start))
    return fields


def _stack(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        yield name or type(module).__name__, module
        return
    for child_name, child in zip(module._modules, module, strict=True):  # named_children() skips a layer used twice
        yield from _stack(child, f"{name}.{child_name}" if name else child_name)


def _window(layer: nn.Module, name: str) -> tuple[int, int, int, int]:
    """Kernel, stride, padding before the first input and dilation of one layer."""
    if isinstance(layer, _POINTWISE):
        return 1, 1, 0, 1
    if not isinstance(layer, _CONVOLUTIONS + _POOLS):
        raise TypeError(
            f"cannot follow {type(layer).__name__} at {name!r}: receptive_field() knows convolutions, pooling and"
            " pointwise layers in an nn.Sequential; pass the part before it"
        )
    kernel = _alike(layer, name, "kernel_size")
    dilation = _alike(layer, name, "dilation")
    stride = _alike(layer, name, "stride")
    if layer.padding == "same":
        return kernel, stride, dilation * (kernel - 1) // 2, dilation
    return kernel, stride, 0 if layer.padding == "valid" else _alike(layer, name, "padding"), dilation


def _alike(layer: nn.Module, name: str, attribute: str) -> int:
    """Read a layer's setting that is the same on every axis."""
    value = getattr(layer, attribute, 1)  # average pooling has no dilation
    values = set(value) if isinstance(value, tuple | list) else {value}
    if len(values) > 1:
        raise ValueError(f"{attribute} {value} of {name!r} differs between axes; receptive_field() needs it alike")
    return int(values.pop())


@dataclass(frozen=True)
class Traced:
    """One call of one module, as seen by :func:`pytorch_course.convolution.trace_shapes`.

    Attributes
    ----------
    name : str
        The module's name in the model; empty for the model itself.
    kind : str
        Name of the module's class.
    outputs : tuple of tuple of int, or None
        Shape of every tensor that came out, or None if the module was never called.
    parameters : int
        Number of parameters in the module and the modules inside it, each counted once.
    """

    name: str
    kind: str
    outputs: tuple[Shape, ...] | None
    parameters: int

    @property
    def shape(self) -> Shape:
        """Shape of the only output.

        Raises
        ------
        ValueError
            If the module was not called, or has not exactly one output tensor.
        """
        if self.outputs is None or len(self.outputs) != 1:
            raise ValueError(f"{self.name or 'the model'} has no single output: {self._told()}")
        return self.outputs[0]

    def _told(self) -> str:
        if self.outputs is None:
            return "not called"
        return ", ".join(map(str, self.outputs)) or "no tensor"


@dataclass(frozen=True)
class Shapes:
    """Output shapes and parameter counts. Made by :func:`pytorch_course.convolution.trace_shapes`.

    Attributes
    ----------
    rows : tuple of Traced
        The model, then its modules in the order in which they are called, then those that are never called.
    """

    rows: tuple[Traced, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters in the whole model."""
        return self.rows[0].parameters

    def __getitem__(self, name: str) -> Traced:
        """Return the first call of the module with this name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no module is called {name!r}; there are {', '.join(row.name for row in self.rows[1:])}")

    def __str__(self) -> str:
        table = [("layer", "kind", "output", "parameters"), *self._cells()]
        wide = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join(
            f"{name:<{wide[0]}}  {kind:<{wide[1]}}  {output:<{wide[2]}}  {parameters:>{wide[3]}}"
            for name, kind, output, parameters in table
        )

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{text}</th>' for text in ("layer", "kind", "output", "parameters"))
        body = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(kind)}</td><td>{output}</td>'
            f'<td class="pc-number">{parameters}</td></tr>'
            for name, kind, output, parameters in self._cells()
        )
        return (
            '<table class="pc-table pc-shapes"><caption>Output shape and parameters of every layer</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _cells(self) -> list[tuple[str, str, str, str]]:
        return [(row.name or "(model)", row.kind, row._told(), f"{row.parameters:,}") for row in self.rows]


def trace_shapes(model: nn.Module, *shapes: Sequence[SupportsIndex] | torch.Tensor) -> Shapes:
    """Find the output shape and the parameter count of every submodule.

    A copy of the model runs on the meta device, where tensors have shapes but no values: nothing is computed, and the
    model, its buffers, its hooks and the random state stay as they are. The copy keeps the training mode and has no
    hooks.

    Parameters
    ----------
    model : torch.nn.Module
        Any model whose shapes do not depend on values.
    *shapes : tuple of int, or torch.Tensor
        One per input of the model. A shape stands for floating-point numbers of the parameters' dtype; a tensor lends
        its shape and its dtype, such as integers for :class:`torch.nn.Embedding`.

    Returns
    -------
    Shapes
        One row per call of a module.

    Raises
    ------
    TypeError
        If the model is not a module, or a shape is not made of integers.
    ValueError
        If the model has lazy layers that have never run.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(1, 6, 5), nn.Flatten(), nn.Linear(3456, 10))
    >>> print(trace_shapes(model, (1, 1, 28, 28)))
    layer    kind        output          parameters
    (model)  Sequential  (1, 10)             34,726
    0        Conv2d      (1, 6, 24, 24)         156
    1        Flatten     (1, 3456)                0
    2        Linear      (1, 10)             34,570
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    twin = _twin(model)
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.get_default_dtype())
    inputs = [_input(shape, position, dtype) for position, shape in enumerate(shapes)]
    calls = _run(twin, inputs)
    called = {name for name, _ in calls}
    silent = [(name, None) for name, m in model.named_modules() if name not in called and not any(m.children())]
    modules = dict(model.named_modules())
    return Shapes(
        tuple(
            Traced(name, type(modules[name]).__name__, outputs, sum(p.numel() for p in modules[name].parameters()))
            for name, outputs in [*calls, *silent]
        )
    )


def _input(shape: Sequence[SupportsIndex] | torch.Tensor, position: int, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(shape, torch.Tensor):
        return torch.empty_like(shape, device="meta")
    try:
        return torch.empty([operator.index(size) for size in shape], dtype=dtype, device="meta")
    except TypeError:
        raise TypeError(f"shape {position} must be a tuple of ints or a tensor, got {shape!r}") from None


def _twin(model: nn.Module) -> nn.Module:
    """Copy a model to the meta device, without copying its weights first and without its hooks."""
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        for t in [*module.parameters(recurse=False), *module.buffers(recurse=False), *vars(module).values()]:
            if isinstance(t, nn.UninitializedParameter | nn.UninitializedBuffer):
                raise ValueError(
                    f"{type(module).__name__} at {name!r} is lazy and has no shape yet: run the model once"
                )
            if isinstance(t, nn.Parameter):
                memo[id(t)] = nn.Parameter(torch.empty_like(t, device="meta"), requires_grad=t.requires_grad)
            elif isinstance(t, torch.Tensor):
                memo[id(t)] = torch.empty_like(t, device="meta")
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin


def _run(twin: nn.Module, inputs: list[torch.Tensor]) -> list[tuple[str, tuple[Shape, ...] | None]]:
    """Call the model and note each module's outputs, in the order in which the calls begin."""
    calls: list[tuple[str, tuple[Shape, ...] | None]] = []
    running: list[int] = []

    def begin(name: str) -> None:
        running.append(len(calls))
        calls.append((name, None))

    def end(name: str, output: object) -> None:
        calls[running.pop()] = (name, tuple(_shapes(output)))

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(lambda _module, _inputs, name=name: begin(name))
        module.register_forward_hook(lambda _module, _inputs, output, name=name: end(name, output))
    try:
        with torch.no_grad(), torch.device("meta"):
            twin(*inputs)
    except Exception as error:
        name = calls[running[-1]][0] if running else ""
        where = f"at {name!r}" if name else "in the model itself"
        error.add_note(f"trace_shapes() was {where}, on the meta device, where tensors have shapes but no values")
        raise
    return calls


def _shapes(output: object) -> Iterator[Shape]:
    if isinstance(output, torch.Tensor):
        yield tuple(output.shape)
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _shapes(part)
