"""CondenseNet: the authors' networks, in training and converted."""

from tests.models.families.row import Case, Maps, Row

_DEPLOYED = {"deployed": True}


def _cifar(depth, params, macs):
    fields = {"num_classes": 10, **_DEPLOYED}
    return Row(f"cifar_condensenet_{depth}", params, macs=macs, image_size=32, fields=fields)


ROWS = [
    Row("condensenet_74", 11_922_680),
    Row("condensenet_74_g8", 11_103_608),
    Row("condensenet_74", 4_773_944, macs=516_640_576, fields=_DEPLOYED),
    Row("condensenet_74_g8", 2_935_416, macs=261_545_792, fields=_DEPLOYED),
    _cifar(50, 214_186, 27_183_376),
    _cifar(74, 402_026, 49_204_592),
    _cifar(86, 516_202, 62_377_888),
    _cifar(98, 643_882, 76_992_976),
    _cifar(110, 785_066, 93_049_856),
    _cifar(122, 939_754, 110_548_528),
    _cifar(182, 4_209_226, 493_916_592),
]

_MAPS = Maps({2: (112, 48), 4: (56, 144), 8: (28, 400), 16: (14, 1040), 32: (7, 2064)})
MAPS = {"condensenet_74": _MAPS, "condensenet_74_g8": _MAPS} | {
    f"cifar_condensenet_{depth}": Maps({1: (32, 16 + 8 * size), 2: (16, 16 + 24 * size), 4: (8, 16 + 56 * size)}, 32)
    for depth, size in {50: 8, 74: 12, 86: 14, 98: 16, 110: 18, 122: 20}.items()
}
MAPS["cifar_condensenet_182"] = Maps({1: (32, 24 + 12 * 30), 2: (16, 24 + 36 * 30), 4: (8, 24 + 84 * 30)}, 32)

_SMALL = {"stage_sizes": (1, 1), "growth_rates": (4, 8), "num_groups": 2}
CASES = [
    Case("condensenet_74", _SMALL, 16),
    Case("cifar_condensenet_50", {**_SMALL, "classifier_condense_factor": 1, **_DEPLOYED}, 8),
]
