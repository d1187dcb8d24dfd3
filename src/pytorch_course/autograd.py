"""See the graph that backward walks, and check a derivative that you worked out by hand.

:func:`graph` turns the history of a tensor into plain data that prints and draws itself. :func:`compare_gradients` puts
a derivative written by hand beside the one of autograd and beside finite differences.
"""

from __future__ import annotations

import html
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

if TYPE_CHECKING:
    import matplotlib.axes

_TREE_LINES = 100
_PLOT_NODES = 25
_TABLE_ROWS = 12


# ---------------------------------------------------------------------------------------------------------------- graph


@dataclass(frozen=True)
class Node:
    """One node of a backward graph.

    Attributes
    ----------
    id : int
        Position in the traversal of the graph. The tensor that was asked for is node 0.
    operation : str
        Name as PyTorch prints it in ``grad_fn``, such as ``AddBackward0``, or ``AccumulateGrad`` for a leaf.
    kind : {"operation", "leaf"}
        Whether the node passes a gradient on, or adds it to the ``grad`` of a tensor.
    name : str or None
        Name of the variable, where one was given. Several names for one node are joined by commas.
    shape : tuple of int or None
        Shape of the tensor that receives the gradient. None for an operation.
    """

    id: int
    operation: str
    kind: Literal["operation", "leaf"]
    name: str | None = None
    shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.operation}: {self.detail}" if self.detail else self.operation

    @property
    def detail(self) -> str:
        """Name and shape in one line, as far as they are known; otherwise an empty string."""
        return " ".join(str(part) for part in (self.name, self.shape) if part is not None)


@dataclass(frozen=True, repr=False)
class Graph:
    """The backward graph of a tensor, as :func:`graph` found it.

    Attributes
    ----------
    nodes : tuple of Node
        Every function that the gradient passes through, once each. ``nodes[i].id == i``.
    edges : tuple of tuple of int
        From and to, in the direction of the gradient. ``x * x`` has two edges to the same leaf: both gradients add up.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def leaves(self) -> tuple[Node, ...]:
        """The nodes where the gradient arrives in the ``grad`` of a tensor."""
        return tuple(node for node in self.nodes if node.kind == "leaf")

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.edges)} edges, {len(self.leaves)} leaves)"

    def __str__(self) -> str:
        return "\n".join(lead + text for lead, text, _ in self._tree())

    def _repr_html_(self) -> str:
        lines = (f'{lead}<span class="pc-{kind}">{html.escape(text)}</span>' for lead, text, kind in self._tree())
        return '<pre class="pc-graph">' + "\n".join(lines) + "</pre>"

    def _tree(self) -> Iterator[tuple[str, str, str]]:
        """Yield indentation, text and kind of every line; a node that was already shown is not unfolded again."""
        children = _children(self)
        shown: set[int] = set()
        stack = [(0, "", "")]
        for _ in range(_TREE_LINES):
            if not stack:
                return
            here, lead, indent = stack.pop()
            node, again = self.nodes[here], here in shown
            yield lead, f"[{here}] {node}" + (", see above" if again else ""), node.kind
            if again:
                continue
            shown.add(here)
            below = [(child, f"{indent}├─ ", f"{indent}│  ") for child in children[here]]
            if below:
                below[-1] = (below[-1][0], f"{indent}└─ ", f"{indent}   ")
            stack.extend(reversed(below))
        if stack:
            yield "", f"... {len(self.nodes) - len(shown):,} of {len(self.nodes):,} nodes are not shown", "more"

    def to_dot(self) -> str:
        """Write the graph in the DOT language of Graphviz.

        Returns
        -------
        str
            A complete ``digraph``. It has no limit of size; Graphviz itself is not needed to write it.
        """
        look = {"operation": 'shape=box, style="rounded"', "leaf": 'shape=ellipse, style="filled", fillcolor="#F8E2B3"'}
        lines = ["digraph backward {", '  node [fontname="DejaVu Sans"];']
        for node in self.nodes:
            text = f"{node.operation}\n{node.detail}".strip().replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'  {node.id} [label="{text}", {look[node.kind]}];'.replace("\n", "\\n"))
        lines += [f"  {start} -> {end};" for start, end in self.edges]
        return "\n".join([*lines, "}", ""])

    def plot(self, ax: matplotlib.axes.Axes | None = None) -> matplotlib.axes.Axes:
        """Draw the graph: inputs left and the result right, or the result on top when it would become too wide.

        Arrows point where the gradient goes. Operations are blue boxes, leaves are orange pills.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw. Text shrinks when the graph does not fit. By default a new figure of the right size.

        Returns
        -------
        matplotlib.axes.Axes
            The axes with the drawing.

        Raises
        ------
        ValueError
            If the graph has more than 25 nodes, because nobody could read the picture.
        """
        if len(self.nodes) > _PLOT_NODES:
            raise ValueError(
                f"a drawing stays readable up to {_PLOT_NODES} nodes, and this graph has {len(self.nodes):,}; "
                "print it, or give the text of .to_dot() to Graphviz"
            )
        return _draw(self, ax)


def graph(t: torch.Tensor, names: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Read the backward graph of a tensor.

    The graph is walked from ``t`` along ``grad_fn.next_functions``, without recursion and without computing anything.

    Parameters
    ----------
    t : torch.Tensor
        Result of a computation in which some input requires a gradient. Any shape.
    names : dict of str to torch.Tensor, optional
        Names to show: of leaves, and of intermediate results. ``dict(model.named_parameters())`` does. Tensors that are
        not part of the graph are ignored.

    Returns
    -------
    Graph
        Frozen data with ``nodes``, ``edges`` and ``leaves``, which prints as a tree and has ``plot`` and ``to_dot``.

    Raises
    ------
    TypeError
        If ``t`` or a value of ``names`` is not a tensor.
    ValueError
        If ``t`` has no history: it is a leaf, or nothing it was computed from requires a gradient.

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
    ids: dict[torch.autograd.graph.Node, int] = {}
    stack = [_history(t)]
    while stack:
        function = stack.pop()
        if function not in ids:
            ids[function] = len(ids)
            stack.extend(reversed(_next(function)))
    known = _names_of(names or {}, ids)
    nodes = tuple(_node(function, position, known) for function, position in ids.items())
    edges = tuple((position, ids[child]) for function, position in ids.items() for child in _next(function))
    return Graph(nodes, edges)


def _history(t: torch.Tensor) -> torch.autograd.graph.Node:
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"t must be a tensor, got {type(t).__name__}")
    if t.grad_fn is not None:
        return t.grad_fn
    if t.requires_grad:
        raise ValueError(
            f"t (shape {tuple(t.shape)}) is a leaf: it requires a gradient, but no operation made it, so there is no "
            "graph behind it. Pass a result that was computed from it"
        )
    raise ValueError(
        f"t (shape {tuple(t.shape)}, {t.dtype}) has no graph: nothing it was computed from requires a gradient, or it "
        "was computed under torch.no_grad() or detached. Set requires_grad=True on an input before computing"
    )


def _next(function: torch.autograd.graph.Node) -> list[torch.autograd.graph.Node]:
    # An input that needs no gradient appears as None.
    return [child for child, _ in function.next_functions if child is not None]


def _leaf(function: torch.autograd.graph.Node) -> torch.Tensor | None:
    # The full name, because the context of somebody's own Function may have an attribute called "variable" as well.
    if function.name() == "torch::autograd::AccumulateGrad":
        return cast(torch.Tensor, cast(Any, function).variable)
    return None


def _names_of(names: Mapping[str, torch.Tensor], ids: Mapping[torch.autograd.graph.Node, int]) -> dict[int, str]:
    leaves = {id(leaf): position for function, position in ids.items() if (leaf := _leaf(function)) is not None}
    known: defaultdict[int, list[str]] = defaultdict(list)
    for name, tensor in names.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"names[{name!r}] must be a tensor, got {type(tensor).__name__}")
        position = leaves.get(id(tensor)) if tensor.grad_fn is None else ids.get(tensor.grad_fn)
        if position is not None:
            known[position].append(name)
    return {position: ", ".join(several) for position, several in known.items()}


def _node(function: torch.autograd.graph.Node, position: int, known: Mapping[int, str]) -> Node:
    leaf = _leaf(function)
    operation = function.name().rpartition("::")[2]
    if leaf is None:
        return Node(position, operation, "operation", known.get(position))
    return Node(position, operation, "leaf", known.get(position), tuple(leaf.shape))


def _children(g: Graph) -> list[list[int]]:
    children: list[list[int]] = [[] for _ in g.nodes]
    for start, end in g.edges:
        children[start].append(end)
    return children


# ------------------------------------------------------------------------------------------------------------ gradients


@dataclass(frozen=True, eq=False, repr=False)
class GradientCheck:
    """Three ways to the same gradient, as :func:`compare_gradients` found them; one tensor per input in each tuple.

    The difference of two numbers is divided by the larger of them where that exceeds 1. So small gradients are compared
    absolutely and large ones relatively.

    Attributes
    ----------
    hand : tuple of torch.Tensor
        What ``df`` returned.
    autograd : tuple of torch.Tensor
        What :func:`torch.autograd.grad` returned. Zero where the result does not depend on the input.
    numeric : tuple of torch.Tensor
        Central finite differences.
    tolerance : float
        Largest difference that counts as equal.
    """

    hand: tuple[torch.Tensor, ...]
    autograd: tuple[torch.Tensor, ...]
    numeric: tuple[torch.Tensor, ...]
    tolerance: float

    @property
    def hand_autograd(self) -> float:
        """Largest difference between the hand-written derivative and autograd."""
        return _largest(self.hand, self.autograd)

    @property
    def hand_numeric(self) -> float:
        """Largest difference between the hand-written derivative and finite differences."""
        return _largest(self.hand, self.numeric)

    @property
    def autograd_numeric(self) -> float:
        """Largest difference between autograd and finite differences."""
        return _largest(self.autograd, self.numeric)

    @property
    def ok(self) -> bool:
        """Whether all three differences are within the tolerance. A gradient that is not finite is never ok."""
        return all(d <= self.tolerance for d in (self.hand_autograd, self.hand_numeric, self.autograd_numeric))

    def __repr__(self) -> str:
        return f"GradientCheck(ok={self.ok})"

    def __str__(self) -> str:
        head = ("", "by hand", "autograd", "numeric", "")
        rows = [head, *self._rows()]
        wide = [max(len(row[k]) for row in rows) for k in range(4)]
        cells = [[row[0].ljust(wide[0]), *(row[k].rjust(wide[k]) for k in (1, 2, 3))] for row in rows]
        lines = ["  ".join(line) + row[4] for line, row in zip(cells, rows, strict=True)]
        hidden = sum(g.numel() for g in self.hand) - len(rows) + 1
        if hidden:
            lines.append(f"... and {hidden:,} more")
        lines.append("largest difference")
        for pair in ("hand_autograd", "hand_numeric", "autograd_numeric"):
            difference = getattr(self, pair)
            # The digits of a rounding error change from machine to machine, so they are not shown.
            text = f"within {self.tolerance:g}" if difference <= self.tolerance else f"{difference:.2g}"
            lines.append(f"  {pair:16}  {text}")
        return "\n".join([*lines, f"  {'ok':16}  {self.ok}"])

    def _repr_html_(self) -> str:
        return f'<pre class="pc-gradients">{html.escape(str(self))}</pre>'

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        """At most twelve elements in their order, and wrong ones before right ones where there are more."""
        ways = (self.hand, self.autograd, self.numeric)
        hand, auto, numeric = (torch.cat([g.flatten() for g in way]) for way in ways)
        right = torch.ones_like(hand, dtype=torch.bool)
        for a, b in ((hand, auto), (hand, numeric), (auto, numeric)):
            right &= _difference(a, b) <= self.tolerance
        places = [
            f"input {n}" + (f" {list(index)}" if index else "")
            for n, g in enumerate(self.hand)
            for index in np.ndindex(*g.shape)
        ]
        chosen = sorted(sorted(range(len(places)), key=lambda k: bool(right[k]))[:_TABLE_ROWS])
        return [
            (places[k], _number(hand[k]), _number(auto[k]), _number(numeric[k]), "" if right[k] else "  <- differs")
            for k in chosen
        ]


def compare_gradients(
    f: Callable[..., torch.Tensor],
    df: Callable[..., torch.Tensor | Sequence[torch.Tensor]],
    *inputs: torch.Tensor,
    tolerance: float = 1e-6,
) -> GradientCheck:
    r"""Put a hand-written derivative, the one of autograd, and finite differences side by side, all in float64.

    The finite difference is :math:`(f(x + h) - f(x - h)) / 2h` for one element at a time, with
    :math:`h = \sqrt[3]{\varepsilon} \max(1, |x|)`. :func:`torch.autograd.gradcheck` tests
    autograd in the same way; here a third opinion, yours, joins in.

    Parameters
    ----------
    f : collections.abc.Callable
        ``f(*inputs)`` returns a tensor of any shape. It is called many times and must give the same result each time.
    df : collections.abc.Callable
        ``df(*inputs)`` returns the gradient of ``f(*inputs).sum()``: one tensor per input, with the shape of that
        input. For a single input the tensor alone will do.
    *inputs : torch.Tensor
        Where to compare. They are copied to float64 first and never changed.
    tolerance : float, default 1e-6
        Largest difference that counts as equal: absolute for numbers up to 1, relative for larger ones.

    Returns
    -------
    GradientCheck
        The three gradients, the largest difference of each pair, and ``ok``. Printed, it is a table.

    Raises
    ------
    TypeError
        If an input is not a real tensor, or ``f`` or ``df`` returns something other than float64 tensors can express.
    ValueError
        If there is no input, ``df`` returns the wrong number or shape of gradients, or ``f`` is random.

    Examples
    --------
    >>> x = torch.tensor([-1.0, 0.0, 2.0])
    >>> print(compare_gradients(lambda x: x**3, lambda x: 3 * x**2, x))
                 by hand  autograd  numeric
    input 0 [0]        3         3        3
    input 0 [1]        0         0        0
    input 0 [2]       12        12       12
    largest difference
      hand_autograd     within 1e-06
      hand_numeric      within 1e-06
      autograd_numeric  within 1e-06
      ok                True
    """
    if not inputs:
        raise ValueError("compare_gradients needs at least one input tensor after f and df")
    copies = [_promote(x, f"input {n}") for n, x in enumerate(inputs)]
    hand = df(*(x.clone() for x in copies))
    if not isinstance(hand, (torch.Tensor, Sequence)):
        raise TypeError(f"df must return a tensor or a sequence of them, got {type(hand).__name__}")
    gradients = (hand,) if isinstance(hand, torch.Tensor) else tuple(hand)
    if len(gradients) != len(copies):
        raise ValueError(f"df must return one gradient per input: {len(copies)} expected, got {len(gradients)}")
    for n, (gradient, x) in enumerate(zip(gradients, copies, strict=True)):
        if isinstance(gradient, torch.Tensor) and gradient.shape != x.shape:
            raise ValueError(
                f"gradient {n} returned by df has shape {tuple(gradient.shape)}, "
                f"but input {n} has shape {tuple(x.shape)}"
            )
    promoted = tuple(_promote(g, f"gradient {n} returned by df") for n, g in enumerate(gradients))
    return GradientCheck(promoted, _by_autograd(f, copies), _by_differences(f, copies), tolerance)


def _promote(value: torch.Tensor, what: str) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} must be a tensor, got {type(value).__name__}")
    if value.is_complex():
        raise TypeError(f"{what} must be real, got {value.dtype}")
    return value.detach().to(torch.float64).clone(memory_format=torch.contiguous_format)


def _call(f: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    # Also with gradients switched off by the caller, and also for an f that asks autograd for a derivative itself.
    with torch.enable_grad():
        value = f(*inputs)
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"f must return a tensor, got {type(value).__name__}")
    if value.dtype != torch.float64:
        raise TypeError(f"f must return float64 for float64 inputs, got {value.dtype}: finite differences need digits")
    return value


def _fresh(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [x.clone().requires_grad_() for x in inputs]


def _by_autograd(f: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    leaves = _fresh(inputs)
    value = _call(f, leaves)
    if not torch.allclose(value, _call(f, _fresh(inputs)), rtol=0, atol=0, equal_nan=True):
        raise ValueError("f returned two results for the same inputs; switch its randomness off, such as dropout")
    if not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    return torch.autograd.grad(value, leaves, torch.ones_like(value), materialize_grads=True)


def _by_differences(f: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    gradients = tuple(torch.zeros_like(x) for x in inputs)
    for n, x in enumerate(inputs):
        for index in np.ndindex(*x.shape):
            # This step balances the error of the formula against rounding.
            step = torch.finfo(torch.float64).eps ** (1 / 3) * max(1.0, abs(float(x[index])))
            (up, above), (down, below) = (_moved(f, inputs, n, index, h) for h in (step, -step))
            gradients[n][index] = (up - down).sum() / (above - below)
    return gradients


def _moved(
    f: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor], n: int, index: tuple[int, ...], step: float
) -> tuple[torch.Tensor, torch.Tensor]:
    moved = [x.clone() for x in inputs]
    moved[n][index] += step
    # The place that was reached, because x + h is rounded as well.
    place = moved[n][index].clone()
    return _call(f, _fresh(moved)).detach(), place


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).abs() / torch.maximum(a.abs(), b.abs()).clamp(min=1.0)


def _largest(ways: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> float:
    found = torch.cat([_difference(a, b).flatten() for a, b in zip(ways, others, strict=True)])
    return float(found.max()) if found.numel() else 0.0


def _number(value: torch.Tensor) -> str:
    # Adding zero turns -0 into 0.
    return f"{round(float(value), 6) + 0.0:.6g}"


# -------------------------------------------------------------------------------------------------------------- drawing
# A layered drawing after Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System
# Structures", IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981. All lengths are inches. "Along" runs with
# the gradient, "across" at right angles to it.

_FONT, _LINE = 10.0, 0.18
_PAD_X, _PAD_Y = 0.11, 0.08
_GAP_ALONG, _GAP_ACROSS, _LANE = 0.4, 0.22, 0.08
_MARGIN, _PAGE = 0.12, 7.2
_INK, _ARROW = "#1A1A1A", "#4D4D4D"
_Transform = Callable[[float, float], tuple[float, float]]
_FACE = {"operation": ("#E5F1F7", "#0072B2"), "leaf": ("#FCF3DF", "#E69F00")}


@dataclass
class _Layout:
    """Where every box and bend goes. Items below ``nodes`` are nodes; the others are bends of edges that skip a row."""

    nodes: int
    rows: list[list[int]]
    routes: list[list[int]]
    size: list[tuple[float, float]]
    along: list[float] = field(default_factory=list)
    across: list[float] = field(default_factory=list)
    depth: list[float] = field(default_factory=list)

    @property
    def links(self) -> list[tuple[int, int]]:
        return [link for route in self.routes for link in pairwise(route)]

    @property
    def border(self) -> tuple[float, float]:
        items = [item for row in self.rows for item in row]
        low = min(self.across[i] - self.size[i][1] / 2 for i in items)
        return low, max(self.across[i] + self.size[i][1] / 2 for i in items)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.along[-1] + self.depth[-1] / 2) / 2, sum(self.border) / 2

    @property
    def extent(self) -> tuple[float, float]:
        low, high = self.border
        return 2 * self.middle[0] + 2 * _MARGIN, high - low + 2 * _MARGIN


def _levels(g: Graph) -> list[int]:
    # Longest way from the result, so that every arrow leads to a later layer.
    level = [0] * len(g.nodes)
    for _ in g.nodes:
        for start, end in g.edges:
            level[end] = max(level[end], level[start] + 1)
    return level


def _arrange(g: Graph, boxes: list[tuple[float, float]]) -> _Layout:
    level, size = _levels(g), list(boxes)
    rows: list[list[int]] = [[] for _ in range(max(level) + 1)]
    for node in g.nodes:
        rows[level[node.id]].append(node.id)
    routes = []
    for start, end in g.edges:
        bends = list(range(len(size), len(size) + level[end] - level[start] - 1))
        for bend, row in zip(bends, rows[level[start] + 1 : level[end]], strict=True):
            row.append(bend)
            size.append((0.0, _LANE))
        routes.append([start, *bends, end])
    layout = _Layout(len(boxes), rows, routes, size)
    _untangle(layout)
    _place_across(layout)
    _place_along(layout)
    return layout


def _untangle(layout: _Layout, sweeps: int = 8) -> None:
    """Order every row by the mean place of its neighbours, down and up in turn; keep the order that crosses least."""
    up, down = defaultdict(list), defaultdict(list)
    for start, end in layout.links:
        down[start].append(end)
        up[end].append(start)
    rows = [list(row) for row in layout.rows]
    fewest = None
    for sweep in range(sweeps):
        near = up if sweep % 2 == 0 else down
        place = {item: float(i) for row in rows for i, item in enumerate(row)}
        for row in rows if sweep % 2 == 0 else reversed(rows):
            mean = {i: sum(place[j] for j in near[i]) / len(near[i]) if near[i] else place[i] for i in row}
            row.sort(key=mean.__getitem__)
            place.update((item, float(i)) for i, item in enumerate(row))
        crossings = sum(
            (place[a] - place[c]) * (place[b] - place[d]) < 0
            for row in rows
            for (a, b), (c, d) in combinations([(i, j) for i in row for j in down[i]], 2)
        )
        if fewest is None or crossings < fewest:
            fewest, layout.rows = crossings, [list(row) for row in rows]


def _place_across(layout: _Layout, sweeps: int = 400) -> None:
    """Pull each item towards its neighbours in the other rows as springs would, while nothing in a row may touch.

    The quadratic programme is solved in its dual form, after Hildreth, "A quadratic programming procedure", Naval
    Research Logistics Quarterly 4(1), 1957: the forces between neighbours of a row are found in turn; none attracts.
    """
    leaving, coming = (Counter(link[end] for link in layout.links) for end in (0, 1))
    springs = np.zeros((len(layout.size), len(layout.size)))
    for start, end in layout.links:
        # What has one way on and one way in should run straight: chains of operations, and the bends of long edges.
        pull = 1000.0 if leaving[start] == coming[end] == 1 else 1.0
        springs[[start, end], [start, end]] += pull
        springs[[start, end], [end, start]] -= pull
    pairs = [pair for row in layout.rows for pair in pairwise(row)]
    apart = np.zeros((len(pairs), len(layout.size)))
    least = np.array([(layout.size[left][1] + layout.size[right][1]) / 2 + _GAP_ACROSS for left, right in pairs])
    for k, (left, right) in enumerate(pairs):
        apart[k, left], apart[k, right] = -1.0, 1.0
    move = np.linalg.pinv(springs, hermitian=True) @ apart.T
    reach = apart @ move
    force = np.zeros(len(pairs))
    for _ in range(sweeps):
        for k in range(len(pairs)):
            force[k] = max(0.0, force[k] + (least[k] - reach[k] @ force) / reach[k, k])
    layout.across = (move @ force).tolist()


def _place_along(layout: _Layout) -> None:
    """Put the rows one behind the other, with more room where arrows have to go far to the side."""
    layout.depth = [max(layout.size[i][0] for i in row) for row in layout.rows]
    edge = 0.0
    for depth, row in zip(layout.depth, layout.rows, strict=True):
        layout.along.append(edge + depth / 2)
        aside = max((abs(layout.across[j] - layout.across[i]) for i, j in layout.links if i in row), default=0.0)
        edge += depth + _GAP_ALONG * (1 + min(0.25 * aside, 1.0))


def _box(node: Node) -> tuple[float, float]:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    lines = [(node.operation, "normal"), (node.detail, "bold" if node.name else "normal")]
    fonts = [(text, FontProperties(size=_FONT, weight=weight)) for text, weight in lines if text]
    wide = max(TextPath((0, 0), text, prop=font).get_extents().width for text, font in fonts) / 72
    high = len(fonts) * _LINE + 2 * _PAD_Y
    # Hinting draws small text a little wider than its outline, and the round ends of a pill take room from its text.
    return 1.03 * wide + 2 * _PAD_X + (high / 4 if node.kind == "leaf" else 0), high


def _draw(g: Graph, ax: matplotlib.axes.Axes | None) -> matplotlib.axes.Axes:
    import matplotlib.pyplot as plt

    boxes = [_box(node) for node in g.nodes]
    sideways, upright = _arrange(g, boxes), _arrange(g, [(high, wide) for wide, high in boxes])
    room = (_PAGE, math.inf) if ax is None else _room(ax)
    right = _scale(sideways.extent, room) >= _scale(upright.extent[::-1], room)
    layout = sideways if right else upright
    width, height = layout.extent if right else layout.extent[::-1]
    if ax is None:
        room = (max(width, plt.rcParams["figure.figsize"][0]), height)
        figure = plt.figure(figsize=room, layout="constrained")
        # Not layout="none" at once: after a first save Matplotlib would then fall back to the layout of the style.
        figure.set_layout_engine("none")
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
    # One unit is an inch, or less where there is too little room.
    scale = _scale((width, height), room)
    ax.set_xlim(-room[0] / scale / 2, room[0] / scale / 2)
    ax.set_ylim(-room[1] / scale / 2, room[1] / scale / 2)

    middle = layout.middle

    def at(along: float, across: float) -> tuple[float, float]:
        along, across = along - middle[0], across - middle[1]
        return (-along, -across) if right else (across, -along)

    for points in _paths(layout):
        _draw_arrow(ax, points, at, scale)
    for level, row in enumerate(layout.rows):
        for item in row:
            if item < layout.nodes:
                _draw_node(ax, g.nodes[item], boxes[item], at(layout.along[level], layout.across[item]), scale)
    return ax


def _scale(extent: tuple[float, float], room: tuple[float, float]) -> float:
    return min(1.0, room[0] / extent[0], room[1] / extent[1])


def _room(ax: matplotlib.axes.Axes) -> tuple[float, float]:
    """Width and height of the axes in inches, once the layout of their figure has settled."""
    ax.set_axis_off()
    figure = ax.get_figure(root=True)
    assert figure is not None
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    return box.width, box.height


def _paths(layout: _Layout) -> Iterator[list[tuple[float, float]]]:
    """Yield the corners of every arrow as (along, across). An arrow bends between two rows only, never beside a box."""
    level = {item: k for k, row in enumerate(layout.rows) for item in row}
    ends = [(k, side) for k in range(len(layout.routes)) for side in (0, -1)]
    dock: dict[tuple[int, int], float] = {}
    for item in level:
        for side in (0, -1):
            # Several arrows at one border of a box get places of their own, in the order of where they lead.
            mine = [k for k, s in ends if s == side and layout.routes[k][side] == item]
            mine.sort(key=lambda k: (layout.across[layout.routes[k][1 if side == 0 else -2]], k))
            step = min(0.16, 0.6 * layout.size[item][1] / max(1, len(mine)))
            for n, k in enumerate(mine):
                dock[k, side] = layout.across[item] + (n - (len(mine) - 1) / 2) * step
    for k, route in enumerate(layout.routes):
        points = []
        for n, item in enumerate(route):
            centre, half = layout.along[level[item]], layout.depth[level[item]] / 2
            inner = layout.size[item][0] / 2
            if n == 0:
                points += [(centre + inner, dock[k, 0]), (centre + half, dock[k, 0])]
            elif n == len(route) - 1:
                points += [(centre - half, dock[k, -1]), (centre - inner, dock[k, -1])]
            else:
                points += [(centre - half, layout.across[item]), (centre + half, layout.across[item])]
        yield points


def _draw_arrow(ax: matplotlib.axes.Axes, points: list[tuple[float, float]], at: _Transform, scale: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    # Points come in pairs: straight inside a row, then an S to the next row.
    corners, codes = [points[0]], [Path.MOVETO]
    for n, (start, end) in enumerate(pairwise(points)):
        if n % 2 == 1:
            half = (start[0] + end[0]) / 2
            corners += [(half, start[1]), (half, end[1]), end]
            codes += [Path.CURVE4] * 3
        elif start != end:
            corners.append(end)
            codes.append(Path.LINETO)
    path = Path([at(*corner) for corner in corners], codes)
    ax.add_patch(
        FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=11 * scale, color=_ARROW, linewidth=1.3 * scale)
    )


def _draw_node(
    ax: matplotlib.axes.Axes, node: Node, box: tuple[float, float], centre: tuple[float, float], scale: float
) -> None:
    from matplotlib.patches import FancyBboxPatch

    (wide, high), (x, y) = box, centre
    face, edge = _FACE[node.kind]
    corner = f"round,pad=0,rounding_size={high / 2 if node.kind == 'leaf' else 0.06}"
    start = (x - wide / 2, y - high / 2)
    patch = FancyBboxPatch(start, wide, high, boxstyle=corner, fc=face, ec=edge, lw=1.5 * scale, gid=f"node-{node.id}")
    ax.add_patch(patch)
    texts = [text for text in (node.operation, node.detail) if text]
    for n, text in enumerate(texts):
        weight = "bold" if n == 1 and node.name else "normal"
        place = y + ((len(texts) - 1) / 2 - n) * _LINE
        ax.text(x, place, text, size=_FONT * scale, weight=weight, color=_INK, ha="center", va="center_baseline")
