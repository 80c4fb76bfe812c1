"""The unit of the second ResNet."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.blocks.residual import split_stride, zero_pad_shortcut
from arch.errors import unknown_name
from arch.ops.conv import symmetric_padding

SHORTCUTS = ("projection", "zero_pad")


class PreactivationUnit(nn.Module):
    """Convolutions, each behind a normalization and an activation, and a shortcut (arXiv:1603.05027), figure 1 (b).

    Nothing follows the addition, so that the input passes through all units of one shape untouched. Where the shape
    changes, the shortcut is of what the first normalization and activation put out.

    Attributes:
        features: output channels.
        bottleneck_features: channels of the 3x3 convolution between two 1x1 ones; None is two 3x3 ones.
        strides: of one convolution and of the shortcut, in pixels.
        stride_at: "first", the 1x1 convolution that narrows, or "second", the 3x3 one; of two 3x3 convolutions it is
            always the first.
        shortcut: where the shape changes, "projection" is a 1x1 convolution alone, "zero_pad" every strides-th pixel,
            with channels of zeros behind those that there are.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    bottleneck_features: int | None
    strides: int
    stride_at: str
    shortcut: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: an unknown stride_at; an unknown shortcut, or one that does not fit.
        """
        if self.shortcut not in SHORTCUTS:
            raise unknown_name("PreactivationUnit: shortcut", self.shortcut, SHORTCUTS)
        shortcut, changes = x, self.strides != 1 or x.shape[-1] != self.features
        for number, (features, kernel_size, strides) in enumerate(self._convolutions(), start=1):
            x = self.act(self.norm(name=f"norm{number}")(x))
            if number == 1 and changes:
                shortcut = self._shortcut(x)
            x = self.conv(
                features=features,
                kernel_size=(kernel_size, kernel_size),
                strides=(strides, strides),
                padding=symmetric_padding((kernel_size, kernel_size)),
                name=f"conv{number}",
            )(x)
        return shortcut + x

    def _shortcut(self, x: jax.Array) -> jax.Array:
        if self.shortcut == "zero_pad":
            return zero_pad_shortcut(x, self.features, self.strides)
        strides = (self.strides, self.strides)
        return self.conv(features=self.features, kernel_size=(1, 1), strides=strides, name="shortcut_conv")(x)

    def _convolutions(self) -> list[tuple[int, int, int]]:
        """Features, kernel size and strides of each."""
        first, second = split_stride("PreactivationUnit", self.strides, self.stride_at)
        if self.bottleneck_features is None:
            return [(self.features, 3, self.strides), (self.features, 3, 1)]
        return [
            (self.bottleneck_features, 1, first),
            (self.bottleneck_features, 3, second),
            (self.features, 1, 1),
        ]
