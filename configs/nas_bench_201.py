"""The networks of NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326).

    CONFIG=configs/nas_bench_201.py
    python train.py --config=$CONFIG                    a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist      the same, Fashion-MNIST
    python train.py --config=$CONFIG:cifar10            of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:imagenet           the same behind two more halvings, ImageNet, which is ours
    python train.py --config=$CONFIG:smoke              a few steps on synthetic images
    python train.py --config=$CONFIG --config.model.fields.cell='|nor_conv_3x3~0|+|none~0|...'          another cell

CIFAR is the paper's recipe (table 1: 200 epochs of 256 images, rate from 0.1 to 0 along a cosine, Nesterov momentum,
weight decay 5e-4); top-1 94.36% in the authors' log for the default cell on CIFAR-10. ImageNet has none: that of ResNet
stands in (arXiv:1512.03385; 90 epochs of 256 images, rate 0.1 that falls tenfold after 30 and 60, weight decay 1e-4).
Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("nas_bench_201",)
SMALL = {"stage_sizes": (1, 1, 1), "features": 16}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/nas_bench_201.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.model.fields = ml_collections.ConfigDict({"stem": "imagenet", "stage_sizes": (2, 2, 2, 2)})
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 200.0
    config.global_batch_size = 256
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.1
