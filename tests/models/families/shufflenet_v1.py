"""ShuffleNet v1: by the layout, which gives the paper's rounded figures; the widths by the authors' code."""

from tests.models.families.row import Case, Maps, Row

_GROUPED = {"first_unit_groups": (None, None)}


def _authors(width: float) -> dict:
    return {"width_multiplier": width, "classifier_bias": False}


ROWS = [
    Row("shufflenet_v1_g1", 1_531_936, None, 142_502_976, 143_078_976),
    Row("shufflenet_v1_g2", 1_733_848, None, 140_036_512, 140_836_512),
    Row("shufflenet_v1_g3", 1_865_728, None, 136_500_672, 137_460_672),
    Row("shufflenet_v1_g4", 1_968_344, None, 133_251_776, 134_339_776),
    Row("shufflenet_v1_g8", 2_434_768, None, 136_829_952, 138_365_952),
    # What the paper's figures are not: with the very first convolution in groups, too.
    Row("shufflenet_v1_g2", conv_macs=138_154_912, fields=_GROUPED),
    Row("shufflenet_v1_g3", conv_macs=133_490_112, fields=_GROUPED),
    Row("shufflenet_v1_g4", conv_macs=129_413_312, fields=_GROUPED),
    Row("shufflenet_v1_g8", conv_macs=130_507_776, fields=_GROUPED),
    Row("shufflenet_v1_g3", 717_324, macs=37_589_856, fields=_authors(0.5)),
    Row("shufflenet_v1_g3", 3_441_168, macs=292_443_552, fields=_authors(1.5)),
    Row("shufflenet_v1_g3", 5_449_776, macs=524_045_184, fields=_authors(2.0)),
    Row("shufflenet_v1_g8", 1_010_448, macs=40_469_760, fields=_authors(0.5)),
    Row("shufflenet_v1_g8", 4_268_952, macs=290_188_800, fields=_authors(1.5)),
    Row("shufflenet_v1_g8", 6_521_232, macs=521_942_016, fields=_authors(2.0)),
]

_WIDTHS = {"g1": 144, "g2": 200, "g3": 240, "g4": 272, "g8": 384}
MAPS = {
    f"shufflenet_v1_{name}": Maps({4: (56, 24), 8: (28, first), 16: (14, 2 * first), 32: (7, 4 * first)})
    for name, first in _WIDTHS.items()
}
MAPS["shufflenet_v1_50"] = Maps({4: (56, 360), 8: (28, 720), 16: (14, 1440), 32: (7, 2880)})

_SMALL = {"stage_sizes": (2,), "stage_features": (24,), "stem_features": 6, "stem": "small"}
_LARGE = {**_SMALL, "stage_sizes": (1, 1), "stage_strides": (1, 2), "stage_features": (12, 24)}
_NO_GRADIENT = {r".*depthwise_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"}
CASES = [
    Case("shufflenet_v1_g3", _SMALL, 8, _NO_GRADIENT),
    Case("shufflenet_v1_g2", {**_SMALL, "variant": "megvii", "classifier_bias": False}, 8, _NO_GRADIENT),
    Case("shufflenet_v1_g1", {**_SMALL, "stem": "imagenet"}, 16, _NO_GRADIENT),
    Case("shufflenet_v1_50", _LARGE, 8, _NO_GRADIENT),
]
