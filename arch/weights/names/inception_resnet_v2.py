"""timm's names for Inception-ResNet v2."""

import re
from collections.abc import Sequence

from arch.models.classification.inception_resnet_v2 import InceptionResNetV2

_PARTS = {"conv": "conv", "norm": "bn"}
_UNITS = {"head_unit": "conv2d_7b"}
_UNITS |= {
    f"stem_unit{number}": f"conv2d_{name}" for number, name in enumerate(("1a", "2a", "2b", "3b", "4a"), start=1)
}
_MODULES = {"mixed": "mixed_5b", "reduction1": "mixed_6a", "reduction2": "mixed_7a"}
_STAGES = ("repeat", "repeat_1", "repeat_2")


def timm(model: InceptionResNetV2, layers: Sequence[str]) -> str:
    """The module of timm's `inception_resnet_v2` that holds the tensors of one of our layers."""
    if len(layers) == 1:
        return "classif"
    if layers[0] in _UNITS:
        return f"{_UNITS[layers[0]]}.{_PARTS[layers[1]]}"
    if layers[1] == "project":
        return f"{_module(model, layers[0])}.conv2d"
    branch, unit = (int(number) - 1 for number in re.fullmatch(r"branch(\d)_unit(\d)", layers[1]).groups())
    single = branch == 0 and layers[0] != "reduction2"
    # In the pooled branch the pool comes first.
    pooled = layers[0] == "mixed" and branch == 3
    inner = f"branch{branch}" if single else f"branch{branch}.{unit + pooled}"
    return f"{_module(model, layers[0])}.{inner}.{_PARTS[layers[2]]}"


def _module(model: InceptionResNetV2, name: str) -> str:
    """The last unit of all stands by itself."""
    if name in _MODULES:
        return _MODULES[name]
    stage, unit = map(int, re.fullmatch(r"stage(\d)_unit(\d+)", name).groups())
    return "block8" if (stage, unit) == (3, model.stage_sizes[2]) else f"{_STAGES[stage - 1]}.{unit - 1}"
