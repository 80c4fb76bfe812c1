"""ShuffleNet v2: the authors' networks, and torchvision 0.29.1's."""

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
]

MAPS = {
    f"shufflenet_v2_{width}": Maps({4: (56, 24), 8: (28, first), 16: (14, 2 * first), 32: (7, 4 * first)})
    for width, first in {"x0_5": 48, "x1_0": 116, "x1_5": 176, "x2_0": 244}.items()
}

_SMALL = {"stage_sizes": (2, 1), "stage_features": (16, 32), "head_features": 32, "stem_features": 8, "stem": "small"}
_NO_GRADIENT = {r".*depthwise_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"}
CASES = [
    Case("shufflenet_v2_x0_5", _SMALL, 8, _NO_GRADIENT),
    Case("shufflenet_v2_x0_5", {**_SMALL, **_TORCHVISION}, 8, _NO_GRADIENT),
]
