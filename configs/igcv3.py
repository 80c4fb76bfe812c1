"""IGCV3 (Sun, Li, Liu, Wang, Interleaved Low-Rank Group Convolutions, BMVC 2018, arXiv:1806.00178).

    python train.py --config=configs/igcv3.py                   a small one, the digits of scikit-learn
    python train.py --config=configs/igcv3.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/igcv3.py:imagenet          width 1, ImageNet
    python train.py --config=configs/igcv3.py:smoke             a few steps on synthetic images

ImageNet is the recipe of the authors' code (480 epochs of 96 images, rate 0.045 that falls by 2% an epoch, weight decay
4e-5); top-1 70.6% published for it, and 72.2% for a second training from its result. Here: not yet run; small on
Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = ("igcv3_d",)
SMALL = {
    "stage_sizes": (1, 4, 6, 4),
    "stage_features": (16, 24, 48, 96),
    "stage_strides": (1, 2, 2, 2),
    "expand_ratios": (1, 4, 4, 4),
    "stem_features": 16,
    "head_features": 256,
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/igcv3.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet)


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 480.0
    config.global_batch_size = 96
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.045
    config.schedule.step_epochs = tuple(float(epoch) for epoch in range(1, 480))
    config.schedule.step_factor = 0.98
