"""Writes docs/large_batch_runs.md and a picture, from the results of configs/sweeps/large_batch.py.

    python scripts/document_large_batch.py
    python scripts/document_large_batch.py --results=runs/mine.jsonl --out=runs/mine

Accuracies, updates and noise scales by rule and batch: mean and standard deviation (n - 1) over seeds; of the noise,
whose estimates have long tails, the median, and none where it is negative, since |G|^2 was lost in the noise. A cell
that coincides with one of another rule was run once, and stands in the row of each. The picture puts what the papers
print beside it, as the loss against the batch that they began from.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

from configs.sweeps import large_batch
from scripts import _results
from scripts._sweep_results import Result, read, spread

METRIC, NOISE, STRENGTH = "test/accuracy", "train/gradient_noise_scale", "train/noise_scale"
RULES = {
    "none": "the rate of 128 images",
    "square_root": "square root",
    "linear": "linear",
    "warmup": "linear, warm-up",
    "long_warmup": "linear, long warm-up",
    "lars": "LARS, linear, warm-up",
    "growth": "linear, warm-up, batch grows",
}
# What ResNet-50 gains on ImageNet, in points of top-1 accuracy, with a batch so many times as large as 256 images: in
# the text of Goyal et al., arXiv:1706.02677, and in the abstract of You et al., arXiv:1709.05011.
PUBLISHED = {
    ("warmup", "Goyal et al., linear, warm-up"): (32, -0.14),
    ("linear", "Goyal et al., linear"): (32, -1.2),
    ("lars", "You et al., LARS"): (128, 0.0),
}
SHOWN = 12.0  # points of accuracy below the best, in the picture
BEFORE_THE_FALL = 3  # the last whole epoch before the rate falls first

Cells = Mapping[tuple[str, int], Sequence[Result]]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 and one line on stderr."""
    parser = _results.LineParser("document_large_batch", __doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "large_batch.jsonl", help="of scripts/sweep.py")
    parser.add_argument("--out", default=str(ROOT / "docs" / "large_batch_runs"), help="the beginning of both names")
    args = parser.parse_args(argv)
    try:
        cells = cells_of(args.results)
        table, picture = Path(f"{args.out}.md"), Path(f"{args.out}.png")
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(tables(cells))
        draw(cells, picture)
    except (ValueError, OSError) as error:
        return _results.complain("document_large_batch", error)
    print(f"{table}\n{picture}")
    return 0


def cells_of(path: Path) -> Cells:
    """{(rule, batch size): the runs of all seeds that are finished}.

    Raises:
        ValueError: none of them is of the sweep.
    """
    results = read(path)
    found = {}
    for rule in RULES:
        for size in large_batch.BATCH_SIZES:
            (point,) = json.loads(json.dumps(large_batch.cell(rule, size)))
            runs = [result for result in results if point.items() <= result.overrides.items()]
            if runs:
                found[rule, size] = runs
    if not found:
        raise ValueError(
            f"{path} has no run of configs/sweeps/large_batch.py; write it with scripts/sweep.py --results={path}"
        )
    return found


def finals(runs: Sequence[Result], metric: str) -> list[float]:
    """The metric after the last epoch, of the runs that have it."""
    return [run.rows[-1][metric] for run in runs if metric in run.rows[-1]]


def at_epoch(runs: Sequence[Result], metric: str, epoch: int) -> list[float]:
    """The metric logged last before an epoch's end, of the runs that were evaluated then."""
    return [run.rows[epoch - 1][metric] for run in runs if len(run.rows) >= epoch and metric in run.rows[epoch - 1]]


def tables(cells: Cells) -> str:
    """Markdown: four tables with a row a rule and a column a batch."""
    percent = [[100 * value for value in finals(runs, METRIC)] for runs in cells.values()]
    accuracy = dict(zip(cells, percent, strict=True))
    parts = {
        "Test accuracy in %, after the last epoch": lambda cell: spread(accuracy[cell]),
        "Updates": lambda cell: f"{cells[cell][0].num_steps:,}",
        "Noise scale of the gradient, tr(S) / |G|^2 in images, in epoch 1": lambda cell: _rounded(
            at_epoch(cells[cell], NOISE, 1)
        ),
        f"The same in epoch {BEFORE_THE_FALL}": lambda cell: _rounded(at_epoch(cells[cell], NOISE, BEFORE_THE_FALL)),
        f"Noise scale of the schedule, g = lr / (1 - m) (N / B - 1), in epoch {BEFORE_THE_FALL}": lambda cell: _rounded(
            at_epoch(cells[cell], STRENGTH, BEFORE_THE_FALL)
        ),
    }
    return "\n".join(f"{title}:\n\n{_table(cells, text)}" for title, text in parts.items())


def _table(cells: Cells, text: Callable[[tuple[str, int]], str]) -> str:
    sizes = large_batch.BATCH_SIZES
    rows = [["images an update", *(f"{size:,}" for size in sizes)], ["---"] * (1 + len(sizes))]
    rows += [
        [title, *(text((rule, size)) if (rule, size) in cells else "-" for size in sizes)]
        for rule, title in RULES.items()
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def median(values: Sequence[float]) -> float:
    """Of estimates of a noise scale; not a number where it is negative."""
    found = statistics.median(values) if values else math.nan
    return found if found > 0 else math.nan


def _rounded(values: Sequence[float]) -> str:
    """The median to two digits: the estimates are not better."""
    found = median(values)
    return "-" if math.isnan(found) else f"{float(f'{found:.2g}'):,g}"


def draw(cells: Cells, path: Path) -> None:
    """The loss of accuracy against the growth of the batch, accuracy against updates, the gradient's noise by epoch."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    against_batch, against_updates, noise = figure.subplots(1, 3)
    first = large_batch.BATCH_SIZES[0]
    for number, (rule, title) in enumerate(RULES.items()):
        own = {size: runs for (name, size), runs in cells.items() if name == rule and finals(runs, METRIC)}
        means = {size: 100 * statistics.fmean(finals(runs, METRIC)) for size, runs in own.items()}
        if first in means:
            offsets = [mean - means[first] for mean in means.values()]
            against_batch.plot([size / first for size in means], offsets, "o-", color=f"C{number}", markersize=4)
        updates = [runs[0].num_steps for runs in own.values()]
        against_updates.plot(updates, list(means.values()), "o", color=f"C{number}", markersize=5, label=title)
    for (rule, title), (times, loss) in PUBLISHED.items():
        against_batch.plot(times, loss, "*", color=f"C{list(RULES).index(rule)}", markersize=11, label=title)
    for number, size in enumerate(large_batch.BATCH_SIZES):
        runs = cells.get(("warmup", size), ())
        epochs = range(1, 1 + max((len(run.rows) for run in runs), default=0))
        medians = [median(at_epoch(runs, NOISE, epoch)) for epoch in epochs]
        noise.plot(list(epochs), medians, ".-", color=f"C{number + 6}", label=f"{size:,} images an update")
    against_batch.set(xlabel="batch, in multiples of the first", ylabel="test accuracy, points above the first batch's")
    against_batch.set_xscale("log", base=2)
    against_batch.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    against_updates.set(xlabel="updates", ylabel="test accuracy, %", xscale="log")
    against_updates.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    against_updates.xaxis.set_minor_locator(NullLocator())
    against_updates.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    for axes in (against_batch, against_updates):  # what fails altogether is out of sight
        highest = max((max(line.get_ydata()) for line in axes.lines), default=0.0)
        axes.set_ylim(max(axes.get_ylim()[0], highest - SHOWN), highest + 0.05 * SHOWN)
    noise.set(xlabel="epoch", ylabel="noise scale of the gradient, images", yscale="log", title=RULES["warmup"])
    for axes in (against_batch, against_updates, noise):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
