"""CondenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2018, arXiv:1711.09224).

    CONFIG=configs/condensenet.py
    python train.py --config=$CONFIG                                        a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                          the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=condensenet_74_g8        of the published size, ImageNet
    python train.py --config=$CONFIG:cifar10,name=cifar_condensenet_86      of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                                  a few steps on synthetic images

Training condenses the network over its first half; `arch.models.classification.condensenet.deploy` converts it then.
ImageNet is the paper's recipe (120 epochs of 256 images, rate from 0.1 to 0 along a cosine, Nesterov momentum, weight
decay 1e-4 of all parameters, group lasso 1e-5); top-1 error 26.2% published for condensenet_74, 29.0% for
condensenet_74_g8. CIFAR is the same of 300 epochs of 64 images, 600 epochs for cifar_condensenet_182, without the
lasso; error on CIFAR-10 of 50, 74, 86, 98, 110, 122, 182 layers: 6.22, 5.28, 5.06, 4.83, 4.63, 4.48, 3.76%. Here: not
yet run; small on Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = (
    "condensenet_74",
    "condensenet_74_g8",
    *(f"cifar_condensenet_{depth}" for depth in (86, 50, 74, 98, 110, 122, 182)),
)
SMALL = {"stage_sizes": (3, 4, 4), "growth_rates": (8, 24, 48), "group_lasso_weight": 0.0, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/condensenet.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(
            f"configs/condensenet.py: name={config.model.name} is not for imagenet; take cifar10, cifar100"
        )
    config.num_epochs = 120.0
    config.global_batch_size = 256
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.1


def _cifar(config: ml_collections.ConfigDict) -> None:
    if not config.model.name.startswith("cifar_"):
        raise ValueError(
            f"configs/condensenet.py: name={config.model.name} is not for {config.data.name}; take imagenet"
        )
    config.num_epochs = 600.0 if config.model.name == "cifar_condensenet_182" else 300.0
    config.global_batch_size = 64
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.1
