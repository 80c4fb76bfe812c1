"""ShiftResNet: the authors' count of parameters; test_shiftresnet has their count of multiply-adds."""

from tests.models.families.row import Case, Maps, Row

ROWS = [Row("shiftresnet20_e3", 95_642, image_size=32, fields={"num_classes": 10})]

_MAPS = Maps({1: (32, 16), 2: (16, 32), 4: (8, 64)}, 32)
MAPS = {"shiftresnet20_e3": _MAPS, "shiftresnet56_e3": _MAPS, "shiftresnet110_e3": _MAPS}

_SMALL = {"stage_sizes": (1, 2), "stage_features": (6, 8), "stem_features": 6}
CASES = [
    Case("shiftresnet20_e3", _SMALL, 8),
    Case("shiftresnet20_e3", {**_SMALL, "act_after_addition": True}, 8),
]
