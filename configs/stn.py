"""A classifier with a spatial transformer (Jaderberg et al., NIPS 2015, arXiv:1506.02025).

    python train.py --config=configs/stn.py                   a small one, the digits of scikit-learn
    python train.py --config=configs/stn.py:fashion_mnist     the same, Fashion-MNIST
    python train.py --config=configs/stn.py:imagenet          larger, ImageNet
    python train.py --config=configs/stn.py:smoke             a few steps on synthetic images

The paper has no network for ImageNet. That recipe is ResNet's (arXiv:1512.03385, section 3.4: batches of 256, rate 0.1
that falls tenfold, here every 30 of 90 epochs, weight decay 1e-4). Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("stn_classifier",)
SMALL = {
    "stage_sizes": (1, 1, 1),
    "stage_features": (48, 96, 128),
    "kernel_size": 3,
    "stem_features": 32,
    "localization_features": (16, 16),
    "localization_hidden_features": 20,
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/stn.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet)


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)
