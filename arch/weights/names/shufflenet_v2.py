"""torchvision's and the authors' names for ShuffleNet v2."""

import re
from collections.abc import Sequence

from arch.models.classification.shufflenet_v2 import ShuffleNetV2

_BRANCH = ("branch_reduce", "branch_reduce_norm", None, "branch_depthwise", "branch_depthwise_norm", "branch_expand")
_BRANCH += ("branch_expand_norm",)
_SHORTCUT = ("shortcut_depthwise", "shortcut_depthwise_norm", "shortcut_pointwise", "shortcut_pointwise_norm")
_TORCHVISION = {"stem_conv": "conv1.0", "stem_norm": "conv1.1", "head_conv": "conv5.0", "head_norm": "conv5.1"}
_TORCHVISION |= {"classifier": "fc"}
_MEGVII = {"stem_conv": "first_conv.0", "stem_norm": "first_conv.1", "head_conv": "conv_last.0"}
_MEGVII |= {"head_norm": "conv_last.1", "classifier": "classifier.0"}


def torchvision(model: ShuffleNetV2, layers: Sequence[str]) -> str:
    """The module of torchvision's `shufflenet_v2_*` that holds the tensors of one of our layers."""
    del model
    if len(layers) == 1:
        return _TORCHVISION[layers[0]]
    stage, unit, branch, place = _parse(layers)
    return f"stage{stage}.{unit - 1}.branch{branch}.{place}"


def megvii(model: ShuffleNetV2, layers: Sequence[str]) -> str:
    """The same of the authors' network (github.com/megvii-model/ShuffleNet-Series), whose classifier has no bias."""
    if len(layers) == 1:
        return _MEGVII[layers[0]]
    stage, unit, branch, place = _parse(layers)
    number = sum(model.stage_sizes[: stage - 2]) + unit - 1
    return f"features.{number}.{'branch_main' if branch == 2 else 'branch_proj'}.{place}"


def _parse(layers: Sequence[str]) -> tuple[int, int, int, int]:
    """Stage, unit, branch (1 is the shortcut) and place in it."""
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    if layers[1].startswith("branch"):
        return stage, unit, 2, _BRANCH.index(layers[1])
    return stage, unit, 1, _SHORTCUT.index(layers[1])
