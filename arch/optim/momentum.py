"""Stochastic gradient descent with momentum, in the two forms that differ when the learning rate changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from arch.optim import masks

FORMS = (9, 10)


def momentum_sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_mask: masks.Mask | None = None,
    form: int = 9,
    correct_momentum: bool = True,
) -> optax.GradientTransformation:
    """Momentum SGD in either form of Goyal et al. 2017 (arXiv:1706.02677), equations (9) and (10).

    Form 9: u = momentum u + g + weight_decay w;  w = w - learning_rate u. The buffer holds gradients and knows no
    learning rate, so a change of the rate acts at once.

    Form 10: v = momentum v + learning_rate (g + weight_decay w);  w = w - v. The buffer holds steps at the old rate.
    The paper's momentum correction (section 3, remark 2) multiplies it by the quotient of the new rate and the old one,
    and then both forms are one; without it the steps lag behind a rate that rises, as many implementations have it.
    From a rate of 0 there is nothing to correct: the buffer is empty, where that of form 9 has gathered gradients.

    Weight decay is coupled: part of the gradient, hence multiplied by the learning rate, and kept as it is when batch
    and rate grow (remark 1). It is added once, here, to the gradient averaged over devices; an L2 term in the loss of
    every worker, under a reduction that sums, would be too large by the number of devices.

    Args:
      learning_rate: number, or schedule `step -> float32`.
      momentum: in [0, 1).
      nesterov: the step is momentum u + g + weight_decay w of the new u.
      weight_decay: coefficient of w, >= 0.
      decay_mask: which leaves decay: tree of bool, or function of the parameters that makes one; None takes
        `masks.decay_mask`, the leaves of two dimensions and more. Not used where `weight_decay` is 0.
      form: 9 or 10.
      correct_momentum: of form 10.

    Returns:
      Transformation whose updates have the dtype of the parameters; state: the buffer and, of a schedule, the step.

    Raises:
      ValueError: another form.
    """
    if form not in FORMS:
        raise ValueError(f"momentum_sgd: form={form} must be 9 (rate outside the buffer) or 10 (inside); choose one")
    decay = []
    if weight_decay != 0.0:
        decay = [optax.add_decayed_weights(weight_decay, mask=masks.decay_mask if decay_mask is None else decay_mask)]
    if form == 10:
        return optax.chain(*decay, _rate_inside(learning_rate, momentum, nesterov, correct_momentum))
    return optax.chain(
        *decay,
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )


class _InsideState(NamedTuple):
    """Updates so far, int32, and the steps that the buffer holds, a tree like the parameters."""

    count: jax.Array
    velocity: Any


def _rate_inside(
    learning_rate: optax.ScalarOrSchedule, momentum: float, nesterov: bool, correct: bool
) -> optax.GradientTransformation:
    """Form 10, of gradients with their weight decay."""
    rate_at = learning_rate if callable(learning_rate) else lambda step: jnp.asarray(learning_rate, jnp.float32)

    def init(params: optax.Params) -> _InsideState:
        return _InsideState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: _InsideState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, _InsideState]:
        del params
        rate, before = rate_at(state.count), rate_at(jnp.maximum(state.count - 1, 0))
        kept = momentum * jnp.where(before > 0, rate / jnp.where(before > 0, before, 1.0), 1.0) if correct else momentum
        scaled = jax.tree.map(lambda g: jnp.asarray(rate, g.dtype) * g, updates)
        velocity = jax.tree.map(lambda v, g: jnp.asarray(kept, v.dtype) * v + g, state.velocity, scaled)
        step = jax.tree.map(lambda v, g: momentum * v + g, velocity, scaled) if nesterov else velocity
        return jax.tree.map(jnp.negative, step), _InsideState(optax.safe_increment(state.count), velocity)

    return optax.GradientTransformation(init, update)
