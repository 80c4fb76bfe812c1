"""Residual attention networks, counted in the authors' prototxt (github.com/fwang91/residual-attention-network)."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("attention_56", 31_810_728, conv_macs=6_268_788_736, macs=6_270_836_736),
    Row("attention_92", 52_466_344, conv_macs=10_531_741_696),
    Row("attention_next_56", 31_318_824, conv_macs=6_417_058_816),
    Row("attention_next_92", 52_102_952, conv_macs=10_702_289_920),
]

MAPS = dict.fromkeys(
    ("attention_56", "attention_92", "attention_next_56", "attention_next_92"),
    Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)}),
)

_SMALL = {"stage_sizes": (1,), "stage_features": (16,), "stage_levels": (1,), "last_size": 1, "last_features": 16}
_SMALL |= {"num_trunk_units": 1, "stem_features": 8}
CASES = [
    Case("attention_56", {**_SMALL, "stem": "small"}, 8),
    Case("attention_next_56", {**_SMALL, "groups": 4, "num_outer_units": 0, "stem": "stride2"}, 16),
]
