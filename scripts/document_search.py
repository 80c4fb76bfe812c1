"""Writes docs/search_runs.md and a picture: what searches came to, and what they found trained anew with three seeds.

    python scripts/document_search.py
    python scripts/document_search.py --searches=runs/mine --results=runs/finals.jsonl --out=runs/searches

It reads the results of configs/sweeps/search_finals.py, and of each of its searches NAME.jsonl: the trials, or the
epochs of a one-shot search. Accuracies are mean and standard deviation (n - 1) over seeds; the time of a search is the
sum over its trials, without compilation where they share a program, or over its epochs.
"""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

from configs.sweeps import search_finals
from scripts import _results
from scripts._search_cost import Reward, known
from scripts._sweep_results import Result, read, spread

JUDGED, CHOSEN_BY = "test/accuracy", "val/accuracy"
TITLES = {
    "shufflenet_v2": "ShuffleNet v2 0.5x, not searched",
    "random": "random search",
    "evolution": "aging evolution",
    "controller": "controller, PPO",
    "darts": "DARTS, second order",
    "darts_random": "random cells of DARTS's space",
    "morphisms": "hill climbing by morphisms",
    "morphisms_random": "random morphisms",
}


class Search(NamedTuple):
    """How long a search was: trials (of a one-shot search epochs), and seconds that they took."""

    count: int
    seconds: float


class Final(NamedTuple):
    """A network that was trained anew: its runs, what it costs, and the search that found it, if any."""

    runs: Sequence[Result]
    params: int
    macs: int
    search: Search | None

    def accuracies(self, metric: str) -> list[float]:
        """After the last epoch, in %, of each run."""
        return [100 * run.rows[-1][metric] for run in self.runs]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 and one line on stderr."""
    parser = _results.LineParser("document_search", __doc__)
    parser.add_argument("--searches", type=Path, default=ROOT / "docs" / "search", help="folder of the NAME.jsonl")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "search_finals.jsonl", help="of the sweep")
    parser.add_argument("--out", default=str(ROOT / "docs" / "search_runs"), help="the beginning of both names")
    args = parser.parse_args(argv)
    try:
        finals = finals_of(args.results, args.searches)
        table, picture = Path(f"{args.out}.md"), Path(f"{args.out}.png")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(describe(finals))
        draw(finals, picture)
    except (ValueError, OSError) as error:
        return _results.complain("document_search", error)
    print(f"{table}\n{picture}")
    return 0


def finals_of(results: Path, searches: Path) -> Mapping[str, Final]:
    """{name: its network}, of those that were trained.

    Raises:
        ValueError: no run of the sweep, or one that did not end with its evaluation.
    """
    found = {}
    runs = read(results)
    for name in (search_finals.BASELINE, *search_finals.FOUND):
        recipe = search_finals.recipe(name)
        own = [run for run in runs if run.overrides.get("config") == recipe]
        for run in own:
            missing = {JUDGED, CHOSEN_BY} - (run.rows[-1].keys() if run.rows else set())
            if missing:
                missing = " and ".join(sorted(missing))
                raise ValueError(f"{results}: the last row of a run of {recipe} has no {missing}; run the sweep again")
        if own:
            fields = {field: value for field, value in own[0].overrides.items() if field != "config"}
            costs = known(recipe, fields, Reward())[1]
            found[name] = Final(own, costs["params"], costs["macs"], search_of(searches / f"{name}.jsonl"))
    if not found:
        raise ValueError(f"{results} has no run of configs/sweeps/search_finals.py; write it with scripts/sweep.py")
    return found


def search_of(path: Path) -> Search | None:
    """What a search took; None where there is no file."""
    if not path.exists():
        return None
    try:
        seconds = [json.loads(line)["seconds"] for line in path.read_text().splitlines()]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} has a line that is no trial and no epoch, without seconds; mend it") from error
    return Search(len(seconds), sum(seconds))


def describe(finals: Mapping[str, Final]) -> str:
    """Markdown: a row a network."""
    head = ("found by", "test accuracy, %", "validation, %", "runs", "parameters", "MACs", "trials, epochs", "seconds")
    rows = [head, ["---"] * len(head)]
    for name, final in finals.items():
        count, seconds = (f"{final.search.count}", f"{final.search.seconds:,.0f}") if final.search else ("-", "-")
        accuracies = (spread(final.accuracies(metric)) for metric in (JUDGED, CHOSEN_BY))
        costs = (f"{final.params:,}", f"{final.macs:,}")
        rows.append((TITLES[name], *accuracies, str(len(final.runs)), *costs, count, seconds))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def draw(finals: Mapping[str, Final], path: Path) -> None:
    """The test accuracy of every run against what an image costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, (name, final) in enumerate(finals.items()):
        values, million = final.accuracies(JUDGED), final.macs / 1e6
        axes.plot([million] * len(values), values, ".", color=f"C{number}", alpha=0.5)
        label = f"{TITLES[name]} ({final.params / 1e3:,.0f}k)"
        axes.plot(million, statistics.fmean(values), "D", color=f"C{number}", markersize=7, label=label)
    axes.set(xlabel="million multiply-adds of one image", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", title="mean of the seeds (parameters)", title_fontsize="small")
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
