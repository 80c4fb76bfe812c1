"""Wider convolutions with the same function: which channels of the network change with them, and their weights.

Papers: Chen, Goodfellow, Shlens, Net2Net (arXiv:1511.05641), section 3.1; Elsken, Metzen, Hutter (arXiv:1711.04528),
section 3, type II.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from arch.errors import unknown_name
from arch.models.graphs import LAYERS, Graph, Node

FORMS = ("copy", "zero")

Flat = dict[tuple[str, ...], np.ndarray]


class Channels(NamedTuple):
    """New channels of a map.

    Attributes:
        source: int [new], the old channel that each one copies.
        share: float64 [new], of the weight with which the old one was read; those of an old one sum to 1.
        fresh: bool [new], those that are random and copy nothing.
    """

    source: np.ndarray
    share: np.ndarray
    fresh: np.ndarray


def can_widen(graph: Graph, name: str) -> bool:
    """Whether a convolution can have more channels."""
    fields = {"node": name, "features": 2 * graph[name].features, "form": "zero", "uneven": 0.0, "seed": 0}
    try:
        changed_channels(graph, fields)
    except ValueError:
        return False
    return True


def widen_graph(graph: Graph, change: Mapping[str, Any]) -> Graph:
    """The graph after a change of `arch.search.morphism` that widens.

    Raises:
        ValueError: an unknown node or form; channels that cannot change; no more than there were.
    """
    found = changed_channels(graph, change)

    def wider(node: Node) -> Node:
        if node.kind != "conv" or node.name not in found:
            return node
        return dataclasses.replace(node, features=len(found[node.name].source))

    return Graph(tuple(map(wider, graph.nodes)), graph.head)


def _kept(count: int) -> Channels:
    return Channels(np.arange(count), np.ones(count), np.zeros(count, bool))


def _more(old: int, change: Mapping[str, Any]) -> Channels:
    """Those of the node that is widened: Net2Net's map, or NASH's."""
    new, form, uneven = change["features"], change["form"], change["uneven"]
    if form not in FORMS:
        raise unknown_name("widen: form", form, FORMS)
    if not 0 <= uneven < 1:
        raise ValueError(f"widen: uneven={uneven} must be in [0, 1); 0.5 is usual")
    if type(new) is not int or new <= old:
        raise ValueError(f"widen: features={new} of {change['node']} must be more than the {old} that it has; raise it")
    rng = np.random.default_rng((change["seed"], 0))
    source = np.concatenate([np.arange(old), rng.integers(old, size=new - old)])
    fresh = np.arange(new) >= old
    if form == "zero":
        return Channels(source, np.where(fresh, 0.0, 1.0), fresh)
    parts = rng.uniform(1 - uneven, 1 + uneven, new)
    return Channels(source, parts / np.bincount(source, parts)[source], np.zeros(new, bool))


def changed_channels(graph: Graph, change: Mapping[str, Any]) -> dict[str, Channels]:
    """The new channels of every map that changes: those tied to the node's, and concatenations with all tied to them.

    A concatenation has more channels than what it joins, so in this order none comes before what it reads.
    """
    node = graph[change["node"]]
    if node.kind != "conv":
        raise ValueError(f"widen: node={node.name} must be a conv, not {node.kind}; name one")
    found = dict.fromkeys(graph.tied(node.name), _more(node.features, change))
    concats = sorted((n for n in graph.nodes if n.kind == "concat"), key=lambda n: graph.channels[n.name])
    for concat in concats:
        if any(name in found for name in concat.inputs) and concat.name not in found:
            found |= dict.fromkeys(graph.tied(concat.name), _joined(graph, concat, found))
    for concat in concats:
        actual, needed = _joined(graph, concat, found), found.get(concat.name, _kept(graph.channels[concat.name]))
        if not all(map(np.array_equal, actual, needed)):
            raise ValueError(
                f"widen: {node.name} must not be widened, for {concat.name} would have other channels than what it is "
                "added to; name another node"
            )
    return found


def _joined(graph: Graph, concat: Node, found: Mapping[str, Channels]) -> Channels:
    """Of a concatenation: those of its inputs, one after the other."""
    parts, offset = [], 0
    for name in concat.inputs:
        count = graph.channels[name]
        part = found.get(name) or _kept(count)
        parts.append(part._replace(source=part.source + offset))
        offset += count
    return Channels(*map(np.concatenate, zip(*parts, strict=True)))


def widen_weights(graph: Graph, flat: Flat, change: Mapping[str, Any]) -> Flat:
    """The weights, by their paths, after a change that widens; arrays that change are new ones.

    What reads the wider maps comes before what makes them, so that new filters read all that there is.
    """
    found, rng, flat = changed_channels(graph, change), np.random.default_rng((change["seed"], 1)), dict(flat)
    for node in graph.nodes:
        path = ("params", node.name, "conv", "kernel")
        read, made = found.get(node.inputs[0]), found.get(node.name)
        if node.kind == "conv" and read is not None:
            flat[path] = _shared(flat[path], read, axis=2)
        if node.kind in LAYERS and made is not None:
            flat[path] = _filters(flat[path], made, rng)
            for where, start in (
                (("params", node.name, "norm", "scale"), 1.0),
                (("params", node.name, "norm", "bias"), 0.0),
                (("batch_stats", node.name, "norm", "mean"), 0.0),
                (("batch_stats", node.name, "norm", "var"), 1.0),
            ):
                flat[where] = np.where(made.fresh, start, flat[where][made.source]).astype(flat[where].dtype)
    last = graph.nodes[-1].name
    if last in found:
        path = ("params", "classifier", "kernel")
        pixels = flat[path].reshape(-1, graph.channels[last], flat[path].shape[-1])  # one, with the head "mean"
        flat[path] = _shared(pixels, found[last], axis=1).reshape(-1, flat[path].shape[-1])
    return flat


def _shared(kernel: np.ndarray, read: Channels, axis: int) -> np.ndarray:
    """A kernel that reads the new channels along an axis."""
    share = read.share.reshape(-1, *[1] * (kernel.ndim - axis - 1))
    return (np.take(kernel, read.source, axis) * share).astype(kernel.dtype)


def _filters(kernel: np.ndarray, made: Channels, rng: np.random.Generator) -> np.ndarray:
    """A kernel that makes the new channels, the last axis; fresh ones from N(0, 2 / fan-in)."""
    kernel = kernel[..., made.source]
    fresh = rng.normal(scale=np.sqrt(2 / np.prod(kernel.shape[:3])), size=(*kernel.shape[:3], int(made.fresh.sum())))
    kernel[..., made.fresh] = fresh
    return kernel
