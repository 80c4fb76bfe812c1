"""Operators that only move channels."""

import operator

import jax
import jax.numpy as jnp
from jax import lax

# The scope of a shuffle, by which a profile tells it from other moves.
SHUFFLE = "channel_shuffle"


def channel_shuffle(x: jax.Array, num_groups: int) -> jax.Array:
    """Interleaves the channels of `num_groups` groups: the first of each group, then the second of each, and so on.

    out[..., j * num_groups + i] = x[..., i * (channels / num_groups) + j] on [..., channels]: a view as [num_groups,
    channels / num_groups], transposed. The gradient is the inverse, `channel_unshuffle`.

    This is the convention of the ShuffleNet paper, torch.nn.ChannelShuffle and torchvision's ShuffleNet v2, of IGCV1
    between its two convolutions (from L to M partitions: num_groups = L), and of clcNet (its interlace). The authors'
    code of ShuffleNet v1 has the other one, `channel_unshuffle(x, num_groups)`, and that of ShuffleNet v2 splits even
    channels from odd ones, which is `channel_unshuffle(x, 2)` and then halves. Either mixes all groups; ported weights
    need the matching one.

    Paper: Zhang et al., ShuffleNet (arXiv:1707.01083), section 3.1.
    Parameters: none.
    MACs: 0, data movement.

    Args:
        x: [..., channels], any dtype.
        num_groups: a divisor of channels.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: num_groups does not divide channels.
    """
    _check_groups("channel_shuffle", x, num_groups)
    return _interleave(x, num_groups)


def channel_unshuffle(x: jax.Array, num_groups: int) -> jax.Array:
    """Undoes `channel_shuffle(x, num_groups)`: every num_groups-th channel from the first, then from the second, ...

    out[..., i * (channels / num_groups) + j] = x[..., j * num_groups + i] on [..., channels]: a view as [channels /
    num_groups, num_groups], transposed; equal to `channel_shuffle(x, channels // num_groups)`.

    Paper: Zhang et al., ShuffleNet (arXiv:1707.01083), section 3.1; this direction is that of the authors' code.
    Parameters: none.
    MACs: 0, data movement.

    Args:
        x: [..., channels], any dtype.
        num_groups: of the shuffle that is undone; a divisor of channels.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: num_groups does not divide channels.
    """
    _check_groups("channel_unshuffle", x, num_groups)
    return _interleave(x, x.shape[-1] // num_groups)


def channel_shift(x: jax.Array, shift: int) -> jax.Array:
    """Rolls the channels in a circle, so that the groups of the next convolution straddle those of the one before.

    out[..., c] = x[..., (c - shift) mod channels] on [..., channels]. The inverse, and the gradient, is
    `channel_shift(x, -shift)`.

    Paper: Zhong et al., Shift-based Primitives (arXiv:1809.08458), section 3.
    Parameters: none.
    MACs: 0, data movement; where memory is addressed in a circle, not even that.
    Differs from the paper: the step is the caller's. Half a group, channels // (2 * num_groups), takes half of the
        channels of every group to its neighbour.

    Args:
        x: [..., channels], any dtype.
        shift: channels to move up by; any integer, negative ones move down.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: a shift that is not an integer.
    """
    try:
        shift = operator.index(shift)
    except TypeError:
        raise ValueError(f"channel_shift: shift={shift} must be an integer; round it") from None
    channels = x.shape[-1]
    if channels == 0:
        return x
    # Two crops, and a choice between them: XLA on CPU makes one loop of this, and four times as long a one of
    # concatenated slices, which is what jnp.roll is.
    up, down = shift % channels, shift % channels - channels
    from_below, from_above = (
        lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0)] * (x.ndim - 1) + [(by, -by, 0)]) for by in (up, down)
    )
    return jnp.where(jnp.arange(channels) < up, from_above, from_below)


def _interleave(x: jax.Array, num_groups: int) -> jax.Array:
    with jax.named_scope(SHUFFLE):
        grouped = x.reshape(*x.shape[:-1], num_groups, x.shape[-1] // num_groups)
        return grouped.swapaxes(-1, -2).reshape(x.shape)


def _check_groups(owner: str, x: jax.Array, num_groups: int) -> None:
    channels = x.shape[-1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(
            f"{owner}: num_groups={num_groups} must divide channels={channels}; choose a divisor of {channels}"
        )
