"""Batch normalization: per replica, or with statistics over all devices of a mapped axis."""

import functools
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
        count: how many values a channel had; 0 where all weights are.
    """

    shift: jax.Array
    offset: jax.Array
    var: jax.Array
    count: jax.Array


def batch_moments(x: jax.Array, weight: jax.Array | None = None, axis_name: str | None = None) -> Moments:
    """Mean and variance of each channel over the batch, over all devices where `axis_name` is given.

    A few pixels of every example give a shift, then one pass over x sums x - shift and its square. Any constant shift
    gives the same mean and variance, so `stop_gradient` on it leaves derivatives of every order exact. The sample is at
    least a sixteenth of the values, so that (mean - shift)^2, which is subtracted, is at most 15 times the variance.

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
    # One of 4 x 4 pixels, of every example, so that a weight of zero leaves out what it should.
    sample = x[:, *[slice(None, None, 4)] * (x.ndim - 2)]
    if weight is None:
        count, weights = jnp.full((), x.shape[0] * positions, x.dtype), 1.0
    else:
        count = weight.astype(x.dtype).sum() * positions
        weights = _like_examples(weight, x)
    sampled = count * (sample.size / x.size)
    shift = lax.stop_gradient(jnp.sum(weights * sample, axes) / _at_least_one(sampled))
    shifted = x - shift
    total, squares = _column_sums(weights * shifted, weights * lax.square(shifted))
    offset = total / _at_least_one(count)
    centred_squares = squares - count * lax.square(offset)
    if axis_name is None:
        var = jnp.maximum(centred_squares, 0.0) / _at_least_one(count)
        return Moments(shift, offset, var, count)
    return _combine_devices(shift, offset, centred_squares, count, axis_name)


@jax.custom_jvp
def _column_sums(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The sums of equally shaped [batch, ..., channels] over all axes but the last."""

    def in_one_pass(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        # Of two sums XLA on CPU reads, and first writes, each operand; of one reduction over all axes it makes a scalar
        # loop. So the batch comes first, and the barrier keeps the rest from being fused with it.
        zeros = tuple(jnp.zeros((), array.dtype) for array in arrays)
        sums = lax.reduce(arrays, zeros, lambda left, right: tuple(map(jnp.add, left, right)), (0,))
        return tuple(pixels.sum(range(pixels.ndim - 1)) for pixels in lax.optimization_barrier(sums))

    return lax.platform_dependent(*arrays, cpu=in_one_pass, default=_sum_each)


@_column_sums.defjvp
def _column_sums_jvp(arrays: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    return _column_sums(*arrays), _sum_each(*tangents)


def _sum_each(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(array.sum(range(array.ndim - 1)) for array in arrays)


def _combine_devices(
    shift: jax.Array, offset: jax.Array, centred_squares: jax.Array, count: jax.Array, axis_name: str
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


def _like_examples(weight: jax.Array, x: jax.Array) -> jax.Array:
    """The weights [batch] in the dtype and with as many axes as x [batch, ...]."""
    return weight.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def _at_least_one(count: jax.Array) -> jax.Array:
    """The count, or 1 for a sum over nothing, so that no quotient is 0 / 0."""
    return jnp.where(count > 0, count, jnp.ones_like(count))


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def normalize_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    weight: jax.Array | None = None,
    axis_name: str | None = None,
    epsilon: float = 1e-5,
) -> tuple[jax.Array, Moments]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, with the mean and variance of the batch.

    Its derivative is written out, because that of `batch_moments` followed by this takes twice as many passes over x.
    No derivative goes to `weight`.

    Args:
        x: [batch, ..., channels], float32 or float64.
        scale: [channels].
        bias: [channels].
        weight: as in `batch_moments`.
        axis_name: as in `batch_moments`.
        epsilon: added to the variance.

    Returns:
        The shape of x, in the wider of the dtypes, and the moments of x.
    """
    moments = batch_moments(x, weight, axis_name)
    return _normalize(x, moments, scale * lax.rsqrt(moments.var + epsilon), bias), moments


@normalize_batch.defjvp
def _normalize_batch_jvp(axis_name: str | None, epsilon: float, primals: tuple, tangents: tuple) -> tuple:
    x, scale, bias, weight = primals
    x_dot, scale_dot, bias_dot, _ = tangents
    moments = batch_moments(x, weight, axis_name)
    inverse_std = lax.rsqrt(moments.var + epsilon)
    unit = ((x - moments.shift) - moments.offset) * inverse_std
    y = _normalize(x, moments, scale * inverse_std, bias)

    weighted = x_dot if weight is None else x_dot * _like_examples(weight, x)
    sums = jnp.concatenate(_sum_each(weighted, weighted * unit))
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
    mean_dot, along_unit = jnp.split(sums / _at_least_one(moments.count), 2)
    # Grouped so that the transpose needs two sums over the batch, of the gradient and of its product with `unit`, which
    # are also the gradients of bias and scale.
    multiplier = scale * inverse_std
    y_dot = multiplier * x_dot + unit * (scale_dot - multiplier * along_unit) + (bias_dot - multiplier * mean_dot)
    zero = jnp.zeros_like(mean_dot)
    moments_dot = Moments(zero, mean_dot, 2.0 * along_unit / inverse_std, jnp.zeros_like(moments.count))
    return (y, moments), (y_dot, moments_dot)


def _normalize(x: jax.Array, moments: Moments, multiplier: jax.Array, bias: jax.Array) -> jax.Array:
    return ((x - moments.shift) - moments.offset) * multiplier + bias


class BatchNorm(nn.Module):
    """Batch normalization (arXiv:1502.03167), per replica or across devices (MegDet, arXiv:1711.07240, section 3.2).

    Parameters `scale`, `bias`; running statistics `mean`, `var` in the collection `batch_stats`, moved only in training
    and not while initialising. Examples count by `examples.weight`; a batch whose weights are all zero moves nothing.

    Differs from flax.linen.BatchNorm: variance of shifted values (flax's default loses all at mean 1e3, std 1e-2); over
    devices weighted sums are added, not means; momentum 0.9.

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

        scale = self.param("scale", self.scale_init, features, param_dtype) if self.use_scale else 1.0
        bias = self.param("bias", self.bias_init, features, param_dtype) if self.use_bias else 0.0
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if not train:
            multiplier = lax.rsqrt(running_var.value + self.epsilon) * scale
            return ((x - running_mean.value) * multiplier + bias).astype(dtype)

        # No axis is bound while a model is initialised.
        axis_name = None if self.is_initializing() else self.axis_name
        scale, bias = (jnp.broadcast_to(jnp.asarray(value, param_dtype), features) for value in (scale, bias))
        weight = None if examples is None else examples.weight
        y, moments = normalize_batch(x, scale, bias, weight, axis_name, self.epsilon)
        if not self.is_initializing():
            self._update(running_mean, moments.shift + moments.offset, moments.count)
            self._update(running_var, moments.var * self._running_variance_factor(moments.count), moments.count)
        return y.astype(dtype)

    def _update(self, running: nn.Variable, value: jax.Array, count: jax.Array) -> None:
        """Moves a running statistic towards this batch's value, unless the batch counted nothing."""
        moved = self.momentum * running.value + (1.0 - self.momentum) * lax.stop_gradient(value)
        running.value = jnp.where(count > 0, moved, running.value).astype(running.value.dtype)

    def _running_variance_factor(self, count: jax.Array) -> jax.Array | float:
        """n / (n - 1) where asked for; 1 for a single value, whose variance is zero in any case."""
        return count / jnp.maximum(count - 1.0, 1.0) if self.unbiased_running_variance else 1.0
