"""ResNet-50 in 15 minutes (Akiba, Suzuki, Fukuda, Extremely Large Minibatch SGD, arXiv:1711.04325).

    python train.py --config=configs/resnet50_akiba.py                   ImageNet, updates of 32,768 images
    python train.py --config=configs/resnet50_akiba.py:fashion_mnist     a small one, Fashion-MNIST
    python train.py --config=configs/resnet50_akiba.py:smoke             a few steps on synthetic images

It begins as RMSprop and becomes SGD around the tenth epoch; the rate starts at half of what the batch would have, and
falls three times; evaluation normalizes by the statistics of the last batch, averaged over devices, instead of running
ones. Differs from the paper: gradients are summed over devices in float32. Published: 74.9% in 15 minutes, on 1,024
GPUs. Here: not yet run.
"""

import ml_collections

from configs import resnet


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `fashion_mnist`, `smoke`."""
    return resnet.large_batch_recipe(
        "configs/resnet50_akiba.py", arg, global_batch_size=32_768, set_optimizer=set_optimizer
    )


def set_optimizer(config: ml_collections.ConfigDict, length: float) -> None:
    """Sections 2.1 to 2.3, for a run of `length` times 90 epochs."""
    config.optimizer.name = "rmsprop_warmup"
    config.optimizer.transition_center_epochs = 10.0 * length
    config.optimizer.transition_period_epochs = 5.0 * length
    config.schedule.name = "slow_start"
    config.schedule.warmup_epochs = 0.0
    config.eval_statistics = "last_batch_averaged"
