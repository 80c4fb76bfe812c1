"""AmoebaNet-A: counted from the paper, with `align_first` and a stem of 96 in the large ones; see test_nasnet.py."""

from tests.models.families.row import Case, Maps, Row

_ALIGNED = {"align_first": True}
_LARGE = {**_ALIGNED, "stem_features": 96}
_CIFAR = {**_ALIGNED, "num_classes": 10}
ROWS = [
    Row("amoebanet_a_4_50", 5_086_102, fields=_ALIGNED),
    Row("amoebanet_a_6_190", 86_731_991, image_size=331, fields=_LARGE),
    Row("amoebanet_a_6_448", 468_187_584, image_size=331, fields=_LARGE),
    Row("cifar_amoebanet_a_6_32", 2_558_858, image_size=32, fields=_CIFAR),
    Row("cifar_amoebanet_a_6_36", 3_207_106, image_size=32, fields=_CIFAR),
]

# A normal cell puts out 4 states, a reduction cell 5; the stem's are of a quarter and half of the features, rounded
# down.
MAPS = {
    "amoebanet_a_4_50": Maps({2: (111, 32), 4: (56, 60), 8: (28, 200), 16: (14, 400), 32: (7, 800)}),
    "amoebanet_a_6_190": Maps({2: (165, 32), 4: (83, 235), 8: (42, 760), 16: (21, 1520), 32: (11, 3040)}, 331),
    "amoebanet_a_6_448": Maps({2: (149, 32), 4: (75, 560), 8: (38, 1792), 16: (19, 3584), 32: (10, 7168)}, 299),
    "cifar_amoebanet_a_6_32": Maps({1: (32, 128), 2: (16, 256), 4: (8, 512)}, 32),
    "cifar_amoebanet_a_6_36": Maps({1: (32, 144), 2: (16, 288), 4: (8, 576)}, 32),
}

_SMALL = {"stage_sizes": (1, 1), "features": 4}
CASES = [
    Case("cifar_amoebanet_a_6_32", {**_SMALL, "auxiliary_heads": True, "drop_path_rate": 0.3}, 8),
    Case("amoebanet_a_4_50", {**_SMALL, "features": 9}, 33),
]
