"""Pairs of grouped convolutions whose groups cross, so that the two together connect all channels."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from arch.ops.channel import channel_shuffle, channel_unshuffle
from arch.ops.conv import Conv
from arch.ops.conv2d import Padding


class IGC(nn.Module):
    """An interleaved group convolution: groups in space, then groups across them; nothing between the two.

    With L = num_primary_groups and features = L * M: a k x k convolution in L groups of M features, the channels
    interleaved, a 1x1 convolution in M groups of one feature of each of the L, the channels put back. [batch, height,
    width, in_features] becomes [batch, out_height, out_width, features]. Every output sees every input, along exactly
    one path: where no bias is in the first, it is the dense convolution

        K[i, j, c, l' * M + m] = primary[i, j, c mod N, l * M + m] * secondary[0, 0, l, m * L + l'],

    N = in_features / L and l = c div N. Of all the widths that a budget of parameters allows, L = M * k^2 gives the
    largest. The norm and the activation that follow the pair are the caller's.

    Paper: Zhang et al., IGCV1 (arXiv:1707.02725), section 3.1.
    Parameters: `primary/kernel` [kernel_height, kernel_width, in_features / L, features], `secondary/kernel` [1, 1, L,
        features], and what biases `conv` has.
    MACs: out_height * out_width * (kernel_height * kernel_width * in_features * M + features * L); with as many
        features as before out_height * out_width * (L * M^2 * k^2 + M * L^2).

    Attributes:
        features: output channels.
        num_primary_groups: L, groups of the first convolution; those of the second are features / L.
        kernel_size: height and width of the first kernel, in taps.
        strides: step between its windows, in pixels.
        padding: of the first convolution, as in `Conv`.
        conv: makes both convolutions from their fields; bind here what they share: `functools.partial(Conv,
            use_bias=False)`.
    """

    features: int
    num_primary_groups: int
    kernel_size: int | Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features].

        Raises:
            ValueError: num_primary_groups that does not divide in_features and features.
        """
        groups = self.num_primary_groups
        if groups < 1 or x.shape[-1] % groups or self.features % groups:
            raise ValueError(
                f"IGC: num_primary_groups={groups} must divide in_features={x.shape[-1]} and features={self.features}; "
                "choose a divisor of both"
            )
        x = self.conv(
            features=self.features,
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            feature_group_count=groups,
            name="primary",
        )(x)
        x = self.conv(
            features=self.features,
            kernel_size=(1, 1),
            feature_group_count=self.features // groups,
            name="secondary",
        )(channel_shuffle(x, groups))
        return channel_unshuffle(x, groups)


class ChannelLocalConv(nn.Module):
    """A channel local convolution block: an interlaced grouped k x k convolution, then a grouped 1x1 one.

    With C = in_features, g1 = num_spatial_groups, g2 = num_pointwise_groups: output c of the first, of C, belongs to
    group c mod g1; the second takes C / g2 neighbours to features / g2 outputs. [batch, height, width, C] becomes
    [batch, out_height, out_width, features]. Every output sees every input if and only if C / g2 >= g1: only then has
    each group of the second a member of every group of the first. A block that breaks this rule is refused.

    Which inputs a group of the first reads is a matter of two readings: in the authors' code it is C / g1 neighbours
    (the convolution is a contiguous one, whose outputs are interlaced), else they too are those with c mod g1 equal.
    The norm and the activation that follow the block are the caller's; clcNet has a norm between the two, and no
    activation.

    Paper: Zhang, clcNet (arXiv:1712.06145), section 3.
    Parameters: `spatial/kernel` [kernel_height, kernel_width, C / g1, C], `pointwise/kernel` [1, 1, C / g2, features],
        those of the norm `spatial_norm`, and what biases `conv` has.
    MACs: out_height * out_width * (kernel_height * kernel_width * C^2 / g1 + C * features / g2).

    Attributes:
        features: output channels.
        num_spatial_groups: g1, groups of the first convolution; clcNet takes in_features / 2.
        num_pointwise_groups: g2, groups of the second; clcNet takes 2.
        kernel_size: height and width of the first kernel, in taps.
        strides: step between its windows, in pixels.
        padding: of the first convolution, as in `Conv`.
        interlaced_inputs: the inputs of the first are grouped like its outputs; False is the authors' code.
        conv: makes both convolutions from their fields; bind here what they share: `functools.partial(Conv,
            use_bias=False)`.
        norm: makes the normalization between them, a function of x alone, from its name; None leaves it out.
    """

    features: int
    num_spatial_groups: int
    num_pointwise_groups: int
    kernel_size: int | Sequence[int] = (3, 3)
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    interlaced_inputs: bool = False
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, in_features] to [batch, out_height, out_width, features].

        Raises:
            ValueError: groups that do not divide the channels; groups through which outputs see only some inputs.
        """
        self._check_groups(x.shape[-1])
        if self.interlaced_inputs:
            x = channel_unshuffle(x, self.num_spatial_groups)
        x = self.conv(
            features=x.shape[-1],
            kernel_size=self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            feature_group_count=self.num_spatial_groups,
            name="spatial",
        )(x)
        if self.norm is not None:
            x = self.norm(name="spatial_norm")(x)
        return self.conv(
            features=self.features,
            kernel_size=(1, 1),
            feature_group_count=self.num_pointwise_groups,
            name="pointwise",
        )(channel_shuffle(x, self.num_spatial_groups))

    def _check_groups(self, channels: int) -> None:
        spatial, pointwise = self.num_spatial_groups, self.num_pointwise_groups
        if spatial < 1 or channels % spatial:
            raise ValueError(
                f"ChannelLocalConv: num_spatial_groups={spatial} must divide in_features={channels}; choose a divisor"
            )
        if pointwise < 1 or channels % pointwise or self.features % pointwise:
            raise ValueError(
                f"ChannelLocalConv: num_pointwise_groups={pointwise} must divide in_features={channels} and "
                f"features={self.features}; choose a divisor of both"
            )
        if channels // pointwise < spatial:
            raise ValueError(
                f"ChannelLocalConv: num_spatial_groups={spatial} must be at most in_features / num_pointwise_groups="
                f"{channels // pointwise}, or outputs see only some inputs; choose fewer groups"
            )
