"""Batch Renormalization: training sees what evaluation will, up to limits that open step by step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from arch.norm.batch import normalize_batch
from arch.norm.devices import own_group
from arch.norm.running import RunningNorm, check_momentum, move_running
from arch.ops.stochastic import Examples


class Limits(NamedTuple):
    """How far a batch's statistics are corrected towards the running ones; scalars, traced where they change.

    Attributes:
        r_max: largest ratio of the two standard deviations, or of its inverse, 1 or above.
        d_max: largest distance of the two means, in running standard deviations, 0 or above.
    """

    r_max: jax.Array | float
    d_max: jax.Array | float


def renorm_corrections(
    mean: jax.Array, std: jax.Array, running_mean: jax.Array, running_std: jax.Array, limits: Limits
) -> tuple[jax.Array, jax.Array]:
    """r and d of Batch Renormalization: (x - mean) / std * r + d is nearer to (x - running_mean) / running_std.

    r = clip(std / running_std, 1 / r_max, r_max), d = clip((mean - running_mean) / running_std, -d_max, d_max), both
    constants to the gradient.

    Args:
        mean: [channels], of the batch.
        std: [channels], of the batch, above 0.
        running_mean: [channels].
        running_std: [channels], above 0.
        limits: infinite ones give evaluation's values, (1, 0) leave the batch's.

    Returns:
        r and d, [channels].
    """
    r = jnp.clip(std / running_std, 1.0 / limits.r_max, limits.r_max)
    d = jnp.clip((mean - running_mean) / running_std, -limits.d_max, limits.d_max)
    return lax.stop_gradient((r, d))


def ramp(step: jax.Array, start: float, end: float, low: float, high: float) -> jax.Array:
    """`low` up to step `start`, `high` from step `end` on, linear between; `high` may be infinite."""
    share = jnp.clip((step - start) / max(end - start, 1), 0.0, 1.0)
    linear = low + jnp.where(share > 0, share, 1.0) * (high - low)
    return jnp.where(step >= end, high, jnp.where(share > 0, linear, low)).astype(step.dtype)


class BatchRenorm(RunningNorm):
    """Batch Renormalization, per replica or across devices.

    y = ((x - mean) / std * r + d) * scale + bias, std = sqrt(var + epsilon), for x [batch, ..., channels]; r and d as
    in `renorm_corrections`, from the running mean and std before these move by (1 - momentum) (batch's - running).
    Evaluation: (x - running mean) / running std * scale + bias.

    Paper: Ioffe, Batch Renormalization (arXiv:1702.03275), section 3, algorithm 1; the schedule is section 4.2's.
    Parameters: `scale`, `bias` [channels]; `mean`, `std` [channels] and the scalar `num_updates` in `batch_stats`.
    MACs: 0 by convention; 2 x height x width x channels.

    The limits are (1, 0), which is batch normalization, for the first `plain_steps` updates, and then open linearly.
    The count of updates is kept with the statistics, so nothing compiles anew and a resumed run goes on where it was;
    micro-batches are an update each. The count is floating point because the training step averages what it finds in
    `batch_stats` over devices. A batch whose weights are all zero moves nothing and is not counted.

    Attributes:
        axis_name: the mapped axis over whose devices statistics are taken in training; None keeps to each device.
        device_group_size: as in `BatchNorm`; groups are corrected towards the same running statistics.
        momentum: share of the old value that a running statistic keeps at each step, in [0, 1].
        r_max: ratio of standard deviations that is allowed in the end, 1 or above.
        d_max: distance of means, in standard deviations, that is allowed in the end, 0 or above.
        plain_steps: updates of plain batch normalization at the beginning.
        r_max_steps: updates after which r_max is reached.
        d_max_steps: updates after which d_max is reached.
        epsilon, use_bias, use_scale, bias_init, scale_init, dtype, param_dtype: as in `RunningNorm`.
    """

    axis_name: str | None = None
    device_group_size: int | None = None
    momentum: float = 0.99
    r_max: float = 3.0
    d_max: float = 5.0
    plain_steps: int = 5_000
    r_max_steps: int = 40_000
    d_max_steps: int = 25_000

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        """Normalizes x [batch, ..., channels]; returns its shape, in `dtype`.

        Raises:
            ValueError: integers or fewer than two axes, limits or a momentum out of range, a schedule that ends before
                it begins, groups that do not divide the axis.
        """
        self._check()
        dtypes, features = self.dtypes(x), x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features, dtypes.stats)
        running_std = self.variable("batch_stats", "std", jnp.ones, features, dtypes.stats)
        num_updates = self.variable("batch_stats", "num_updates", jnp.zeros, (), dtypes.stats)
        scale, bias = self.affine(x)
        x = x.astype(dtypes.compute)
        if not train:
            return ((x - running_mean.value) * (scale / running_std.value) + bias).astype(dtypes.output)

        weight = None if examples is None else examples.weight
        # No axis is bound while a model is initialised.
        axis = (None, None) if self.is_initializing() else (self.axis_name, self.device_group_size)
        unit, groups = normalize_batch(
            x, jnp.ones_like(scale), jnp.zeros_like(bias), weight, axis[0], self.epsilon, axis[1]
        )
        means, stds = groups.shift + groups.offset, jnp.sqrt(groups.var + self.epsilon)
        mean, std = own_group((means, stds), axis[0])
        r, d = renorm_corrections(mean, std, running_mean.value, running_std.value, self._limits(num_updates.value))
        if not self.is_initializing():
            move_running(running_mean, means, groups.count, self.momentum)
            move_running(running_std, stds, groups.count, self.momentum)
            num_updates.value += jnp.any(groups.count > 0).astype(num_updates.value.dtype)
        return (unit * (r * scale) + (d * scale + bias)).astype(dtypes.output)

    @nn.nowrap
    def _limits(self, num_updates: jax.Array) -> Limits:
        """Those of the schedule after so many updates."""
        return Limits(
            ramp(num_updates, self.plain_steps, self.r_max_steps, 1.0, self.r_max),
            ramp(num_updates, self.plain_steps, self.d_max_steps, 0.0, self.d_max),
        )

    @nn.nowrap
    def _check(self) -> None:
        check_momentum("BatchRenorm", self.momentum)
        if not (self.r_max >= 1.0 and self.d_max >= 0.0):
            raise ValueError(
                f"BatchRenorm: r_max={self.r_max} must be at least 1 and d_max={self.d_max} at least 0; "
                "with r_max=1 and d_max=0 it is batch normalization"
            )
        for name in ("r_max_steps", "d_max_steps"):
            if not 0 <= self.plain_steps <= getattr(self, name):
                raise ValueError(
                    f"BatchRenorm: plain_steps={self.plain_steps} must lie in [0, {name}={getattr(self, name)}]; "
                    "the limits open after the plain steps"
                )
