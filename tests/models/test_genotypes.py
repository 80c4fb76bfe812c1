"""Genotypes are data: they survive JSON and say what the sources say; what is no genotype is refused in a line."""

import ast
import dataclasses
import json
import pathlib

import pytest

from arch.blocks.cell_operations import OPERATIONS as BUILT
from arch.models import genotypes
from arch.models.genotypes import (
    AMOEBANET_A,
    AMOEBANET_OPERATIONS,
    DARTS_OPERATIONS,
    DARTS_V1,
    DARTS_V2,
    GENOTYPES,
    NASNET_A,
    NASNET_OPERATIONS,
    PNASNET_5,
    Cell,
    Edge,
    Genotype,
    Node,
    cell_of_pairs,
    from_json,
    resolve,
    unused_states,
)


@pytest.mark.parametrize("name", GENOTYPES)
def test_a_genotype_survives_json_and_is_hashable(name):
    genotype = GENOTYPES[name]
    text = json.dumps(genotype.to_json())
    assert from_json(json.loads(text)) == genotype
    assert len({genotype, resolve(text), resolve(name), resolve(name.upper()), resolve(genotype.to_json())}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        genotype.normal = genotype.reduction


def test_what_is_given_as_lists_is_hashable_too():
    cell = Cell([Node([["identity", 0], ("sep_conv_3x3", 1)], "concat")], [2])
    assert cell == Cell((Node((Edge("identity", 0), Edge("sep_conv_3x3", 1)), "concat"),), (2,))
    assert hash(Genotype(cell, cell, ["previous", "current"])) == hash(Genotype(cell, cell, ("previous", "current")))


def test_the_sizes_of_the_spaces_are_the_papers():
    """Of a cell: 720^2 * 338^5 and 720^2 * 64^5; the inputs of five nodes, with 13 operations twice and two ways to
    combine, or 8 twice and one way; 180 * 49^4 of DARTS, where the two inputs of a node differ."""
    inputs = [number + 2 for number in range(5)]
    pairs = 1
    for states in inputs:
        pairs *= states**2
    assert pairs == 720**2
    assert pairs * (len(NASNET_OPERATIONS) ** 2 * len(genotypes.COMBINE)) ** 5 == 720**2 * 338**5
    assert pairs * (len(AMOEBANET_OPERATIONS) ** 2) ** 5 == 720**2 * 64**5
    assert 1 * 3 * 6 * 10 * (len(DARTS_OPERATIONS) ** 2) ** 4 == 180 * 49**4


def test_every_operation_is_in_its_space_and_can_be_built():
    assert set(BUILT) == set(genotypes.OPERATIONS)
    spaces = {
        "nasnet_a": NASNET_OPERATIONS,
        "pnasnet_5": NASNET_OPERATIONS,
        "amoebanet_a": AMOEBANET_OPERATIONS,
        "darts_v1": DARTS_OPERATIONS,
        "darts_v2": DARTS_OPERATIONS,
    }
    assert set(spaces) == set(GENOTYPES)
    for name, operations in spaces.items():
        for cell in (GENOTYPES[name].normal, GENOTYPES[name].reduction):
            assert {edge.operation for node in cell.nodes for edge in node.edges} <= set(operations)


def test_states_that_are_put_out():
    """Flags verbatim: AmoebaNet's normal cell puts out state 1, which its nodes use; NASNet's leaves out no node."""
    assert NASNET_A.normal.concat == (1, 2, 3, 4, 5, 6)
    assert NASNET_A.reduction.concat == (3, 4, 5, 6)
    assert AMOEBANET_A.normal.concat == (1, 3, 4, 6)
    assert AMOEBANET_A.reduction.concat == (2, 3, 4, 5, 6)
    assert {cell.concat for g in (DARTS_V1, DARTS_V2) for cell in (g.normal, g.reduction)} == {(2, 3, 4, 5)}
    assert unused_states(NASNET_A.normal.nodes) == (2, 3, 4, 5, 6)
    assert unused_states(NASNET_A.reduction.nodes) == (4, 5, 6)
    assert unused_states(AMOEBANET_A.normal.nodes) == (3, 4, 6)
    assert unused_states(AMOEBANET_A.reduction.nodes) == (3, 5, 6)
    assert unused_states(PNASNET_5.normal.nodes) == (2, 3, 5, 6)


def test_amoebanet_a_is_what_the_authors_flags_say():
    """Operations and inputs of their program, two a node; what its flags call unused is put out."""
    names = {"id": "identity", "avg3": "avg_pool_3x3", "max3": "max_pool_3x3", "1x7-7x1": "conv_1x7_7x1"}
    names |= {f"sep{size}": f"sep_conv_{size}x{size}" for size in (3, 5, 7)}
    for cell, operations, inputs, used in (
        (AMOEBANET_A.normal, "avg3,max3,sep3,id,id,avg3,sep3,sep5,avg3,sep3", "0011010250", "1010010"),
        (AMOEBANET_A.reduction, "sep3,avg3,max3,sep7,max3,max3,sep3,1x7-7x1,avg3,sep7", "1002104010", "1100000"),
    ):
        edges = [(edge.operation, edge.state) for node in cell.nodes for edge in node.edges]
        assert edges == [(names[name], int(state)) for name, state in zip(operations.split(","), inputs, strict=True)]
        assert [node.combine for node in cell.nodes] == ["add"] * 5
        assert list(cell.concat) == [state for state, flag in enumerate(used) if flag == "0"]


def test_nasnet_a_is_what_darts_evaluates():
    """The authors of DARTS write the same cell with their inputs the other way round."""
    theirs = [
        *(("sep_conv_5x5", 1), ("sep_conv_3x3", 0)),
        *(("sep_conv_5x5", 0), ("sep_conv_3x3", 0)),
        *(("avg_pool_3x3", 1), ("skip_connect", 0)),
        *(("avg_pool_3x3", 0), ("avg_pool_3x3", 0)),
        *(("sep_conv_3x3", 1), ("skip_connect", 1)),
    ]
    edges = [edge for node in NASNET_A.normal.nodes for edge in node.edges]
    assert [(operation.replace("identity", "skip_connect"), 1 - state) for operation, state in edges] == theirs


def test_the_data_needs_no_layers():
    tree = ast.parse(pathlib.Path(genotypes.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"dataclasses", "json", "collections.abc", "typing", "arch.errors"}


def _json(**changes):
    cell = {"nodes": [{"edges": [["identity", 0], ["sep_conv_3x3", 1]]}], "concat": [2]}
    return {"normal": {**cell, **changes}, "reduction": cell}


@pytest.mark.parametrize(
    "genotype,message",
    [
        ("nasnet_b", "genotype: unknown name 'nasnet_b'; did you mean 'nasnet_a'"),
        ("{normal: 1}", "genotype: the text is no JSON, "),
        (3, "genotype: genotype=3 must have the keys normal, reduction; "),
        ({"normal": _json()["normal"]}, "genotype: genotype must have the key 'reduction'; "),
        ({**_json(), "input": []}, "genotype: keys of genotype: unknown name 'input'; did you mean 'inputs'"),
        (
            {**_json(), "inputs": ["current"]},
            "Genotype: inputs=('current',) must be ('current', 'previous'), in either ",
        ),
        (_json(nodes=3), "genotype: normal.nodes=3 must be a list; "),
        (_json(nodes=[{"edge": []}]), "genotype: keys of normal.nodes[0]: unknown name 'edge'; did you mean 'edges'"),
        (
            _json(nodes=[{"edges": [["identity"]]}]),
            "genotype: ['identity'] of normal.nodes[0] must be an operation and",
        ),
        (_json(nodes=[{"edges": []}]), "Node: edges=() must have one edge or more; "),
        (
            _json(nodes=[{"edges": [["sep_conv_4x4", 0]]}]),
            "Node: operation: unknown name 'sep_conv_4x4'; did you mean ",
        ),
        (
            _json(nodes=[{"edges": [["identity", "0"]]}]),
            "Node: identity reads state='0', which must be a number from 0; ",
        ),
        (
            _json(nodes=[{"edges": [["identity", 2]]}]),
            "Cell: identity of nodes[0] reads state 2, which must be one of 0 ",
        ),
        (
            _json(nodes=[{"edges": [["identity", 0]], "combine": "ad"}]),
            "Node: combine: unknown name 'ad'; did you mean 'add'",
        ),
        (_json(concat=[]), "Cell: concat=() must be one or more of the states 0 to 2, each once; "),
        (_json(concat=[2, 2]), "Cell: concat=(2, 2) must be one or more of the states 0 to 2, each once; "),
        (_json(concat=[3]), "Cell: concat=(3,) must be one or more of the states 0 to 2, each once; "),
        (_json(concat=[[2]]), "Cell: concat=([2],) must be one or more of the states 0 to 2, each once; "),
        ({**_json(), "inputs": [1, "current"]}, "Genotype: inputs=(1, 'current') must be ('current', 'previous'), in "),
        (_json(concat="2"), "genotype: normal.concat='2' must be a list; "),
    ],
)
def test_what_is_no_genotype_is_refused_in_a_line(genotype, message):
    with pytest.raises(ValueError) as error:
        resolve(genotype)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match=r"^cell_of_pairs: 3 operations and 3 states must be two of each a node; "):
        cell_of_pairs(("identity",) * 3, (0, 0, 0), (2,))
