"""torchvision's names for MobileNet v2."""

import re
from collections.abc import Sequence

from arch.models.classification.mobilenet_v2 import MobileNetV2

_LAYERS = ("expand", "expand_norm", None, "depthwise", "depthwise_norm", None, "project", "project_norm")


def torchvision(model: MobileNetV2, layers: Sequence[str]) -> str:
    """The module of torchvision's `mobilenet_v2` that holds the tensors of one of our layers."""
    last = sum(model.stage_sizes) + 1
    ends = {"stem_conv": "features.0.0", "stem_norm": "features.0.1", "classifier": "classifier.1"}
    ends |= {"head_conv": f"features.{last}.0", "head_norm": f"features.{last}.1"}
    if len(layers) == 1:
        return ends[layers[0]]
    stage, unit = map(int, re.fullmatch(r"stage(\d)_unit(\d)", layers[0]).groups())
    # Convolution, norm and activation are nested in torchvision's list, the last convolution and norm are not; units
    # that do not widen have no expansion.
    place = _LAYERS.index(layers[1]) - (3 if model.expand_ratios[stage - 1] == 1 else 0)
    inner = f"{place // 3}.{place % 3}" if "project" not in layers[1] else str(place // 3 + place % 3)
    return f"features.{sum(model.stage_sizes[: stage - 1]) + unit}.conv.{inner}"
