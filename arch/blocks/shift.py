"""Units that move channels over the map in place of spatial convolution: of ShiftNet, ShiftResNet and AddressNet."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.ops.channel import channel_shift
from arch.ops.conv import symmetric_padding
from arch.ops.pooling import avg_pool
from arch.ops.shift import address_shift, shortcut_shift, spatial_shift


class ShiftUnit(nn.Module):
    """Conv-shift-conv with normalizations and activations before the convolutions: the unit of ShiftNet.

    Normalization, activation, 1x1 convolution that widens, shift, normalization, activation, 1x1 convolution. At stride
    1, where the channels stay, the input is added. A unit that changes the shape either sets what it learns beside the
    input (`concatenate`), averaged 3x3 at stride 2, or is without a shortcut.

    Paper: Wu et al., Shift (arXiv:1711.08141), section 3, its conv-shift-conv module.

    Attributes:
        features: output channels.
        strides: of the last convolution, in pixels: 1 or 2.
        expand_ratio: channels that are shifted, as a multiple of those that the unit learns.
        kernel_size: of the shift, in taps; odd.
        concatenate: the shortcut of a unit that changes the shape; it leaves features - channels to be learned.
        assignment: of channels to taps, as in `spatial_shift`.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    expand_ratio: float
    kernel_size: int
    concatenate: bool
    assignment: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: nothing to learn beside the input; fewer shifted channels than taps; an unknown assignment.
        """
        shortcut, changes = x, self.strides != 1 or x.shape[-1] != self.features
        learned = self.features - x.shape[-1] if changes and self.concatenate else self.features
        if learned < 1:
            raise ValueError(
                f"ShiftUnit: features={self.features} must exceed channels={x.shape[-1]}, which are kept; widen the "
                "stage, or set concatenate=False"
            )
        x = self.act(self.norm(name="norm1")(x))
        x = self.conv(features=round(self.expand_ratio * learned), kernel_size=(1, 1), name="conv1")(x)
        x = spatial_shift(x, self.kernel_size, assignment=self.assignment)
        x = self.act(self.norm(name="norm2")(x))
        strides = (self.strides, self.strides)
        x = self.conv(features=learned, kernel_size=(1, 1), strides=strides, name="conv2")(x)
        if not changes:
            return shortcut + x
        if not self.concatenate:
            return x
        if self.strides != 1:
            shortcut = avg_pool(shortcut, (3, 3), strides, symmetric_padding((3, 3)), count_padding=True)
        return jnp.concatenate([x, shortcut], axis=-1)


class ShiftResidualUnit(nn.Module):
    """1x1 that widens, shift, 1x1, and a shortcut: the unit of ShiftResNet, in place of two 3x3 convolutions.

    The shortcut is the input or, where the shape changes, a 1x1 convolution with its normalization (option B).

    Paper: Wu et al., Shift (arXiv:1711.08141), section 4; the order of its layers is that of the authors' code.

    Attributes:
        features: output channels.
        strides: of the second convolution and of the shortcut, in pixels.
        expand_ratio: channels that are shifted, as a multiple of features.
        act_after_addition: the last activation follows the addition, as in ResNet, not the last normalization.
        assignment: of channels to taps, as in `spatial_shift`.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    strides: int
    expand_ratio: float
    act_after_addition: bool
    assignment: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height / strides, width / strides, features].

        Raises:
            ValueError: fewer shifted channels than the 9 taps; an unknown assignment.
        """
        shortcut, strides = x, (self.strides, self.strides)
        if self.strides != 1 or x.shape[-1] != self.features:
            shortcut = self.conv(features=self.features, kernel_size=(1, 1), strides=strides, name="shortcut_conv")(x)
            shortcut = self.norm(name="shortcut_norm")(shortcut)
        # int, not round: the authors' way with ratios that leave a fraction of a channel
        x = self.conv(features=int(self.expand_ratio * self.features), kernel_size=(1, 1), name="conv1")(x)
        x = self.act(self.norm(name="norm1")(x))
        x = spatial_shift(x, 3, assignment=self.assignment)
        x = self.conv(features=self.features, kernel_size=(1, 1), strides=strides, name="conv2")(x)
        x = self.norm(name="norm2")(x)
        return self.act(shortcut + x) if self.act_after_addition else shortcut + self.act(x)


class AddressUnit(nn.Module):
    """Grouped 1x1, channel shift, address shift, grouped 1x1, and a shortcut shift: the unit of AddressNet.

    New features are set behind the last features - new_features channels of the input: a window that slides over
    memory, where nothing is added. At stride 2 the input is averaged 3x3 before. Half a group of channels moves to the
    next group, and a quarter of the channels each to the left, the right, up and down.

    Paper: Zhong et al., Shift-based Primitives (arXiv:1809.08458), section 3; see `AddressNet` for what it leaves open.

    Attributes:
        features: output channels.
        new_features: those of them that the unit learns.
        strides: of the average, in pixels: 1 or 2.
        expand_ratio: channels between the two convolutions, as a multiple of features.
        groups: of the convolutions; a divisor of the input channels, of new_features and of the channels between.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    new_features: int
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
            ValueError: more channels to keep than there are; groups that do not divide the channels.
        """
        kept = self.features - self.new_features
        if not 0 <= kept <= x.shape[-1]:
            raise ValueError(
                f"AddressUnit: features={self.features} less new_features={self.new_features} must be in 0, ..., "
                f"channels={x.shape[-1]}, which are kept; change new_features"
            )
        if self.strides != 1:
            x = avg_pool(x, (3, 3), (self.strides, self.strides), symmetric_padding((3, 3)), count_padding=True)
        new = self._pointwise(x, round(self.expand_ratio * self.features), "conv1")
        new = address_shift(channel_shift(new, new.shape[-1] // (2 * self.groups)))
        new = self._pointwise(new, self.new_features, "conv2")
        return shortcut_shift(x[..., x.shape[-1] - kept :], new)

    def _pointwise(self, x: jax.Array, features: int, name: str) -> jax.Array:
        x = self.conv(features=features, kernel_size=(1, 1), feature_group_count=self.groups, name=name)(x)
        return self.act(self.norm(name=name.replace("conv", "norm"))(x))
