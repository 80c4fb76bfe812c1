"""clcNet: counted from the layout of the author's Lua code."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("clcnet_a", 3_253_640, None, 341_949_440, 342_973_440),
    Row("clcnet_b", 4_085_128, None, 423_535_616, 424_559_616),
]

_MAPS = Maps({2: (112, 64), 4: (56, 128), 8: (28, 256), 16: (14, 512), 32: (7, 1024)})
MAPS = {"clcnet_a": _MAPS, "clcnet_b": _MAPS}

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16), "stem_features": 4, "stem": "small"}
_NO_GRADIENT = {r".*/spatial_norm/bias": "a 1x1 convolution and a norm follow, which takes out what it shifts"}
CASES = [
    Case("clcnet_a", _SMALL, 8, _NO_GRADIENT),
    Case("clcnet_a", {**_SMALL, "interlaced_inputs": True}, 8, _NO_GRADIENT),
]
