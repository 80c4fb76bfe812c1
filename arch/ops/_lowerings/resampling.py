"""Resizing along height and width: sums of few rows, and then columns, that tables choose and weigh.

A table has a row for each output pixel of an axis: which input pixels it reads, and their weights. Its transpose is a
table of the same kind, so that the gradient gathers, too, where the transpose of a gather would scatter.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops._lowerings.geometry import Pair

METHODS = ("bilinear", "nearest", "nearest-exact")

# Of a sum that is one loop; longer ones are sums of such sums. XLA's own reduction took ten times as long on a CPU.
MAX_TERMS = 64


@dataclasses.dataclass(frozen=True)
class Resampling:
    """A resize of maps of one size to another, or the transpose of one.

    Attributes:
        in_size: height and width before the resize, in pixels.
        out_size: height and width after it.
        method: one of METHODS.
        align_corners: whether the centres of the corner pixels stay, or their outer edges.
        antialias: whether "bilinear" widens its triangle where it shrinks.
        transposed: it is the transpose that runs, from out_size to in_size.
    """

    in_size: Pair
    out_size: Pair
    method: str
    align_corners: bool
    antialias: bool
    transposed: bool = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, *sizes, channels] between the two sizes; sums are kept in at least float32."""
        axes = {1: self._table(0), 2: self._table(1)}
        out = x
        # The axis that shrinks more, or grows less, first: less is left for the other.
        for axis in sorted(axes, key=lambda axis: len(axes[axis][0]) / x.shape[axis]):
            if self.in_size[axis - 1] != self.out_size[axis - 1]:
                # Else what produces it is computed anew for every output pixel that reads it.
                out = _gather_sum(lax.optimization_barrier(out), *axes[axis], axis)
        return out.astype(x.dtype)

    def transpose(self) -> "Resampling":
        """The map back."""
        return dataclasses.replace(self, transposed=not self.transposed)

    def _table(self, axis: int) -> tuple[np.ndarray, np.ndarray]:
        sizes = self.in_size[axis], self.out_size[axis]
        return _table(*sizes, self.method, self.align_corners, self.antialias, self.transposed)


@functools.lru_cache(maxsize=256)
def _table(
    size: int, out_size: int, method: str, align_corners: bool, antialias: bool, transposed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """[pixels, taps] of read pixels and of their weights; a weight of 0 says that nothing is read."""
    if method.startswith("nearest"):
        pixels, weights = _nearest(size, out_size, method)
    elif antialias and out_size < size:
        pixels, weights = _triangle(size, out_size)
    else:
        pixels, weights = _bilinear(size, out_size, align_corners)
    return _transposed(pixels, weights, size) if transposed else _compact(pixels, weights, out_size)


def _nearest(size: int, out_size: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """In exact arithmetic: at some sizes a float32 rounds a pixel off."""
    i = np.arange(out_size, dtype=np.int64)[:, None]
    pixels = i * size // out_size if method == "nearest" else (2 * i + 1) * size // (2 * out_size)
    return pixels, np.ones(pixels.shape)


def _bilinear(size: int, out_size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """The two pixels around each point; numerators and denominators are integers, so that pixels are hit exactly."""
    i = np.arange(out_size, dtype=np.int64)
    if align_corners:
        numerator, denominator = i * (size - 1), max(out_size - 1, 1)
    else:
        numerator, denominator = (2 * i + 1) * size - out_size, 2 * out_size
    numerator = np.clip(numerator, 0, (size - 1) * denominator)
    first, rest = np.divmod(numerator, denominator)
    weight = rest / denominator
    return np.stack([first, np.minimum(first + 1, size - 1)], 1), np.stack([1 - weight, weight], 1)


def _triangle(size: int, out_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All pixels under a triangle that is as wide as two output pixels; weights sum to 1 at the borders, too."""
    scale = size / out_size
    centre = (np.arange(out_size)[:, None] + 0.5) * scale - 0.5
    pixels = np.floor(centre).astype(np.int64) + np.arange(-np.ceil(scale) + 1, np.ceil(scale) + 1).astype(np.int64)
    weights = np.maximum(0, 1 - np.abs(pixels - centre) / scale) * ((pixels >= 0) & (pixels < size))
    return np.clip(pixels, 0, size - 1), weights / weights.sum(1, keepdims=True)


def _compact(pixels: np.ndarray, weights: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The same table without entries of weight 0, but where a row has fewer than others."""
    rows, taps = np.nonzero(weights)
    return _from_entries(rows, pixels[rows, taps], weights[rows, taps], num_rows)


def _transposed(pixels: np.ndarray, weights: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    rows, taps = np.nonzero(weights)
    return _from_entries(pixels[rows, taps], rows, weights[rows, taps], num_rows)


def _from_entries(
    rows: np.ndarray, pixels: np.ndarray, values: np.ndarray, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """A table from its entries: which row each is in, the pixel it reads and its weight."""
    order = np.argsort(rows, kind="stable")
    rows, pixels, values = rows[order], pixels[order], values[order]
    counts = np.bincount(rows, minlength=num_rows)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.zeros((num_rows, max(1, counts.max())), np.int32), np.zeros((num_rows, max(1, counts.max())))
    table[0][rows, place], table[1][rows, place] = pixels, values
    return table


def _gather_sum(x: jax.Array, pixels: np.ndarray, weights: np.ndarray, axis: int) -> jax.Array:
    """For every row of the table the weighted sum of the pixels that it reads, in at least float32 if there is one."""
    num_rows, num_taps = pixels.shape
    if num_taps == 1 and np.all(weights == 1):
        return _read(x, pixels[:, 0], axis)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if num_taps > MAX_TERMS:
        num_parts = -(-num_taps // MAX_TERMS)
        filler = ((0, 0), (0, num_parts * MAX_TERMS - num_taps))
        parts = (np.pad(table, filler).reshape(num_rows * num_parts, MAX_TERMS) for table in (pixels, weights))
        x = lax.optimization_barrier(_gather_sum(x, *parts, axis))
        pixels = np.arange(num_rows * num_parts, dtype=np.int32).reshape(num_rows, num_parts)
        return _gather_sum(x, pixels, np.ones(pixels.shape), axis)
    terms = (_weigh(_read(x, pixels[:, tap], axis), weights[:, tap], axis) for tap in range(num_taps))
    return functools.reduce(jnp.add, terms)


def _read(x: jax.Array, pixels: np.ndarray, axis: int) -> jax.Array:
    return x.at[(slice(None),) * axis + (pixels,)].get(mode="promise_in_bounds")


def _weigh(read: jax.Array, weights: np.ndarray, axis: int) -> jax.Array:
    """Pixels times their weights. Where a weight is 0 the pixel does not count, even if it is not finite."""
    weights = weights.reshape([-1 if a == axis else 1 for a in range(read.ndim)])
    if np.any((weights != 0) & (weights != 1)):
        read = read * jnp.asarray(weights, read.dtype)
    return read if np.all(weights) else jnp.where(jnp.asarray(weights != 0), read, jnp.zeros((), read.dtype))
