"""Dense convolution whose gradients are convolutions in the layout that XLA has a fast program for on CPUs.

XLA brings other layouts into this one itself, but not in the body of a loop or the branch of a condition: there a
gradient as JAX transposes it takes 4 to 20 times as long, and with it every training step under `lax.scan`.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings import reference
from arch.ops._lowerings.geometry import Geometry, Pair

# XLA below jax 0.12 takes 2 to 14 times as long for convolutions of three channels as of four where there are so many
# outputs, on a CPU with AVX-512. jax 0.12 does not, and with other outputs padding takes up to 1.6 times as long.
PADS_IMAGES = jax.__version_info__ < (0, 12)
PADDED_OUTPUTS = (range(17, 33), range(65, 81))


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """As `reference.value`, of one group; where it is faster, of images with a fourth channel of zeros."""
    if PADS_IMAGES and x.shape[3] == 3 and any(kernel.shape[3] in outputs for outputs in PADDED_OUTPUTS):
        x, kernel = (jnp.pad(array, [(0, axis == at) for axis in range(4)]) for array, at in ((x, 3), (kernel, 2)))
    return reference.value(x, kernel, geometry)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x: a convolution of the gradient, its pixels `strides` apart, with turned taps."""
    padding = []
    for size, outputs, taps, stride, dilation, (before, _) in _axes(geometry):
        margin = dilation * (taps - 1)
        padding.append((margin - before, size + before - 1 - stride * (outputs - 1)))
    return lax.conv_general_dilated(
        gradient,
        lax.rev(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        padding,
        lhs_dilation=geometry.strides,
        rhs_dilation=geometry.kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=geometry.precision,
    )


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel: a convolution of each input feature's maps with the gradient's."""
    padding = []
    for size, outputs, taps, stride, dilation, (before, _) in _axes(geometry):
        padding.append((before, dilation * (taps - 1) + stride * (outputs - 1) + 1 - size - before))
    out = lax.conv_general_dilated(
        jnp.transpose(x, (3, 1, 2, 0)),
        jnp.transpose(gradient, (1, 2, 0, 3)),
        geometry.kernel_dilation,
        padding,
        rhs_dilation=geometry.strides,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=geometry.precision,
    )
    return jnp.transpose(out, (1, 2, 0, 3))


def _axes(geometry: Geometry) -> Iterator[tuple[int, int, int, int, int, Pair]]:
    """Of height and width: input and output size, taps, stride, dilation and padding."""
    return zip(
        geometry.input_size,
        geometry.output_size,
        geometry.kernel_size,
        geometry.strides,
        geometry.kernel_dilation,
        geometry.padding,
        strict=True,
    )
