"""Evolution over fields of a training recipe: rate, decay, depth and smoothing of a small ShuffleNet v2, the digits.

    python scripts/search.py --config=configs/search/fields.py                       aging evolution
    python scripts/search.py --config=configs/search/fields.py:strategy=random       random search, its control
    python scripts/search.py --config=configs/search/fields.py:smoke                 two trials of a few steps

Each trial is trained by train.py, and judged on the validation split. Not yet run.
"""

import ml_collections

from arch.errors import unknown_name
from configs import common
from configs.search import default

STRATEGIES = {"evolution": {"population_size": 10, "sample_size": 4}, "random": {}}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """Args: `strategy=` evolution or random, `smoke`."""
    args = common.parse_arg(arg, strategy="evolution", smoke=False)
    if args["strategy"] not in STRATEGIES:
        raise unknown_name("configs/search/fields.py: strategy", args["strategy"], STRATEGIES)
    config = default.get_config()
    config.recipe = "configs/shufflenet_v2.py"
    config.overrides = default.fields({"num_epochs": 10.0, "data.test_split": "", "eval_every_epochs": 0.0})
    config.space.fields = default.fields(
        {
            "schedule.base_learning_rate": (0.0125, 0.025, 0.05, 0.1, 0.2),
            "optimizer.weight_decay": (1e-4, 3e-4, 1e-3, 3e-3),
            "model.fields.stage_sizes": ((1, 2, 1), (2, 3, 2), (2, 4, 2), (4, 8, 4)),
            "label_smoothing": (0.0, 0.1, 0.2),
        }
    )
    config.strategy.name = args["strategy"]
    config.strategy.fields = default.fields(STRATEGIES[args["strategy"]])
    if args["smoke"]:
        config.num_trials = 2
        config.recipe += ":smoke"
        config.overrides = default.fields({"num_steps": 2})
    return config
