"""Pooling over windows and over whole maps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

Padding = str | Sequence[tuple[int, int]]


def max_pool(x: jax.Array, window_shape: Sequence[int], strides: Sequence[int], padding: Padding) -> jax.Array:
    """The largest value of each window; padding is -inf, so it never wins.

    Args:
        x: [batch, height, width, channels], floating point.
        window_shape: height and width of a window, in pixels.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width.

    Returns:
        [batch, out_height, out_width, channels], dtype of x.
    """
    return nn.max_pool(x, tuple(window_shape), tuple(strides), padding)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean over height and width, summed and returned in at least float32.

    Args:
        x: [batch, height, width, channels], floating point.

    Returns:
        [batch, channels], float32 or wider: not rounded back, because a classifier follows.
    """
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
