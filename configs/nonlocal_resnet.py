"""ResNet with non-local blocks (Wang, Girshick, Gupta, He, CVPR 2018, arXiv:1711.07971).

    python train.py --config=configs/nonlocal_resnet.py                   a small one, the digits of scikit-learn
    python train.py --config=configs/nonlocal_resnet.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/nonlocal_resnet.py:imagenet          nonlocal_resnet50, of five blocks, ImageNet
    python train.py --config=configs/nonlocal_resnet.py:smoke             a few steps on synthetic images

The paper puts blocks into networks for video that have been trained on ImageNet, and gives no figure for ImageNet. That
recipe is ResNet's (arXiv:1512.03385, section 3.4: batches of 256, rate 0.1 that falls tenfold, here every 30 of 90
epochs, weight decay 1e-4). Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("nonlocal_resnet50", "nonlocal_resnet50_1block")
SMALL = {"stage_sizes": (1, 2, 2), "stage_features": (16, 32, 64), "stem_features": 32, "dropout_rate": 0.0}
BLOCKS_AFTER = {"nonlocal_resnet50": ((), (2,), (2,)), "nonlocal_resnet50_1block": ((), (), (1,))}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/nonlocal_resnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    return {**SMALL, "blocks_after": BLOCKS_AFTER[name]}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)
