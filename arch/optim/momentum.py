"""Stochastic gradient descent with momentum."""

import optax

from arch.optim import masks


def momentum_sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: float = 0.9,
    *,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decay_mask: masks.Mask | None = None,
) -> optax.GradientTransformation:
    """Momentum SGD with the learning rate outside the buffer: Goyal et al. 2017 (arXiv:1706.02677) equation (9).

    u = momentum u + g + weight_decay w;  w = w - learning_rate u. The buffer holds gradients and knows no learning
    rate, so a change of the rate acts at once and needs no momentum correction (section 3, equation (10)).

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

    Returns:
      Transformation whose updates have the dtype of the parameters; state: the buffer and, of a schedule, the step.
    """
    decay = []
    if weight_decay != 0.0:
        decay = [optax.add_decayed_weights(weight_decay, mask=masks.decay_mask if decay_mask is None else decay_mask)]
    return optax.chain(
        *decay,
        optax.trace(decay=momentum, nesterov=nesterov),
        optax.scale_by_learning_rate(learning_rate),
    )
