"""Units of depthwise separable convolutions."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from arch.ops.conv import symmetric_padding
from arch.ops.pooling import max_pool


class SeparableUnit(nn.Module):
    """A separable convolution, normalization and activation: a layer of MobileNet v1 (arXiv:1704.04861), figure 3.

    Attributes:
        features: output channels.
        strides: of the depthwise convolution, in pixels.
        separable_conv: makes the convolution, with what lies between its two halves, from its features and strides.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    separable_conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        strides = (self.strides, self.strides)
        x = self.separable_conv(features=self.features, strides=strides, name="separable")(x)
        return self.act(self.norm(name="norm")(x))


class XceptionBlock(nn.Module):
    """Separable convolutions, each between an activation and a normalization, and a shortcut.

    Xception (arXiv:1610.02357), figure 5. Where the block has a stride, a max pool 3x3 ends its branch. The shortcut is
    the input or, where the shape changes, a 1x1 convolution with its normalization. No activation follows the addition.

    Attributes:
        features: output channels of each separable convolution; the last are the block's.
        strides: of the pool and of the shortcut, in pixels.
        first_act: an activation precedes the first convolution, too.
        separable_conv: makes a convolution, with what lies between its two halves, from its features.
        conv: makes the shortcut's convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: Sequence[int]
    strides: int
    first_act: bool
    separable_conv: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features[-1]]."""
        strides = (self.strides, self.strides)
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features[-1]:
            shortcut = self.conv(features=self.features[-1], kernel_size=(1, 1), strides=strides, name="shortcut_conv")
            shortcut = self.norm(name="shortcut_norm")(shortcut(x))
        for number, features in enumerate(self.features, start=1):
            if number > 1 or self.first_act:
                x = self.act(x)
            x = self.separable_conv(features=features, name=f"separable{number}")(x)
            x = self.norm(name=f"norm{number}")(x)
        if self.strides != 1:
            x = max_pool(x, (3, 3), strides=strides, padding=symmetric_padding((3, 3)))
        return shortcut + x
