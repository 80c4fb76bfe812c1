"""What a search leaves behind: `trials.jsonl`, a line a trial, from which it goes on."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from arch.training.workdir import write_atomically


@dataclasses.dataclass(frozen=True)
class Job:
    """A trial to be made.

    Attributes:
      id: its number, counted from 0 in the order of proposals.
      architecture: as JSON values.
      seed: of its evaluation, another one for every trial.
      parent: the trial that it was made from; None for none.
      change: what a strategy says of how it was made, JSON values, such as the morphisms from the parent.
    """

    id: int
    architecture: Any
    seed: int
    parent: int | None = None
    change: Any = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluator finds.

    Attributes:
      reward: higher is better; not finite where the architecture cannot be had.
      cost: what it took, in the units of the evaluator: seconds of training, epochs, or 1.
      metrics: further numbers, such as accuracy, parameters, MACs.
    """

    reward: float
    cost: float = 1.0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A job with its evaluation; where that failed, `error` says why, and the reward is minus infinity."""

    id: int
    architecture: Any
    seed: int
    reward: float
    cost: float
    seconds: float
    parent: int | None = None
    change: Any = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there is a finite reward."""
        return math.isfinite(self.reward)


def append(path: Path, trial: Trial) -> None:
    """Adds a line; on the disk when this returns.

    JSON has no number for what is not finite: such a reward is null.
    """
    with open(path, "a") as file:
        file.write(_line(trial))
        file.flush()
        os.fsync(file.fileno())


def rewrite(path: Path, known: dict[int, Trial]) -> None:
    """Leaves these trials alone in the file, which is the old one or the new one, whenever the process dies."""
    write_atomically(path, "".join(map(_line, known.values())))


def _line(trial: Trial) -> str:
    return json.dumps(dataclasses.asdict(trial) | {"reward": trial.reward if trial.succeeded else None}) + "\n"


def mend(path: Path) -> dict[int, Trial]:
    """As `read`, before lines are added: a last line that was cut off is taken out of the file."""
    found = read(path)
    text = path.read_bytes() if path.exists() else b""
    if text and not text.endswith(b"\n"):  # the process died while it wrote
        os.truncate(path, text.rfind(b"\n") + 1)
    return found


def read(path: Path) -> dict[int, Trial]:
    """Trials by id, of each the last line; none where there is no file. A last line that was cut off does not count.

    Raises:
      ValueError: a file of other things.
    """
    if not path.exists():
        return {}
    whole, _, _ = path.read_text().rpartition("\n")
    found = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            values = json.loads(line)
            reward = -math.inf if values["reward"] is None else values["reward"]
            trial = Trial(**values | {"reward": reward})
        except (json.JSONDecodeError, TypeError, KeyError) as error:
            raise ValueError(f"{path}: line {number} is no trial; use another folder") from error
        found[trial.id] = trial
    return found


def best(trials: list[Trial]) -> Trial | None:
    """The highest reward, of equal ones the first; None where none succeeded."""
    succeeded = [trial for trial in trials if trial.succeeded]
    return max(succeeded, key=lambda trial: trial.reward) if succeeded else None
