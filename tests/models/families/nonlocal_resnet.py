"""ResNet-50 with non-local blocks: torchvision's, and what the blocks add by their layout."""

from tests.models.families.row import Case, Maps, Row

_RESNET50 = 25_557_032
ROWS = [
    Row("nonlocal_resnet50", _RESNET50 + 7_358_464),
    Row("nonlocal_resnet50_1block", _RESNET50 + 2_101_760),
    Row("nonlocal_resnet50_1block", _RESNET50 + 526_592, fields={"blocks_after": ((), (1,), (), ())}),
]

MAPS = dict.fromkeys(
    ("nonlocal_resnet50", "nonlocal_resnet50_1block"),
    Maps({4: (56, 256), 8: (28, 512), 16: (14, 1024), 32: (7, 2048)}),
)

_SMALL = {"stage_sizes": (1, 1), "stage_features": (8, 8), "stem_features": 8, "blocks_after": ((), (1,))}
_NO_GRADIENT = {r".*context/(g|out)/bias": "a norm follows, which takes out what it shifts"}
_OF_PHI = {r".*context/phi/bias": "it adds the same to a position's products with all positions"}
CASES = [
    Case("nonlocal_resnet50", {**_SMALL, "stem": "small"}, 8, _NO_GRADIENT | _OF_PHI),
    Case("nonlocal_resnet50", {**_SMALL, "stem": "stride2", "form": "gaussian"}, 16, _NO_GRADIENT),
]
