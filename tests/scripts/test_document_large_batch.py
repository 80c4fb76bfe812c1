"""scripts/document_large_batch.py: results of the sweep by rule and batch, in its tables and picture."""

import json

import pytest

from configs.sweeps import large_batch
from scripts import document_large_batch


def write_results(path, accuracies, num_epochs=10):
    """A line a run: (rule, batch, seed) -> accuracy. Its noise is 100 times the epoch, at 8,192 images below 0."""
    lines = []
    for number, ((rule, size, seed), accuracy) in enumerate(accuracies.items()):
        (point,) = large_batch.cell(rule, size)
        rows = [
            {
                "step": epoch,
                "test/accuracy": accuracy,
                "train/gradient_noise_scale": 100.4 * epoch * (-1 if size == 8192 else 1),
            }
            for epoch in range(1, num_epochs + 1)
        ]
        record = {"name": str(number), "identity": str(number), "num_steps": 1000 + size}
        lines.append(json.dumps({**record, "overrides": {**point, "seed": seed}, "rows": rows}))
    path.write_text("".join(f"{line}\n" for line in lines))


def table(text, title):
    """{first cell: other cells} of the table below a title."""
    lines = text.split(f"{title}:\n\n")[1].split("\n\n")[0].splitlines()[2:]
    return {(cells := line.strip("| ").split(" | "))[0]: cells[1:] for line in lines}


def test_a_cell_stands_in_the_row_of_every_rule_that_it_coincides_with(tmp_path, capsys):
    results, out = tmp_path / "large_batch.jsonl", tmp_path / "runs"
    accuracies = {
        ("none", 128, 0): 0.91, ("none", 128, 1): 0.93, ("none", 512, 0): 0.9, ("square_root", 512, 0): 0.89,
        ("lars", 128, 0): 0.88, ("warmup", 8192, 0): 0.8,
    }  # fmt: skip
    write_results(results, accuracies)
    assert document_large_batch.main([f"--results={results}", f"--out={out}"]) == 0, capsys.readouterr().err
    text = (tmp_path / "runs.md").read_text()
    first = "92.00 ± 1.41"
    assert table(text, "Test accuracy in %, after the last epoch") == {
        "the rate of 128 images": [first, "90.00", "-", "-"],
        "square root": [first, "89.00", "-", "-"],
        "linear": [first, "-", "-", "-"],
        "linear, warm-up": [first, "-", "-", "80.00"],
        "linear, long warm-up": [first, "-", "-", "-"],
        "LARS, linear, warm-up": ["88.00", "-", "-", "-"],
        "linear, warm-up, batch grows": ["-", "-", "-", "80.00"],  # of 128 images it grows; of 8,192 it cannot
    }
    assert table(text, "Updates")["the rate of 128 images"] == ["1,128", "1,512", "-", "-"]
    noise = "Noise scale of the gradient, tr(S) / |G|^2 in images, in epoch 1"
    assert table(text, noise)["linear, warm-up"] == ["100", "-", "-", "-"]
    assert table(text, "The same in epoch 3")["linear, warm-up"] == ["300", "-", "-", "-"]
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_results_of_another_sweep_are_refused(tmp_path, capsys):
    assert document_large_batch.main([f"--results={tmp_path / 'none.jsonl'}", f"--out={tmp_path / 'runs'}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "has no run of configs/sweeps/large_batch.py; write it with" in error


@pytest.mark.parametrize("size", large_batch.BATCH_SIZES)
def test_only_rules_that_are_the_same_share_a_cell(size):
    cells = [json.dumps(large_batch.cell(rule, size)) for rule in document_large_batch.RULES]
    assert len(set(cells)) == {128: 3, 8192: 6}.get(size, 7)
