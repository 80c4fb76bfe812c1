"""Prediction heads that look at their neighbours."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from arch.errors import check_map
from arch.ops.conv2d import as_pair
from arch.ops.shift import spatial_shift


def densely_adjacent_prediction(x: jax.Array, kernel_size: int | Sequence[int] = 3) -> jax.Array:
    """Averages, for each pixel, what the pixels around it predict for it (DAP).

    Each feature has kh * kw channels, one for each neighbour: out[i, j, c] = mean over taps (l, m) of
    x[i + l - kh // 2, j + m - kw // 2, (c * kh + l) * kw + m]; [batch, height, width, features * kh * kw] -> [batch,
    height, width, features]. Outside the map predictions are 0 and count in the mean: if all slices are equal the
    result is their box blur.

    Paper: Zhang et al., ExFuse (arXiv:1804.03821), section 3.2.
    Parameters: none.
    MACs: 0, additions: height * width * features * kernel_height * kernel_width.

    Args:
        x: [batch, height, width, channels], floating point.
        kernel_size: height and width of the neighbourhood, in pixels; odd, their product divides the channels.

    Returns:
        [batch, height, width, channels / (kh * kw)], dtype of x; means are taken in at least float32.

    Raises:
        ValueError: x that is not floating point NHWC; an even kernel; channels that its taps do not divide.
    """
    owner = "densely_adjacent_prediction"
    check_map(owner, x)
    height, width = as_pair(f"{owner}: kernel_size", kernel_size)
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"{owner}: kernel_size={(height, width)} must be odd, or it has no centre; add or drop a tap")
    num_taps, channels = height * width, x.shape[3]
    if channels % num_taps:
        raise ValueError(
            f"{owner}: kernel_size={(height, width)}, {num_taps} taps, must divide channels={channels}; predict "
            f"{num_taps} channels for each feature"
        )
    # The channels of a feature are its taps in order: the assignment "modulo".
    moved = spatial_shift(x, (height, width), assignment="modulo")
    by_tap = moved.reshape(*x.shape[:3], channels // num_taps, num_taps)
    return jnp.mean(by_tap, axis=-1, dtype=jnp.promote_types(x.dtype, jnp.float32)).astype(x.dtype)
