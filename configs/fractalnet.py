"""FractalNet (Larsson, Maire, Shakhnarovich, ICLR 2017, arXiv:1605.07648).

    python train.py --config=configs/fractalnet.py                             a small one, the digits of scikit-learn
    python train.py --config=configs/fractalnet.py:fashion_mnist               the same, Fashion-MNIST
    python train.py --config=configs/fractalnet.py:imagenet,name=fractalnet_40 ImageNet, behind ResNet's stem
    python train.py --config=configs/fractalnet.py:cifar10                     CIFAR-10, or -100
    python train.py --config=configs/fractalnet.py:smoke                       a few steps on synthetic images

The paper's networks of these names are for CIFAR. Its own for ImageNet, FractalNet-34, it does not describe in full,
and it is not here; the ImageNet recipe is what the paper trained that one with (section 4: 70 epochs of 32 images,
momentum 0.9, rate 0.001 that falls tenfold whenever half of the epochs that were left are over), without dropout and
weight decay. CIFAR is the paper's too (section 4: 400 epochs of 100 images, rate 0.02 that falls in that way, here four
times), with dropout; that no weight decays is ours, the paper says nothing of it. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("fractalnet_20", "fractalnet_40")
SMALL = {"fractalnet_20": (16, 32, 64), "fractalnet_40": (16, 24, 40)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/fractalnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet, cifar=_cifar
    )


def _small(name: str) -> Mapping[str, Any]:
    return {"stage_features": SMALL[name], "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 70.0
    config.global_batch_size = 32
    config.model.fields = ml_collections.ConfigDict({"stem": "imagenet", "dropout_rate": 0.0})
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.001
    config.schedule.step_epochs = (35.0, 52.5, 61.25, 65.625)


def _cifar(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 400.0
    config.global_batch_size = 100
    config.optimizer.weight_decay = 0.0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.02
    config.schedule.step_epochs = (200.0, 300.0, 350.0, 375.0)
