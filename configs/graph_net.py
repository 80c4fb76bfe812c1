"""Networks of any graph of convolutions, pools and joins, such as network morphisms make (arXiv:1711.04528).

    CONFIG=configs/graph_net.py
    python train.py --config=$CONFIG                        convolutions with pools between, the digits of scikit-learn
    python train.py --config=$CONFIG:fashion_mnist          the same, Fashion-MNIST
    python train.py --config=$CONFIG:cifar10                wider, CIFAR-10, or -100
    python train.py --config=$CONFIG:imagenet               the same, ImageNet
    python train.py --config=$CONFIG:smoke                  a few steps on synthetic images
    python train.py --config=$CONFIG --config.model.fields.graph='{"nodes": [...], "head": "mean"}'
    python train.py --config=$CONFIG --config.model.fields.graph=64,64,128      a chain of these channels

A graph is given in the form of `arch.models.graphs.Graph.to_json`. configs/search/morphisms.py searches for one.

CIFAR has the 100 epochs that Elsken et al. train what they have found for, along a cosine from their rate of 0.05, with
the batch and weight decay that are usual there; on ImageNet, where they have no network, it is 90 epochs. Here: not yet
run.
"""

import ml_collections

from configs import common

NAMES = ("graph_net",)
SMALL = {"graph": "16,32,64"}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `name=` graph_net, `imagenet`, `fashion_mnist`, `cifar10`, `cifar100`, `smoke`."""
    config = common.family_recipe(
        "configs/graph_net.py", arg, names=NAMES, small=lambda name: SMALL, imagenet=_imagenet, cifar=_cifar
    )
    if "stem" in config.model.fields:  # the graph says all that there is
        with config.unlocked():
            del config.model.fields["stem"]
    return config


def _imagenet(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 90.0
    config.optimizer.weight_decay = 1e-4
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.1


def _cifar(config: ml_collections.ConfigDict) -> None:
    config.num_epochs = 100.0
    config.global_batch_size = 128
    config.optimizer.weight_decay = 5e-4
    config.schedule.name = "cosine"
    config.schedule.base_learning_rate = 0.05
