"""CondenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2018, arXiv:1711.09224).

    python train.py --config=configs/condensenet.py                                 a small one, the digits
    python train.py --config=configs/condensenet.py:fashion_mnist                   the same, Fashion-MNIST
    python train.py --config=configs/condensenet.py:imagenet,name=condensenet_74_g8 of the published size, ImageNet
    python train.py --config=configs/condensenet.py:smoke                           a few steps on synthetic images

Training condenses the network over its first half; `arch.models.classification.condensenet.deploy` converts it then.
ImageNet is the paper's recipe (120 epochs of 256 images, rate from 0.1 to 0 along a cosine, Nesterov momentum, weight
decay 1e-4, group lasso 1e-5); top-1 error 26.2% published for condensenet_74, 29.0% for condensenet_74_g8. Here: not
yet run.
"""

import ml_collections

from configs import common

NAMES = ("condensenet_74", "condensenet_74_g8")
SMALL = {"stage_sizes": (3, 4, 4), "growth_rates": (8, 24, 48), "group_lasso_weight": 0.0, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe(
        "configs/condensenet.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 120.0
    config.global_batch_size = 256
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.1
