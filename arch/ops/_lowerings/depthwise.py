"""Depthwise convolution as a sum of shifted products, which XLA fuses into one pass over memory.

XLA's own grouped convolution on CPU takes the output a group at a time, 10 to 100 times slower.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings.geometry import Geometry, Pair
from arch.ops._lowerings.shifts import sum_into_inputs, wide, windows


def unsupported(geometry: Geometry, kernel_shape: Sequence[int]) -> str | None:
    """The rule that a convolution breaks, and the value that breaks it; None where this path can take it."""
    del geometry
    return None if kernel_shape[2] == 1 else f"in_features / feature_group_count={kernel_shape[2]} must be 1"


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [taps, taps, 1, in * multiplier]."""
    x = jnp.repeat(x, kernel.shape[3] // x.shape[3], axis=3)
    kernel = wide(kernel)
    terms = (wide(window) * kernel[i, j, 0] for (i, j), window in windows(x, geometry))
    return functools.reduce(operator.add, terms).astype(x.dtype)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x."""
    kernel = wide(kernel)

    def term(tap: Pair, pixels: jax.Array) -> jax.Array:
        return wide(pixels) * kernel[*tap, 0]

    out = sum_into_inputs([gradient], geometry, term)
    multiplier = gradient.shape[3] // geometry.groups
    return out.reshape(*out.shape[:3], geometry.groups, multiplier).sum(axis=4).astype(gradient.dtype)


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel: all taps in one reduction over the batch, then each over its pixels.

    One sum a tap would read both operands once a tap; one reduction over batch and pixels is not vectorized.
    """
    x = jnp.repeat(x, gradient.shape[3] // x.shape[3], axis=3)
    gradient = wide(lax.optimization_barrier(gradient))
    products = [wide(window) * gradient for _, window in windows(x, geometry)]
    sums = lax.reduce(products, [jnp.zeros((), gradient.dtype)] * len(products), _add_each, (0,))
    sums = [pixels.sum(axis=(0, 1)) for pixels in lax.optimization_barrier(sums)]
    return jnp.stack(sums).reshape(*geometry.kernel_size, 1, gradient.shape[3]).astype(x.dtype)


def _add_each(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> list[jax.Array]:
    return [a + b for a, b in zip(left, right, strict=True)]
