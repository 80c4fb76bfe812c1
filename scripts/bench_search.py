"""Times the evaluation of 16 candidates, 8 cells of NAS-Bench-201 with 2 seeds: by one program, or by one each.

    python scripts/bench_search.py --json=docs/search_pairs_cpu.jsonl
    python scripts/bench_search.py --arms one alone --rounds=1

Arms, each in a process of its own, in turn: `one`, all by one program, one candidate after the other; `vmap`, all of
them together; `alone`, a program for each candidate, compiled anew; `train`, train.py for each. Compilation counts, and
so do batches and both evaluations; of `train`, the start of the process and reading the data as well, which the others
have once, before they are timed. The settings are those of configs/search/nas_bench_201.py.
"""

import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.training.host import prepare_host

if __name__ == "__main__":
    prepare_host()  # now, before JAX has threads

import numpy as np

from arch.search.spaces.nas_bench_201 import CONVOLUTIONS, NASBench201Space
from arch.search.trials import Job
from configs.search import nas_bench_201
from scripts import _devices, _results, _timing
from scripts._child import last_line
from scripts._search_cost import configure
from scripts._search_one_program import Candidates
from scripts._search_training import Training

SEEDS = (0, 1)
SPACE = NASBench201Space(CONVOLUTIONS)
# Programs that were compiled once before must not be read from a disk.
NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
ENVIRONMENT = "import json; from scripts import _timing; print(json.dumps(_timing.environment()))"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1: one line on stderr says why not; 2: wrong flags; 130: interrupted, what is done is kept."""
    parser = _results.LineParser("bench_search", __doc__)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--rounds", type=_results.positive, default=3, help="in each of which every arm is timed")
    parser.add_argument("--json", help="file that keeps what is measured")
    parser.add_argument("--recipe", default="", help="arguments of the search's config, such as smoke")
    parser.add_argument("--cells", type=_results.positive, default=8, help="how many, each with two seeds; 8")
    parser.add_argument("--arm", choices=ARMS, help="time this one, here, and print it as JSON")
    args = parser.parse_args(argv)
    try:
        if args.arm:
            config = nas_bench_201.get_config(args.recipe or None)
            seconds, accuracies = ARMS[args.arm](config, candidates(args.cells))
            print(json.dumps({"seconds": seconds, "accuracies": accuracies}))
            return 0
        # Nothing is computed here: a TPU is one process's, and each arm is one.
        _devices.promise(_devices.find())
        said = json.loads(last_line([sys.executable, "-c", ENVIRONMENT], "environment"))
        header = {"record": "search_run", **said, "recipe": args.recipe, "cells": args.cells}
        log = _results.Log(args.json, header, key=("arm", "round"))
        if warning := _timing.warning(said["platform"]):
            print(warning, flush=True)
        for number, arm in itertools.product(range(args.rounds), args.arms):
            if (arm, number) not in log.done:
                part = {"record": "arm", "arm": arm, "round": number, **_in_a_process(arm, args.recipe, args.cells)}
                log.append(part)
                log.done[arm, number] = part
            print(f"[{number + 1}/{args.rounds}] {arm}: {log.done[arm, number]['seconds']:.1f} s", flush=True)
        print(summary(list(log.done.values())))
    except (ValueError, OSError, RuntimeError) as error:
        return _results.complain("bench_search", error)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    return 0


def candidates(num_cells: int) -> list[tuple[str, int]]:
    """(cell, seed) of all that is evaluated."""
    rng = np.random.default_rng(0)
    cells = [SPACE.to_json(SPACE.sample(rng)) for _ in range(num_cells)]
    return list(itertools.product(cells, SEEDS))


def _in_a_process(arm: str, recipe: str, num_cells: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.bench_search", f"--arm={arm}", f"--cells={num_cells}"]
    return json.loads(last_line([*command, f"--recipe={recipe}"], arm, os.environ | NO_CACHE))


Pairs = Sequence[tuple[str, int]]


def _together(config: Any, pairs: Pairs, *, grouping: str) -> tuple[float, list[float]]:
    """By one program."""
    found = _make(config, grouping)
    codes = np.asarray([SPACE.from_json(cell).values for cell, _ in pairs])
    start = time.perf_counter()
    accuracies = [metrics[config.metric] for metrics in found.evaluate(codes, [seed for _, seed in pairs])]
    return time.perf_counter() - start, accuracies


def _alone(config: Any, pairs: Pairs) -> tuple[float, list[float]]:
    """By a program each."""
    found, accuracies = _make(config, "one"), []
    start = time.perf_counter()
    for cell, seed in pairs:
        (metrics,) = found.alone(cell).evaluate(np.asarray([SPACE.from_json(cell).values]), [seed])
        accuracies.append(metrics[config.metric])
    return time.perf_counter() - start, accuracies


def _make(config: Any, grouping: str) -> Candidates:
    return Candidates(configure(config.recipe, config.overrides.to_dict()), CONVOLUTIONS, grouping)


def _train(config: Any, pairs: Pairs) -> tuple[float, list[float]]:
    """By train.py each, as a search with evaluator=train."""
    overrides = {**config.overrides.to_dict(), "compilation_cache_dir": ""}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        evaluate = Training(config.recipe, overrides, config.metric, folder, space="nas_bench_201")
        jobs = [Job(number, cell, seed) for number, (cell, seed) in enumerate(pairs)]
        accuracies = [evaluate(job).reward for job in jobs]
    return time.perf_counter() - start, accuracies


# Seconds, and what the candidates came to.
ARMS: Mapping[str, Callable[[Any, Pairs], tuple[float, list[float]]]] = {
    "one": functools.partial(_together, grouping="one"),
    "vmap": functools.partial(_together, grouping="vmap"),
    "alone": _alone,
    "train": _train,
}


def summary(parts: Sequence[Mapping[str, Any]]) -> str:
    """The median of each arm, and how many times as long as the fastest it takes."""
    seconds: dict[str, list[float]] = {}
    for part in parts:
        seconds.setdefault(part["arm"], []).append(part["seconds"])
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    fastest = min(medians, key=medians.get)
    return "\n".join(
        f"{arm}: {median:.1f} s ({min(seconds[arm]):.1f} to {max(seconds[arm]):.1f}), {median / medians[fastest]:.2f} "
        f"times as long as {fastest}"
        for arm, median in medians.items()
    )


if __name__ == "__main__":
    sys.exit(main())
