"""The layer of a gradually updated network: channels are computed segment by segment, each from the newest others."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from arch.ops.conv import Conv


def gradually_update(x: jax.Array, updates: Sequence[Callable[[jax.Array], jax.Array]]) -> jax.Array:
    """Adds to each segment of the channels, in turn, a function of all channels as they are by then.

    With x = [x_1, ..., x_P], P = len(updates), for i = 1, ..., P: x_i <- x_i + f_i([x_1, ..., x_P]), where x_1, ...,
    x_(i-1) are the new ones already. It depends on the order: computed side by side, from the old x, it is another
    function (a residual unit).

    Paper: Qiao et al., Gradually Updated Neural Networks (arXiv:1711.09280), section 3.
    Parameters: those of the updates; `GraduallyUpdated` has the paper's.
    MACs: those of the updates.

    Args:
        x: [..., channels], floating point.
        updates: f_1, ..., f_P, from [..., channels] to [..., channels / P].

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: a number of updates that does not divide channels; an update of another shape than its segment.
    """
    count, channels = len(updates), x.shape[-1]
    if count < 1 or channels % count:
        raise ValueError(
            f"gradually_update: len(updates)={count} must divide channels={channels}; choose a divisor of {channels}"
        )
    segment = channels // count
    for i, update in enumerate(updates):
        change = update(x)
        if change.shape != (*x.shape[:-1], segment):
            raise ValueError(
                f"gradually_update: updates[{i}] must return its segment's shape {(*x.shape[:-1], segment)}, not "
                f"{change.shape}; give it {segment} channels"
            )
        # One sum over all channels, whose gradient is one sum too: cheaper than to join the segments for each update.
        before, after = i * segment, channels - (i + 1) * segment
        x = x + jnp.pad(change.astype(x.dtype), [(0, 0)] * (x.ndim - 1) + [(before, after)])
    return x


class GraduallyUpdated(nn.Module):
    """A GUNN layer: `gradually_update` of its channels by small bottlenecks, one for each segment.

    With channels in P = num_segments segments of o = channels / P, f_i is 1x1 to 2 * o, norm, act, 3x3 to 2 * o, norm,
    act, 1x1 to o, norm; with `projection` plus 1x1 from all channels to o, norm. No activation follows the sum.

    Paper: Qiao et al., Gradually Updated Neural Networks (arXiv:1711.09280), sections 3 and 4.
    Parameters: for each segment i from 1, of kernels `segment<i>_reduce` [1, 1, channels, 2 * o], `segment<i>_conv` [3,
        3, 2 * o, 2 * o], `segment<i>_expand` [1, 1, 2 * o, o], with `projection` `segment<i>_projection` [1, 1,
        channels, o]; those of a norm beside each (`segment<i>_reduce_norm`), and what biases `conv` has.
    MACs: height * width * P * (2 * channels * o + 36 * o^2 + 2 * o^2), with `projection` height * width * P * channels
        * o more.

    Attributes:
        num_segments: P, a divisor of the channels.
        projection: adds the linear term, as the paper's CIFAR networks do, and its ImageNet ones do not.
        conv: makes the convolutions from their fields; bind here what they share: the paper's have no bias.
        norm: makes a normalization, a function of x alone, from its name; None leaves all of them out.
        act: the activation.
    """

    num_segments: int
    projection: bool = False
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., Callable[[jax.Array], jax.Array]] | None = None
    act: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, height, width, channels] to the same shape.

        Raises:
            ValueError: num_segments that does not divide channels.
        """
        channels = x.shape[-1]
        if self.num_segments < 1 or channels % self.num_segments:
            raise ValueError(
                f"GraduallyUpdated: num_segments={self.num_segments} must divide channels={channels}; choose a divisor"
            )
        names = [f"segment{i}" for i in range(1, self.num_segments + 1)]
        return gradually_update(x, [functools.partial(self._update, name) for name in names])

    def _update(self, name: str, x: jax.Array) -> jax.Array:
        features = x.shape[-1] // self.num_segments
        change = self.act(self._conv(x, 2 * features, 1, f"{name}_reduce"))
        change = self.act(self._conv(change, 2 * features, 3, f"{name}_conv"))
        change = self._conv(change, features, 1, f"{name}_expand")
        if self.projection:
            change = change + self._conv(x, features, 1, f"{name}_projection")
        return change

    def _conv(self, x: jax.Array, features: int, kernel_size: int, name: str) -> jax.Array:
        x = self.conv(features=features, kernel_size=(kernel_size, kernel_size), name=name)(x)
        return x if self.norm is None else self.norm(name=f"{name}_norm")(x)
