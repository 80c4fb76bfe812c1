"""AmoebaNet-A (Real, Aggarwal, Huang, Le, AAAI 2019, arXiv:1802.01548).

    CONFIG=configs/amoebanet.py
    python train.py --config=$CONFIG                                            a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                              the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=amoebanet_a_6_190            of the published size, ImageNet
    python train.py --config=$CONFIG:cifar10,name=cifar_amoebanet_a_6_36        of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                                      a few steps on synthetic images

ImageNet is the authors' program for TPUs where it can be: 100 epochs, warm-up over 2 (theirs is over 3, and meets the
first fall), a rate that falls by 0.97 every 2.4 epochs, auxiliary heads of weight 0.4, label smoothing 0.1, gradients
clipped at 10, weight decay 4e-5, drop path up to 0.3, an average of the parameters of decay 0.9999; with momentum 0.9,
from 0.1 at 256 images a step, in the place of RMSProp. 331 pixels, 224 for 4/50 and 299 for 6/448. Top-1 82.8%
published for 6/190, 83.9% for 6/448. CIFAR is the paper's: 600 epochs of 128 images, rate from 0.024 to 0 along a
cosine, weight decay 5e-4, drop path up to 0.3, auxiliary heads of weight 0.5; error on CIFAR-10 3.40% for 6/32, 3.34%
for 6/36. Here: not yet run.
"""

import ml_collections

from configs import common

IMAGE_SIZES = {"amoebanet_a_4_50": 224, "amoebanet_a_6_190": 331, "amoebanet_a_6_448": 299}
NAMES = (*IMAGE_SIZES, "cifar_amoebanet_a_6_32", "cifar_amoebanet_a_6_36")
SMALL = {"stage_sizes": (1, 1, 1), "features": 24, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/amoebanet.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name not in IMAGE_SIZES:
        raise ValueError(f"configs/amoebanet.py: name={config.model.name} is not for imagenet; take cifar10, cifar100")
    common.set_cells_imagenet(config)
    config.num_epochs = 100.0
    config.ema_decay = 0.9999
    config.data.image_size = IMAGE_SIZES[config.model.name]
    config.model.fields.drop_path_rate = 0.3
    config.optimizer.weight_decay = 4e-5
    config.schedule.warmup_epochs = 2.0
    config.schedule.warmup_learning_rate = 0.0
    common.set_falls(config, every=2.4, factor=0.97)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if config.model.name in IMAGE_SIZES:
        raise ValueError(f"configs/amoebanet.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    config.num_epochs = 600.0
    config.global_batch_size = 128
    config.model.fields = ml_collections.ConfigDict(
        {"auxiliary_heads": True, "auxiliary_weight": 0.5, "drop_path_rate": 0.3}
    )
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.024
