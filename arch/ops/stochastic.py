"""Randomness that follows an example, not a device: the same noise for any number of devices or hosts."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn


class Examples(NamedTuple):
    """What a layer may need to know of the examples of its batch beside their values.

    Attributes:
        weight: [batch], 0 (padding, an undecodable record) or above: how much an example counts; None counts all as 1.
        id: [batch] int32, the position in the global batch; None stands for 0, 1, 2, ...
    """

    weight: jax.Array | None = None
    id: jax.Array | None = None


def example_keys(key: jax.Array, ids: jax.Array) -> jax.Array:
    """One key an example, a function of `key` and of the example's id alone.

    Args:
        key: a jax.random key, the same on every device.
        ids: [batch] integers.

    Returns:
        [batch] keys, of the kind of `key`.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, ids)


def like_examples(values: jax.Array, x: jax.Array) -> jax.Array:
    """What each example has, [batch], with as many axes as x [batch, ...]."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def dropout(x: jax.Array, key: jax.Array, rate: float, ids: jax.Array | None = None) -> jax.Array:
    """Zeroes each value with probability `rate`, and scales the others by 1 / (1 - rate).

    y = x * kept / (1 - rate), kept ~ Bernoulli(1 - rate) for each value.

    Paper: Srivastava et al., Dropout (JMLR 15, 2014), section 4.
    Parameters: none.
    MACs: 0, a product an element.
    Differs from the paper: it scales in training, and leaves evaluation alone.

    Args:
        x: [batch, ...], floating point.
        key: a jax.random key, the same on every device.
        rate: in [0, 1].
        ids: [batch], the examples' positions in the global batch; None stands for 0, 1, 2, ...

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: rate outside [0, 1].
    """
    _check_rate("dropout", rate)
    if rate == 0.0:
        return x
    if rate == 1.0:
        return jnp.zeros_like(x)
    ids = jnp.arange(x.shape[0]) if ids is None else ids
    keep = jax.vmap(lambda each: jax.random.bernoulli(each, 1.0 - rate, x.shape[1:]))(example_keys(key, ids))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


class Dropout(nn.Module):
    """`dropout` with its key from the rng stream "dropout"; the identity in evaluation.

    Attributes:
        rate: probability that a value is zeroed, in [0, 1].
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, examples: Examples | None = None) -> jax.Array:
        _check_rate("Dropout", self.rate)
        if not train or self.rate == 0.0:
            return x
        return dropout(x, self.make_rng("dropout"), self.rate, None if examples is None else examples.id)


def _check_rate(owner: str, rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"{owner}: rate={rate} must lie in [0, 1]; it is the share of values that are zeroed")
