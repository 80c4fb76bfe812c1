"""Second-order networks: B-CNN and its kin, G2DeNet, MPN-COV and iSQRT-COV; see arch.models.classification.bilinear.

    python train.py --config=configs/bilinear.py                                a small iSQRT-COV, the digits
    python train.py --config=configs/bilinear.py:fashion_mnist,name=bcnn_vgg16  a small B-CNN, Fashion-MNIST
    python train.py --config=configs/bilinear.py:imagenet                       iSQRT-COV on ResNet-50, ImageNet
    python train.py --config=configs/bilinear.py:smoke                          a few steps on synthetic images

ImageNet is the recipe of the authors of iSQRT-COV (github.com/jiangtaoxie/fast-MPN-COV: 65 epochs of 160 images, rate
0.1 that falls tenfold after 30, 45 and 60, weight decay 1e-4 of all parameters), also for the other names, whose papers
fine-tune for fine-grained recognition; lrbp_vgg16 gets a tenth of every rate, which is ours. Top-1 error 22.14%
published for iSQRT-COV on ResNet-50 and 21.21% on ResNet-101. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = (
    "isqrt_cov_resnet50",
    "isqrt_cov_resnet101",
    "isqrt_cov_vgg16",
    "mpn_cov_resnet50",
    "g2denet_vgg16",
    "improved_bcnn_vgg16",
    "bcnn_vgg16",
    "cbp_vgg16",
    "lrbp_vgg16",
)
SMALL_RESNET = {"stage_sizes": (1, 2, 2), "stage_features": (16, 32, 64), "stage_strides": (1, 2, 1)}
SMALL_VGG = {"trunk": "vgg_bn", "stage_sizes": (2, 2), "stage_features": (64, 128)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    config = common.family_recipe("configs/bilinear.py", arg, names=NAMES, small=_small, imagenet=_imagenet)
    if config.model.name == "lrbp_vgg16":
        # Its scores are quadratic in the map, and nothing divides by a length.
        config.schedule.base_learning_rate *= 0.1
    return config


def _small(name: str) -> Mapping[str, Any]:
    """Fewer channels are pooled than a map of 7x7 has positions, and their products are more than 10 classes."""
    pooled = {"compact_features": 512} if name == "cbp_vgg16" else {}
    trunk = SMALL_RESNET if "resnet" in name else SMALL_VGG
    return {**trunk, **pooled, "reduction_features": 32, "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 65.0
    config.global_batch_size = 160
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 45.0, 60.0)
