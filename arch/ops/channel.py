"""Operators that only move channels."""

import jax


def channel_shuffle(x: jax.Array, num_groups: int) -> jax.Array:
    """Interleaves the channels of `num_groups` groups: the first of each group, then the second of each, and so on.

    ShuffleNet (arXiv:1707.01083), section 3.1. out[..., j * num_groups + i] = x[..., i * channels / num_groups + j].
    The inverse is `channel_shuffle(x, channels // num_groups)`, which is also the other convention in use.

    Args:
        x: [..., channels], any dtype.
        num_groups: a divisor of channels.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: num_groups does not divide channels.
    """
    channels = x.shape[-1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"channel_shuffle: num_groups={num_groups} must divide channels={channels}; choose a divisor of {channels}"
        )
    grouped = x.reshape(*x.shape[:-1], num_groups, channels // num_groups)
    return grouped.swapaxes(-1, -2).reshape(x.shape)
