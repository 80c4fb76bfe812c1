"""ShiftNet (Wu et al., Shift: A Zero FLOP, Zero Parameter Alternative, CVPR 2018, arXiv:1711.08141).

    python train.py --config=configs/shiftnet.py                              a small one, the digits of scikit-learn
    python train.py --config=configs/shiftnet.py:fashion_mnist                the same, Fashion-MNIST
    python train.py --config=configs/shiftnet.py:imagenet,name=shiftnet_b     of the published size, ImageNet
    python train.py --config=configs/shiftnet.py:smoke                        a few steps on synthetic images

The authors released no code for ImageNet. The recipe is that of ResNet (arXiv:1512.03385; 90 epochs of 256 images, rate
0.1 that falls tenfold after 30 and 60, weight decay 1e-4); top-1 70.1% published for shiftnet_a, 61.2% for shiftnet_b.
Here: not yet run; small on Fashion-MNIST: docs/architectures.md.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("shiftnet_a", "shiftnet_b", "shiftnet_c")
SMALL = {
    "shiftnet_a": {"stage_features": (64, 128, 256), "expand_ratios": ((4, 4), (3, 3), (2, 1)), "stem_features": 32},
    "shiftnet_b": {"stage_features": (48, 96, 192), "expand_ratios": ((4, 4), (4, 3), (3, 2)), "stem_features": 24},
    "shiftnet_c": {"stage_features": (64, 128, 256), "expand_ratios": ((1, 1), (1, 1), (1, 1)), "stem_features": 32},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/shiftnet.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    return {**SMALL[name], "stage_sizes": (2, 2, 2), "stage_kernel_sizes": (3, 3, 3), "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)
