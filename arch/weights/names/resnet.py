"""torchvision's names for ResNet and ResNeXt."""

import re
from collections.abc import Sequence

from arch.models.classification.resnet import ResNet

_LAYERS = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2", "conv3": "conv3", "norm3": "bn3"}
_LAYERS |= {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
_ENDS = {"stem_conv": "conv1", "stem_norm": "bn1", "classifier": "fc"}


def torchvision(model: ResNet, layers: Sequence[str]) -> str:
    """The module of torchvision's `resnet*` and `resnext*` that holds the tensors of one of our layers."""
    del model
    if len(layers) == 1:
        return _ENDS[layers[0]]
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    return f"layer{stage}.{unit - 1}.{_LAYERS[layers[1]]}"
