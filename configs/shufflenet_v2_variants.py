"""Variants of ShuffleNet v2 (Ma, Zhang, Zheng, Sun, ECCV 2018, arXiv:1807.11164); itself: configs/shufflenet_v2.py.

    CONFIG=configs/shufflenet_v2_variants.py
    python train.py --config=$CONFIG                                                    a small one, the digits
    python train.py --config=$CONFIG:fashion_mnist,name=shufflenet_v2_star_x0_5         a small one, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=shufflenet_v2_plus_small             of the published size, ImageNet
    python train.py --config=$CONFIG:smoke                                              a few steps, synthetic images

With squeeze-and-excitation (se_...), for detection (..._star_...), large (..._50, ..._164), and v2+ (..._plus_...).
ImageNet is the recipe of the authors' code: 300k steps of 1,024 images, 450k for v2+, rate 0.5 that falls linearly,
weight decay 4e-5. Top-1 published: 75.4% for se_shufflenet_v2_x2_0, 77.2% for shufflenet_v2_50, 81.44% for
se_shufflenet_v2_164, 74.1%, 75.7%, 77.1% for v2+ small, medium, large. Here: not yet run.
"""

import ml_collections

from configs import common

_WIDTHS = ("x0_5", "x1_0", "x1_5", "x2_0")
NAMES = (
    *(f"se_shufflenet_v2_{width}" for width in _WIDTHS),
    *(f"shufflenet_v2_star_{width}" for width in _WIDTHS),
    "shufflenet_v2_50",
    "se_shufflenet_v2_164",
    "shufflenet_v2_plus_small",
    "shufflenet_v2_plus_medium",
    "shufflenet_v2_plus_large",
)


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/shufflenet_v2_variants.py", arg, names=NAMES, small=small, imagenet=_imagenet)


def small(name: str) -> dict:
    """Fields for small images and two CPU cores; of the widths the narrowest is small as it is."""
    if name.startswith("shufflenet_v2_plus"):
        fields = {
            "stage_sizes": (2, 3, 2),
            "stage_features": (48, 96, 192),
            "stage_gates": (False, True, True),
            "units": ("3x3", "xception", "5x5", "3x3", "7x7", "3x3", "xception"),
            "head_features": 256,
        }
    elif name in ("shufflenet_v2_50", "se_shufflenet_v2_164"):
        fields = {"stage_sizes": (2, 3, 4, 2), "stage_features": (36, 72, 144, 288), "head_features": 512}
        fields["stem_features"] = 24
    else:
        fields = {"stage_features": (48, 96, 192), "head_features": 1024}
    if name == "se_shufflenet_v2_164":
        fields["more_stem_features"] = (24, 32)
    return {"dropout_rate": 0.0, **fields}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    common.set_shufflenet_imagenet(config, 450_000 if "plus" in config.model.name else 300_000)
