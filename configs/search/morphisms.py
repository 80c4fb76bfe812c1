"""Hill climbing with network morphisms (Elsken, Metzen, Hutter, arXiv:1711.04528): small chains grow, on Fashion-MNIST.

    python scripts/search.py --config=configs/search/morphisms.py                     hill climbing
    python scripts/search.py --config=configs/search/morphisms.py:strategy=evolution  aging evolution, its control: anew
    python scripts/search.py --config=configs/search/morphisms.py:strategy=random     as many morphisms, at random: anew
    python scripts/search.py --config=configs/search/morphisms.py:smoke               a few trials of a few steps

A child begins with its parent's weights, changed by morphisms that keep what the network computes, and every trial is
trained along a cosine from rate 0.05 to 0. The controls train every network from fresh weights. The paper: 20 epochs
for the start and 17 for each of 8 children of 5 or 8 steps, on CIFAR-10. Here 5 steps of 4 children of an epoch; the
start has one as well. Results: docs/search.md.
"""

import ml_collections

from arch.errors import unknown_name
from configs import common
from configs.search import default

STRATEGIES = {
    "hill_climbing": {"num_children": 4, "num_changes": 3},
    "evolution": {"population_size": 4, "sample_size": 2, "no_change_rate": 0.0},
    "random": {},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `strategy=` hill_climbing, evolution or random, `smoke`."""
    args = common.parse_arg(arg, strategy="hill_climbing", smoke=False)
    if args["strategy"] not in STRATEGIES:
        raise unknown_name("configs/search/morphisms.py: strategy", args["strategy"], STRATEGIES)
    config = default.get_config()
    config.num_trials = 21
    config.recipe = "configs/graph_net.py:fashion_mnist"
    config.overrides = default.fields(
        {
            "num_epochs": 1.0,
            "data.test_split": "",
            "eval_every_epochs": 0.0,
            "schedule.base_learning_rate": 0.05,
            "schedule.warmup_epochs": 0.0,
        }
    )
    config.space.name = "graphs"
    config.space.fields = default.fields(
        {
            "start": "16,32,64",
            "max_params": 500_000,
            "max_macs": 20_000_000,
            # 5 steps of 3 morphisms is as far as hill climbing comes.
            "sample_changes": 15 if args["strategy"] == "random" else 0,
        }
    )
    config.strategy.name = args["strategy"]
    config.strategy.fields = default.fields(STRATEGIES[args["strategy"]])
    if args["smoke"]:
        config.num_trials = 3
        config.recipe = "configs/graph_net.py:smoke"
        config.overrides = default.fields({"num_steps": 2})
        changes = min(2, config.space.fields.sample_changes)
        config.space.fields = default.fields({"start": "4,4", "sample_changes": changes})
        if args["strategy"] == "hill_climbing":
            config.strategy.fields = default.fields({"num_children": 2, "num_changes": 2})
    return config
