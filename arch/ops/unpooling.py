"""Max pooling that remembers where its maxima were, and the unpooling that brings values back there."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import check_map
from arch.ops._lowerings import maps, switches
from arch.ops._lowerings.geometry import Geometry
from arch.ops.conv2d import Padding, as_pair
from arch.ops.pooling import pool_geometry


def max_pool_with_argmax(
    x: jax.Array, window_shape: int | Sequence[int], strides: int | Sequence[int], padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """The largest value of each window, and where in the map it is.

    values[n, i, j, c] = max over the window of x[n, row, column, c], indices[n, i, j, c] = row * width + column of that
    maximum: [batch, height, width, channels] -> twice [batch, out_height, out_width, channels]. Of equal values the
    first in the window counts, row by row; of several that are not numbers the last, as in torch. Padding is -inf and
    never has the index. The gradient of the values goes to the indices.

    Paper: Zeiler et al., Visualizing and Understanding Convolutional Networks (arXiv:1311.2901), section 2.1: the
        switches.
    Parameters: none.
    MACs: 0, comparisons.

    Args:
        x: [batch, height, width, channels], floating point.
        window_shape: height and width of a window, in pixels.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels, less than a window.

    Returns:
        values, dtype of x, and indices, int32.

    Raises:
        ValueError: x that is not four-dimensional and floating point; padding that would fill a window.
    """
    owner = "max_pool_with_argmax"
    check_map(owner, x)
    geometry = pool_geometry(owner, x.shape[1:3], window_shape, strides, padding)
    values, indices = switches.largest(lax.stop_gradient(x), geometry)
    return _pick(x, values, indices, geometry), indices


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def _pick(x: jax.Array, values: jax.Array, indices: jax.Array, geometry: Geometry) -> jax.Array:
    """`values`, as a function of x that takes them from the indices."""
    del x, indices, geometry
    return values


@_pick.defjvp
def _pick_jvp(geometry: Geometry, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (_, _, indices), (tangent, *_) = primals, tangents
    return _pick(*primals, geometry), maps.apply(switches.Pick(geometry), tangent, indices)


def max_unpool(
    x: jax.Array,
    indices: jax.Array,
    size: int | Sequence[int],
    *,
    window_shape: int | Sequence[int] | None = None,
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> jax.Array:
    """Brings each value to the position that its index names, on a map of zeros.

    out[n, row, column, c] = sum of x[n, i, j, c] over the (i, j) with indices[n, i, j, c] = row * width + column:
    [batch, in_height, in_width, channels] -> [batch, *size, channels]. Values that meet are added: the map is linear,
    the transpose of taking a value from each window, and the gradient is x's value at the index. Indices are not
    differentiated.

    The windows of the pooling that made the indices may be told. Then each pixel asks the windows that meet it, which
    on a CPU is many times faster than the scatter that serves any indices.

    Paper: Zeiler et al., Visualizing and Understanding Convolutional Networks (arXiv:1311.2901), section 2.1.
    Parameters: none.
    MACs: 0, data movement.
    Differs from the paper: it does not say what becomes of values that meet, where windows overlap. torch keeps one of
        them; here they are added, so that this is the gradient of max pooling.

    Args:
        x: [batch, in_height, in_width, channels], floating point.
        indices: integers of the shape of x, row * width + column in the output, as `max_pool_with_argmax` makes them.
            One that is not a position of the output, or not in its window where windows are told, is left out with its
            value: whether it is one is known only at run time, when nothing can be raised.
        size: height and width of the output, in pixels: those of the map that was pooled, which the size of x does not
            tell.
        window_shape: of the pooling, as are the next two; None for indices of any other origin.
        strides: of the pooling; None takes window_shape.
        padding: of the pooling.

    Returns:
        [batch, *size, channels], dtype of x.

    Raises:
        ValueError: x that is not floating point NHWC; indices that are not integers of its shape; a size that the
            windows do not pool to that of x; strides without windows.
    """
    owner = "max_unpool"
    check_map(owner, x)
    if indices.shape != x.shape or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(
            f"{owner}: indices={indices.dtype}{list(indices.shape)} must be integers of the shape {list(x.shape)} of "
            "x; take those of its pooling"
        )
    indices = indices.astype(jnp.promote_types(indices.dtype, jnp.int32))
    size = as_pair(f"{owner}: size", size)
    if window_shape is None:
        if strides is not None or padding != "VALID":
            raise ValueError(f"{owner}: strides={strides} and padding={padding} need window_shape; give it too")
        return _scatter(x, indices, size)
    geometry = pool_geometry(owner, size, window_shape, window_shape if strides is None else strides, padding)
    if geometry.output_size != x.shape[1:3]:
        raise ValueError(
            f"{owner}: size={size} must pool to the size {x.shape[1:3]} of x, not to {geometry.output_size}; take the "
            "size of the map that was pooled"
        )
    return maps.apply(switches.Place(geometry), x, indices)


def _scatter(x: jax.Array, indices: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Value by value. Negative indices would count from the end: they leave the map as the others do."""
    batch, height, width, channels = x.shape
    indices = jnp.where(indices < 0, math.prod(size), indices).reshape(batch, height * width, channels)
    values = x.reshape(batch, height * width, channels).astype(jnp.promote_types(x.dtype, jnp.float32))

    def place(values: jax.Array, indices: jax.Array) -> jax.Array:
        zeros = jnp.zeros((math.prod(size), channels), values.dtype)
        return zeros.at[indices, jnp.arange(channels)].add(values, mode="drop")

    return jax.vmap(place)(values, indices).reshape(batch, *size, channels).astype(x.dtype)
