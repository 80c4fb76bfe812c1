"""Network morphisms: another graph and its weights, which compute in evaluation what the first ones did.

Papers: Elsken, Metzen, Hutter, Simple and Efficient Architecture Search for CNNs (arXiv:1711.04528), section 3; Chen,
Goodfellow, Shlens, Net2Net (arXiv:1511.05641); Wei, Wang, Rui, Chen, Network Morphism (arXiv:1603.01670).

A morphism is a `change`, JSON values, and pure: with the same graph, weights and change it gives the same result.

    {"morphism": "deepen", "after": NODE, "kernel_size": 3}
    {"morphism": "widen", "node": NODE, "features": 32, "form": "copy", "uneven": 0.5, "seed": 7}
    {"morphism": "concat", "node": NODE, "source": NODE}
    {"morphism": "blend", "node": NODE, "source": NODE}

deepen puts a convolution that is the identity, its normalization and its activation behind a node. As act(act(x)) must
be act(x), that is refused for activations such as Swish, and behind sums, where no activation was.

widen gives a convolution more channels. "copy" is Net2Net's: the new ones are copies, and what reads copies shares its
weights among them, in equal parts (uneven=0) or in parts that are drawn. Equal parts have equal gradients, so that
copies would stay copies. "zero" is NASH's: the new ones are random, and what reads them does so with zeros. Channels
that are added to others, or pooled, or read depthwise, are widened together with those; where that cannot be, because
they are added to a concatenation that does not change likewise, widening is refused.

concat lets a convolution read a further map, with zeros. blend puts w a + (1 - w) b in the place of a, with w = 1.

Differs from the papers: parts that are drawn; skips only between maps of one size. In training the statistics of the
batch are others than the running ones: widening and skips change nothing there either; a new layer is the identity as
far as the moments of its input are known, see `apply`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from arch.errors import unknown_name
from arch.models.graphs import IMAGE, LAYERS, Graph, Node
from arch.norm.batch import BatchNorm
from arch.search.widening import FORMS, Flat, can_widen, widen_graph, widen_weights

Change = Mapping[str, Any]
Moments = tuple[np.ndarray, np.ndarray]
Activation = Callable[[jax.Array], jax.Array]

FIELDS = {
    "deepen": ("after", "kernel_size"),
    "widen": ("node", "features", "form", "uneven", "seed"),
    "concat": ("node", "source"),
    "blend": ("node", "source"),
}
KINDS = {"deepen": "deepen", "widen": "widen", "concat": "skip", "blend": "skip"}  # each kind is equally likely


def grow(graph: Graph, change: Change) -> Graph:
    """The graph after a change.

    Raises:
        ValueError: an unknown morphism, field or node; a morphism that would not keep the function.
    """
    return _grow(graph, _checked(change))


def apply(
    graph: Graph,
    variables: Mapping[str, Any],
    change: Change,
    *,
    epsilon: float = BatchNorm.epsilon,
    act: Activation = nn.relu,
    moments: Moments | None = None,
) -> tuple[Graph, dict[str, Any]]:
    """The graph and its weights after a change.

    Args:
        graph: of the network.
        variables: of `GraphNet`, with batch normalizations; parameters and running statistics, which are not changed.
        change: a morphism.
        epsilon: of the normalizations.
        act: the activation of the network.
        moments: of deepen: mean and variance [channels] of what the new layer reads, on the data. With those of the
            batch, the layer is the identity in training, too. None takes those that the layers before would have if
            what they normalize were normal.

    Returns:
        The graph, and the variables as NumPy arrays, in the dtypes that there were.

    Raises:
        ValueError: as `grow`; another activation or normalization than a morphism can keep the function with.
    """
    change = _checked(change)
    flat = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(variables)).items()}
    _check_layers(graph, flat)
    if change["morphism"] == "deepen" and not is_idempotent(act):
        raise ValueError(
            f"deepen: act={getattr(act, '__name__', act)} must be the same when it is applied twice, as relu; widen, "
            "or blend"
        )
    grown = _grow(graph, change)
    if change["morphism"] == "widen":
        flat = widen_weights(graph, flat, change)
    elif change["morphism"] == "concat":
        path = ("params", change["node"], "conv", "kernel")
        kernel = flat[path]
        shape = (*kernel.shape[:2], graph.channels[change["source"]], kernel.shape[3])
        flat[path] = np.concatenate([kernel, np.zeros(shape, kernel.dtype)], axis=2)
    else:
        (name,) = {node.name for node in grown.nodes} - {node.name for node in graph.nodes}
        if change["morphism"] == "blend":
            flat["params", name, "weight"] = np.ones((), flat["params", "classifier", "kernel"].dtype)
        else:
            moments = _moments(graph, flat, change["after"], act) if moments is None else moments
            flat |= _identity(grown[name], flat["params", "classifier", "kernel"].dtype, moments, epsilon)
    return grown, traverse_util.unflatten_dict(flat)


def draw(
    rng: np.random.Generator,
    graph: Graph,
    *,
    kernel_sizes: Sequence[int] = (3, 5),
    factors: Sequence[int] = (2, 4),
    forms: Sequence[str] = FORMS,
    uneven: float = 0.5,
    act: Activation = nn.relu,
    accept: Callable[[Graph], bool] = lambda graph: True,
) -> dict[str, Any] | None:
    """A random change: deepen, widen or skip, equally likely as far as they apply, then all of that kind alike.

    Args:
        rng: what is random.
        graph: to be changed.
        kernel_sizes: of new convolutions.
        factors: by which convolutions are widened.
        forms: of widening.
        uneven: of widening by copies.
        act: the activation of the network; deepen does not apply to every one.
        accept: whether a graph may be had; another one is drawn until it may.

    Returns:
        The change; None where none is accepted.
    """
    left: dict[str, list[Change]] = {}
    for change in _options(graph, kernel_sizes, factors, forms, uneven, act):
        left.setdefault(KINDS[change["morphism"]], []).append(change)
    while left:
        kind = list(left)[int(rng.integers(len(left)))]
        change = dict(left[kind].pop(int(rng.integers(len(left[kind])))))
        if not left[kind]:
            del left[kind]
        if change["morphism"] == "widen":
            change["seed"] = int(rng.integers(2**31))
        if accept(grow(graph, change)):
            return change
    return None


@functools.cache
def is_idempotent(act: Activation) -> bool:
    """Whether act(act(x)) is act(x), on numbers from -12 to 12."""
    once = act(jnp.linspace(-12.0, 12.0, 4801))
    return bool(jnp.array_equal(act(once), once))


def _checked(change: Change) -> Change:
    """The change, once its fields are known to be those of its morphism."""
    change = dict(change)
    name = change.get("morphism")
    if name not in FIELDS:
        raise unknown_name("morphism", name, FIELDS)
    wanted = {"morphism", *FIELDS[name]}
    if set(change) != wanted:
        raise ValueError(f"{name}: {change} must have the fields {', '.join(sorted(wanted))}; see arch.search.morphism")
    return change


def _grow(graph: Graph, change: Change) -> Graph:
    name = change["morphism"]
    if name == "deepen":
        after = graph[change["after"]]
        if not _is_activated(graph, after.name):
            raise ValueError(
                f"deepen: {after.name} must be an activation's output, pooled or concatenated; name another node"
            )
        new = Node(_new_name(graph, "conv"), "conv", (after.name,), graph.channels[after.name], change["kernel_size"])
        return _insert(graph, graph.nodes.index(after) + 1, new, after.name, graph.readers(after.name))
    if name == "widen":
        return widen_graph(graph, change)
    node, source = graph[change["node"]], graph[change["source"]]
    place = graph.nodes.index(node)
    first = node.name if name == "blend" else node.inputs[0]
    if graph.nodes.index(source) >= place or source.name == first or first == IMAGE:
        raise ValueError(f"{name}: source={source.name} must be another node before {node.name}; name one")
    new = Node(_new_name(graph, name), name, (first, source.name))
    if name == "blend":
        return _insert(graph, place + 1, new, first, graph.readers(first))
    if node.kind != "conv":
        raise ValueError(f"concat: node={node.name} must be a conv, not {node.kind}; name one")
    return _insert(graph, place, new, first, (node,))


def _is_activated(graph: Graph, name: str) -> bool:
    """Whether a node's map has been through the activation, and nothing has been added to it since."""
    node = graph[name]
    if node.kind in ("max_pool", "concat"):
        return all(_is_activated(graph, read) for read in node.inputs)
    return node.kind in LAYERS


def _insert(graph: Graph, place: int, new: Node, old: str, readers: Sequence[Node]) -> Graph:
    """With a node at a place; those readers of the old node read the new one instead."""
    nodes = []
    for node in graph.nodes:
        inputs = node.inputs
        if node in readers:
            inputs = tuple(new.name if name == old else name for name in inputs)
        nodes.append(dataclasses.replace(node, inputs=inputs))
    nodes.insert(place, new)
    return Graph(tuple(nodes), graph.head)


def _new_name(graph: Graph, kind: str) -> str:
    """conv4 after conv1, conv2 and conv3."""
    rests = [node.name.removeprefix(kind) for node in graph.nodes if node.name.startswith(kind)]
    return f"{kind}{1 + max((int(rest) for rest in rests if rest.isdecimal()), default=0)}"


def _options(
    graph: Graph,
    kernel_sizes: Sequence[int],
    factors: Sequence[int],
    forms: Sequence[str],
    uneven: float,
    act: Activation,
) -> Iterator[Change]:
    """All changes that apply, those of widening with seed 0."""
    for number, node in enumerate(graph.nodes):
        if is_idempotent(act) and _is_activated(graph, node.name):
            for size in kernel_sizes:
                yield {"morphism": "deepen", "after": node.name, "kernel_size": size}
        if node.kind == "conv" and can_widen(graph, node.name):
            for factor in factors:
                for form in forms:
                    fields = {"features": factor * node.features, "form": form, "uneven": uneven, "seed": 0}
                    yield {"morphism": "widen", "node": node.name, **fields}
        earlier = [other.name for other in graph.nodes[:number]]
        first = node.inputs[0]
        had = graph[first].inputs if first != IMAGE and graph[first].kind == "concat" else ()
        for source in earlier:
            fields = {"node": node.name, "source": source}
            if node.kind == "conv" and source not in (first, *had) and _same_size(graph, source, first):
                yield {"morphism": "concat", **fields}
            if _same_size(graph, source, node.name) and _may_blend(graph, node, source):
                yield {"morphism": "blend", **fields}


def _same_size(graph: Graph, name: str, other: str) -> bool:
    return IMAGE not in (name, other) and graph.strides[name] == graph.strides[other]


def _may_blend(graph: Graph, node: Node, source: str) -> bool:
    """Of as many channels, and not blended already."""
    blends = [reader.inputs for reader in graph.readers(node.name) if reader.kind == "blend"]
    new = (node.name, source) not in blends and not (node.kind == "blend" and source in node.inputs)
    return new and graph.channels[source] == graph.channels[node.name]


def _identity(node: Node, dtype: np.dtype, moments: Moments, epsilon: float) -> Flat:
    """The weights of a layer that changes nothing.

    Under SAME padding a kernel of k taps has (k - 1) // 2 of them before the pixel.
    """
    mean, var = (np.asarray(values, np.float64) for values in moments)
    kernel = np.zeros((node.kernel_size, node.kernel_size, node.features, node.features), dtype)
    centre = (node.kernel_size - 1) // 2
    kernel[centre, centre] = np.eye(node.features)
    return {
        ("params", node.name, "conv", "kernel"): kernel,
        ("params", node.name, "norm", "scale"): np.sqrt(var + epsilon).astype(dtype),
        ("params", node.name, "norm", "bias"): mean.astype(dtype),
        ("batch_stats", node.name, "norm", "mean"): mean.astype(dtype),
        ("batch_stats", node.name, "norm", "var"): var.astype(dtype),
    }


def _moments(graph: Graph, flat: Flat, name: str, act: Activation) -> Moments:
    """Mean and variance [channels] of an activation's output, as if its input were normal, by quadrature.

    Its input is normalized, so has the mean `bias` and the deviation `scale`. Pooling is left out.
    """
    node = graph[name]
    if node.kind not in LAYERS:
        parts = [_moments(graph, flat, read, act) for read in node.inputs]
        return tuple(map(np.concatenate, zip(*parts, strict=True)))
    points, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    scale, bias = (flat["params", name, "norm", leaf] for leaf in ("scale", "bias"))
    values = np.asarray(act(jnp.asarray(bias + scale * points[:, None])), np.float64)
    mean = weights @ values
    return mean, weights @ (values - mean) ** 2


def _check_layers(graph: Graph, flat: Flat) -> None:
    """Every layer is a convolution without more than a kernel, and a batch normalization."""
    wanted = {("params", "conv", "kernel"), ("params", "norm", "scale"), ("params", "norm", "bias")}
    wanted |= {("batch_stats", "norm", "mean"), ("batch_stats", "norm", "var")}
    for node in graph.nodes:
        found = {(path[0], *path[2:]) for path in flat if path[1] == node.name}
        if node.kind in LAYERS and found != wanted:
            odd = ", ".join(sorted("/".join(path) for path in found ^ wanted))
            raise ValueError(
                f"morphism: {node.name} must have a convolution's kernel and a batch norm's scale, bias, mean and var, "
                f"but differs in {odd}; train the network with model.conv.name=conv and model.norm.name=batch_norm"
            )
