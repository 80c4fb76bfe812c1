"""Deep Roots (Ioannou, Robertson, Cipolla, Criminisi, CVPR 2017, arXiv:1605.06489).

    python train.py --config=configs/deep_roots.py                                          a small one, the digits
    python train.py --config=configs/deep_roots.py:fashion_mnist                            the same, Fashion-MNIST
    python train.py --config=configs/deep_roots.py:imagenet,name=deep_roots_resnet50_root8  published size, ImageNet
    python train.py --config=configs/deep_roots.py:cifar10,name=deep_roots_nin_root4        published size, CIFAR
    python train.py --config=configs/deep_roots.py:smoke                                    a few synthetic steps

ImageNet is torchvision's recipe for ResNet (90 epochs of 256 images, rate 0.1 that falls tenfold after 30 and 60,
weight decay 1e-4 of all parameters), CIFAR that of ResNet's section 4.2 (64,000 steps of 128 images, rate 0.1 that
falls tenfold after 32,000 and 48,000), with norms. With recipes of their own the authors have top-1 73.0% for
ResNet-50, 72.7, 73.4, 73.4, 73.2, 72.9, 73.2% with roots 2 to 64, and on CIFAR-10 92.1% for Network in Network, 92.1,
92.0, 92.2, 91.7% with roots 2 to 16. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = (
    *(f"deep_roots_resnet50_root{root}" for root in (4, 2, 8, 16, 32, 64)),
    "deep_roots_nin",
    *(f"deep_roots_nin_root{root}" for root in (2, 4, 8, 16)),
)

_RESNET = {"stage_sizes": (2, 2, 2), "stage_features": (24, 48, 96), "stem_features": 32}
_GROUPS = {"deep_roots_resnet50_root2": (2, 1, 1), "deep_roots_resnet50_root4": (4, 2, 1)}
_NIN = {"stage_features": ((128, 96, 64), (128, 128, 128), (128, 128))}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/deep_roots.py", arg, names=NAMES, small=small, imagenet=_imagenet, cifar=_cifar
    )


def small(name: str) -> dict:
    """Fields for small images and two CPU cores."""
    if "_nin" in name:
        return {**_NIN, "dropout_rate": 0.0}
    return {**_RESNET, "groups": _GROUPS.get(name, (8, 4, 2)), "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if "_nin" in config.model.name:
        raise ValueError(f"configs/deep_roots.py: name={config.model.name} is not for imagenet; take cifar10, cifar100")
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if "_nin" not in config.model.name:
        raise ValueError(
            f"configs/deep_roots.py: name={config.model.name} is not for {config.data.name}; take imagenet"
        )
    common.set_resnet_cifar(config)
