"""Networks as graphs of convolutions, pools and joins: data, which `GraphNet` builds and network morphisms change."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from arch.errors import unknown_name

IMAGE = "image"  # what the first convolutions read
HEADS = ("mean", "flatten")

# How many inputs a node of this kind has, at least and at most, and which of its fields are given.
KINDS = {
    "conv": (1, 1, ("features", "kernel_size")),  # k x k, normalization, activation
    "depthwise": (1, 1, ("kernel_size",)),  # k x k of each channel alone, normalization, activation
    "max_pool": (1, 1, ()),  # 2x2 of stride 2
    "add": (2, None, ()),
    "blend": (2, 2, ()),  # w a + (1 - w) b, with a learned scalar w
    "concat": (2, None, ()),  # along the channels
}
LAYERS = ("conv", "depthwise")  # the kinds with a kernel, a normalization and an activation


@dataclasses.dataclass(frozen=True)
class Node:
    """One step of a network.

    Attributes:
        name: the path of its parameters; lower case letters, digits and underscores.
        kind: one of KINDS.
        inputs: names of the nodes that it reads, or "image".
        features: output channels, of a convolution across channels.
        kernel_size: taps along height and along width, of a convolution.

    Raises:
        ValueError: another name, kind or number of inputs; a field that its kind lacks, or does not have.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    features: int | None = None
    kernel_size: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "inputs", (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs))
        if not re.fullmatch(r"[a-z][a-z0-9_]*", str(self.name)) or self.name in (IMAGE, "classifier", "dropout"):
            raise ValueError(
                f"Node: name={self.name!r} must be lower case letters, digits and underscores, and none of {IMAGE}, "
                "classifier, dropout; rename it"
            )
        if self.kind not in KINDS:
            raise unknown_name("Node: kind", self.kind, KINDS)
        least, most, fields = KINDS[self.kind]
        if not least <= len(self.inputs) <= (most or len(self.inputs)):
            wanted = least if least == most else f"{least} or more"
            raise ValueError(f"Node: {self.name} has {len(self.inputs)} inputs; {self.kind} must have {wanted}")
        for field in ("features", "kernel_size"):
            value = getattr(self, field)
            if (field in fields) != (type(value) is int and value > 0) or (field not in fields and value is not None):
                wanted = "a number from 1" if field in fields else "left out"
                raise ValueError(f"Node: {field}={value!r} of {self.name} must be {wanted}, for {self.kind}; change it")


@dataclasses.dataclass(frozen=True)
class Graph:
    """A network without its classifier's size.

    Attributes:
        nodes: in the order in which they are computed; the last one's map goes to the head.
        head: "mean": the mean over the map, or "flatten": all of its pixels, then a linear layer.

    Raises:
        ValueError: a name twice or of no earlier node; a node that nothing reads; the image read by anything but a
            convolution across channels; maps that do not fit together; another head.
    """

    nodes: tuple[Node, ...]
    head: str = "mean"

    def __post_init__(self):
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if self.head not in HEADS:
            raise unknown_name("Graph: head", self.head, HEADS)
        if not self.nodes:
            raise ValueError("Graph: nodes=() must have a node; give a convolution")
        known: set[str] = set()
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"Graph: the name {node.name!r} must be of one node alone; rename the other")
            for name in node.inputs:
                if name not in known and name != IMAGE:
                    raise unknown_name(f"Graph: {node.name} must read earlier nodes or {IMAGE}", name, known | {IMAGE})
            if IMAGE in node.inputs and node.kind != "conv":
                raise ValueError(
                    f"Graph: {node.name}, of kind {node.kind}, reads the image, which only a conv may; put one between"
                )
            known.add(node.name)
        for node in self.nodes[:-1]:
            if not self.readers(node.name):
                raise ValueError(f"Graph: {node.name} must be read by a node, as all but the last; remove it")
        for node in self.nodes:
            for what, values, kinds in (
                ("strides", self.strides, ("add", "blend", "concat")),
                ("channels", self.channels, ("add", "blend")),
            ):
                found = [values[name] for name in node.inputs]
                if node.kind in kinds and len(set(found)) > 1:
                    raise ValueError(
                        f"Graph: what {node.name} reads has {what} {found}, which must be equal for {node.kind}"
                    )

    def __getitem__(self, name: str) -> Node:
        """The node of a name; raises ValueError where there is none."""
        if name not in self._by_name:
            raise unknown_name("Graph: node", name, self._by_name)
        return self._by_name[name]

    @functools.cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @functools.cached_property
    def channels(self) -> dict[str, int]:
        """Of each node's map; the image's, which the data decides, count 0."""
        found = {IMAGE: 0}
        for node in self.nodes:
            read = [found[name] for name in node.inputs]
            found[node.name] = node.features or (sum(read) if node.kind == "concat" else read[0])
        return found

    @functools.cached_property
    def strides(self) -> dict[str, int]:
        """Pixels of the image to a step of each node's map."""
        found = {IMAGE: 1}
        for node in self.nodes:
            found[node.name] = found[node.inputs[0]] * (2 if node.kind == "max_pool" else 1)
        return found

    def readers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read one."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def tied(self, name: str) -> frozenset[str]:
        """The nodes whose channels are those of this one, one for one: itself, and what pools, depthwise and sums join.

        Among them are the convolutions and concatenations that make these channels; all have to change together.
        """
        found, new = set(), {name}
        while new:
            found |= new
            passing = [node for node in self.nodes if node.kind not in ("conv", "concat")]
            new = {read for node in passing if node.name in found for read in node.inputs}
            new |= {node.name for node in passing if found & set(node.inputs)}
            new -= found
        return frozenset(found)

    def to_json(self) -> dict[str, Any]:
        """Lists, strings and numbers alone, which `from_json` reads."""
        nodes = [
            {key: list(value) if key == "inputs" else value for key, value in vars(node).items() if value is not None}
            for node in self.nodes
        ]
        return {"nodes": nodes, "head": self.head}

    def to_text(self) -> str:
        """The JSON as one line, for a flag."""
        return json.dumps(self.to_json(), separators=(",", ":"))


def from_json(value: Mapping[str, Any]) -> Graph:
    """The graph that `to_json` wrote; `head` may be left out.

    Raises:
        ValueError: a key that is missing or unknown; values of another form; whatever the classes refuse.
    """
    value = _fields("graph", value, Graph)
    if not isinstance(value["nodes"], Sequence) or isinstance(value["nodes"], str):
        raise ValueError(f"graph: nodes={value['nodes']!r} must be a list; see Graph.to_json")
    nodes = [Node(**_fields(f"nodes[{number}]", node, Node)) for number, node in enumerate(value["nodes"])]
    return Graph(**value | {"nodes": tuple(nodes)})


def resolve(graph: "Graph | Mapping[str, Any] | str") -> Graph:
    """A graph from itself, from the form of `to_json`, from that as text, or from the channels of a chain: "16,32,64".

    Raises:
        ValueError: text that is neither; whatever `from_json` and `chain` refuse.
    """
    if isinstance(graph, Graph):
        return graph
    if not isinstance(graph, str):
        return from_json(graph)
    if re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", graph):
        return chain([int(features) for features in graph.split(",")])
    try:
        value = json.loads(graph)
    except json.JSONDecodeError as error:
        raise ValueError(f"graph: the text is no JSON, {error}; write what to_json gives, or 16,32,64") from None
    return from_json(value)


def chain(features: Sequence[int], kernel_size: int = 3, head: str = "mean") -> Graph:
    """Convolutions one after the other, with a max pool between any two: where hill climbing begins.

    Args:
        features: channels of each convolution.
        kernel_size: of all.
        head: of the graph.
    """
    nodes: list[Node] = []
    for number, channels in enumerate(features, start=1):
        if nodes:
            nodes.append(Node(f"max_pool{number - 1}", "max_pool", (nodes[-1].name,)))
        before = nodes[-1].name if nodes else IMAGE
        nodes.append(Node(f"conv{number}", "conv", (before,), channels, kernel_size))
    return Graph(tuple(nodes), head)


def _fields(name: str, value: Any, kind: type) -> dict[str, Any]:
    """A mapping, of any kind, as a dict, once its keys are known to be fields of a class."""
    known = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind)}
    if not hasattr(value, "keys"):
        raise ValueError(f"graph: {name}={value!r} must have the keys {', '.join(known)}; see Graph.to_json")
    value = dict(value)
    for key in value:
        if key not in known:
            raise unknown_name(f"graph: keys of {name}", key, known)
    for key, needed in known.items():
        if needed and key not in value:
            raise ValueError(f"graph: {name} must have the key {key!r}; see Graph.to_json")
    return value


# The start of Elsken et al. (arXiv:1711.04528); the channels are ours.
NASH = chain((64, 128, 256))
