"""MobileNet v2 (Sandler, Howard, Zhu, Zhmoginov, Chen, CVPR 2018, arXiv:1801.04381).

    python train.py --config=configs/mobilenet_v2.py                   a small one, the digits of scikit-learn
    python train.py --config=configs/mobilenet_v2.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/mobilenet_v2.py:imagenet          width 1, ImageNet
    python train.py --config=configs/mobilenet_v2.py:smoke             a few steps on synthetic images

ImageNet is the recipe of torchvision's reference for this network (300 epochs of 256 images, rate 0.045 that falls by
2% an epoch, weight decay 4e-5 of all parameters); top-1 71.9% published for it. Here: not yet run; small on
Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = ("mobilenet_v2",)
SMALL = {
    "stage_sizes": (1, 2, 3, 2),
    "stage_features": (16, 24, 48, 96),
    "stage_strides": (1, 2, 2, 2),
    "expand_ratios": (1, 4, 4, 4),
    "stem_features": 16,
    "head_features": 256,
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe(
        "configs/mobilenet_v2.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 300.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.045
    config.schedule.step_epochs = tuple(float(epoch) for epoch in range(1, 300))
    config.schedule.step_factor = 0.98
