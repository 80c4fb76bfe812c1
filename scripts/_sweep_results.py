"""What is left of the runs of a sweep when their folders are gone: one line a finished run, in one small file."""

import fcntl
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from arch.training import workdir
from arch.training.logbook import read_rows


class Result(NamedTuple):
    """A finished run.

    Attributes:
      name: of the point.
      identity: of its config, from `workdir.identity`.
      num_steps: that it took.
      overrides: of the point.
      rows: of metrics.jsonl, those with evaluations, each with the training metrics that were logged last.
    """

    name: str
    identity: str
    num_steps: int
    overrides: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]


def read(path: pathlib.Path) -> list[Result]:
    """The results of a file, of each point the last; none where there is no file.

    Raises:
      ValueError: a file of other things.
    """
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            result = Result(**json.loads(line))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path} is no file of --results of scripts/sweep.py; give another one") from error
        found[result.name] = result
    return list(found.values())


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation (n - 1) where there are several; "-" of none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.2f}"


def evaluations(rows: Iterable[Mapping[str, float]]) -> list[dict[str, float]]:
    """The rows with evaluations, each with the training metrics of its own step or else those logged last before it."""
    found, training = [], {}
    for row in rows:
        training |= {name: value for name, value in row.items() if name.startswith("train/")}
        if any(name.startswith(("val/", "test/")) for name in row):
            found.append({**training, **row})
    return found


class Results:
    """The file that a sweep writes to and goes on from.

    Args:
      path: of the file; None keeps nothing.
    """

    def __init__(self, path: str | None):
        self._path = pathlib.Path(path) if path else None
        self._known = self._read()  # by name

    def _read(self) -> dict[str, Result]:
        return {result.name: result for result in read(self._path)} if self._path else {}

    def has(self, identity: str) -> bool:
        """Whether a run of this config is finished, under whatever name."""
        return any(result.identity == identity for result in self._known.values())

    def add(self, name: str, identity: str, num_steps: int, overrides: Mapping[str, Any], folder: pathlib.Path) -> None:
        """Keeps the evaluations of a run that has finished in its folder; a run that is there already is left alone."""
        if self._path is None or self.has(identity):
            return
        rows = evaluations(read_rows(folder / "metrics.jsonl"))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{self._path}.lock", "w") as lock:  # another sweep may write here too
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write(Result(name, identity, num_steps, dict(overrides), rows))

    def _write(self, new: Result) -> None:
        self._known = {**self._read(), new.name: new}
        lines = (json.dumps(result._asdict(), sort_keys=True) for result in self._known.values())
        workdir.write_atomically(self._path, "".join(f"{line}\n" for line in lines))


def telling_fields(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that tell the points apart, in the order in which the points name them.

    A field is left out where those before it say it already: the learning rate, where it follows from the batch.
    """
    telling: list[str] = []
    found = 1
    for field in dict.fromkeys(field for point in points for field in point):
        keys = {tuple(repr(point[f]) if f in point else None for f in (*telling, field)) for point in points}
        if len(keys) > found:
            telling.append(field)
            found = len(keys)
    return telling
