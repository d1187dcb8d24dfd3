"""See the graph that backward walks: the history of a tensor as data that prints and draws itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from pytorch_course._draw_graph import draw_graph

if TYPE_CHECKING:
    import matplotlib.axes

    Function = torch.autograd.graph.Node

PRINTABLE, DRAWABLE = 100, 25  # more lines of text, and more nodes in a picture, nobody reads


@dataclass(frozen=True)
class Node:
    """One node of a backward graph.

    Attributes
    ----------
    operation : str
        Name as PyTorch prints it in ``grad_fn``, such as ``AddBackward0``, or ``AccumulateGrad`` for a leaf.
    name : str or None
        Name of the variable, where one was given. Several names for one node are joined by commas.
    shape : tuple of int or None
        For a leaf, the shape of the tensor whose ``grad`` receives the gradient. None for an operation.
    """

    operation: str
    name: str | None = None
    shape: tuple[int, ...] | None = None

    @property
    def detail(self) -> str:
        """Name and shape in one line, as far as they are known; otherwise an empty string."""
        return " ".join(str(part) for part in (self.name, self.shape) if part is not None)


@dataclass(frozen=True, repr=False)
class Graph:
    """The backward graph of a tensor, as :func:`graph` found it. Printed, it is a tree of at most 100 lines.

    Attributes
    ----------
    nodes : tuple of Node
        Every function that the gradient passes through, once each. The result is node 0.
    edges : tuple of tuple of int
        From and to, in the direction of the gradient. ``x * x`` has two edges to the same leaf: both gradients add up.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]

    def __repr__(self) -> str:
        children: list[list[int]] = [[] for _ in self.nodes]
        for start, end in self.edges:
            children[start].append(end)
        lines: list[str] = []
        shown: set[int] = set()
        stack = [(0, "", "")]
        while stack and len(lines) < PRINTABLE:
            here, lead, indent = stack.pop()
            node, again = self.nodes[here], here in shown  # a node that was already shown is not unfolded again
            detail = f": {node.detail}" if node.detail else ""
            lines.append(f"{lead}[{here}] {node.operation}{detail}{', see above' if again else ''}")
            shown.add(here)
            below = [] if again else [(child, f"{indent}├─ ", f"{indent}│  ") for child in children[here]]
            if below:
                below[-1] = (below[-1][0], f"{indent}└─ ", f"{indent}   ")
            stack.extend(reversed(below))
        if stack:
            lines.append(f"... {len(self.nodes) - len(shown):,} of {len(self.nodes):,} nodes are not shown")
        return "\n".join(lines)

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the graph on ``ax``, where it shrinks to fit, or on a new figure of the right size.

        Like the text, boxes and arrows follow the backward pass, from the result to the leaves: from left to right, or
        from top to bottom where that would become too wide. Operations are blue boxes, leaves are orange pills.
        More than 25 nodes are a ``ValueError``, because nobody could read the picture.
        """
        if len(self.nodes) > DRAWABLE:
            raise ValueError(f"plot() draws {DRAWABLE} nodes, but the graph has {len(self.nodes):,}; print() it")
        return draw_graph(self, ax)


def graph(t: torch.Tensor, names: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Read the backward graph of a tensor without computing anything. It prints as a tree and has ``plot()``.

    Parameters
    ----------
    t : torch.Tensor
        Result of a computation in which some input requires a gradient.
    names : dict of str to torch.Tensor, optional
        Names to show: of leaves, and of intermediate results. ``dict(model.named_parameters())`` does. Tensors that are
        not part of the graph are ignored.

    Raises
    ------
    TypeError, ValueError
        If ``t`` is no tensor, or has no history: it is a leaf, or nothing it was computed from requires a gradient.

    Examples
    --------
    >>> x = torch.ones(3, 4, requires_grad=True)
    >>> y = x + 2
    >>> z = y.pow(3).mean()
    >>> print(graph(z, {"x": x, "y": y, "z": z}))
    [0] MeanBackward0: z
    └─ [1] PowBackward0
       └─ [2] AddBackward0: y
          └─ [3] AccumulateGrad: x (3, 4)
    """
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"t must be a tensor, got {type(t).__name__}")
    if t.grad_fn is None:
        why = "is a leaf; pass a result that was computed from it"
        if not t.requires_grad:
            why = "has no graph: no input requires a gradient, or it was detached or computed under torch.no_grad()"
        raise ValueError(f"t (shape {tuple(t.shape)}, {t.dtype}) {why}")
    children: dict[Function, list[Function]] = {}
    stack = [t.grad_fn]
    while stack:
        function = stack.pop()
        if function not in children:
            # An input that needs no gradient appears as None.
            children[function] = [child for child, _ in function.next_functions if child is not None]
            stack.extend(reversed(children[function]))
    ids = {function: position for position, function in enumerate(children)}
    # The full name, because the context of somebody's own Function may have an attribute called "variable" as well.
    leaves = {f: cast(Any, f).variable for f in ids if f.name() == "torch::autograd::AccumulateGrad"}
    functions = {id(leaf): function for function, leaf in leaves.items()}
    known: defaultdict[Function | None, list[str]] = defaultdict(list)
    for name, tensor in (names or {}).items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"names[{name!r}] must be a tensor, got {type(tensor).__name__}")
        known[functions.get(id(tensor)) if tensor.grad_fn is None else tensor.grad_fn].append(name)
    shapes = {function: tuple(leaf.shape) for function, leaf in leaves.items()}
    nodes = [Node(f.name().rpartition("::")[2], ", ".join(known[f]) or None, shapes.get(f)) for f in ids]
    return Graph(tuple(nodes), tuple((ids[start], ids[end]) for start, ends in children.items() for end in ends))
