"""torchvision's names for VGG."""

import re
from collections.abc import Sequence

from arch.models.classification.vgg import VGG


def torchvision(model: VGG, layers: Sequence[str]) -> str:
    """The module of torchvision's `vgg*` and `vgg*_bn` that holds the tensors of one of our layers."""
    (layer,) = layers
    if layer == "classifier":
        return f"classifier.{3 * len(model.hidden_features)}"
    if layer.startswith("hidden"):
        # Linear, activation and dropout.
        return f"classifier.{3 * (int(layer.removeprefix('hidden')) - 1)}"
    stage, kind, number = re.fullmatch(r"stage(\d+)_(conv|norm)(\d+)", layer).groups()
    before = sum(model.stage_sizes[: int(stage) - 1]) + int(number) - 1
    # Convolution, normalization if there is one, and activation; a pool between stages.
    place = before * (3 if model.use_norm else 2) + int(stage) - 1
    return f"features.{place + (kind == 'norm')}"
