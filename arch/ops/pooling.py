"""Pooling over windows and over whole maps."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.errors import check_map
from arch.ops._lowerings import maps, max_pooling
from arch.ops._lowerings.geometry import Geometry, Pair
from arch.ops._lowerings.window_sum import WindowSum
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


def avg_pool(
    x: jax.Array,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int],
    padding: Padding,
    count_padding: bool,
) -> jax.Array:
    """The mean of each window, summed in at least float32; padding is 0, and counts or does not.

    torch counts it unless told otherwise, TensorFlow never does. It is linear, and can be differentiated in both
    modes, mapped, sharded and exported.

    y[i, j, c] = sum over the pixels (a, b) of a window of x[strides * i + a, strides * j + b, c] / n, where n is the
        height times the width of a window or, without count_padding, the number of its pixels that x has.

    Paper: LeCun et al., LeNet-5 (Proceedings of the IEEE 86, 1998), section II-B, without coefficient and bias.
    Parameters: none.
    MACs: 0, sums.

    Args:
        x: [batch, height, width, channels], floating point.
        window_shape: height and width of a window, in pixels.
        strides: step between windows, in pixels.
        padding: "SAME", "VALID" or (before, after) along height and width, in pixels, less than a window.
        count_padding: whether padding counts among the pixels of a window.

    Returns:
        [batch, out_height, out_width, channels], dtype of x.

    Raises:
        ValueError: x that is not four-dimensional and floating point; padding that would fill a window.
    """
    check_map("avg_pool", x)
    geometry = pool_geometry("avg_pool", x.shape[1:3], window_shape, strides, padding)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if count_padding:
        counts = np.prod(geometry.kernel_size)
    else:
        rows, columns = (_count_pixels(geometry, axis) for axis in (0, 1))
        counts = (rows[:, None] * columns)[..., None]
    return (maps.apply(WindowSum(geometry), wide) / jnp.asarray(counts, wide.dtype)).astype(x.dtype)


def ceil_mode_padding(
    size: Sequence[int],
    window_shape: int | Sequence[int],
    strides: int | Sequence[int],
    padding: int | Sequence[int | tuple[int, int]] = 0,
) -> tuple[Pair, Pair]:
    """Padding with which the last windows may reach over the end of a map, as in Caffe and in torch's ceil mode.

    Windows follow one another as long as a further one meets pixels, or padding, that no other has met; but none starts
    behind the last pixel. A map smaller than a window has one.

    Args:
        size: height and width of the map, in pixels.
        window_shape: height and width of a window, in pixels.
        strides: step between windows, in pixels.
        padding: (before, after) along height and width, in pixels, less than a window; a number stands for both.

    Returns:
        (before, after) along height and width; `after` is such that no window more or less fits.
    """
    owner = "ceil_mode_padding"
    geometry = pool_geometry(owner, size, window_shape, strides, padding)
    return tuple(
        (before, _ceil_mode_after(pixels, window, stride, before, after))
        for pixels, window, stride, (before, after) in zip(
            geometry.input_size, geometry.kernel_size, geometry.strides, geometry.padding, strict=True
        )
    )


def _ceil_mode_after(size: int, window: int, stride: int, before: int, after: int) -> int:
    windows = max(-((window - before - size - after) // stride), 0) + 1
    if (windows - 1) * stride >= size + before:
        windows -= 1
    return max((windows - 1) * stride + window - size - before, 0)


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


def _count_pixels(geometry: Geometry, axis: int) -> np.ndarray:
    """Of each window the rows (axis 0) or columns (axis 1) that the map has, [out_height or out_width]."""
    start = np.arange(geometry.output_size[axis]) * geometry.strides[axis] - geometry.padding[axis][0]
    end = np.minimum(start + geometry.kernel_size[axis], geometry.input_size[axis])
    return end - np.maximum(start, 0)


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


def adaptive_avg_pool(x: jax.Array, output_size: int | Sequence[int]) -> jax.Array:
    """The mean over each bin of a grid that covers the map, whatever its size; summed in at least float32.

    Bins are as equal as whole pixels allow, and overlap by a pixel where they must, as in torch. A map that is smaller
    than the grid is repeated.

    y[i, j, c] = mean of x[a, b, c] over floor(i * height / out_height) <= a < ceil((i + 1) * height / out_height), and
        over b likewise.

    Paper: He et al., SPP-net (arXiv:1406.4729), section 2.2, with means in the place of maxima.
    Parameters: none.
    MACs: 0, sums.

    Args:
        x: [batch, height, width, channels], floating point.
        output_size: height and width of the grid.

    Returns:
        [batch, out_height, out_width, channels], dtype of x.

    Raises:
        ValueError: x that is not four-dimensional and floating point, or that has no pixel; a grid without bins.
    """
    check_map("adaptive_avg_pool", x)
    output_size = as_pair("adaptive_avg_pool: output_size", output_size)
    _check_pixels("adaptive_avg_pool", x)
    means = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis, bins in zip((1, 2), output_size, strict=True):
        size = x.shape[axis]
        if bins == size:
            continue
        slices = [
            lax.slice_in_dim(means, index * size // bins, -(-(index + 1) * size // bins), axis=axis)
            for index in range(bins)
        ]
        means = jnp.stack([jnp.mean(pixels, axis=axis) for pixels in slices], axis=axis)
    return means.astype(x.dtype)


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
        ValueError: x that is not four-dimensional and floating point, or that has no pixel.
    """
    check_map("global_avg_pool", x)
    _check_pixels("global_avg_pool", x)
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))


def _check_pixels(owner: str, x: jax.Array) -> None:
    if 0 in x.shape[1:3]:
        raise ValueError(f"{owner}: x={list(x.shape)} must have a pixel; give a larger image, or pool less")
