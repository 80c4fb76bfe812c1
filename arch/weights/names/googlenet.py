"""torchvision's names for GoogLeNet."""

import re
from collections.abc import Sequence

from arch.models.classification.googlenet import GoogLeNet

_ENDS = {"stem_conv": "conv1.conv", "stem_norm": "conv1.bn", "classifier": "fc"}
_PARTS = {"conv": "conv", "norm": "bn"}
_HEAD = {"hidden": "fc1", "classifier": "fc2"}


def torchvision(model: GoogLeNet, layers: Sequence[str]) -> str:
    """The module of torchvision's `googlenet` that holds the tensors of one of our layers."""
    del model
    if len(layers) == 1:
        return _ENDS[layers[0]]
    if layers[0].startswith("stem_unit"):
        return f"conv{layers[0].removeprefix('stem_unit')}.{_PARTS[layers[1]]}"
    if layers[0].startswith("auxiliary"):
        head = f"aux{layers[0].removeprefix('auxiliary')}"
        return f"{head}.conv.{_PARTS[layers[2]]}" if layers[1] == "unit" else f"{head}.{_HEAD[layers[1]]}"
    stage, number = map(int, re.fullmatch(r"stage(\d)_unit(\d+)", layers[0]).groups())
    branch, unit = map(int, re.fullmatch(r"branch(\d)_unit(\d)", layers[1]).groups())
    # The first branch is a layer, the last a pooling before its layer.
    place = {1: "", 4: ".1"}.get(branch, f".{unit - 1}")
    return f"inception{stage + 2}{'abcdefgh'[number - 1]}.branch{branch}{place}.{_PARTS[layers[2]]}"
