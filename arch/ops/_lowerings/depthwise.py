"""Depthwise convolution as a sum of shifted products, which XLA fuses into one pass over memory.

XLA's own grouped convolution on CPU takes the output a group at a time, 10 to 100 times slower. The barriers keep
whatever produces an operand from being fused in, and so computed anew for every tap.
"""

import functools
import itertools
import operator
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from arch.ops._lowerings.geometry import Geometry, Pair


def unsupported(geometry: Geometry, kernel_shape: Sequence[int]) -> str | None:
    """The rule that a convolution breaks, and the value that breaks it; None where this path can take it."""
    del geometry
    return None if kernel_shape[2] == 1 else f"in_features / feature_group_count={kernel_shape[2]} must be 1"


def value(x: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The convolution of [batch, height, width, in] with [taps, taps, 1, in * multiplier]."""
    x = jnp.repeat(x, kernel.shape[3] // x.shape[3], axis=3)
    kernel = _wide(kernel)
    terms = (window * kernel[i, j, 0] for (i, j), window in _windows(x, geometry))
    return functools.reduce(operator.add, terms).astype(x.dtype)


def input_gradient(gradient: jax.Array, kernel: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in x: the pixels of each residue modulo the strides meet taps of their own."""
    phases = [_phases(geometry, axis) for axis in (0, 1)]
    sizes = [-(-size // stride) for size, stride in zip(geometry.input_size, geometry.strides, strict=True)]
    paddings = [_phase_padding(*args) for args in zip(phases, sizes, geometry.output_size, strict=True)]
    origins = [before for before, _ in paddings]
    padded = _wide(lax.optimization_barrier(_pad(gradient, paddings)))
    kernel = _wide(kernel)

    def phase(rows: list[Pair], columns: list[Pair]) -> jax.Array:
        out = jnp.zeros((gradient.shape[0], *sizes, gradient.shape[3]), padded.dtype)
        for (i, row), (j, column) in itertools.product(rows, columns):
            top, left = row + origins[0], column + origins[1]
            out += padded[:, top : top + sizes[0], left : left + sizes[1]] * kernel[i, j, 0]
        return out

    # [batch, rows, row residues, columns, column residues, features]
    out = jnp.stack([jnp.stack([phase(row, column) for column in phases[1]], axis=3) for row in phases[0]], axis=2)
    out = out.reshape(
        gradient.shape[0], sizes[0] * geometry.strides[0], sizes[1] * geometry.strides[1], gradient.shape[3]
    )
    out = out[:, : geometry.input_size[0], : geometry.input_size[1]]
    multiplier = gradient.shape[3] // geometry.groups
    return out.reshape(*out.shape[:3], geometry.groups, multiplier).sum(axis=4).astype(gradient.dtype)


def kernel_gradient(x: jax.Array, gradient: jax.Array, geometry: Geometry) -> jax.Array:
    """The transpose of `value` in the kernel: all taps in one reduction over the batch, then each over its pixels.

    One sum a tap would read both operands once a tap; one reduction over batch and pixels is not vectorized.
    """
    x = jnp.repeat(x, gradient.shape[3] // x.shape[3], axis=3)
    gradient = _wide(lax.optimization_barrier(gradient))
    products = [window * gradient for _, window in _windows(x, geometry)]
    sums = lax.reduce(products, [jnp.zeros((), gradient.dtype)] * len(products), _add_each, (0,))
    sums = [pixels.sum(axis=(0, 1)) for pixels in lax.optimization_barrier(sums)]
    return jnp.stack(sums).reshape(*geometry.kernel_size, 1, gradient.shape[3]).astype(x.dtype)


def _add_each(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> list[jax.Array]:
    return [a + b for a, b in zip(left, right, strict=True)]


def _wide(array: jax.Array) -> jax.Array:
    """In at least float32: sums are not rounded on the way."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _pad(array: jax.Array, padding: Sequence[Pair]) -> jax.Array:
    """With zeros around height and width; negative padding crops."""
    spatial = [(before, after, 0) for before, after in padding]
    return lax.pad(array, jnp.zeros((), array.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])


def _windows(x: jax.Array, geometry: Geometry) -> Iterator[tuple[Pair, jax.Array]]:
    """Each tap, and the pixels that it meets: one for every pixel of the output."""
    padded = _wide(lax.optimization_barrier(_pad(x, geometry.padding)))
    for tap in itertools.product(*map(range, geometry.kernel_size)):
        rows, columns = (
            slice(index * dilation, index * dilation + (out_size - 1) * stride + 1, stride)
            for index, dilation, stride, out_size in zip(
                tap, geometry.kernel_dilation, geometry.strides, geometry.output_size, strict=True
            )
        )
        yield tap, padded[:, rows, columns]


def _phases(geometry: Geometry, axis: int) -> list[list[Pair]]:
    """For each residue of an input pixel modulo the stride: its taps, with the output pixel they lead to.

    Pixel stride * n + residue meets tap t in output pixel n + offset; listed are (t, offset).
    """
    stride, dilation = geometry.strides[axis], geometry.kernel_dilation[axis]
    phases = []
    for residue in range(stride):
        distances = (
            (tap, residue + geometry.padding[axis][0] - tap * dilation) for tap in range(geometry.kernel_size[axis])
        )
        phases.append([(tap, distance // stride) for tap, distance in distances if distance % stride == 0])
    return phases


def _phase_padding(phases: list[list[Pair]], size: int, output_size: int) -> Pair:
    """(before, after) around the output, so that every offset can be taken from all `size` pixels of a phase."""
    offsets = [offset for phase in phases for _, offset in phase]
    return max(0, -min(offsets)), max(0, max(offsets) + size - output_size)
