"""timm's names for MobileNet v1."""

import re
from collections.abc import Sequence

from arch.models.classification.mobilenet_v1 import MobileNetV1

_LAYERS = {"depthwise": "conv_dw", "depthwise_norm": "bn1", "pointwise": "conv_pw", "norm": "bn2"}
_ENDS = {"stem_conv": "conv_stem", "stem_norm": "bn1", "classifier": "classifier"}


def timm(model: MobileNetV1, layers: Sequence[str]) -> str:
    """The module of timm's `mobilenetv1_100` that holds the tensors of one of our layers."""
    del model
    if len(layers) == 1:
        return _ENDS[layers[0]]
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    return f"blocks.{stage - 1}.{unit - 1}.{_LAYERS[layers[-1]]}"
