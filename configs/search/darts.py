"""DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055): cells by the gradient of a supernet's validation loss.

    CONFIG=configs/search/darts.py
    python scripts/search.py --config=$CONFIG                   a small one, Fashion-MNIST, second order
    python scripts/search.py --config=$CONFIG:order=first       the same without the second term, twice as fast
    python scripts/search.py --config=$CONFIG:cifar10           of the published size, CIFAR-10
    python scripts/search.py --config=$CONFIG:smoke             a few steps on synthetic images
    python train.py --config=runs/search-darts/best.py          trains the network of what was found

The order is `second` (exact), `finite_difference` (the paper's equation 8) or `first`. CIFAR-10 is the paper's: 8 cells
of 4 nodes, 16 features, 50 epochs of 64 images from each half of the training images. Its authors search four times,
train each result for a while, and keep the one that validates best: set --config.seed, and a --workdir for each.

Known failure: after many epochs cells of skip connections alone. Every row of metrics.jsonl counts the operations of
the cells that would be taken then. Results: docs/search.md.
"""

import dataclasses

import ml_collections

from arch.search.oneshot.bilevel import ORDERS
from arch.search.oneshot.step import Settings
from arch.search.oneshot.supernet import MIXED_OPERATIONS
from configs import common


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `order=` second, first or finite_difference, `cifar10`, `smoke`."""
    args = common.parse_arg(arg, order="second", cifar10=False, smoke=False)
    if args["order"] not in ORDERS:
        raise ValueError(f"configs/search/darts.py: order={args['order']} must be one of {', '.join(ORDERS)}")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_epochs = 4.0  # passes over either half of the training images; num_steps, where given, wins
    config.num_steps = 0
    config.global_batch_size = 64  # images of either half in a step
    config.recipe = (
        "configs/darts.py:fashion_mnist"  # of train.py: its data is searched with, its network gets the cells
    )
    config.overrides = ml_collections.ConfigDict(
        {}, allow_dotted_keys=True
    )  # fields of the recipe, in search and result
    config.oneshot = ml_collections.ConfigDict(dataclasses.asdict(Settings(order=args["order"])))
    if not args["cifar10"]:
        config.oneshot.alpha_learning_rate = 3e-3  # a tenth of the paper's steps, ten times its rate
    config.supernet = ml_collections.ConfigDict()  # fields of arch.search.oneshot.supernet.Supernet
    config.supernet.num_cells = 3
    config.supernet.features = 8
    config.supernet.num_nodes = 2
    config.supernet.operations = MIXED_OPERATIONS
    config.supernet.stem = "stride2"
    if args["cifar10"]:
        config.num_epochs = 50.0
        config.recipe = "configs/darts.py:cifar10,name=cifar_darts_v2"
        config.supernet.num_cells = 8
        config.supernet.features = 16
        config.supernet.num_nodes = 4
        config.supernet.stem = "small"
    if args["smoke"]:
        config.num_steps = 4
        config.global_batch_size = 128
        config.recipe = "configs/darts.py:smoke"
        config.overrides = ml_collections.ConfigDict({"data.image_size": 8}, allow_dotted_keys=True)
        config.supernet.features = 2
        config.supernet.num_nodes = 1
        config.supernet.operations = ("none", "skip_connect", "max_pool_3x3")
    return config.lock()
