"""SENet (Hu, Shen, Sun, CVPR 2018, arXiv:1709.01507).

    python train.py --config=configs/senet.py                             a small one, the digits of scikit-learn
    python train.py --config=configs/senet.py:fashion_mnist               the same, Fashion-MNIST
    python train.py --config=configs/senet.py:imagenet,name=senet154      of the published size, ImageNet
    python train.py --config=configs/senet.py:smoke                       a few steps on synthetic images

ImageNet is the paper's recipe (section 6.1: 100 epochs of 1,024 images, rate 0.6 that falls tenfold every 30 epochs),
with the weight decay of ResNet, 1e-4, which the paper does not give; the authors' repository has top-1 error 22.37% for
se_resnet50, 21.75% for se_resnet101, 21.34% for se_resnet152, 20.97% for se_resnext50_32x4d, 19.81% for
se_resnext101_32x4d, 18.68% for senet154. Here: not yet run; small on Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = (
    "se_resnet50",
    "se_resnet18",
    "se_resnet34",
    "se_resnet101",
    "se_resnet152",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
    "senet154",
)

_SMALL = {"stage_sizes": (2, 2, 2), "reduction": 8, "dropout_rate": 0.0}
_BASIC = {**_SMALL, "stage_features": (24, 48, 96), "stem_features": (24,)}
_BOTTLENECK = {**_SMALL, "stage_features": (16, 32, 64), "stem_features": (32,)}
_GROUPS = {**_SMALL, "stage_features": (32, 64, 128), "groups": 8, "stem_features": (32,)}
_DEEP_STEM = {**_GROUPS, "stage_sizes": (2, 2, 3), "stem_features": (16, 16, 32)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/senet.py", arg, names=NAMES, small=small, imagenet=_imagenet)


def small(name: str) -> dict:
    """Fields for small images and two CPU cores."""
    if name == "senet154":
        return _DEEP_STEM
    if name in ("se_resnet18", "se_resnet34"):
        return _BASIC
    return _GROUPS if "resnext" in name else _BOTTLENECK


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 100.0
    config.global_batch_size = 1024
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.6
    config.schedule.step_epochs = (30.0, 60.0, 90.0)
