"""scripts/search_table.py: regrets and agreement from a table whose values are known."""

import functools
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from arch import models
from arch.efficiency.complexity import count
from arch.search import trials
from arch.search.spaces.nas_bench_201 import NASBench201Space, canonical
from arch.search.strategies.random_search import RandomSearch
from arch.search.tabular import Table
from arch.search.trials import Trial
from configs.search import nas_bench_201
from scripts import search_table
from scripts._search_cost import configure
from scripts._search_training import fields_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDED = DOCS / "nas_bench_201.jsonl"

SPACE = NASBench201Space(("none", "skip_connect"))
NETWORKS = [SPACE.to_json(architecture) for architecture in SPACE.distinct()]


def accuracy(cell, repeat, noise):
    """By how many paths reach the output, 0 to 4; repeats differ by the noise, in opposite directions."""
    return 0.5 + 0.1 * canonical(cell).count("x") + (noise if repeat else -noise) * (1 if _number(cell) % 2 else -1)


def _number(cell):
    return [canonical(network) for network in NETWORKS].index(canonical(cell))


@pytest.fixture
def path(tmp_path):
    """Two trainings of every network, 0.05 apart in validation and not in the test."""
    for number, (repeat, cell) in enumerate(itertools.product(range(2), NETWORKS)):
        metrics = {"params": 100 + number, "macs": 7, "val/accuracy": accuracy(cell, repeat, 0.025)}
        metrics |= {"test/accuracy": accuracy(cell, repeat, 0.0), "val/loss": 1.23456789}
        fields = {"seed": number, "reward": metrics["val/accuracy"], "cost": 64.0, "seconds": 2.0 + number / 1000}
        trials.append(tmp_path / "trials.jsonl", Trial(number, cell, metrics=metrics, **fields))
    return tmp_path / "trials.jsonl"


def test_regret_is_that_of_what_a_search_would_report(path, monkeypatch):
    monkeypatch.setattr(search_table, "BUDGETS", (10, 64))
    truth = search_table.truth_of(path)
    assert truth.best == pytest.approx(0.9) and len(truth.value) == 5
    found = search_table.regrets(truth, functools.partial(RandomSearch, distinct=True), 4, "random")
    assert found.shape == (4, 64)
    # Having seen every cell once, it reports one with the most paths: noise of 0.05 does not outweigh a path of 0.1.
    np.testing.assert_allclose(found[:, -1], 0, atol=1e-9)
    rng = np.random.default_rng(0)
    first = SPACE.to_json(SPACE.sample(rng))
    assert found[0, 0] == pytest.approx(100 * (0.9 - accuracy(first, 0, 0.0)))
    assert (np.diff(found, axis=1) < 1e-9).all()


def test_the_page_tells_the_table_the_regrets_and_how_seeds_agree(path, monkeypatch, tmp_path, capsys):
    methods = {name: make for name, make in search_table.METHODS.items() if "controller" not in name}
    monkeypatch.setattr(search_table, "METHODS", methods)
    assert search_table.main([str(path), "--seeds=3", f"--out={tmp_path / 'out'}"]) == 0, capsys.readouterr().err
    text = (tmp_path / "out.md").read_text()
    # Of the four paths from input to output all are cut: the edge of the shortest, and a cut of the other three.
    dead = sum(
        not (d or (b and f) or (a and e) or (a and c and f)) for a, b, c, d, e, f in itertools.product((0, 1), repeat=6)
    )
    assert "64 cells of none, skip_connect make 5 networks that differ in what they compute; " in text
    assert f"; {dead} cells do not reach their output. " in text
    assert "trained 2 times, with 100 to 109 parameters" in text
    assert "best network 90.00%" in text and "rank correlation" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows[2:]] == list(methods)
    assert rows[2][-1].count(";") == 0 and all(row[-1].count(";") == 2 for row in rows[3:])
    assert rows[3][-1].startswith("0.00 ± 0.00; ")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_failed_counts_as_nothing(path, tmp_path):
    """It has no numbers, and its network is worth half of what the other training came to."""
    whole = search_table.truth_of(path).value[canonical(NETWORKS[1])]
    trials.append(path, Trial(1, NETWORKS[1], seed=1, reward=-math.inf, cost=0.0, seconds=0.0, error="MemoryError: x"))
    truth = search_table.truth_of(path)
    assert truth.value[canonical(NETWORKS[1])] == pytest.approx(whole / 2)
    assert "with 100 to 109 parameters" in search_table.describe(truth)


def test_p_is_that_of_smaller_regrets(monkeypatch):
    """Five seeds that are all better than five of the control: one order of 252 is as good. And the other way round."""
    monkeypatch.setattr(search_table, "BUDGETS", (1,))
    low, high = (start + np.arange(5.0)[:, None] for start in (0, 10))
    better = search_table.table({search_table.CONTROL: high, "other": low}).splitlines()[-1]
    assert better == f"| other | 2.00 ± 1.58; {1 / 252:.2g}; 1.00 |"
    worse = search_table.table({search_table.CONTROL: low, "other": high}).splitlines()[-1]
    assert worse == "| other | 12.00 ± 1.58; 1; 0.00 |"


def test_the_compact_form_says_the_same(path, tmp_path):
    small = tmp_path / "small.jsonl"
    assert search_table.main([str(path), f"--compact={small}"]) == 0
    assert small.stat().st_size < path.stat().st_size
    one, other = search_table.truth_of(path), search_table.truth_of(small)
    assert one.value == pytest.approx(other.value, abs=1e-5)
    assert np.allclose(one.table.repeats(), other.table.repeats(), atol=1e-5)
    assert "val/loss" not in small.read_text()


def test_seeds_agree_as_far_as_their_ranks_do(path):
    """Against SciPy's correlation."""
    from scipy.stats import spearmanr

    truth = search_table.truth_of(path)
    first, second = ([accuracy(cell, repeat, 0.025) for cell in NETWORKS] for repeat in range(2))
    assert f"between two seeds is {spearmanr(first, second).statistic:.3f}, " in search_table.agreement(truth)


def test_a_table_with_holes_is_refused(path, capsys):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:5]))
    assert search_table.main([str(path)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "must be one of the table's" in error


def test_the_best_fifth_of_seeds_that_know_nothing_of_one_another_does_not_disagree():
    """Chosen by the mean of both it would, by 0.6."""
    rng = np.random.default_rng(0)
    rows = {
        f"x{number}": tuple(Trial(0, "", 0, value, 1.0, 1.0) for value in rng.uniform(size=2)) for number in range(2000)
    }
    truth = search_table.Truth(SPACE, Table(rows), {})
    whole, best = map(float, re.findall(r"-?\d\.\d{3}", search_table.agreement(truth)))
    assert abs(whole) < 5 / math.sqrt(2000) and abs(best) < 5 / math.sqrt(400)


def test_the_recorded_table_has_every_network_twice_with_its_costs():
    """871 of 4,096 cells differ; parameters and multiply-adds are those of the networks, by tracing."""
    rows = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    times = {}
    for row in rows:
        times.setdefault(canonical(row["architecture"]), []).append(row)
    assert len(times) == 871 and {len(group) for group in times.values()} == {2}
    assert len({row["seed"] for row in rows}) == len(rows) and not any(row["error"] for row in rows)
    search = nas_bench_201.get_config("strategy=exhaustive")
    for row in rows[::400]:
        fields = {**search.overrides.to_dict(), **fields_of("nas_bench_201", row["architecture"])}
        config = configure(search.recipe, fields)
        size = config.data.image_size
        # By hand, as the data set need not be on the machine.
        costs = count(models.from_config(config.model, num_classes=10), (1, size, size, 1), train=False)
        assert (row["metrics"]["params"], row["metrics"]["macs"]) == (costs.params, costs.macs)


def test_seeds_of_the_recorded_table_agree_and_its_page_says_how_far():
    """By scipy; with less than 0.5 the table would be more of seeds than of networks."""
    page = (DOCS / "search_table.md").read_text()
    correlation = stats.spearmanr(*search_table.truth_of(RECORDED).table.repeats()).statistic
    assert correlation >= 0.5
    assert f"between two seeds is {correlation:.3f}" in page and "871 networks" in page
