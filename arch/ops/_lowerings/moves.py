"""Channels of an image moved by whole pixels, as a JAX primitive whose transpose is itself, the other way.

To XLA the transpose of a gather of pixels is a scatter of as many, which a CPU does one after the other.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import batching

from arch.ops._lowerings import linear
from arch.ops._lowerings.geometry import Pair


def move(x: jax.Array, steps: jax.Array, out_size: Pair) -> jax.Array:
    """out[b, i, j, c] = x[b, i + steps[0, c], j + steps[1, c], c], and 0 outside.

    Args:
        x: [batch, height, width, channels].
        steps: [2, channels or 1] int32; less than 2**30.
        out_size: height and width of the output.

    Returns:
        [batch, *out_size, channels], dtype of x.
    """
    return linear.bind(move_p, x, steps, out_size=out_size)


def _move(x: jax.Array, steps: jax.Array, *, out_size: Pair, on_cpu: bool) -> jax.Array:
    del on_cpu
    batch, height, width, channels = x.shape
    row = jnp.arange(out_size[0], dtype=steps.dtype)[:, None] + steps[0]
    column = jnp.arange(out_size[1], dtype=steps.dtype)[:, None] + steps[1]
    inside = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))
    pixel = jnp.clip(row, 0, height - 1)[:, None] * width + jnp.clip(column, 0, width - 1)
    # Else they are computed anew for every image.
    pixel, inside = lax.optimization_barrier((pixel.reshape(-1, steps.shape[1]), inside))
    pixels = x.reshape(batch, height * width, channels)
    if steps.shape[1] == 1:
        moved = pixels.at[:, pixel[:, 0]].get(mode="promise_in_bounds")
    else:
        moved = pixels.at[:, pixel, jnp.arange(channels)].get(mode="promise_in_bounds")
    return jnp.where(inside, moved.reshape(batch, *out_size, channels), 0)


def _batch_move(arrays: Sequence[jax.Array], axes: Sequence[int | None], *, out_size: Pair) -> tuple[jax.Array, int]:
    (x, steps), (x_axis, steps_axis) = arrays, axes
    if steps_axis is None:
        x = jnp.moveaxis(x, x_axis, 0)
        out = move(x.reshape(-1, *x.shape[2:]), steps, out_size)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0
    size = steps.shape[steps_axis]
    x, steps = linear.mapped(x, x_axis, size), jnp.moveaxis(steps, steps_axis, 0)
    channels = x.shape[4]
    # Every index of the axis has channels of its own.
    steps = jnp.moveaxis(jnp.broadcast_to(steps, (size, 2, channels)), 0, 1).reshape(2, size * channels)
    out = move(jnp.moveaxis(x, 0, 3).reshape(*x.shape[1:4], size * channels), steps, out_size)
    return out.reshape(*out.shape[:3], size, channels), 3


move_p = linear.primitive("move", lambda x, steps, out_size: ((x.shape[0], *out_size, x.shape[3]), x.dtype), _move)
linear.define(move_p, (lambda out, x, steps, out_size: move(out, -steps, x.shape[1:3]),))
batching.primitive_batchers[move_p] = _batch_move
