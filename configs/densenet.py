"""DenseNet (Huang, Liu, van der Maaten, Weinberger, CVPR 2017, arXiv:1608.06993).

    python train.py --config=configs/densenet.py                              a small one, the digits of scikit-learn
    python train.py --config=configs/densenet.py:fashion_mnist                the same, Fashion-MNIST
    python train.py --config=configs/densenet.py:imagenet,name=densenet169    of the published size, ImageNet
    python train.py --config=configs/densenet.py:smoke                        a few steps on synthetic images

ImageNet is the paper's recipe (section 4.2: 90 epochs of 256 images, rate 0.1 that falls tenfold after 30 and 60,
Nesterov momentum, weight decay 1e-4); top-1 error 25.0% published for densenet121, 23.6% for densenet169, 22.5% for
densenet201, 22.2% for densenet161. Here: not yet run.
"""

import ml_collections

from configs import common

NAMES = ("densenet121", "densenet169", "densenet201", "densenet161")
SMALL = {"stage_sizes": (3, 4, 4), "growth_rate": 20, "stem_features": 40, "dropout_rate": 0.0}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` one of NAMES, `imagenet`, `fashion_mnist`, `smoke`."""
    return common.family_recipe("configs/densenet.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet)


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.global_batch_size = 256
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "step"
    config.schedule.base_learning_rate = 0.1
    config.schedule.step_epochs = (30.0, 60.0)
