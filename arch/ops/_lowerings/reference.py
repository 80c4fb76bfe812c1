"""Convolution as JAX has it, for every shape and platform; its gradients are the transposes that JAX knows."""

import jax
from jax import lax

from arch.ops._lowerings.geometry import Geometry


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [taps, taps, in / groups, out]."""
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x, from the gradient of the output."""
    x = jax.ShapeDtypeStruct(geometry.input_shape(gradient.shape, kernel.shape), gradient.dtype)
    (x_gradient,) = jax.linear_transpose(lambda x: value(x, kernel, geometry), x)(gradient)
    return x_gradient


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel, from the gradient of the output."""
    kernel = jax.ShapeDtypeStruct(geometry.kernel_shape(x.shape, gradient.shape), x.dtype)
    (kernel_gradient,) = jax.linear_transpose(lambda kernel: value(x, kernel, geometry), kernel)(gradient)
    return kernel_gradient
