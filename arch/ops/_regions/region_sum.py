"""Sums over bins of regions of interest, and their transpose, as two JAX primitives.

The number of pixels in a bin is known only when the program runs, so both are loops of that many steps, and JAX cannot
transpose such loops by itself. A step reads (or adds to) one pixel of every bin. Memory is that of the inputs and the
output. Both are constant in the boxes, so that these pass no derivative on.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import batching

from arch.ops._lowerings import linear
from arch.ops._lowerings.geometry import Pair


class Taps(Protocol):
    """What the bins of regions read along an axis.

    Attributes:
        num_taps: [num_rois, bins] int32, how many pixels, with repetition.
    """

    num_taps: jax.Array

    def tap(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pixel of that number in every bin, within the map, and its weight, 0 from num_taps on."""


class Rule(Protocol):
    """How a region is cut into bins; hashable.

    Attributes:
        output_size: bins along height and width.
    """

    output_size: Pair

    def axes(self, rois: jax.Array, map_size: Pair) -> tuple[Taps, Taps]:
        """What rows and what columns of maps of that size are read by the regions [num_rois, 5]."""


@dataclasses.dataclass(frozen=True)
class Regions:
    """The static part of a sum over regions and of its transpose; the same object describes both.

    Attributes:
        maps: images, height, width, channels and slots of what is read. There is a slot for each bin, or one for all.
        rule: how a region is cut into bins.
    """

    maps: tuple[int, int, int, int, int]
    rule: Rule

    def pixel(self, rois: jax.Array, axes: tuple[Taps, Taps], i: jax.Array, j: jax.Array) -> tuple[tuple, jax.Array]:
        """Where the channels of tap (i, j) of every bin lie, and their weight [num_rois, out_height, out_width, 1]."""
        (image, row, column), weight = pixels(rois, *axes, i, j)
        slots = self.maps[4]
        slot = jnp.arange(slots).reshape(self.rule.output_size if slots > 1 else (1, 1))
        return (image, row, column, slice(None), slot), weight[..., None]


def region_sum(x: jax.Array, rois: jax.Array, regions: Regions) -> jax.Array:
    """Each bin's sum of weight * pixel.

    Args:
        x: [images, height, width, channels, slots], float32 or wider.
        rois: [num_rois, 5], within the images, of numbers that are finite.
        regions: the shape of x, and the bins.

    Returns:
        [num_rois, out_height, out_width, channels].
    """
    return linear.bind(sum_p, x, rois, regions=regions)


def region_spread(gradient: jax.Array, rois: jax.Array, regions: Regions) -> jax.Array:
    """The transpose of `region_sum` in x: each bin's value, times weight, added to its pixels."""
    return linear.bind(spread_p, gradient, rois, regions=regions)


def steps(rows: Taps, columns: Taps, step: Callable[[jax.Array, jax.Array, Any], Any], carry: Any) -> Any:
    """`carry` after a `step(row tap, column tap, carry)` for every tap of the largest bin, row by row."""
    num_rows, num_columns = (jnp.max(taps.num_taps, initial=0) for taps in (rows, columns))

    def row(i: jax.Array, carry: Any) -> Any:
        return lax.fori_loop(0, num_columns, lambda j, carry: step(i, j, carry), carry)

    return lax.fori_loop(0, num_rows, row, carry)


def pixels(
    rois: jax.Array, rows: Taps, columns: Taps, i: jax.Array, j: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
    """Where tap (i, j) of every bin lies, as indices of [images, height, width], and its weight."""
    (row, above), (column, left) = rows.tap(i), columns.tap(j)
    image = rois[:, 0].astype(jnp.int32)[:, None, None]
    return (image, row[:, :, None], column[:, None, :]), above[:, :, None] * left[:, None, :]


def _sum(x: jax.Array, rois: jax.Array, *, regions: Regions, on_cpu: bool) -> jax.Array:
    def some(rois: jax.Array) -> jax.Array:
        axes = regions.rule.axes(rois, regions.maps[1:3])

        def step(i: jax.Array, j: jax.Array, total: jax.Array) -> jax.Array:
            at, weight = regions.pixel(rois, axes, i, j)
            # Where it weighs nothing a pixel is not looked at: 0 * inf is not a number.
            return total + jnp.where(weight == 0, 0, x[at] * weight)

        return steps(*axes, step, jnp.zeros((rois.shape[0], *regions.rule.output_size, x.shape[3]), x.dtype))

    if not on_cpu:
        return some(rois)
    return lax.map(lambda roi: some(roi[None])[0], rois)  # a large region does not delay the others


def _spread(gradient: jax.Array, rois: jax.Array, *, regions: Regions, on_cpu: bool) -> jax.Array:
    def some(total: jax.Array, rois: jax.Array, gradient: jax.Array) -> jax.Array:
        axes = regions.rule.axes(rois, regions.maps[1:3])

        def step(i: jax.Array, j: jax.Array, total: jax.Array) -> jax.Array:
            at, weight = regions.pixel(rois, axes, i, j)
            return total.at[at].add(jnp.where(weight == 0, 0, gradient * weight))

        return steps(*axes, step, total)

    zeros = jnp.zeros(regions.maps, gradient.dtype)
    if not on_cpu:
        return some(zeros, rois, gradient)
    each = (rois[:, None], gradient[:, None])
    return lax.scan(lambda total, roi: (some(total, *roi), None), zeros, each)[0]


sum_p = linear.primitive(
    "region_sum", lambda x, rois, regions: ((rois.shape[0], *regions.rule.output_size, x.shape[3]), x.dtype), _sum
)
spread_p = linear.primitive("region_spread", lambda gradient, rois, regions: (regions.maps, gradient.dtype), _spread)
linear.define(sum_p, (lambda out, x, rois, regions: region_spread(out, rois, regions),))
linear.define(spread_p, (lambda out, gradient, rois, regions: region_sum(out, rois, regions),))


def _batch_sum(operands: Sequence[jax.Array], axes: Sequence[int | None], *, regions: Regions) -> tuple:
    (x, rois), size = operands, _size(operands, axes)
    if axes[0] is None:  # every region reads the same maps
        rois = linear.mapped(rois, axes[1], size)
    else:
        x = linear.mapped(x, axes[0], size)
        rois, regions = _side_by_side(rois, axes[1], size, regions)
    out = region_sum(x.reshape(regions.maps), rois.reshape(-1, 5), regions)
    return out.reshape(*rois.shape[:2], *out.shape[1:]), 0


def _batch_spread(operands: Sequence[jax.Array], axes: Sequence[int | None], *, regions: Regions) -> tuple:
    (gradient, rois), size, maps = operands, _size(operands, axes), regions.maps
    gradient = linear.mapped(gradient, axes[0], size)
    rois, regions = _side_by_side(rois, axes[1], size, regions)
    out = region_spread(gradient.reshape(-1, *gradient.shape[2:]), rois.reshape(-1, 5), regions)
    return out.reshape(size, *maps), 0


def _side_by_side(rois: jax.Array, axis: int | None, size: int, regions: Regions) -> tuple[jax.Array, Regions]:
    """Regions [size, num_rois, 5] of `size` batches of maps that follow one another."""
    num_maps = regions.maps[0]
    first = jnp.arange(size, dtype=rois.dtype) * num_maps
    rois = linear.mapped(rois, axis, size).at[:, :, 0].add(first[:, None])
    return rois, dataclasses.replace(regions, maps=(size * num_maps, *regions.maps[1:]))


def _size(operands: Sequence[jax.Array], axes: Sequence[int | None]) -> int:
    return next(array.shape[axis] for array, axis in zip(operands, axes, strict=True) if axis is not None)


batching.primitive_batchers[sum_p] = _batch_sum
batching.primitive_batchers[spread_p] = _batch_spread
