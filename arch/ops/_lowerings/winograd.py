"""Dense 3x3 convolution at stride 1 by F(2x2, 3x3) (Lavin and Gray, CVPR 2016, arXiv:1509.09308, section 4.1).

Tiles of 4x4 pixels, two apart, and the kernel are transformed, multiplied as 16 matrix products over features, and
transformed back to 2x2 pixels: 16 products for every 4 pixels instead of 36. The transforms have entries 0, 1 and 1/2,
so that little accuracy is lost: in float32 below 2e-6 of the largest value at 28x28x128. Narrower types are widened
first.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops._lowerings.geometry import Geometry
from arch.ops._lowerings.matmul import dot
from arch.ops._lowerings.shifts import pad, wide

# G of the paper; B^T, A^T and A are functions below.
_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])

Rows = list[jax.Array]
Grid = list[Rows]


def unsupported(geometry: Geometry, kernel_shape: Sequence[int]) -> str | None:
    """The rule that a convolution breaks, and the value that breaks it; None where this path can take it."""
    del kernel_shape
    if geometry.groups != 1:
        return f"feature_group_count={geometry.groups} must be 1"
    if geometry.kernel_size != (3, 3):
        return f"kernel_size={geometry.kernel_size} must be (3, 3)"
    if geometry.strides != (1, 1):
        return f"strides={geometry.strides} must be (1, 1)"
    return None


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [3, 3, in, out]."""
    tiles, kernels = _input_tiles(wide(x), geometry), _transform_kernel(wide(kernel))
    products = [
        [dot(tile, kernels[a, b], ((3,), (0,)), geometry) for b, tile in enumerate(row)] for a, row in enumerate(tiles)
    ]
    pixels = _both_axes(_output_transform, lax.optimization_barrier(products))
    # Kept apart from the interleaving, a copy that does not vectorize with arithmetic in it.
    pixels = lax.optimization_barrier(pixels)
    out = jnp.stack([jnp.stack(row, axis=3) for row in pixels], axis=2)
    batch, height, _, width, _, features = out.shape
    out = _from_phases(out.reshape(batch, 2 * height, 2 * width, features), geometry)
    return out[:, : geometry.output_size[0], : geometry.output_size[1]].astype(x.dtype)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x: the convolution with the kernel turned by half a circle."""
    padding = tuple(
        (2 * dilation - before, 2 * dilation - after)
        for dilation, (before, after) in zip(geometry.kernel_dilation, geometry.padding, strict=True)
    )
    turned = dataclasses.replace(geometry, input_size=geometry.output_size, padding=padding)
    return value(gradient, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), turned)


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel."""
    tiles = _input_tiles(wide(x), geometry)
    missing = [
        2 * dilation * count - size
        for dilation, count, size in zip(
            geometry.kernel_dilation, _num_tiles(geometry), geometry.output_size, strict=True
        )
    ]
    gradient = _to_phases(pad(wide(gradient), [(0, after) for after in missing]), geometry)
    gradients = [[gradient[:, i::2, j::2] for j in range(2)] for i in range(2)]
    gradients = lax.optimization_barrier(_both_axes(_output_transform_transposed, gradients))

    def product(tile: jax.Array, of_tile: jax.Array) -> jax.Array:
        return dot(tile.reshape(-1, tile.shape[3]), of_tile.reshape(-1, of_tile.shape[3]), ((0,), (0,)), geometry)

    products = [list(map(product, *rows)) for rows in zip(tiles, gradients, strict=True)]
    products = jnp.stack([jnp.stack(row) for row in products])
    transform = jnp.asarray(_KERNEL, products.dtype)
    return jnp.einsum("ai,bj,abco->ijco", transform, transform, products, precision="highest").astype(x.dtype)


def _num_tiles(geometry: Geometry) -> list[int]:
    """Rows and columns of tiles, for each of the images into which a dilation takes the input apart."""
    return [
        -(-size // (2 * dilation))
        for size, dilation in zip(geometry.output_size, geometry.kernel_dilation, strict=True)
    ]


def _transform_kernel(kernel: jax.Array) -> jax.Array:
    """[4, 4, in, out]."""
    transform = jnp.asarray(_KERNEL, kernel.dtype)
    return jnp.einsum("ai,bj,ijco->abco", transform, transform, kernel, precision="highest")


def _input_tiles(x: jax.Array, geometry: Geometry) -> Grid:
    """The transformed tiles: 4x4 arrays of [batch of phases, tile rows, tile columns, in]."""
    tiles = _num_tiles(geometry)
    padding = [
        (before, dilation * (2 * count + 2) - size - before)
        for dilation, count, size, (before, _) in zip(
            geometry.kernel_dilation, tiles, geometry.input_size, geometry.padding, strict=True
        )
    ]
    x = lax.optimization_barrier(_to_phases(pad(x, padding), geometry))
    last = [2 * count - 1 for count in tiles]
    pixels = [[x[:, i : i + last[0] : 2, j : j + last[1] : 2] for j in range(4)] for i in range(4)]
    return lax.optimization_barrier(_both_axes(_input_transform, pixels))


def _to_phases(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Every n-th row and column as an image of its own, in the batch: there a dilation of n is none."""
    rows, columns = geometry.kernel_dilation
    batch, height, width, features = x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, features)
    return x.transpose(2, 4, 0, 1, 3, 5).reshape(-1, height // rows, width // columns, features)


def _from_phases(x: jax.Array, geometry: Geometry) -> jax.Array:
    rows, columns = geometry.kernel_dilation
    _, height, width, features = x.shape
    x = x.reshape(rows, columns, -1, height, width, features).transpose(2, 3, 0, 4, 1, 5)
    return x.reshape(-1, height * rows, width * columns, features)


def _both_axes(transform: Callable[[Rows], Rows], grid: Grid) -> Grid:
    """Transforms the columns of a grid of arrays, then its rows."""
    columns = [transform(list(column)) for column in zip(*grid, strict=True)]
    return [transform(list(row)) for row in zip(*columns, strict=True)]


def _input_transform(d: Rows) -> Rows:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_transform(m: Rows) -> Rows:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _output_transform_transposed(y: Rows) -> Rows:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]
