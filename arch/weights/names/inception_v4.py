"""timm's names for Inception v4."""

import re
from collections.abc import Sequence

from arch.models.classification.inception_v4 import InceptionV4

_PARTS = {"conv": "conv", "norm": "bn"}


def timm(model: InceptionV4, layers: Sequence[str]) -> str:
    """The module of timm's `inception_v4` that holds the tensors of one of our layers."""
    if len(layers) == 1:
        return "last_linear"
    if layers[0].startswith("stem_unit"):
        return f"features.{int(layers[0].removeprefix('stem_unit')) - 1}.{_PARTS[layers[1]]}"
    branch, unit, letter = re.fullmatch(r"branch(\d)_unit(\d)(\w?)", layers[1]).groups()
    kind = layers[0].partition("_unit")[0]
    inner = _branch(kind, int(branch) - 1, int(unit) - 1, letter)
    return f"features.{_place(model, layers[0])}.{inner}.{_PARTS[layers[2]]}"


def _place(model: InceptionV4, module: str) -> int:
    """In the list of layers and modules, which begins with three layers and three modules of the stem."""
    first, second, _ = model.stage_sizes
    starts = {"stem_mixed": 2, "stage1": 5, "reduction1": 6 + first, "stage2": 6 + first}
    starts |= {"reduction2": 7 + first + second, "stage3": 7 + first + second}
    if module.startswith("reduction"):
        return starts[module]
    kind, number = re.fullmatch(r"(stem_mixed|stage\d)(?:_unit)?(\d+)", module).groups()
    return starts[kind] + int(number)


def _branch(kind: str, branch: int, unit: int, letter: str) -> str:
    """A layer in a module."""
    if kind in ("stem_mixed1", "stem_mixed3"):
        return "conv"
    if kind == "stage3" and branch in (1, 2):
        return f"branch{branch}_{unit}{letter}"
    single = (kind.startswith("stage") and branch == 0) or (kind == "reduction1" and branch == 0)
    # In the pooled branch the pool comes first.
    pooled = kind.startswith("stage") and branch == 3
    return f"branch{branch}" if single else f"branch{branch}.{unit + pooled}"
