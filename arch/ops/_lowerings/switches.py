"""Max pooling with switches, the positions of the maxima, and the two linear maps that they make.

`Pick` takes from each window the value at its switch, `Place` brings one back there; each is the transpose of the
other. Both compare: a pixel of the map knows which windows meet it, and takes part in those whose switch names it. A
scatter would, on a CPU, go value by value.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arch.ops._lowerings.geometry import Geometry, Pair
from arch.ops._lowerings.shifts import sum_into_inputs, windows


def largest(x: jax.Array, geometry: Geometry) -> tuple[jax.Array, jax.Array]:
    """The maximum of each window and its position, row * width + column: the first of equals, the last not a number.

    A window of -inf alone has its first pixel.
    """
    width = geometry.input_size[1]
    origins, firsts = _origins(geometry)
    best = jnp.full((), -jnp.inf, x.dtype)
    distance = jnp.asarray(firsts - origins)  # from the first tap, which may be in the padding
    for (row, column), window in windows(x, geometry, -jnp.inf):
        wins = (window > best) | jnp.isnan(window)
        best = jnp.where(wins, window, best)
        distance = jnp.where(wins, np.int32(row * width + column), distance)
    return best, distance + jnp.asarray(origins)


@dataclasses.dataclass(frozen=True)
class Pick:
    """The value at the switch of each window, 0 where that is not a pixel of the window."""

    geometry: Geometry

    def __call__(self, x: jax.Array, switches: jax.Array) -> jax.Array:
        """[batch, height, width, channels] -> [batch, out_height, out_width, channels], the shape of the switches."""
        distances = lax.optimization_barrier(_distances(switches, self.geometry))
        total = jnp.zeros((), x.dtype)
        for tap, window in windows(x, self.geometry):
            total = total + jnp.where(distances == _distance(tap, self.geometry), window, jnp.zeros((), x.dtype))
        return total

    def transpose(self) -> "Place":
        """Brings each value back."""
        return Place(self.geometry)


@dataclasses.dataclass(frozen=True)
class Place:
    """For each pixel the sum of the values of the windows that meet it and whose switch names it."""

    geometry: Geometry

    def __call__(self, values: jax.Array, switches: jax.Array) -> jax.Array:
        """[batch, out_height, out_width, channels], and switches of that shape -> [batch, height, width, channels]."""

        def term(tap: Pair, pixels: jax.Array, distances: jax.Array) -> jax.Array:
            pixels = pixels.astype(jnp.promote_types(pixels.dtype, jnp.float32))
            return jnp.where(distances == _distance(tap, self.geometry), pixels, jnp.zeros((), pixels.dtype))

        # Padding has distance 0 and value 0.
        out = sum_into_inputs([values, _distances(switches, self.geometry)], self.geometry, term)
        return out.astype(values.dtype)

    def transpose(self) -> Pick:
        """Takes each value from where it was brought."""
        return Pick(self.geometry)


def _distances(switches: jax.Array, geometry: Geometry) -> jax.Array:
    """Of each switch from the first tap of its window, as positions count."""
    origins, _ = _origins(geometry)
    return switches - jnp.asarray(origins, switches.dtype)


def _distance(tap: Pair, geometry: Geometry) -> int:
    """Of a tap from the first, as positions count.

    Two taps may be equally far where a window is wider than the map; then at most one of them is in the map, and a tap
    in the padding takes no part.
    """
    return tap[0] * geometry.input_size[1] + tap[1]


def _origins(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """The position of the first tap of each window, were the map not to end, and that of the first in the map."""
    rows, columns = (
        np.arange(size, dtype=np.int32) * stride - before
        for size, stride, (before, _) in zip(geometry.output_size, geometry.strides, geometry.padding, strict=True)
    )
    width = geometry.input_size[1]
    origins = rows[:, None, None] * width + columns[:, None]
    return origins, np.maximum(rows, 0)[:, None, None] * width + np.maximum(columns, 0)[:, None]
