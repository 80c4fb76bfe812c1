"""A search for the cells of a small network, Fashion-MNIST: the spaces of NASNet and AmoebaNet, by three strategies.

    CONFIG=configs/search/cells.py
    python scripts/search.py --config=$CONFIG                        aging evolution in AmoebaNet's space
    python scripts/search.py --config=$CONFIG:strategy=random        random search, its control
    python scripts/search.py --config=$CONFIG:strategy=controller,space=nasnet       a recurrent controller, PPO
    python scripts/search.py --config=$CONFIG --config.reward.cost=macs --config.reward.limit=1.5e6
    python scripts/search.py --config=$CONFIG:smoke                  two trials of a few steps

Real et al. (arXiv:1802.01548) have a population of 100 and samples of 25, Zoph et al. (arXiv:1707.07012) updates of 20
architectures at a rate of 3.5e-4; what is here suits a hundred trials. A trial trains three cells of 8 and 16 channels
on a tenth of the training images, and is judged on a twentieth that none is trained on. Not yet run.
"""

import ml_collections

from arch.errors import unknown_name
from arch.models.genotypes import AMOEBANET_OPERATIONS, NASNET_OPERATIONS
from configs import common
from configs.search import default

SPACES = {
    "amoebanet": {"operations": AMOEBANET_OPERATIONS, "combine": ("add",), "num_nodes": 5},
    "nasnet": {"operations": NASNET_OPERATIONS, "combine": ("add", "concat"), "num_nodes": 5},
}
STRATEGIES = {
    "evolution": {"population_size": 20, "sample_size": 5},
    "random": {},
    "controller": {"batch_size": 10, "learning_rate": 5e-3},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `strategy=` evolution, random or controller, `space=` amoebanet or nasnet, `smoke`."""
    args = common.parse_arg(arg, strategy="evolution", space="amoebanet", smoke=False)
    for name, known in (("strategy", STRATEGIES), ("space", SPACES)):
        if args[name] not in known:
            raise unknown_name(f"configs/search/cells.py: {name}", args[name], known)
    config = default.get_config()
    config.num_trials = 100
    config.recipe = "configs/nasnet.py:fashion_mnist"
    network = {"model.fields.stage_sizes": (1, 1), "model.fields.features": 8}
    config.overrides = default.fields(
        {
            **network,
            "num_epochs": 2.0,
            "data.train_split": "train[:10%]",
            "data.test_split": "",
            "eval_every_epochs": 0.0,
        }
    )
    config.space.name = "cells"
    config.space.fields = default.fields(SPACES[args["space"]])
    config.strategy.name = args["strategy"]
    config.strategy.fields = default.fields(STRATEGIES[args["strategy"]])
    if args["smoke"]:
        config.num_trials = 2
        config.recipe = "configs/nasnet.py:smoke"
        config.overrides = default.fields({**network, "num_steps": 2})
    return config
