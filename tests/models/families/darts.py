"""DARTS: the authors' networks, counted from their program; V2's 3.3 and 4.7 million parameters are the paper's."""

from tests.models.families.row import Case, Maps, Row

_CIFAR = {"image_size": 32, "fields": {"num_classes": 10}}
ROWS = [
    Row("darts_v2", 4_718_752),
    Row("darts_v1", 4_510_432),
    Row("cifar_darts_v2", 3_349_342, **_CIFAR),
    Row("cifar_darts_v1", 3_169_414, **_CIFAR),
]

_IMAGENET = Maps({4: (56, 48), 8: (28, 192), 16: (14, 384), 32: (7, 768)})
_CIFAR_MAPS = Maps({1: (32, 144), 2: (16, 288), 4: (8, 576)}, 32)
MAPS = {"darts_v1": _IMAGENET, "darts_v2": _IMAGENET, "cifar_darts_v1": _CIFAR_MAPS, "cifar_darts_v2": _CIFAR_MAPS}

_SMALL = {"num_cells": 3, "features": 4}
CASES = [
    Case("cifar_darts_v2", {**_SMALL, "auxiliary_heads": True, "drop_path_rate": 0.3}, 8),
    Case("darts_v1", _SMALL, 32),
    Case("cifar_darts_v1", {**_SMALL, "stem": "stride2", "genotype": "amoebanet_a"}, 8),
]
