"""How scripts/search.py evaluates a trial: by train.py, in a process of its own, which saves where it is stopped."""

import dataclasses
import logging
import math
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from arch.search.executors import END, SENT_TO_ALL
from arch.search.trials import Evaluation, Job
from arch.training.cluster import INTERRUPTED, NON_FINITE, PARENT, RESUME_ME
from arch.training.logbook import read_rows
from scripts._search_cost import Reward, examples, known

ROOT = pathlib.Path(__file__).resolve().parents[1]

logger = logging.getLogger("search")


# The field of the recipe that an architecture of a space is the value of; in other spaces it is fields and values.
FIELDS = {"cells": "model.fields.genotype", "darts": "model.fields.genotype", "nas_bench_201": "model.fields.cell"}


def fields_of(space: str, architecture: Any) -> dict[str, Any]:
    """The fields of a recipe that an architecture stands for."""
    return {FIELDS[space]: architecture} if space in FIELDS else dict(architecture)


@dataclasses.dataclass(frozen=True)
class Training:
    """Evaluates fields of a recipe by train.py, in a process of its own.

    Attributes:
      recipe: FILE.py[:ARGS].
      overrides: fields that all trials share.
      metric: of the last row of metrics.jsonl: what is rewarded, higher is better.
      folder: of the runs.
      space: the name of that of the architectures, see `fields_of`.
      reward: how the metric is weighed against what the network costs.
    """

    recipe: str
    overrides: Mapping[str, Any]
    metric: str
    folder: str
    space: str = "fields"
    reward: Reward = dataclasses.field(default_factory=Reward)

    def __call__(self, job: Job) -> Evaluation:
        """Trains, or goes on where the trial was stopped, unless the network is beyond a hard limit.

        Metrics are what the network costs, and the last of validation and test. The cost is in training examples, none
        where nothing was trained; of a run whose loss was not finite, up to its last row.

        Raises:
          RuntimeError: train.py fails.
        """
        jax.config.update("jax_platforms", "cpu")  # also in a worker: the devices are for train.py
        fields = {**self.overrides, **fields_of(self.space, job.architecture), "seed": job.seed}
        config, costs = known(self.recipe, fields, self.reward)
        if not self.reward.allows(costs):
            return Evaluation(-math.inf, cost=0.0, metrics=costs)
        place = pathlib.Path(self.folder, f"{job.id:04d}")
        is_finite = self._train(place, fields)
        rows = read_rows(place / "metrics.jsonl")
        spent = float(examples(config, rows[-1]["step"])) if rows else 0.0
        if not is_finite:  # no error, and no reward
            return Evaluation(-math.inf, cost=spent, metrics=costs)
        if self.metric not in rows[-1]:
            raise RuntimeError(f"config.metric={self.metric} must be in the last row, which has {', '.join(rows[-1])}")
        metrics = costs | {name: value for name, value in rows[-1].items() if name.startswith(("val/", "test/"))}
        return Evaluation(self.reward.weigh(rows[-1][self.metric], costs), cost=spent, metrics=metrics)

    def _train(self, place: pathlib.Path, fields: Mapping[str, Any]) -> bool:
        """Runs train.py, whose output goes to a file beside its folder; whether its loss stayed finite."""
        place.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "train.py"), f"--config={self.recipe}", f"--workdir={place}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        with open(f"{place}.txt", "w") as log, _Stopping() as stopping:
            environment = os.environ | {PARENT: str(os.getpid())}  # or it would hold the folder after a SIGKILL here
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
            status = stopping.wait(child)
        if not status:
            return True
        lines = pathlib.Path(f"{place}.txt").read_text().strip().splitlines()
        last = lines[-1] if lines else ""
        # A traceback ends with the same status: that is a failure, of which too many in a row end the search.
        if status == NON_FINITE and "not finite" in last:
            return False
        raise RuntimeError(f"train.py ended with status {status}: {last}")


class _Stopping:
    """What ends this process, a worker or the search itself: a child gets to hear of it first, and saves."""

    def __enter__(self) -> "_Stopping":
        self._signal, self._child = None, None
        self._previous = {number: signal.signal(number, self._stop) for number in (*SENT_TO_ALL, END)}
        return self

    def _stop(self, number: int, frame: Any) -> None:
        self._signal = number
        if self._child is not None:
            self._child.terminate()

    def wait(self, child: subprocess.Popen) -> int:
        """The exit status of the child."""
        self._child = child
        if self._signal is not None:  # it came while the child was started
            child.terminate()
        return child.wait()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._signal is not None:
            leave(self._signal)


def leave(number: int, frame: Any = None) -> NoReturn:
    """Ends the search, or one of its workers."""
    logger.warning("stopped; the same command goes on")
    sys.exit(INTERRUPTED if number == signal.SIGINT else RESUME_ME)
