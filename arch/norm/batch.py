"""Batch normalization: per replica, or with statistics over the devices of a mapped axis, all or groups of them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arch.norm.devices import count_groups, own_group, psum_rows
from arch.norm.running import RunningNorm, check_momentum, move_running, normalize_running
from arch.ops.stochastic import Examples, like_examples


class Moments(NamedTuple):
    """Statistics per channel, with the mean as shift + offset; or those of several groups, on a first axis more.

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


def batch_moments(
    x: jax.Array,
    weight: jax.Array | None = None,
    axis_name: str | None = None,
    device_group_size: int | None = None,
) -> Moments:
    """Mean and variance of each channel over the batch, over the devices of a group where `axis_name` is given.

    A few pixels of every example give a shift, then one pass over x sums x - shift and its square. Any constant shift
    gives the same mean and variance, so `stop_gradient` on it leaves derivatives of every order exact. The sample is at
    least a sixteenth of the values, so that (mean - shift)^2, which is subtracted, is at most 15 times the variance.

    Across devices it takes one collective forward and one backward: each device puts its row (shift, offset, sum of
    squares, count) into a zero table, one psum makes the table whole everywhere, and the rows of a group are combined
    by the formula of Chan, Golub and LeVeque (1979). Only psum gives under `pmap`, `vmap` and `shard_map` alike a
    result that is known to be the same on all devices; `axis_index_groups` would raise under two of them.

    Args:
        x: [batch, ..., channels], float32 or float64.
        weight: [batch], 0 or above; None counts every example as 1.
        axis_name: the mapped axis whose devices share statistics; None keeps to this device.
        device_group_size: so many consecutive devices of the axis share statistics, a divisor of its size; None: all.

    Returns:
        Moments in the dtype of x. Where the weights sum to zero they are zeros.

    Raises:
        ValueError: a device_group_size that does not divide the devices of the axis, or without an axis.
    """
    return own_group(_moments_of_groups(x, weight, axis_name, device_group_size), axis_name)


def _moments_of_groups(
    x: jax.Array, weight: jax.Array | None, axis_name: str | None, device_group_size: int | None
) -> Moments:
    """As `batch_moments`, but of all groups of devices, [groups, ...], and so the same on all devices."""
    num_groups = count_groups("batch_moments", axis_name, device_group_size)
    axes = tuple(range(x.ndim - 1))
    positions = math.prod(x.shape[1:-1])
    # One of 4 x 4 pixels, of every example, so that a weight of zero leaves out what it should.
    sample = x[:, *[slice(None, None, 4)] * (x.ndim - 2)]
    if weight is None:
        count, weights = jnp.full((), x.shape[0] * positions, x.dtype), 1.0
    else:
        count = weight.astype(x.dtype).sum() * positions
        weights = like_examples(weight.astype(x.dtype), x)
    sampled = count * (sample.size / x.size)
    shift = lax.stop_gradient(jnp.sum(weights * sample, axes) / _at_least_one(sampled))
    shifted = x - shift
    total, squares = _column_sums(weights * shifted, weights * lax.square(shifted))
    offset = total / _at_least_one(count)
    centred_squares = squares - count * lax.square(offset)
    if axis_name is None:
        var = jnp.maximum(centred_squares, 0.0) / _at_least_one(count)
        return Moments(shift[None], offset[None], var[None], count[None])
    return _combine_devices(shift, offset, centred_squares, count, axis_name, num_groups)


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
    shift: jax.Array, offset: jax.Array, centred_squares: jax.Array, count: jax.Array, axis_name: str, num_groups: int
) -> Moments:
    """The moments of each group of devices of `axis_name`, from those of each device."""
    row = jnp.concatenate([shift, offset, centred_squares, jnp.full((1,), count, shift.dtype)])
    table = psum_rows(row, lax.axis_size(axis_name), axis_name).reshape(num_groups, -1, row.size)
    shifts, offsets, squares = jnp.split(table[..., :-1], 3, axis=-1)
    counts = table[..., -1:]
    total = counts.sum(1, keepdims=True)
    # The shifts differ little, so that their differences to a common one are exact.
    common = lax.stop_gradient((counts * shifts).sum(1, keepdims=True) / _at_least_one(total))
    means = (shifts - common) + offsets
    offset = (counts * means).sum(1, keepdims=True) / _at_least_one(total)
    centred = squares.sum(1) + (counts * lax.square(means - offset)).sum(1)
    var = jnp.maximum(centred, 0.0) / _at_least_one(total[:, 0])
    return Moments(common[:, 0], offset[:, 0], var, total[:, 0, 0])


def _at_least_one(count: jax.Array) -> jax.Array:
    """The count, or 1 for a sum over nothing, so that no quotient is 0 / 0."""
    return jnp.where(count > 0, count, jnp.ones_like(count))


@functools.partial(jax.custom_jvp, nondiff_argnums=(4, 5, 6))
def normalize_batch(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    weight: jax.Array | None = None,
    axis_name: str | None = None,
    epsilon: float = 1e-5,
    device_group_size: int | None = None,
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
        device_group_size: as in `batch_moments`.

    Returns:
        The shape of x, in the wider of the dtypes, and the moments of every group of devices, [groups, channels], the
        same on all devices; one group where there is no device_group_size.

    Raises:
        ValueError: as `batch_moments`.
    """
    groups = _moments_of_groups(x, weight, axis_name, device_group_size)
    own = own_group(groups, axis_name)
    return _normalize(x, own, scale * lax.rsqrt(own.var + epsilon), bias), groups


@normalize_batch.defjvp
def _normalize_batch_jvp(
    axis_name: str | None, epsilon: float, device_group_size: int | None, primals: tuple, tangents: tuple
) -> tuple:
    x, scale, bias, weight = primals
    x_dot, scale_dot, bias_dot, _ = tangents
    groups = _moments_of_groups(x, weight, axis_name, device_group_size)
    own = own_group(groups, axis_name)
    inverse_std = lax.rsqrt(own.var + epsilon)
    unit = ((x - own.shift) - own.offset) * inverse_std
    y = _normalize(x, own, scale * inverse_std, bias)

    weighted = x_dot if weight is None else x_dot * like_examples(weight.astype(x.dtype), x)
    sums = psum_rows(jnp.concatenate(_sum_each(weighted, weighted * unit)), len(groups.count), axis_name)
    means = jnp.split(sums / _at_least_one(groups.count)[:, None], 2, axis=1)
    mean_dot, along_unit = own_group(means, axis_name)
    # Grouped so that the transpose needs two sums over the batch, of the gradient and of its product with `unit`, which
    # are also the gradients of bias and scale.
    multiplier = scale * inverse_std
    y_dot = multiplier * x_dot + unit * (scale_dot - multiplier * along_unit) + (bias_dot - multiplier * mean_dot)
    var_dot = 2.0 * means[1] * jnp.sqrt(groups.var + epsilon)
    groups_dot = Moments(jnp.zeros_like(groups.shift), means[0], var_dot, jnp.zeros_like(groups.count))
    return (y, groups), (y_dot, groups_dot)


def _normalize(x: jax.Array, moments: Moments, multiplier: jax.Array, bias: jax.Array) -> jax.Array:
    return ((x - moments.shift) - moments.offset) * multiplier + bias


class BatchNorm(RunningNorm):
    """Batch normalization: per replica, over all devices of an axis, or over groups of them.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias for x [batch, ..., channels], mean and var [channels] of the
    batch in training and the running ones in evaluation; running = momentum * running + (1 - momentum) * batch.

    Paper: Ioffe and Szegedy, Batch Normalization (arXiv:1502.03167), section 3; across devices Peng et al., MegDet
        (arXiv:1711.07240), section 3.2.
    Parameters: `scale`, `bias` [channels]; running statistics `mean`, `var` [channels] in `batch_stats`.
    MACs: 0 by convention; 2 x height x width x channels.
    Differs from the paper: evaluation takes an exponential average, as all libraries do.

    The running statistics move only in training and not while initialising. Examples count by `examples.weight`; a
    batch whose weights are all zero moves nothing. With `axis_name` they are the same on all devices; those of groups
    are averaged, as the training step averages those of independent replicas.

    Differs from flax.linen.BatchNorm: variance of shifted values (flax's default loses all at mean 1e3, std 1e-2); over
    devices weighted sums are added, not means; momentum 0.9.

    Attributes:
        axis_name: the mapped axis over whose devices statistics are taken in training; None keeps to each device.
        device_group_size: so many consecutive devices of the axis share statistics, a divisor of its size; None: all.
        momentum: share of the old value that a running statistic keeps at each step, in [0, 1]; 0.9 is torch's 0.1.
        unbiased_running_variance: stores the variance times n / (n - 1), n values a channel, as torch does. The batch
            itself is normalized by the biased one in either case.
        epsilon, use_bias, use_scale, bias_init, scale_init, dtype, param_dtype: as in `RunningNorm`.
    """

    axis_name: str | None = None
    device_group_size: int | None = None
    momentum: float = 0.9
    unbiased_running_variance: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Normalizes x [batch, ..., channels]; returns its shape, in `dtype`.

        Raises:
            ValueError: integers or fewer than two axes, a momentum outside [0, 1], groups that do not divide the axis.
        """
        check_momentum(type(self).__name__, self.momentum)
        dtypes = self.dtypes(x)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:], dtypes.stats)
        running_var = self.variable("batch_stats", "var", jnp.ones, x.shape[-1:], dtypes.stats)
        scale, bias = self.affine(x)
        x = x.astype(dtypes.compute)
        if not train:
            out = normalize_running(x, running_mean.value, running_var.value, scale, bias, self.epsilon)
            return out.astype(dtypes.output)

        weight = None if examples is None else examples.weight
        y, moments = self._normalize(x, scale, bias, weight)
        if not self.is_initializing():
            factor = unbiased_factor(moments.count)[:, None] if self.unbiased_running_variance else 1.0
            self._move(running_mean, moments.shift + moments.offset, moments.count)
            self._move(running_var, moments.var * factor, moments.count)
        return y.astype(dtypes.output)

    @nn.nowrap
    def _normalize(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array | None
    ) -> tuple[jax.Array, Moments]:
        """The normalized batch, and the moments of each group [groups, channels]."""
        if self.is_initializing():  # no axis is bound
            return normalize_batch(x, scale, bias, weight, None, self.epsilon)
        return normalize_batch(x, scale, bias, weight, self.axis_name, self.epsilon, self.device_group_size)

    @nn.nowrap
    def _move(self, running: nn.Variable, values: jax.Array, counts: jax.Array) -> None:
        move_running(running, values, counts, self.momentum)


def unbiased_factor(count: jax.Array) -> jax.Array:
    """n / (n - 1), which makes a biased variance unbiased; 1 for a single value, whose variance is zero in any case."""
    return count / jnp.maximum(count - 1.0, 1.0)
