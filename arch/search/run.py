"""A search: ask, evaluate, tell, a line of `trials.jsonl` a trial; killed at any moment, it goes on as it would have.

With n trials at a time a strategy is asked for proposal i when it has been told of all up to i - n, however fast each
of them was: what it proposes depends on n and the seed, and not on the clock. Results that come early are written at
once, and told when it is their turn.
"""

import concurrent.futures
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from arch.search import trials
from arch.search.executors import Executor, InLine
from arch.search.space import Space
from arch.search.strategy import Proposal, Strategy
from arch.search.trials import Evaluation, Job, Trial

Evaluate = Callable[[Job], Evaluation]

FAILURES_IN_A_ROW = 10  # that end a search: it is no bad luck any more

logger = logging.getLogger(__name__)


def search(
    strategy: Strategy,
    space: Space,
    evaluate: Evaluate,
    *,
    num_trials: int,
    path: Path | None,
    seed: int,
    executor: Executor | None = None,
    num_parallel: int = 1,
    on_trial: Callable[[Trial, int], None] = lambda trial, num_told: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trial]:
    """Runs a search to its end, from the trials that the file has; returns all, in the order of proposals.

    One that FAILURES_IN_A_ROW ended makes those trials again, and one in which all failed, all: what they failed of
    was no property of theirs.

    Args:
      strategy: fresh, whatever the file has: it is asked and told again.
      space: of the strategy.
      evaluate: gives the reward of a job; for another process a function of a module, or a picklable object. It may
        have `prepare()`, which is not timed; for the executor `Together` it has `together(jobs)`, too.
      num_trials: proposals in all.
      path: of `trials.jsonl`; None keeps nothing.
      seed: from which, with the number of a trial, the seed of its evaluation derives.
      executor: where `evaluate` is called; None is in this process.
      num_parallel: trials at a time.
      on_trial: called with each trial that was made, and how many have been told.
      stop: asked before each proposal; after True the trials at work are finished and written, and that is all.

    Raises:
      ValueError: the file is of another search; num_parallel or num_trials below 1.
      RuntimeError: the last FAILURES_IN_A_ROW trials all failed.
    """
    for name, value in {"num_trials": num_trials, "num_parallel": num_parallel}.items():
        if value < 1:
            raise ValueError(f"search: {name}={value} must be at least 1; raise it")
    found = trials.mend(path) if path else {}
    known = before_the_failures(found, num_trials)
    if len(known) < len(found):  # on the disk, too: killed now, it goes on from here
        trials.rewrite(path, known)
    executor, timed = executor or InLine(), _Timed(evaluate)
    loop = _Loop(strategy, executor, path, on_trial)
    try:
        for number in range(num_trials):
            while loop.num_told <= number - num_parallel:
                loop.tell_next()
            if stop():
                break
            proposal = strategy.ask()
            job = Job(
                number, space.to_json(proposal.architecture), _seed(seed, number), proposal.parent, proposal.change
            )
            if number in known:
                loop.keep(proposal, _same(known[number], job, path))
            else:
                loop.await_result(proposal, job, executor.submit(timed, job))
        while loop.has_more():
            loop.tell_next()
    finally:
        executor.close()
    return loop.told


def before_the_failures(known: dict[int, Trial], num_trials: int) -> dict[int, Trial]:
    """The trials before those that ended a search, by number; none where so many were made and all failed."""
    if len(known) >= num_trials and all(trial.error for trial in known.values()):
        return {}
    failed = 0
    for number in itertools.takewhile(known.__contains__, itertools.count()):
        failed = failed + 1 if known[number].error else 0
        if failed == FAILURES_IN_A_ROW:
            return {id_: trial for id_, trial in known.items() if id_ <= number - failed}
    return known


class _Loop:
    """What has been proposed and not been told yet, in its order."""

    def __init__(
        self,
        strategy: Strategy,
        executor: Executor,
        path: Path | None,
        on_trial: Callable[[Trial, int], None],
    ):
        self._strategy, self._executor, self._path, self._on_trial = strategy, executor, path, on_trial
        self._proposals: list[Proposal] = []
        self._trials: dict[int, Trial] = {}
        self._running: dict[concurrent.futures.Future, Job] = {}
        self.told: list[Trial] = []

    @property
    def num_told(self) -> int:
        return len(self.told)

    def has_more(self) -> bool:
        """Whether there are proposals that have not been told."""
        return self.num_told < len(self._proposals)

    def keep(self, proposal: Proposal, trial: Trial) -> None:
        """One whose trial is in the file."""
        self._proposals.append(proposal)
        self._trials[trial.id] = trial

    def await_result(self, proposal: Proposal, job: Job, future: concurrent.futures.Future) -> None:
        """One that is being evaluated."""
        self._proposals.append(proposal)
        self._running[future] = job
        self._collect(timeout=0)

    def tell_next(self) -> None:
        """Waits for the first that has not been told, and tells it."""
        while self.num_told not in self._trials:
            self._collect(timeout=None)
        trial = self._trials.pop(self.num_told)
        self._strategy.tell(self._proposals[trial.id].architecture, trial)
        self.told.append(trial)
        last = self.told[-FAILURES_IN_A_ROW:]
        if len(last) == FAILURES_IN_A_ROW and all(one.error for one in last):
            raise RuntimeError(
                f"search: the last {FAILURES_IN_A_ROW} trials failed; that of trial {trial.id}: {trial.error}"
            )

    def _collect(self, timeout: float | None) -> None:
        """Writes what has ended, whoever's turn it is to be told."""
        for future in sorted(self._executor.wait(self._running, timeout), key=lambda future: self._running[future].id):
            trial = _trial(self._running.pop(future), future)
            if self._path:
                trials.append(self._path, trial)
            self._trials[trial.id] = trial
            self._on_trial(trial, self.num_told)


def _seed(seed: int, number: int) -> int:
    """Below 2^31."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0] >> 1)


@dataclasses.dataclass(frozen=True)
class _Timed:
    """An evaluation with the seconds that it took, after what it prepares once a process: reading data, compiling.

    Attributes:
      evaluate: as of `search`; where it has them, `prepare()` is called first, and `together(jobs)` evaluates several.
    """

    evaluate: Evaluate

    def __call__(self, job: Job) -> tuple[Evaluation, float]:
        start = self._start()
        return _plain(self.evaluate(job)), time.perf_counter() - start

    def together(self, calls: Sequence[tuple[Job]]) -> list[tuple[Evaluation, float]]:
        """Each takes its share of the seconds of all."""
        start = self._start()
        found = list(map(_plain, self.evaluate.together([job for (job,) in calls])))
        seconds = (time.perf_counter() - start) / len(found)
        return [(evaluation, seconds) for evaluation in found]

    def _start(self) -> float:
        getattr(self.evaluate, "prepare", lambda: None)()
        return time.perf_counter()


def _plain(evaluation: Evaluation) -> Evaluation:
    """With numbers of Python, which JSON has, for those of NumPy and JAX; where there is no such, the trial fails."""
    reward, cost = float(evaluation.reward), float(evaluation.cost)
    metrics = {name: value if type(value) is int else float(value) for name, value in evaluation.metrics.items()}
    return Evaluation(reward if math.isfinite(reward) else -math.inf, cost, metrics)


def _trial(job: Job, future: concurrent.futures.Future) -> Trial:
    """Of a job that has ended, or whose worker has died."""
    fields = {"id": job.id, "architecture": job.architecture, "seed": job.seed}
    fields |= {"parent": job.parent, "change": job.change}
    error = future.exception()
    if error is None:
        evaluation, seconds = future.result()
        return Trial(**fields, **dataclasses.asdict(evaluation), seconds=seconds)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    logger.warning("trial %d failed: %s", job.id, reason)
    return Trial(**fields, reward=-math.inf, cost=0.0, seconds=0.0, error=reason)


def _same(trial: Trial, job: Job, path: Path | None) -> Trial:
    if (trial.architecture, trial.parent, trial.seed) != (job.architecture, job.parent, job.seed):
        raise ValueError(
            f"{path}: trial {trial.id} is not what this search proposes; it is of another config, seed or number of "
            "trials at a time: use another folder"
        )
    return trial
