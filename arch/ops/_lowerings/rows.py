"""Weighted sums of rows of a table, with their transposes, as JAX primitives: what samplers do at real points.

`index` and `weights` [points, terms] stand for a sparse matrix S that has weights[p, t] at (p, index[p, t]); then
`read` is S @ table, `write` is S.T @ gradient, and `dot` is gradient @ table.T where S has entries. Each is bilinear,
and transposing one of them in either argument gives another.

On a CPU `write` and `dot` are loops that take a few points at a time, whose rows stay in its cache: with all at once
they took 5 to 8 times as long at 25,088 points, 4 terms and 256 channels, most of it to touch fresh memory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import batching

from arch.ops._lowerings import linear

# Rows that a step of a loop on a CPU holds: a share of a core's second level cache.
_BYTES_A_STEP = 256 * 1024


def read(table: jax.Array, weights: jax.Array, index: jax.Array) -> jax.Array:
    """out[p] = sum over t of weights[p, t] * table[index[p, t]].

    Args:
        table: [rows, channels].
        weights: [points, terms], at least float32; sums are of its dtype.
        index: [points, terms] int32, in [0, rows).

    Returns:
        [points, channels], dtype of table.
    """
    return linear.bind(read_p, table, weights, index)


def write(gradient: jax.Array, weights: jax.Array, index: jax.Array, num_rows: int) -> jax.Array:
    """The transpose of `read` in the table: [num_rows, channels], dtype of gradient, which is [points, channels]."""
    return linear.bind(write_p, gradient, weights, index, num_rows=num_rows)


def dot(gradient: jax.Array, table: jax.Array, index: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The transpose of `read` in the weights: [points, terms] of `dtype`."""
    return linear.bind(dot_p, gradient, table, index, dtype=jnp.dtype(dtype))


def _read(table: jax.Array, weights: jax.Array, index: jax.Array, *, on_cpu: bool) -> jax.Array:
    del on_cpu
    # Else what makes the weights is fused in, and computed anew for every channel.
    weights, index = lax.optimization_barrier((weights, index))
    terms = (_weigh(_rows(table, index[:, t]), weights[:, t, None]) for t in range(index.shape[1]))
    return sum(terms, start=jnp.zeros((), weights.dtype)).astype(table.dtype)


def _write(gradient: jax.Array, weights: jax.Array, index: jax.Array, *, num_rows: int, on_cpu: bool) -> jax.Array:
    def add(out: jax.Array, points: Sequence[jax.Array]) -> tuple[jax.Array, None]:
        gradient, weights, index = points
        rows = _weigh(gradient[:, None], weights[..., None])
        return out.at[index].add(rows, mode="promise_in_bounds"), None

    out = jnp.zeros((num_rows, gradient.shape[1]), weights.dtype)
    points = (gradient, weights, index)
    size = _points_a_step(gradient, index)
    if on_cpu and size < len(index):
        out, _ = lax.scan(add, out, [_steps(a, size) for a in points])
        points = [a[len(index) // size * size :] for a in points]
    return add(out, points)[0].astype(gradient.dtype)


def _dot(gradient: jax.Array, table: jax.Array, index: jax.Array, *, dtype: jnp.dtype, on_cpu: bool) -> jax.Array:
    def products(points: Sequence[jax.Array]) -> jax.Array:
        gradient, index = points
        highest = lax.Precision.HIGHEST  # coordinates need all digits
        return jnp.einsum("pc,ptc->pt", gradient.astype(dtype), _rows(table, index).astype(dtype), precision=highest)

    size = _points_a_step(gradient, index)
    if not on_cpu or size >= len(index):
        return products((gradient, index))
    out = lax.map(products, [_steps(a, size) for a in (gradient, index)]).reshape(-1, index.shape[1])
    done = out.shape[0]
    return out if done == len(index) else jnp.concatenate([out, products((gradient[done:], index[done:]))])


def _weigh(rows: jax.Array, weights: jax.Array) -> jax.Array:
    """The product; where the weight is 0 a row is not looked at, since 0 * inf is not a number."""
    return jnp.where(weights == 0, 0, rows * weights)


def _rows(table: jax.Array, index: jax.Array) -> jax.Array:
    return table.at[index].get(mode="promise_in_bounds")


def _points_a_step(gradient: jax.Array, index: jax.Array) -> int:
    return max(1, _BYTES_A_STEP // (index.shape[1] * gradient.shape[1] * gradient.dtype.itemsize))


def _steps(array: jax.Array, size: int) -> jax.Array:
    """[points, ...] to [steps, size, ...], without the rest."""
    steps = array.shape[0] // size
    return array[: steps * size].reshape(steps, size, *array.shape[1:])


read_p = linear.primitive(
    "rows_read", lambda table, weights, index: ((index.shape[0], table.shape[1]), table.dtype), _read
)
write_p = linear.primitive(
    "rows_write", lambda gradient, weights, index, num_rows: ((num_rows, gradient.shape[1]), gradient.dtype), _write
)
dot_p = linear.primitive("rows_dot", lambda gradient, table, index, dtype: (index.shape, dtype), _dot)

linear.define(
    read_p,
    (
        lambda out, table, weights, index: write(out, weights, index, table.shape[0]),
        lambda out, table, weights, index: dot(out, table, index, weights.dtype),
    ),
)
linear.define(
    write_p,
    (
        lambda out, gradient, weights, index, num_rows: read(out, weights, index),
        lambda out, gradient, weights, index, num_rows: dot(gradient, out, index, weights.dtype),
    ),
)
linear.define(
    dot_p,
    (
        lambda out, gradient, table, index, dtype: read(table, out, index),
        lambda out, gradient, table, index, dtype: write(gradient, out, index, table.shape[0]),
    ),
)


# Batching. A mapped axis goes into the points, and where there is a table for each of its indices into the rows too.


def _batcher(primitive: Primitive, table_at: int | None) -> Callable[..., tuple[jax.Array, int]]:
    """The rule of a primitive whose table is the array at `table_at`, or else its output."""

    def batch(arrays: Sequence[jax.Array], axes: Sequence[int | None], **params: Any) -> tuple[jax.Array, int]:
        size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
        one_table = table_at is not None and axes[table_at] is None
        front = [
            array if at == table_at and one_table else linear.mapped(array, axis, size)
            for at, (array, axis) in enumerate(zip(arrays, axes, strict=True))
        ]
        if not one_table:
            num_rows = params["num_rows"] if table_at is None else front[table_at].shape[1]
            front[2] += num_rows * jnp.arange(size, dtype=front[2].dtype)[:, None, None]
        if table_at is None:
            params = params | {"num_rows": size * num_rows}
        folded = [
            array if at == table_at and one_table else array.reshape(-1, *array.shape[2:])
            for at, array in enumerate(front)
        ]
        out = linear.bind(primitive, *folded, **params)
        return out.reshape(size, out.shape[0] // size, *out.shape[1:]), 0

    return batch


batching.primitive_batchers[read_p] = _batcher(read_p, 0)
batching.primitive_batchers[write_p] = _batcher(write_p, None)
batching.primitive_batchers[dot_p] = _batcher(dot_p, 1)
