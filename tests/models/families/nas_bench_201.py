"""NAS-Bench-201: the least and the most of the authors' tables for CIFAR-10 and -100, in millions to six digits.

Their "FLOPs" are multiply-adds of convolutions and the classifier, and its biases: 7.78305 and 220.11969 million. The
default cell has 184.73 million and 1.289 million parameters there.
"""

from arch.models.classification.nas_bench_201 import EDGES, cell_text
from tests.models.families.row import Case, Maps, Row

_NONE, _CONV = (cell_text([name] * len(EDGES)) for name in ("none", "nor_conv_3x3"))
ROWS = [
    Row("nas_bench_201", 1_531_546, macs=220_119_690 - 10, image_size=32, fields={"cell": _CONV, "num_classes": 10}),
    Row("nas_bench_201", 73_306, macs=7_783_050 - 10, image_size=32, fields={"cell": _NONE, "num_classes": 10}),
    Row("nas_bench_201", 1_537_396, image_size=32, fields={"cell": _CONV, "num_classes": 100}),
    Row("nas_bench_201", 79_156, image_size=32, fields={"cell": _NONE, "num_classes": 100}),
]

MAPS = {"nas_bench_201": Maps({1: (32, 16), 2: (16, 32), 4: (8, 64)}, 32)}

_NO_GRADIENT = {r"stage2_cell1_edge\d3/.*norm/bias": "the next layer, final_norm, subtracts the mean"}
_SMALL = {"stage_sizes": (1, 1), "features": 4}
CASES = [
    Case("nas_bench_201", _SMALL, 8, _NO_GRADIENT),
    Case(
        "nas_bench_201",
        {
            **_SMALL,
            "stem": "stride2",
            "cell": "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|",
        },
        14,
        {**_NO_GRADIENT, "stage2_cell1_edge02/.*norm/bias": "nor is anything but means of it in between"},
    ),
]
