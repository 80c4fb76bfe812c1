"""How scripts/search.py evaluates many small candidates: by one program, to which the architecture is data."""

import ast
import dataclasses
import functools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import input_pipeline
from arch import models, optim
from arch.efficiency.complexity import count
from arch.errors import unknown_name
from arch.search.one_program import OneProgram
from arch.search.spaces.nas_bench_201 import NASBench201Space
from arch.search.trials import Evaluation, Job
from configs import cli


class Candidates:
    """The cells of a space in the network of a recipe, trained as train.py would.

    Args:
      config: of train.py; its network has a field `cell` that may be traced, and data that fit into memory.
      operations: of the space.
      grouping: see `OneProgram`.

    Raises:
      ValueError: a network without such a field; whatever data, optimizer and network refuse.
    """

    def __init__(self, config: Any, operations: Sequence[str], grouping: str = "one"):
        _check(config)
        self._config = config
        self._pipeline = input_pipeline.create(
            config.data,
            seed=config.seed,
            global_batch_size=config.global_batch_size,
            eval_batch_size=config.eval_batch_size,
            local_device_count=1,
        )
        info = self._pipeline.info
        self.plan = optim.plan_batches(
            config.schedule,
            num_examples=info.num_train,
            global_batch_size=config.global_batch_size,
            num_epochs=config.num_epochs,
            num_steps=config.num_steps,
        )
        self._model = models.from_config(config.model, info.num_classes)
        if not hasattr(self._model, "cell"):
            raise unknown_name("config.recipe: model.name", config.model.name, ["nas_bench_201"])
        tx, _ = optim.create(config.optimizer, config.schedule, self.plan)
        self._image_shape = info.eval_image_shape
        self._program = OneProgram(
            lambda cell: self._model.clone(cell=cell, operations=tuple(operations), branch=grouping == "one"),
            tx,
            preprocess=(self._pipeline.preprocess(train=True), self._pipeline.preprocess(train=False)),
            image_shape=self._image_shape,
            num_classes=info.num_classes,
            num_steps=self.plan.num_steps,
            grouping=grouping,
            dtype=config.model.dtype,
            label_smoothing=config.label_smoothing,
        )

    def evaluate(self, cells: np.ndarray, seeds: Sequence[int]) -> list[dict[str, float]]:
        """Metrics of the splits by name, such as val/accuracy, of each; all are nan where a loss was not finite.

        Args:
          cells: int [candidates, edges], codes of the space.
          seeds: [candidates].
        """
        streams = [map(_first_device, self._pipeline.reseeded(seed).train(0)) for seed in seeds]
        states = self._program.train(np.asarray(cells, np.int32), seeds, streams)
        found: list[dict[str, float]] = [{} for _ in states]
        for split in ("val", "test"):
            if not self._config.data[f"{split}_split"]:
                continue
            measured = self._program.evaluate(cells, states, functools.partial(self._batches, split))
            for values, state, metrics in zip(found, states, measured, strict=True):
                diverged = int(state.bad_step) >= 0
                values |= {f"{split}/{name}": math.nan if diverged else value for name, value in metrics.items()}
        return found

    def _batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        return map(_first_device, self._pipeline.evaluation(split))

    def sizes(self, cell: str) -> dict[str, float]:
        """Parameters and multiply-adds of one image, of a cell as text."""
        found = count(self._model.clone(cell=cell), (1, *self._image_shape), train=False)
        return {"params": found.params, "macs": found.macs}


def _check(config: Any) -> None:
    """Refuses what the one program does not do."""
    for name, value in {
        "num_micro_batches": 1,
        "ema_decay": 0.0,
        "eval_statistics": "running",
        "init_from": "",
        "raise_on_nan": True,
        "schedule.max_batch_size": 0,
        "model.conv.data_dependent_init": False,
    }.items():
        given = operator.attrgetter(name)(config)
        if given != value:
            raise ValueError(f"search: config.{name}={given} must be {value} for evaluator=one_program; use train")


def _first_device(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[0] for name, values in batch.items()}


@dataclasses.dataclass(frozen=True)
class OneProgramTraining:
    """Evaluates cells one at a time in this process, where the program is compiled once.

    Attributes:
      recipe: FILE.py[:ARGS].
      overrides: fields that all trials share.
      metric: the reward, such as val/accuracy.
      operations: of the space.
    """

    recipe: str
    overrides: Mapping[str, Any]
    metric: str
    operations: tuple[str, ...]

    def __call__(self, job: Job) -> Evaluation:
        """The cost is in examples."""
        candidates = _candidates(self.recipe, repr(dict(self.overrides)), self.operations)
        code = NASBench201Space(self.operations).from_json(job.architecture).values
        (metrics,) = candidates.evaluate(np.asarray([code]), [job.seed])
        if self.metric not in metrics:
            raise ValueError(f"config.metric={self.metric} must be one of {', '.join(metrics)}; see its splits")
        reward, cost = metrics[self.metric], candidates.plan.examples_before(candidates.plan.num_steps)
        if not math.isfinite(reward):
            return Evaluation(-math.inf, cost, candidates.sizes(job.architecture))
        return Evaluation(reward, cost, metrics | candidates.sizes(job.architecture))


@functools.cache
def _candidates(recipe: str, overrides: str, operations: tuple[str, ...]) -> Candidates:
    """Once a process: making it reads the data, and its first use compiles."""
    config = cli.override(cli.load_recipe(recipe), ast.literal_eval(overrides), "search: config.overrides")
    return Candidates(config, operations)
