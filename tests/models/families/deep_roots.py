"""Deep Roots: the first author's tables (github.com/yanii/phd-thesis).

Their multiply-adds count a bias as one: 1,064 in ResNet-50, which has them in the first convolution and the classifier,
1,418 in Network in Network. Their parameters of ResNet-50 count 64 biases of the first convolution, and no norm's:
53,056 fewer than there are here. See tests/models/test_deep_roots.py.
"""

from arch import norm
from tests.models.families.row import Case, Maps, Row

_ROOTS = {
    2: (25_501_736, 3_684_566_056),
    4: (25_179_176, 3_366_650_920),
    8: (23_248_424, 2_860_876_840),
    16: (18_744_104, 2_434_581_544),
    32: (16_491_944, 2_221_433_896),
    64: (15_365_864, 2_114_860_072),
}
ROWS = [
    Row(f"deep_roots_resnet50_root{root}", params, 53_120, macs=macs - 1_064) for root, (params, macs) in _ROOTS.items()
]
_NIN = {
    "deep_roots_nin": (966_986, 222_487_946),
    "deep_roots_nin_root2": (736_586, 163_505_546),
    "deep_roots_nin_root4": (455_498, 123_397_514),
    "deep_roots_nin_root8": (314_954, 103_343_498),
    "deep_roots_nin_root16": (244_682, 93_316_490),
}
MAPS = {row.name: Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)}) for row in ROWS}
MAPS |= dict.fromkeys(_NIN, Maps({1: (32, 96), 2: (16, 192), 4: (8, 192)}, image_size=32))
ROWS += [
    Row(name, params, macs=macs - 1_418, image_size=32, fields={"num_classes": 10})
    for name, (params, macs) in _NIN.items()
]

_STAGES = {"stage_features": ((16, 8), (16, 16), (16,)), "groups": (1, 4, 2)}
CASES = [
    Case(
        "deep_roots_resnet50_root2",
        {"stage_sizes": (1, 1), "stage_features": (16, 32), "groups": (4, 2), "stem_features": 16, "stem": "small"},
        8,
    ),
    Case("deep_roots_nin", _STAGES, 8),
    Case("deep_roots_nin", {**_STAGES, "norm": norm.create("batch_norm"), "stem": "stride2"}, 16),
]
