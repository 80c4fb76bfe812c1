"""Gathers the runs of a sweep: a table of final metrics, their curves, and a metric against a field.

    python scripts/plot.py runs/shufflenet_v2-normalization
    python scripts/plot.py runs/shufflenet_v2-normalization --x=global_batch_size --by=model.norm.name --out=docs/norms
    python scripts/plot.py docs/normalization.jsonl --x=global_batch_size --by=model.norm.name

The sweep is what scripts/sweep.py keeps in its --workdir, or in its file of --results. Runs that differ in their seed
alone are one row: the mean, and the standard deviation (with n - 1) from two finished runs on. Runs that are not
finished are in the curves alone; how many there are is said. Written: OUT.md, OUT-curves.png and, with --x,
OUT-final.png; OUT.md begins with the metric by line and place then.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a checkout

from arch.errors import unknown_name
from arch.training.logbook import read_rows
from scripts._sweep_results import read, telling_fields

SEED = "seed"
METRICS = ("val/accuracy", "test/accuracy", "val/loss", "test/loss")
LABELS = {"accuracy": "top-1 accuracy", "loss": "loss (nats)", "top5_accuracy": "top-5 accuracy"}


class Run(NamedTuple):
    """One point of the sweep.

    Attributes:
      values: field -> value, of the fields that tell points apart, but for the seed.
      rows: of its metrics.jsonl; none where it has not begun.
      finished: whether the last row is that of the last step.
    """

    values: Mapping[str, Any]
    rows: Sequence[Mapping[str, float]]
    finished: bool


class Cell(NamedTuple):
    """Runs that differ in their seed alone."""

    values: Mapping[str, Any]
    runs: Sequence[Run]

    def finals(self, metric: str) -> list[float]:
        """The metric's last values, of the finished runs that have it."""
        return [run.rows[-1][metric] for run in self.runs if run.finished and metric in run.rows[-1]]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 and one line on stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdir", help="the folder of the sweep, or its file of results")
    parser.add_argument("--metric", default="", help="of the figures; default: test/accuracy, else val/accuracy")
    parser.add_argument("--x", default="", help="field along the horizontal axis, of numbers")
    parser.add_argument("--by", default="", help="fields, with commas, that make the lines; default: all but --x")
    parser.add_argument("--lowest", type=float, help="where the vertical axes begin; what is below is out of sight")
    parser.add_argument(
        "--out", default="", help="the beginning of the names of the files; default: WORKDIR/summary, or that of FILE"
    )
    args = parser.parse_args(argv)
    try:
        out = args.out or beside(Path(args.workdir))
        for path in write(args.workdir, args.metric, args.x, args.by, out, args.lowest):
            print(path)
    except (ValueError, OSError) as error:
        print(f"plot: {error}", file=sys.stderr)
        return 2
    return 0


def beside(path: Path) -> str:
    """Where the files go that nobody named."""
    return str(path.with_suffix("") if path.is_file() else path / "summary")


def write(folder: str, metric: str, x: str, by: str, out: str, lowest: float | None = None) -> list[Path]:
    """Makes the files; returns their paths."""
    fields, runs = read_sweep(Path(folder))
    cells = cells_of(runs)
    there = [name for name in METRICS if any(cell.finals(name) for cell in cells)]
    if not there:
        raise ValueError(f"{folder}: none of its {len(runs)} runs is finished; run scripts/sweep.py first")
    metric = metric or next((name for name in ("test/accuracy", "val/accuracy") if name in there), there[0])
    if not any(cell.finals(metric) for cell in cells):
        raise unknown_name("--metric", metric, {name for run in runs for row in run.rows for name in row})
    lines = [field for field in by.split(",") if field] or [field for field in fields if field != x]
    for field in [x] * bool(x) + lines:
        if field not in fields:
            raise unknown_name("--x, --by", field, fields)
    paths = [Path(f"{out}{ending}") for ending in (".md", "-curves.png", "-final.png")][: 3 if x else 2]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    grid = ""
    if x:
        groups = by_place(cells, metric, x, lines)
        draw_final(groups, metric, x, paths[2], lowest)
        grid = matrix(groups, metric, x) + "\n"
    paths[0].write_text(grid + table(fields, cells, there))
    draw_curves(cells, metric, lines, paths[1], lowest)
    return paths


def read_sweep(folder: Path) -> tuple[list[str], list[Run]]:
    """The fields that tell points apart, but for the seed, and the runs in the order of the sweep.

    Raises:
      ValueError: it is not that of a sweep.
    """
    if folder.is_file():
        results = read(folder)
        fields = [field for field in telling_fields([result.overrides for result in results]) if field != SEED]
        return fields, [
            Run({field: result.overrides.get(field) for field in fields}, result.rows, bool(result.rows))
            for result in results
        ]
    path = folder / "sweep.json"
    if not path.exists():
        raise ValueError(f"{folder} has no sweep.json; give the --workdir, or the --results, of scripts/sweep.py")
    sweep = json.loads(path.read_text())
    fields = [field for field in sweep["fields"] if field != SEED]
    runs = []
    for point in sweep["points"]:
        rows = read_rows(folder / point["name"] / "metrics.jsonl")
        values = {field: point["overrides"].get(field) for field in fields}
        runs.append(Run(values, rows, bool(rows) and rows[-1]["step"] == point["num_steps"]))
    return fields, runs


def cells_of(runs: Iterable[Run]) -> list[Cell]:
    """Runs with the same values together, in the order in which they come first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.values), []).append(run)
    return [Cell(group[0].values, group) for group in groups.values()]


def table(fields: Sequence[str], cells: Sequence[Cell], metrics: Sequence[str]) -> str:
    """Markdown: a row a cell, its fields, how many runs are finished, and the final metrics."""
    head = [*fields, "runs", *metrics]
    rows = []
    for cell in cells:
        finished = sum(run.finished for run in cell.runs)
        runs = str(finished) if finished == len(cell.runs) else f"{finished} of {len(cell.runs)}"
        rows.append([*(text(cell.values[field]) for field in fields), runs])
        rows[-1] += [mean_and_std(cell.finals(metric)) for metric in metrics]
    body = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    runs = [run for cell in cells for run in cell.runs]
    missing = sum(not run.finished for run in runs)
    note = f"{missing} of {len(runs)} runs are not finished and are left out." if missing else ""
    several = "Mean and standard deviation over the runs." if any(len(cell.runs) > 1 for cell in cells) else ""
    notes = " ".join(filter(None, (several, note)))
    return "\n".join([*body, *(["", notes] if notes else [])]) + "\n"


def mean_and_std(values: Sequence[float]) -> str:
    """`0.9123 ± 0.0012`; without the latter for one value; - for none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.4f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.4f}"


def text(value: Any) -> str:
    """A value in a table or a legend; - for a field that the point leaves alone."""
    return "-" if value is None else str(value)


def draw_curves(
    cells: Sequence[Cell], metric: str, lines: Sequence[str], path: Path, lowest: float | None = None
) -> None:
    """The metric against the step: a line a run, a colour a group of `lines`, all runs that have begun."""
    figure, axes = _figure()
    colours: dict[str, str] = {}
    for cell in cells:
        label = _label(cell, lines)
        for run in cell.runs:
            points = [(row["step"], row[metric]) for row in run.rows if metric in row]
            if points:
                new = label not in colours
                colour = colours.setdefault(label, f"C{len(colours)}")
                axes.plot(
                    *zip(*points, strict=True), color=colour, alpha=0.7, linewidth=1, label=label if new else None
                )
    axes.set_xlabel("step")
    _finish(figure, axes, metric, path, lowest)


Groups = Mapping[str, Mapping[float, Sequence[float]]]  # of each line, at each place along x, the runs' values


def by_place(cells: Sequence[Cell], metric: str, x: str, lines: Sequence[str]) -> Groups:
    """The final metrics, by line and by the field along x.

    Raises:
      ValueError: the field has values that are not numbers, or two cells are at one place of one line.
    """
    groups: dict[str, dict[float, list[float]]] = {}
    for cell in cells:
        place = cell.values[x]
        if isinstance(place, bool) or not isinstance(place, int | float):
            raise ValueError(f"--x={x} has the value {text(place)}, which is no number; choose another field")
        line = groups.setdefault(_label(cell, lines), {})
        if place in line:
            raise ValueError(f"--by={','.join(lines)} puts two cells at {x}={place}; add what tells them apart")
        line[place] = cell.finals(metric)
    return groups


def matrix(groups: Groups, metric: str, x: str) -> str:
    """Markdown: a row a line, a column a place."""
    places = sorted({place for line in groups.values() for place in line})
    head = [f"{metric} at {x} =", *(f"{place:g}" for place in places)]
    rows = [[label, *(mean_and_std(line.get(place, ())) for place in places)] for label, line in groups.items()]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))


def draw_final(groups: Groups, metric: str, x: str, path: Path, lowest: float | None = None) -> None:
    """The final metric against a field: a line a group, bars of one standard deviation."""
    figure, axes = _figure()
    for label, line in groups.items():
        places = sorted(place for place, values in line.items() if values)
        means = [statistics.fmean(line[place]) for place in places]
        bars = [statistics.stdev(line[place]) if len(line[place]) > 1 else 0.0 for place in places]
        axes.errorbar(places, means, bars, marker="o", markersize=4, capsize=3, linewidth=1.2, label=label)
    places = sorted({place for line in groups.values() for place in line})
    if places[0] > 0 and places[-1] / places[0] >= 8:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    axes.minorticks_off()
    axes.set_xlabel(x)
    _finish(figure, axes, f"final {metric}", path, lowest)


def _label(cell: Cell, lines: Sequence[str]) -> str:
    """`group_norm, 0.1`."""
    return ", ".join(text(cell.values[field]) for field in lines)


def _figure():
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    return figure, figure.subplots()


def _finish(figure: Any, axes: Any, metric: str, path: Path, lowest: float | None) -> None:
    if lowest is not None:
        highest = max(max(line.get_ydata(), default=lowest) for line in axes.lines)
        axes.set_ylim(lowest, highest + 0.05 * (highest - lowest) if highest > lowest else None)
    before, _, leaf = metric.rpartition("/")
    axes.set_ylabel(f"{before}: {LABELS.get(leaf, leaf)}")
    axes.grid(alpha=0.3)
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120, format="png")


if __name__ == "__main__":
    sys.exit(main())
