"""GUNN (Qiao, Zhang, Shen, Wang, Yuille, Gradually Updated Neural Networks, ICML 2018, arXiv:1711.09280).

    python train.py --config=configs/gunn.py                          a small GUNN-18, the digits of scikit-learn
    python train.py --config=configs/gunn.py:name=gunn_15             a small GUNN-15
    python train.py --config=configs/gunn.py:fashion_mnist            Fashion-MNIST
    python train.py --config=configs/gunn.py:imagenet                 GUNN-18, ImageNet
    python train.py --config=configs/gunn.py:cifar10,name=gunn_15     GUNN-15, CIFAR-10, or -100
    python train.py --config=configs/gunn.py:smoke                    a few steps on synthetic images

ImageNet is the recipe of the authors' code (120 epochs of 256 images, rate 0.1 that falls tenfold after 30, 60 and 90,
Nesterov momentum, weight decay 1e-4 of all parameters; theirs falls a hundredfold after 90); top-1 error 21.65%
published for GUNN-18. GUNN-15 is the paper's for CIFAR; on ImageNet it gets the large stem. CIFAR is the authors', too
(300 epochs of 64 images, falls after 150 and 225, the rest as before); error 4.15% on CIFAR-10, 20.45% on CIFAR-100.
Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("gunn_18", "gunn_15")
SMALL = {
    "gunn_18": {"stage_sizes": (1, 1, 1), "stage_features": (60, 120, 160), "stage_segments": (4, 6, 8)},
    "gunn_15": {"stage_features": (60, 90, 120), "stage_segments": (5, 6, 8), "head_features": 120},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe("configs/gunn.py", arg, names=NAMES, small=_small, imagenet=_imagenet, cifar=_cifar)


def _small(name: str) -> Mapping[str, Any]:
    return {**SMALL[name], "stem_features": 32, "dropout_rate": 0.0}


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


def _cifar(config: ml_collections.ConfigDict) -> None:
    if config.model.name != "gunn_15":
        raise ValueError(f"configs/gunn.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    config.num_epochs = 300.0
    config.global_batch_size = 64
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (150.0, 225.0)
