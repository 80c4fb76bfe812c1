"""clcNet (Zhang, Channel Local Convolutions, CVPR 2018, arXiv:1712.06145).

    python train.py --config=configs/clcnet.py                            a small one, the digits of scikit-learn
    python train.py --config=configs/clcnet.py:fashion_mnist              the same, Fashion-MNIST
    python train.py --config=configs/clcnet.py:imagenet,name=clcnet_b     of the published size, ImageNet
    python train.py --config=configs/clcnet.py:smoke                      a few steps on synthetic images

ImageNet is the recipe of the author's code (100 epochs of 256 images, rate 0.1 that falls linearly to 0, Nesterov
momentum, weight decay 1e-4 of all parameters); top-1 70.4% published for clcnet_a, 71.6% for clcnet_b. Here: not yet
run; small on Fashion-MNIST: docs/architectures.md.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("clcnet_a", "clcnet_b")
SMALL = {"clcnet_a": (1, 2, 2, 2), "clcnet_b": (1, 2, 3, 3)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/clcnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    return {"stage_sizes": SMALL[name], "stage_features": (64, 128, 256, 512), "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 100.0
    config.global_batch_size = 256
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "linear"
    config.schedule.base_learning_rate = 0.1
