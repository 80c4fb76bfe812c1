"""The last layers of a network: from the last map to what is asked of the image."""

import jax
from flax import linen as nn
from flax.typing import Initializer

from arch.ops.dtypes import Dtypes
from arch.ops.pooling import global_avg_pool
from arch.ops.stochastic import Dropout, Examples


def classifier_head(
    x: jax.Array,
    num_classes: int,
    *,
    dropout_rate: float,
    train: bool,
    examples: Examples | None,
    kernel_init: Initializer,
    dtypes: Dtypes,
    bias_init: Initializer = nn.initializers.zeros,
) -> jax.Array:
    """Mean over the map, dropout and a linear layer.

    Its layers `dropout` and `classifier` belong to the module that calls it, from its compact `__call__`.

    Args:
        x: [batch, height, width, channels].
        num_classes: outputs.
        dropout_rate: in [0, 1].
        train: whether to drop.
        examples: ids, for the dropout, of the batch's examples.
        kernel_init: initial values of the weights.
        dtypes: of the network.
        bias_init: initial values of the bias.

    Returns:
        The logits [batch, num_classes], float32 or wider.
    """
    x = global_avg_pool(x)
    x = Dropout(dropout_rate, name="dropout")(x, train=train, examples=examples)
    return nn.Dense(
        num_classes,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtypes.head,
        param_dtype=dtypes.param,
        name="classifier",
    )(x)


# Logits of auxiliary heads, beside those that a network returns, each with the weight of its loss.
AUXILIARY = "auxiliary"


def sow_auxiliary(module: nn.Module, name: str, logits: jax.Array, weight: float) -> None:
    """Gives the logits of an auxiliary head to whoever asks for the collection `AUXILIARY`, as the training step does.

    Make the head where `train or module.is_initializing()`, so that it has parameters and evaluation pays nothing.

    Args:
        module: the network, in its compact `__call__`.
        name: of the head.
        logits: [batch, num_classes].
        weight: what the head's loss counts, the network's counting 1.
    """
    module.sow(AUXILIARY, name, (logits, weight), init_fn=lambda: None, reduce_fn=lambda _, new: new)
