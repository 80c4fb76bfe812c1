"""Batch normalization: per replica, or with statistics over all devices of a mapped axis."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from arch.ops.stochastic import Examples


class Moments(NamedTuple):
    """Statistics per channel, with the mean as shift + offset.

    Rounded to one float32, the mean 1000.00001 of values that spread by 0.01 would move the output by 0.003.

    Attributes:
        shift: [channels], a constant near the mean: no gradient goes through it.
        offset: [channels], the mean of (x - shift).
        var: [channels], biased.
        count: how many values a channel had: a number, or under weights a scalar array; possibly 0.
    """

    shift: jax.Array
    offset: jax.Array
    var: jax.Array
    count: jax.Array | float


def batch_moments(x: jax.Array, weight: jax.Array | None = None, axis_name: str | None = None) -> Moments:
    """Mean and variance of each channel over the batch, in two passes, over all devices where `axis_name` is given.

    A first pass finds a shift, the second sums x - shift and its square. Any constant shift gives the same mean and
    variance, so `stop_gradient` on it leaves derivatives of every order exact.

    Across devices it takes one collective forward and one backward: each device puts its row (shift, offset, sum of
    squares, count) into a zero table, one psum makes the table whole everywhere, and the rows are combined by the
    formula of Chan, Golub and LeVeque (1979). Only psum gives under `pmap`, `vmap` and `shard_map` alike a result that
    is known to be the same on all devices.

    Args:
        x: [batch, ..., channels], float32 or float64.
        weight: [batch], 0 or above; None counts every example as 1.
        axis_name: the mapped axis whose devices share statistics; None keeps to this device.

    Returns:
        Moments in the dtype of x. Where the weights sum to zero they are zeros.
    """
    axes = tuple(range(x.ndim - 1))
    positions = math.prod(x.shape[1:-1])
    if weight is None:
        count, weights = float(x.shape[0] * positions), 1.0
    else:
        count = weight.astype(x.dtype).sum() * positions
        weights = weight.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    shift = lax.stop_gradient(jnp.sum(weights * x, axes) / _at_least_one(count))
    shifted = x - shift
    offset = jnp.sum(weights * shifted, axes) / _at_least_one(count)
    centred_squares = jnp.sum(weights * lax.square(shifted), axes) - count * lax.square(offset)
    if axis_name is None:
        var = jnp.maximum(centred_squares, 0.0) / _at_least_one(count)
        return Moments(shift, offset, var, count)
    return _combine_devices(shift, offset, centred_squares, count, axis_name)


def _combine_devices(
    shift: jax.Array, offset: jax.Array, centred_squares: jax.Array, count: jax.Array | float, axis_name: str
) -> Moments:
    """The moments over all devices of `axis_name`, from those of each."""
    row = jnp.concatenate([shift, offset, centred_squares, jnp.full((1,), count, shift.dtype)])
    mine = jnp.arange(lax.axis_size(axis_name)) == lax.axis_index(axis_name)
    table = lax.psum(jnp.where(mine[:, None], row, 0.0), axis_name)
    shifts, offsets, squares = jnp.split(table[:, :-1], 3, axis=1)
    counts = table[:, -1:]
    total = counts.sum()
    # The shifts differ little, so that their differences to a common one are exact.
    common = lax.stop_gradient((counts * shifts).sum(0) / _at_least_one(total))
    means = (shifts - common) + offsets
    offset = (counts * means).sum(0) / _at_least_one(total)
    centred = squares.sum(0) + (counts * lax.square(means - offset)).sum(0)
    return Moments(common, offset, jnp.maximum(centred, 0.0) / _at_least_one(total), total)


def _at_least_one(count: jax.Array | float) -> jax.Array | float:
    """The count, or 1 for a sum over nothing, so that no quotient is 0 / 0."""
    if isinstance(count, float):
        return count
    return jnp.where(count > 0, count, jnp.ones_like(count))


class BatchNorm(nn.Module):
    """Batch normalization (arXiv:1502.03167), per replica or across devices (MegDet, arXiv:1711.07240, section 3.2).

    Parameters `scale`, `bias`; running statistics `mean`, `var` in the collection `batch_stats`, moved only in training
    and not while initialising. Examples count by `examples.weight`; a batch whose weights are all zero moves nothing.

    Differs from flax.linen.BatchNorm: variance in two passes (flax's default loses all at mean 1e3, std 1e-2); weighted
    sums, not means, are added over devices; momentum 0.9.

    Attributes:
        axis_name: the mapped axis over whose devices statistics are taken in training; None keeps to each device.
        momentum: share of the old value that a running statistic keeps at each step, in [0, 1]; 0.9 is torch's 0.1.
        epsilon: added to the variance.
        use_bias: adds a learned bias.
        use_scale: multiplies by a learned scale.
        unbiased_running_variance: stores the variance times n / (n - 1), n values a channel, as torch does. The batch
            itself is normalized by the biased one in either case.
        bias_init: initial bias.
        scale_init: initial scale.
        dtype: of the output; None takes that of x.
        param_dtype: of the parameters and running statistics; None takes dtype, at least float32.
    """

    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_bias: bool = True
    use_scale: bool = True
    unbiased_running_variance: bool = False
    bias_init: Initializer = nn.initializers.zeros_init()
    scale_init: Initializer = nn.initializers.ones_init()
    dtype: Dtype | None = None
    param_dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Normalizes x [batch, ..., channels]; returns its shape, in `dtype`."""
        dtype = self.dtype or x.dtype
        param_dtype = self.param_dtype or jnp.promote_types(dtype, jnp.float32)
        stats_dtype = jnp.promote_types(param_dtype, jnp.float32)
        features = x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, stats_dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, features, stats_dtype)

        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if train:
            # No axis is bound while a model is initialised.
            axis_name = None if self.is_initializing() else self.axis_name
            moments = batch_moments(x, None if examples is None else examples.weight, axis_name)
            if not self.is_initializing():
                self._update(running_mean, moments.shift + moments.offset, moments.count)
                self._update(running_var, moments.var * self._running_variance_factor(moments.count), moments.count)
            centred, var = (x - moments.shift) - moments.offset, moments.var
        else:
            centred, var = x - running_mean.value, running_var.value

        multiplier = lax.rsqrt(var + self.epsilon)
        if self.use_scale:
            multiplier = multiplier * self.param("scale", self.scale_init, features, param_dtype)
        y = centred * multiplier
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, features, param_dtype)
        return y.astype(dtype)

    def _update(self, running: nn.Variable, value: jax.Array, count: jax.Array | float) -> None:
        """Moves a running statistic towards this batch's value, unless the batch counted nothing."""
        moved = self.momentum * running.value + (1.0 - self.momentum) * lax.stop_gradient(value)
        if not isinstance(count, float):
            moved = jnp.where(count > 0, moved, running.value)
        running.value = moved.astype(running.value.dtype)

    def _running_variance_factor(self, count: jax.Array | float) -> jax.Array | float:
        """n / (n - 1) where asked for; 1 for a single value, whose variance is zero in any case."""
        if not self.unbiased_running_variance:
            return 1.0
        return count / jnp.maximum(count - 1.0, 1.0) if not isinstance(count, float) else count / max(count - 1.0, 1.0)
