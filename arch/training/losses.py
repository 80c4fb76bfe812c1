"""Losses an example: [batch] from [batch, num_classes]; the step weights and averages them."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy in nats, with label smoothing (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Args:
      logits: [batch, num_classes]; computed in float32, or in float64 where they are.
      labels: int [batch].
      label_smoothing: in [0, 1); this share of the target is spread evenly over all classes, its own among them.

    Returns:
      [batch], float32 or wider.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))
