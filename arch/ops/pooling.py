"""Pooling over windows and over whole maps."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import check_map
from arch.ops._lowerings import max_pooling
from arch.ops._lowerings.geometry import Geometry
from arch.ops.conv2d import Padding, as_padding, as_pair


def max_pool(
    x: jax.Array, window_shape: int | Sequence[int], strides: int | Sequence[int], padding: Padding
) -> jax.Array:
    """The largest value of each window; padding is -inf, so it never wins.

    The gradient goes to the largest value, of equal ones to the first, row by row, as in torch. It can be
    differentiated in both modes, mapped, sharded and exported.

    y[i, j, c] = max over the pixels (a, b) of a window of x[strides * i + a, strides * j + b, c].

    Paper: Krizhevsky et al., AlexNet (NIPS 2012), section 3.4.
    Parameters: none.
    MACs: 0, comparisons.

    Args:
        x: [batch, height, width, channels], floating point.
        window_shape: height and width of a window, in pixels.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels, less than a window.

    Returns:
        [batch, out_height, out_width, channels], dtype of x.

    Raises:
        ValueError: x that is not four-dimensional and floating point; padding that would fill a window.
    """
    check_map("max_pool", x)
    return _max_pool(x, pool_geometry("max_pool", x.shape[1:3], window_shape, strides, padding))


def pool_geometry(
    owner: str,
    size: Sequence[int],
    window_shape: int | Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
) -> Geometry:
    """The windows of a pooling of maps of that size; `owner` refuses padding that would fill one."""
    window_shape, strides = as_pair(f"{owner}: window_shape", window_shape), as_pair(f"{owner}: strides", strides)
    pairs = as_padding(owner, padding)
    if isinstance(pairs, str):
        pairs = lax.padtype_to_pads(size, window_shape, strides, pairs)
    pairs = tuple(map(tuple, pairs))
    if any(not 0 <= pad < taps for taps, pads in zip(window_shape, pairs, strict=True) for pad in pads):
        raise ValueError(
            f"{owner}: padding={padding} must be 0 or more, and less than window_shape={window_shape}, or a window "
            "could have no pixel; pad less"
        )
    return Geometry(tuple(size), window_shape, strides, pairs, (1, 1), 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, geometry: Geometry) -> jax.Array:
    return lax.platform_dependent(
        x,
        cpu=functools.partial(max_pooling.largest, geometry=geometry),
        default=functools.partial(max_pooling.reduce_window, geometry=geometry),
    )


@_max_pool.defjvp
def _max_pool_jvp(geometry: Geometry, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple:
    (x,), (tangent,) = primals, tangents
    return _max_pool(x, geometry), max_pooling.pick(tangent, x, geometry)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean over height and width, summed and returned in at least float32.

    y[c] = sum over i, j of x[i, j, c] / (height * width).

    Paper: Lin et al., Network in Network (arXiv:1312.4400), section 3.2.
    Parameters: none.
    MACs: 0, a sum an element.

    Args:
        x: [batch, height, width, channels], floating point.

    Returns:
        [batch, channels], float32 or wider: not rounded back, because a classifier follows.

    Raises:
        ValueError: x that is not four-dimensional and floating point.
    """
    check_map("global_avg_pool", x)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
