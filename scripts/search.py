"""Searches: `python scripts/search.py --config=configs/search/NAME.py [--workdir=DIR]`.

The folder (default: runs/search-NAME) holds `trials.jsonl`, a line a trial, and the run of each in `trials/NUMBER`. The
same command goes on where it was stopped, and comes to the same trials. At the end `best.py` is the best as a recipe of
train.py, and `search.png` shows the best so far against what was spent, beside the searches of --compare.

A search in one network that holds all candidates, as configs/search/darts.py, has `metrics.jsonl`, a row an epoch, and
`checkpoints` instead of trials; at the end `best.py`, and what it learned of the architecture in `alphas.json`.

Exit status: 0 when all is done, 1 when the loss of a one-shot search became non-finite, 2 for a search that cannot be
run, 75 after SIGTERM, 130 after Ctrl-C: run it again.
"""

import json
import logging
import math
import os
import pathlib
import pprint
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    prepare_host()  # now, before JAX has threads

import jax
import ml_collections
from absl import flags

from arch.errors import unknown_name
from arch.search import executors, trials
from arch.search.run import search
from arch.search.spaces.fields import FieldSpace
from arch.search.strategies.controller import ReinforcementLearning
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.random_search import RandomSearch
from arch.search.trials import Trial
from arch.training import workdir
from arch.training.progress import duration
from configs import cli
from scripts._search_training import Training, leave

CONFIG = cli.define_config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the search; default: runs/search-NAME.")
COMPARE = flags.DEFINE_list("compare", [], "Folders of other searches, for the figure.")

STRATEGIES = {"evolution": Evolution, "random": RandomSearch, "controller": ReinforcementLearning}
EXECUTORS = {
    "inline": lambda num_parallel: executors.InLine(),
    "processes": executors.Processes,
    "ray": lambda num_parallel: executors.Ray(),
}

logger = logging.getLogger("search")


def main() -> int:
    """Reads the flags, searches, and writes what it came to."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logger.setLevel(logging.INFO)
    config = CONFIG.value
    folder = pathlib.Path(WORKDIR.value or f"runs/search-{cli.config_name()}").absolute()
    if "oneshot" in config:
        from scripts._search_oneshot import search_oneshot  # it reads data, which other searches leave to train.py

        return search_oneshot(config, folder)
    jax.config.update("jax_platforms", "cpu")  # the devices are for the trials
    space, strategy, executor = create(config)
    workdir.check(str(folder), config.to_dict(), {})
    with workdir.claim(str(folder), config.to_dict()):
        found = run(config, folder, space, strategy, executor)
    return report(config, folder, found)


def create(config: ml_collections.ConfigDict) -> tuple[FieldSpace, Any, executors.Executor]:
    """Space, strategy and executor of a config.

    Raises:
      ValueError: an unknown name, a field that does not exist, a value of a wrong type.
    """
    for name, value, known in (
        ("strategy.name", config.strategy.name, STRATEGIES),
        ("executor", config.executor, EXECUTORS),
    ):
        if value not in known:
            raise unknown_name(f"config.{name}", value, known)
    space = FieldSpace(config.space.to_dict())
    recipe = cli.override(cli.load_recipe(config.recipe), config.overrides.to_dict(), "search: config.overrides")
    for name, values in config.space.items():
        for value in values:
            cli.override(recipe, {name: value}, "search: config.space")
    try:
        strategy = STRATEGIES[config.strategy.name](space, seed=config.seed, **config.strategy.fields)
    except TypeError as error:
        raise ValueError(f"config.strategy.fields: {error}; see {STRATEGIES[config.strategy.name].__name__}") from error
    return space, strategy, EXECUTORS[config.executor](config.num_parallel)


def run(
    config: ml_collections.ConfigDict, folder: pathlib.Path, space: FieldSpace, strategy: Any, executor: Any
) -> Sequence[Trial]:
    """All trials; says of each what it came to, the best so far, and how long the rest will take."""
    known = trials.read(folder / "trials.jsonl")
    start, made, best = time.monotonic(), 0, trials.best(list(known.values()))
    left = config.num_trials - len(known)
    logger.info("%d of %d trials, of a space of %d, in %s", left, config.num_trials, space.size, folder)

    def say(trial: Trial, num_told: int) -> None:
        nonlocal made, best
        made += 1
        best = trials.best([one for one in (best, trial) if one])
        eta = duration((time.monotonic() - start) / made * (left - made))
        top = f"{best.reward:.4f} of trial {best.id}" if best else "none yet"
        logger.info("[%d/%d] %.4f %s; best %s; ETA %s", trial.id + 1, config.num_trials, trial.reward,
                    json.dumps(trial.architecture), top, eta)  # fmt: skip

    evaluate = Training(config.recipe, config.overrides.to_dict(), config.metric, str(folder / "trials"))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    try:
        return search(
            strategy, space, evaluate, num_trials=config.num_trials, path=folder / "trials.jsonl", seed=config.seed,
            executor=executor, num_parallel=config.num_parallel, on_trial=say,
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(str(error)) from error


BEST = '''"""Trial {id} of a search: {metric} {reward:.4f}, the highest of {count}. Written by scripts/search.py."""

from configs import cli
from scripts._search_training import Training, leave

OVERRIDES = {overrides}


def get_config():
    return cli.override(cli.load_recipe("{recipe}"), OVERRIDES, "best.py")
'''


def report(config: ml_collections.ConfigDict, folder: pathlib.Path, found: Sequence[Trial]) -> int:
    """Writes the best as a recipe, and the figure."""
    plot({path.name: trials.read(path / "trials.jsonl") for path in [folder, *map(pathlib.Path, COMPARE.value)]},
         folder / "search.png", config.metric)  # fmt: skip
    best = trials.best(list(found))
    if best is None:
        logger.warning("no trial has a reward; their logs are in %s", folder / "trials")
        return 0
    overrides = pprint.pformat({**config.overrides.to_dict(), **best.architecture}, width=100, sort_dicts=False)
    values = {"id": best.id, "metric": config.metric, "reward": best.reward, "count": len(found)}
    text = BEST.format(**values, overrides=overrides, recipe=config.recipe)
    workdir.write_atomically(folder / "best.py", text)
    logger.info("best: trial %d, %s %.4f; python train.py --config=%s", best.id, config.metric, best.reward,
                os.path.relpath(folder / "best.py"))  # fmt: skip
    return 0


def plot(searches: Mapping[str, Mapping[int, Trial]], path: pathlib.Path, metric: str) -> None:
    """The best so far of each search against the cost of its trials, added up in the order of proposals."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, found in searches.items():
        spent, best, points = 0.0, -math.inf, []
        for _, trial in sorted(found.items()):
            spent, best = spent + trial.cost, max(best, trial.reward)
            points.append((spent, best))
        if not points:
            continue
        costs, bests = zip(*points, strict=True)
        (line,) = axes.step(costs, bests, where="post", label=name)
        rewards = [trial.reward for _, trial in sorted(found.items())]
        axes.plot(costs, rewards, ".", color=line.get_color(), alpha=0.4)
    axes.set_xlabel("training examples, of all trials")
    axes.set_ylabel(f"{metric}, best so far")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    cli.run(main)
