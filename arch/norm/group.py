"""Group normalization: statistics of one example, so that the batch size does not matter."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.ops.stochastic import Examples


class GroupNorm(nn.Module):
    """Group normalization (arXiv:1803.08494): mean and variance over height, width and the channels of a group.

    One group is layer normalization over the whole example, as many groups as channels is instance normalization.

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
        """Normalizes x [batch, ..., channels]; the same in training and evaluation, whatever `examples` weigh."""
        del train, examples
        dtype = self.dtype or x.dtype
        param_dtype = self.param_dtype or jnp.promote_types(dtype, jnp.float32)
        channels = x.shape[-1]
        num_groups = _resolve_num_groups(channels, self.num_groups, self.group_size)

        values = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        grouped = values.reshape(x.shape[0], -1, num_groups, channels // num_groups)
        # As in batch_moments: a constant shift changes neither the result nor its derivatives, and saves digits.
        shifted = grouped - lax.stop_gradient(grouped.mean(axis=(1, 3), keepdims=True))
        centred = shifted - shifted.mean(axis=(1, 3), keepdims=True)
        var = lax.square(centred).mean(axis=(1, 3), keepdims=True)
        y = (centred * lax.rsqrt(var + self.epsilon)).reshape(x.shape)
        if self.use_scale:
            y = y * self.param("scale", self.scale_init, (channels,), param_dtype)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (channels,), param_dtype)
        return y.astype(dtype)


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
