"""How the runs of a sweep are started: `LAUNCHERS` by name."""

import dataclasses
import logging
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from types import FrameType

from arch.training.logbook import read_rows
from arch.training.progress import duration

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 75}  # exit statuses of a run that has saved, and then of the sweep

logger = logging.getLogger("sweep")


@dataclasses.dataclass(frozen=True)
class Job:
    """A point as a launcher sees it.

    Attributes:
      name: of the point.
      folder: of the run.
      command: trains it, or goes on; the program is the first item.
      num_steps: of the whole run.
    """

    name: str
    folder: pathlib.Path
    command: Sequence[str]
    num_steps: int

    def is_finished(self) -> bool:
        """Whether train.py has nothing left to do: the last row is written and so is the last checkpoint."""
        rows = read_rows(self.folder / "metrics.jsonl")
        return (
            bool(rows)
            and rows[-1]["step"] == self.num_steps
            and (self.folder / "checkpoints" / str(self.num_steps)).is_dir()
        )

    def result(self) -> str:
        """The last accuracies, for the log."""
        row = (read_rows(self.folder / "metrics.jsonl") or [{}])[-1]
        return "".join(f", {name} {value:.4f}" for name, value in row.items() if name.endswith("/accuracy"))


def print_commands(jobs: Sequence[Job]) -> int:
    """A line for a shell, of every point that is not finished."""
    for job in jobs:
        if not job.is_finished():
            print(shlex.join(job.command))
    return 0


class LocalRuns:
    """One run after the other; SIGINT and SIGTERM are handed to the run at work, which saves and ends."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._child: subprocess.Popen | None = None
        self._previous = {}

    def __enter__(self) -> "LocalRuns":
        self._previous = {number: signal.signal(number, self._hand_on) for number in STOPPED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        if self._child is not None:
            self._child.send_signal(number)

    def run(self, command: Sequence[str]) -> int:
        """The exit status of the command; that of a stop where one was asked for, before or meanwhile."""
        status = 0
        if self._signal is None:
            # In a process group of its own: of a Ctrl-C on the terminal it hears from here, and once.
            self._child = subprocess.Popen(command, process_group=0)
            if self._signal is not None:
                self._child.send_signal(self._signal)
            status = self._child.wait()
            self._child = None
        if self._signal is not None:
            return STOPPED[self._signal]
        return status


def run_locally(jobs: Sequence[Job]) -> int:
    """Trains what is not finished; returns the exit status of the sweep."""
    left = [job for job in jobs if not job.is_finished()]
    logger.info("%d points, %d of them finished already", len(jobs), len(jobs) - len(left))
    failed, start = [], time.perf_counter()
    with LocalRuns() as runs:
        for number, job in enumerate(left, start=1):
            place = f"[{len(jobs) - len(left) + number}/{len(jobs)}]"
            logger.info("%s %s", place, job.name)
            began = time.perf_counter()
            status = runs.run(job.command)
            if status in STOPPED.values():
                logger.warning("%s stopped; the same command goes on", place)
                return status
            if status:
                failed.append(f"{job.name}, exit status {status}")
            now = time.perf_counter()
            rest = duration((now - start) / number * (len(left) - number))
            outcome = f"failed with exit status {status}" if status else f"finished{job.result()}"
            logger.info("%s %s, in %s; ETA %s", place, outcome, duration(now - began), rest)
    for line in failed:
        logger.error("failed: %s", line)
    logger.info("%d of %d points are finished", len(jobs) - len(failed), len(jobs))
    return 1 if failed else 0


# A launcher takes the jobs, finished ones among them, and returns the exit status of this program.
LAUNCHERS = {"local": run_locally, "print": print_commands}
