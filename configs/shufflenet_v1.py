"""ShuffleNet v1 (Zhang, Zhou, Lin, Sun, CVPR 2018, arXiv:1707.01083).

    python train.py --config=configs/shufflenet_v1.py                                   a small one, the digits
    python train.py --config=configs/shufflenet_v1.py:fashion_mnist,name=shufflenet_v1_g8    the same, Fashion-MNIST
    python train.py --config=configs/shufflenet_v1.py:imagenet,name=shufflenet_v1_g8    of the published size, ImageNet
    python train.py --config=configs/shufflenet_v1.py:smoke                             a few steps, synthetic images

In 3 and 8 groups also 0.5x, 1.5x and 2x: --config.model.fields.width_multiplier=0.5. ImageNet is the recipe of the
authors' code (300k steps of 1,024 images, rate 0.5 that falls linearly, weight decay 4e-5); top-1 67.8%, 57.3%, 71.6%,
74.1% published for 1x, 0.5x, 1.5x, 2x in 3 groups, 68.0%, 58.8%, 71.0%, 72.9% in 8. Here: not yet run; small on
Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = (
    "shufflenet_v1_g3",
    "shufflenet_v1_g1",
    "shufflenet_v1_g2",
    "shufflenet_v1_g4",
    "shufflenet_v1_g8",
    "shufflenet_v1_50",
)
# Of the small ones: more groups, more channels at the same size.
FIRST_FEATURES = {
    "shufflenet_v1_g1": 96,
    "shufflenet_v1_g2": 128,
    "shufflenet_v1_g3": 156,
    "shufflenet_v1_g4": 176,
    "shufflenet_v1_g8": 256,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/shufflenet_v1.py", arg, names=NAMES, small=small, imagenet=_imagenet)


def small(name: str) -> dict:
    """Fields for small images and two CPU cores."""
    if name == "shufflenet_v1_50":
        stages = {"stage_sizes": (1, 2, 3, 1), "stage_features": (96, 192, 384, 768)}
    else:
        stages = {"stage_sizes": (4, 8, 4), "stage_features": tuple(FIRST_FEATURES[name] * 2**n for n in range(3))}
    stages["stem_features"] = 24
    return {"width_multiplier": 1.0, "dropout_rate": 0.0, **stages}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    common.set_shufflenet_imagenet(config)
    config.model.fields = ml_collections.ConfigDict({"width_multiplier": 1.0})
