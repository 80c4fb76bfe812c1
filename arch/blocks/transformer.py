"""The encoder layer of the Transformer, and the encoding of positions in a map."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from arch.attention.dot_product import MultiHeadAttention

# Makes a function of x alone from its name.
Factory = Callable[..., Callable[[jax.Array], jax.Array]]


class TransformerLayer(nn.Module):
    """Attention of all tokens to all, then two dense layers, each added to its input (arXiv:1706.03762), section 3.1.

    With `pre_norm` x + f(norm(x)), else, as in the paper, norm(x + f(x)).

    Attributes:
        num_heads: of the attention; a divisor of x's features.
        mlp_features: of the hidden dense layer.
        pre_norm: normalizes what a sublayer reads, else what it leaves.
        norm: makes a normalization, a function of x alone, from its name.
        act: between the dense layers.
        drop: makes the dropout of a sublayer's output, a function of x alone, from its name.
        attention: makes the attention from its fields.
        dense: makes a dense layer from its fields.
    """

    num_heads: int
    mlp_features: int
    pre_norm: bool
    norm: Factory
    act: Callable[[jax.Array], jax.Array]
    drop: Factory
    attention: Callable[..., nn.Module] = MultiHeadAttention
    dense: Callable[..., nn.Module] = nn.Dense

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch, tokens, features] to the same shape."""

        def attend(x: jax.Array) -> jax.Array:
            return self.attention(num_heads=self.num_heads, name="attention")(x)

        def mlp(x: jax.Array) -> jax.Array:
            features = x.shape[-1]
            x = self.act(self.dense(self.mlp_features, name="hidden")(x))
            return self.dense(features, name="out")(x)

        for number, sublayer in enumerate((attend, mlp), start=1):
            norm, drop = self.norm(name=f"norm{number}"), self.drop(name=f"dropout{number}")
            x = x + drop(sublayer(norm(x))) if self.pre_norm else norm(x + drop(sublayer(x)))
        return x


def sinusoidal_positions(height: int, width: int, features: int) -> jax.Array:
    """Numbers that tell each position of a map from the others: sines and cosines of its row and of its column.

    The first half of the features encodes the row, the second the column, each as section 3.5 of arXiv:1706.03762
    encodes the place of a word: features 2 i and 2 i + 1 are sin and cos of position / 10000^(2 i / half).

    Args:
        height: rows.
        width: columns.
        features: a multiple of 4.

    Returns:
        [height, width, features], float32 or, where JAX has float64, float64.

    Raises:
        ValueError: features that are not a multiple of 4.
    """
    if features < 4 or features % 4:
        raise ValueError(
            f"sinusoidal_positions: features={features} must be a multiple of 4, for sines and cosines of two axes; "
            f"take {max(4, features + -features % 4)}"
        )
    half = features // 2
    rates = 10000.0 ** (-np.arange(0, half, 2) / half)

    def encode(count: int) -> np.ndarray:
        angles = np.arange(count)[:, None] * rates
        return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(count, half)

    rows = np.broadcast_to(encode(height)[:, None], (height, width, half))
    columns = np.broadcast_to(encode(width)[None], (height, width, half))
    return jnp.asarray(np.concatenate([rows, columns], -1))
