"""NASNet-A (Zoph et al., CVPR 2018, arXiv:1707.07012) and PNASNet-5 (Liu et al., ECCV 2018, arXiv:1712.00559).

    CONFIG=configs/nasnet.py
    python train.py --config=$CONFIG                                    a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                      the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=nasnet_a_large       of the published size, ImageNet at 331 pixels
    python train.py --config=$CONFIG:cifar10,name=cifar_nasnet_a        of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                              a few steps on synthetic images
    python train.py --config=$CONFIG --config.model.fields.genotype=amoebanet_a     another cell: a name, or JSON

ImageNet is TF-slim's where it can be: 312 epochs (250,000 steps of 1,600 images), a rate that falls by 0.97 every 2.4
epochs, auxiliary heads of weight 0.4, label smoothing 0.1, gradients clipped at 10, weight decay 4e-5, and for the
large ones 5e-5 and drop path up to 0.3; with momentum 0.9, from 0.1 at 256 images a step, in the place of RMSProp, and
ours for PNASNet too. Top-1 74.0% published for the mobile one, 82.7% for the large one, 82.9% for PNASNet-5. CIFAR is
TF-slim's: 600 epochs of 32 images, rate from 0.025 to 0 along a cosine, weight decay 5e-4, drop path up to 0.4,
auxiliary heads, gradients clipped at 5; error 3.41% on CIFAR-10. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("nasnet_a_mobile", "nasnet_a_large", "pnasnet_5_large", "cifar_nasnet_a")
SMALL = {"stage_sizes": (1, 1, 1), "features": 16, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/nasnet.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/nasnet.py: name={config.model.name} is not for imagenet; take cifar10, cifar100")
    large = config.model.name != "nasnet_a_mobile"
    common.set_cells_imagenet(config)
    config.num_epochs = 312.0
    config.data.image_size = 331 if large else 224
    config.model.fields.drop_path_rate = 0.3 if large else 0.0
    config.optimizer.weight_decay = 5e-5 if large else 4e-5
    common.set_falls(config, every=2.4, factor=0.97)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if not config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/nasnet.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    config.num_epochs = 600.0
    config.global_batch_size = 32
    config.model.fields = ml_collections.ConfigDict({"auxiliary_heads": True, "drop_path_rate": 0.4})
    config.optimizer.weight_decay = 5e-4
    config.optimizer.grad_clip_norm = 5.0
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.025
