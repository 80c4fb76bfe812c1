"""scripts/document_search.py: what was found and trained anew, a row a network."""

import json

import pytest

from configs.sweeps import search_finals
from scripts import document_search


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The flags of one: the baseline with two seeds, a found network with one; the search had three trials."""
    monkeypatch.setattr(search_finals, "FOUND", {"random": {}, "evolution": {}})
    (tmp_path / "recipe.py").write_text(
        "from configs import cli\n\ndef get_config():\n    return cli.load_recipe('configs/nas_bench_201.py:smoke')\n"
    )
    recipes = {"shufflenet_v2": "configs/shufflenet_v2.py:smoke", "random": f"{tmp_path}/recipe.py"}
    monkeypatch.setattr(search_finals, "recipe", lambda name: recipes.get(name, f"{tmp_path}/none.py"))
    results, searches = tmp_path / "finals.jsonl", tmp_path / "searches"
    runs = [("shufflenet_v2", 0, 0.80), ("shufflenet_v2", 1, 0.82), ("random", 0, 0.9)]
    lines = []
    for name, seed, accuracy in runs:
        rows = [{"step": 1, "test/accuracy": 0.5}, {"step": 2, "test/accuracy": accuracy, "val/accuracy": accuracy / 2}]
        overrides = {"config": recipes[name], "seed": seed}
        run = {"name": f"{name}{seed}", "identity": f"{name}{seed}", "num_steps": 2, "overrides": overrides}
        lines.append(json.dumps({**run, "rows": rows}))
    results.write_text("".join(f"{line}\n" for line in lines))
    searches.mkdir()
    (searches / "random.jsonl").write_text('{"seconds": 700.25}\n{"seconds": 400}\n{"seconds": 100}\n')
    return [f"--searches={searches}", f"--results={results}", f"--out={tmp_path}/runs"]


def test_a_row_a_network(study, tmp_path, capsys):
    """Mean and deviation over seeds, after the last epoch; those that were not trained have none."""
    assert document_search.main(study) == 0, capsys.readouterr().err
    rows = [line.strip("| \n").split(" | ") for line in (tmp_path / "runs.md").read_text().splitlines()][2:]
    assert [[*row[:4], *row[6:]] for row in rows] == [
        ["ShuffleNet v2 0.5x, not searched", "81.00 ± 1.41", "40.50 ± 0.71", "2", "-", "-"],
        ["random search", "90.00", "45.00", "1", "3", "1,200"],
    ]
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_its_last_evaluation_is_one_line(study, tmp_path, capsys):
    text = (tmp_path / "finals.jsonl").read_text()
    (tmp_path / "finals.jsonl").write_text(text.replace('"val/accuracy": 0.45', '"val/loss": 0.45'))
    assert document_search.main(study) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the last row of a run of" in line and "has no val/accuracy; run the sweep again" in line


def test_results_of_another_sweep(study, tmp_path, capsys):
    (tmp_path / "finals.jsonl").write_text("")
    assert document_search.main(study) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no run of configs/sweeps/search_finals.py" in line
