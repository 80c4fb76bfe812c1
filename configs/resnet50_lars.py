"""ResNet-50 with LARS (You, Gitman, Ginsburg, arXiv:1708.03888; You et al., ImageNet in Minutes, arXiv:1709.05011).

    python train.py --config=configs/resnet50_lars.py                   ImageNet, updates of 32,768 images
    python train.py --config=configs/resnet50_lars.py:fashion_mnist     a small one, Fashion-MNIST
    python train.py --config=configs/resnet50_lars.py:smoke             a few steps on synthetic images

The rate is that of Google's reference for TPUs: up to `PEAKS` in so many epochs from 0, then a polynomial of power 2 to
0; norms and biases take the plain rate and do not decay (`lars_variant` tpu). The lecture's algorithm to the letter is
--config.optimizer.lars_variant=slide. Published: 90 epochs in 20 minutes on 2,048 KNL without loss of accuracy, 64
epochs in 14 minutes at 74.9%. Here: not yet run.
"""

import ml_collections

from configs import resnet

# Batches below the first number: the highest rate, and the epochs of 90 in which it is reached.
PEAKS = ((16_384, 10.0, 5.0), (32_768, 25.0, 5.0), (65_536, 32.0, 14.0), (2**62, 35.6, 40.0))


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `fashion_mnist`, `smoke`."""
    return resnet.large_batch_recipe(
        "configs/resnet50_lars.py", arg, global_batch_size=32_768, set_optimizer=set_optimizer
    )


def set_optimizer(config: ml_collections.ConfigDict, length: float) -> None:
    """For a run of `length` times 90 epochs, and the recipe's batch; another batch needs another row of PEAKS."""
    peak, warmup = next((peak, warmup) for below, peak, warmup in PEAKS if config.global_batch_size < below)
    config.optimizer.name = "lars"
    config.optimizer.lars_variant = "tpu"
    config.schedule.name = "polynomial"
    config.schedule.base_learning_rate, config.schedule.base_batch_size = peak, 0
    config.schedule.warmup_learning_rate = 0.0
    config.schedule.warmup_epochs = warmup * length
