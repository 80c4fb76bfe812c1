"""Dilated residual networks, counted in the authors' code (github.com/fyu/drn)."""

from tests.models.families.row import Case, Maps, Row

ROWS = [
    Row("drn_a_18", 11_689_512, macs=9_212_825_600),
    Row("drn_a_34", 21_797_672, macs=17_305_210_880),
    Row("drn_a_50", 25_557_032, macs=19_079_364_608),
    Row("drn_c_26", 21_126_584, macs=16_971_239_424),
    Row("drn_c_42", 31_234_744, macs=25_063_624_704),
    # The authors' has 1,049,600 parameters and 822,083,584 multiply-adds more, in a projection that it does not use.
    Row("drn_c_58", 41_591_608 - 1_049_600, macs=33_245_925_376 - 822_083_584),
    Row("drn_d_22", 16_393_752, macs=13_034_229_760),
    Row("drn_d_24", 21_114_392, macs=16_733_605_888),
    Row("drn_d_38", 26_501_912, macs=21_126_615_040),
    Row("drn_d_40", 31_222_552, macs=24_825_991_168),
    Row("drn_d_54", 35_809_176, macs=28_486_832_128),
    Row("drn_d_56", 40_529_816, macs=32_186_208_256),
    Row("drn_d_105", 54_801_304, macs=43_335_716_864),
    Row("drn_d_107", 59_521_944, macs=47_035_092_992),
    # Shortcuts have no parameters where the shape stays.
    Row("drn_b_26", 21_126_584, macs=16_971_239_424),
]

_BASIC = Maps({1: (224, 16), 2: (112, 32), 4: (56, 64), 8: (28, 512)})
_BOTTLENECK = Maps({1: (224, 16), 2: (112, 32), 4: (56, 256), 8: (28, 512)})
MAPS = (
    dict.fromkeys(("drn_a_18", "drn_a_34"), Maps({4: (56, 64), 8: (28, 512)}))
    | {"drn_a_50": Maps({4: (56, 256), 8: (28, 2048)})}
    | dict.fromkeys(("drn_b_26", "drn_c_26", "drn_c_42", "drn_d_22", "drn_d_24", "drn_d_38", "drn_d_40"), _BASIC)
    | dict.fromkeys(("drn_c_58", "drn_d_54", "drn_d_56", "drn_d_105", "drn_d_107"), _BOTTLENECK)
)

_KINDS = {
    "stage_sizes": (1, 1, 1, 1),
    "stage_units": ("conv", "basic", "bottleneck", "plain"),
    "stage_features": (4, 8, 8, 16),
    "stage_strides": (1, 2, 1, 1),
    "stage_dilations": (1, 1, 2, 2),
    "stem_features": 4,
}
_A = {
    "stage_sizes": (1, 2),
    "stage_features": (8, 16),
    "stage_strides": (1, 1),
    "stage_dilations": (1, 2),
    "unit_fields": {"stage2_unit1": {"kernel_dilation": 1}},
    "stem_features": 8,
}
CASES = [Case("drn_d_54", {**_KINDS, "stem": "small"}, 8), Case("drn_a_18", {**_A, "stem": "stride2"}, 16)]
