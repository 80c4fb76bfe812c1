"""VGG (Simonyan and Zisserman, ICLR 2015, arXiv:1409.1556).

    python train.py --config=configs/vgg.py                            a small one, the digits of scikit-learn
    python train.py --config=configs/vgg.py:fashion_mnist              the same, Fashion-MNIST
    python train.py --config=configs/vgg.py:imagenet,name=vgg16        of the published size, ImageNet
    python train.py --config=configs/vgg.py:smoke                      a few steps on synthetic images

ImageNet is the recipe of torchvision's reference for these networks (90 epochs of 256 images, rate 0.1 of those with
norms, ..._bn, and 0.01 of those without, that falls tenfold every 30, weight decay 1e-4 of all parameters); top-1
71.592% published for vgg16, 73.360% for vgg16_bn. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("vgg16_bn", "vgg16", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg19", "vgg19_bn")
# With norms, whatever the name: without, 6 epochs of the digits left the loss where it started.
SMALL = {
    "use_norm": True,
    "stage_sizes": (1, 1, 2),
    "stage_features": (32, 64, 128),
    "final_pool": False,
    "pool_size": 2,
    "hidden_features": (256,),
    "dropout_rate": 0.0,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/vgg.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet)


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_min_ndim = 0
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1 if config.model.name.endswith("_bn") else 0.01
    config.schedule.step_epochs = (30.0, 60.0)
