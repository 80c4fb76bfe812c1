"""scripts/plot.py: the table of a sweep against numbers worked out by hand, and its figures."""

import json
import statistics

import pytest

from scripts import plot

POINTS = [
    # (norm, batch, seed, final accuracy or None for a run that is not finished, rate: follows from the batch)
    ("group_norm", 16, 0, 0.80, 0.1),
    ("group_norm", 16, 1, 0.84, 0.1),
    ("group_norm", 64, 0, 0.90, 0.4),
    ("group_norm", 64, 1, None, 0.4),
    ("none", 16, 0, None, 0.1),
    ("none", 16, 1, None, 0.1),
]
FIELDS = ["seed", "model.norm.name", "global_batch_size"]


@pytest.fixture
def sweep(tmp_path):
    """A sweep of two norms and two batches; one run stands in its middle, two have not begun."""
    points = []
    for norm, batch, seed, accuracy, rate in POINTS:
        name = f"seed={seed},model.norm.name={norm},global_batch_size={batch}"
        overrides = {"seed": seed, "model.norm.name": norm, "global_batch_size": batch, "learning_rate": rate}
        points.append({"name": name, "num_steps": 20, "overrides": overrides})
        if norm == "none":
            continue
        (tmp_path / name).mkdir()
        rows = [{"step": 10, "time": 1.0, "test/accuracy": 0.5, "test/loss": 1.5}]
        if accuracy is not None:
            rows.append({"step": 20, "time": 2.0, "test/accuracy": accuracy, "test/loss": 1 - accuracy})
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sweep.json").write_text(json.dumps({"fields": FIELDS, "points": points}))
    return tmp_path


def test_the_table(sweep):
    """The mean of 0.80 and 0.84 is 0.82, their deviation 0.02 * sqrt(2); a run half way counts nowhere."""
    assert plot.main([str(sweep)]) == 0
    assert (sweep / "summary.md").read_text() == (
        "| model.norm.name | global_batch_size | runs | test/accuracy | test/loss |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| group_norm | 16 | 2 | 0.8200 ± 0.0283 | 0.1800 ± 0.0283 |\n"
        "| group_norm | 64 | 1 of 2 | 0.9000 | 0.1000 |\n"
        "| none | 16 | 0 of 2 | - | - |\n"
        "\n"
        "Mean and standard deviation over the runs. 3 of 6 runs are not finished and are left out.\n"
    )


def drawn(monkeypatch):
    """The axes of the figures, by the ends of their names, instead of files."""
    axes = {}
    monkeypatch.setattr(plot, "_finish", lambda figure, ax, metric, path, lowest: axes.update({path.name: ax}))
    return axes


def test_the_curves_are_those_of_all_runs_that_have_begun(sweep, monkeypatch):
    axes = drawn(monkeypatch)
    assert plot.main([str(sweep), f"--out={sweep / 'x'}"]) == 0
    (ax,) = axes.values()
    assert [list(line.get_xdata()) for line in ax.lines] == [[10, 20], [10, 20], [10, 20], [10]]
    assert list(ax.lines[1].get_ydata()) == [0.5, 0.84]
    assert ax.get_legend_handles_labels()[1] == ["group_norm, 16", "group_norm, 64"]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() != ax.lines[2].get_color()


def test_the_final_metric_against_a_field(sweep, monkeypatch):
    axes = drawn(monkeypatch)
    assert plot.main([str(sweep), f"--out={sweep / 'x'}", "--x=global_batch_size", "--by=model.norm.name"]) == 0
    containers, labels = axes["x-final.png"].get_legend_handles_labels()
    assert labels == ["group_norm", "none"]
    line, _, (bars,) = containers[0]
    assert list(line.get_xdata()) == [16, 64]
    assert list(line.get_ydata()) == pytest.approx([statistics.fmean((0.80, 0.84)), 0.90])
    heights = [upper - lower for (_, lower), (_, upper) in bars.get_segments()]
    assert heights == pytest.approx([2 * statistics.stdev((0.80, 0.84)), 0.0])


def test_the_final_metric_by_line_and_place(sweep):
    assert plot.main([str(sweep), "--x=global_batch_size", "--by=model.norm.name", "--metric=test/loss"]) == 0
    assert (sweep / "summary.md").read_text().startswith(
        "| test/loss at global_batch_size = | 16 | 64 |\n"
        "| --- | --- | --- |\n"
        "| group_norm | 0.1800 ± 0.0283 | 0.1000 |\n"
        "| none | - | - |\n"
        "\n"
        "| model.norm.name | global_batch_size | runs |"
    )  # fmt: skip


def test_what_lies_below_is_out_of_sight(sweep, monkeypatch):
    from matplotlib.figure import Figure

    limits = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: limits.append(figure.axes[0].get_ylim()))
    flags = ["--x=global_batch_size", "--by=model.norm.name"]
    assert plot.main([str(sweep), *flags, "--lowest=0.7"]) == 0
    assert limits == [pytest.approx((0.7, 0.91))] * 2  # the highest is 0.9, and a twentieth is left above it


def test_files_are_written_where_they_are_asked_for(sweep, capsys):
    out = sweep / "docs" / "norms"
    assert plot.main([str(sweep), f"--out={out}", "--x=global_batch_size", "--metric=test/loss"]) == 0
    paths = [f"{out}{ending}" for ending in (".md", "-curves.png", "-final.png")]
    assert capsys.readouterr().out.split() == paths
    for path in paths[1:]:
        with open(path, "rb") as file:
            assert file.read(4) == b"\x89PNG"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--x=model.norm.name"], "--x=model.norm.name has the value group_norm, which is no number"),
        (["--x=global_batch"], "unknown name 'global_batch'; did you mean 'global_batch_size'"),
        (["--metric=test/acuracy"], "did you mean 'test/accuracy'"),
    ],
)
def test_misuse_is_one_line(sweep, capsys, flags, words):
    assert plot.main([str(sweep), *flags]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1 and errors.startswith("plot: ")


def test_two_cells_at_one_place_are_refused(sweep, capsys):
    record = json.loads((sweep / "sweep.json").read_text())
    record["points"] = [point for point in record["points"] if point["overrides"]["global_batch_size"] == 16]
    (sweep / "sweep.json").write_text(json.dumps(record))
    assert plot.main([str(sweep), "--x=global_batch_size", "--by=seed"]) == 2
    assert "unknown name 'seed'" in capsys.readouterr().err
    assert plot.main([str(sweep), "--x=global_batch_size", "--by=global_batch_size"]) == 2
    assert "puts two cells at global_batch_size=16" in capsys.readouterr().err


def test_folders_without_results_are_refused(tmp_path, capsys):
    assert plot.main([str(tmp_path)]) == 2
    assert "has no sweep.json" in capsys.readouterr().err
    (tmp_path / "sweep.json").write_text(
        json.dumps({"fields": [], "points": [{"name": "default", "num_steps": 1, "overrides": {}}]})
    )
    assert plot.main([str(tmp_path)]) == 2
    assert "none of its 1 runs is finished" in capsys.readouterr().err
