"""ShiftNet: counted here; A and B agree with the paper's rounded sizes, for C no exact size is known."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("shiftnet_a", 4_188_680, macs=1_424_306_176),
    Row("shiftnet_b", 1_183_480, macs=370_956_288),
]

_HALF = Maps({2: (112, 16), 4: (56, 32), 8: (28, 64), 16: (14, 128), 32: (7, 256)})
MAPS = {
    "shiftnet_a": Maps({2: (112, 32), 4: (56, 64), 8: (28, 128), 16: (14, 256), 32: (7, 512)}),
    "shiftnet_b": _HALF,
    "shiftnet_c": _HALF,
}

_SMALL = {
    "stage_sizes": (1, 2),
    "stage_features": (16, 24),
    "stage_kernel_sizes": (3, 3),
    "expand_ratios": ((2, 1), (2, 1)),
    "stem_features": 8,
    "stem": "small",
}
CASES = [Case("shiftnet_a", _SMALL, 8), Case("shiftnet_c", _SMALL, 8)]
