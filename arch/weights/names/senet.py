"""timm's names for networks with squeeze-and-excitation."""

import re
from collections.abc import Sequence

from arch.models.classification.senet import SENet

_LAYERS = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2", "conv3": "conv3", "norm3": "bn3"}
_LAYERS |= {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}


def timm(model: SENet, layers: Sequence[str]) -> str:
    """The module of timm's `legacy_seresnet50` and deeper, `legacy_seresnext*` and `legacy_senet154`, the authors'.

    `legacy_seresnet18` and `legacy_seresnet34` have these names too; for them `act_before_gate` is true.
    """
    del model
    if len(layers) > 1:
        return _in_unit(layers, "se_module")
    if layers[0] == "classifier":
        return "last_linear"
    kind, number = re.fullmatch(r"stem_(conv|norm)(\d*)", layers[0]).groups()
    return f"layer0.{'conv' if kind == 'conv' else 'bn'}{number or 1}"


def timm_seresnet(model: SENet, layers: Sequence[str]) -> str:
    """The same of timm's own `seresnet50` and deeper, for which `stride_at` is "second" and `pool` "symmetric".

    `seresnet18` and `seresnet34` have these names too, but wider hidden layers in their first gates: multiples of 8.
    """
    del model
    if len(layers) > 1:
        return _in_unit(layers, "se")
    return {"stem_conv": "conv1", "stem_norm": "bn1", "classifier": "fc"}[layers[0]]


def _in_unit(layers: Sequence[str], gate: str) -> str:
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_unit(\d+)", layers[0]).groups())
    inner = f"{gate}.{layers[2]}" if layers[1] == "gate" else _LAYERS[layers[1]]
    return f"layer{stage}.{unit - 1}.{inner}"
