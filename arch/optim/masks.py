"""Masks: which leaves of a parameter tree an optimiser's rule applies to.

A mask is a tree of Python booleans with the structure of the parameters, so it is static under `jit`. Masks select by
the number of dimensions, by path, or both, and must match something: a pattern that a renamed layer has left behind
is an error, never a rule that silently applies to nothing.
"""

import collections
import math
import re
from collections.abc import Callable
from typing import Any

import jax

PyTree = Any
Mask = PyTree | Callable[[PyTree], PyTree]  # a tree of bool, or a function of the parameters that makes one


def leaf_paths(params: PyTree) -> list[str]:
    """Path of every leaf, such as "stem/conv/kernel", in the order of `jax.tree.leaves`."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def select(
    params: PyTree, *, min_ndim: int = 0, include: str = "", exclude: str | None = None, owner: str = "select"
) -> PyTree:
    """Mask of the leaves that meet all the given conditions.

    Args:
      params: tree of arrays, or of anything with `ndim`.
      min_ndim: fewest dimensions of a selected leaf; 0 takes all. 2 leaves out biases and the scales of norms.
      include: regular expression that must be found somewhere in the leaf's path ("/" between names); "" takes all.
      exclude: regular expression that must not be found in the path; None leaves nothing out.
      owner: name that an error begins with.

    Raises:
      ValueError: where no leaf meets the conditions.
    """
    paths = leaf_paths(params)
    leaves, treedef = jax.tree.flatten(params)
    mask = [
        leaf.ndim >= min_ndim
        and bool(re.search(include, path))
        and not (exclude is not None and re.search(exclude, path))
        for path, leaf in zip(paths, leaves, strict=True)
    ]
    if not any(mask):
        rule = f"min_ndim={min_ndim}" + (f", include={include!r}" if include else "")
        rule += f", exclude={exclude!r}" if exclude is not None else ""
        some = ", ".join(f"{path} (ndim {leaf.ndim})" for path, leaf in list(zip(paths, leaves, strict=True))[:3])
        raise ValueError(
            f"{owner}: {rule} must match at least one of {len(paths)} parameters ({some or 'none given'}); "
            "choose a rule that does"
        )
    return jax.tree.unflatten(treedef, mask)


def decay_mask(params: PyTree, min_ndim: int = 2) -> PyTree:
    """Mask of the leaves under weight decay: those of `min_ndim` dimensions and more, 0 for all.

    Goyal et al. 2017 (arXiv:1706.02677) section 5.1 decay neither scale nor bias of BatchNorm; with 2 no bias of a
    convolution or dense layer is decayed either, which is common practice.

    Raises:
      ValueError: where no leaf has that many dimensions.
    """
    return select(params, min_ndim=min_ndim, owner="decay_mask")


def resolve(mask: Mask, params: PyTree) -> PyTree:
    """The tree of booleans that a mask is for these parameters; a tree that is only a prefix of theirs is filled up."""
    return jax.tree.broadcast(mask(params) if callable(mask) else mask, params)


def matched_paths(params: PyTree, mask: PyTree) -> list[str]:
    """Paths of the leaves that the mask selects."""
    return [path for path, chosen in zip(leaf_paths(params), jax.tree.leaves(mask), strict=True) if chosen]


def describe(params: PyTree, mask: PyTree) -> str:
    """One line for the log: how many leaves and parameters the mask selects, counted by the last name of their path.

    >>> describe(params, decay_mask(params))
    '57 of 171 leaves, 1,350,000 of 1,366,792 parameters (kernel 57; not: bias 57, scale 57)'
    """
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
    rows = list(zip(leaf_paths(params), sizes, jax.tree.leaves(mask), strict=True))
    names = {
        flag: collections.Counter(path.rpartition("/")[2] for path, _, m in rows if m == flag) for flag in (True, False)
    }
    counts = {flag: ", ".join(f"{name} {count}" for name, count in sorted(names[flag].items())) for flag in names}
    selected = sum(size for _, size, chosen in rows if chosen)
    return (
        f"{names[True].total()} of {len(rows)} leaves, {selected:,} of {sum(sizes):,} parameters "
        f"({counts[True] or 'none'}; not: {counts[False] or 'none'})"
    )
