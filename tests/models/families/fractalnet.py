"""FractalNet: counted from the layout of the authors' generator; see the class on what the paper states."""

from tests.models.families.row import Case, Maps, Row

_CIFAR = {"image_size": 32, "fields": {"num_classes": 10}}
ROWS = [
    Row("fractalnet_20", 33_734_922, macs=845_222_912, **_CIFAR),
    Row("fractalnet_40", 76_128_714, **_CIFAR),
]

_MAPS = Maps({2: (16, 64), 4: (8, 128), 8: (4, 256), 16: (2, 512), 32: (1, 512)}, 32)
MAPS = {"fractalnet_20": _MAPS, "fractalnet_40": _MAPS}

_SMALL = {"stage_features": (8, 12), "num_columns": 2, "stem_features": 8}
_NO_GRADIENT = {r".*_unit\d+/conv/bias": "a normalization follows, which takes out what it shifts"}
CASES = [
    Case("fractalnet_20", _SMALL, 8, _NO_GRADIENT),
    Case("fractalnet_40", {**_SMALL, "stem": "stride2", "pool": "after_join", "only_column": 1, "use_bias": False}, 8),
]
