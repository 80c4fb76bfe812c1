"""ShuffleNet v2+: the authors' networks."""

from flax import linen as nn

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("shufflenet_v2_plus_small", 5_137_116, None, None, 155_845_008),
    Row("shufflenet_v2_plus_medium", 5_679_840, None, None, 222_249_984),
    Row("shufflenet_v2_plus_large", 6_768_220, None, None, 360_050_704),
]

_WIDTHS = {"small": (36, 104, 208, 416), "medium": (48, 128, 256, 512), "large": (68, 168, 336, 672)}
MAPS = {
    f"shufflenet_v2_plus_{name}": Maps({2: (112, 16), 4: (56, a), 8: (28, b), 16: (14, c), 32: (7, d)})
    for name, (a, b, c, d) in _WIDTHS.items()
}

_SMALL = {
    "stage_sizes": (1, 1),
    "stage_features": (16, 32),
    "units": ("5x5", "xception"),
    "stage_gates": (False, True),
    "stem_features": 8,
    "head_features": 16,
    "stem": "small",
    # jax.nn's hard sigmoid is made of relu6, by name, which the tests take for an activation.
    "gate_act": nn.sigmoid,
}
_NO_GRADIENT = {r".*depthwise\d?_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"}
CASES = [Case("shufflenet_v2_plus_small", _SMALL, 8, _NO_GRADIENT)]
