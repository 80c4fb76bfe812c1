"""ResNet with an encoder in place of its last stage, a network of this library."""

from tests.models.families.row import Case, Maps, Row

ROWS: list[Row] = []

MAPS = {"attention_resnet50": Maps({4: (56, 256), 8: (28, 512), 16: (14, 512)})}

_SMALL = {
    "stage_sizes": (1,),
    "stage_features": (8,),
    "stem_features": 8,
    "token_features": 16,
    "num_layers": 1,
    "num_heads": 2,
}
_NO_GRADIENT = {r"layer1/attention/key/bias": "it adds the same to a query's products with all keys"}
CASES = [
    Case("attention_resnet50", {**_SMALL, "stem": "small"}, 8, _NO_GRADIENT),
    Case("attention_resnet50", {**_SMALL, "stem": "stride2", "pre_norm": False}, 8, _NO_GRADIENT),
]
