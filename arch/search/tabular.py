"""A search whose answers are known: what other trials measured, looked up in no time."""

import collections
import dataclasses
import functools
import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from arch.search import trials
from arch.search.space import Space
from arch.search.trials import Evaluation, Job, Trial

as_text = functools.partial(json.dumps, sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Table:
    """An evaluator over the trials of a search that tried every architecture of a space several times.

    Attributes:
      rows: trials, by what `key` says of their architecture.
      metric: of a trial, which is the reward; "reward" is what the trial was rewarded with.
      key: of an architecture, as JSON values: text that those share which compute the same, one being as good as all.
    """

    rows: dict[str, tuple[Trial, ...]]
    metric: str = "reward"
    key: Callable[[Any], str] = as_text

    @classmethod
    def read(cls, path: Path, metric: str = "reward", key: Callable[[Any], str] = as_text) -> "Table":
        """The table of a `trials.jsonl`; trials that failed, and those whose loss was not finite, count as reward 0.

        Args:
          path: of the file.
          metric: as above.
          key: as above.

        Raises:
          ValueError: no trials, or a trial without the metric.
        """
        rows = collections.defaultdict(list)
        for _, trial in sorted(trials.read(path).items()):
            try:
                rows[key(trial.architecture)].append(trial)
            except (TypeError, AttributeError) as error:
                raise ValueError(
                    f"Table: the architecture of trial {trial.id} must be of this space, not {trial.architecture!r}; "
                    f"{path} is of another"
                ) from error
        if not rows:
            raise ValueError(f"Table: {path} has no trials; make it with scripts/search.py")
        for trial in (trial for group in rows.values() for trial in group):
            if metric != "reward" and trial.succeeded and metric not in trial.metrics:
                raise ValueError(f"Table: metric={metric} must be one of trial {trial.id}'s {list(trial.metrics)}")
        return cls({name: tuple(group) for name, group in rows.items()}, metric, key)

    def check(self, space: Space) -> None:
        """That all is there which a search of the space may ask for.

        Args:
          space: whose `choices` are any combination of them.

        Raises:
          ValueError: an architecture is missing.
        """
        for code in itertools.product(*map(range, space.choices)):
            self._known(space.to_json(space.decode(code)))

    def __call__(self, job: Job) -> Evaluation:
        """One of the architecture's trials, by the job's seed; its cost is what it took then, in seconds.

        Raises:
          ValueError: an architecture that the table does not have.
        """
        known = self._known(job.architecture)
        trial = known[job.seed % len(known)]
        return Evaluation(self._reward(trial), cost=trial.seconds, metrics=trial.metrics)

    def value(self, architecture: Any) -> float:
        """The mean over an architecture's trials: what a search is to find the highest of.

        Args:
          architecture: as JSON values.
        """
        return statistics.fmean(map(self._reward, self._known(architecture)))

    def best_value(self) -> float:
        """The highest `value` of all."""
        return max(self.value(group[0].architecture) for group in self.rows.values())

    def repeats(self) -> list[Sequence[float]]:
        """Rewards of the first trial of each architecture, of the second, and so on, as far as all have one."""
        count = min(map(len, self.rows.values()))
        return [[self._reward(group[index]) for group in self.rows.values()] for index in range(count)]

    def _known(self, architecture: Any) -> tuple[Trial, ...]:
        known = self.rows.get(self.key(architecture))
        if known is None:
            raise ValueError(f"Table: architecture={architecture!r} must be one of the table's; choose its own space")
        return known

    def _reward(self, trial: Trial) -> float:
        if not trial.succeeded:
            return 0.0
        return trial.reward if self.metric == "reward" else trial.metrics[self.metric]
