"""MobileNet v1 (Howard et al., 2017, arXiv:1704.04861).

    python train.py --config=configs/mobilenet_v1.py                   a small one, the digits of scikit-learn
    python train.py --config=configs/mobilenet_v1.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/mobilenet_v1.py:imagenet          width 1, ImageNet
    python train.py --config=configs/mobilenet_v1.py:smoke             a few steps on synthetic images

Other widths: --config.model.fields.width_multiplier=0.5 (0.75, 0.25). ImageNet is the recipe of torchvision's reference
for MobileNet v2 (300 epochs of 256 images, rate 0.045 that falls by 2% an epoch, weight decay 4e-5 of all parameters):
the paper trains with RMSProp on many machines, at rates that it does not give. Top-1 70.6%, 68.4%, 63.7%, 50.6%
published for widths 1, 0.75, 0.5, 0.25. Here: not yet run; small on Fashion-MNIST: docs/architectures.md.
"""

import ml_collections

from configs import common

NAMES = ("mobilenet_v1",)
SMALL = {
    "width_multiplier": 1.0,
    "stage_sizes": (1, 2, 3, 3),
    "stage_features": (32, 64, 128, 256),
    "stage_strides": (1, 2, 2, 2),
    "stem_features": 16,
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe(
        "configs/mobilenet_v1.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet
    )


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 300.0
    config.global_batch_size = 256
    config.model.fields = ml_collections.ConfigDict({"width_multiplier": 1.0})
    config.optimizer.weight_decay = 4e-5
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.045
    config.schedule.step_epochs = tuple(float(epoch) for epoch in range(1, 300))
    config.schedule.step_factor = 0.98
