"""The units of the ShuffleNet family."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.channel import channel_shuffle, channel_unshuffle
from arch.ops.conv import symmetric_padding

SHUFFLES = ("before", "after")


class ShuffleUnitV2(nn.Module):
    """The unit of ShuffleNet v2 (arXiv:1807.11164), figure 3 (c) and (d).

    At stride 1 half of the channels passes untouched and half goes through 1x1, depthwise 3x3, 1x1; at stride 2 both
    branches see all channels, and the shortcut is a depthwise 3x3 and a 1x1. No activation follows the depthwise ones.

    The channels are shuffled "after" the concatenation (torchvision), or "before" a stride-1 unit splits them (the
    authors' code: even channels pass, odd ones are convolved). The two are networks of their own: where the branches of
    the unit before differ in width, other shares of them pass.

    Attributes:
        features: output channels; even at stride 1, where they equal the input channels.
        strides: 1 or 2.
        shortcut_features: output channels of the shortcut at stride 2; None is half of `features`.
        shuffle: "before" or "after".
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    shuffle: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    shortcut_features: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        if self.shuffle not in SHUFFLES:
            raise unknown_name("ShuffleUnitV2: shuffle", self.shuffle, SHUFFLES)
        channels = x.shape[-1]
        half = self.features // 2
        if self.strides == 1:
            if channels != self.features or channels % 2:
                raise ValueError(
                    f"ShuffleUnitV2: at stride 1 features={self.features} must equal channels={channels} and be even; "
                    "change the stage's features"
                )
            if self.shuffle == "before":
                x = channel_unshuffle(x, 2)
            shortcut, x = jnp.split(x, 2, axis=-1)
            branch_features = half
        else:
            shortcut_features = self.shortcut_features or half
            branch_features = self.features - shortcut_features
            if branch_features < 1:
                raise ValueError(
                    f"ShuffleUnitV2: features={self.features} must exceed shortcut_features={shortcut_features}; "
                    "widen the stage"
                )
            shortcut = self._depthwise(x, "shortcut_depthwise")
            shortcut = self._pointwise(shortcut, shortcut_features, "shortcut_pointwise")
        x = self._pointwise(x, half, "branch_reduce")
        x = self._depthwise(x, "branch_depthwise")
        x = self._pointwise(x, branch_features, "branch_expand")
        x = jnp.concatenate([shortcut, x], axis=-1)
        return channel_shuffle(x, 2) if self.shuffle == "after" else x

    def _pointwise(self, x: jax.Array, features: int, name: str) -> jax.Array:
        x = self.conv(features=features, kernel_size=(1, 1), name=name)(x)
        return self.act(self.norm(name=f"{name}_norm")(x))

    def _depthwise(self, x: jax.Array, name: str) -> jax.Array:
        layer: dict[str, Any] = {
            "features": x.shape[-1],
            "kernel_size": (3, 3),
            "strides": (self.strides, self.strides),
            "padding": symmetric_padding((3, 3)),
            "feature_group_count": x.shape[-1],
        }
        return self.norm(name=f"{name}_norm")(self.conv(**layer, name=name)(x))
