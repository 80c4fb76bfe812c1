"""Pictures of cells: every operation once, boxes that do not overlap, and few crossings; and the script that draws."""

import collections
import itertools
import json

import numpy as np
import pytest

from arch.models.classification.nas_bench_201 import DEFAULT_CELL, EDGES, cell_operations
from arch.models.genotypes import DARTS_V2, GENOTYPES, OPERATIONS
from scripts import draw_cell
from scripts._cell_picture import OPERATION_COLORS, OUTPUT, of_cell, of_nas_bench_201, short_name
from scripts._layered_graph import GAP, Graph, Vertex, _spread


@pytest.mark.parametrize("name", GENOTYPES)
def test_every_operation_is_drawn_once_and_boxes_keep_apart(name):
    for cell in (GENOTYPES[name].normal, GENOTYPES[name].reduction):
        picture = of_cell(cell, GENOTYPES[name].inputs)
        graph = picture.graph
        drawn = collections.Counter((edge.source, edge.target, operation) for edge, operation in picture.operations)
        assert drawn == collections.Counter(
            (edge.state, number, edge.operation) for number, node in enumerate(cell.nodes, 2) for edge in node.edges
        )
        assert {edge.source for edge in graph.edges if edge.target == OUTPUT} == set(cell.concat)
        for key, vertex in graph.vertices.items():
            entering = [edge for edge in graph.edges if edge.target == key]
            assert sorted(edge.port for edge in entering) == list(vertex.ports), "one edge a port"
            assert all(graph.vertices[edge.source].layer < vertex.layer for edge in entering)
        boxes = [*graph.vertices.values(), *(one for edge in graph.edges for one in edge.passes)]
        for a, b in itertools.combinations(boxes, 2):
            assert a.layer != b.layer or abs(a.x - b.x) >= (a.width + b.width) / 2 + GAP - 1e-6
        assert all(picture.left <= box.x - box.width / 2 and box.x + box.width / 2 <= picture.right for box in boxes)


@pytest.mark.parametrize("text", [DEFAULT_CELL, "|none~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"])
def test_a_cell_of_nas_bench_201_is_drawn_without_what_it_does_not_compute(text, tmp_path):
    picture = of_nas_bench_201(text)
    drawn = {(edge.source, edge.target): operation for edge, operation in picture.operations}
    assert drawn == {edge: name for edge, name in zip(EDGES, cell_operations(text), strict=True) if name != "none"}
    assert [edge.source for edge in picture.graph.edges if edge.target == OUTPUT] == [3]
    assert draw_cell.main([text, f"--output={tmp_path / 'cell.png'}"]) == 0
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")


def test_a_graph_that_can_be_drawn_without_crossings_is():
    """Two stars, whose leaves come in an order in which all of them cross."""
    graph = Graph(passing_width=0.1)
    for center in "ab":
        graph.vertices[center] = Vertex(0, 1.0)
    for number in range(6):
        graph.vertices[number] = Vertex(1, 1.0, ports=(0.0,))
        graph.connect("ab"[number % 2], number)
    graph.arrange()
    left, right = sorted("ab", key=lambda center: graph.vertices[center].x)
    places = {
        center: [graph.vertices[edge.target].x for edge in graph.edges if edge.source == center] for center in "ab"
    }
    assert max(places[left]) < min(places[right])


def test_boxes_move_apart_as_little_as_can_be():
    """Of all places on a grid that fit, none is nearer to what was wished."""
    boxes, wishes = [Vertex(0, 1.0 - GAP) for _ in range(3)], [0.5, 0.25, 2.0]
    _spread(boxes, wishes)
    found = np.array([box.x for box in boxes])
    grid = np.arange(-2, 4, 0.125)
    fits = [p for p in itertools.product(grid, repeat=3) if min(np.diff(p)) >= 1 - 1e-9]
    best = min(fits, key=lambda p: float(np.sum((np.array(p) - wishes) ** 2)))
    assert min(np.diff(found)) >= 1 - 1e-9
    assert np.sum((found - wishes) ** 2) <= np.sum((np.array(best) - wishes) ** 2) + 1e-9


def test_operations_have_short_names_of_their_own_and_colours():
    assert short_name("sep_conv_3x3") == "sep 3x3" and short_name("conv_1x7_7x1") == "1x7 7x1"
    assert len({short_name(operation) for operation in OPERATIONS}) == len(OPERATIONS)
    for operation in OPERATIONS:
        assert len(short_name(operation)) <= 11 and any(operation.startswith(start) for start in OPERATION_COLORS)


@pytest.mark.parametrize("form", ["name", "json", "file"])
def test_a_genotype_is_drawn_however_it_is_given(tmp_path, capsys, form):
    text = json.dumps(DARTS_V2.to_json())
    (tmp_path / "genotype.json").write_text(text)
    argument = {"name": "darts_v2", "json": text, "file": str(tmp_path / "genotype.json")}[form]
    assert draw_cell.main([argument, f"--output={tmp_path / 'cell.png'}"]) == 0
    assert (tmp_path / "cell.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(tmp_path / "cell.png")


def test_what_is_no_genotype_is_one_line(tmp_path, capsys):
    assert draw_cell.main(["darts_v3", f"--output={tmp_path / 'cell.png'}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("draw_cell: genotype: unknown name 'darts_v3'; did you mean 'darts_v")
    assert not (tmp_path / "cell.png").exists()
