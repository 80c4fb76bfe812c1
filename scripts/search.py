"""Searches: `python scripts/search.py --config=configs/search/NAME.py [--workdir=DIR]`.

The folder (default: runs/search-NAME) holds `trials.jsonl`, a line a trial, and the run of each in `trials/NUMBER`. The
same command goes on where it was stopped, and comes to the same trials. At the end `best.py` is the best as a recipe of
train.py, `best_cell.png` a picture of its cells, where those were searched, and `search.png` shows the best so far
against what was spent, beside the searches of --compare.

A search in one network that holds all candidates, as configs/search/darts.py, has `metrics.jsonl`, a row an epoch, and
`checkpoints` instead of trials; at the end `best.py`, `best_cell.png` and `alphas.json`, what it learned.

Exit status: 0 when all is done, 1 when no trial has a reward or the loss of a one-shot search became non-finite, 2 for
a search that cannot be run, 75 after SIGTERM, 130 after Ctrl-C: run it again.
"""

import contextlib
import json
import logging
import os
import pathlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

from arch.training.host import prepare_host

if __name__ in ("__main__", "__mp_main__"):  # here, and in the processes that evaluate
    prepare_host()  # now, before JAX has threads

import jax
import ml_collections
from absl import flags
from absl import logging as absl_logging

from arch.search import trials
from arch.search.run import before_the_failures, search
from arch.search.trials import Trial
from arch.training import workdir
from arch.training.preemption import StopRequest
from arch.training.progress import duration
from configs import cli
from scripts import _search_report, _search_setup
from scripts._search_oneshot import search_oneshot
from scripts._search_training import leave

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the search; default: runs/search-NAME.")
COMPARE = flags.DEFINE_list("compare", [], "Folders of other searches, for the figure.")

NO_REWARD = 1  # exit status

logger = logging.getLogger("search")


def main() -> int:
    """Reads the flags, searches, and writes what it came to."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger().setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.ERROR)  # of Orbax and TFDS, which say much
    config = CONFIG.value
    folder = pathlib.Path(WORKDIR.value or f"runs/search-{cli.config_name()}").absolute()
    if "oneshot" in config:
        if COMPARE.value:
            raise ValueError("--compare is for searches of trials, and this one has none; leave it out")
        return search_oneshot(config, folder)
    if config.evaluator != "one_program" or config.executor in ("processes", "ray"):
        jax.config.update("jax_platforms", "cpu")  # the devices are for the trials
    others = _search_report.read_others(COMPARE.value, folder.name)
    setup = _search_setup.create(config, folder)
    workdir.check(str(folder), config.to_dict(), {})
    _search_setup.check_machine(config, setup, folder)
    with workdir.claim(str(folder), config.to_dict()):
        found = run(config, folder, setup)
    return report(config, folder, found, others)


def run(config: ml_collections.ConfigDict, folder: pathlib.Path, setup: _search_setup.Setup) -> Sequence[Trial]:
    """All trials; says of each what it came to, the best so far, and how long the rest will take."""
    known = before_the_failures(trials.read(folder / "trials.jsonl"), config.num_trials)
    start, made, best = time.monotonic(), 0, trials.best(list(known.values()))
    left = sum(number not in known for number in range(config.num_trials))
    logger.info("%d of %d trials, of a space of %.4g, in %s", left, config.num_trials, setup.space.size, folder)

    def say(trial: Trial, num_told: int) -> None:
        nonlocal made, best
        made += 1
        best = trials.best([one for one in (best, trial) if one])
        eta = duration((time.monotonic() - start) / made * (left - made))
        top = f"{best.reward:.4f} of trial {best.id}" if best else "none yet"
        logger.info("[%d/%d] %.4f %s; best %s; ETA %s", trial.id + 1, config.num_trials, trial.reward,
                    describe(config, trial), top, eta)  # fmt: skip

    with contextlib.ExitStack() as stack:
        if config.evaluator == "train":  # whose trials save where they are stopped
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, leave)
            stop = None
        else:  # here a program that is left in its midst takes the process down: the trials at work come to their end
            stop = stack.enter_context(StopRequest())
        try:
            found = search(
                setup.strategy, setup.space, setup.evaluate, num_trials=config.num_trials, path=folder / "trials.jsonl",
                seed=config.seed, executor=setup.executor, num_parallel=config.num_parallel, on_trial=say,
                stop=lambda: stop is not None and stop.signal is not None,
            )  # fmt: skip
        except RuntimeError as error:
            raise ValueError(str(error)) from error
    if stop is not None and stop.signal is not None:
        leave(stop.signal)
    return found


def describe(config: ml_collections.ConfigDict, trial: Trial) -> str:
    """A trial in few words: its fields; of cells and graphs, which are long, what the network costs."""
    if config.space.name not in ("cells", "darts", "graphs"):
        return json.dumps(trial.architecture)
    if "params" not in trial.metrics:
        return "failed"
    found = [f"{trial.metrics['params']:,} parameters", f"{trial.metrics['macs']:,} MACs"]
    found += [f"{1e3 * trial.metrics['seconds']:.3g} ms"] if "seconds" in trial.metrics else []
    return ", ".join(found)


def report(
    config: ml_collections.ConfigDict,
    folder: pathlib.Path,
    found: Sequence[Trial],
    others: Mapping[str, Mapping[int, Trial]],
) -> int:
    """Writes the best as a recipe, and the figures."""
    own = {folder.name: {trial.id: trial for trial in found}}
    _search_report.plot({**own, **others}, folder / "search.png", _search_report.label(config),
                        _search_report.unit(config), is_timed=config.evaluator != "table")  # fmt: skip
    best = trials.best(list(found))
    if best is None:
        errors = [trial.error for trial in found if trial.error]
        said = f"{len(errors)} failed, the last of {errors[-1]}" if errors else "none was finite or within its limit"
        logs = f"; what they wrote is in {folder / 'trials'}" if (folder / "trials").is_dir() else ""
        cli.fail(f"no trial has a reward: {said}{logs}")
        return NO_REWARD
    path = _search_report.write_best(config, folder, best, len(found))
    logger.info("best: trial %d, %s %.4f; python train.py --config=%s", best.id, config.metric, best.reward,
                os.path.relpath(path))  # fmt: skip
    return 0


if __name__ == "__main__":
    cli.run(main)
