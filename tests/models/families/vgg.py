"""VGG: torchvision 0.29.1; the multiply-adds of all but VGG-16 from hooks on its layers."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("vgg11", 132_863_336, 0, 7_485_456_384, 7_609_090_048),
    Row("vgg11_bn", 132_868_840, 5_504, 7_485_456_384, 7_609_090_048),
    Row("vgg13", 133_047_848, 0, 11_184_832_512, 11_308_466_176),
    Row("vgg13_bn", 133_053_736, 5_888, 11_184_832_512, 11_308_466_176),
    Row("vgg16", 138_357_544, 0, 15_346_630_656, 15_470_264_320),
    Row("vgg16_bn", 138_365_992, 8_448, 15_346_630_656, 15_470_264_320),
    Row("vgg19", 143_667_240, 0, 19_508_428_800, 19_632_062_464),
    Row("vgg19_bn", 143_678_248, 11_008, 19_508_428_800, 19_632_062_464),
]

_MAPS = Maps({1: (224, 64), 2: (112, 128), 4: (56, 256), 8: (28, 512), 16: (14, 512), 32: (7, 512)})
MAPS = dict.fromkeys((f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")), _MAPS)

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16), "hidden_features": (24, 16), "pool_size": 2}
CASES = [
    Case("vgg16", {**_SMALL, "stem": "small", "dropout_rate": 0.1}, 12),
    Case(
        "vgg16_bn",
        {**_SMALL, "stem": "stride2", "final_pool": False},
        12,
        {r"stage._conv./bias": "a norm follows, which takes out what it shifts"},
    ),
]
