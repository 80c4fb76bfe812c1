"""The derivative of max pooling as two JAX primitives, each the transpose of the other in its first argument.

`pick` takes from each window the value where x is largest, `place` brings it back there. Of equal values the first
counts, row by row, as in torch. Both are constant in x between ties, so that x passes no derivative on.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import batching

from arch.ops._lowerings import linear
from arch.ops._lowerings.geometry import Geometry
from arch.ops._lowerings.shifts import sum_into_inputs, windows


def pick(tangent: jax.Array, x: jax.Array, geometry: Geometry) -> jax.Array:
    """The values of `tangent` where x is largest in its window: [batch, out_height, out_width, channels]."""
    return linear.bind(pick_p, tangent, x, geometry=geometry)


def place(gradient: jax.Array, x: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `pick` in `tangent`: each output's gradient, summed where x was largest: the shape of x."""
    return linear.bind(place_p, gradient, x, geometry=geometry)


def largest(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The maximum of each window on a CPU, where XLA's own takes two to four times as long."""
    return jax.tree.reduce(jnp.maximum, [window for _, window in windows(x, geometry, -jnp.inf)])


def _largest_tap(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The number of the tap, counted row by row, where each window is largest, or not a number; the first of equals."""
    best, best_tap = None, None
    for tap, (_, window) in enumerate(windows(x, geometry, -jnp.inf)):
        if best is None:
            best, best_tap = window, jnp.zeros(window.shape, jnp.int32)
        else:
            wins = (window > best) | (jnp.isnan(window) & ~jnp.isnan(best))
            best, best_tap = jnp.where(wins, window, best), jnp.where(wins, tap, best_tap)
    return lax.optimization_barrier(best_tap)


def _pick(tangent: jax.Array, x: jax.Array, *, geometry: Geometry, on_cpu: bool) -> jax.Array:
    del on_cpu  # it runs in forward mode alone: one program serves all
    largest_tap = _largest_tap(x, geometry)
    picked = [jnp.where(largest_tap == tap, window, 0) for tap, (_, window) in enumerate(windows(tangent, geometry))]
    return sum(picked)


def _place(gradient: jax.Array, x: jax.Array, *, geometry: Geometry, on_cpu: bool) -> jax.Array:
    if not on_cpu:
        return place_by_xla(gradient, x, geometry)

    def term(tap: tuple[int, int], pixels: jax.Array, largest_tap: jax.Array) -> jax.Array:
        return jnp.where(largest_tap == tap[0] * geometry.kernel_size[1] + tap[1], pixels, 0)

    return sum_into_inputs([gradient, _largest_tap(x, geometry)], geometry, term)


def place_by_xla(gradient: jax.Array, x: jax.Array, geometry: Geometry) -> jax.Array:
    """XLA's select-and-scatter, the gradient of its own maximum."""
    (out,) = jax.vjp(lambda x: reduce_window(x, geometry), x)[1](gradient)
    return out


def reduce_window(x: jax.Array, geometry: Geometry) -> jax.Array:
    """The maximum of each window by XLA's own operation."""
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        window_dimensions=(1, *geometry.kernel_size, 1),
        window_strides=(1, *geometry.strides, 1),
        padding=((0, 0), *geometry.padding, (0, 0)),
    )


def _like_output(left: Any, x: Any, *, geometry: Geometry) -> tuple[tuple[int, ...], Any]:
    return (x.shape[0], *geometry.output_size, x.shape[3]), left.dtype


def _like_input(left: Any, x: Any, *, geometry: Geometry) -> tuple[tuple[int, ...], Any]:
    del geometry
    return x.shape, left.dtype


def _batch(
    arrays: Sequence[jax.Array], axes: Sequence[int | None], *, geometry: Geometry, apply: Callable[..., jax.Array]
) -> tuple[jax.Array, int]:
    """The mapped axis joins the batch."""
    size = next(array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None)
    left, x = (linear.mapped(array, axis, size) for array, axis in zip(arrays, axes, strict=True))
    out = apply(left.reshape(-1, *left.shape[2:]), x.reshape(-1, *x.shape[2:]), geometry)
    return out.reshape(size, -1, *out.shape[1:]), 0


pick_p = linear.primitive("max_pool_pick", _like_output, _pick)
place_p = linear.primitive("max_pool_place", _like_input, _place)
linear.define(pick_p, [lambda out, tangent, x, geometry: place(out, x, geometry)])
linear.define(place_p, [lambda out, gradient, x, geometry: pick(out, x, geometry)])
batching.primitive_batchers[pick_p] = functools.partial(_batch, apply=pick)
batching.primitive_batchers[place_p] = functools.partial(_batch, apply=place)
