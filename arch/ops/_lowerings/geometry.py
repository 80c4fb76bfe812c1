"""What a convolution is, but for its arrays."""

import dataclasses
from collections.abc import Sequence

import jax

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The static part of a convolution and of its two gradients; the same object describes all three.

    Attributes:
        input_size: height and width of the input, in pixels.
        kernel_size: taps along height and width.
        strides: step between windows, in pixels.
        padding: (before, after) along height and width, in pixels; negative ones crop.
        kernel_dilation: distance between taps, in pixels.
        groups: feature groups.
        implementation: "auto", "reference" or the name of a fast path.
        precision: of the products, as jax.lax takes it.
    """

    input_size: Pair
    kernel_size: Pair
    strides: Pair
    padding: tuple[Pair, Pair]
    kernel_dilation: Pair
    groups: int
    implementation: str = "auto"
    precision: jax.lax.PrecisionLike = None

    @property
    def output_size(self) -> Pair:
        """Height and width of the output, in pixels."""
        height, width = (
            max(0, (size + sum(pads) - dilation * (taps - 1) - 1) // stride + 1)
            for size, pads, dilation, taps, stride in zip(
                self.input_size, self.padding, self.kernel_dilation, self.kernel_size, self.strides, strict=True
            )
        )
        return height, width

    @property
    def is_empty(self) -> bool:
        """No pixel goes in or none comes out."""
        return 0 in self.input_size or 0 in self.output_size

    def input_shape(self, gradient: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """[batch, height, width, in_features] of the input, from the shapes of the output and the kernel."""
        return (gradient[0], *self.input_size, kernel[2] * self.groups)

    def output_shape(self, x: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """[batch, out_height, out_width, out_features] of the output, from the shapes of the input and the kernel."""
        return (x[0], *self.output_size, kernel[3])

    def kernel_shape(self, x: Sequence[int], gradient: Sequence[int]) -> tuple[int, ...]:
        """[taps, taps, in_features / groups, out_features] of the kernel, from the shapes of input and output."""
        return (*self.kernel_size, x[3] // self.groups, gradient[3])
