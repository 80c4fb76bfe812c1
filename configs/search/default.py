"""Every field of a search, with its default and meaning; searches change values and never add a field.

Four groups belong to what is named beside them: `space.fields`, `strategy.fields`, `executor_fields`, and `overrides`,
which are fields of the recipe.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """The locked defaults. Take a copy by calling, change values, return it."""
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.num_trials = 40
    config.num_parallel = 1  # trials at a time
    # inline; together: all that run at a time by one call, of evaluator=one_program; processes; ray.
    config.executor = "inline"
    config.executor_fields = fields({})  # arguments of its class in arch.search.executors
    # train: by train.py; one_program: cells of nas_bench_201, by one program to which they are data; table: looked up.
    config.evaluator = "train"
    config.table = ""  # of evaluator=table: the trials.jsonl of a search that tried all architectures
    config.recipe = ""  # FILE.py[:ARGS], what train.py trains
    config.overrides = fields({})  # of the recipe: dotted path -> what it is in all trials
    config.metric = "val/accuracy"  # of the last row: what is rewarded; higher is better

    # What weighs the metric; parameters and multiply-adds are metrics of every trial in any case.
    config.reward = ml_collections.ConfigDict()
    # params, macs; seconds of one image on the device of the trials, predicted_seconds from its operators; "": nothing.
    config.reward.cost = ""
    config.reward.limit = 0.0  # of the cost, in its units
    config.reward.kind = "hard"  # hard: none beyond the limit, known before training; soft: (cost / limit)^exponent
    config.reward.exponent = -0.07  # of soft
    config.reward.latency_table = ""  # of predicted_seconds: file of measured operators, which is made and grows

    config.space = ml_collections.ConfigDict()
    config.space.name = "fields"  # fields, cells, darts, graphs, nas_bench_201
    config.space.fields = fields({})  # fields: dotted path -> values; else arguments of the class in arch.search.spaces
    config.strategy = ml_collections.ConfigDict()
    config.strategy.name = "evolution"  # evolution, random, controller, hill_climbing, exhaustive
    config.strategy.fields = fields({})
    return config.lock()


def fields(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """A group whose names may be dotted paths."""
    return ml_collections.ConfigDict(dict(values), allow_dotted_keys=True)
