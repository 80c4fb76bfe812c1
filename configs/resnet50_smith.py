"""ResNet-50 with a batch that grows (Smith et al., Don't Decay the Learning Rate, arXiv:1711.00489, section 5.4).

    python train.py --config=configs/resnet50_smith.py                   ImageNet, updates of 8,192, then 16,384 images
    python train.py --config=configs/resnet50_smith.py:fashion_mnist     a small one, Fashion-MNIST, 2,048 to 8,192
    python train.py --config=configs/resnet50_smith.py:smoke             a few steps on synthetic images

That of configs/resnet50_goyal.py, but where the rate would fall tenfold first, after 30 epochs, the batch doubles and
the rate falls to a fifth: the noise scale is the same at all times. The larger batch is made of twice as many
micro-batches. Published: 76.1% in under 30 minutes on a TPU pod. Here: not yet run.
"""

import ml_collections

from configs import resnet, resnet50_goyal


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `fashion_mnist`, `smoke`."""
    config = resnet.large_batch_recipe(
        "configs/resnet50_smith.py", arg, global_batch_size=8192, set_optimizer=set_optimizer
    )
    if config.data.name == "synthetic":  # of 512 images, 4 steps of 16: the batch doubles at the third
        config.schedule.step_epochs, config.schedule.max_batch_size = (2 * 16 / 512,), 32
    return config


def set_optimizer(config: ml_collections.ConfigDict, length: float) -> None:
    """As Goyal et al., with a limit of the batch in the place of none."""
    resnet50_goyal.set_optimizer(config, length)
    config.schedule.max_batch_size = 16384 if config.data.name == "imagenet2012" else 8192
