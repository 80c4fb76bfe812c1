"""DenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2017, arXiv:1608.06993).

    CONFIG=configs/densenet.py
    python train.py --config=$CONFIG                                            a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                              the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=densenet169                  of the published size, ImageNet
    python train.py --config=$CONFIG:cifar10,name=cifar_densenet_bc_100_12      of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                                      a few steps on synthetic images

Both recipes are the paper's (section 4.2: rate 0.1 that falls tenfold, Nesterov momentum, weight decay 1e-4, of all
parameters in the authors' code): ImageNet 90 epochs of 256 images, falls after 30 and 60, CIFAR 300 epochs of 64, falls
after 150 and 225. Top-1 error 25.0% published for densenet121, 23.6% for densenet169, 22.5% for densenet201, 22.2% for
densenet161; error on CIFAR-10 5.24, 4.10, 3.74% of 40 layers of growth 12, 100 of 12, 100 of 24, and with bottlenecks
and compression (..._bc_...) 4.51, 3.62, 3.46% of 100 of 12, 250 of 24, 190 of 40. Here: not yet run; small on
Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = (
    "densenet121",
    "densenet169",
    "densenet201",
    "densenet161",
    *(f"cifar_densenet_{size}" for size in ("40_12", "100_12", "100_24", "bc_100_12", "bc_190_40", "bc_250_24")),
)
SMALL = {"stage_sizes": (3, 4, 4), "growth_rate": 20, "stem_features": 40, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/densenet.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/densenet.py: name={config.model.name} is not for imagenet; take cifar10 or cifar100")
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if not config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/densenet.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    config.num_epochs = 300.0
    config.global_batch_size = 64
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (150.0, 225.0)
