"""ResNet and ResNeXt: torchvision 0.29.1, timm 1.0.31, and the papers' networks for CIFAR."""

from tests.models.families.row import Case, Maps, Row

_CIFAR, _OPTION_B = {"num_classes": 10}, {"num_classes": 10, "shortcut": "projection"}
ROWS = [
    Row("resnet18", 11_689_512, 9_600, 1_813_561_344, 1_814_073_344),
    Row("resnet34", 21_797_672, 17_024, 3_663_249_408, 3_663_761_408),
    Row("resnet50", 25_557_032, 53_120, 4_087_136_256, 4_089_184_256),
    Row("resnet101", 44_549_160, 105_344, 7_799_357_440, 7_801_405_440),
    Row("resnet152", 60_192_808, 151_424, 11_511_578_624, 11_513_626_624),
    Row("resnet200", 64_673_832, macs=15_007_481_856),
    Row("resnet50_v1", 25_557_032, 53_120, macs=3_857_973_248),
    Row("resnet101_v1", 44_549_160, 105_344, macs=7_570_194_432),
    Row("resnet152_v1", 60_192_808, 151_424, macs=11_282_415_616),
    Row("resnext50_32x4d", 25_028_904, 68_224, 4_228_431_872, 4_230_479_872),
    Row("resnext101_32x4d", 44_177_704, 137_856, 7_967_948_800, 7_969_996_800),
    Row("resnext101_32x8d", 88_791_336, 202_880, 16_411_967_488, 16_414_015_488),
    Row("resnext101_64x4d", 83_455_272, 202_880, 15_458_222_080, 15_460_270_080),
    Row("cifar_resnet20", 269_722, macs=40_551_040, image_size=32, fields=_CIFAR),
    Row("cifar_resnet32", 464_154, macs=68_862_592, image_size=32, fields=_CIFAR),
    Row("cifar_resnet44", 658_586, macs=97_174_144, image_size=32, fields=_CIFAR),
    Row("cifar_resnet56", 853_018, macs=125_485_696, image_size=32, fields=_CIFAR),
    Row("cifar_resnet110", 1_727_962, macs=252_887_680, image_size=32, fields=_CIFAR),
    Row("cifar_resnet20", 272_474, image_size=32, fields=_OPTION_B),
    Row("cifar_resnet56", 855_770, image_size=32, fields=_OPTION_B),
    Row("cifar_resnet110", 1_730_714, image_size=32, fields=_OPTION_B),
    Row("cifar_resnext29_8x64d", 34_426_698, macs=5_387_266_048, image_size=32, fields=_CIFAR),
    Row("cifar_resnext29_16x64d", 68_155_210, macs=10_688_866_304, image_size=32, fields=_CIFAR),
]

_BASIC = Maps({4: (56, 64), 8: (28, 128), 16: (14, 256), 32: (7, 512)})
_BOTTLENECK = Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)})
_CIFAR_BASIC = Maps({1: (32, 16), 2: (16, 32), 4: (8, 64)}, image_size=32)
_CIFAR_RESNEXT = Maps({1: (32, 256), 2: (16, 512), 4: (8, 1024)}, image_size=32)
MAPS = (
    dict.fromkeys(("resnet18", "resnet34"), _BASIC)
    | dict.fromkeys((f"resnet{depth}" for depth in (50, 101, 152, 200)), _BOTTLENECK)
    | dict.fromkeys((f"resnet{depth}_v1" for depth in (50, 101, 152)), _BOTTLENECK)
    | dict.fromkeys(("resnext50_32x4d", *(f"resnext101_{kind}" for kind in ("32x4d", "32x8d", "64x4d"))), _BOTTLENECK)
    | dict.fromkeys((f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)), _CIFAR_BASIC)
    | dict.fromkeys(("cifar_resnext29_8x64d", "cifar_resnext29_16x64d"), _CIFAR_RESNEXT)
)

_SMALL = {"stage_sizes": (1, 2), "stage_features": (16, 32), "stem_features": 16}
CASES = [
    Case("resnet50", {**_SMALL, "stem": "stride2"}, 16),
    Case("resnet50_v1", {**_SMALL, "stem": "small", "stage_strides": (2, 1), "stage_dilations": (1, 2)}, 16),
    Case("resnext50_32x4d", {"stage_sizes": (1, 2), "stage_features": (64, 64), "groups": 8, "base_width": 8}),
    Case("resnet18", {**_SMALL, "stem": "small"}, 8),
    Case("cifar_resnet20", {**_SMALL, "stem": "stride2"}, 16),
    Case("cifar_resnet20", {**_SMALL, "shortcut": "none"}, 8),
]
