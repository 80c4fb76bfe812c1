"""Grouped convolution as one dense convolution for each block of groups.

Small groups are merged into blocks: a block's dense kernel is zero between its groups, which wastes arithmetic and wins
time, because a dense convolution with few channels leaves the vector units idle.
"""

import dataclasses
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp

from arch.ops._lowerings import dense
from arch.ops._lowerings.geometry import Geometry

# Channels of a block, in or out, up to which groups are merged. On ResNeXt-50's shapes, on CPU, wider blocks
# were slower at 4 channels a group, and 16 a group were fastest alone.
BLOCK_CHANNELS = 16


def unsupported(geometry: Geometry, kernel_shape: Sequence[int]) -> str | None:
    """None: any convolution is a grouped one."""
    del geometry, kernel_shape


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [taps, taps, in / groups, out]."""
    kernels = _to_blocks(kernel, geometry)
    path, block = _of_block("value", geometry, x, kernels.shape[1:])
    inputs = jnp.split(x, len(kernels), axis=-1)
    return jnp.concatenate([path.value(x, kernels[i], block) for i, x in enumerate(inputs)], axis=-1)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x."""
    kernels = _to_blocks(kernel, geometry)
    path, block = _of_block("input_gradient", geometry, gradient, kernels.shape[1:])
    gradients = jnp.split(gradient, len(kernels), axis=-1)
    return jnp.concatenate([path.input_gradient(g, kernels[i], block) for i, g in enumerate(gradients)], axis=-1)


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel."""
    shape = geometry.kernel_shape(x.shape, gradient.shape)
    num_blocks = geometry.groups // _block_groups(geometry, shape)
    kernel_shape = (*geometry.kernel_size, x.shape[3] // num_blocks, gradient.shape[3] // num_blocks)
    path, block = _of_block("kernel_gradient", geometry, x, kernel_shape)
    pairs = zip(jnp.split(x, num_blocks, axis=-1), jnp.split(gradient, num_blocks, axis=-1), strict=True)
    blocks = [path.kernel_gradient(*pair, block) for pair in pairs]
    return _from_blocks(jnp.stack(blocks), geometry, shape)


def _of_block(
    part: str, geometry: Geometry, like: jax.Array, kernel_shape: Sequence[int]
) -> tuple[ModuleType, Geometry]:
    """The path that a block takes, and its geometry; `like` has the batch and the dtype."""
    block = dataclasses.replace(geometry, groups=1)
    return dense.choose(part, block, like.shape[0], kernel_shape, like.dtype), block


def _block_groups(geometry: Geometry, kernel_shape: Sequence[int]) -> int:
    """How many groups make a block: the largest divisor of their number that keeps blocks within BLOCK_CHANNELS."""
    widest = max(kernel_shape[2], kernel_shape[3] // geometry.groups)
    fitting = range(1, max(1, BLOCK_CHANNELS // widest) + 1)
    return max(groups for groups in fitting if geometry.groups % groups == 0)


def _to_blocks(kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """[blocks, taps, taps, in, out] of dense kernels, each zero where input and output are of different groups."""
    size = _block_groups(geometry, kernel.shape)
    kernel = _split_features(kernel, geometry, size)
    own = jnp.eye(size, dtype=kernel.dtype)[:, None, :, None]
    blocks = jnp.moveaxis(kernel, 3, 0)[:, :, :, None] * own
    return blocks.reshape(blocks.shape[0], *geometry.kernel_size, size * blocks.shape[4], size * blocks.shape[6])


def _from_blocks(blocks: jax.Array, geometry: Geometry, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `_to_blocks`: what lies between groups is dropped."""
    size = _block_groups(geometry, shape)
    blocks = blocks.reshape(blocks.shape[0], *geometry.kernel_size, size, shape[2], size, shape[3] // geometry.groups)
    own = jnp.stack([blocks[:, :, :, group, :, group] for group in range(size)], axis=4)
    return jnp.moveaxis(own, 0, 3).reshape(shape)


def _split_features(kernel: jax.Array, geometry: Geometry, size: int) -> jax.Array:
    """[taps, taps, in / groups, blocks, groups of a block, out / groups]."""
    return kernel.reshape(*kernel.shape[:3], geometry.groups // size, size, kernel.shape[3] // geometry.groups)
