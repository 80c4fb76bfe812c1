"""Units that learn what to add to their input."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.ops.conv import symmetric_padding


class BottleneckUnit(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, of ResNet (arXiv:1512.03385), figure 5, and of ResNeXt (arXiv:1611.05431), fig. 3c.

    The shortcut is the input or, where the shape changes, a 1x1 convolution with its normalization (option B). The last
    activation follows the addition.

    Differs from the paper: the 3x3 convolution carries the stride ("v1.5"), as in torchvision and in ResNeXt.

    Attributes:
        features: output channels.
        bottleneck_features: channels of the 3x3 convolution.
        strides: of the 3x3 convolution and of the shortcut, in pixels.
        groups: of the 3x3 convolution; a divisor of bottleneck_features.
        zero_init_residual: the scale of the last normalization starts at 0, so that the unit starts as its shortcut
            (Goyal et al., arXiv:1706.02677, section 5.1).
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name and fields.
        act: the activation.
    """

    features: int
    bottleneck_features: int
    strides: int
    groups: int
    zero_init_residual: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        strides = (self.strides, self.strides)
        shortcut = x
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = self.conv(features=self.features, kernel_size=(1, 1), strides=strides, name="shortcut_conv")(x)
            shortcut = self.norm(name="shortcut_norm")(shortcut)
        x = self.conv(features=self.bottleneck_features, kernel_size=(1, 1), name="conv1")(x)
        x = self.act(self.norm(name="norm1")(x))
        x = self.conv(
            features=self.bottleneck_features,
            kernel_size=(3, 3),
            strides=strides,
            padding=symmetric_padding((3, 3)),
            feature_group_count=self.groups,
            name="conv2",
        )(x)
        x = self.act(self.norm(name="norm2")(x))
        x = self.conv(features=self.features, kernel_size=(1, 1), name="conv3")(x)
        last_init = {"scale_init": nn.initializers.zeros_init()} if self.zero_init_residual else {}
        x = self.norm(name="norm3", **last_init)(x)
        return self.act(shortcut + x)
