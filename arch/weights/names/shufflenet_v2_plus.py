"""The authors' names for ShuffleNet v2+."""

import re
from collections.abc import Sequence

from arch.blocks.shuffle import BRANCHES
from arch.models.classification.shufflenet_v2_plus import UNITS, ShuffleNetV2Plus

_ENDS = {"stem_conv": "first_conv.0", "stem_norm": "first_conv.1", "head_conv": "conv_last.0"}
_ENDS |= {"head_norm": "conv_last.1", "head_dense": "fc.0", "classifier": "classifier.0"}
_GATE = {"fc1": "SE_opr.1", "norm1": "SE_opr.2", "fc2": "SE_opr.4"}
_SHORTCUT = ("shortcut_depthwise", "shortcut_depthwise_norm", "shortcut_pointwise", "shortcut_pointwise_norm")


def megvii(model: ShuffleNetV2Plus, layers: Sequence[str]) -> str:
    """The module of the authors' network (github.com/megvii-model/ShuffleNet-Series) with the tensors of our layer."""
    if layers[0] == "head_gate":
        return f"LastSE.{_GATE[layers[1]]}"
    if len(layers) == 1:
        return _ENDS[layers[0]]
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    number = sum(model.stage_sizes[: stage - 1]) + unit - 1
    if layers[1] in _SHORTCUT:
        return f"features.{number}.branch_proj.{_SHORTCUT.index(layers[1])}"
    places = _places(UNITS[model.units[number]]["branch"])
    gate = f".{_GATE[layers[2]]}" if layers[1] == "branch_gate" else ""
    return f"features.{number}.branch_main.{places.index(layers[1])}{gate}"


def _places(branch: str) -> list[str]:
    """Our layers in the order of the authors' list; an activation, without a name, follows each 1x1 convolution."""
    places = []
    for layer in BRANCHES[branch]:
        places += [f"branch_{layer}", f"branch_{layer}_norm"] + ["" for _ in range("depthwise" not in layer)]
    return [*places, "branch_gate"]
