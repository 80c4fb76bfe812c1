"""AddressNet (Zhong et al., Shift-based Primitives for Efficient CNNs, WACV 2019, arXiv:1809.08458).

    python train.py --config=configs/addressnet.py                            a small one, the digits of scikit-learn
    python train.py --config=configs/addressnet.py:fashion_mnist              the same, Fashion-MNIST
    python train.py --config=configs/addressnet.py:imagenet                   ImageNet, behind ResNet's stem
    python train.py --config=configs/addressnet.py:smoke                      a few steps on synthetic images

The networks are our reading of the paper's for CIFAR, of which no code was released; on CIFAR-100 top-1 68.7% is
published for addressnet_20, 73.3% for addressnet_44. The ImageNet recipe is that of ResNet (arXiv:1512.03385; 90 epochs
of 256 images, rate 0.1 that falls tenfold after 30 and 60, weight decay 1e-4). Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("addressnet_20", "addressnet_44")
# Units of each stage, and features of the first, which double.
SMALL = {"addressnet_20": (3, 120), "addressnet_44": (5, 96)}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/addressnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    units, width = SMALL[name]
    return {
        "stage_sizes": (units, units, units),
        "stage_features": (width, 2 * width, 4 * width),
        "stem_features": width,
        "dropout_rate": 0.0,
    }


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.model.fields = ml_collections.ConfigDict({"stem": "imagenet"})
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)
