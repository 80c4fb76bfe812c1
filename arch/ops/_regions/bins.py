"""How regions of interest are cut into bins, and what pixels or points a bin has.

Coordinates are in pixels of the map; axis 0 is the height, 1 the width.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import unknown_name
from arch.ops._lowerings.geometry import Pair

_PIXEL_RULES = ("roi_pool", "ps_roi_pool", "r_fcn")


class Pixels(NamedTuple):
    """Whole pixels along an axis, [num_rois, bins] int32 each: bin i has those in [low, high), maybe none."""

    low: jax.Array
    high: jax.Array

    @property
    def num_taps(self) -> jax.Array:
        return self.high - self.low

    def tap(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pixel of that number in every bin, and whether there is one: see `region_sum.Taps`."""
        inside = number < self.num_taps
        return jnp.where(inside, self.low + number, 0), inside


class Samples(NamedTuple):
    """Points along an axis, read linearly: bin i has those at low + (k + 0.5) * length / num for k in [first, last).

    Attributes:
        low: [num_rois, bins], where a bin starts, in pixels.
        length: [num_rois, 1], of a bin, in pixels.
        num: [num_rois, 1], whole, points in a bin.
        first, last: [num_rois, bins], those of them that may lie on the map.
        pixels: of the map along the axis.
    """

    low: jax.Array
    length: jax.Array
    num: jax.Array
    first: jax.Array
    last: jax.Array
    pixels: int

    @property
    def num_taps(self) -> jax.Array:
        return 2 * (self.last - self.first).astype(jnp.int32)

    def tap(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Pixel number % 2 of the two about point number // 2, and its weight: see `region_sum.Taps`."""
        point = settled(self.low + (self.first + number // 2 + 0.5) * self.length / jnp.maximum(self.num, 1))
        inside = (number < self.num_taps) & (point >= -1) & (point <= self.pixels)  # "roi_align" of bilinear_sample
        point = jnp.clip(jnp.where(inside, point, 0), 0, self.pixels - 1)
        pixel = jnp.floor(point)
        after = point - pixel
        is_after = number % 2
        weight = jnp.where(is_after == 1, after, 1 - after)
        return jnp.minimum(pixel.astype(jnp.int32) + is_after, self.pixels - 1), jnp.where(inside, weight, 0)


@dataclasses.dataclass(frozen=True)
class PixelBins:
    """Bins of whole pixels; they overlap where bins do not divide the region.

    Attributes:
        output_size: bins along height and width.
        spatial_scale: pixels of a map to a pixel of the image.
        rule: "roi_pool": corners are rounded on the map, the last pixel belongs to the region. "ps_roi_pool":
            torchvision's, where it does not belong, and the last row and column of the map are never read. "r_fcn":
            corners are rounded on the image, the last pixel belongs to the region, which is at least 0.1 pixels wide.
    """

    output_size: Pair
    spatial_scale: float
    rule: str

    def axes(self, rois: jax.Array, map_size: Pair) -> tuple[Pixels, Pixels]:
        """The rows and columns of all bins, for maps of that size."""
        return self._axis(rois, 0, map_size[0]), self._axis(rois, 1, map_size[1])

    def _axis(self, rois: jax.Array, axis: int, pixels: int) -> Pixels:
        if self.rule not in _PIXEL_RULES:
            raise unknown_name("PixelBins: rule", self.rule, _PIXEL_RULES)
        if self.rule == "r_fcn":
            start, size = whole_pixels(rois, axis, self.spatial_scale)
        else:
            start, end = (round_half_away(corner * self.spatial_scale) for corner in corners(rois, axis))
            size = jnp.maximum(end - start + (self.rule == "roi_pool"), 1)
        bins = self.output_size[axis]
        number = jnp.arange(bins, dtype=start.dtype)
        low = floor_divide(number * size + bins * start, bins)
        high = -floor_divide(-(number + 1) * size - bins * start, bins)
        last = pixels - 1 if self.rule == "ps_roi_pool" else pixels
        low, high = (jnp.clip(edge, 0, last).astype(jnp.int32) for edge in (low, high))
        return Pixels(low, high)


@dataclasses.dataclass(frozen=True)
class SampleGrids:
    """Bins of real points.

    Attributes:
        output_size: bins along height and width.
        spatial_scale: pixels of a map to a pixel of the image.
        aligned: whether the centre of a pixel lies at a half, so that regions move by half a pixel; without it, they
            are at least a pixel wide.
        sampling_ratio: points a bin along each axis; below 1 about one a pixel, ceil(size of the region / bins), and
            none in a region without extent.
    """

    output_size: Pair
    spatial_scale: float
    aligned: bool
    sampling_ratio: int

    def extent(self, rois: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
        """Where the regions start, and their size, in pixels of the map: [num_rois, 1] each."""
        start, end = (corner * self.spatial_scale - 0.5 * self.aligned for corner in corners(rois, axis))
        size = end - start
        return start, (size if self.aligned else jnp.maximum(size, 1))

    def bins(self, rois: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
        """Where the bins start, [num_rois, bins], and how long those of a region are, [num_rois, 1], in pixels."""
        start, size = self.extent(rois, axis)
        length = size / self.output_size[axis]
        return start + jnp.arange(self.output_size[axis], dtype=start.dtype) * length, length

    def num_points(self, rois: jax.Array, axis: int) -> jax.Array:
        """How many points a bin has along an axis: [num_rois, 1], whole."""
        _, size = self.extent(rois, axis)
        if self.sampling_ratio > 0:
            return jnp.full_like(size, self.sampling_ratio)
        return jnp.maximum(-floor_divide(-size, self.output_size[axis]), 0)

    def points(self, rois: jax.Array, axis: int) -> jax.Array:
        """Coordinates of the points of a fixed sampling_ratio: [num_rois, bins, sampling_ratio]."""
        low, length = self.bins(rois, axis)
        number = jnp.arange(self.sampling_ratio, dtype=low.dtype)
        return settled(low[..., None] + (number + 0.5) * length[..., None] / self.sampling_ratio)

    def axes(self, rois: jax.Array, map_size: Pair) -> tuple[Samples, Samples]:
        """The points of all bins, for maps of that size."""
        return self._axis(rois, 0, map_size[0]), self._axis(rois, 1, map_size[1])

    def _axis(self, rois: jax.Array, axis: int, pixels: int) -> Samples:
        low, length = self.bins(rois, axis)
        num = self.num_points(rois, axis)
        if self.sampling_ratio > 0:
            first, last = jnp.zeros_like(low), jnp.broadcast_to(num, low.shape)
        else:
            # Points outside the map are left out here where they are many, exactly where they are few: in `tap`.
            step = jnp.maximum(length / jnp.maximum(num, 1), 1e-6)
            first = jnp.clip(jnp.floor((-1 - low) / step - 0.5), 0, num)
            last = jnp.clip(jnp.ceil((pixels - low) / step + 0.5), first, num)
        return Samples(low, length, num, first, last, pixels)


def settled(coordinates: jax.Array) -> jax.Array:
    """Coordinates that are computed once.

    XLA may compute them anew for their pixels and for their shares of it, each time rounded otherwise; then a point at
    1.9999 has the share of one at 2.
    """
    return lax.optimization_barrier(coordinates)


def corners(rois: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Start and end of the regions along height (0) or width (1), [num_rois, 1] each."""
    return rois[:, 2 - axis, None], rois[:, 4 - axis, None]


def whole_pixels(rois: jax.Array, axis: int, spatial_scale: float) -> tuple[jax.Array, jax.Array]:
    """Start and size on the map of the pixels of the image that regions touch, as the authors of R-FCN have it."""
    start, end = map(round_half_away, corners(rois, axis))
    start = start * spatial_scale
    return start, jnp.maximum((end + 1) * spatial_scale - start, 0.1)


def round_half_away(value: jax.Array) -> jax.Array:
    """To the nearest integer, halves away from zero, as C does; `jnp.round` takes halves to even integers."""
    return jnp.sign(value) * jnp.floor(jnp.abs(value) + 0.5)


def floor_divide(value: jax.Array, divisor: int) -> jax.Array:
    """floor(value / divisor), exact although XLA multiplies by the rounded reciprocal of a constant."""
    quotient = jnp.floor(value / divisor)
    quotient = jnp.where(quotient * divisor > value, quotient - 1, quotient)
    return jnp.where((quotient + 1) * divisor <= value, quotient + 1, quotient)
