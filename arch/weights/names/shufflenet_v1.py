"""The authors' names for ShuffleNet v1."""

import re
from collections.abc import Sequence

from arch.models.classification.shufflenet_v1 import ShuffleNetV1

_LAYERS = {
    "reduce": "branch_main_1.0",
    "reduce_norm": "branch_main_1.1",
    "depthwise": "branch_main_1.3",
    "depthwise_norm": "branch_main_1.4",
    "expand": "branch_main_2.0",
    "expand_norm": "branch_main_2.1",
}
_ENDS = {"stem_conv": "first_conv.0", "stem_norm": "first_conv.1", "classifier": "classifier.0"}


def megvii(model: ShuffleNetV1, layers: Sequence[str]) -> str:
    """The module of the authors' network (github.com/megvii-model/ShuffleNet-Series), of variant "megvii"."""
    if len(layers) == 1:
        return _ENDS[layers[0]]
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    return f"features.{sum(model.stage_sizes[: stage - 2]) + unit - 1}.{_LAYERS[layers[1]]}"
