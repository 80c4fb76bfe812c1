"""Units whose output is their input and something new beside it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.ops.conv import symmetric_padding
from arch.ops.pooling import avg_pool
from arch.ops.stochastic import Dropout, Examples


class DenseLayer(nn.Module):
    """The layer of DenseNet (arXiv:1608.06993), section 3: what it computes lies behind its input.

    Normalization, activation and a 3x3 convolution to growth_rate channels; with a bottleneck (DenseNet-B) these follow
    normalization, activation and a 1x1 convolution to bottleneck_ratio * growth_rate channels.

    Attributes:
        growth_rate: channels that are added.
        bottleneck_ratio: channels of the 1x1 convolution, as a multiple of growth_rate; None leaves it out.
        dropout_rate: of the values that are added, in [0, 1].
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    growth_rate: int
    bottleneck_ratio: int | None
    dropout_rate: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height, width, channels + growth_rate]."""
        new, place = x, 1
        if self.bottleneck_ratio is not None:
            new = self.act(self.norm(name="norm1")(new))
            new = self.conv(features=self.bottleneck_ratio * self.growth_rate, kernel_size=(1, 1), name="conv1")(new)
            place = 2
        new = self.act(self.norm(name=f"norm{place}")(new))
        new = self.conv(
            features=self.growth_rate, kernel_size=(3, 3), padding=symmetric_padding((3, 3)), name=f"conv{place}"
        )(new)
        new = Dropout(self.dropout_rate, name="dropout")(new, train=train, examples=examples)
        return jnp.concatenate([x, new], axis=-1)


class DenseTransition(nn.Module):
    """What lies between two blocks of DenseNet (arXiv:1608.06993), section 3: a 1x1 convolution and average pooling.

    Attributes:
        features: output channels.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    features: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height // 2, width // 2, features].

        Raises:
            ValueError: what `halve` refuses.
        """
        x = self.act(self.norm(name="norm")(x))
        return halve(self.conv(features=self.features, kernel_size=(1, 1), name="conv")(x), "DenseTransition")


class CondenseLayer(nn.Module):
    """The layer of CondenseNet (arXiv:1711.09224), figure 1: what it computes lies behind its input.

    A learned group convolution to bottleneck_ratio * growth_rate channels, normalization, activation, and a grouped 3x3
    convolution to growth_rate channels. The filters of the first are interleaved over its groups, so that each group of
    the second sees all groups of the first.

    Attributes:
        growth_rate: channels that are added.
        bottleneck_ratio: channels of the first convolution, as a multiple of growth_rate.
        num_groups: of the 3x3 convolution.
        dropout_rate: before the first convolution, in [0, 1].
        learned_conv: makes the first convolution from its features, norm and act: a `LearnedGroupConv` or an
            `IndexedGroupConv`.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
    """

    growth_rate: int
    bottleneck_ratio: int
    num_groups: int
    dropout_rate: float
    learned_conv: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Maps [batch, height, width, channels] to [batch, height, width, channels + growth_rate]."""

        def act_and_drop(x: jax.Array) -> jax.Array:
            return Dropout(self.dropout_rate, name="dropout")(self.act(x), train=train, examples=examples)

        new = self.learned_conv(
            features=self.bottleneck_ratio * self.growth_rate, norm=self.norm, act=act_and_drop, name="conv1"
        )(x)
        new = self.act(self.norm(name="norm2")(new))
        new = self.conv(
            features=self.growth_rate,
            kernel_size=(3, 3),
            padding=symmetric_padding((3, 3)),
            feature_group_count=self.num_groups,
            name="conv2",
        )(new)
        return jnp.concatenate([x, new], axis=-1)


class CondenseLinear(nn.Module):
    """A linear layer that learns which of its inputs it needs: a learned group convolution of one group, and a bias.

    Attributes:
        features: outputs.
        learned_conv: makes the convolution from its features: a `LearnedGroupConv` or an `IndexedGroupConv`.
        param_dtype: of the bias.
    """

    features: int
    learned_conv: Callable[..., nn.Module]
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, channels] to [batch, features]."""
        out = self.learned_conv(features=self.features, name="linear")(x[:, None, None])[:, 0, 0]
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype)
        return out + bias.astype(out.dtype)


def halve(x: jax.Array, owner: str) -> jax.Array:
    """The mean of each 2x2 pixels; a last odd row or column is left out.

    Raises:
        ValueError: a map of fewer than 2x2 pixels, of which nothing would be left; it names the owner.
    """
    if min(x.shape[1:3]) < 2:
        raise ValueError(
            f"{owner}: a map of {x.shape[1]}x{x.shape[2]} pixels must have 2x2 to be halved; take larger images, "
            "fewer stages or stem='small'"
        )
    return avg_pool(x, (2, 2), strides=(2, 2), padding="VALID", count_padding=True)
