"""How the runs of a sweep are started: on this machine here, on clusters in _sweep_clusters.py."""

import collections
import contextlib
import dataclasses
import logging
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import NamedTuple

from arch.training.host import share_cores, share_devices
from arch.training.progress import duration
from scripts._sweep_job import Job

STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 75}  # exit statuses of a run that has saved, and then of the sweep

logger = logging.getLogger("sweep")


def print_commands(jobs: Sequence[Job]) -> int:
    """A line for a shell, of every point that is not finished."""
    for job in jobs:
        if not job.is_finished():
            print(shlex.join(job.command))
    return 0


class Share(NamedTuple):
    """What a run has of the machine: cores, and what its environment says of devices."""

    cores: frozenset[int]
    environment: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Running:
    """A job at work.

    Attributes:
      job: which.
      place: "[3/7]", its number among all.
      child: its process.
      share: of the machine, that it runs on.
      began: by time.perf_counter.
    """

    job: Job
    place: str
    child: subprocess.Popen
    share: Share
    began: float


class LocalRuns:
    """Runs on this machine, each on cores of its own; SIGINT and SIGTERM are handed to them: they save and end.

    Args:
      num_parallel: runs at a time.
      device_variable: that gives each a device of its own, see `share_devices`.
    """

    def __init__(self, num_parallel: int, device_variable: str = "") -> None:
        self.running: list[Running] = []
        self.signal: signal.Signals | None = None
        shares = zip(share_cores(num_parallel), share_devices(num_parallel, device_variable), strict=True)
        self._free = [Share(*share) for share in shares]
        self._previous = {}

    def __enter__(self) -> "LocalRuns":
        self._previous = {number: signal.signal(number, self._hand_on) for number in STOPPED}
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGTERM)  # none is left unless something went wrong here
        for run in self.running:
            run.child.wait()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self.stop(self.signal)

    def stop(self, number: signal.Signals) -> None:
        """Sends a signal to all runs."""
        for run in self.running:
            run.child.send_signal(number)

    def has_room(self) -> bool:
        """Whether one more may start."""
        return bool(self._free) and self.signal is None

    def start(self, job: Job, place: str) -> None:
        """Starts a job where there is room."""
        share = self._free.pop()
        # In a process group of its own: of a Ctrl-C on the terminal it hears from here, and once.
        with on_cores(share.cores):
            child = subprocess.Popen(job.command, process_group=0, env=os.environ | share.environment)
        self.running.append(Running(job, place, child, share, time.perf_counter()))
        if self.signal is not None:
            child.send_signal(self.signal)

    def wait(self) -> tuple[Running, int]:
        """The next run that ends, and its exit status."""
        while True:
            for run in self.running:
                if (status := run.child.poll()) is not None:
                    self.running.remove(run)
                    self._free.append(run.share)
                    return run, status
            time.sleep(0.05)


@contextlib.contextmanager
def on_cores(cores: frozenset[int]) -> Iterator[None]:
    """What is started within runs on these cores."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run_locally(jobs: Sequence[Job], num_parallel: int = 1, device_variable: str = "") -> int:
    """Trains what is not finished, `num_parallel` at a time; returns the exit status of the sweep."""
    for job in jobs:
        job.keep_result()  # of what ended when nobody was there
    left = [job for job in jobs if not job.is_finished()]
    logger.info("%d points, %d of them finished already", len(jobs), len(jobs) - len(left))
    waiting = collections.deque(
        (f"[{number}/{len(jobs)}]", job) for number, job in enumerate(left, start=len(jobs) - len(left) + 1)
    )
    failed, stopped, num_ended, start = [], 0, 0, time.perf_counter()
    with LocalRuns(num_parallel, device_variable) as runs:
        while True:
            while waiting and runs.has_room() and not stopped:
                place, job = waiting.popleft()
                logger.info("%s %s", place, job.name)
                runs.start(job, place)
            if not runs.running:
                break
            run, status = runs.wait()
            if runs.signal is not None and status == -runs.signal:  # it came before the run could save anything
                status = STOPPED[runs.signal]
            if status in STOPPED.values():
                logger.warning("%s stopped; the same command goes on", run.place)
                if not stopped and runs.signal is None:
                    runs.stop(signal.SIGTERM)  # who stops one means all
                stopped = status
                continue
            num_ended += 1
            run.job.keep_result()
            if status or not run.job.has_ended():
                failed.append(f"{run.job.name}, exit status {status}" + ("" if status else ", but it has not ended"))
            now = time.perf_counter()
            rest = duration((now - start) / num_ended * (len(left) - num_ended))
            outcome = f"failed with exit status {status}" if status else f"finished{run.job.result()}"
            logger.info("%s %s, in %s; ETA %s", run.place, outcome, duration(now - run.began), rest)
    if runs.signal is not None:
        return STOPPED[runs.signal]
    if stopped:
        return stopped
    for line in failed:
        logger.error("failed: %s", line)
    logger.info("%d of %d points are finished", len(jobs) - len(failed), len(jobs))
    return 1 if failed else 0
