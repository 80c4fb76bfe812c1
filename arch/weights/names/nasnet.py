"""timm's names for NASNet-A and PNASNet-5."""

import re
from collections.abc import Sequence

from arch.models.classification.nasnet import NASNet

_PARTS = {"conv": "conv", "norm": "bn", "depthwise": "depthwise_conv2d", "pointwise": "pointwise_conv2d"}
_INPUTS = {"current": "conv_1x1", "previous": "conv_prev_1x1"}
_SIDES = {"1": "left", "2": "right"}


def timm(model: NASNet, layers: Sequence[str]) -> str:
    """The module of timm's `nasnetalarge` that holds the tensors of one of our layers."""
    return _name(model, layers, stem="conv0", halved="", reductions_count=False)


def timm_pnasnet(model: NASNet, layers: Sequence[str]) -> str:
    """The module of timm's `pnasnet5large` that holds the tensors of one of our layers."""
    return _name(model, layers, stem="conv_0", halved="conv_prev_1x1.", reductions_count=True)


def _name(model: NASNet, layers: Sequence[str], stem: str, halved: str, reductions_count: bool) -> str:
    """`halved` is where the older input is halved; reductions may count among the cells."""
    cell, *inside = layers
    if not inside:
        return "last_linear" if cell == "classifier" else f"{stem}.{_PARTS[cell.removeprefix('stem_')]}"
    return f"{_cell(model, cell, reductions_count)}.{_inside(inside, halved)}"


def _cell(model: NASNet, name: str, reductions_count: bool) -> str:
    if name.startswith("stem_cell"):
        return f"cell_stem_{int(name.removeprefix('stem_cell')) - 1}"
    if name.startswith("reduction"):
        number = int(name.removeprefix("reduction"))
        return (
            f"cell_{sum(model.stage_sizes[:number]) + number - 1}"
            if reductions_count
            else f"reduction_cell_{number - 1}"
        )
    stage, unit = map(int, re.fullmatch(r"stage(\d+)_cell(\d+)", name).groups())
    return f"cell_{sum(model.stage_sizes[: stage - 1]) + unit - 1 + (stage - 1) * reductions_count}"


def _inside(layers: Sequence[str], halved: str) -> str:
    """A layer in a cell."""
    first, *rest = layers
    part = rest[-1]
    if first == "previous_halved":
        return halved + {"conv1": "path_1.conv", "conv2": "path_2.conv", "norm": "final_path_bn"}[part]
    if first in _INPUTS:
        return f"{_INPUTS[first]}.{_PARTS[part]}"
    node, edge = re.fullmatch(r"node(\d+)_edge(\d+)", first).groups()
    place = f"comb_iter_{int(node) - 1}_{_SIDES[edge]}"
    if rest[0].startswith("separable"):
        return f"{place}.separable_{rest[0].removeprefix('separable')}.{_PARTS[part]}"
    if part in ("norm1", "norm2"):
        return f"{place}.bn_sep_{part.removeprefix('norm')}"
    return f"{place}.{_PARTS[part]}"
