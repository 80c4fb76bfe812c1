"""The unit of MobileNet v2."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.ops.conv import symmetric_padding


class InvertedResidual(nn.Module):
    """1x1 that widens, depthwise 3x3, 1x1 that narrows, of MobileNet v2 (arXiv:1801.04381), section 3.3 and table 1.

    At stride 1, where the channels stay, the input is added after the last normalization, which no activation follows:
    the bottleneck is linear. At expand_ratio 1 there is no first convolution.

    Attributes:
        features: output channels.
        strides: of the depthwise convolution, in pixels.
        expand_ratio: channels of the depthwise convolution, as a multiple of the input's.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    expand_ratio: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: an expand_ratio that leaves no channel.
        """
        shortcut = x
        hidden = round(x.shape[-1] * self.expand_ratio)
        if hidden < 1:
            raise ValueError(
                f"InvertedResidual: expand_ratio={self.expand_ratio} must leave at least one of channels="
                f"{x.shape[-1]}; raise it"
            )
        if self.expand_ratio != 1:
            x = self.conv(features=hidden, kernel_size=(1, 1), name="expand")(x)
            x = self.act(self.norm(name="expand_norm")(x))
        x = self.conv(
            features=hidden,
            kernel_size=(3, 3),
            strides=(self.strides, self.strides),
            padding=symmetric_padding((3, 3)),
            feature_group_count=hidden,
            name="depthwise",
        )(x)
        x = self.act(self.norm(name="depthwise_norm")(x))
        x = self.conv(features=self.features, kernel_size=(1, 1), name="project")(x)
        x = self.norm(name="project_norm")(x)
        return shortcut + x if self.strides == 1 and shortcut.shape[-1] == self.features else x
