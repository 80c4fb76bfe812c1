"""ShiftResNet (Wu et al., Shift: A Zero FLOP, Zero Parameter Alternative, CVPR 2018, arXiv:1711.08141).

    CONFIG=configs/shiftresnet.py
    python train.py --config=$CONFIG                                        a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                          the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet                               ImageNet, behind ResNet's stem
    python train.py --config=$CONFIG:cifar10,name=shiftresnet56_e3          of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                                  a few steps on synthetic images

The networks are the paper's for CIFAR, and so is that recipe: 160 epochs of 128 images, rate 0.1 that falls tenfold
after 82 and 124, weight decay 5e-4 of all parameters. The ImageNet recipe is ours, with that optimiser over 90 epochs.
Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("shiftresnet20_e3", "shiftresnet56_e3", "shiftresnet110_e3")
SMALL = {"shiftresnet20_e3": 3, "shiftresnet56_e3": 5, "shiftresnet110_e3": 6}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/shiftresnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet, cifar=_cifar
    )


def _small(name: str) -> Mapping[str, Any]:
    units = SMALL[name]
    return {
        "stage_sizes": (units, units, units),
        "stage_features": (24, 48, 96),
        "stem_features": 24,
        "dropout_rate": 0.0,
    }


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 128
    config.model.fields = ml_collections.ConfigDict({"stem": "imagenet"})
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (45.0, 68.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 160.0
    config.global_batch_size = 128
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (82.0, 124.0)
