"""The networks of DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055), of its cells V1 and V2 or of any other.

    CONFIG=configs/darts.py
    python train.py --config=$CONFIG                                a small one, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist                  the same, Fashion-MNIST
    python train.py --config=$CONFIG:imagenet,name=darts_v1         of the published size, ImageNet
    python train.py --config=$CONFIG:cifar10,name=cifar_darts_v2    of the published size, CIFAR-10, or -100
    python train.py --config=$CONFIG:smoke                          a few steps on synthetic images
    python train.py --config=$CONFIG --config.model.fields.genotype='{"normal": ..., "reduction": ..., "inputs": ...}'

A searched cell is given by name or in the form of `arch.models.genotypes.Genotype.to_json`.

ImageNet is the authors' recipe (250 epochs of 128 images, rate 0.1 that falls by 0.97 every epoch, weight decay 3e-5 of
all parameters, label smoothing 0.1, auxiliary heads of weight 0.4, gradients clipped at 5, colour jitter, here without
hue); top-1 error 26.7% published for V2. CIFAR is theirs, too (600 epochs of 96 images, rate from 0.025 to 0 along a
cosine, weight decay 3e-4, drop path up to 0.2, auxiliary heads, clipped at 5), but without Cutout, which their error of
2.76% on CIFAR-10 for V2, 3.00% for V1, has. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("darts_v2", "darts_v1", "cifar_darts_v2", "cifar_darts_v1")
SMALL = {"num_cells": 5, "features": 16}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    return common.family_recipe(
        "configs/darts.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    if config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/darts.py: name={config.model.name} is not for imagenet; take cifar10, cifar100")
    config.num_epochs = 250.0
    config.global_batch_size = 128
    config.label_smoothing = 0.1
    config.data.color_jitter = 0.4
    config.model.fields = ml_collections.ConfigDict({"auxiliary_heads": True})
    config.optimizer.weight_decay = 3e-5
    config.optimizer.decay_min_ndim = 0
    config.optimizer.grad_clip_norm = 5.0
    config.schedule.base_learning_rate = 0.1
    common.set_falls(config, every=1.0, factor=0.97)


def _cifar(config: ml_collections.ConfigDict) -> None:
    if not config.model.name.startswith("cifar_"):
        raise ValueError(f"configs/darts.py: name={config.model.name} is not for {config.data.name}; take imagenet")
    config.num_epochs = 600.0
    config.global_batch_size = 96
    config.model.fields = ml_collections.ConfigDict({"auxiliary_heads": True, "drop_path_rate": 0.2})
    config.optimizer.weight_decay = 3e-4
    config.optimizer.decay_min_ndim = 0
    config.optimizer.grad_clip_norm = 5.0
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.025
