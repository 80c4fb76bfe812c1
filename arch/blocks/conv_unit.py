"""One convolution with what always follows it."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from arch.ops.conv import symmetric_padding
from arch.ops.conv2d import Padding, as_pair


class ConvUnit(nn.Module):
    """Convolution, normalization, activation.

    Attributes:
        features: output channels.
        strides: in pixels.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
        kernel_size: height and width, in taps; odd, where they say the padding; a number stands for both.
        kernel_dilation: distance between taps, in pixels.
        padding: of the convolution; None pads with half of the kernel on either side.
    """

    features: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    kernel_size: int | Sequence[int] = 3
    kernel_dilation: int = 1
    padding: Padding | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        window = as_pair("ConvUnit: kernel_size", self.kernel_size)
        padding = symmetric_padding(window, self.kernel_dilation) if self.padding is None else self.padding
        x = self.conv(
            features=self.features,
            kernel_size=window,
            strides=(self.strides, self.strides),
            padding=padding,
            kernel_dilation=(self.kernel_dilation, self.kernel_dilation),
            name="conv",
        )(x)
        return self.act(self.norm(name="norm")(x))
