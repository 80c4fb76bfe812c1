"""How scripts/search.py evaluates a trial that another search has made already."""

import dataclasses
from pathlib import Path

from arch.search import trials
from arch.search.tabular import Table
from arch.search.trials import Evaluation, Job
from scripts._search_cost import Reward


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Looks a trial up.

    Attributes:
      table: of the metric.
      reward: how the metric is weighed against what the network costs.
    """

    table: Table
    reward: Reward

    def __call__(self, job: Job) -> Evaluation:
        """The cost is what training took then, in seconds; nothing where the network is beyond a hard limit."""
        found = self.table(job)
        if not self.reward.allows(found.metrics):
            return Evaluation(self.reward.weigh(0.0, found.metrics), cost=0.0, metrics=found.metrics)
        return dataclasses.replace(found, reward=self.reward.weigh(found.reward, found.metrics))

    def check_told(self, path: Path) -> None:
        """That the trials of a search that goes on were looked up in this table.

        Args:
          path: of their `trials.jsonl`, which need not exist.

        Raises:
          ValueError: one was looked up in another.
        """
        for trial in (trial for trial in trials.read(path).values() if not trial.error):
            reward = self(Job(trial.id, trial.architecture, trial.seed)).reward
            if reward != trial.reward:
                raise ValueError(
                    f"config.table gives trial {trial.id} a reward of {reward}, and {path} has {trial.reward} of "
                    "another table; name that one, or use another --workdir"
                )
