"""How far the training is, for layers that change with it: a variable of the network, which `after_step` sets."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

COLLECTION = "schedule"


def training_progress(module: nn.Module, dtype: Dtype) -> jax.Array:
    """The share of the training that is done, in [0, 1], a scalar; 0 until `set_progress` has set it.

    Args:
        module: the network, in its compact `__call__`, in initialization too.
        dtype: float32 or wider.
    """
    return module.variable(COLLECTION, "progress", lambda: jnp.zeros((), dtype)).value


def set_progress(variables: Mapping[str, Any], progress: float | jax.Array) -> dict[str, Any]:
    """The variables of a network that knows that share; of one that asks for none, as they are.

    A network's method `after_step` is this, so that the training step calls it and a checkpoint keeps it.

    Args:
        variables: of the network.
        progress: share of the training that is done, in [0, 1]; may be traced.
    """
    if COLLECTION not in variables:
        return dict(variables)
    told = jax.tree.map(lambda old: jnp.asarray(progress, old.dtype), variables[COLLECTION])
    return {**variables, COLLECTION: told}
