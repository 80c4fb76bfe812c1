"""How noisy the gradient of a batch is: the noise scale of the schedule, and that of the gradients themselves.

Two quantities go by the name. The noise scale of a schedule (Smith et al., arXiv:1711.00489) says how far SGD wanders
for its learning rate, momentum and batch size, whatever the gradients are; runs whose schedules have the same one
behave alike. The gradient noise scale (McCandlish et al., arXiv:1812.06162) is a batch size, measured from gradients:
far below it, twice the batch is worth twice the steps; far above it, it is worth nothing.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


def noise_scale(
    learning_rate: jax.typing.ArrayLike,
    momentum: float,
    num_examples: int,
    global_batch_size: jax.typing.ArrayLike,
    *,
    exact: bool = True,
) -> jax.typing.ArrayLike:
    """g = learning_rate / (1 - momentum) (N / B - 1), or, for B far below N, learning_rate N / (B (1 - momentum)).

    The mean gradient of B of N examples, drawn without replacement, has the variance S^2 (N / B - 1) / N, where S^2 is
    that of the examples, with N - 1; momentum makes the rate 1 / (1 - momentum) times as large in the long run.

    Paper: Smith, Kindermans, Ying, Le, arXiv:1711.00489, section 2; Smith and Le, arXiv:1710.06451, equation (15).

    Args:
      learning_rate: 0 or above; arrays, such as the rates of all steps, are taken element by element.
      momentum: in [0, 1).
      num_examples: N, of the training split.
      global_batch_size: B, examples an update, from 1 to N.
      exact: with the - 1, so that the whole split has no noise.

    Raises:
      ValueError: a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"noise_scale: momentum={momentum} must be in [0, 1); 0.9 is usual")
    return learning_rate / (1 - momentum) * (num_examples / global_batch_size - exact)


class Phase(NamedTuple):
    """Part of a run with one learning rate and one batch size.

    Attributes:
      start_epoch: where it begins, in passes over the training split.
      learning_rate: of its updates.
      global_batch_size: examples an update.
    """

    start_epoch: float
    learning_rate: float
    global_batch_size: int


def increase_batch(phases: Sequence[Phase], max_batch_size: int) -> list[Phase]:
    """The same run with the batch growing where the rate would fall, while the batch may grow.

    Where the rate of a phase is 1 / q of that before it, its batch is q times as large instead, and only what would
    take it over `max_batch_size` is taken from the rate. Each phase keeps its approximate noise scale exactly; the
    exact one differs by (N / B - 1) / (N / B).

    Paper: Smith et al., arXiv:1711.00489, section 3: up to about a tenth of the training split.
    Differs from the paper: the momentum does not grow too.

    Args:
      phases: with rates above 0 that do not rise, and one momentum throughout.
      max_batch_size: the largest batch, at least the first phase's.

    Returns:
      As many phases; batch sizes are rounded to whole multiples of the first one's, and the rates make up for it.

    Raises:
      ValueError: no phases, a first batch that is too large, rates that rise or reach 0.
    """
    if not phases or not 1 <= phases[0].global_batch_size <= max_batch_size:
        first = phases[0].global_batch_size if phases else None
        raise ValueError(
            f"increase_batch: the first phase's batch of {first} must be from 1 to max_batch_size={max_batch_size}; "
            "give phases, or raise it"
        )
    rates = [phase.learning_rate for phase in phases]
    if min(rates) <= 0 or any(after > before for before, after in itertools.pairwise(rates)):
        raise ValueError(f"increase_batch: learning_rate={rates} must not rise, nor reach 0; give a falling schedule")
    unit, grown = phases[0].global_batch_size, []
    for phase in phases:
        noise = phase.learning_rate / phase.global_batch_size  # what the approximate noise scale is proportional to
        wanted = phases[0].learning_rate / noise
        batch = min(max(round(wanted / unit), 1), max_batch_size // unit) * unit
        grown.append(Phase(phase.start_epoch, noise * batch, batch))
    return grown


class GradientNoise(NamedTuple):
    """Estimates from gradients at two batch sizes, each unbiased, and each too noisy alone: average before dividing.

    Attributes:
      squared_norm: of the true gradient, |G|^2.
      trace: of the covariance of the gradients of single examples, tr(S).
    """

    squared_norm: jax.Array
    trace: jax.Array

    def scale(self) -> jax.Array:
        """The simple noise scale tr(S) / |G|^2, in examples."""
        return self.trace / self.squared_norm


def gradient_noise(
    small_squared_norm: jax.Array, large_squared_norm: jax.Array, small_batch_size: float, large_batch_size: float
) -> GradientNoise:
    """From the squared norms of gradients of small batches, their mean, and of the gradient of all of them together.

    E |g_B|^2 = |G|^2 + tr(S) / B gives two equations. With k devices or micro-batches the small batches are their
    parts and the large one is the global batch: the gradients are there in any case.

    Paper: McCandlish, Kaplan, Amodei, arXiv:1812.06162, appendix A.1.

    Args:
      small_squared_norm: the mean of |g|^2 over gradients of `small_batch_size` examples, each a mean over them.
      large_squared_norm: |g|^2 of the mean over `large_batch_size` examples.
      small_batch_size: examples of a part.
      large_batch_size: of all parts; more than of one.

    Raises:
      ValueError: batch sizes that do not differ.
    """
    if not 0 < small_batch_size < large_batch_size:
        raise ValueError(
            f"gradient_noise: small_batch_size={small_batch_size} must be above 0 and below large_batch_size="
            f"{large_batch_size}; split the batch over devices or micro-batches"
        )
    squared_norm = large_batch_size * large_squared_norm - small_batch_size * small_squared_norm
    trace = (small_squared_norm - large_squared_norm) / (1 / small_batch_size - 1 / large_batch_size)
    return GradientNoise(
        jnp.asarray(squared_norm / (large_batch_size - small_batch_size)),
        jnp.asarray(trace),
    )
