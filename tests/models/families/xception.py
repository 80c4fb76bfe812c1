"""Xception: timm 1.0.31, the same as Keras."""

from tests.models.families.row import Case, Maps, Row

ROWS = [Row("xception", 22_855_952, 54_528, 8_355_355_496, 8_357_403_496, image_size=299)]

MAPS = {"xception": Maps({2: (147, 64), 4: (74, 128), 8: (37, 256), 16: (19, 728), 32: (10, 2048)}, image_size=299)}

_SMALL = {
    "stem_features": 4,
    "more_stem_features": (6,),
    "entry_features": (8,),
    "num_middle_blocks": 1,
    "exit_features": (12, 16),
    "stem": "small",
}
_NO_GRADIENT = {
    r".*depthwise_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts",
}
CASES = [
    Case("xception", _SMALL, 16),
    Case("xception", {**_SMALL, "norm_between": True, "num_middle_blocks": 0, "stem": "imagenet"}, 19, _NO_GRADIENT),
]
