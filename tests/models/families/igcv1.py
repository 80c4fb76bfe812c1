"""IGCV1: counted from the layout of the authors' MXNet code."""

from tests.models.families.row import Case, Maps, Row

_DEPTHS = (8, 20, 38, 62)
_CIFAR = {
    "l24m2": ((48_442, 155_962, 317_242, 532_282), 48),
    "l4m8": ((78_634, 277_546, 575_914, 973_738), 32),
}
_CIFAR_10 = {"image_size": 32, "fields": {"num_classes": 10}}

ROWS = [
    Row(f"cifar_igcv1_{kind}_d{depth}", params, **_CIFAR_10)
    for kind, (sizes, _) in _CIFAR.items()
    for depth, params in zip(_DEPTHS, sizes, strict=True)
]
ROWS += [Row("igcv1_l100m2", 8_637_900, macs=1_264_780_800)]

MAPS = {
    f"cifar_igcv1_{kind}_d{depth}": Maps({1: (32, width), 2: (16, 2 * width), 4: (8, 4 * width)}, 32)
    for kind, (_, width) in _CIFAR.items()
    for depth in _DEPTHS
}
MAPS |= {
    name: Maps({4: (56, first), 8: (28, 2 * first), 16: (14, 4 * first), 32: (7, 8 * first)})
    for name, first in {"igcv1_l100m2": 200, "igcv1_l4m32": 128, "igcv1_l16m16": 256}.items()
}

_SMALL = {"stage_sizes": (1, 1), "stage_features": (8, 16), "stage_primary_groups": (4, 4)}
CASES = [
    Case("cifar_igcv1_l24m2_d8", {**_SMALL, "stem_features": 8}, 8),
    Case("igcv1_l100m2", {**_SMALL, "stem_features": 4, "stem": "small"}, 8),
]
