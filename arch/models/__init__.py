"""Networks by name: `create("shufflenet_v2_x1_0", num_classes=10)`."""

import functools
from typing import Any

from flax import linen as nn

from arch.errors import named_factory
from arch.models.classification.mobilenet_v2 import MobileNetV2
from arch.models.classification.resnet import ResNet
from arch.models.classification.shufflenet_v2 import ShuffleNetV2

MODELS = {
    "mobilenet_v2": functools.partial(MobileNetV2),
    "resnet50": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3)),
    "resnext50_32x4d": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3), groups=32, base_width=4),
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
