"""Places for the vertices of a small graph without cycles, drawn in layers.

Sugiyama, Tagawa and Toda, Methods for visual understanding of hierarchical system structures (1981): an edge that
passes a layer has a place of its own there; layer by layer, vertices move to the mean of what they are connected with,
and apart until they fit; of all that was tried, what has the fewest crossings and the shortest edges is kept.
"""

import dataclasses
import itertools
from collections.abc import Hashable, Sequence

import numpy as np

RESTARTS, SWEEPS = 60, 12
GAP = 0.14  # inches between neighbours
CROSSING = 1.5  # weighs as much as so many inches of edges from side to side


@dataclasses.dataclass
class Vertex:
    """A box.

    Attributes:
        layer: counted from below.
        width: inches.
        ports: where edges from below may end, inches from its middle, from left to right; one an edge.
        x: of its middle, inches.
    """

    layer: int
    width: float
    ports: Sequence[float] = ()
    x: float = 0.0


@dataclasses.dataclass
class Edge:
    """A line upwards.

    Attributes:
        source: vertex that it leaves.
        target: vertex that it enters.
        port: where, inches from the middle of the target.
        passes: what stands for it in the layers between.
    """

    source: Hashable
    target: Hashable
    port: float = 0.0
    passes: list[Vertex] = dataclasses.field(default_factory=list)


class Graph:
    """Vertices and edges; `arrange` gives them places.

    Args:
        passing_width: that an edge takes in a layer that it passes, inches.

    Attributes:
        vertices: by key.
        edges: in the order in which they were connected.
    """

    def __init__(self, passing_width: float):
        self.vertices: dict[Hashable, Vertex] = {}
        self.edges: list[Edge] = []
        self._passing_width = passing_width

    @property
    def num_layers(self) -> int:
        """One more than the highest layer."""
        return 1 + max(vertex.layer for vertex in self.vertices.values())

    @property
    def extent(self) -> tuple[float, float]:
        """Left and right end, inches."""
        boxes = [*self.vertices.values(), *(one for edge in self.edges for one in edge.passes)]
        return min(one.x - one.width / 2 for one in boxes), max(one.x + one.width / 2 for one in boxes)

    def connect(self, source: Hashable, target: Hashable) -> Edge:
        """A new edge, to a vertex of a higher layer."""
        layers = range(self.vertices[source].layer + 1, self.vertices[target].layer)
        edge = Edge(source, target, passes=[Vertex(layer, self._passing_width) for layer in layers])
        self.edges.append(edge)
        return edge

    def segments(self, edge: Edge) -> list[tuple[Vertex, Vertex, float]]:
        """(lower, upper, inches from the middle of the upper) of the parts of an edge, from layer to layer."""
        chain = [self.vertices[edge.source], *edge.passes, self.vertices[edge.target]]
        ends = [0.0] * len(edge.passes) + [edge.port]
        return [(*pair, end) for pair, end in zip(itertools.pairwise(chain), ends, strict=True)]

    def arrange(self) -> None:
        """Sets x of all vertices and the ports of all edges."""
        rng, boxes = np.random.default_rng(0), [*self.vertices.values()]
        boxes += [one for edge in self.edges for one in edge.passes]
        best, kept = np.inf, None
        for restart in range(RESTARTS):
            for box in boxes:
                box.x = float(rng.normal()) if restart else 0.0
            for sweep in range(SWEEPS):
                self._sweep(boxes, upwards=sweep % 2 == 0)
                if (found := self._disorder(boxes)) < best - 1e-9:
                    best, kept = found, ([box.x for box in boxes], [edge.port for edge in self.edges])
        for box, x in zip(boxes, kept[0], strict=True):
            box.x = x
        for edge, port in zip(self.edges, kept[1], strict=True):
            edge.port = port

    def _sweep(self, boxes: Sequence[Vertex], *, upwards: bool) -> None:
        """Every layer in turn, towards what it is connected with in the layer before it."""
        parts = [part for edge in self.edges for part in self.segments(edge)]
        layers = range(self.num_layers)
        for layer in layers if upwards else reversed(layers):
            wishes: dict[int, list[float]] = {}
            for lower, upper, end in parts:
                if upper.layer == layer and upwards:
                    wishes.setdefault(id(upper), []).append(lower.x)
                if lower.layer == layer and not upwards:
                    wishes.setdefault(id(lower), []).append(upper.x + end)
            here = [box for box in boxes if box.layer == layer]
            wanted = {id(box): float(np.mean(wishes.get(id(box), [box.x]))) for box in here}
            here.sort(key=lambda box: (round(wanted[id(box)], 6), box.x))  # where all wish the same, as they are
            _spread(here, [wanted[id(box)] for box in here])
        self._enter()

    def _enter(self) -> None:
        """Edges enter a vertex from left to right as they come from there."""
        for key, vertex in self.vertices.items():
            entering = [(self.segments(edge)[-1][0].x, edge) for edge in self.edges if edge.target == key]
            entering.sort(key=lambda pair: pair[0])
            for port, (_, edge) in zip(vertex.ports, entering, strict=True):
                edge.port = port

    def _disorder(self, boxes: Sequence[Vertex]) -> float:
        """Of crossings, of how far edges go to the side, and of the width of all."""
        parts = [part for edge in self.edges for part in self.segments(edge)]
        crossings = 0
        for (a, b, end), (c, d, other) in itertools.combinations(parts, 2):
            if a.layer == c.layer:
                crossings += (a.x - c.x) * (b.x + end - d.x - other) < -1e-9
        aside = sum(abs(upper.x + end - lower.x) for lower, upper, end in parts)
        left, right = self.extent
        return CROSSING * crossings + aside + right - left


def _spread(boxes: Sequence[Vertex], wanted: Sequence[float]) -> None:
    """Moves neighbours apart until they fit, as little as can be: isotonic regression, by pooling what violates it."""
    apart = [(a.width + b.width) / 2 + GAP for a, b in itertools.pairwise(boxes)]
    offsets = np.concatenate([[0.0], np.cumsum(apart)])
    blocks: list[list[float]] = []  # the mean of the wishes, and how many they are
    for wish in np.asarray(wanted) - offsets:
        blocks.append([float(wish), 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, number = blocks[-1]
            blocks[-1] = [(before * number + mean * count) / (number + count), number + count]
    places = [mean for mean, count in blocks for _ in range(int(count))]
    for box, place, offset in zip(boxes, places, offsets, strict=True):
        box.x = place + float(offset)
