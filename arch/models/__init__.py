"""Networks by name: `create("shufflenet_v2_x1_0", num_classes=10)`."""

import functools
from typing import Any

from flax import linen as nn

from arch.errors import named_factory
from arch.models.classification.shufflenet_v2 import ShuffleNetV2

MODELS = {
    "shufflenet_v2_x0_5": functools.partial(ShuffleNetV2, width_multiplier=0.5),
    "shufflenet_v2_x1_0": functools.partial(ShuffleNetV2, width_multiplier=1.0),
    "shufflenet_v2_x1_5": functools.partial(ShuffleNetV2, width_multiplier=1.5),
    "shufflenet_v2_x2_0": functools.partial(ShuffleNetV2, width_multiplier=2.0),
}


def create(name: str, **overrides: Any) -> nn.Module:
    """The network of this name.

    Args:
        name: a key of MODELS.
        **overrides: fields of the network, such as num_classes, norm, dtype.

    Returns:
        A linen module, called as `model(x, *, train, examples=None)`.

    Raises:
        ValueError: a name, or a field, that does not exist.
    """
    return named_factory("arch.models.create", MODELS, name, overrides)(**overrides)
