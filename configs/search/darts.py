"""DARTS (Liu, Simonyan, Yang, ICLR 2019, arXiv:1806.09055): cells by the gradient of a supernet's validation loss.

    CONFIG=configs/search/darts.py
    python scripts/search.py --config=$CONFIG                   a small one, Fashion-MNIST, second order
    python scripts/search.py --config=$CONFIG:order=first       the same without the second term, twice as fast
    python scripts/search.py --config=$CONFIG:strategy=random   its control, random cells of the same space
    python scripts/search.py --config=$CONFIG:cifar10           of the published size, CIFAR-10
    python scripts/search.py --config=$CONFIG:smoke             a few steps on synthetic images
    python train.py --config=runs/search-darts/best.py          trains the network of what was found

The order is `second` (exact), `finite_difference` (the paper's equation 8) or `first`. CIFAR-10 is the paper's: 8 cells
of 4 nodes, 16 features, 50 epochs of 64 images from each half of the training images. Its authors search four times,
train each result for a while, and keep the one that validates best: set --config.seed, and a --workdir for each.

The control is that of Li and Talwalkar (arXiv:1902.07638): the recipe's network of cells that DARTS could have derived,
an epoch each, of which the one that validates best is kept. `strategy=evolution` searches these cells as well.

Known failure: after many epochs cells of skip connections alone. Every row of metrics.jsonl counts the operations of
the cells that would be taken then. Results: docs/search.md.
"""

import dataclasses
from typing import Any

import ml_collections

from arch.errors import unknown_name
from arch.search.oneshot.bilevel import ORDERS
from arch.search.oneshot.step import Settings
from arch.search.oneshot.supernet import MIXED_OPERATIONS
from configs import common
from configs.search import default

GRADIENT = "gradient"
# Those that train one network after the other.
STRATEGIES = {"random": {}, "evolution": {"population_size": 8, "sample_size": 3}}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `strategy=` gradient, random, evolution, `order=` second, first, finite_difference, `cifar10`, `smoke`."""
    args = common.parse_arg(arg, strategy=GRADIENT, order="second", cifar10=False, smoke=False)
    if args["strategy"] not in (GRADIENT, *STRATEGIES):
        raise unknown_name("configs/search/darts.py: strategy", args["strategy"], (GRADIENT, *STRATEGIES))
    if args["order"] not in ORDERS:
        raise ValueError(f"configs/search/darts.py: order={args['order']} must be one of {', '.join(ORDERS)}")
    if args["order"] != "second" and args["strategy"] != GRADIENT:
        raise ValueError(f"configs/search/darts.py: order={args['order']} is of strategy={GRADIENT}; leave one out")
    recipe = "configs/darts.py:fashion_mnist"  # of train.py: its data is searched with, its network gets the cells
    if args["cifar10"]:
        recipe = "configs/darts.py:cifar10,name=cifar_darts_v2"
    if args["smoke"]:
        recipe = "configs/darts.py:smoke"
    num_nodes = 1 if args["smoke"] else 4 if args["cifar10"] else 2
    overrides = {"data.image_size": 8} if args["smoke"] else {}
    make = _by_gradient if args["strategy"] == GRADIENT else _by_trials
    return make(args, recipe, overrides, num_nodes)


def _by_gradient(
    args: dict[str, Any], recipe: str, overrides: dict[str, Any], num_nodes: int
) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_epochs = 4.0  # passes over either half of the training images; num_steps, where given, wins
    config.num_steps = 0
    config.global_batch_size = 64  # images of either half in a step
    config.recipe = recipe
    config.overrides = default.fields(overrides)  # of the recipe, in search and result
    config.oneshot = ml_collections.ConfigDict(dataclasses.asdict(Settings(order=args["order"])))
    if not args["cifar10"]:
        config.oneshot.alpha_learning_rate = 3e-3  # a tenth of the paper's steps, ten times its rate
    config.supernet = ml_collections.ConfigDict()  # fields of arch.search.oneshot.supernet.Supernet
    config.supernet.num_cells = 3
    config.supernet.features = 8
    config.supernet.num_nodes = num_nodes
    config.supernet.operations = MIXED_OPERATIONS
    config.supernet.stem = "stride2"
    if args["cifar10"]:
        config.num_epochs = 50.0
        config.supernet.num_cells = 8
        config.supernet.features = 16
        config.supernet.stem = "small"
    if args["smoke"]:
        config.num_steps = 4
        config.global_batch_size = 128
        config.supernet.features = 2
        config.supernet.operations = ("none", "skip_connect", "max_pool_3x3")
    return config.lock()


def _by_trials(
    args: dict[str, Any], recipe: str, overrides: dict[str, Any], num_nodes: int
) -> ml_collections.ConfigDict:
    config = default.get_config()
    config.num_trials = 24
    config.recipe = recipe
    overrides = {**overrides, "num_epochs": 1.0, "data.test_split": "", "eval_every_epochs": 0.0}
    if args["cifar10"]:
        overrides |= {"data.train_split": "train[:90%]", "data.val_split": "train[90%:]"}
    if args["smoke"]:
        config.num_trials = 2
        overrides |= {"num_steps": 2, "model.fields.num_cells": 3, "model.fields.features": 4}
    config.overrides = default.fields(overrides)
    config.space.name = "darts"
    config.space.fields = default.fields({"num_nodes": num_nodes})
    config.strategy.name = args["strategy"]
    config.strategy.fields = default.fields(STRATEGIES[args["strategy"]])
    return config
