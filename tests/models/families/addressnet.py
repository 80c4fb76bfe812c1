"""AddressNet: no exact size is published; test_addressnet has the rounded ones."""

from tests.models.families.row import Case, Maps

ROWS = []

_MAPS = Maps({1: (32, 72), 2: (16, 144), 4: (8, 288)}, 32)
MAPS = {"addressnet_20": _MAPS, "addressnet_44": _MAPS}

_SMALL = {"stage_sizes": (1, 2), "stage_features": (8, 16), "stage_groups": (2, 4), "stem_features": 8}
CASES = [Case("addressnet_20", _SMALL, 8)]
