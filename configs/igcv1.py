"""IGCV1 (Zhang, Qi, Xiao, Wang, Interleaved Group Convolutions, ICCV 2017, arXiv:1707.02725).

    python train.py --config=configs/igcv1.py                               a small one, the digits of scikit-learn
    python train.py --config=configs/igcv1.py:fashion_mnist                 the same, Fashion-MNIST
    python train.py --config=configs/igcv1.py:imagenet,name=igcv1_l16m16    of the published size, ImageNet
    python train.py --config=configs/igcv1.py:smoke                         a few steps on synthetic images

ImageNet is the recipe of the authors' code (120 epochs of 256 images, rate 0.1 that falls tenfold after 30, 60 and 90,
Nesterov momentum, weight decay 1e-4 of all parameters), without its noise in hue, saturation and lightness; top-1 error
26.95% published for igcv1_l100m2, 29.40% for igcv1_l16m16, 30.77% for igcv1_l4m32. The plain networks are the paper's
for CIFAR; on ImageNet they get the large stem. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("igcv1_l100m2", "igcv1_l16m16", "igcv1_l4m32", "cifar_igcv1_l24m2_d20", "cifar_igcv1_l4m8_d20")
# Features of the first stage, which double, and primary groups; those of L100M2 double too.
SMALL = {"igcv1_l100m2": (96, (48, 96, 192)), "igcv1_l16m16": (80, (16, 16, 16)), "igcv1_l4m32": (40, (4, 4, 4))}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/igcv1.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    if name not in SMALL:
        return {"dropout_rate": 0.0}
    width, groups = SMALL[name]
    return {
        "stage_sizes": (2, 2, 2),
        "stage_features": (width, 2 * width, 4 * width),
        "stage_primary_groups": groups,
        "stem_features": groups[0],
        "dropout_rate": 0.0,
    }


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 120.0
    config.global_batch_size = 256
    config.model.fields = ml_collections.ConfigDict({"stem": "imagenet"})
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0, 90.0)
