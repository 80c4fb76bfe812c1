"""ResNet with pre-activation (He, Zhang, Ren, Sun, ECCV 2016, arXiv:1603.05027).

    python train.py --config=configs/resnet_v2.py                                   a small one, the digits
    python train.py --config=configs/resnet_v2.py:fashion_mnist                     the same, Fashion-MNIST
    python train.py --config=configs/resnet_v2.py:imagenet,name=resnetv2_50         of the published size, ImageNet
    python train.py --config=configs/resnet_v2.py:cifar10,name=cifar_resnetv2_164   of the published size, CIFAR
    python train.py --config=configs/resnet_v2.py:smoke                             a few steps on synthetic images

ImageNet is torchvision's recipe for the first ResNet (90 epochs of 256 images, rate 0.1 that falls tenfold after 30 and
60, weight decay 1e-4 of all parameters). CIFAR is the paper's (64,000 steps of 128 images, the first 400 below the rate
of 0.1, which falls tenfold after 32,000 and 48,000, weight decay 1e-4), with a ramp from 0.01 for its 400 steps; error
on CIFAR-10 6.37% with 110 layers, 5.46% with 164, 4.92% with 1001. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = (
    "resnetv2_50",
    "resnetv2_18",
    "resnetv2_34",
    "resnetv2_101",
    "resnetv2_152",
    "resnetv2_200",
    "cifar_resnetv2_110",
    "cifar_resnetv2_164",
    "cifar_resnetv2_1001",
)

_BASIC = {"stage_sizes": (2, 2, 2), "stage_features": (24, 48, 96), "stem_features": 24, "dropout_rate": 0.0}
_BOTTLENECK = {"stage_sizes": (2, 2, 2), "stage_features": (16, 32, 64), "stem_features": 32, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe("configs/resnet_v2.py", arg, names=NAMES, small=small, imagenet=_imagenet, cifar=_cifar)


def small(name: str) -> dict:
    """Fields for small images and two CPU cores."""
    return _BASIC if name in ("resnetv2_18", "resnetv2_34", "cifar_resnetv2_110") else _BOTTLENECK


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/resnet_v2.py: name={config.model.name} is not for imagenet; take cifar10, cifar100")
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if not config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/resnet_v2.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    common.set_resnet_cifar(config, warmup_steps=400)
