"""The dtypes of a network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax.typing import Dtype


class Dtypes(NamedTuple):
    """What the layers of a network compute and keep.

    Attributes:
        compute: of activations.
        head: of what must not lose digits, such as the classifier: `compute`, at least float32.
        param: of parameters.
    """

    compute: jnp.dtype
    head: jnp.dtype
    param: jnp.dtype


def resolve_dtypes(owner: str, x: jax.Array, dtype: Dtype | None, param_dtype: Dtype | None) -> Dtypes:
    """The dtypes of a network from its input and from its fields `dtype` and `param_dtype`.

    Args:
        owner: the network, for the error.
        x: images, floating point.
        dtype: of the computation; None takes that of x.
        param_dtype: of the parameters; None takes the computation's, at least float32.

    Raises:
        ValueError: integer images.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{owner}: x must be floating point, not {x.dtype}; convert and normalize the images")
    compute = jnp.dtype(dtype or x.dtype)
    head = jnp.promote_types(compute, jnp.float32)
    return Dtypes(compute, head, jnp.dtype(param_dtype or head))
