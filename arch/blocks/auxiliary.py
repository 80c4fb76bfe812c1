"""Auxiliary heads: logits from a map in the middle of a network, for its training alone."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Initializer

from arch.blocks.conv_unit import ConvUnit
from arch.ops.dtypes import Dtypes
from arch.ops.pooling import avg_pool, global_avg_pool
from arch.ops.stochastic import Dropout, Examples


class HiddenAuxiliaryHead(nn.Module):
    """Pooling, a 1x1 convolution, a linear layer, dropout, a linear layer: GoogLeNet (arXiv:1409.4842), section 5.

    The map is flattened channel by channel, as it lies in memory in torch and Caffe, so that their weights fit.

    Attributes:
        num_classes: outputs.
        features: of the 1x1 convolution.
        hidden_features: outputs of the first linear layer.
        pool: makes the map smaller, to 4x4 in the paper.
        dropout_rate: between the linear layers.
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
        kernel_init: initial values of the linear layers.
        hidden_bias_init: of the first one's bias.
        dtypes: of the network.
    """

    num_classes: int
    features: int
    hidden_features: int
    pool: Callable[[jax.Array], jax.Array]
    dropout_rate: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    kernel_init: Initializer
    hidden_bias_init: Initializer
    dtypes: Dtypes

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, num_classes], at least float32."""
        x = ConvUnit(self.features, 1, self.conv, self.norm, self.act, kernel_size=1, name="unit")(self.pool(x))
        x = jnp.moveaxis(x, 3, 1).reshape(x.shape[0], -1)
        x = nn.Dense(
            self.hidden_features,
            kernel_init=self.kernel_init,
            bias_init=self.hidden_bias_init,
            dtype=self.dtypes.compute,
            param_dtype=self.dtypes.param,
            name="hidden",
        )(x)
        x = Dropout(self.dropout_rate, name="dropout")(self.act(x), train=train, examples=examples)
        return nn.Dense(
            self.num_classes,
            kernel_init=self.kernel_init,
            dtype=self.dtypes.head,
            param_dtype=self.dtypes.param,
            name="classifier",
        )(x)


class ConvAuxiliaryHead(nn.Module):
    """Average pooling 5x5, a 1x1 and a larger convolution, a linear layer: Inception v3 (arXiv:1512.00567), where the
    larger is 5x5; NASNet and DARTS, where it is as large as the map, so that its kernel fits images of one size alone.

    Attributes:
        num_classes: outputs.
        features: of the two convolutions.
        padding: of the pooling and of the 5x5 convolution, "VALID" or "SAME".
        conv: makes a convolution from its fields.
        norm: makes a normalization, a function of x alone, from its name.
        act: the activation.
        conv_init: initial values of the larger convolution.
        kernel_init: of the linear layer.
        dtypes: of the network.
        strides: of the pooling, in pixels.
        whole_map: the larger convolution sees all of the map, without padding, and is not 5x5.
    """

    num_classes: int
    features: Sequence[int]
    padding: str
    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[jax.Array], jax.Array]]
    act: Callable[[jax.Array], jax.Array]
    conv_init: Initializer
    kernel_init: Initializer
    dtypes: Dtypes
    strides: int = 3
    whole_map: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to logits [batch, num_classes], at least float32."""
        first, second = self.features
        last_conv = functools.partial(self.conv, kernel_init=self.conv_init)
        x = avg_pool(x, (5, 5), (self.strides, self.strides), self.padding, count_padding=False)
        x = ConvUnit(first, 1, self.conv, self.norm, self.act, kernel_size=1, name="unit1")(x)
        window, padding = (x.shape[1:3], "VALID") if self.whole_map else (5, self.padding)
        x = ConvUnit(second, 1, last_conv, self.norm, self.act, kernel_size=window, padding=padding, name="unit2")(x)
        return nn.Dense(
            self.num_classes,
            kernel_init=self.kernel_init,
            dtype=self.dtypes.head,
            param_dtype=self.dtypes.param,
            name="classifier",
        )(global_avg_pool(x))
