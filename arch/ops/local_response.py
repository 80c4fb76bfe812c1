"""Each pixel divided by a power of what lies in the channels around it."""

import jax
import jax.numpy as jnp
from jax import lax

from arch.errors import check_map


def local_response_norm(
    x: jax.Array, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, offset: float = 1.0
) -> jax.Array:
    """Local response normalization across channels, as Caffe and torch have it; computed in at least float32.

    y[c] = x[c] / (offset + alpha / size * sum over the `size` channels d around c of x[d]^2)^beta; channels that do not
        exist are 0.

    Paper: Krizhevsky et al., AlexNet (NIPS 2012), section 3.3.
    Parameters: none.
    MACs: 0, a square and a sum an element.
    Differs from the paper: alpha is divided by the size, and the offset is 1, not 2; both as in Caffe.

    Args:
        x: [batch, height, width, channels], floating point.
        size: channels that count, odd, centred on c.
        alpha: weight of their mean square.
        beta: the power.
        offset: what is added to it, above 0.

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: x that is not four-dimensional and floating point; a size that is not odd and positive.
    """
    check_map("local_response_norm", x)
    if size < 1 or size % 2 == 0:
        raise ValueError(f"local_response_norm: size={size} must be odd and positive, so that it has a centre")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    channels, reach = x.shape[3], size // 2
    squares = jnp.pad(jnp.square(wide), ((0, 0), (0, 0), (0, 0), (reach, reach)))
    total = sum(lax.slice_in_dim(squares, start, start + channels, axis=3) for start in range(size))
    return (wide * (offset + alpha / size * total) ** -beta).astype(x.dtype)
