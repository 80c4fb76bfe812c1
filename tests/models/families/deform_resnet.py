"""ResNet-50 with deformable convolutions: torchvision's, and what offsets and factors add by their layout."""

from tests.models.families.row import Case, Maps, Row

_RESNET50 = 25_557_032
ROWS = [
    Row("deform_resnet50", _RESNET50 + 995_544),
    # 2 * 9 offsets and 9 factors of one group, for the 3x3 convolutions of 4, 6 and 3 units.
    Row("deform_resnet50_v2", _RESNET50 + 27 * (9 * (4 * 128 + 6 * 256 + 3 * 512) + 4 + 6 + 3)),
]

MAPS = {
    "deform_resnet50": Maps({4: (56, 256), 8: (28, 512), 16: (14, 2048)}),
    "deform_resnet50_v2": Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)}),
}

_SMALL = {"stage_sizes": (1, 1), "stage_features": (8, 8), "stem_features": 8, "deform_stages": (2,)}
CASES = [
    Case(
        "deform_resnet50",
        {**_SMALL, "stage_strides": (1, 1), "stage_dilations": (1, 2), "num_offset_groups": 2, "stem": "stride2"},
        16,
    ),
    Case("deform_resnet50_v2", {**_SMALL, "stem": "small"}, 8),
]
