"""The gradient of the validation loss in the architecture, through one step of the weights: DARTS, arXiv:1806.09055.

The architecture alpha is to lower L_val(w*(alpha), alpha), where w* are the weights that lower L_train(w, alpha). One
step w' = w - rate (momentum buffer + dL_train/dw + weight_decay w) stands for w*, so that

    d/dalpha L_val(w', alpha) = dL_val/dalpha(w', alpha) - rate d^2 L_train/(dalpha dw)(w, alpha) v,
    v = dL_val/dw(w', alpha).

The second term is a derivative of dL_train/dalpha along v: by forward mode exactly, or of two gradients as published.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from arch.errors import unknown_name

ORDERS = ("first", "second", "finite_difference")

Loss = Callable[[Any, Any], jax.Array]  # (weights, alphas) -> scalar


def architecture_gradient(
    train_loss: Loss,
    val_loss: Loss,
    weights: Any,
    alphas: Any,
    *,
    order: str,
    learning_rate: jax.typing.ArrayLike = 0.0,
    momentum: float = 0.0,
    buffer: Any = None,
    weight_decay: float = 0.0,
    radius: float = 0.01,
) -> Any:
    """The gradient in the architecture, a tree like `alphas`.

    Both losses are pure: batch norms normalize by the batch, and the running statistics of the passes here are dropped.

    Args:
      train_loss: (weights, alphas) -> mean loss of a training batch.
      val_loss: likewise of a validation batch.
      weights: of the network.
      alphas: of the architecture.
      order: "first" takes w' = w and no second term (the paper's xi = 0); "second" is exact; "finite_difference" is the
        paper's equation (8).
      learning_rate: of the step of the weights, xi in the paper; not of order first.
      momentum: of that step; 0 is the paper's equation, the authors' code has 0.9.
      buffer: of that momentum, a tree like `weights`; None is zero.
      weight_decay: of that step, coupled.
      radius: of finite_difference, the length of the step to either side; 0.01 in the paper.

    Raises:
      ValueError: another order; momentum without a buffer.
    """
    if order not in ORDERS:
        raise unknown_name("architecture_gradient: order", order, ORDERS)
    if order == "first":
        return jax.grad(val_loss, argnums=1)(weights, alphas)
    if momentum and buffer is None:
        raise ValueError(f"architecture_gradient: momentum={momentum} needs a buffer; pass that of the optimizer")
    direction = jax.grad(train_loss)(weights, alphas)
    direction = jax.tree.map(lambda g, w: g + weight_decay * w, direction, weights)
    if momentum:
        direction = jax.tree.map(lambda d, b: momentum * b + d, direction, buffer)
    stepped = jax.tree.map(lambda w, d: w - learning_rate * d, weights, direction)
    towards, direct = jax.grad(val_loss, argnums=(0, 1))(stepped, alphas)

    def alpha_gradient(weights: Any) -> Any:
        return jax.grad(train_loss, argnums=1)(weights, alphas)

    if order == "second":
        _, mixed = jax.jvp(alpha_gradient, (weights,), (towards,))
    else:
        norm = optax.tree.norm(towards)
        epsilon = radius / jnp.where(norm > 0, norm, 1)
        above, below = (
            alpha_gradient(jax.tree.map(lambda w, v, s=sign: w + s * epsilon * v, weights, towards)) for sign in (1, -1)
        )
        mixed = jax.tree.map(lambda a, b: (a - b) / (2 * epsilon), above, below)
    return jax.tree.map(lambda g, h: g - learning_rate * h, direct, mixed)
