"""ResNet-50 in an hour (Goyal et al., Accurate, Large Minibatch SGD, arXiv:1706.02677).

    python train.py --config=configs/resnet50_goyal.py                   ImageNet, updates of 8,192 images
    python train.py --config=configs/resnet50_goyal.py:fashion_mnist     a small one, Fashion-MNIST
    python train.py --config=configs/resnet50_goyal.py:smoke             a few steps on synthetic images

The rate is 0.1 for 256 images and proportional to the batch, reached in 5 epochs from 0.1, a step at a time; it falls
tenfold after 30, 60 and 80 of 90 epochs. Nesterov momentum 0.9. On other batches, --config.global_batch_size=N; where
the devices' memory does not hold it, --config.num_micro_batches=K. Published: 256 images on 8 GPUs 23.60% error, 8,192
on 256 GPUs 23.74%, in an hour. Here: not yet run.
"""

import ml_collections

from configs import resnet


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `fashion_mnist`, `smoke`."""
    return resnet.large_batch_recipe(
        "configs/resnet50_goyal.py", arg, global_batch_size=8192, set_optimizer=set_optimizer
    )


def set_optimizer(config: ml_collections.ConfigDict, length: float) -> None:
    """Sections 2.2 and 5.1, for a run of `length` times 90 epochs."""
    config.optimizer.nesterov = True
    config.schedule.name = "step"
    config.schedule.warmup_epochs = 5.0 * length
    config.schedule.step_epochs = tuple(epochs * length for epochs in (30.0, 60.0, 80.0))
