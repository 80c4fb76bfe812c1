"""A picture of a genotype: both cells as graphs, from the inputs at the bottom to the output at the top."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arch.models.genotypes import Cell, Genotype
from scripts._layered_graph import Edge, Graph, Vertex

# Inches. The operations of a node lie side by side below the box of its state.
BOX_HEIGHT, STATE_WIDTH, INPUT_WIDTH, OPERATION_WIDTH, PASSING_WIDTH = 0.3, 0.86, 1.06, 0.94, 0.06
OPERATION_DROP, MARGIN = 0.5, 0.05
LOWEST_GAP, HIGHEST_GAP, GAP_AN_INCH = 0.4, 1.3, 0.22  # between layers: the higher the farther edges go to the side
OUTPUT = "output"

# Boxes, by how the name of an operation begins; lines, by the state that they come from.
OPERATION_COLORS = {
    "sep_conv": "#cfe2f3",
    "dil_conv": "#d9d2e9",
    "conv": "#f9cb9c",
    "avg_pool": "#d9ead3",
    "max_pool": "#fff2cc",
    "identity": "#eeeeee",
    "skip": "#eeeeee",
}
LINE_COLORS = {0: "#1f5fa8", 1: "#b3401f"}
OTHER_LINES, OUTPUT_LINES = "#222222", "#a8a8a8"


def short_name(operation: str) -> str:
    """As it is written into a box: sep_conv_3x3 is "sep 3x3", conv_1x7_7x1 is "1x7 7x1"."""
    words = operation.replace("skip_connect", "skip").split("_")
    return " ".join(word for word in words if word not in ("conv", "pool"))


def draw(genotype: Genotype, path: Path, title: str = "") -> None:
    """Writes a png of the normal and the reduction cell, side by side."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    pictures = {
        "normal cell": _CellPicture(genotype.normal, genotype.inputs),
        "reduction cell": _CellPicture(genotype.reduction, genotype.inputs),
    }
    widths = [picture.right - picture.left for picture in pictures.values()]
    height = max(picture.tops[-1] for picture in pictures.values()) + BOX_HEIGHT + 2 * MARGIN
    figure = Figure(figsize=(sum(widths) + 0.6, height + (0.85 if title else 0.5)), layout="constrained")
    columns = figure.subplots(1, 2, width_ratios=widths)
    for axes, (name, picture) in zip(columns, pictures.items(), strict=True):
        axes.set_title(name, fontsize=12)
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(picture.left, picture.right)
        axes.set_ylim(-BOX_HEIGHT / 2 - MARGIN, height - BOX_HEIGHT / 2 - MARGIN)
        picture.paint(axes)
    if title:
        figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=110, format="png")


class _CellPicture:
    """Where everything is, and its painting.

    Attributes:
        left: end of the picture, inches.
        right: likewise.
        tops: y of the middle of the states of each layer.
    """

    def __init__(self, cell: Cell, inputs: tuple[str, str]):
        self._cell, self._inputs, self._graph = cell, inputs, Graph(PASSING_WIDTH)
        self._operations: list[tuple[Edge, str]] = []
        for state in (0, 1):
            self._graph.vertices[state] = Vertex(layer=0, width=INPUT_WIDTH)
        for state, node in enumerate(cell.nodes, start=2):
            ports = _side_by_side(len(node.edges), OPERATION_WIDTH + 0.05)
            layer = 1 + max(self._graph.vertices[edge.state].layer for edge in node.edges)
            width = max(STATE_WIDTH, ports[-1] - ports[0] + OPERATION_WIDTH)
            self._graph.vertices[state] = Vertex(layer, width, ports)
            for edge in node.edges:
                self._operations.append((self._graph.connect(edge.state, state), edge.operation))
        ports = _side_by_side(len(cell.concat), 0.14)
        self._graph.vertices[OUTPUT] = Vertex(self._graph.num_layers, max(STATE_WIDTH, 2 * ports[-1] + 0.2), ports)
        for state in cell.concat:
            self._graph.connect(state, OUTPUT)
        self._graph.arrange()
        left, right = self._graph.extent
        self.left, self.right = left - MARGIN, right + MARGIN
        self.tops = [0.0]
        for layer in range(self._graph.num_layers - 1):
            parts = [part for edge in self._graph.edges for part in self._graph.segments(edge)]
            aside = max(abs(upper.x + end - lower.x) for lower, upper, end in parts if lower.layer == layer)
            gap = min(LOWEST_GAP + GAP_AN_INCH * aside, HIGHEST_GAP)
            drop = OPERATION_DROP if layer < self._graph.num_layers - 2 else 0.0  # there are none at the output
            self.tops.append(self.tops[-1] + BOX_HEIGHT + gap + drop)

    def paint(self, axes: Any) -> None:
        """Lines first, then the boxes on top of them."""
        for edge in self._graph.edges:
            self._line(axes, edge)
        for edge, operation in self._operations:
            vertex = self._graph.vertices[edge.target]
            x, top = vertex.x + edge.port, self.tops[vertex.layer]
            color = next(c for start, c in OPERATION_COLORS.items() if operation.startswith(start))
            _curve(axes, [(x, top - OPERATION_DROP), (vertex.x, top)], _line_color(edge))
            _box(axes, x, top - OPERATION_DROP, OPERATION_WIDTH, short_name(operation), color, round_=True)
        for key, vertex in self._graph.vertices.items():
            width, text = vertex.width, str(key)
            if key in (0, 1):
                text = f"{key}: {self._inputs[key]}"
            elif key != OUTPUT:
                width, text = STATE_WIDTH, f"{key}: {self._cell.nodes[key - 2].combine}"
            _box(axes, vertex.x, self.tops[vertex.layer], width, text, "#ffffff")

    def _line(self, axes: Any, edge: Edge) -> None:
        """From the top of a state, straight through the layers that it passes, to an operation or to the output."""
        source, target = self._graph.vertices[edge.source], self._graph.vertices[edge.target]
        points = [(source.x, self.tops[source.layer])]
        for vertex in edge.passes:
            top = self.tops[vertex.layer]
            points += [(vertex.x, top - OPERATION_DROP - BOX_HEIGHT / 2), (vertex.x, top + BOX_HEIGHT / 2)]
        end = self.tops[target.layer] - (0.0 if edge.target == OUTPUT else OPERATION_DROP)
        points.append((target.x + edge.port, end))
        _curve(axes, points, OUTPUT_LINES if edge.target == OUTPUT else _line_color(edge))


def _side_by_side(count: int, distance: float) -> list[float]:
    """Places around 0, from left to right."""
    return [(i - (count - 1) / 2) * distance for i in range(count)]


def _line_color(edge: Edge) -> str:
    return LINE_COLORS.get(edge.source, OTHER_LINES)


def _curve(axes: Any, points: Sequence[tuple[float, float]], color: str) -> None:
    """Through the points, upwards at each of them."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Curve

    vertices, codes = [points[0]], [Curve.MOVETO]
    for (x, y), (end, top) in itertools.pairwise(points):
        vertices += [(x, (y + top) / 2), (end, (y + top) / 2), (end, top)]
        codes += [Curve.CURVE4] * 3
    axes.add_patch(PathPatch(Curve(vertices, codes), fill=False, edgecolor=color, linewidth=1.3, zorder=1))


def _box(axes: Any, x: float, y: float, width: float, text: str, color: str, round_: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    corners = "round,pad=0,rounding_size=0.12" if round_ else "square,pad=0"
    corner = (x - width / 2, y - BOX_HEIGHT / 2)
    box = FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle=corners, facecolor=color, edgecolor="#444444", zorder=2)
    axes.add_patch(box)
    axes.text(x, y, text, ha="center", va="center", fontsize=9, zorder=3)
