"""GoogLeNet (arXiv:1409.4842), Inception v3 (1512.00567), Inception v4 and Inception-ResNet v2 (1602.07261).

    python train.py --config=configs/inception.py                                    a small GoogLeNet, the digits
    python train.py --config=configs/inception.py:fashion_mnist,name=inception_v4    a small one, Fashion-MNIST
    python train.py --config=configs/inception.py:imagenet,name=inception_v3         the whole network, ImageNet
    python train.py --config=configs/inception.py:smoke                              a few steps on synthetic images

Names: googlenet, inception_v3, inception_v4, inception_resnet_v2. On ImageNet the first two have their auxiliary heads.

ImageNet is one recipe for all four, ours, after section 8 of the paper of Inception v3: 100 epochs, label smoothing
0.1, and a rate that falls by 0.94 every second epoch; with momentum 0.9, from 0.045 at 256 images a step, in the place
of RMSProp, and with TF-slim's weight decay of 4e-5. Published are top-1 69.8% for torchvision's GoogLeNet and 77.3% for
its Inception v3. Here: not yet run.
"""

from typing import Any

import ml_collections

from configs import common

NAMES = ("googlenet", "inception_v3", "inception_v4", "inception_resnet_v2")
SMALL = {
    "googlenet": {"width_multiplier": 0.375, "stage_sizes": (1, 2, 1)},
    "inception_v3": {"width_multiplier": 0.125, "stage_sizes": (2, 3, 1)},
    "inception_v4": {"width_multiplier": 0.125, "stage_sizes": (1, 2, 1)},
    "inception_resnet_v2": {"width_multiplier": 0.125, "stage_sizes": (2, 3, 2)},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=`, `imagenet`, `fashion_mnist`, `smoke`."""
    config = common.family_recipe("configs/inception.py", arg, names=NAMES, small=_small, imagenet=_imagenet)
    config.model.norm.fields = ml_collections.ConfigDict({"epsilon": 1e-3})
    return config


def _small(name: str) -> dict[str, Any]:
    return {**SMALL[name], "dropout_rate": 0.0}


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 100.0
    config.global_batch_size = 256
    config.label_smoothing = 0.1
    config.data.image_size = 224 if config.model.name == "googlenet" else 299
    if config.model.name in ("googlenet", "inception_v3"):
        config.model.fields = ml_collections.ConfigDict({"auxiliary_heads": True})
    config.optimizer.weight_decay = 4e-5
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.045
    config.schedule.step_epochs = tuple(float(epoch) for epoch in range(2, 100, 2))
    config.schedule.step_factor = 0.94
