"""The drawing of :mod:`pytorch_course.autograd`: a layer of boxes for every step from the result to the leaves.

After Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of Hierarchical System Structures", IEEE Transactions
on Systems, Man, and Cybernetics 11(2), 1981. Lengths are inches, along the gradient or across it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytorch_course._draw_memory import BLUE, GREY, ORANGE, full_axes, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pytorch_course.autograd import Graph, Node

Pair = tuple[float, float]

FONT, LINE, PAD_X, PAD_Y = 10.0, 0.18, 0.11, 0.08
GAP_ALONG, GAP_ACROSS, LANE, MARGIN, PAGE = 0.4, 0.22, 0.08, 0.12, 7.2


class _Arrangement(NamedTuple):
    """Where everything goes. Items are the nodes, and after them the bends of edges that skip a layer."""

    routes: list[list[int]]  # the items that every edge passes
    size: list[Pair]  # of an item: along, across
    place: list[Pair]  # of the centre of an item, from the centre of the drawing
    depth: list[float]  # of the layer of an item
    extent: Pair


def _arrange(edges: Sequence[tuple[int, int]], boxes: Sequence[Pair]) -> _Arrangement:
    level = [0] * len(boxes)
    for _ in boxes:  # the longest way from the result, so that every arrow leads to a later layer
        for start, end in edges:
            level[end] = max(level[end], level[start] + 1)
    rows = [[item for item, at in enumerate(level) if at == k] for k in range(max(level) + 1)]
    routes, size = [], list(boxes)
    for start, end in edges:
        bends = range(len(size), len(size) + level[end] - level[start] - 1)
        for bend, row in zip(bends, rows[level[start] + 1 :], strict=False):
            row.append(bend)
            size.append((0.0, LANE))
        routes.append([start, *bends, end])
    links = [link for route in routes for link in pairwise(route)]
    _untangle(rows, links)
    across = _place_across(rows, links, size)
    along, depth, length, gap = [0.0] * len(size), [0.0] * len(size), 0.0, 0.0
    for row in rows:
        deepest = max(size[item][0] for item in row)
        for item in row:
            along[item], depth[item] = length + gap + deepest / 2, deepest
        length += gap + deepest
        aside = max((abs(across[end] - across[start]) for start, end in links if start in row), default=0.0)
        gap = GAP_ALONG * (1 + min(0.25 * aside, 1.0))  # more room where arrows have to go far to the side
    low = min(x - wide / 2 for x, (_, wide) in zip(across, size, strict=True))
    high = max(x + wide / 2 for x, (_, wide) in zip(across, size, strict=True))
    place = [(y - length / 2, x - (low + high) / 2) for y, x in zip(along, across, strict=True)]
    return _Arrangement(routes, size, place, depth, (length + 2 * MARGIN, high - low + 2 * MARGIN))


def _untangle(rows: list[list[int]], links: Sequence[tuple[int, int]]) -> None:
    """Order every row by the mean place of its neighbours in the row before, or in the row after, in turn."""
    up, down = defaultdict(list), defaultdict(list)
    for start, end in links:
        down[start].append(end)
        up[end].append(start)
    place = {item: float(i) for row in rows for i, item in enumerate(row)}
    for near in [up, down] * 4 + [up]:
        for row in rows if near is up else reversed(rows):
            mean = {item: np.mean([place[other] for other in near[item] or [item]]) for item in row}
            row.sort(key=mean.__getitem__)
            place.update((item, float(i)) for i, item in enumerate(row))


def _place_across(rows: list[list[int]], links: Sequence[tuple[int, int]], size: Sequence[Pair]) -> list[float]:
    """Pull each item towards its neighbours in the other rows as springs would, while nothing in a row may touch."""
    from scipy.optimize import lsq_linear  # type: ignore[import-untyped]

    leaving, coming = (Counter(link[end] for link in links) for end in (0, 1))
    # The unknowns are the place of the first item of every row, and the step from each item to the next, which has a least.
    steps, least = np.zeros((len(size), len(size))), np.full(len(size), -np.inf)
    for row in rows:
        for k, item in enumerate(row):
            steps[item, row[: k + 1]] = 1.0
        for left, right in pairwise(row):
            least[right] = (size[left][1] + size[right][1]) / 2 + GAP_ACROSS
    # What has one way on and one way in should run straight: chains of operations, and the bends of long edges.
    pulls = [30.0 if leaving[start] == coming[end] == 1 else 1.0 for start, end in links]
    springs = [pull * (steps[start] - steps[end]) for pull, (start, end) in zip(pulls, links, strict=True)]
    weak = 1e-3 * steps  # a pull towards the middle, so that there is one answer
    found = lsq_linear([*springs, *weak], np.zeros(len(links) + len(size)), (least, np.inf), method="bvls")
    return [float(x) for x in steps @ found.x]


def _paths(found: _Arrangement) -> Iterator[list[Pair]]:
    """Yield the corners of every arrow, in pairs: straight beside the boxes of a row, then on to the next row."""
    dock: dict[tuple[int, int], float] = {}
    for item, (_, across) in enumerate(found.place):
        for side in (0, -1):
            # Several arrows at one border of a box get places of their own, in the order of where they lead.
            mine = [k for k, route in enumerate(found.routes) if route[side] == item]
            mine.sort(key=lambda k: (found.place[found.routes[k][1 if side == 0 else -2]][1], k))
            step = min(0.16, 0.6 * found.size[item][1] / max(1, len(mine)))
            dock |= {(k, side): across + (n - (len(mine) - 1) / 2) * step for n, k in enumerate(mine)}
    for k, route in enumerate(found.routes):
        points = []
        for item in route:
            along, across = found.place[item]
            half, inner = found.depth[item] / 2, found.size[item][0] / 2
            first, last = item == route[0], item == route[-1]
            y = dock[k, 0] if first else dock[k, -1] if last else across
            points += [(along + (inner if first else -half), y), (along - (inner if last else -half), y)]
        yield points


def draw_graph(g: Graph, ax: Axes | None) -> Axes:
    """Draw the graph from left to right, or from top to bottom where that leaves the text larger."""
    import matplotlib.pyplot as plt

    boxes = [_box(node) for node in g.nodes]
    sideways, upright = _arrange(g.edges, boxes), _arrange(g.edges, [(high, wide) for wide, high in boxes])
    room = (PAGE, math.inf) if ax is None else _room(ax)
    flat = _scale(sideways.extent, room) >= _scale(upright.extent[::-1], room)
    found = sideways if flat else upright
    width, height = found.extent if flat else found.extent[::-1]
    if ax is None:
        room = (max(width, plt.rcParams["figure.figsize"][0]), height)
        ax = full_axes(*room)
    ax.set_axis_off()
    scale = _scale((width, height), room)  # one unit is an inch, or less where there is too little room
    ax.set_xlim(-room[0] / scale / 2, room[0] / scale / 2)
    ax.set_ylim(room[1] / scale / 2, -room[1] / scale / 2)
    for points in _paths(found):
        _draw_arrow(ax, points, flat, scale)
    for node, box, place in zip(g.nodes, boxes, found.place, strict=False):  # the bends come after the nodes
        _draw_node(ax, node, box, place if flat else place[::-1], scale)
    return ax


def _scale(extent: Pair, room: Pair) -> float:
    return min(1.0, room[0] / extent[0], room[1] / extent[1])


def _room(ax: Axes) -> Pair:
    """Width and height of the axes in inches, once the layout of their figure has settled."""
    ax.set_axis_off()
    figure = ax.get_figure(root=True)
    assert figure is not None
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    box = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    return box.width, box.height


def _lines(node: Node) -> list[tuple[str, str]]:
    """Text and weight of the lines in the box of a node."""
    detail = (node.detail, "bold" if node.name else "normal")
    return [(node.operation, "normal"), *([detail] if node.detail else [])]


def _box(node: Node) -> Pair:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    fonts = [(text, FontProperties(size=FONT, weight=weight)) for text, weight in _lines(node)]
    wide = max(text_to_path.get_text_width_height_descent(text, font, False)[0] for text, font in fonts) / 72
    high = len(fonts) * LINE + 2 * PAD_Y
    # Hinting draws small text a little wider than its outline, and the round ends of a pill take room from its text.
    return 1.03 * wide + 2 * PAD_X + (0 if node.shape is None else high / 4), high


def _draw_arrow(ax: Axes, points: Sequence[Pair], flat: bool, scale: float) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    corners = [points[0]]
    for start, end in pairwise(points):
        if start != end:  # an S, which is a straight line along the gradient
            half = (start[0] + end[0]) / 2
            corners += [(half, start[1]), (half, end[1]), end]
    codes = [Path.MOVETO, *[Path.CURVE4] * (len(corners) - 1)]
    path, head = Path(corners if flat else [corner[::-1] for corner in corners], codes), 11 * scale
    ax.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=head, color=GREY, linewidth=1.3 * scale))


def _draw_node(ax: Axes, node: Node, size: Pair, centre: Pair, scale: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    (wide, high), (x, y) = size, centre
    colour, corner = (BLUE, 0.06) if node.shape is None else (ORANGE, high / 2)
    box = FancyBboxPatch((x - wide / 2, y - high / 2), wide, high, f"round,pad=0,rounding_size={corner}")
    box.set(facecolor=tint(colour, 0.1), edgecolor=colour, linewidth=1.5 * scale)
    ax.add_patch(box)
    lines = _lines(node)
    for n, (text, weight) in enumerate(lines):
        place = y + (n - (len(lines) - 1) / 2) * LINE
        ax.text(x, place, text, size=FONT * scale, weight=weight, ha="center", va="center_baseline", parse_math=False)
