"""Xception (Chollet, CVPR 2017, arXiv:1610.02357).

    python train.py --config=configs/xception.py                   a small one, the digits of scikit-learn
    python train.py --config=configs/xception.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/xception.py:imagenet          of the published size, ImageNet at 299 pixels
    python train.py --config=configs/xception.py:smoke             a few steps on synthetic images

ImageNet is the recipe of the paper where it gives one: momentum 0.9, rate 0.045 that falls by 6% every second epoch
(section 4.2), weight decay 1e-5, dropout 0.5 (section 4.3). It does not give the epochs, here 120, nor the batch, here
256. Top-1 79.0% published. Here: not yet run; small on Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = ("xception",)
SMALL = {
    "stem_features": 16,
    "more_stem_features": (24,),
    "entry_features": (48, 96),
    "num_middle_blocks": 2,
    "exit_features": (128, 192, 256),
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/xception.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet)


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 120.0
    config.global_batch_size = 256
    config.data.image_size = 299
    config.data.mean = config.data.std = (0.5, 0.5, 0.5)  # as Keras has it
    config.optimizer.weight_decay = 1e-5
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.045
    config.schedule.step_epochs = tuple(float(epoch) for epoch in range(2, 120, 2))
    config.schedule.step_factor = 0.94
