"""What a table of all cells says of strategies: how soon each finds the best, over many seeds; nothing is trained.

    CONFIG=configs/search/nas_bench_201.py
    python scripts/search.py --config=$CONFIG:strategy=exhaustive --workdir=runs/cells
    python scripts/search_table.py runs/cells/trials.jsonl --compact=docs/nas_bench_201.jsonl
    python scripts/search_table.py docs/nas_bench_201.jsonl --out=docs/search_table

A search is rewarded with the validation accuracy of one training of the cell's network, and reports the best that it
has seen. What that is worth is the mean test accuracy of all trainings of this network; the regret is how far it lies
below the best of these means. The p of a strategy is one-sided, by Mann and Whitney, that its regrets are smaller
than those of random search; the effect is the share of pairs of seeds in which they are. Written: OUT.md and OUT.png.
"""

import dataclasses
import functools
import itertools
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

import numpy as np
from scipy import stats

from arch.efficiency.ranks import rank_correlation
from arch.search import run, trials
from arch.search.spaces.nas_bench_201 import NASBench201Space, canonical
from arch.search.strategies.controller import ReinforcementLearning
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.random_search import RandomSearch
from arch.search.strategy import Strategy
from arch.search.tabular import Table
from configs.search.nas_bench_201 import STRATEGIES
from scripts import _results

SEARCHED, JUDGED = "val/accuracy", "test/accuracy"
BUDGETS = (50, 100, 200)
CONTROL = "random search"
BEST_SHARE = 0.2  # of the networks, among which seeds are compared apart: a search ends there
KEPT = ("params", "macs", SEARCHED, JUDGED)

Make = Callable[..., Strategy]
METHODS: Mapping[str, Make] = {
    CONTROL: RandomSearch,
    "random search, no cell twice": functools.partial(RandomSearch, distinct=True),
    "aging evolution": functools.partial(Evolution, **STRATEGIES["evolution"]),
    "controller, PPO": functools.partial(ReinforcementLearning, **STRATEGIES["controller"]),
    "controller, REINFORCE": functools.partial(ReinforcementLearning, method="reinforce", **STRATEGIES["controller"]),
}


class Truth(NamedTuple):
    """What cells are worth.

    Attributes:
        space: of all cells.
        table: what a search is told; its rows are the networks, by the canonical text of their cells.
        value: mean test accuracy, by the same text.
    """

    space: NASBench201Space
    table: Table
    value: Mapping[str, float]

    @property
    def best(self) -> float:
        """The highest value."""
        return max(self.value.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1: one line on stderr says why not; 2: wrong flags; 130: interrupted."""
    parser = _results.LineParser("search_table", __doc__)
    parser.add_argument("trials", type=Path, help="the trials.jsonl of a search that tried all cells; or compacted")
    parser.add_argument("--compact", type=Path, help="write the table here, without what can be told from the rest")
    parser.add_argument("--seeds", type=_results.positive, default=50, help="searches by each strategy; 50")
    parser.add_argument("--out", type=Path, help="the beginning of the names of the files; default: that of TRIALS")
    args = parser.parse_args(argv)
    try:
        if args.compact:
            compact(args.trials, args.compact)
            print(args.compact)
            return 0
        truth = truth_of(args.trials)
        found = {name: regrets(truth, make, args.seeds, name) for name, make in METHODS.items()}
        out = args.out or args.trials.with_suffix("")
        page, figure = Path(f"{out}.md"), Path(f"{out}.png")
        page.write_text(f"{describe(truth)}\n\n{table(found)}")
        draw(found, figure)
    except (ValueError, OSError) as error:
        return _results.complain("search_table", error)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130
    print(f"{page}\n{figure}")
    return 0


def compact(source: Path, target: Path) -> None:
    """Writes the trials anew: the rewards and costs that are kept, rounded, seconds to a hundredth.

    Raises:
        ValueError: no trials.
    """
    found = Table.read(source, SEARCHED)  # checks them
    target.unlink(missing_ok=True)
    for trial in sorted((trial for group in found.rows.values() for trial in group), key=lambda trial: trial.id):
        metrics = {name: round(value, 5) for name, value in trial.metrics.items() if name in KEPT}
        fields = {"metrics": metrics, "seconds": round(trial.seconds, 2), "reward": round(trial.reward, 5)}
        trials.append(target, dataclasses.replace(trial, **fields))


def truth_of(path: Path) -> Truth:
    """Reads a table.

    Raises:
        ValueError: no trials, a trial without an accuracy, or a cell that is missing.
    """
    searched, judged = (Table.read(path, metric, canonical) for metric in (SEARCHED, JUDGED))
    cells = [group[0].architecture for group in judged.rows.values()]
    operations = {name for cell in cells for name in NASBench201Space().operations if f"|{name}~" in cell}
    space = NASBench201Space(sorted(operations))
    searched.check(space)
    return Truth(space, searched, {canonical(cell): judged.value(cell) for cell in cells})


def regrets(truth: Truth, make: Make, num_seeds: int, name: str) -> np.ndarray:
    """[seeds, evaluations]: of the best that has been seen, after each evaluation, in points of accuracy."""
    found = []
    for seed in range(num_seeds):
        strategy = make(truth.space, seed=seed)
        told = run.search(strategy, truth.space, truth.table, num_trials=max(BUDGETS), path=None, seed=seed)
        best, curve = told[0], []
        for trial in told:
            best = max(best, trial, key=lambda one: one.reward)  # of equal ones the first
            curve.append(100 * (truth.best - truth.value[canonical(best.architecture)]))
        found.append(curve)
        print(f"\r{name}: {seed + 1} of {num_seeds} seeds", end="" if seed + 1 < num_seeds else "\n", flush=True)
    return np.array(found)


def describe(truth: Truth) -> str:
    """The table in words."""
    rows, space = truth.table.rows, truth.space
    every = [trial for group in rows.values() for trial in group]
    # What has failed has no costs.
    params = [trial.metrics["params"] for trial in every if "params" in trial.metrics] or [0]
    seconds = [trial.seconds for trial in every]
    codes = itertools.product(*map(range, space.choices))
    dead = sum(not canonical(space.to_json(space.decode(code))) for code in codes)
    return (
        f"{space.size:,} cells of {', '.join(space.operations)} make {len(rows)} networks that differ in what they "
        f"compute; {dead} cells do not reach their output. Each network was trained {len(every) // len(rows)} times, "
        f"with {min(params):,} to {max(params):,} parameters; a training took {statistics.median(seconds):.1f} s, the "
        f"median, and all of them {sum(seconds) / 3600:.1f} hours. Mean test accuracy of the best network "
        f"{100 * truth.best:.2f}%, of the median one {100 * statistics.median(truth.value.values()):.2f}%. "
        f"{agreement(truth)}"
    )


def agreement(truth: Truth) -> str:
    """The rank correlation between the first two trainings of the networks, by what a search sees."""
    repeats = truth.table.repeats()
    if len(repeats) < 2:
        return "Every network was trained once."
    pairs = np.array(repeats[:2])
    # Chosen by one seed alone: among those whose mean is high, a seed that is below the mean has one above.
    best = pairs[0] >= np.quantile(pairs[0], 1 - BEST_SHARE)
    return (
        f"Spearman's rank correlation of validation accuracy between two seeds is {rank_correlation(*pairs):.3f}, and "
        f"{rank_correlation(*pairs[:, best]):.3f} over the fifth that the first seed has best."
    )


def table(found: Mapping[str, np.ndarray]) -> str:
    """Markdown: mean and standard deviation (n - 1) of the regrets of each strategy, with p and effect."""
    rows = [["strategy", *(f"regret after {budget}, points; p; effect" for budget in BUDGETS)]]
    rows.append(["---"] * len(rows[0]))
    for name, curves in found.items():
        cells = []
        for budget in BUDGETS:
            own, control = curves[:, budget - 1], found[CONTROL][:, budget - 1]
            spread = f"{own.mean():.2f} ± {own.std(ddof=1):.2f}"
            cells.append(spread if name == CONTROL else spread + _against(own, control))
        rows.append([name, *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _against(own: np.ndarray, control: np.ndarray) -> str:
    """`; 0.012; 0.63`."""
    test = stats.mannwhitneyu(control, own, alternative="greater")
    return f"; {test.pvalue:.2g}; {test.statistic / (len(own) * len(control)):.2f}"


def draw(found: Mapping[str, np.ndarray], path: Path) -> None:
    """The mean regret of each strategy after every evaluation, with a band of its standard error."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, curves) in enumerate(found.items()):
        mean, error = curves.mean(0), curves.std(0, ddof=1) / np.sqrt(len(curves))
        evaluations: Any = np.arange(1, curves.shape[1] + 1)
        axes.plot(evaluations, mean, color=f"C{number}", label=name)
        axes.fill_between(evaluations, mean - error, mean + error, color=f"C{number}", alpha=0.2, linewidth=0)
    last = max(curves[:, 9].mean() for curves in found.values())
    axes.set(xlabel="evaluations", ylabel="regret, points of test accuracy", ylim=(0, 1.1 * last or 1.0))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
