"""The sum of each window of a map: first along the rows, then along the columns."""

import dataclasses

import jax

from arch.ops._lowerings.geometry import Geometry
from arch.ops._lowerings.shifts import sum_into_inputs, windows


@dataclasses.dataclass(frozen=True)
class WindowSum:
    """out[i, j, c] = the sum over the pixels of window (i, j) of x, 0 outside; its transpose is `WindowSpread`.

    Attributes:
        geometry: of the windows; without groups.
    """

    geometry: Geometry

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, height, width, channels] to [batch, out_height, out_width, channels]."""
        for geometry in _along_each_axis(self.geometry):
            x = sum(window for _, window in windows(x, geometry))
        return x

    def transpose(self) -> "WindowSpread":
        """Every pixel gets the sum over the windows that it is in."""
        return WindowSpread(self.geometry)


@dataclasses.dataclass(frozen=True)
class WindowSpread:
    """The transpose of `WindowSum`.

    Attributes:
        geometry: of the windows; without groups.
    """

    geometry: Geometry

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, out_height, out_width, channels] to [batch, height, width, channels]."""
        for geometry in reversed(_along_each_axis(self.geometry)):
            x = sum_into_inputs([x], geometry, lambda tap, pixels: pixels)
        return x

    def transpose(self) -> WindowSum:
        """The sum of each window."""
        return WindowSum(self.geometry)


def _along_each_axis(geometry: Geometry) -> tuple[Geometry, Geometry]:
    """Windows of one column, then of one row, whose sums of sums are those of the windows."""
    rows = dataclasses.replace(
        geometry,
        kernel_size=(geometry.kernel_size[0], 1),
        strides=(geometry.strides[0], 1),
        padding=(geometry.padding[0], (0, 0)),
    )
    columns = dataclasses.replace(
        geometry,
        input_size=(rows.output_size[0], geometry.input_size[1]),
        kernel_size=(1, geometry.kernel_size[1]),
        strides=(1, geometry.strides[1]),
        padding=((0, 0), geometry.padding[1]),
    )
    return rows, columns
