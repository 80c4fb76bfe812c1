"""MobileNet v1: timm 1.0.31; the widths and sizes by the layout, which gives the paper's rounded figures."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("mobilenet_v1", 4_231_976, 21_888, 567_716_352, 568_740_352),
    Row("mobilenet_v1", 2_585_560, None, None, 325_400_448, fields={"width_multiplier": 0.75}),
    Row("mobilenet_v1", 1_331_592, None, None, 149_497_088, fields={"width_multiplier": 0.5}),
    Row("mobilenet_v1", 470_072, None, None, 41_030_272, fields={"width_multiplier": 0.25}),
    Row("mobilenet_v1", macs=418_121_728, image_size=192),
    Row("mobilenet_v1", macs=290_675_200, image_size=160),
    Row("mobilenet_v1", macs=186_400_768, image_size=128),
]

MAPS = {"mobilenet_v1": Maps({2: (112, 64), 4: (56, 128), 8: (28, 256), 16: (14, 512), 32: (7, 1024)})}

_SMALL = {"stage_sizes": (1, 2), "stage_features": (16, 24), "stage_strides": (1, 2), "stem_features": 8}
_NO_GRADIENT = {
    r".*depthwise_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts",
}
CASES = [
    Case("mobilenet_v1", {**_SMALL, "stem": "small"}, 8),
    Case("mobilenet_v1", {**_SMALL, "act_between": False}, 16, _NO_GRADIENT),
    Case("mobilenet_v1", {**_SMALL, "norm_between": False}, 16),
]
