"""IGCV1 (Zhang, Qi, Xiao, Wang, Interleaved Group Convolutions, ICCV 2017, arXiv:1707.02725).

    CONFIG=configs/igcv1.py
    python train.py --config=$CONFIG                                        a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                          the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=igcv1_l16m16             of the published size, ImageNet
    python train.py --config=$CONFIG:cifar10,name=cifar_igcv1_l24m2_d38     of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                                  a few steps on synthetic images

ImageNet is the recipe of the authors' code (120 epochs of 256 images, rate 0.1 that falls tenfold after 30, 60 and 90,
Nesterov momentum, weight decay 1e-4 of all parameters), without its noise in hue, saturation and lightness; top-1 error
26.95% published for igcv1_l100m2, 29.40% for igcv1_l16m16, 30.77% for igcv1_l4m32. CIFAR is their recipe too (400
epochs of 64 images, rate 0.1 that falls tenfold after 200, 300 and 350, Nesterov momentum, weight decay 1e-4), for
their plain networks, of depth 8 to 62. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = (
    "igcv1_l100m2",
    "igcv1_l16m16",
    "igcv1_l4m32",
    *(f"cifar_igcv1_{groups}_d{depth}" for groups in ("l24m2", "l4m8") for depth in (20, 8, 38, 62)),
)
# Features of the first stage, which double, and primary groups; those of L100M2 double too.
SMALL = {"igcv1_l100m2": (96, (48, 96, 192)), "igcv1_l16m16": (80, (16, 16, 16)), "igcv1_l4m32": (40, (4, 4, 4))}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe("configs/igcv1.py", arg, names=NAMES, small=_small, imagenet=_imagenet, cifar=_cifar)


def _small(name: str) -> Mapping[str, Any]:
    if name not in SMALL:
        pairs = 2 if name.endswith("_d8") else 6  # of depth 8 and 20, which are small as they are
        return {"stage_sizes": (pairs, pairs, pairs), "dropout_rate": 0.0}
    width, groups = SMALL[name]
    return {
        "stage_sizes": (2, 2, 2),
        "stage_features": (width, 2 * width, 4 * width),
        "stage_primary_groups": groups,
        "stem_features": groups[0],
        "dropout_rate": 0.0,
    }


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/igcv1.py: name={config.model.name} is not for imagenet; take cifar10 or cifar100")
    config.num_epochs = 120.0
    config.global_batch_size = 256
    config.model.fields = ml_collections.ConfigDict({"stem": "imagenet"})
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0, 90.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if not config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/igcv1.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    config.num_epochs = 400.0
    config.global_batch_size = 64
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (200.0, 300.0, 350.0)
