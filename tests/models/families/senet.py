"""SENet: timm 1.0.31."""

from tests.models.families.row import Case, Maps, Row

# timm's own networks: the same layers, the stride on the 3x3 convolutions.
_SECOND = {"stride_at": "second"}
ROWS = [
    Row("se_resnet18", 11_778_592, 9_600, macs=1_814_160_384),
    Row("se_resnet34", 21_958_868, 17_024, macs=3_663_918_592),
    Row("se_resnet50", 28_088_024, 53_120, macs=3_860_488_192),
    Row("se_resnet101", 49_326_872, 105_344, macs=7_574_937_600),
    Row("se_resnet152", 66_821_848, 151_424, macs=11_288_993_792),
    Row("se_resnet50", 28_088_024, 53_120, macs=4_091_699_200, fields=_SECOND),
    Row("se_resnet101", 49_326_872, 105_344, macs=7_806_148_608, fields=_SECOND),
    Row("se_resnet152", 66_821_848, 151_424, macs=11_520_204_800, fields=_SECOND),
    Row("se_resnext50_32x4d", 27_559_896, 68_224, macs=4_232_994_816),
    Row("se_resnext101_32x4d", 48_955_416, 137_856, macs=7_974_739_968),
    Row("senet154", 115_088_984, 247_552, 20_686_315_520, 20_688_363_520),
]

_BASIC = Maps({4: (56, 64), 8: (28, 128), 16: (14, 256), 32: (7, 512)})
_BOTTLENECK = Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)})
MAPS = dict.fromkeys(("se_resnet18", "se_resnet34"), _BASIC) | dict.fromkeys(
    ("se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d", "senet154"),
    _BOTTLENECK,
)

_SMALL = {"stage_sizes": (1, 1), "stage_features": (16, 32), "reduction": 4}
CASES = [
    Case("se_resnet50", {**_SMALL, "stem_features": (16,), "stem": "small"}, 8),
    Case("se_resnet18", {**_SMALL, "stem_features": (16,), "act_before_gate": True}, 32),
    Case("senet154", {**_SMALL, "groups": 4, "stem_features": (8, 16), "stem": "stride2", "dropout_rate": 0.2}, 16),
]
