"""The units of the ShuffleNet family."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.errors import unknown_name
from arch.ops.channel import channel_shuffle, channel_unshuffle
from arch.ops.conv import symmetric_padding
from arch.ops.pooling import avg_pool

SHUFFLES_V1 = ("paper", "megvii")
SHUFFLES = ("before", "after")

# What the convolved branch of a v2 unit is made of, in order; the last layer, `expand`, has its output channels.
BRANCHES = {
    "bottleneck": ("reduce", "depthwise", "expand"),
    "star": ("first_depthwise", "reduce", "depthwise", "expand"),
    "xception": ("depthwise1", "pointwise1", "depthwise2", "pointwise2", "depthwise3", "expand"),
}


class ShuffleUnitV1(nn.Module):
    """The unit of ShuffleNet v1 (arXiv:1707.01083), figure 2 (b) and (c).

    1x1 in groups, channel shuffle, depthwise 3x3, 1x1 in groups. At stride 1 the input is added; at stride 2 the input,
    average pooled, is joined in front. No activation follows the depthwise convolution, and the last one follows the
    addition. One group is not shuffled.

    The "paper" shuffles between the first two convolutions, by `channel_shuffle`; the authors' code ("megvii") does it
    after the depthwise convolution, by `channel_unshuffle`. Of the same weights the two make other functions.

    Attributes:
        features: output channels, of which at stride 2 the input's are the first.
        bottleneck_features: channels of the depthwise convolution.
        strides: of the depthwise convolution and of the pool, in pixels.
        groups: that are shuffled; the convolutions have as many.
        reduce_groups: of the first 1x1 convolution; None takes `groups`.
        expand_groups: of the second 1x1 convolution; None takes `groups`.
        join: the input is joined, not added; None is `strides` above 1.
        shuffle: "paper" or "megvii".
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    bottleneck_features: int
    strides: int
    groups: int
    shuffle: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    reduce_groups: int | None = None
    expand_groups: int | None = None
    join: bool | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: an unknown shuffle; features that do not fit the input's; whatever the convolutions refuse.
        """
        if self.shuffle not in SHUFFLES_V1:
            raise unknown_name("ShuffleUnitV1: shuffle", self.shuffle, SHUFFLES_V1)
        join = self.strides > 1 if self.join is None else self.join
        shortcut, channels = x, x.shape[-1]
        if self.features <= channels if join else self.features != channels:
            raise ValueError(
                f"ShuffleUnitV1: features={self.features} must {'exceed' if join else 'equal'} channels={channels}, "
                f"which are {'joined' if join else 'added'}; change the stage's features"
            )
        x = self.conv(
            features=self.bottleneck_features,
            kernel_size=(1, 1),
            feature_group_count=self.reduce_groups or self.groups,
            name="reduce",
        )(x)
        x = self.act(self.norm(name="reduce_norm")(x))
        if self.shuffle == "paper":
            x = channel_shuffle(x, self.groups)
        x = self.conv(
            features=self.bottleneck_features,
            kernel_size=(3, 3),
            strides=(self.strides, self.strides),
            padding=symmetric_padding((3, 3)),
            feature_group_count=self.bottleneck_features,
            name="depthwise",
        )(x)
        x = self.norm(name="depthwise_norm")(x)
        if self.shuffle == "megvii":
            x = channel_unshuffle(x, self.groups)
        x = self.conv(
            features=self.features - channels if join else self.features,
            kernel_size=(1, 1),
            feature_group_count=self.expand_groups or self.groups,
            name="expand",
        )(x)
        x = self.norm(name="expand_norm")(x)
        if not join:
            return self.act(shortcut + x)
        if self.strides > 1:
            shortcut = avg_pool(shortcut, (3, 3), (self.strides,) * 2, symmetric_padding((3, 3)), count_padding=True)
        return self.act(jnp.concatenate([shortcut, x], axis=-1))


class ShuffleUnitV2(nn.Module):
    """The unit of ShuffleNet v2 (arXiv:1807.11164), figure 3 (c) and (d), and those of its variants.

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
        split: the input is split, as at stride 1; else both branches see all of it, as at stride 2. None is stride 1.
        branch: the convolved branch. "bottleneck" is as above; "star" (v2*, section 4) has a further depthwise
            convolution in front, of stride 1; "xception" (v2+) is three times depthwise, 1x1, of which the first has
            the stride.
        kernel_size: of the depthwise convolutions, in taps; odd.
        gate: makes what the convolved branch goes through at its end, a function of x alone, from its name; None leaves
            it out.
        residual: the branch's input is added to its output, where the channels are split; the branch's last
            activation follows the addition, and the gate precedes it.
    """

    features: int
    strides: int
    shuffle: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    shortcut_features: int | None = None
    split: bool | None = None
    branch: str = "bottleneck"
    kernel_size: int = 3
    gate: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        if self.shuffle not in SHUFFLES:
            raise unknown_name("ShuffleUnitV2: shuffle", self.shuffle, SHUFFLES)
        if self.branch not in BRANCHES:
            raise unknown_name("ShuffleUnitV2: branch", self.branch, BRANCHES)
        channels = x.shape[-1]
        half = self.features // 2
        split = self.strides == 1 if self.split is None else self.split
        if split:
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
            shortcut = self._depthwise(x, "shortcut_depthwise", self.strides)
            shortcut = self._pointwise(shortcut, shortcut_features, "shortcut_pointwise")
        x = self._convolve(x, BRANCHES[self.branch], branch_features, residual=self.residual and split)
        x = jnp.concatenate([shortcut, x], axis=-1)
        return channel_shuffle(x, 2) if self.shuffle == "after" else x

    def _convolve(self, x: jax.Array, layers: Sequence[str], features: int, residual: bool) -> jax.Array:
        """The convolved branch."""
        identity = x
        for layer in layers[:-1]:
            if "depthwise" in layer:
                strides = self.strides if layer in ("depthwise", "depthwise1") else 1
                x = self._depthwise(x, f"branch_{layer}", strides)
            else:
                x = self._pointwise(x, self.features // 2, f"branch_{layer}")
        x = self._normalized_pointwise(x, features, f"branch_{layers[-1]}")
        x = x if residual else self.act(x)
        if self.gate is not None:
            x = self.gate(name="branch_gate")(x)
        return self.act(identity + x) if residual else x

    def _pointwise(self, x: jax.Array, features: int, name: str) -> jax.Array:
        return self.act(self._normalized_pointwise(x, features, name))

    def _normalized_pointwise(self, x: jax.Array, features: int, name: str) -> jax.Array:
        return self.norm(name=f"{name}_norm")(self.conv(features=features, kernel_size=(1, 1), name=name)(x))

    def _depthwise(self, x: jax.Array, name: str, strides: int) -> jax.Array:
        kernel_size = (self.kernel_size, self.kernel_size)
        layer: dict[str, Any] = {
            "features": x.shape[-1],
            "kernel_size": kernel_size,
            "strides": (strides, strides),
            "padding": symmetric_padding(kernel_size),
            "feature_group_count": x.shape[-1],
        }
        return self.norm(name=f"{name}_norm")(self.conv(**layer, name=name)(x))
