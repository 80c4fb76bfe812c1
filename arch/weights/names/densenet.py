"""torchvision's and timm's names for DenseNet."""

import re
from collections.abc import Sequence

from arch.models.classification.densenet import DenseNet

_ENDS = {"stem_conv": "features.conv0", "stem_norm": "features.norm0"}
_ENDS |= {"head_norm": "features.norm5", "classifier": "classifier"}


def torchvision(model: DenseNet, layers: Sequence[str]) -> str:
    """The module of torchvision's `densenet121` and its kin that holds the tensors of one of our layers."""
    del model
    if len(layers) == 1:
        return _ENDS[layers[0]]
    if layers[0].startswith("transition"):
        return f"features.{layers[0]}.{layers[1]}"
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    return f"features.denseblock{stage}.denselayer{unit}.{layers[1]}"


# timm's networks have the names of torchvision's.
timm = torchvision
