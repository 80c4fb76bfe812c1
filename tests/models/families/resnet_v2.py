"""ResNet with pre-activation: timm 1.0.31, and the paper's networks for CIFAR."""

from tests.models.families.row import Case, Maps, Row

_CIFAR = {"num_classes": 10}
ROWS = [
    Row("resnetv2_18", 11_687_720, 7_808, macs=1_814_073_344),
    Row("resnetv2_34", 21_795_880, 15_232, macs=3_663_761_408),
    Row("resnetv2_50", 25_549_352, 45_440, macs=4_089_184_256),
    Row("resnetv2_101", 44_541_480, 97_664, macs=7_801_405_440),
    Row("resnetv2_152", 60_185_128, 143_744, macs=11_513_626_624),
    # The convolutions are those of the first ResNet of as many units, and so are their multiply-adds.
    Row("resnetv2_200", macs=15_007_481_856),
    Row("cifar_resnetv2_110", 1_727_962, image_size=32, fields=_CIFAR),
    Row("cifar_resnetv2_164", 1_703_258, macs=244_500_992, image_size=32, fields=_CIFAR),
    Row("cifar_resnetv2_164", 1_726_388, image_size=32, fields={"num_classes": 100}),
    Row("cifar_resnetv2_1001", 10_327_706, macs=1_487_849_984, image_size=32, fields=_CIFAR),
]

_BASIC = Maps({4: (56, 64), 8: (28, 128), 16: (14, 256), 32: (7, 512)})
_BOTTLENECK = Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)})
_CIFAR_BOTTLENECK = Maps({1: (32, 64), 2: (16, 128), 4: (8, 256)}, image_size=32)
MAPS = (
    dict.fromkeys(("resnetv2_18", "resnetv2_34"), _BASIC)
    | dict.fromkeys((f"resnetv2_{depth}" for depth in (50, 101, 152, 200)), _BOTTLENECK)
    | {"cifar_resnetv2_110": Maps({1: (32, 16), 2: (16, 32), 4: (8, 64)}, image_size=32)}
    | dict.fromkeys(("cifar_resnetv2_164", "cifar_resnetv2_1001"), _CIFAR_BOTTLENECK)
)

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16), "stem_features": 16}
CASES = [
    Case("resnetv2_50", {**_SMALL, "stem": "stride2"}, 16),
    Case("resnetv2_18", {**_SMALL, "stem": "imagenet", "stage_strides": (2, 1)}, 32),
    Case("cifar_resnetv2_164", {**_SMALL, "stem": "small"}, 8),
    Case("cifar_resnetv2_110", {**_SMALL, "stage_features": (16, 32), "stem": "small"}, 8),
]
