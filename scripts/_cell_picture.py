"""Pictures of searched cells as graphs, from the inputs at the bottom to the output at the top."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from arch.models import genotypes
from arch.models.classification.nas_bench_201 import EDGES, NUM_NODES, cell_operations
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
    "nor_conv": "#f9cb9c",
    "avg_pool": "#d9ead3",
    "max_pool": "#fff2cc",
    "identity": "#eeeeee",
    "skip": "#eeeeee",
}
LINE_COLORS = {0: "#1f5fa8", 1: "#b3401f"}
OTHER_LINES, OUTPUT_LINES = "#222222", "#a8a8a8"


def short_name(operation: str) -> str:
    """As it is written into a box: sep_conv_3x3 is "sep 3x3", conv_1x7_7x1 is "1x7 7x1", nor_conv_3x3 is "3x3"."""
    words = operation.replace("skip_connect", "skip").replace("nor_conv", "conv").split("_")
    return " ".join(word for word in words if word not in ("conv", "pool"))


class Node(NamedTuple):
    """What a state is made of: how, and the operations, each with the state that it reads."""

    label: str
    edges: Sequence[genotypes.Edge]


def draw(genotype: Genotype, path: Path, title: str = "") -> None:
    """Writes a png of the normal and the reduction cell, side by side."""
    cells = {"normal cell": genotype.normal, "reduction cell": genotype.reduction}
    _paint({name: of_cell(cell, genotype.inputs) for name, cell in cells.items()}, path, title)


def draw_nas_bench_201(text: str, path: Path, title: str = "") -> None:
    """Writes a png of a cell of NAS-Bench-201, without the edges that are "none"."""
    _paint({"cell": of_nas_bench_201(text)}, path, title)


def of_cell(cell: Cell, inputs: Sequence[str]) -> "CellPicture":
    """That of one cell of a genotype."""
    return CellPicture(inputs, [Node(node.combine, node.edges) for node in cell.nodes], cell.concat)


def of_nas_bench_201(text: str) -> "CellPicture":
    """That of a cell of NAS-Bench-201, as the authors write it."""
    edges: dict[int, list[genotypes.Edge]] = {node: [] for node in range(1, NUM_NODES)}
    for operation, (source, node) in zip(cell_operations(text), EDGES, strict=True):
        if operation != "none":
            edges[node].append(genotypes.Edge(operation, source))
    nodes = [Node("add" if entering else "zero", entering) for entering in edges.values()]
    return CellPicture(["input"], nodes, [NUM_NODES - 1])


def _paint(pictures: Mapping[str, "CellPicture"], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    widths = [picture.right - picture.left for picture in pictures.values()]
    height = max(picture.tops[-1] for picture in pictures.values()) + BOX_HEIGHT + 2 * MARGIN
    figure = Figure(figsize=(sum(widths) + 0.6, height + (0.85 if title else 0.5)), layout="constrained")
    columns = figure.subplots(1, len(pictures), width_ratios=widths, squeeze=False)[0]
    for axes, (name, picture) in zip(columns, pictures.items(), strict=True):
        if len(pictures) > 1:
            axes.set_title(name, fontsize=12)
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(picture.left, picture.right)
        axes.set_ylim(-BOX_HEIGHT / 2 - MARGIN, height - BOX_HEIGHT / 2 - MARGIN)
        picture.paint(axes)
    if title:
        figure.suptitle(title, fontsize=13)
    figure.savefig(path, dpi=110, format="png", bbox_inches="tight")


class CellPicture:
    """Where everything is, and its painting.

    Args:
        inputs: names of the first states.
        nodes: the further ones, in their order.
        concat: states that are the output.

    Attributes:
        left: end of the picture, inches.
        right: likewise.
        tops: y of the middle of the states of each layer.
    """

    def __init__(self, inputs: Sequence[str], nodes: Sequence[Node], concat: Sequence[int]):
        labels = [*inputs, *(node.label for node in nodes)]
        self._labels = {state: f"{state}: {label}" for state, label in enumerate(labels)}
        self._num_inputs, self.graph = len(inputs), Graph(PASSING_WIDTH)
        self.operations: list[tuple[Edge, str]] = []
        for state in range(len(inputs)):
            self.graph.vertices[state] = Vertex(layer=0, width=INPUT_WIDTH)
        for state, node in enumerate(nodes, start=len(inputs)):
            ports = _side_by_side(len(node.edges), OPERATION_WIDTH + 0.05)
            layer = 1 + max((self.graph.vertices[edge.state].layer for edge in node.edges), default=0)
            width = max(STATE_WIDTH, ports[-1] - ports[0] + OPERATION_WIDTH if ports else 0.0)
            self.graph.vertices[state] = Vertex(layer, width, ports)
            for edge in node.edges:
                self.operations.append((self.graph.connect(edge.state, state), edge.operation))
        ports = _side_by_side(len(concat), 0.14)
        self.graph.vertices[OUTPUT] = Vertex(self.graph.num_layers, max(STATE_WIDTH, 2 * ports[-1] + 0.2), ports)
        for state in concat:
            self.graph.connect(state, OUTPUT)
        self.graph.arrange()
        left, right = self.graph.extent
        self.left, self.right = left - MARGIN, right + MARGIN
        self.tops = [0.0]
        for layer in range(self.graph.num_layers - 1):
            parts = [part for edge in self.graph.edges for part in self.graph.segments(edge)]
            leaving = [abs(upper.x + end - lower.x) for lower, upper, end in parts if lower.layer == layer]
            aside = max(leaving, default=0.0)
            gap = min(LOWEST_GAP + GAP_AN_INCH * aside, HIGHEST_GAP)
            drop = OPERATION_DROP if layer < self.graph.num_layers - 2 else 0.0  # there are none at the output
            self.tops.append(self.tops[-1] + BOX_HEIGHT + gap + drop)

    def paint(self, axes: Any) -> None:
        """Lines first, then the boxes on top of them."""
        for edge in self.graph.edges:
            self._line(axes, edge)
        for edge, operation in self.operations:
            vertex = self.graph.vertices[edge.target]
            x, top = vertex.x + edge.port, self.tops[vertex.layer]
            color = next(c for start, c in OPERATION_COLORS.items() if operation.startswith(start))
            _curve(axes, [(x, top - OPERATION_DROP), (vertex.x, top)], _line_color(edge))
            _box(axes, x, top - OPERATION_DROP, OPERATION_WIDTH, short_name(operation), color, round_=True)
        for key, vertex in self.graph.vertices.items():
            is_node = key != OUTPUT and key >= self._num_inputs
            width = STATE_WIDTH if is_node else vertex.width
            _box(axes, vertex.x, self.tops[vertex.layer], width, self._labels.get(key, OUTPUT), "#ffffff")

    def _line(self, axes: Any, edge: Edge) -> None:
        """From the top of a state, straight through the layers that it passes, to an operation or to the output."""
        source, target = self.graph.vertices[edge.source], self.graph.vertices[edge.target]
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
