"""Dilated residual networks (Yu, Koltun, Funkhouser, CVPR 2017, arXiv:1705.09914).

    python train.py --config=configs/drn.py                          a small one, the digits of scikit-learn
    python train.py --config=configs/drn.py:fashion_mnist            the same, Fashion-MNIST
    python train.py --config=configs/drn.py:imagenet,name=drn_d_54   of the published size, ImageNet
    python train.py --config=configs/drn.py:smoke                    a few steps on synthetic images

ImageNet is the paper's recipe (section 5.1: 120 epochs, rate 0.1 that falls tenfold every 30, weight decay 1e-4), with
the batches of 256 of the authors' code; top-1 error published for one crop: A-50 22.9%, C-26 24.9%, C-42 22.9%, C-58
21.7%, D-22 25.8%, D-38 23.8%, D-54 21.2%, D-105 20.6%. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = (
    "drn_c_26",
    "drn_c_42",
    "drn_c_58",
    "drn_d_22",
    "drn_d_24",
    "drn_d_38",
    "drn_d_40",
    "drn_d_54",
    "drn_d_56",
    "drn_d_105",
    "drn_d_107",
    "drn_b_26",
    "drn_a_18",
    "drn_a_34",
    "drn_a_50",
)
# One stride of 2, so that the last map is larger than its dilation.
SMALL = {
    "stage_sizes": (1,) * 8,
    "stage_features": (8, 16, 24, 32, 64, 64, 64, 64),
    "stage_strides": (1, 2, 1, 1, 1, 1, 1, 1),
    "stem_features": 8,
}
SMALL_A = {"stage_sizes": (1, 1, 2, 2), "stage_features": (16, 24, 48, 64), "stem_features": 16}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/drn.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    return {**(SMALL_A if "drn_a" in name else SMALL), "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 120.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0, 90.0)
