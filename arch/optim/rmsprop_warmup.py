"""RMSprop warm-up (Akiba, Suzuki, Fukuda, arXiv:1711.04325): a run begins as RMSprop and becomes momentum SGD."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from arch.errors import unknown_name
from arch.optim import masks

FORMS = ("continuous", "as_printed")


def sgd_share(
    epoch: jax.typing.ArrayLike, *, center: float = 10.0, period: float = 5.0, form: str = "continuous"
) -> jax.Array:
    """How much of the step is SGD: exp(2 (epoch - center) / period) / 2, then a line, then 1 from center + period / 2.

    Paper: section 3.1. Differs from the paper: as printed the line is 1/2 + 2 (epoch - center) / period, which reaches
    3/2 before it falls to 1, and makes the share of RMSprop negative; "continuous" has 1/2 + (epoch - center) / period,
    which meets the exponential with equal slope and ends at 1.

    Args:
      epoch: passes over the training split so far, not whole.
      center: where both halves have 1/2.
      period: in epochs, of the transition.
      form: one of FORMS.

    Returns:
      float32 of the shape of `epoch`; in [0, 1] if continuous.

    Raises:
      ValueError: another form.
    """
    if form not in FORMS:
        raise unknown_name("sgd_share: form", form, FORMS)
    distance = (jnp.asarray(epoch, jnp.float32) - center) / period
    slope = 1.0 if form == "continuous" else 2.0
    early, late = 0.5 * jnp.exp(2 * jnp.minimum(distance, 0.0)), 0.5 + slope * distance
    return jnp.where(distance < 0, early, jnp.where(distance < 0.5, late, 1.0))


class RMSpropWarmupState(NamedTuple):
    """Updates so far, int32; the averages of squares and the steps, trees like the parameters."""

    count: jax.Array
    squares: Any
    steps: Any


def rmsprop_warmup(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    *,
    steps_per_epoch: float,
    rmsprop_rate: float = 3e-4,
    decay: float = 0.99,
    epsilon: float = 1e-8,
    center: float = 10.0,
    period: float = 5.0,
    form: str = "continuous",
    weight_decay: float = 0.0,
    decay_mask: masks.Mask | None = None,
) -> optax.GradientTransformation:
    """s = decay s + (1 - decay) g^2;  D = momentum D - (a + b / (sqrt(s) + epsilon)) g;  w = w + learning_rate D.

    a is `sgd_share` of the epoch, and b = (1 - a) rmsprop_rate / learning_rate, so that the rate of RMSprop is its own.
    From epoch center + period / 2 on it is momentum SGD, form 9. Weight decay is coupled: part of g.

    Paper: section 3.1, equations of "RMSprop warm-up", and appendix A: decay 0.99, epsilon 1e-8, rate 3e-4.

    Args:
      learning_rate: number above 0, or schedule `step -> float32`; where it is 0, nothing moves.
      momentum: in [0, 1).
      steps_per_epoch: training examples / global batch; need not be whole.
      rmsprop_rate: learning rate of RMSprop, above 0.
      decay: of the averages of squares, in [0, 1).
      epsilon: added to the root.
      center, period, form: as in `sgd_share`.
      weight_decay: coefficient of w, >= 0.
      decay_mask: which leaves decay, as for `momentum_sgd`.

    Returns:
      Transformation whose updates have the dtype of the parameters; its averages are at least float32.

    Raises:
      ValueError: another form.
    """
    if form not in FORMS:
        raise unknown_name("rmsprop_warmup: form", form, FORMS)

    def init(params: optax.Params) -> RMSpropWarmupState:
        zeros = jax.tree.map(lambda w: jnp.zeros_like(w, dtype=jnp.promote_types(w.dtype, jnp.float32)), params)
        return RMSpropWarmupState(jnp.zeros([], jnp.int32), zeros, zeros)

    def update(
        updates: optax.Updates, state: RMSpropWarmupState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, RMSpropWarmupState]:
        del params
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        share = sgd_share(state.count / steps_per_epoch, center=center, period=period, form=form)
        moves = rate > 0
        rms_share = jnp.where(moves, (1 - share) * rmsprop_rate / jnp.where(moves, rate, 1.0), 0.0)

        def leaf(g: jax.Array, s: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            wide = g.astype(s.dtype)
            s = decay * s + (1 - decay) * jnp.square(wide)
            factor = share.astype(s.dtype) + rms_share.astype(s.dtype) / (jnp.sqrt(s) + epsilon)
            d = momentum * d - factor * wide
            return (jnp.asarray(rate, s.dtype) * d).astype(g.dtype), s, d

        triples = jax.tree.map(leaf, updates, state.squares, state.steps)
        moved, squares, steps = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0, 0, 0)), triples)
        return moved, RMSpropWarmupState(optax.safe_increment(state.count), squares, steps)

    transform = optax.GradientTransformation(init, update)
    if weight_decay == 0.0:
        return transform
    mask = masks.decay_mask if decay_mask is None else decay_mask
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=mask), transform)
