"""Linear maps that know their own transposes, as one JAX primitive.

JAX derives the transpose of a map from its operations, and what XLA runs well may have a transpose that it runs badly:
that of a gather is a scatter, on a CPU a loop over single updates, and that of overlapping windows a sum of padded
arrays. The transpose of the transpose is the map again: so forward and reverse mode of any order work.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
from jax.interpreters import batching

from arch.ops._lowerings import linear


class LinearMap(Protocol):
    """A map of x, linear in it; hashable, as it is static: best a frozen dataclass."""

    def __call__(self, x: jax.Array, *constants: jax.Array) -> jax.Array:
        """Maps [batch, ...] to [batch, ...], dtype of x, each example alone.

        The constants, [batch, ...] too, are not differentiated.
        """
        ...

    def transpose(self) -> "LinearMap":
        """The transpose in x, of the same constants."""
        ...


def apply(function: LinearMap, x: jax.Array, *constants: jax.Array) -> jax.Array:
    """`function(x, *constants)`, with `function.transpose()` as its transpose."""
    return linear.bind(linear_map_p, x, *constants, function=function)


def _out_aval(*arrays: Any, function: LinearMap) -> tuple[tuple[int, ...], Any]:
    out = jax.eval_shape(function, *(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays))
    return out.shape, out.dtype


def _run(*arrays: jax.Array, function: LinearMap, on_cpu: bool) -> jax.Array:
    del on_cpu  # one program serves all
    return function(*arrays)


def _transpose(cotangent: jax.Array, x: Any, *constants: jax.Array, function: LinearMap) -> jax.Array:
    del x
    return apply(function.transpose(), cotangent, *constants)


def _batch(arrays: Sequence[jax.Array], axes: Sequence[int | None], *, function: LinearMap) -> tuple[jax.Array, int]:
    """The mapped axis joins the batch."""
    size = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    stacked = (linear.mapped(array, axis, size) for array, axis in zip(arrays, axes, strict=True))
    out = apply(function, *(array.reshape(-1, *array.shape[2:]) for array in stacked))
    return out.reshape(size, -1, *out.shape[1:]), 0


linear_map_p = linear.primitive("linear_map", _out_aval, _run)
linear.define(linear_map_p, [_transpose])
batching.primitive_batchers[linear_map_p] = _batch
