"""Units of grouped convolutions whose groups cross: of IGCV1, IGCV3 and clcNet."""

from collections.abc import Callable

import jax
from flax import linen as nn

from arch.ops.channel import channel_shuffle, channel_unshuffle
from arch.ops.conv import symmetric_padding
from arch.ops.interleaved_group_conv import IGC, ChannelLocalConv


class IGCUnit(nn.Module):
    """An interleaved group convolution, one normalization and one activation: the unit of IGCV1's plain networks.

    Paper: Zhang et al., IGCV1 (arXiv:1707.02725), section 3.1; nothing lies between the two convolutions of a pair.

    Attributes:
        features: output channels.
        num_primary_groups: L, groups of the 3x3 convolution; a divisor of the input channels and of features.
        strides: of the 3x3 convolution, in pixels.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    num_primary_groups: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        x = IGC(
            features=self.features,
            num_primary_groups=self.num_primary_groups,
            strides=self.strides,
            padding=symmetric_padding((3, 3)),
            conv=self.conv,
            name="conv",
        )(x)
        return self.act(self.norm(name="norm")(x))


class IGCResidualUnit(nn.Module):
    """Two interleaved group convolutions and a shortcut, of IGCV1's ImageNet networks.

    The shortcut is the input or, where the channels change, a 1x1 convolution in as many groups as the 3x3 ones, with
    its normalization. The last activation follows the addition. The groups of the shortcut do not cross: those of the
    two pairs do.

    Paper: Zhang et al., IGCV1 (arXiv:1707.02725), section 4; the shortcut is that of the authors' code.

    Attributes:
        features: output channels.
        num_primary_groups: L, groups of the 3x3 convolutions; a divisor of the input channels and of features.
        strides: of the first 3x3 convolution and of the shortcut, in pixels.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    num_primary_groups: int
    strides: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features]."""
        shortcut = x
        x = self._pair(x, self.strides, "igc1")
        x = self.act(self.norm(name="norm1")(x))
        x = self.norm(name="norm2")(self._pair(x, 1, "igc2"))
        if self.strides != 1 or shortcut.shape[-1] != self.features:
            shortcut = self.conv(
                features=self.features,
                kernel_size=(1, 1),
                strides=(self.strides, self.strides),
                feature_group_count=self.num_primary_groups,
                name="shortcut_conv",
            )(shortcut)
            shortcut = self.norm(name="shortcut_norm")(shortcut)
        return self.act(shortcut + x)

    def _pair(self, x: jax.Array, strides: int, name: str) -> jax.Array:
        return IGC(
            features=self.features,
            num_primary_groups=self.num_primary_groups,
            strides=strides,
            padding=symmetric_padding((3, 3)),
            conv=self.conv,
            name=name,
        )(x)


class InterleavedInvertedResidual(nn.Module):
    """Grouped 1x1 that widens, depthwise 3x3, grouped 1x1 that narrows: the unit of IGCV3.

    The channels are shuffled behind the first 1x1 convolution, so that each group of the second sees all of the
    first's, and put back behind the second. Only the depthwise convolution has an activation. At stride 1, where the
    channels stay, the input is added. Unlike MobileNet v2's unit it has its first convolution at expand_ratio 1, too.

    Paper: Sun et al., IGCV3 (arXiv:1806.00178), section 3; shuffles and activations are those of the authors' code.

    Attributes:
        features: output channels.
        strides: of the depthwise convolution, in pixels.
        expand_ratio: channels of the depthwise convolution, as a multiple of the input's.
        groups: of the 1x1 convolutions; a divisor of the input channels, of features and of the channels between.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    expand_ratio: float
    groups: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: groups that do not divide the channels before, between or behind the convolutions.
        """
        shortcut = x
        hidden = round(x.shape[-1] * self.expand_ratio)
        widths = (x.shape[-1], hidden, self.features)
        if self.groups < 1 or hidden < 1 or any(width % self.groups for width in widths):
            raise ValueError(
                f"InterleavedInvertedResidual: groups={self.groups} must divide the channels {widths} before, between "
                "and behind its convolutions, all above 0; change groups, features or expand_ratio"
            )
        x = self._pointwise(x, hidden, "expand")
        x = self.conv(
            features=hidden,
            kernel_size=(3, 3),
            strides=(self.strides, self.strides),
            padding=symmetric_padding((3, 3)),
            feature_group_count=hidden,
            name="depthwise",
        )(channel_shuffle(x, self.groups))
        x = self.act(self.norm(name="depthwise_norm")(x))
        x = channel_unshuffle(self._pointwise(x, self.features, "project"), self.groups)
        return shortcut + x if self.strides == 1 and shortcut.shape[-1] == self.features else x

    def _pointwise(self, x: jax.Array, features: int, name: str) -> jax.Array:
        x = self.conv(features=features, kernel_size=(1, 1), feature_group_count=self.groups, name=name)(x)
        return self.norm(name=f"{name}_norm")(x)


class ChannelLocalUnit(nn.Module):
    """A channel local convolution with a normalization between its two parts, another behind and an activation.

    Paper: Zhang, clcNet (arXiv:1712.06145), section 4; the normalizations are those of the author's code.

    Attributes:
        features: output channels.
        strides: of the 3x3 convolution, in pixels.
        spatial_group_features: channels of each group of the 3x3 convolution; a divisor of the input channels.
        num_pointwise_groups: groups of the 1x1 convolution.
        interlaced_inputs: as in `ChannelLocalConv`.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    spatial_group_features: int
    num_pointwise_groups: int
    interlaced_inputs: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: groups that do not divide the channels, or through which outputs see only some inputs.
        """
        channels = x.shape[-1]
        if self.spatial_group_features < 1 or channels % self.spatial_group_features:
            raise ValueError(
                f"ChannelLocalUnit: spatial_group_features={self.spatial_group_features} must divide channels="
                f"{channels}; choose a divisor"
            )
        x = ChannelLocalConv(
            features=self.features,
            num_spatial_groups=channels // self.spatial_group_features,
            num_pointwise_groups=self.num_pointwise_groups,
            strides=self.strides,
            padding=symmetric_padding((3, 3)),
            interlaced_inputs=self.interlaced_inputs,
            conv=self.conv,
            norm=self.norm,
            name="conv",
        )(x)
        return self.act(self.norm(name="norm")(x))
