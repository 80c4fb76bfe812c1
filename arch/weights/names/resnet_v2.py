"""timm's names for ResNet with pre-activation."""

import re
from collections.abc import Sequence

from arch.models.classification.resnet_v2 import ResNetV2

_ENDS = {"stem_conv": "stem.conv", "final_norm": "norm", "classifier": "head.fc"}


def timm(model: ResNetV2, layers: Sequence[str]) -> str:
    """The module of timm's `resnetv2_50` and its kin that holds the tensors of one of our layers."""
    del model
    if len(layers) == 1:
        return _ENDS[layers[0]]
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    layer = "downsample.conv" if layers[1] == "shortcut_conv" else layers[1]
    return f"stages.{stage - 1}.blocks.{unit - 1}.{layer}"
