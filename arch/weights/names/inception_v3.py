"""torchvision's names for Inception v3."""

import re
from collections.abc import Sequence

from arch.models.classification.inception_v3 import InceptionV3

_PARTS = {"conv": "conv", "norm": "bn"}
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_HEAD = {"unit1": "conv0", "unit2": "conv1"}
# Of each kind of module, the branches that hold layers; `None` marks one that is a single layer.
_BRANCHES = {
    "stage1": ("branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    "reduction1": ("branch3x3", "branch3x3dbl"),
    "stage2": ("branch1x1", "branch7x7", "branch7x7dbl", "branch_pool"),
    "reduction2": ("branch3x3", "branch7x7x3"),
    "stage3": ("branch1x1", "branch3x3", "branch3x3dbl", "branch_pool"),
}
_SINGLE = {
    ("reduction1", "branch3x3"),
    *((stage, name) for stage in _BRANCHES for name in ("branch1x1", "branch_pool")),
}


def torchvision(model: InceptionV3, layers: Sequence[str]) -> str:
    """The module of torchvision's `inception_v3` that holds the tensors of one of our layers."""
    if len(layers) == 1:
        return "fc"
    if layers[0].startswith("stem_unit"):
        return f"{_STEM[int(layers[0].removeprefix('stem_unit')) - 1]}.{_PARTS[layers[1]]}"
    if layers[0] == "auxiliary":
        return "AuxLogits.fc" if layers[1] == "classifier" else f"AuxLogits.{_HEAD[layers[1]]}.{_PARTS[layers[2]]}"
    kind, _, unit = layers[0].partition("_unit")
    branch, place = re.fullmatch(r"branch(\d)_unit(\d\w?)", layers[1]).groups()
    name = _BRANCHES[kind][int(branch) - 1]
    inner = name if (kind, name) in _SINGLE else f"{name}_{place}"
    return f"{_module(model, kind, int(unit or 1))}.{inner}.{_PARTS[layers[2]]}"


def _module(model: InceptionV3, kind: str, unit: int) -> str:
    """Mixed_5b to 5d, 6a to 6e, 7a to 7c: those of stride 2 come first in a group, but for the first."""
    del model
    if kind.startswith("reduction"):
        return f"Mixed_{int(kind[-1]) + 5}a"
    return f"Mixed_{int(kind[-1]) + 4}{'bcdefgh'[unit - 1]}"
