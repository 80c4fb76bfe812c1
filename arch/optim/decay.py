"""Decoupled weight decay: taken from the weights beside the step, not part of the gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from arch.optim import masks


class DecayState(NamedTuple):
    """Updates so far, int32."""

    count: jax.Array


def decoupled_weight_decay(decay: optax.Schedule, mask: masks.Mask) -> optax.GradientTransformation:
    """Takes decay(step) w from the updates; for the end of a chain, behind the learning rate.

    Paper: Loshchilov and Hutter, Decoupled Weight Decay Regularization (arXiv:1711.05101), algorithm 1.

    k steps shrink a weight by (1 - decay)^k, about 1 - k decay, so that a batch k times as large needs k times the
    decay: unlike coupled decay it does not grow along with the learning rate. A schedule in proportion to the rate does
    both.

    Args:
      decay: `step -> share of a weight`, in [0, 1).
      mask: which leaves decay: tree of bool, or function of the parameters that makes one.
    """

    def init(params: optax.Params) -> DecayState:
        masks.resolve(mask, params)  # says now what it would say later
        return DecayState(jnp.zeros([], jnp.int32))

    def update(
        updates: optax.Updates, state: DecayState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, DecayState]:
        if params is None:
            raise ValueError("decoupled_weight_decay: params=None must be the parameters; pass them to update")
        share = decay(state.count)
        decayed = jax.tree.map(
            lambda u, w, decays: u - jnp.asarray(share, w.dtype) * w if decays else u,
            updates,
            params,
            masks.resolve(mask, params),
        )
        return decayed, DecayState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)
