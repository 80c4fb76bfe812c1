"""Learning-rate schedules: pure functions `step -> float32`, so a run that restarts at any step goes on unchanged.

Step 0 is the first update, step total_steps - 1 the last; every time is a step counted from the start of training. How
warm-up and decay share the run:

  linear, cosine, polynomial   decay over what remains after the warm-up: the peak is at `warmup_steps` and the end
                               value at `total_steps`, one past the last update (You et al. 2017, arXiv:1708.03888)
  step                         boundaries are counted from the start, warm-up included (Goyal et al. 2017)

Optax has schedules of these shapes, which compute 1 - step/total in float32: at step 299,999 of 300,000 that has lost
all but two digits. Here the elapsed and the remaining share come from whole steps, each exact at both its ends.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


def linear_scaling(base_learning_rate: float, global_batch_size: int, base_batch_size: int) -> float:
    """The learning rate for a batch, in proportion to it: Goyal et al. 2017 (arXiv:1706.02677) section 2.1.

    Coupled weight decay stays as it is: it is multiplied by the learning rate, so it grows along.

    Args:
      base_learning_rate: the rate that suits `base_batch_size`.
      global_batch_size: examples an update, over all devices, hosts and micro-batches.
      base_batch_size: examples an update that `base_learning_rate` was found for; 256 in the paper.

    Raises:
      ValueError: where a batch size is less than one.
    """
    for name, value in {"global_batch_size": global_batch_size, "base_batch_size": base_batch_size}.items():
        if not value >= 1:
            raise ValueError(f"linear_scaling: {name}={value} must be at least 1; give a number of examples")
    return base_learning_rate * global_batch_size / base_batch_size


def epochs_to_steps(epochs: float, steps_per_epoch: float) -> int:
    """The whole step nearest to the end of `epochs` passes (a half rounds up).

    An epoch is N / global batch steps, rarely a whole number: 5 epochs of 1,281,167 images in batches of 1,024 are
    6,255.7 steps, here 6,256. Nearest, and not the ceiling, so that the last bit of a product that should be whole
    cannot move a boundary by a step.
    """
    return math.floor(epochs * steps_per_epoch + 0.5)


def _shares(step: jax.typing.ArrayLike, begin: int, end: int) -> tuple[jax.Array, jax.Array]:
    """Elapsed and remaining share of the steps [begin, end], float32 in [0, 1]; both are exact at begin and end."""
    span = max(end - begin, 1)
    done = jnp.clip(jnp.asarray(step) - begin, 0, span)
    elapsed = done.astype(jnp.float32) / float(span)
    remaining = (span - done).astype(jnp.float32) / float(span)
    # A compiler may divide by multiplying with a rounded reciprocal, and then span / span is not 1: the larger share is
    # one minus the smaller.
    early = elapsed < 0.5
    return jnp.where(early, elapsed, 1.0 - remaining), jnp.where(early, 1.0 - elapsed, remaining)


def _between(start: float, end: float, elapsed: jax.Array, remaining: jax.Array) -> jax.Array:
    """start where nothing has elapsed, end where nothing remains, both exactly."""
    return jnp.where(elapsed < 0.5, start + (end - start) * elapsed, end - (end - start) * remaining)


def constant(value: float) -> optax.Schedule:
    """The same rate at every step."""
    return lambda step: jnp.full(jnp.shape(step), value, jnp.float32)


def linear_decay(peak: float, end: float = 0.0, *, total_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """peak until `warmup_steps`, then a straight line to `end` at `total_steps`, then `end`.

    ShuffleNet v2 (arXiv:1807.11164) section 4: linear_decay(0.5, total_steps=300_000) is 0.5 (1 - step / total).

    Args:
      peak: rate up to and at `warmup_steps`.
      end: rate at `total_steps` and after.
      total_steps: updates of the whole run.
      warmup_steps: updates before the decay starts; `gradual_warmup` replaces their rates.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        return _between(peak, end, *_shares(step, warmup_steps, total_steps))

    return schedule


def cosine_decay(peak: float, end: float = 0.0, *, total_steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Half a cosine from peak at `warmup_steps` to `end` at `total_steps`: Loshchilov and Hutter, arXiv:1608.03983.

    Args: as for `linear_decay`.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        elapsed, remaining = _shares(step, warmup_steps, total_steps)
        # (1 + cos(pi elapsed)) / 2 by squares of sines, which keep their digits where it is near 0 or 1.
        gone, left = (jnp.square(jnp.sin(0.5 * math.pi * share)) for share in (elapsed, remaining))
        return _between(peak, end, gone, jnp.where(gone < 0.5, 1.0 - gone, left))

    return schedule


def polynomial_decay(
    peak: float, end: float = 0.0, *, power: float = 2.0, total_steps: int, warmup_steps: int = 0
) -> optax.Schedule:
    """end + (peak - end) (remaining share)^power, from `warmup_steps` to `total_steps`.

    With power 2 the schedule of LARS (You et al. 2017, arXiv:1708.03888): gamma_t = gamma_0 (1 - t/T)^2.

    Args: as for `linear_decay`, and
      power: exponent, above 0.
    """
    # A whole exponent is a product, exact at both ends; the general power function need not be.
    power = int(power) if float(power).is_integer() else power

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        _, remaining = _shares(step, warmup_steps, total_steps)
        left = remaining**power
        return _between(peak, end, 1.0 - left, left)

    return schedule


def piecewise_constant(values: Sequence[float], boundaries: Sequence[int]) -> optax.Schedule:
    """values[i] from boundaries[i - 1] on, values[0] from step 0.

    Args:
      values: one rate more than there are boundaries.
      boundaries: rising steps, counted from the start of training; at a boundary the new value holds.

    Raises:
      ValueError: where the lengths do not fit, or the boundaries do not rise.
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"piecewise_constant: {len(values)} values must be one more than {len(boundaries)} boundaries; "
            "add or drop one"
        )
    if sorted(boundaries) != list(boundaries):
        raise ValueError(f"piecewise_constant: boundaries={tuple(boundaries)} must rise; sort them")

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step)
        passed = jnp.sum(step[..., None] >= jnp.asarray(boundaries, jnp.int32), axis=-1)
        return jnp.asarray(values, jnp.float32)[passed]

    return schedule


def step_decay(peak: float, *, boundaries: Sequence[int], factor: float = 0.1) -> optax.Schedule:
    """peak, multiplied by `factor` at every boundary: Goyal et al. 2017 (arXiv:1706.02677) section 5.1.

    Args:
      peak: rate before the first boundary.
      boundaries: rising steps, counted from the start of training, warm-up included.
      factor: above 0.
    """
    return piecewise_constant([peak * factor**i for i in range(len(boundaries) + 1)], boundaries)


def gradual_warmup(schedule: optax.Schedule, *, start: float, peak: float, warmup_steps: int) -> optax.Schedule:
    """A straight line per step from `start` at step 0 to `peak` at `warmup_steps`, from there on `schedule`.

    Goyal et al. 2017 (arXiv:1706.02677) section 2.2: start is the base rate of one worker, not 0; per update, not per
    epoch. `schedule` sees the step counted from the start of training and is used from `warmup_steps` on.

    Args:
      schedule: the main schedule; its value at `warmup_steps` should be `peak`, or the rate jumps there.
      start: rate of the first update.
      peak: rate that the line reaches.
      warmup_steps: length of the line; 0 returns `schedule`.

    Raises:
      ValueError: where `warmup_steps` is negative.
    """
    if warmup_steps < 0:
        raise ValueError(f"gradual_warmup: warmup_steps={warmup_steps} must not be negative; 0 is no warm-up")
    if warmup_steps == 0:
        return schedule

    def warmed(step: jax.typing.ArrayLike) -> jax.Array:
        ramp = _between(start, peak, *_shares(step, 0, warmup_steps))
        return jnp.where(jnp.asarray(step) < warmup_steps, ramp, schedule(step))

    return warmed


def constant_warmup(schedule: optax.Schedule, *, start: float, warmup_steps: int) -> optax.Schedule:
    """`start` for `warmup_steps` updates, then a jump to `schedule`: He et al. 2016 (arXiv:1512.03385) section 4.2.

    For large batches it is worse than none: Goyal et al. 2017 (arXiv:1706.02677) table 2.

    Args:
      schedule: the main schedule, of steps counted from the start of training.
      start: rate of the first updates.
      warmup_steps: how many; 0 returns `schedule`.

    Raises:
      ValueError: where `warmup_steps` is negative.
    """
    if warmup_steps < 0:
        raise ValueError(f"constant_warmup: warmup_steps={warmup_steps} must not be negative; 0 is no warm-up")
    if warmup_steps == 0:
        return schedule
    return lambda step: jnp.where(jnp.asarray(step) < warmup_steps, jnp.float32(start), schedule(step))


# Epochs of 90, and the rate as a multiple of the one that is scaled with the batch.
SLOW_START = ((40, 0.5), (30, 0.075), (15, 0.01), (5, 0.001))


def slow_start(peak: float, *, total_steps: int) -> optax.Schedule:
    """Half the rate for 40 of 90 epochs, then 0.075, 0.01, 0.001 of it for 30, 15, 5: arXiv:1711.04325, section 2.

    After an RMSprop warm-up (arch/optim/rmsprop_warmup.py) it needs no warm-up of the rate.

    Args:
      peak: what linear scaling gives, 0.1 for 256 images in the paper.
      total_steps: updates of the whole run; the 90 epochs are stretched to them.
    """
    total = sum(epochs for epochs, _ in SLOW_START)
    ends = itertools.accumulate(epochs for epochs, _ in SLOW_START[:-1])
    boundaries = [math.floor(total_steps * end / total + 0.5) for end in ends]
    return piecewise_constant([peak * share for _, share in SLOW_START], boundaries)
