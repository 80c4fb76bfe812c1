"""The last layers of a network: from the last map to what is asked of the image."""

from collections.abc import Sequence

import jax
from flax import linen as nn
from flax.typing import Dtype, Initializer

from arch import AUXILIARY, PENALTIES
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
    use_bias: bool = True,
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
        use_bias: whether the linear layer has one.

    Returns:
        The logits [batch, num_classes], float32 or wider.
    """
    x = global_avg_pool(x)
    x = Dropout(dropout_rate, name="dropout")(x, train=train, examples=examples)
    return nn.Dense(
        num_classes,
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtypes.head,
        param_dtype=dtypes.param,
        name="classifier",
    )(x)


def symmetric_uniform(limit: float) -> Initializer:
    """Initial values from U(-limit, limit); torch's own of a linear layer have the limit 1 / sqrt(fan-in)."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def sow_auxiliary(module: nn.Module, name: str, logits: jax.Array, weight: float) -> None:
    """Gives the logits of an auxiliary head to whoever asks for the collection `AUXILIARY`, as the training step does.

    Make the head where `train or module.is_initializing()`, so that it has parameters and evaluation pays nothing. What
    initialization computes is not kept among the variables.

    Args:
        module: the network, in its compact `__call__`.
        name: of the logits; the head itself has another.
        logits: [batch, num_classes].
        weight: what the head's loss counts, the network's counting 1.
    """
    if not module.is_initializing():
        module.sow(AUXILIARY, name, (logits, weight), init_fn=lambda: None, reduce_fn=lambda _, new: new)


def sow_penalty(module: nn.Module, name: str, value: jax.Array) -> None:
    """Gives a scalar, its weight included, to whoever asks for the collection `PENALTIES`, as the training step does.

    What initialization computes is not kept among the variables.

    Args:
        module: the network, in its compact `__call__`, in training.
        name: of the penalty.
        value: a scalar, what the loss of each example grows by.
    """
    if not module.is_initializing():
        module.sow(PENALTIES, name, value, init_fn=lambda: 0.0, reduce_fn=lambda _, new: new)
