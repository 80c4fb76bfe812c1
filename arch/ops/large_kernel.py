"""The large-kernel block of the Global Convolutional Network."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from arch.ops.conv import Conv, symmetric_padding
from arch.ops.conv2d import as_pair


class LargeKernelConv(nn.Module):
    """A large kernel as the sum of two factorised ones: columns then rows, and rows then columns; nothing between.

    out = horizontal_L(vertical_L(x)) + vertical_R(horizontal_R(x)), with vertical kernels k x 1 and horizontal ones 1 x
    k, k odd (7 to 15 in the paper). [batch, height, width, in_features] becomes [batch, height, width, features]. Where
    the first two have no bias, it is the dense k x k convolution with K[i, j, c, o] = sum over m of vertical_L[i, 0, c,
    m] * horizontal_L[0, j, m, o] + horizontal_R[0, j, c, m] * vertical_R[i, 0, m, o], at the borders too: their biases
    would not be in the pixels that the second two pad.

    Paper: Peng et al., Large Kernel Matters (arXiv:1703.02719), section 3.1; with `middle_features` it is the large
        separable convolution of Light-Head R-CNN (arXiv:1711.07264), section 3.2.
    Parameters: `left_vertical/kernel` [k, 1, in_features, middle_features], `left_horizontal/kernel` [1, k,
        middle_features, features], `right_horizontal/kernel` [1, k, in_features, middle_features],
        `right_vertical/kernel` [k, 1, middle_features, features], and what biases `conv` has.
    MACs: height * width * (kernel_height + kernel_width) * middle_features * (in_features + features).

    Attributes:
        features: output channels; the classes in the paper.
        kernel_size: height and width, in taps, both odd.
        middle_features: channels between the two of a branch; None takes `features`.
        conv: makes the four convolutions from their fields.
    """

    features: int
    kernel_size: int | Sequence[int]
    middle_features: int | None = None
    conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, height, width, features].

        Raises:
            ValueError: an even kernel size, which has no centre.
        """
        height, width = as_pair("LargeKernelConv: kernel_size", self.kernel_size)
        if height % 2 == 0 or width % 2 == 0:
            raise ValueError(
                f"LargeKernelConv: kernel_size={(height, width)} must be odd, to have a centre; add or drop a tap"
            )
        middle = self.features if self.middle_features is None else self.middle_features
        left = self._factor(x, middle, (height, 1), "left_vertical")
        left = self._factor(left, self.features, (1, width), "left_horizontal")
        right = self._factor(x, middle, (1, width), "right_horizontal")
        right = self._factor(right, self.features, (height, 1), "right_vertical")
        return left + right

    def _factor(self, x: jax.Array, features: int, kernel_size: tuple[int, int], name: str) -> jax.Array:
        padding = symmetric_padding(kernel_size)
        return self.conv(features=features, kernel_size=kernel_size, padding=padding, name=name)(x)
