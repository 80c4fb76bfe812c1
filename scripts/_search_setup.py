"""What the config of a search stands for: a space, a strategy, an executor, an evaluator."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from arch import models
from arch.errors import unknown_name
from arch.search import executors
from arch.search.spaces.cells import CellSpace
from arch.search.spaces.fields import FieldSpace
from arch.search.strategies.controller import ReinforcementLearning
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.random_search import RandomSearch
from arch.search.strategy import Strategy
from scripts._search_cost import Reward, configure
from scripts._search_training import Training, fields_of

# By config.space.name: made of config.space.fields.
SPACES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "fields": FieldSpace,
    "cells": lambda fields: CellSpace(**fields),
}
STRATEGIES = {"evolution": Evolution, "random": RandomSearch, "controller": ReinforcementLearning}
EXECUTORS = {
    "inline": lambda num_parallel: executors.InLine(),
    "processes": executors.Processes,
    "ray": lambda num_parallel: executors.Ray(),
}


class Setup(NamedTuple):
    """All that `arch.search.run.search` takes."""

    space: Any
    strategy: Strategy
    executor: executors.Executor
    evaluate: Training


def create(config: ml_collections.ConfigDict, folder: pathlib.Path) -> Setup:
    """What a config of configs/search says; nothing is trained.

    Args:
      config: see configs/search/default.py.
      folder: of the search.

    Raises:
      ValueError: an unknown name, a field that does not exist, a value of a wrong type or out of range.
    """
    for name, value, known in (
        ("space.name", config.space.name, SPACES),
        ("strategy.name", config.strategy.name, STRATEGIES),
        ("executor", config.executor, EXECUTORS),
    ):
        if value not in known:
            raise unknown_name(f"config.{name}", value, known)
    reward = Reward(**config.reward)
    if reward.cost == "seconds" and config.executor == "processes" and config.num_parallel > 1:
        raise ValueError(
            f"config.reward.cost=seconds is measured while other trials train; set config.num_parallel="
            f"{config.num_parallel} to 1"
        )
    space = _call("config.space.fields", SPACES[config.space.name], config.space.fields.to_dict())
    _check_recipe(config, space)
    make = STRATEGIES[config.strategy.name]
    strategy = _call("config.strategy.fields", lambda fields: make(space, seed=config.seed, **fields),
                     config.strategy.fields.to_dict())  # fmt: skip
    overrides = config.overrides.to_dict()
    evaluate = Training(
        config.recipe, overrides, config.metric, str(folder / "trials"), space=config.space.name, reward=reward
    )
    return Setup(space, strategy, EXECUTORS[config.executor](config.num_parallel), evaluate)


def _call(owner: str, make: Callable[[Mapping[str, Any]], Any], fields: Mapping[str, Any]) -> Any:
    try:
        return make(fields)
    except TypeError as error:
        raise ValueError(f"{owner}: {error}; see its class") from error


def _check_recipe(config: ml_collections.ConfigDict, space: Any) -> None:
    """That every field to be searched is one of the recipe and of its network, each value alone; of cells, one pair."""
    shared = config.overrides.to_dict()
    configure(config.recipe, shared)
    if config.space.name == "fields":
        tried = [{name: value} for name, values in space.fields.items() for value in values]
    else:
        tried = [fields_of(config.space.name, space.to_json(space.sample(np.random.default_rng(config.seed))))]
    for fields in tried:
        models.from_config(configure(config.recipe, {**shared, **fields}).model, num_classes=10)
