"""Residual attention networks (Wang et al., CVPR 2017, arXiv:1704.06904).

    python train.py --config=configs/residual_attention.py                             a small one, the digits
    python train.py --config=configs/residual_attention.py:fashion_mnist               the same, Fashion-MNIST
    python train.py --config=configs/residual_attention.py:imagenet,name=attention_92  of the published size, ImageNet
    python train.py --config=configs/residual_attention.py:smoke                       a few steps on synthetic images

ImageNet is the paper's schedule (section 4.2: 530k steps, rate 0.1 that falls tenfold after 200k, 400k and 500k, weight
decay 1e-4), with batches of 256, of which it says nothing; top-1 error 21.76% published for Attention-56 and 21.2% for
AttentionNeXt-56, of one crop of 224 pixels, and 19.5% for Attention-92 at 320. Here: not yet run.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from configs import common

NAMES = ("attention_56", "attention_92", "attention_next_56", "attention_next_92")
SMALL = {
    "stage_sizes": (1, 1),
    "stage_features": (64, 128),
    "stage_levels": (2, 1),
    "last_size": 1,
    "last_features": 192,
    "stem_features": 32,
    "dropout_rate": 0.0,
}
IMAGENET_TRAIN_IMAGES = 1_281_167


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/residual_attention.py", arg, names=NAMES, small=_small, imagenet=_imagenet)


def _small(name: str) -> Mapping[str, Any]:
    sizes = {"stage_sizes": (1, 2)} if "92" in name else {}
    return {**SMALL, **sizes, **({"groups": 8} if "next" in name else {})}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_steps = 530_000
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = tuple(step * 256 / IMAGENET_TRAIN_IMAGES for step in (200_000, 400_000, 500_000))
