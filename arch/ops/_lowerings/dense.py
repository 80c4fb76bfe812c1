"""Which program a dense convolution, or a block of a grouped one, runs on a CPU."""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax.numpy as jnp

from arch.ops._lowerings import canonical, im2col, matmul, winograd
from arch.ops._lowerings.geometry import Geometry

# Those that a block takes where they are asked for by name.
DENSE_PATHS = {"im2col": im2col, "winograd": winograd}
# Of output tiles of 2x2 pixels: with fewer, the transform of the kernel is no small part of the work.
WINOGRAD_TILES = 256
# Of the narrower side: with fewer, the products are too thin to pay for the transforms, or for laying out the windows.
WINOGRAD_FEATURES = 32
IM2COL_FEATURES = 128
# Of the output, in the whole batch: with more, the windows of a convolution laid out leave the caches.
IM2COL_PIXELS = 2048


def choose(part: str, geometry: Geometry, batch: int, kernel_shape: Sequence[int], dtype: Any) -> ModuleType:
    """The module whose functions run, by a rule from measurements.

    They were made in float32 on two AVX2 cores, on shapes of ShuffleNet, MobileNet, ResNet and DRN, batch 8; see
    docs/performance.md.

    Args:
        part: "value", "input_gradient" or "kernel_gradient".
        geometry: of the convolution, of one group; only "im2col" and "winograd" of its implementations are heeded.
        batch: examples.
        kernel_shape: [taps, taps, in_features, out_features].
        dtype: of both operands, floating point.
    """
    if geometry.implementation in DENSE_PATHS:
        return DENSE_PATHS[geometry.implementation]
    if matmul.unsupported(geometry, kernel_shape) is None:
        return matmul
    narrow_side = min(kernel_shape[2:])
    pixels = batch * geometry.output_size[0] * geometry.output_size[1]
    large_enough = pixels / 4 >= WINOGRAD_TILES and narrow_side >= WINOGRAD_FEATURES and jnp.finfo(dtype).bits >= 32
    if large_enough and winograd.unsupported(geometry, kernel_shape) is None:
        return winograd
    strided = geometry.strides != (1, 1)
    if _is_swapped(part, geometry):
        return im2col
    if narrow_side >= IM2COL_FEATURES:
        gains = pixels <= IM2COL_PIXELS or part == "kernel_gradient" or (part == "input_gradient" and strided)
    else:
        # The first convolution of a network: few channels in, and more pixels than XLA's own gradient bears.
        gains = part == "kernel_gradient" and strided and pixels > IM2COL_PIXELS
    return im2col if gains else canonical


def _is_swapped(part: str, geometry: Geometry) -> bool:
    """Whether XLA would take the kernel for the input, as it does where its area is the larger one.

    Its program for that takes up to 13 times as long as im2col, with jax 0.10 and 0.12, on maps of 2x2 to 6x6 and with
    kernels of 3x3 to 7x7: 1 to 13 times with 128 images and 32 features or more; with 16 features, or one image, either
    may be faster, and on a single pixel both take as long. The gradient of the kernel is not of that kind.
    """
    if part == "kernel_gradient":
        return False
    pixels = math.prod(geometry.input_size if part == "value" else geometry.output_size)
    return math.prod(geometry.kernel_size) > pixels > 1
