"""Dense convolution as a matrix product with the windows of the input laid out as rows."""

import itertools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings.geometry import Geometry, Pair
from arch.ops._lowerings.matmul import dot
from arch.ops._lowerings.shifts import sum_into_inputs, wide, windows


def unsupported(geometry: Geometry, kernel_shape: Sequence[int]) -> str | None:
    """The rule that a convolution breaks, and the value that breaks it; None where this path can take it."""
    del kernel_shape
    return None if geometry.groups == 1 else f"feature_group_count={geometry.groups} must be 1"


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [taps, taps, in, out]."""
    columns = _side_by_side(window for _, window in windows(x, geometry))
    return dot(columns, kernel.reshape(-1, kernel.shape[3]), ((3,), (0,)), geometry)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x: every pixel's share in each of its windows, then their sum."""
    in_features = kernel.shape[2]
    shares = dot(gradient, kernel.reshape(-1, kernel.shape[3]), ((3,), (1,)), geometry)

    def term(tap: Pair, pixels: jax.Array) -> jax.Array:
        first = (tap[0] * geometry.kernel_size[1] + tap[1]) * in_features
        return wide(pixels[..., first : first + in_features])

    return sum_into_inputs([shares], geometry, term).astype(gradient.dtype)


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel: a product for each row of taps, which needs less memory than one."""
    in_features, features = x.shape[3], gradient.shape[3]
    gradient = gradient.reshape(-1, features)
    by_row = itertools.groupby(windows(x, geometry), key=lambda item: item[0][0])
    columns = (_side_by_side(window for _, window in row) for _, row in by_row)
    rows = [dot(c.reshape(-1, c.shape[3]), gradient, ((0,), (0,)), geometry) for c in columns]
    return jnp.stack(rows).reshape(*geometry.kernel_size, in_features, features)


def _side_by_side(arrays: Iterable[jax.Array]) -> jax.Array:
    """Joined along features; kept from being computed once for each read of the product."""
    return lax.optimization_barrier(jnp.concatenate(list(arrays), axis=3))
