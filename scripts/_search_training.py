"""How scripts/search.py evaluates a trial: by train.py, in a process of its own, which saves where it is stopped."""

import dataclasses
import json
import logging
import math
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from arch.search.trials import Evaluation, Job
from arch.training.cluster import INTERRUPTED, NON_FINITE, RESUME_ME
from arch.training.logbook import read_rows

ROOT = pathlib.Path(__file__).resolve().parents[1]

logger = logging.getLogger("search")


@dataclasses.dataclass(frozen=True)
class Training:
    """Evaluates fields of a recipe by train.py, in a process of its own.

    Attributes:
      recipe: FILE.py[:ARGS].
      overrides: fields that all trials share.
      metric: of the last row of metrics.jsonl, the reward.
      folder: of the runs.
    """

    recipe: str
    overrides: Mapping[str, Any]
    metric: str
    folder: str

    def __call__(self, job: Job) -> Evaluation:
        """Trains, or goes on where the trial was stopped; raises RuntimeError where train.py fails.

        The cost is in examples: updates times `global_batch_size`, which is the first one where the batch grows.
        """
        place = pathlib.Path(self.folder, f"{job.id:04d}")
        place.parent.mkdir(parents=True, exist_ok=True)
        fields = {**self.overrides, **job.architecture, "seed": job.seed}
        command = [sys.executable, str(ROOT / "train.py"), f"--config={self.recipe}", f"--workdir={place}"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        with open(f"{place}.txt", "w") as log, _Stopping() as stopping:
            child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
            status = stopping.wait(child)
        if status == NON_FINITE:  # no error, and no reward
            return Evaluation(-math.inf)
        if status:
            lines = pathlib.Path(f"{place}.txt").read_text().strip().splitlines()
            raise RuntimeError(f"train.py ended with status {status}: {lines[-1] if lines else ''}")
        row = read_rows(place / "metrics.jsonl")[-1]
        if self.metric not in row:
            raise RuntimeError(f"config.metric={self.metric} must be in the last row, which has {', '.join(row)}")
        config = json.loads((place / "config.json").read_text())
        metrics = {name: value for name, value in row.items() if name.startswith(("val/", "test/"))}
        return Evaluation(row[self.metric], cost=row["step"] * config["global_batch_size"], metrics=metrics)


class _Stopping:
    """SIGTERM and Ctrl-C, which a child gets to hear before they end this process: it saves first."""

    def __enter__(self) -> "_Stopping":
        self._signal, self._child = None, None
        self._previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
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
