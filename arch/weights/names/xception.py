"""timm's names for Xception."""

import re
from collections.abc import Sequence

from arch.models.classification.xception import Xception

_ENDS = {"stem_conv": "conv1", "stem_norm": "bn1", "stem_conv2": "conv2", "stem_norm2": "bn2", "classifier": "fc"}
_SHORTCUT = {"shortcut_conv": "skip", "shortcut_norm": "skipbn"}
_HALVES = {"depthwise": "conv1", "pointwise": "pointwise"}


def timm(model: Xception, layers: Sequence[str]) -> str:
    """The module of timm's `legacy_xception` that holds the tensors of one of our layers."""
    if len(layers) == 1:
        return _ENDS[layers[0]]
    flow, number = re.fullmatch(r"(entry|middle|exit)(\d+)", layers[0]).groups()
    if flow == "exit" and number != "1":
        # After the last block timm's numbers go on where those of the stem end.
        place = int(number) + 1
        return f"bn{place}" if layers[1] == "norm" else f"conv{place}.{_HALVES[layers[2]]}"
    before = {"entry": 0, "middle": len(model.entry_features)}
    before["exit"] = before["middle"] + model.num_middle_blocks
    block = f"block{before[flow] + int(number)}"
    if layers[1] in _SHORTCUT:
        return f"{block}.{_SHORTCUT[layers[1]]}"
    kind, layer = re.fullmatch(r"(separable|norm)(\d)", layers[1]).groups()
    # Activation, convolution and norm follow one another; the very first block has no first activation.
    place = 3 * (int(layer) - 1) + (1 if kind == "separable" else 2) - (1 if layers[0] == "entry1" else 0)
    return f"{block}.rep.{place}" + (f".{_HALVES[layers[2]]}" if kind == "separable" else "")
