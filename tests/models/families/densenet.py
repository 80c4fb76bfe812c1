"""DenseNet: torchvision 0.29.1; for CIFAR counted from the paper's section 4.1, equal to its table 2."""

from tests.models.families.row import Case, Maps, Row


def _cifar(name, params, macs, num_classes=10, **fields):
    return Row(name, params, macs=macs, image_size=32, fields={"num_classes": num_classes, **fields})


ROWS = [
    Row("densenet121", 7_978_856, 83_648, 2_833_137_664, 2_834_161_664),
    Row("densenet169", 14_149_480, 158_400, 3_358_179_328, 3_359_843_328),
    Row("densenet201", 20_013_928, 229_056, 4_289_445_888, 4_291_365_888),
    Row("densenet161", 28_681_000, 219_936, 7_725_699_072, 7_727_907_072),
    _cifar("cifar_densenet_40_12", 1_019_722, 264_812_928),
    _cifar("cifar_densenet_100_12", 6_979_642, 1_769_516_448),
    _cifar("cifar_densenet_100_24", 27_249_082, 6_889_347_744),
    _cifar("cifar_densenet_bc_100_12", 176_122, 72_365_352, stage_sizes=(6, 6, 6)),
    _cifar("cifar_densenet_bc_100_12", 769_162, 287_929_692),
    _cifar("cifar_densenet_bc_100_12", 800_032, None, num_classes=100),
    _cifar("cifar_densenet_bc_250_24", 15_324_406, 5_418_785_724),
    _cifar("cifar_densenet_bc_190_40", 25_624_430, 9_301_945_740),
]

# Channels after each block: what comes in, and stage_sizes * growth_rate.
MAPS = {
    "densenet121": Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 1024)}),
    "densenet169": Maps({4: (56, 256), 8: (28, 512), 16: (14, 1280), 32: (7, 1664)}),
    "densenet201": Maps({4: (56, 256), 8: (28, 512), 16: (14, 1792), 32: (7, 1920)}),
    "densenet161": Maps({4: (56, 384), 8: (28, 768), 16: (14, 2112), 32: (7, 2208)}),
    "cifar_densenet_40_12": Maps({1: (32, 160), 2: (16, 304), 4: (8, 448)}, 32),
    "cifar_densenet_100_12": Maps({1: (32, 400), 2: (16, 784), 4: (8, 1168)}, 32),
    "cifar_densenet_100_24": Maps({1: (32, 784), 2: (16, 1552), 4: (8, 2320)}, 32),
    "cifar_densenet_bc_100_12": Maps({1: (32, 216), 2: (16, 300), 4: (8, 342)}, 32),
    "cifar_densenet_bc_250_24": Maps({1: (32, 1032), 2: (16, 1500), 4: (8, 1734)}, 32),
    "cifar_densenet_bc_190_40": Maps({1: (32, 1320), 2: (16, 1900), 4: (8, 2190)}, 32),
}

_SMALL = {"stage_sizes": (1, 1), "growth_rate": 4, "stem_features": 8}
CASES = [
    Case("densenet121", {**_SMALL, "stem": "imagenet"}, 16),
    Case("cifar_densenet_bc_100_12", {**_SMALL, "stem": "stride2"}, 8),
    Case("cifar_densenet_40_12", _SMALL, 8),
]
