"""What the config of a search stands for: a space, a strategy, an executor, an evaluator."""

import inspect
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from arch import models
from arch.errors import unknown_name
from arch.search import executors
from arch.search.run import Evaluate
from arch.search.spaces.cells import CellSpace
from arch.search.spaces.darts import DartsSpace
from arch.search.spaces.fields import FieldSpace
from arch.search.spaces.graphs import GraphSpace
from arch.search.spaces.nas_bench_201 import NASBench201Space, canonical
from arch.search.strategies.controller import ReinforcementLearning
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.exhaustive import Exhaustive
from arch.search.strategies.hill_climbing import HillClimbing
from arch.search.strategies.random_search import RandomSearch
from arch.search.strategy import Strategy
from arch.search.tabular import Table
from arch.training.metrics import metrics_class
from input_pipeline.sources import open_source
from scripts import _devices
from scripts._search_cost import Reward, configure
from scripts._search_morphing import Morphing, activation_of
from scripts._search_one_program import OneProgramTraining, check_recipe
from scripts._search_table import Lookup
from scripts._search_training import Training, fields_of

logger = logging.getLogger("search")

# By config.space.name: made of config.space.fields.
SPACES: Mapping[str, type] = {
    "fields": FieldSpace,
    "cells": CellSpace,
    "darts": DartsSpace,
    "nas_bench_201": NASBench201Space,
    "graphs": GraphSpace,
}
STRATEGIES = {
    "evolution": Evolution,
    "random": RandomSearch,
    "controller": ReinforcementLearning,
    "hill_climbing": HillClimbing,
    "exhaustive": Exhaustive,
}
EVALUATORS = ("train", "one_program", "table")
# By config.executor: made of config.num_parallel and config.executor_fields.
EXECUTORS: Mapping[str, Callable[..., executors.Executor]] = {
    "inline": lambda num_parallel, **fields: executors.InLine(**fields),
    "together": lambda num_parallel, **fields: executors.Together(**fields),
    "processes": executors.Processes,
    "ray": lambda num_parallel, **fields: executors.Ray(**fields),
}


class Setup(NamedTuple):
    """All that `arch.search.run.search` takes."""

    space: Any
    strategy: Strategy
    executor: executors.Executor
    evaluate: Evaluate


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
        ("evaluator", config.evaluator, EVALUATORS),
    ):
        if value not in known:
            raise unknown_name(f"config.{name}", value, known)
    reward = Reward(**config.reward)
    if "seconds" in reward.cost and config.executor in ("processes", "ray") and config.num_parallel > 1:
        raise ValueError(
            f"config.reward.cost={reward.cost} is measured while other trials train; set config.num_parallel="
            f"{config.num_parallel} to 1"
        )
    recipe = configure(config.recipe, config.overrides.to_dict())
    fields = config.space.fields.to_dict()
    if config.space.name == "graphs":  # which morphisms apply depends on the activation, what a graph costs on images
        for name, owner in (("act", "model.fields.act"), ("image_shape", "data.image_size")):
            if name in fields:
                raise ValueError(f"config.space.fields.{name} is the recipe's; set config.overrides.{owner}")
        data = recipe.data
        fields["act"] = activation_of(recipe.model.fields)
        fields["image_shape"] = (data.image_size, data.image_size, data.num_channels)
    _check_types("config.space.fields", SPACES[config.space.name], fields)
    space = _call("config.space.fields", lambda fields: _make_space(config.space.name, fields), fields)
    _check_recipe(config, recipe, space)
    make, fields = STRATEGIES[config.strategy.name], config.strategy.fields.to_dict()
    _check_types("config.strategy.fields", make, fields)
    strategy = _call("config.strategy.fields", lambda fields: make(space, seed=config.seed, **fields), fields)
    evaluate = _evaluator(config, recipe, folder, space, reward)
    executor = _call(
        "config.executor_fields",
        lambda fields: EXECUTORS[config.executor](config.num_parallel, **fields),
        config.executor_fields.to_dict(),
    )
    return Setup(space, strategy, executor, evaluate)


def check_machine(config: ml_collections.ConfigDict, setup: Setup, folder: pathlib.Path) -> None:
    """That trials will find their data and devices, and that those of a search that goes on had the same table.

    Args:
      config: which `create` took.
      setup: which it made.
      folder: of the search.

    Raises:
      FileNotFoundError: the data set is not there.
      ValueError: it has no such split, or too few classes for the metric; too few devices; or the table is another one.
    """
    if config.evaluator == "table":
        return setup.evaluate.check_told(folder / "trials.jsonl")
    recipe = configure(config.recipe, config.overrides.to_dict())
    data = recipe.data
    sources = [open_source(data.name, data.dir, data[f"{split}_split"]) for split in ("train", *_splits(recipe))]
    _check_metric(config, recipe, sources[0].num_classes)
    if config.executor != "ray" and (config.executor == "processes" or config.evaluator == "train"):
        devices = _devices.find()
        check_devices(config, devices, _tried(config, setup.space))
        _devices.promise(devices)
        logger.info("a trial finds %d x %s", devices.count, devices.platforms.partition(",")[0])


def check_devices(
    config: ml_collections.ConfigDict, devices: _devices.Devices, tried: Sequence[Mapping[str, Any]]
) -> None:
    """That so many trials at a time can have them, and that batches can be split over those of one.

    Args:
      config: of a search whose trials are processes of this machine.
      devices: of it.
      tried: fields of trials.

    Raises:
      ValueError: they cannot.
    """
    variable = config.executor_fields.get("device_variable", "") if config.executor == "processes" else ""
    if config.executor == "processes":
        _devices.check_shares("config.num_parallel", config.num_parallel, variable, devices)
    if config.evaluator != "train":  # others take one device
        return
    count = 1 if variable else devices.count
    for fields in tried:
        one = configure(config.recipe, {**config.overrides.to_dict(), **fields})
        for name, parts in (("global_batch_size", one.num_micro_batches), ("eval_batch_size", 1)):
            if one[name] % (count * parts):
                raise ValueError(
                    f"config: {name}={one[name]} of a trial must be a multiple of its {count} devices"
                    f"{f' x num_micro_batches={parts}' if parts > 1 else ''}; set config.overrides.{name}, or "
                    "config.executor_fields.device_variable=CUDA_VISIBLE_DEVICES, one device a trial"
                )


def _evaluator(
    config: ml_collections.ConfigDict,
    recipe: ml_collections.ConfigDict,
    folder: pathlib.Path,
    space: Any,
    reward: Reward,
) -> Evaluate:
    """What config.evaluator names."""
    common = {"recipe": config.recipe, "overrides": config.overrides.to_dict(), "metric": config.metric}
    if config.executor == "together" and config.evaluator != "one_program":
        raise ValueError(
            f"config.executor=together is for config.evaluator=one_program, not {config.evaluator}; set it to inline"
        )
    if config.evaluator == "train":
        make = Morphing if config.space.name == "graphs" else Training
        return make(**common, folder=str(folder / "trials"), space=config.space.name, reward=reward)
    if config.space.name != "nas_bench_201":
        raise ValueError(
            f"config.evaluator={config.evaluator} is for config.space.name=nas_bench_201, not {config.space.name}; set "
            "it to train"
        )
    if config.evaluator == "one_program":
        check_recipe(recipe)
        if config.executor == "ray" and config.executor_fields.get("resources", {}).get("num_gpus"):
            raise ValueError(
                "config.evaluator=one_program compiles anew for every trial where Ray gives it a GPU, as Ray ends that "
                "process; set it to train, or config.executor to processes"
            )
        num_together = config.num_parallel if config.executor == "together" else 1
        return OneProgramTraining(**common, operations=space.operations, reward=reward, num_together=num_together)
    if not config.table:
        raise ValueError("config.table must be the trials.jsonl of a search for config.evaluator=table; name it")
    table = Table.read(pathlib.Path(config.table), config.metric, canonical)
    table.check(space)
    return Lookup(table, reward)


def _make_space(name: str, fields: Mapping[str, Any]) -> Any:
    return FieldSpace(fields) if name == "fields" else SPACES[name](**fields)


def _call(owner: str, make: Callable[[Mapping[str, Any]], Any], fields: Mapping[str, Any]) -> Any:
    try:
        return make(fields)
    except TypeError as error:
        raise ValueError(f"{owner}: {error}; see its class") from error


def _check_types(owner: str, make: Callable, fields: Mapping[str, Any]) -> None:
    """That values are of the types of their defaults; whole numbers are real ones, too."""
    parameters = inspect.signature(make).parameters
    for name, value in fields.items():
        default = getattr(parameters.get(name), "default", inspect.Parameter.empty)
        types = {float: (float, int), int: (int,), bool: (bool,), str: (str,)}.get(type(default))
        if types and type(value) not in types:
            raise ValueError(f"{owner}.{name}={value!r} must be of type {types[0].__name__}, as {default!r}; change it")


def _check_recipe(config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict, space: Any) -> None:
    """That what is rewarded will be measured, and that what is searched are fields of the recipe and its network."""
    shared = config.overrides.to_dict()
    if config.evaluator != "table":
        _check_metric(config, recipe, num_classes=10)
    tried = _tried(config, space)
    for fields in (shared, *tried):
        if "seed" in fields:
            raise ValueError(
                f"config: seed={fields['seed']} must not be a field of trials, which have their own; drop it"
            )
    for fields in tried:
        models.from_config(configure(config.recipe, {**shared, **fields}).model, num_classes=10)


def _tried(config: ml_collections.ConfigDict, space: Any) -> list[dict[str, Any]]:
    """Fields of trials: each value alone; of cells, one pair."""
    if config.space.name == "fields":
        return [{name: value} for name, values in space.fields.items() for value in values]
    return [fields_of(config.space.name, space.to_json(space.sample(np.random.default_rng(config.seed))))]


def _check_metric(config: ml_collections.ConfigDict, recipe: ml_collections.ConfigDict, num_classes: int) -> None:
    """That trials measure it."""
    if not _splits(recipe):
        raise ValueError(
            "config.recipe must evaluate something; set config.overrides.data.val_split, such as train[-5%:]"
        )
    names = [name for name in metrics_class(num_classes).__annotations__ if name != "loss"]  # higher is better
    prefixes = ("", "ema_") if recipe.ema_decay else ("",)
    measured = [f"{split}/{prefix}{name}" for split in _splits(recipe) for prefix in prefixes for name in names]
    if config.metric not in measured:
        raise unknown_name("config.metric", config.metric, measured)


def _splits(recipe: ml_collections.ConfigDict) -> list[str]:
    return [split for split in ("val", "test") if recipe.data[f"{split}_split"]]
