"""Candidates that scripts/search.py trains by one program are those that train.py trains."""

import dataclasses
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arch.search import trials
from arch.search.spaces.nas_bench_201 import CONNECT, NASBench201Space
from arch.search.tabular import Table
from arch.search.trials import Job
from configs import cli
from scripts import _search_cost, _search_setup
from scripts._search_cost import Reward
from scripts._search_one_program import Candidates, OneProgramTraining
from scripts._search_table import Lookup
from scripts._search_training import fields_of

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "configs" / "nas_bench_201.py")
OVERRIDES = {
    "num_steps": 4, "global_batch_size": 32, "model.fields.stage_sizes": (1, 1), "model.fields.features": 4,
    "schedule.warmup_epochs": 0.0, "data.train_split": "train[:90%]", "data.val_split": "train[90%:]",
}  # fmt: skip
CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|skip_connect~1|nor_conv_3x3~2|"


@pytest.mark.slow
def test_a_candidate_comes_to_what_train_py_comes_to(tmp_path):
    """The same order, augmentation and initial values: loss and accuracy of both splits, in float32."""
    flags = [f"--config.{name}={value}" for name, value in OVERRIDES.items()]
    command = [sys.executable, "train.py", f"--config={RECIPE}", f"--workdir={tmp_path}", "--config.seed=7", *flags]
    subprocess.run([*command, f"--config.model.fields.cell={CELL}"], cwd=ROOT, check=True, capture_output=True)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    found = OneProgramTraining(RECIPE, OVERRIDES, "val/accuracy", CONNECT)(Job(0, CELL, seed=7))
    assert found.reward == row["val/accuracy"] and found.cost == 4 * 32
    for name in ("val/loss", "val/accuracy", "test/loss", "test/accuracy"):
        assert found.metrics[name] == pytest.approx(row[name], rel=1e-4), name
    assert found.metrics["params"] > 0 and found.metrics["macs"] > 0


@pytest.mark.slow
def test_together_candidates_come_to_what_they_come_to_alone():
    """Three at a time, of which the last group lacks one, and one that costs too much is not trained."""
    cells = [CELL, CELL.replace("none", "skip_connect"), CELL.replace("skip_connect", "none"), CELL]
    jobs = [Job(number, cell, seed=number) for number, cell in enumerate(cells)]
    alone = OneProgramTraining(RECIPE, OVERRIDES, "val/accuracy", CONNECT)
    expected = [alone(job) for job in jobs]
    limit = Reward(cost="params", limit=max(one.metrics["params"] for one in expected))
    for reward, count in ((Reward(), 3), (limit, 2)):
        together = OneProgramTraining(RECIPE, OVERRIDES, "val/accuracy", CONNECT, reward, num_together=count)
        for found, one in zip(together.together(jobs), expected, strict=True):
            assert found.cost == one.cost and found.metrics["val/loss"] == pytest.approx(
                one.metrics["val/loss"], rel=1e-3
            )
    less = dataclasses.replace(together, reward=dataclasses.replace(limit, limit=limit.limit - 1))
    found = less.together(jobs)
    dear = [one.metrics["params"] == limit.limit for one in expected]
    assert any(dear) and [one.cost == 0.0 for one in found] == dear
    assert [math.isfinite(one.reward) for one in found] == [not is_dear for is_dear in dear]


def test_seconds_are_measured_by_the_process_that_has_the_device(monkeypatch):
    """Another one might get none; where they are too many, nothing is compiled or trained."""
    seconds = []
    monkeypatch.setattr(_search_cost, "_measure", lambda config, table: seconds.append(config) or 0.02)
    evaluate = OneProgramTraining(RECIPE, OVERRIDES, "val/accuracy", CONNECT, Reward("seconds", limit=0.01))
    found = evaluate(Job(0, CELL, seed=7))
    assert (found.reward, found.cost, found.metrics["seconds"]) == (-math.inf, 0.0, 0.02)
    assert [config.model.fields.cell for config in seconds] == [CELL]


def candidates(recipe=RECIPE, **more):
    return Candidates(cli.override(cli.load_recipe(recipe), more, "test"), CONNECT)


@pytest.mark.slow
def test_one_that_diverges_has_no_numbers():
    code = NASBench201Space(CONNECT).from_json(CELL).values
    many = candidates(**OVERRIDES | {"schedule.base_learning_rate": 1e30})
    (metrics,) = many.evaluate(np.array([code]), [0])
    assert set(metrics) == {f"{s}/{m}" for s in ("val", "test") for m in ("loss", "accuracy", "top5_accuracy")}
    assert np.isnan(list(metrics.values())).all()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_micro_batches": 2}, r"config\.num_micro_batches=2 must be 1 for evaluator=one_program; use train"),
        ({"ema_decay": 0.9}, r"config\.ema_decay=0\.9 must be 0\.0 for evaluator=one_program"),
        (
            {"recipe": str(ROOT / "configs" / "stn.py")},
            "model.name: unknown name 'stn_classifier'; one of nas_bench_201",
        ),
    ],
)
def test_what_one_program_cannot_do_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        candidates(**more)


@pytest.mark.parametrize("arg", ["", "smoke", "strategy=controller", "strategy=exhaustive", "table=x.jsonl"])
def test_the_recipe_of_a_search_fits_its_space(arg):
    config = importlib.import_module("configs.search.nas_bench_201").get_config(arg)
    assert config.is_locked and config.evaluator == ("table" if "table" in arg else "one_program")
    assert config.num_trials == {"smoke": 2, "strategy=exhaustive": 2 * 871}.get(arg, 200)
    space = NASBench201Space(**config.space.fields)
    fields = {**config.overrides, **fields_of(config.space.name, space.to_json(space.decode((0,) * 6)))}
    recipe = cli.override(cli.load_recipe(str(ROOT / config.recipe)), fields, "test")
    assert recipe.model.fields.cell == "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    assert recipe.data.val_split and (config.metric == "val/accuracy" or arg == "smoke")


def test_a_trial_is_looked_up_and_weighed(tmp_path):
    """Beyond a hard limit nothing is had, and nothing paid."""
    cells = [CELL, CELL.replace("skip_connect", "none")]
    for number, (cell, macs, accuracy) in enumerate(zip(cells, (300, 100), (0.9, 0.8), strict=True)):
        metrics = {"macs": macs, "val/accuracy": accuracy}
        trial = trials.Trial(number, cell, 0, accuracy, cost=1.0, seconds=4.0, metrics=metrics)
        trials.append(tmp_path / "trials.jsonl", trial)
    table = Table.read(tmp_path / "trials.jsonl", "val/accuracy")
    lookup = Lookup(table, Reward(cost="macs", limit=200.0))
    found = [lookup(Job(number, cell, seed=3)) for number, cell in enumerate(cells)]
    assert [(one.reward, one.cost) for one in found] == [(-math.inf, 0.0), (0.8, 4.0)]
    assert Lookup(table, Reward())(Job(0, CELL, seed=3)).reward == 0.9
    config = importlib.import_module("configs.search.nas_bench_201").get_config(f"table={tmp_path / 'trials.jsonl'}")
    with pytest.raises(ValueError, match=r"Table: architecture='\|none~0\|.* must be one of the table's"):
        _search_setup.create(config, tmp_path)  # before the first trial
