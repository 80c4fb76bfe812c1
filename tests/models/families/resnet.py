"""ResNet and ResNeXt: torchvision 0.29.1."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("resnet50", 25_557_032, 53_120, 4_087_136_256, 4_089_184_256),
    Row("resnext50_32x4d", 25_028_904, 68_224, 4_228_431_872, 4_230_479_872),
]

_MAPS = Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)})
MAPS = {"resnet50": _MAPS, "resnext50_32x4d": _MAPS}

CASES = [
    Case("resnet50", {"stage_sizes": (1, 2), "stage_features": (16, 32), "stem_features": 16, "stem": "stride2"}, 16),
    Case("resnext50_32x4d", {"stage_sizes": (1, 2), "stage_features": (64, 64), "groups": 8, "base_width": 8}),
]
