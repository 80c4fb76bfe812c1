"""How scripts/search.py evaluates many small candidates: by one program, to which the architecture is data."""

import ast
import copy
import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import input_pipeline
from arch import models, optim
from arch.errors import unknown_name
from arch.models.classification.nas_bench_201 import EDGES
from arch.search.one_program import OneProgram
from arch.search.spaces.nas_bench_201 import NASBench201Space
from arch.search.trials import Evaluation, Job
from scripts._search_cost import Reward, configure, known
from scripts._search_training import fields_of


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
        check_recipe(config)
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
        self._make = functools.partial(
            OneProgram,
            tx=tx,
            preprocess=(self._pipeline.preprocess(train=True), self._pipeline.preprocess(train=False)),
            image_shape=info.eval_image_shape,
            num_classes=info.num_classes,
            num_steps=self.plan.num_steps,
            dtype=config.model.dtype,
            label_smoothing=config.label_smoothing,
        )
        self._program = self._make(
            lambda cell: self._model.clone(cell=cell, operations=tuple(operations), branch=grouping == "one"),
            grouping=grouping,
        )

    def alone(self, cell: str) -> "Candidates":
        """The same with a program of one cell alone, compiled anew: what one program for all is compared with.

        Args:
          cell: as text.
        """
        other = copy.copy(self)
        other._program = self._make(lambda _: self._model.clone(cell=cell))
        return other

    def prepare(self, num_candidates: int = 1) -> None:
        """Compiles all, by as many steps as a call makes and one batch of each evaluation.

        Args:
          num_candidates: that `evaluate` will be given.
        """
        cells = np.zeros((num_candidates, len(EDGES)), np.int32)
        seeds = [0] * num_candidates
        count = self._program.steps_a_call
        streams = [itertools.islice(map(_first_device, self._pipeline.train(0)), count) for _ in seeds]
        states = self._program.train(cells, seeds, streams)
        for split in self._splits:
            self._program.evaluate(cells, states, lambda split=split: itertools.islice(self._batches(split), 1))

    @property
    def _splits(self) -> list[str]:
        return [split for split in ("val", "test") if self._config.data[f"{split}_split"]]

    def evaluate(self, cells: np.ndarray, seeds: Sequence[int]) -> list[dict[str, float]]:
        """Metrics of the splits by name, such as val/accuracy, of each; all are nan where a loss was not finite.

        Args:
          cells: int [candidates, edges], codes of the space.
          seeds: [candidates].
        """
        streams = [map(_first_device, self._pipeline.reseeded(seed).train(0)) for seed in seeds]
        states = self._program.train(np.asarray(cells, np.int32), seeds, streams)
        found: list[dict[str, float]] = [{} for _ in states]
        for split in self._splits:
            measured = self._program.evaluate(cells, states, functools.partial(self._batches, split))
            for values, state, metrics in zip(found, states, measured, strict=True):
                diverged = int(state.bad_step) >= 0
                values |= {f"{split}/{name}": math.nan if diverged else value for name, value in metrics.items()}
        return found

    def _batches(self, split: str) -> Iterator[dict[str, np.ndarray]]:
        return map(_first_device, self._pipeline.evaluation(split))


def check_recipe(config: Any) -> None:
    """Refuses what the one program does not do, by a ValueError."""
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
    if config.model.dtype == "float64":  # of a whole process, in which strategies compute as well
        raise ValueError("search: config.model.dtype=float64 must be another one for evaluator=one_program; use train")


def _first_device(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[0] for name, values in batch.items()}


@dataclasses.dataclass(frozen=True)
class OneProgramTraining:
    """Evaluates cells in this process, where the program is compiled once.

    Attributes:
      recipe: FILE.py[:ARGS].
      overrides: fields that all trials share.
      metric: what is rewarded, such as val/accuracy.
      operations: of the space.
      reward: how the metric is weighed against what the network costs.
      num_together: candidates that the program trains at a time; 1 takes them one after the other.
    """

    recipe: str
    overrides: Mapping[str, Any]
    metric: str
    operations: tuple[str, ...]
    reward: Reward = dataclasses.field(default_factory=Reward)
    num_together: int = 1

    def prepare(self) -> None:
        """Reads the data and compiles, once a process."""
        self._candidates()

    def _candidates(self) -> Candidates:
        return _candidates(self.recipe, repr(dict(self.overrides)), self.operations, self.num_together)

    def __call__(self, job: Job) -> Evaluation:
        """As that of `scripts._search_training.Training`, but for the folder."""
        (found,) = self.together([job])
        return found

    def together(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Of several, at most `num_together` at a time; those beyond a hard limit are not trained."""
        costs = {job.id: self._costs(job) for job in jobs}
        allowed = [job for job in jobs if self.reward.allows(costs[job.id])]
        metrics: dict[int, dict[str, float]] = {}
        space = NASBench201Space(self.operations)
        for start in range(0, len(allowed), self.num_together):
            group = allowed[start : start + self.num_together]
            # The program is of so many candidates: the last stands for those that are missing.
            whole = group + group[-1:] * (self.num_together - len(group))
            cells = np.asarray([space.from_json(job.architecture).values for job in whole])
            found = self._candidates().evaluate(cells, [job.seed for job in whole])
            metrics |= {job.id: values for job, values in zip(group, found, strict=False)}
        return [self._evaluation(costs[job.id], metrics.get(job.id)) for job in jobs]

    def _costs(self, job: Job) -> dict[str, float]:
        fields = {**self.overrides, **fields_of("nas_bench_201", job.architecture)}
        return known(self.recipe, fields, self.reward, here=True)[1]

    def _evaluation(self, costs: dict[str, float], metrics: Mapping[str, float] | None) -> Evaluation:
        """Of a candidate, of which there are no metrics where it was not trained."""
        if metrics is None:
            return Evaluation(-math.inf, cost=0.0, metrics=costs)
        if self.metric not in metrics:
            raise ValueError(f"config.metric={self.metric} must be one of {', '.join(metrics)}; see its splits")
        plan = self._candidates().plan
        cost, value = float(plan.examples_before(plan.num_steps)), metrics[self.metric]
        if not math.isfinite(value):
            return Evaluation(-math.inf, cost=cost, metrics=costs)
        return Evaluation(self.reward.weigh(value, costs), cost=cost, metrics={**costs, **metrics})


@functools.cache
def _candidates(recipe: str, overrides: str, operations: tuple[str, ...], num_together: int) -> Candidates:
    """Once a process: making it reads the data and compiles."""
    grouping = "vmap" if num_together > 1 else "one"
    made = Candidates(configure(recipe, ast.literal_eval(overrides)), operations, grouping)
    made.prepare(num_together)
    return made
