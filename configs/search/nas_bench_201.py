"""A search of NAS-Bench-201's cells (arXiv:2001.00326) in a small network, Fashion-MNIST, by one program.

    CONFIG=configs/search/nas_bench_201.py
    python scripts/search.py --config=$CONFIG                          aging evolution
    python scripts/search.py --config=$CONFIG:strategy=random          random search, its control
    python scripts/search.py --config=$CONFIG:strategy=controller      a recurrent controller, PPO
    python scripts/search.py --config=$CONFIG:strategy=exhaustive --workdir=runs/cells      all networks, twice
    python scripts/search.py --config=$CONFIG:table=docs/nas_bench_201.jsonl,strategy=random        looked up
    python scripts/search.py --config=$CONFIG --config.executor=together --config.num_parallel=16   at a time, by vmap
    python scripts/search.py --config=$CONFIG:smoke                    two trials of a few steps

Of the five operations all but pooling are searched: 4^6 = 4,096 cells, which make 871 networks that differ in what they
compute. A trial trains three cells of 8, 16 and 32 channels for 800 steps, on images of 14 pixels, and is judged on a
fifth of the training images. Results: docs/search.md.
"""

import ml_collections

from arch.errors import unknown_name
from arch.search.spaces.nas_bench_201 import CONVOLUTIONS, NASBench201Space
from configs import common
from configs.search import default

STRATEGIES = {
    "evolution": {"population_size": 20, "sample_size": 5},
    "random": {},
    "controller": {"batch_size": 10, "learning_rate": 5e-3},
    "exhaustive": {"distinct": True},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `strategy=` evolution, random, controller or exhaustive, `table=` a trials.jsonl, `smoke`."""
    args = common.parse_arg(arg, strategy="evolution", table="", smoke=False)
    if args["strategy"] not in STRATEGIES:
        raise unknown_name("configs/search/nas_bench_201.py: strategy", args["strategy"], STRATEGIES)
    config = default.get_config()
    config.num_trials = 200
    if args["strategy"] == "exhaustive":
        config.num_trials = 2 * len(NASBench201Space(CONVOLUTIONS).distinct())
    config.evaluator, config.table = ("table", args["table"]) if args["table"] else ("one_program", "")
    config.recipe = "configs/nas_bench_201.py:fashion_mnist"
    network = {"model.fields.features": 8, "eval_batch_size": 1000}
    config.overrides = default.fields(
        {
            **network,
            "num_steps": 800,
            "schedule.warmup_epochs": 0.1,
            "data.image_size": 14,
            "data.train_split": "train[:80%]",
            "data.val_split": "train[80%:]",  # with the usual 5% chance outweighs what networks differ in
            "eval_every_epochs": 0.0,
        }
    )
    config.space.name = "nas_bench_201"
    config.space.fields = default.fields({"operations": CONVOLUTIONS})
    config.strategy.name = args["strategy"]
    config.strategy.fields = default.fields(STRATEGIES[args["strategy"]])
    if args["smoke"]:
        config.num_trials = 2
        config.recipe = "configs/nas_bench_201.py:smoke"
        config.metric = "test/accuracy"
        config.overrides = default.fields({**network, "num_steps": 2})
    return config
