"""Second-order networks. iSQRT-COV: the authors' networks; the others by their closed form on the trunk's size."""

from tests.models.families.row import Case, Maps, Row

# torchvision's VGG-16 without its linear layers: 138,357,544 less those of 25,088, 4096 and 4096 inputs.
_VGG = 138_357_544 - 25_089 * 4096 - 4097 * 4096 - 4097 * 1000
_VGG_CONV_MACS = 15_346_630_656
_REDUCED = 256 * 257 // 2  # the upper triangle of 256 channels
_RESNET50 = {"conv_macs": 6_309_330_944, "macs": 6_309_330_944 + 32_896_000}


def _linear(inputs: int) -> int:
    return (inputs + 1) * 1000


ROWS = [
    Row("isqrt_cov_resnet50", 56_929_832, 53_632, **_RESNET50),
    Row("isqrt_cov_resnet101", 75_921_960, 105_856, 10_054_448_128 - 32_896_000, 10_054_448_128),
    # The power has no parameters either.
    Row("mpn_cov_resnet50", 56_929_832, 53_632, **_RESNET50),
    Row("bcnn_vgg16", _VGG + _linear(512**2), 0, _VGG_CONV_MACS, _VGG_CONV_MACS + 262_144_000),
    Row("improved_bcnn_vgg16", _VGG + _linear(512**2), 0, _VGG_CONV_MACS, _VGG_CONV_MACS + 262_144_000),
    Row("g2denet_vgg16", _VGG + _linear(513**2), 0, _VGG_CONV_MACS, _VGG_CONV_MACS + 263_169_000),
    Row("g2denet_vgg16", _VGG + _linear(131_841), fields={"triangle": True}),
    Row("cbp_vgg16", _VGG + _linear(8192), 0, _VGG_CONV_MACS, _VGG_CONV_MACS + 8_192_000),
    # A projection to 100 channels, and 4 + 4 vectors and a bias a class.
    Row(
        "lrbp_vgg16",
        _VGG + 512 * 100 + 100 * 8 * 1000 + 1000,
        0,
        _VGG_CONV_MACS + 196 * 512 * 100,
        _VGG_CONV_MACS + 196 * 512 * 100 + 196 * 100 * 8 * 1000,
    ),
    Row(
        "isqrt_cov_vgg16",
        _VGG + 512 * 256 + 2 * 256 + _linear(_REDUCED),
        512,
        _VGG_CONV_MACS + 196 * 512 * 256,
        _VGG_CONV_MACS + 196 * 512 * 256 + 32_896_000,
    ),
    # The authors' trunk for ImageNet: 8,448 statistics of VGG-16 and those of the reduction.
    Row("isqrt_cov_vgg16", batch_stats=8_448 + 512, fields={"trunk": "vgg_bn"}),
]

# At the 448 pixels of fine-grained recognition; the last stage is not pooled, or keeps its stride.
_VGG_MAPS = Maps({1: (448, 64), 2: (224, 128), 4: (112, 256), 8: (56, 512), 16: (28, 512)}, image_size=448)
_RESNET_MAPS = Maps({4: (56, 256), 8: (28, 512), 16: (14, 2048)})
MAPS = {
    "bcnn_vgg16": _VGG_MAPS,
    "cbp_vgg16": _VGG_MAPS,
    "g2denet_vgg16": _VGG_MAPS,
    "improved_bcnn_vgg16": _VGG_MAPS,
    "isqrt_cov_resnet50": _RESNET_MAPS,
    "isqrt_cov_resnet101": _RESNET_MAPS,
    "isqrt_cov_vgg16": _VGG_MAPS,
    "lrbp_vgg16": _VGG_MAPS,
    "mpn_cov_resnet50": _RESNET_MAPS,
}

_SMALL = {"stage_sizes": (1, 1), "stage_features": (6, 8), "stem": "small"}
_RESNET = {"stage_sizes": (1, 1), "stage_features": (4, 8), "stage_strides": (2, 1), "stem": "stride2"}
CASES = [
    Case("bcnn_vgg16", {**_SMALL, "dropout_rate": 0.1}, 8),
    Case("bcnn_vgg16", {**_SMALL, "stem": "stride2", "reduction_features": 4, "whitening": "newton_schulz"}, 12),
    Case("bcnn_vgg16", {**_SMALL, "pooling": "two_stream", "reduction_features": 4}, 8),
    Case("lrbp_vgg16", {**_SMALL, "reduction_features": 5, "rank": 4, "dropout_rate": 0.1}, 8),
    Case("cbp_vgg16", {**_SMALL, "compact_features": 32}, 8),
    Case("cbp_vgg16", {**_SMALL, "pooling": "compact_random_maclaurin", "compact_features": 32}, 8),
    Case("improved_bcnn_vgg16", _SMALL, 8),
    Case("g2denet_vgg16", {**_SMALL, "triangle": True}, 8),
    Case(
        "isqrt_cov_vgg16",
        {**_SMALL, "trunk": "vgg_bn", "reduction_features": 4},
        8,
        {r"trunk/stage._conv./bias": "a norm follows, which takes out what it shifts"},
    ),
    Case("isqrt_cov_resnet50", {**_RESNET, "reduction_features": 6}, 16),
    Case("mpn_cov_resnet50", {**_RESNET, "reduction_features": 6}, 16),
]
