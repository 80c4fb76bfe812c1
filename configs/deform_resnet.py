"""ResNet with deformable convolutions (Dai et al., arXiv:1703.06211), and version 2 (Zhu et al., arXiv:1811.11168).

    python train.py --config=configs/deform_resnet.py                                   a small one, the digits
    python train.py --config=configs/deform_resnet.py:fashion_mnist                     the same, Fashion-MNIST
    python train.py --config=configs/deform_resnet.py:imagenet,name=deform_resnet50_v2  of full size, ImageNet
    python train.py --config=configs/deform_resnet.py:smoke                             a few steps on synthetic images

The papers put these trunks, trained as ResNets, into detectors, and give no figure for ImageNet. That recipe is
ResNet's (arXiv:1512.03385, section 3.4: batches of 256, rate 0.1 that falls tenfold, here every 30 of 90 epochs, weight
decay 1e-4); the papers' lower rate of offsets and factors is not in it. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("deform_resnet50", "deform_resnet50_v2")
SMALL = {"stage_sizes": (1, 1, 2), "stage_features": (16, 32, 64), "stem_features": 32, "dropout_rate": 0.0}
SMALL_V1 = {"deform_stages": (3,), "stage_strides": (1, 2, 1), "stage_dilations": (1, 1, 2)}
SMALL_V2 = {"deform_stages": (2, 3)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/deform_resnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    return {**SMALL, **(SMALL_V2 if "v2" in name else SMALL_V1)}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)
