"""A point of a sweep as that which starts it sees it: its command, and whether it has ended."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from arch.training.logbook import read_rows
from scripts._sweep_results import Results


@dataclasses.dataclass(frozen=True)
class Job:
    """A point as a launcher sees it.

    Attributes:
      name: of the point.
      folder: of the run.
      command: trains it, or goes on; the program is the first item.
      num_steps: of the whole run.
      identity: of its config.
      overrides: of the point.
      results: of the sweep; those of no file keep nothing.
    """

    name: str
    folder: pathlib.Path
    command: Sequence[str]
    num_steps: int
    identity: str = ""
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    results: Results = dataclasses.field(default_factory=lambda: Results(None))

    def is_finished(self) -> bool:
        """Whether it is among the results, or train.py has nothing left to do."""
        return self.results.has(self.identity) or self.has_ended()

    def has_ended(self) -> bool:
        """Whether train.py has nothing left to do: the last row is written and so is the last checkpoint."""
        rows = read_rows(self.folder / "metrics.jsonl")
        return (
            bool(rows)
            and rows[-1]["step"] == self.num_steps
            and (self.folder / "checkpoints" / str(self.num_steps)).is_dir()
        )

    def keep_result(self) -> None:
        """Adds what the run came to to the results, if it has ended."""
        if self.has_ended():
            self.results.add(self.name, self.identity, self.num_steps, self.overrides, self.folder)

    def result(self) -> str:
        """The last accuracies, for the log."""
        row = (read_rows(self.folder / "metrics.jsonl") or [{}])[-1]
        return "".join(f", {name} {value:.4f}" for name, value in row.items() if name.endswith("/accuracy"))
