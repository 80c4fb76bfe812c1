"""Group normalization: statistics of one example, so that the batch size does not matter."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.ops.stochastic import Examples


class GroupNorm(nn.Module):
    """Group normalization: mean and variance of each example over height, width and the channels of a group.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias, x and y [batch, ..., channels]. One group is layer
    normalization over the whole example, as many groups as channels is instance normalization.

    Paper: Wu and He, Group Normalization (arXiv:1803.08494), section 3.
    Parameters: scale [channels], bias [channels].
    MACs: 0, two products an element.

    Differs from flax.linen.GroupNorm: two passes for the variance; epsilon 1e-5 as in torch; a number of groups that is
    found where none is given.

    Attributes:
        num_groups: a divisor of the channels; None, with group_size None too: the largest divisor up to 32.
        group_size: channels a group, instead of num_groups.
        epsilon: added to the variance.
        use_bias: adds a learned bias a channel.
        use_scale: multiplies by a learned scale a channel.
        bias_init: initial bias.
        scale_init: initial scale.
        dtype: of the output; None takes that of x.
        param_dtype: of the parameters; None takes dtype, at least float32.
    """

    num_groups: int | None = None
    group_size: int | None = None
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer = nn.initializers.ones_init()
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Normalizes x [batch, ..., channels]; the same in training and evaluation, whatever `examples` weigh.

        Raises:
            ValueError: x without channels or of integers; groups that do not divide the channels.
        """
        del train, examples
        check_channels_last("GroupNorm", x)
        channels = x.shape[-1]
        num_groups = _resolve_num_groups(channels, self.num_groups, self.group_size)
        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        grouped = values.reshape(x.shape[0], -1, num_groups, channels // num_groups)
        y = standardize(grouped, (1, 3), self.epsilon).reshape(x.shape)
        return scale_and_shift(self, y, (channels,), x.dtype)


# As many groups as channels; torch's, too, with affine=True.
InstanceNorm = functools.partial(GroupNorm, group_size=1)


def standardize(x: jax.Array, axes: Sequence[int], epsilon: float) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon), with mean and biased variance over `axes`.

    Args:
        x: float32 or float64.
        axes: over which statistics are taken.
        epsilon: added to the variance.
    """
    # As in batch_moments: a constant shift changes neither the result nor its derivatives, and saves digits.
    shifted = x - lax.stop_gradient(x.mean(axes, keepdims=True))
    centred = shifted - shifted.mean(axes, keepdims=True)
    var = lax.square(centred).mean(axes, keepdims=True)
    return centred * lax.rsqrt(var + epsilon)


def scale_and_shift(layer: nn.Module, y: jax.Array, shape: Sequence[int], in_dtype: Dtype) -> jax.Array:
    """y * scale + bias with the layer's own parameters, as its fields ask, and in its dtype.

    Args:
        layer: has the fields use_scale, use_bias, scale_init, bias_init, dtype and param_dtype.
        y: [batch, ...], float32 or wider.
        shape: of the parameters.
        in_dtype: that of the layer's input, for a dtype of None.
    """
    dtype = layer.dtype or in_dtype
    param_dtype = layer.param_dtype or jnp.promote_types(dtype, jnp.float32)
    if layer.use_scale:
        y = y * layer.param("scale", layer.scale_init, shape, param_dtype)
    if layer.use_bias:
        y = y + layer.param("bias", layer.bias_init, shape, param_dtype)
    return y.astype(dtype)


def check_channels_last(owner: str, x: jax.Array) -> None:
    """Refuses what is not [batch, ..., channels], floating point."""
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{owner}: x={x.dtype}{list(x.shape)} must be floating point [batch, ..., channels]; convert it"
        )


def _resolve_num_groups(channels: int, num_groups: int | None, group_size: int | None) -> int:
    """The number of groups that the two fields ask for."""
    if num_groups is not None and group_size is not None:
        raise ValueError(f"GroupNorm: give num_groups={num_groups} or group_size={group_size}, not both; drop one")
    if num_groups is None and group_size is None:
        return max(divisor for divisor in range(1, min(32, channels) + 1) if channels % divisor == 0)
    name, value = ("num_groups", num_groups) if group_size is None else ("group_size", group_size)
    if value < 1 or channels % value:
        raise ValueError(f"GroupNorm: {name}={value} must divide channels={channels}; choose a divisor, or None")
    return num_groups if group_size is None else channels // group_size
