"""NASNet-A and PNASNet-5: timm 1.0.31 and, of the mobile one, Keras; with `align_first` counted from the papers."""

from tests.models.families.row import Case, Maps, Row

_CIFAR = {"num_classes": 10}
_ALIGNED = {"align_first": True}
ROWS = [
    Row("nasnet_a_mobile", 5_289_978, 36_738),
    Row("nasnet_a_large", 88_753_150, 196_668, 23_779_382_658, 23_783_414_658, image_size=331),
    Row("pnasnet_5_large", 86_057_668, 176_988, 24_933_075_792, 24_937_395_792, image_size=331),
    Row("nasnet_a_mobile", 5_287_076, fields=_ALIGNED),
    Row("cifar_nasnet_a", 3_328_234, image_size=32, fields={**_CIFAR, **_ALIGNED}),
]

# A normal cell puts out 6 states, a reduction cell 4; of PNASNet both 5.
MAPS = {
    "nasnet_a_mobile": Maps({2: (111, 32), 4: (56, 44), 8: (28, 264), 16: (14, 528), 32: (7, 1056)}),
    "nasnet_a_large": Maps({2: (165, 96), 4: (83, 168), 8: (42, 1008), 16: (21, 2016), 32: (11, 4032)}, 331),
    "pnasnet_5_large": Maps({2: (165, 96), 4: (83, 270), 8: (42, 1080), 16: (21, 2160), 32: (11, 4320)}, 331),
    "cifar_nasnet_a": Maps({1: (32, 192), 2: (16, 384), 4: (8, 768)}, 32),
}

_SMALL = {"stage_sizes": (1, 1), "features": 4}
_CONCAT = {
    "nodes": [
        {"edges": [["conv_1x1", 0], ["conv_3x3", 1]], "combine": "concat"},
        {"edges": [["conv_1x3_3x1", 2], ["conv_1x7_7x1", 0]]},
        {"edges": [["conv_3x3_dilated", 1], ["max_pool_5x5", 2]]},
        {"edges": [["max_pool_7x7", 0], ["skip_connect", 3]]},
    ],
    "concat": [0, 2, 4, 5],
}
CASES = [
    Case("cifar_nasnet_a", {"stage_sizes": (1,), "features": 4}, 8),
    Case("cifar_nasnet_a", {**_SMALL, "auxiliary_heads": True, "drop_path_rate": 0.3}, 8),
    Case("nasnet_a_large", {"stage_sizes": (1, 1), "features": 8, "stem_features": 4}, 33),
    Case("cifar_nasnet_a", {**_SMALL, "stem": "stride2", "genotype": {"normal": _CONCAT, "reduction": _CONCAT}}, 8),
    Case("pnasnet_5_large", {**_SMALL, "stem": "small", "align_first": True}, 8),
]
