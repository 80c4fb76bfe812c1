"""Our variables from a file's tensors, and back: complete, or refused with the names of all that does not fit.

A torch network has a convolution's kernel as [out, in, height, width], a linear layer's as [out, in]; ours are [height,
width, in, out] and [in, out]. What is a linear layer in one may be a 1x1 convolution in the other. Running variances
are taken as they are: torch keeps unbiased ones, we biased ones unless told otherwise, which evaluation does not see.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

Path = tuple[str, ...]

# A network and the names of a layer in it, from the top -> the name of the layer in the published network.
Names = Callable[[nn.Module, Sequence[str]], str]

TENSORS = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}

# By the number of axes: HWIO to OIHW, [in, out] to [out, in].
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}
FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}

HEAD = "classifier"  # the last layer of every network and of its auxiliary heads

_MAX_NAMES = 8  # of a kind, in an error


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What came out of a file.

    Attributes:
        variables: nested, the collections and shapes that were asked for.
        new: paths of the leaves that are not in it, because they belong to other classes.
    """

    variables: Mapping[str, Any]
    new: tuple[str, ...]


def torch_name(model: nn.Module, path: Path, names: Names) -> str:
    """The torch name of one of our variables, from its path and from the torch name of its layer."""
    collection, *layers, tensor = path
    return f"{names(model, layers)}.{TENSORS[collection, tensor]}"


def from_torch(
    owner: str,
    model: nn.Module,
    shapes: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    names: Names,
    *,
    unneeded: str = "",
    new_head: bool = False,
) -> Loaded:
    """The variables of a network from the state of the same in torch.

    Args:
        owner: what errors begin with, such as the file's name.
        model: the network.
        shapes: of its variables.
        tensors: the state, by torch's names.
        names: of our layers in torch.
        unneeded: regular expression of the beginnings of tensors that may be left out, such as auxiliary heads.
        new_head: a classifier of another number of classes is left out.

    Raises:
        ValueError: one line that names the tensors that are missing, left over or of another shape.
    """
    wanted = {path: torch_name(model, path, names) for path in traverse_util.flatten_dict(shapes)}
    given = {name: value for name, value in tensors.items() if not name.endswith(".num_batches_tracked")}
    needed = set(wanted.values())
    given = {k: v for k, v in given.items() if k in needed or not (unneeded and re.match(unneeded, k))}
    return _collect(owner, shapes, given, wanted, _to_ours, new_head)


def to_torch(
    model: nn.Module, variables: Mapping[str, Any], names: Names, pointwise: str = ""
) -> dict[str, np.ndarray]:
    """The state that the same network has in torch.

    Args:
        model: the network.
        variables: all of them.
        names: of our layers in torch.
        pointwise: regular expression of the torch names of linear kernels that are 1x1 convolutions there.
    """
    state = {}
    for path, value in traverse_util.flatten_dict(variables).items():
        name, value = torch_name(model, path, names), np.asarray(value)
        value = np.transpose(value, TO_TORCH[value.ndim])
        state[name] = value[..., None, None] if value.ndim == 2 and pointwise and re.search(pointwise, name) else value
    return state


def from_ours(
    owner: str, shapes: Mapping[str, Any], tensors: Mapping[str, np.ndarray], *, new_head: bool = False
) -> Loaded:
    """The variables from a file of our own; arguments and errors as in `from_torch`."""
    wanted = {path: "/".join(path) for path in traverse_util.flatten_dict(shapes)}
    return _collect(owner, shapes, tensors, wanted, lambda value, shape: value, new_head)


def to_ours(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a file of our own."""
    return {"/".join(path): np.asarray(value) for path, value in traverse_util.flatten_dict(variables).items()}


def is_ours(tensors: Iterable[str]) -> bool:
    """The names of the tensors are our paths."""
    return any(name.startswith("params/") for name in tensors)


def _collect(
    owner: str,
    shapes: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[Path, str],
    convert: Callable[[np.ndarray, Sequence[int]], np.ndarray],
    new_head: bool,
) -> Loaded:
    """Every wanted tensor, in the shape and dtype that is asked for."""
    leaves = traverse_util.flatten_dict(shapes)
    found = {path: convert(tensors[name], leaves[path].shape) for path, name in wanted.items() if name in tensors}
    new = _of_other_classes(leaves, found) if new_head else set()
    misfits = [
        f"{wanted[path]} {list(value.shape)}, not {list(leaves[path].shape)}"
        for path, value in found.items()
        if path not in new and value.shape != leaves[path].shape
    ]
    problems = {
        "missing": sorted(name for path, name in wanted.items() if name not in tensors and path not in new),
        "left over": sorted(set(tensors) - set(wanted.values())),
        "of another shape": sorted(misfits),
    }
    if any(problems.values()):
        told = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{owner}: not the weights of this network; {told}")
    kept = {path: np.asarray(found[path], leaves[path].dtype) for path in leaves if path not in new}
    return Loaded(traverse_util.unflatten_dict(kept), tuple(sorted("/".join(path) for path in new)))


def _of_other_classes(leaves: Mapping[Path, Any], found: Mapping[Path, np.ndarray]) -> set[Path]:
    """The leaves of classifiers whose tensors differ in the last axis, that of the classes."""
    differ, odd = set(), set()
    for path, value in found.items():
        if (head := _head_of(path)) and value.shape != leaves[path].shape:
            (differ if value.shape[:-1] == leaves[path].shape[:-1] else odd).add(head)
    return {path for path in leaves if _head_of(path) in differ - odd}


def _head_of(path: Path) -> Path | None:
    """The path of the classifier, without the collection, that a leaf is in."""
    return path[1 : path.index(HEAD) + 1] if HEAD in path[1:-1] else None


def _to_ours(value: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A tensor of torch in our layout."""
    if value.ndim == 4 and len(shape) == 2 and value.shape[2:] == (1, 1):
        value = value[..., 0, 0]
    elif value.ndim == 2 and len(shape) == 4:
        value = value[..., None, None]
    return np.transpose(value, FROM_TORCH[value.ndim]) if value.ndim in FROM_TORCH else value


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more
