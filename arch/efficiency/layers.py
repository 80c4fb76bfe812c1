"""The layers of a network, each with its size and cost."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

from flax import traverse_util

from arch.efficiency.arithmetic import Macs
from arch.efficiency.complexity import Traced
from arch.efficiency.program import Operation


@dataclasses.dataclass(frozen=True)
class Layer:
    """A module that has parameters or multiplies.

    Attributes:
        path: names of modules from the top, joined by "/"; "" is the network itself.
        kind: of what it multiplies first: a convolution such as "conv 3x3/2", "linear", "product" of data with data,
            "reading" between pixels; else "norm" of what has a scale or running statistics, else "parameters".
        shape: of its output; () of a layer that did not run, such as an auxiliary head in evaluation.
        params: trainable scalars.
        macs: multiply-adds; its submodules have their own.
        activations: scalars that its convolutions and matrix products write.
        bytes_moved: as `Complexity` has them; an elementwise loop counts where its result is taken.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    params: int
    macs: Macs
    activations: int
    bytes_moved: int


def layers(traced: Traced) -> list[Layer]:
    """The layers of a network, in the order in which they run; those that do not run come last."""
    tensors = _tensors(traced.variables)
    known = {path[:end] for path in tensors for end in range(len(path) + 1)} | {()}
    ran: dict[tuple[str, ...], list[Operation]] = {}
    for operation in traced.operations:
        path = operation.layer[1:]
        # A module without parameters, or a scope within one, belongs to what is around it.
        while path not in known:
            path = path[:-1]
        ran.setdefault(path, []).append(operation)
    paths = [*ran, *(path for path in tensors if path not in ran)]
    found = [_layer(path, tensors.get(path, {}), ran.get(path, ())) for path in paths]
    return [layer for layer in found if layer.params or layer.macs.total]


def _tensors(variables: Mapping[str, Any]) -> dict[tuple[str, ...], dict[tuple[str, str], Any]]:
    """Path of a module -> (collection, tensor) -> shape and dtype."""
    tensors: dict[tuple[str, ...], dict[tuple[str, str], Any]] = {}
    for (collection, *path, name), leaf in traverse_util.flatten_dict(variables).items():
        tensors.setdefault(tuple(path), {})[collection, name] = leaf
    return tensors


def _layer(path: tuple[str, ...], tensors: Mapping[tuple[str, str], Any], ran: Iterable[Operation]) -> Layer:
    ran = list(ran)
    kinds = [operation.kind for operation in ran if operation.kind]
    is_norm = ("params", "scale") in tensors or any(collection == "batch_stats" for collection, _ in tensors)
    shapes = [operation.shape for operation in ran if operation.shape]
    return Layer(
        path="/".join(path),
        kind=kinds[0] if kinds else "norm" if is_norm else "parameters",
        shape=shapes[-1] if shapes else (),
        params=sum(math.prod(leaf.shape) for (collection, _), leaf in tensors.items() if collection == "params"),
        macs=sum((operation.macs for operation in ran), Macs()),
        activations=sum(operation.activations for operation in ran),
        bytes_moved=sum(operation.bytes for operation in ran),
    )
