"""IGCV3-D: counted from the layout of the authors' MXNet code."""

from tests.models.families.row import Case, Maps, Row

ROWS = [Row("igcv3_d", 3_491_688, macs=312_970_176)]

MAPS = {"igcv3_d": Maps({2: (112, 16), 4: (56, 24), 8: (28, 32), 16: (14, 96), 32: (7, 320)})}

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 12), "stage_strides": (1, 2), "expand_ratios": (1, 3)}
_NO_GRADIENT = {
    r"stage._unit./project_norm/bias": "1x1 convolutions and norms follow, which take out what it shifts",
}
CASES = [Case("igcv3_d", {**_SMALL, "stem_features": 8, "head_features": 16, "stem": "small"}, 8, _NO_GRADIENT)]
