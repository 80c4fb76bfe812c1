"""The activations that a search over formulas found, and all that the networks use, by name."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch.errors import unknown_name

Activation = Callable[[jax.Array], jax.Array]


def _at_least_float32(function: Activation) -> Activation:
    """Computes in float32 or wider what takes differences and products of rounded values; returns the dtype of x."""

    @functools.wraps(function)
    def wide(x: jax.Array) -> jax.Array:
        x = _floating(function.__name__, x)
        return function(x.astype(_wide(x))).astype(x.dtype)

    return wide


def swish(x: jax.Array, beta: float | jax.Array = 1.0) -> jax.Array:
    """x * sigmoid(beta * x), elementwise on any shape; the winner of the search.

    beta = 0 is x / 2, and with beta towards infinity it becomes relu. Unlike after relu, the scale of a batch norm
    before it is not redundant.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), section 4.
    Parameters: none; `Swish` trains beta [channels].
    MACs: 0, elementwise.

    Args:
        x: [...] or [..., channels], floating point; computed in at least float32.
        beta: a number, or an array that broadcasts to x, such as [channels].

    Returns:
        The shape and dtype of x.

    Raises:
        ValueError: integers; a beta that does not broadcast to x.
    """
    x, beta = _floating("swish", x), jnp.asarray(beta)
    # The trailing axes, from behind: those of beta are 1 or as in x.
    if beta.ndim > x.ndim or any(b not in (1, n) for b, n in zip(beta.shape[::-1], x.shape[::-1], strict=False)):
        raise ValueError(f"swish: beta of shape {beta.shape} must broadcast to x of shape {x.shape}; give [channels]")
    wide = x.astype(_wide(x))
    return (wide * jax.nn.sigmoid(beta.astype(wide.dtype) * wide)).astype(x.dtype)


class Swish(nn.Module):
    """`swish` with a trained beta for each channel.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), section 4.
    Parameters: `beta` [channels].
    MACs: 0, elementwise.

    Attributes:
        param_dtype: of beta.
        beta_init: its initial values.
    """

    param_dtype: Dtype = jnp.float32
    beta_init: Initializer = nn.initializers.ones_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., channels], floating point, to the same shape and dtype."""
        return swish(x, self.param("beta", self.beta_init, (x.shape[-1],), self.param_dtype))


@_at_least_float32
def max_sigmoid(x: jax.Array) -> jax.Array:
    """max(x, sigmoid(x)), elementwise on any shape; the two cross at 0.6590.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.

    Raises:
        ValueError: integers.
    """
    return jnp.maximum(x, jax.nn.sigmoid(x))


@_at_least_float32
def cos_minus(x: jax.Array) -> jax.Array:
    """cos(x) - x, elementwise on any shape; never rising.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.

    Raises:
        ValueError: integers.
    """
    return jnp.cos(x) - x


@_at_least_float32
def min_sin(x: jax.Array) -> jax.Array:
    """min(x, sin(x)), elementwise on any shape; both have slope 1 where they meet, at 0.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.

    Raises:
        ValueError: integers.
    """
    return jnp.minimum(x, jnp.sin(x))


@_at_least_float32
def atan_squared_minus(x: jax.Array) -> jax.Array:
    """atan(x)^2 - x, elementwise on any shape.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.

    Raises:
        ValueError: integers.
    """
    return jnp.square(jnp.arctan(x)) - x


@_at_least_float32
def max_tanh(x: jax.Array) -> jax.Array:
    """max(x, tanh(x)), elementwise on any shape; both have slope 1 where they meet, at 0.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.

    Raises:
        ValueError: integers.
    """
    return jnp.maximum(x, jnp.tanh(x))


@_at_least_float32
def sinc_plus(x: jax.Array) -> jax.Array:
    """sinc(x) + x with sinc(x) = sin(x) / x, and 1 at 0; elementwise on any shape.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.
    Differs from the paper: it does not say whether its sinc has a pi, as that of NumPy has; this one has none.

    Raises:
        ValueError: integers.
    """
    # The derivative of the quotient cancels near 0: at 1e-6 in float32 nothing of it is left. A series has no quotient.
    near = jnp.abs(x) < 0.5
    series = jnp.polyval(jnp.asarray(_SINC_SERIES, x.dtype), jnp.where(near, jnp.square(x), 0))
    far = jnp.where(near, 1, x)
    return jnp.where(near, series, jnp.sin(far) / far) + x


# Of sin(x) / x in powers of x^2, the highest first; what is left out is below 1e-17 for |x| < 0.5.
_SINC_SERIES = (-1 / 1307674368000, 1 / 6227020800, -1 / 39916800, 1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1.0)


@_at_least_float32
def asinh_squared(x: jax.Array) -> jax.Array:
    """x * asinh(x)^2, elementwise on any shape; it grows faster than x, and was the worst of the table.

    Paper: Ramachandran et al., Searching for Activation Functions (arXiv:1710.05941), table 1.
    Parameters: none.
    MACs: 0, elementwise.

    Raises:
        ValueError: integers.
    """
    return _asinh_squared(x)


@jax.custom_jvp
def _asinh_squared(x: jax.Array) -> jax.Array:
    return x * jnp.square(jnp.arcsinh(x))


@_asinh_squared.defjvp
def _asinh_squared_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # With a = asinh(x): x * a' = x / sqrt(1 + x^2) = tanh(a), which no square of x can make overflow.
    (x,), (tangent,) = primals, tangents
    a = jnp.arcsinh(x)
    return x * jnp.square(a), a * (a + 2 * jnp.tanh(a)) * tangent


# Of the search, in the order of its table; then what else the networks have.
ACTIVATIONS: dict[str, Activation] = {
    "relu": jax.nn.relu,
    "swish": swish,
    "max_sigmoid": max_sigmoid,
    "cos_minus": cos_minus,
    "min_sin": min_sin,
    "atan_squared_minus": atan_squared_minus,
    "max_tanh": max_tanh,
    "sinc_plus": sinc_plus,
    "asinh_squared": asinh_squared,
    "relu6": jax.nn.relu6,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
}


def create(name: str) -> Activation:
    """The activation of that name, an elementwise function, to be the `act` of a network.

    Args:
        name: a key of ACTIVATIONS.

    Raises:
        ValueError: a name that does not exist.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("arch.ops.activation.create", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def _floating(owner: str, x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{owner}: x must be floating point, not {x.dtype}; convert it")
    return x


def _wide(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)
