"""ShuffleNet v2: the authors' networks, torchvision 0.29.1's, and by their layout the variants of the paper."""

from tests.models.families.row import Case, Maps, Row

_TORCHVISION = {"variant": "torchvision"}
ROWS = [
    Row("shufflenet_v2_x0_5", 1_366_792, 7_952, 39_452_448, 40_476_448),
    Row("shufflenet_v2_x1_0", 2_279_760, None, 144_790_296, 145_814_296),
    Row("shufflenet_v2_x1_5", 3_507_720, None, 297_946_656, 298_970_656),
    Row("shufflenet_v2_x2_0", 7_403_600, None, 588_735_000, 590_783_000),
    Row("shufflenet_v2_x0_5", 1_366_792, 7_952, 39_452_448, 40_476_448, fields=_TORCHVISION),
    Row("shufflenet_v2_x1_0", 2_278_604, 16_180, 143_883_992, 144_907_992, fields=_TORCHVISION),
    Row("shufflenet_v2_x1_5", 3_503_624, 23_440, 294_735_392, 295_759_392, fields=_TORCHVISION),
    Row("shufflenet_v2_x2_0", 7_393_996, 33_716, 581_205_464, 583_253_464, fields=_TORCHVISION),
    Row("shufflenet_v2_star_x0_5", conv_macs=41_865_600),
    Row("shufflenet_v2_star_x1_0", conv_macs=149_662_464),
    Row("shufflenet_v2_star_x1_5", conv_macs=304_988_544),
    Row("shufflenet_v2_star_x2_0", conv_macs=598_235_904),
    Row("se_shufflenet_v2_x2_0", macs=590_969_524),
    Row("se_shufflenet_v2_x2_0", macs=592_304_916, fields={"se_reduction": 2}),
    Row("shufflenet_v2_50", 16_576_898, None, 2_312_654_176),
    Row("shufflenet_v2_50", 16_573_534, None, 2_302_104_672, fields=_TORCHVISION),
]

MAPS = {
    name.format(width): Maps({4: (56, 24), 8: (28, first), 16: (14, 2 * first), 32: (7, 4 * first)})
    for width, first in {"x0_5": 48, "x1_0": 116, "x1_5": 176, "x2_0": 244}.items()
    for name in ("shufflenet_v2_{}", "shufflenet_v2_star_{}", "se_shufflenet_v2_{}")
}
MAPS["shufflenet_v2_50"] = Maps({4: (56, 244), 8: (28, 488), 16: (14, 976), 32: (7, 1952)})
MAPS["se_shufflenet_v2_164"] = Maps({4: (56, 340), 8: (28, 680), 16: (14, 1360), 32: (7, 2720)})

_SMALL = {"stage_sizes": (2, 1), "stage_features": (16, 32), "head_features": 32, "stem_features": 8, "stem": "small"}
_NO_GRADIENT = {r".*depthwise_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"}
CASES = [
    Case("shufflenet_v2_x0_5", _SMALL, 8, _NO_GRADIENT),
    Case("shufflenet_v2_x0_5", {**_SMALL, **_TORCHVISION}, 8, _NO_GRADIENT),
    Case("shufflenet_v2_star_x0_5", _SMALL, 8, _NO_GRADIENT),
    Case("se_shufflenet_v2_x0_5", {**_SMALL, "se_reduction": 1}, 8, _NO_GRADIENT),
    Case(
        "se_shufflenet_v2_164",
        {**_SMALL, "se_reduction": 1, "more_stem_features": (8,), "stage_strides": (1, 2)},
        8,
        _NO_GRADIENT,
    ),
]
