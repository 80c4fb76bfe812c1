"""Group normalization: statistics of one example, so that the batch size does not matter."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

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

    Differs from flax.linen.GroupNorm: the variance of shifted values; epsilon 1e-5 as in torch; a number of groups that
    is found where none is given.

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
        num_groups = _resolve_num_groups(x.shape[-1], self.num_groups, self.group_size)
        scale, bias = affine(self, x.shape[-1:], x.dtype)
        return normalize_groups(x, scale, bias, num_groups, self.epsilon).astype(self.dtype or x.dtype)


# As many groups as channels; torch's, too, with affine=True.
InstanceNorm = functools.partial(GroupNorm, group_size=1)


def normalize_groups(
    x: jax.Array, scale: jax.Array, bias: jax.Array, num_groups: int, epsilon: float = 1e-5
) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, with mean and variance of each example and group of channels.

    Args:
        x: [batch, ..., channels], floating point.
        scale: [channels].
        bias: [channels].
        num_groups: a divisor of the channels.
        epsilon: added to the variance.

    Returns:
        The shape of x, float32 or wider.
    """
    values = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(x.shape[0], -1, x.shape[-1])
    return _normalize_groups(values, scale, bias, num_groups, epsilon).reshape(x.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _normalize_groups(x: jax.Array, scale: jax.Array, bias: jax.Array, num_groups: int, epsilon: float) -> jax.Array:
    """As `normalize_groups`, of x [batch, positions, channels].

    Its derivative is written out, because that of the formula takes twice as many passes over x.
    """
    moments = _group_moments(x, num_groups)
    return ((x - moments.shift) - moments.offset) * (lax.rsqrt(moments.var + epsilon) * scale) + bias


@_normalize_groups.defjvp
def _normalize_groups_jvp(num_groups: int, epsilon: float, primals: tuple, tangents: tuple) -> tuple:
    (x, scale, bias), (x_dot, scale_dot, bias_dot) = primals, tangents
    moments = _group_moments(x, num_groups)
    inverse_std = lax.rsqrt(moments.var + epsilon)
    unit = ((x - moments.shift) - moments.offset) * inverse_std
    mean_dot = _group_means(x_dot.sum(1), x.shape[1], num_groups)
    along_unit = _group_means((x_dot * unit).sum(1), x.shape[1], num_groups)
    # Grouped so that the transpose needs two sums over the positions, which the gradients of bias and scale need too.
    multiplier = scale * inverse_std
    y_dot = multiplier * x_dot + unit * (scale_dot - multiplier * along_unit) + (bias_dot - multiplier * mean_dot)
    return unit * scale + bias, y_dot


class _Moments(NamedTuple):
    """Statistics of the group that a channel is in, [batch, 1, channels]; the mean is shift + offset.

    As in `batch_moments`, no gradient goes through the shift, and the two say more than one number of their dtype can.
    """

    shift: jax.Array
    offset: jax.Array
    var: jax.Array


def _group_moments(x: jax.Array, num_groups: int) -> _Moments:
    """Of x [batch, positions, channels].

    Summed first for each channel, over positions: XLA's loops over the channels of a group inside a map are slow. A
    quarter of the positions gives the shift, so that (mean - shift)^2, which is subtracted, is at most three times the
    variance.
    """
    positions, sample = x.shape[1], x[:, ::4]
    shift = lax.stop_gradient(_group_means(sample.sum(1), sample.shape[1], num_groups))
    shifted = x - shift
    offset = _group_means(shifted.sum(1), positions, num_groups)
    squares = _group_means(lax.square(shifted).sum(1), positions, num_groups)
    return _Moments(shift, offset, jnp.maximum(squares - lax.square(offset), 0.0))


def _group_means(sums: jax.Array, positions: int, num_groups: int) -> jax.Array:
    """Of sums over positions [batch, channels], the means of the channels' groups [batch, 1, channels]."""
    batch, channels = sums.shape
    size = channels // num_groups
    means = sums.reshape(batch, num_groups, size).sum(2) / (positions * size)
    return jnp.repeat(means, size, axis=1)[:, None]


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
        layer: as in `affine`.
        y: [batch, ...], float32 or wider.
        shape: of the parameters.
        in_dtype: that of the layer's input, for a dtype of None.
    """
    scale, bias = affine(layer, shape, in_dtype)
    return (y * scale + bias).astype(layer.dtype or in_dtype)


def affine(layer: nn.Module, shape: Sequence[int], in_dtype: Dtype) -> tuple[jax.Array, jax.Array]:
    """The layer's own parameters `scale` and `bias`; ones and zeros for those that are switched off.

    Args:
        layer: has the fields use_scale, use_bias, scale_init, bias_init, dtype and param_dtype.
        shape: of the parameters.
        in_dtype: that of the layer's input, for a dtype of None.
    """
    dtype = layer.param_dtype or jnp.promote_types(layer.dtype or in_dtype, jnp.float32)
    scale = layer.param("scale", layer.scale_init, shape, dtype) if layer.use_scale else jnp.ones(shape, dtype)
    bias = layer.param("bias", layer.bias_init, shape, dtype) if layer.use_bias else jnp.zeros(shape, dtype)
    return scale, bias


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
