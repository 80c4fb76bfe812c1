"""GoogLeNet and the Inception networks: torchvision 0.29.1, timm 1.0.31; the paper's GoogLeNet as in Caffe."""

from tests.models.families.row import Case, Maps, Row

_PAPER = {"variant": "paper"}
_HEADS = {"auxiliary_heads": True}
ROWS = [
    Row("googlenet", 6_624_904, 14_560, 1_497_352_192, 1_498_376_192),
    # Heads cost nothing in evaluation.
    Row("googlenet", 13_004_888, 15_072, 1_497_352_192, 1_498_376_192, fields=_HEADS),
    Row("googlenet", 6_998_552, 0, 1_581_647_872, 1_582_671_872, fields=_PAPER),
    Row("googlenet", 13_378_280, 0, 1_581_647_872, 1_582_671_872, fields={**_PAPER, **_HEADS}),
    Row("googlenet", 7_005_832, fields={**_PAPER, "use_norm": True}),
    Row("inception_v3", 23_834_568, 34_432, 5_711_168_096, 5_713_216_096, image_size=299),
    Row("inception_v3", 27_161_264, 36_224, 5_711_168_096, 5_713_216_096, image_size=299, fields=_HEADS),
    Row("inception_v4", 42_679_816, 63_168, 12_252_438_624, 12_253_974_624, image_size=299),
    Row("inception_resnet_v2", 55_843_464, 60_544, 13_154_258_016, 13_155_794_016, image_size=299),
]

_STEM = {2: (147, 64), 4: (71, 192)}
MAPS = {
    "googlenet": Maps({2: (112, 64), 4: (56, 192), 8: (28, 480), 16: (14, 832), 32: (7, 1024)}),
    "inception_v3": Maps({**_STEM, 8: (35, 288), 16: (17, 768), 32: (8, 2048)}, 299),
    "inception_v4": Maps({**_STEM, 8: (35, 384), 16: (17, 1024), 32: (8, 1536)}, 299),
    "inception_resnet_v2": Maps({**_STEM, 8: (35, 320), 16: (17, 1088), 32: (8, 2080)}, 299),
}

_SMALL = {"width_multiplier": 1 / 8, "stage_sizes": (1, 1, 1), "stem": "small"}
_HEADS_UNDROPPED = {**_HEADS, "auxiliary_dropout_rate": 0.0}
CASES = [
    Case("googlenet", {**_SMALL, **_HEADS_UNDROPPED}, 12),
    Case("googlenet", {**_SMALL, **_PAPER, **_HEADS_UNDROPPED}, 12),
    Case("inception_v3", {**_SMALL, **_HEADS}, 12),
    Case("inception_v4", _SMALL, 12),
    Case(
        "inception_resnet_v2",
        {**_SMALL, "stage_sizes": (1, 1, 2)},
        12,
        {"stage3_unit2/project/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"},
    ),
]
