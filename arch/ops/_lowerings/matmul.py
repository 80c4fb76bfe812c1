"""A 1x1 convolution as a matrix product over pixels, a grouped one as a batch of them, a strided one of every n-th."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings.geometry import Geometry


def unsupported(geometry: Geometry, kernel_shape: Sequence[int]) -> str | None:
    """The rule that a convolution breaks, and the value that breaks it; None where this path can take it."""
    if tuple(kernel_shape[:2]) != (1, 1):
        return f"kernel_size={tuple(kernel_shape[:2])} must be (1, 1)"
    if geometry.padding != ((0, 0), (0, 0)):
        return f"padding={geometry.padding} must be zero"
    return None


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [1, 1, in / groups, out]."""
    shape = geometry.output_shape(x.shape, kernel.shape)
    x = x[:, :: geometry.strides[0], :: geometry.strides[1]]
    if geometry.groups == 1:
        return dot(x, kernel[0, 0], ((3,), (0,)), geometry)
    out = dot(_by_group(x, geometry), _kernel_by_group(kernel, geometry), ((2,), (1,)), geometry, ((1,), (0,)))
    return jnp.swapaxes(out, 0, 1).reshape(shape)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x; pixels that a stride jumps over get 0."""
    shape = geometry.input_shape(gradient.shape, kernel.shape)
    if geometry.groups == 1:
        out = dot(gradient, kernel[0, 0], ((3,), (1,)), geometry)
    else:
        by_group = _by_group(gradient, geometry)
        out = dot(by_group, _kernel_by_group(kernel, geometry), ((2,), (2,)), geometry, ((1,), (0,)))
        out = jnp.swapaxes(out, 0, 1).reshape(*gradient.shape[:3], shape[3])
    if geometry.strides == (1, 1):
        return out
    zeros = [
        (0, size - 1 - (out_size - 1) * stride, stride - 1)
        for size, out_size, stride in zip(geometry.input_size, geometry.output_size, geometry.strides, strict=True)
    ]
    return lax.pad(out, jnp.zeros((), out.dtype), [(0, 0, 0), *zeros, (0, 0, 0)])


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel."""
    shape = geometry.kernel_shape(x.shape, gradient.shape)
    x = x[:, :: geometry.strides[0], :: geometry.strides[1]]
    if geometry.groups == 1:
        # Over one axis of pixels, not three: XLA would first transpose x, which can take longer than the product.
        x, gradient = x.reshape(-1, x.shape[3]), gradient.reshape(-1, gradient.shape[3])
        return dot(x, gradient, ((0,), (0,)), geometry).reshape(shape)
    out = dot(_by_group(x, geometry), _by_group(gradient, geometry), ((0,), (0,)), geometry, ((1,), (1,)))
    return jnp.swapaxes(out, 0, 1).reshape(shape)


def dot(
    left: jax.Array, right: jax.Array, contracting: tuple, geometry: Geometry, batch: tuple = ((), ())
) -> jax.Array:
    """`lax.dot_general`, summed in at least float32, in the precision of the convolution."""
    out = lax.dot_general(
        left,
        right,
        (contracting, batch),
        precision=geometry.precision,
        preferred_element_type=jnp.promote_types(left.dtype, jnp.float32),
    )
    return out.astype(left.dtype)


def _by_group(x: jax.Array, geometry: Geometry) -> jax.Array:
    """[pixels, groups, features / groups]."""
    return x.reshape(math.prod(x.shape[:3]), geometry.groups, x.shape[3] // geometry.groups)


def _kernel_by_group(kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """[groups, in / groups, out / groups]."""
    return jnp.swapaxes(kernel.reshape(kernel.shape[2], geometry.groups, kernel.shape[3] // geometry.groups), 0, 1)
