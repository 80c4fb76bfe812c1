"""scripts/bench_sweep.py: what is measured of the networks of a sweep, and the table that is made of it."""

import json

import numpy as np
import pytest

from arch.training.checkpoint import flatten
from scripts import bench_sweep
from scripts._sweep_points import program
from tests.recipes import tiny


def write_results(path, data_dir, accuracies):
    """A line a run: (norm, seed) -> accuracy."""
    lines = []
    for number, ((norm, seed), accuracy) in enumerate(accuracies.items()):
        overrides = {
            "config": "tests/recipes/tiny.py",
            "data.dir": str(data_dir),
            "model.norm.name": norm,
            "seed": seed,
        }
        row = {"step": 12, "test/accuracy": accuracy}
        record = {"name": str(number), "identity": str(number), "num_steps": 12, "overrides": overrides, "rows": [row]}
        lines.append(json.dumps(record))
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.slow
def test_each_network_is_measured_once_and_the_best_comes_first(tmp_path, capsys):
    results, speed = tmp_path / "runs.jsonl", tmp_path / "speed.jsonl"
    accuracies = {("none", 0): 0.5, ("batch_norm", 0): 0.75, ("none", 1): 0.25}
    write_results(results, tmp_path / "tfds", accuracies)
    flags = [str(results), f"--json={speed}", "--rounds=2"]
    assert bench_sweep.main(flags) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in speed.read_text().splitlines()[1:]]
    assert [row["network"] for row in rows] == ["tiny, name=none", "tiny, name=batch_norm"]
    for row in rows:
        assert min(row["ms"].values()) > 0 and row["ms"]["training"] > row["ms"]["inference"]
    config = tiny.get_config("norm=batch_norm")
    _, make_state, _ = program(config, bench_sweep.optimizer(config), num_classes=10)
    held = sum(np.size(leaf) for leaf in flatten(make_state().params).values())
    assert rows[1]["params"] == held

    table = (tmp_path / "runs_costs.md").read_text().splitlines()
    assert [line.split(" | ")[:3] for line in table[2:]] == [
        ["| tiny, name=batch_norm", "75.00", "1"],
        ["| tiny, name=none", "37.50 ± 17.68", "2"],
    ]
    assert (tmp_path / "runs_costs.png").read_bytes().startswith(b"\x89PNG")
    before = speed.read_text()
    assert bench_sweep.main(flags) == 0 and speed.read_text() == before  # goes on from what is there


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no results; write it with scripts/sweep.py --results="),
        ('{"name": "a", "identity": "b", "num_steps": 1, "overrides": {}, "rows": []}\n', "do not name their recipe"),
        (
            '{"name": "a", "identity": "b", "num_steps": 1, "overrides": {"config": "x.py"}, "rows": [{"step": 1}]}\n',
            "have no test/accuracy; set config.data.test_split",
        ),
        ("{}\n", "is no file of --results"),
    ],
)
def test_what_is_not_such_a_file_is_one_line(tmp_path, capsys, text, words):
    path = tmp_path / "runs.jsonl"
    path.write_text(text)
    assert bench_sweep.main([str(path)]) == 1
    assert words in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_a_batch_that_does_not_divide_over_the_devices_is_one_line(tmp_path, capsys):
    overrides = {"config": "tests/recipes/tiny.py", "global_batch_size": 12}
    row = {"name": "a", "identity": "b", "num_steps": 1, "overrides": overrides, "rows": [{"test/accuracy": 0.5}]}
    (tmp_path / "runs.jsonl").write_text(json.dumps(row))
    assert bench_sweep.main([str(tmp_path / "runs.jsonl")]) == 1
    assert "global_batch_size=12 must be a multiple of the 8 devices here" in capsys.readouterr().err
