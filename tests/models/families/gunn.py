"""GUNN: counted from the layout of the authors' Lua code; two sources agree (the paper prints 1.6M and 28.9M)."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("gunn_15", 1_585_746, macs=555_716_112, image_size=32, fields={"num_classes": 10}),
    Row("gunn_15", 1_618_236, image_size=32, fields={"num_classes": 100}),
    Row("gunn_18", 28_909_736, macs=7_747_079_552),
]

MAPS = {
    "gunn_15": Maps({1: (32, 240), 2: (16, 300), 4: (8, 360)}, 32),
    "gunn_18": Maps({4: (56, 400), 8: (28, 800), 16: (14, 1600), 32: (7, 2000)}),
}

_SMALL = {"stage_features": (4, 6), "stage_segments": (2, 3), "stem_features": 4, "stem": "small"}
_WHY = "it passes through sums and means to 1x1 convolutions and norms alone, which take out what it shifts"
CASES = [
    Case(
        "gunn_15",
        {**_SMALL, "stage_sizes": (1, 1), "head_features": 8},
        8,
        {r"stage._layer./segment._(expand|projection)_norm/bias": _WHY},
    ),
    Case("gunn_18", {**_SMALL, "stage_sizes": (1, 2)}, 8, {r"stage1_layer1/segment._expand_norm/bias": _WHY}),
]
