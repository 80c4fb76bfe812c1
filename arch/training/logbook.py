"""The record of a run: `metrics.jsonl` is the truth; TensorBoard events and `curves.png` are views of it."""

import json
import os
import pathlib
import shutil
import time

from arch.training.workdir import write_atomically

TIMING_FIELDS = frozenset({"time", "train/images_per_sec"})  # all others repeat bit for bit when a run is resumed


class Logbook:
    """Writes rows of JSON values, one a step, in the order of the steps; TensorBoard gets those that are numbers.

    Args:
      workdir: of the run.
      restored_step: rows of later steps are dropped, for the run will come to them again; so is a torn last line.
      enabled: False keeps nothing: on all hosts but one.
    """

    def __init__(self, workdir: str, restored_step: int, *, enabled: bool = True):
        self._folder = pathlib.Path(workdir)
        self._path = self._folder / "metrics.jsonl"
        self._enabled = enabled
        if enabled:
            self.rows = [row for row in read_rows(self._path) if row["step"] <= restored_step]
            write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
            self._file = open(self._path, "a")  # noqa: SIM115
            self._events = self._rewrite_events()

    def _rewrite_events(self):
        from tensorboardX import SummaryWriter

        folder = self._folder / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        events = SummaryWriter(str(folder))
        for row in self.rows:
            self._add_events(events, row)
        return events

    @staticmethod
    def _add_events(events, row: dict[str, float]) -> None:
        for name, value in row.items():
            if name not in ("step", "time") and isinstance(value, int | float):
                events.add_scalar(name, value, row["step"], walltime=row["time"])

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds the row of a step; it is on disk when this returns."""
        if not self._enabled:
            return
        row = {"step": step, "time": round(time.time(), 3), **values}
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._add_events(self._events, row)

    def has(self, step: int) -> bool:
        """Whether the newest row is of this step."""
        return self._enabled and bool(self.rows) and self.rows[-1]["step"] == step

    def plot(self) -> None:
        """Draws `curves.png`: loss, accuracy and learning rate against the step."""
        if self._enabled:
            plot_curves(self.rows, self._folder / "curves.png")

    def close(self) -> None:
        if self._enabled:
            self._file.close()
            self._events.close()


def read_rows(path: pathlib.Path) -> list[dict[str, float]]:
    """The whole rows of a `metrics.jsonl`; a line cut short by a crash ends them."""
    rows = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def plot_curves(rows: list[dict[str, float]], path: pathlib.Path) -> None:
    """One panel a quantity, one line a split; written atomically."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    panels = [("loss", "loss (nats)"), ("accuracy", "top-1 accuracy"), ("learning_rate", "learning rate")]
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for axes, (quantity, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        names = sorted({n for row in rows for n in row if n.rpartition("/")[2] in (quantity, f"ema_{quantity}")})
        for name in reversed(names):  # train, test on top of each other in the same colours whatever else is there
            points = [(row["step"], row[name]) for row in rows if name in row]
            split, _, leaf = name.partition("/")
            style = {"marker": "." if len(points) < 40 else None, "linestyle": "--" if "ema" in leaf else "-"}
            colour = {"train": "tab:blue", "val": "tab:green", "test": "tab:orange"}.get(split)
            label_of_line = f"{split} (EMA)" if "ema" in leaf else split
            axes.plot(*zip(*points, strict=True), label=label_of_line, color=colour, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    temporary = path.with_name("." + path.name)
    figure.savefig(temporary, dpi=120, format="png")
    os.replace(temporary, path)
