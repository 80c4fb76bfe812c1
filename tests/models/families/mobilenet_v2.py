"""MobileNet v2: torchvision 0.29.1 and timm 1.0.31."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("mobilenet_v2", 3_504_872, 34_112, 299_494_272, 300_774_272),
    # Rounding down would leave less than 90%.
    Row("mobilenet_v2", 1_677_128, 14_080, 58_005_808, 59_285_808, fields={"width_multiplier": 0.35}),
    Row("mobilenet_v2", 1_968_680, 18_544, 95_851_840, 97_131_840, fields={"width_multiplier": 0.5}),
    Row("mobilenet_v2", 2_636_424, 26_640, 207_789_792, 209_069_792, fields={"width_multiplier": 0.75}),
    # The last convolution is widened too.
    Row("mobilenet_v2", 5_386_792, 44_256, 507_710_560, 509_374_560, fields={"width_multiplier": 1.3}),
    Row("mobilenet_v2", 6_108_776, 47_936, 580_403_824, 582_195_824, fields={"width_multiplier": 1.4}),
    Row("mobilenet_v2", macs=221_316_608, image_size=192),
    Row("mobilenet_v2", macs=154_083_200, image_size=160),
    Row("mobilenet_v2", macs=99_074_048, image_size=128),
    Row("mobilenet_v2", macs=56_289_152, image_size=96),
]

MAPS = {"mobilenet_v2": Maps({2: (112, 16), 4: (56, 24), 8: (28, 32), 16: (14, 96), 32: (7, 320)})}

_SMALL = {"stage_sizes": (1, 2), "stage_features": (16, 24), "stage_strides": (1, 2), "expand_ratios": (1, 6)}
_NO_GRADIENT = {
    r"stage._unit./project_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"
}
CASES = [Case("mobilenet_v2", {**_SMALL, "head_features": 32, "stem": "small"}, 16, _NO_GRADIENT)]
