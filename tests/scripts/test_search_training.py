"""What a trial is given and comes to, with a stand-in for train.py; what the configs of searches stand for."""

import importlib
import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from arch import models
from arch.efficiency.complexity import abstract_variables, count_params
from arch.models.genotypes import DARTS_V2, NASNET_A, from_json, resolve
from arch.search import trials
from arch.search.spaces.cells import CellSpace
from arch.search.trials import Job, Trial
from configs import cli
from configs.search import default
from scripts import _search_cost, _search_report, _search_setup, _search_training
from scripts._search_cost import Reward, configure, examples, measure_seconds, size
from scripts._search_training import Training

RECIPE = "configs/nasnet.py:smoke"
SMALL = {"model.fields.stage_sizes": [1, 1], "model.fields.features": 4}
# Writes what it was called with, and the rows and the status that it finds beside it.
STAND_IN = """
import json, os, pathlib, sys
flags = dict(item.lstrip("-").split("=", 1) for item in sys.argv[1:])
here, place = pathlib.Path(__file__).parent, pathlib.Path(flags["workdir"])
place.mkdir(parents=True)
(place / "flags.json").write_text(json.dumps(flags | {"parent": os.environ["CLUSTER_PARENT_PID"]}))
(place / "metrics.jsonl").write_text((here / "rows").read_text())
print((here / "says").read_text())
sys.exit(int((here / "status").read_text()))
"""
CELLS = CellSpace()
GENOTYPE = CELLS.to_json(CELLS.decode((0,) * len(CELLS.choices)))


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Evaluates an architecture with a train.py that ends as it is told; the folder of its runs is `trials`."""
    (tmp_path / "train.py").write_text(STAND_IN)
    monkeypatch.setattr(_search_training, "ROOT", tmp_path)

    def evaluate(architecture, *, rows=(), status=0, says="", overrides=SMALL, **fields):
        (tmp_path / "rows").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "status").write_text(str(status))
        (tmp_path / "says").write_text(says)
        training = Training(RECIPE, overrides, "val/accuracy", str(tmp_path / "trials"), **fields)
        return training(Job(7, architecture, seed=5))

    return evaluate


ROWS = ({"step": 2, "time": 0.0, "train/loss": 2.0}, {"step": 4, "time": 1.0, "train/loss": 1.0, "val/accuracy": 0.5})


def test_a_trial_is_given_its_fields_and_says_what_it_came_to(train, tmp_path):
    """Four steps of 16 images; the size is that of the network itself, counted apart."""
    found = train({"label_smoothing": 0.1}, rows=ROWS)
    flags = json.loads((tmp_path / "trials" / "0007" / "flags.json").read_text())
    assert flags["config"] == RECIPE and flags["config.seed"] == "5" and flags["config.label_smoothing"] == "0.1"
    assert int(flags["parent"]) == os.getpid(), "with which train.py ends, however that ends"
    fields = {"stage_sizes": (1, 1), "features": 4, "stem": "small", "dropout_rate": 0.0}
    model = models.create("nasnet_a_mobile", num_classes=10, **fields)
    variables = abstract_variables(model, jnp.zeros((1, 16, 16, 1)), train=False)
    assert found.metrics["params"] == count_params(variables) and found.metrics["macs"] > 0
    assert (found.reward, found.cost, found.metrics["val/accuracy"]) == (0.5, 4 * 16, 0.5)
    assert set(found.metrics) == {"params", "macs", "val/accuracy"}


def test_cells_are_given_as_the_field_of_the_network(train, tmp_path):
    train(GENOTYPE, rows=ROWS, space="cells")
    flags = json.loads((tmp_path / "trials" / "0007" / "flags.json").read_text())
    assert from_json(cli.literal(flags["config.model.fields.genotype"])) == CELLS.from_json(GENOTYPE)


GROWTH = {
    "global_batch_size": 32,
    "num_steps": 8,
    "schedule.name": "step",
    "schedule.step_epochs": [0.25, 0.5],
    "schedule.step_factor": 0.5,
    "schedule.max_batch_size": 128,
}


def test_the_cost_is_in_examples_also_where_the_batch_grows(train):
    """512 images: 4 steps of 32, 2 of 64, 2 of 128."""
    config = configure(RECIPE, {**SMALL, **GROWTH})
    assert [examples(config, step) for step in range(9)] == [0, 32, 64, 96, 128, 192, 256, 384, 512]
    found = train({}, rows=[{**ROWS[1], "step": 7}], overrides={**SMALL, **GROWTH})
    assert found.cost == 384


def test_a_hard_limit_costs_nothing_and_a_soft_one_weighs(train, tmp_path):
    found = train(GENOTYPE, rows=ROWS, space="cells", reward=Reward("params", limit=100.0))
    assert (found.reward, found.cost) == (-math.inf, 0.0) and not (tmp_path / "trials").exists()
    macs = found.metrics["macs"]
    soft = Reward("macs", limit=macs / 2, kind="soft", exponent=-0.5)
    assert train(GENOTYPE, rows=ROWS, space="cells", reward=soft).reward == pytest.approx(0.5 / math.sqrt(2))
    (tmp_path / "trials").rename(tmp_path / "before")
    at_the_limit = Reward("macs", limit=float(macs))
    assert train(GENOTYPE, rows=ROWS, space="cells", reward=at_the_limit).reward == 0.5


def test_seconds_are_measured_before_anything_is_trained(train, tmp_path, monkeypatch):
    monkeypatch.setattr(_search_cost, "measure_seconds", lambda recipe, fields, table: 0.02)
    found = train({}, rows=ROWS, reward=Reward("seconds", limit=0.01))
    assert found.reward == -math.inf and found.metrics["seconds"] == 0.02 and not (tmp_path / "trials").exists()


@pytest.mark.slow
def test_seconds_are_those_of_the_network():
    """On whatever device: more than a microsecond, less than ten seconds; what fails says why in one line."""
    assert 1e-6 < measure_seconds(RECIPE, SMALL) < 10
    with pytest.raises(RuntimeError, match=r"^measuring ended with status 1: ValueError: .*did you mean 'features'"):
        measure_seconds(RECIPE, {"model.fields.featurs": 4})


@pytest.mark.slow
def test_predicted_seconds_come_from_a_table_that_grows(tmp_path):
    """The operators of a deeper network of the same cells are there already; those of a wider one are not."""
    path, recipe = tmp_path / "latency" / "table.json", "configs/nas_bench_201.py:smoke"
    cell = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
    fields = {"model.fields.cell": cell, "model.fields.stage_sizes": [2, 1], "model.fields.features": 4}
    first = measure_seconds(recipe, fields, str(path))
    known = json.loads(path.read_text())["seconds"]
    assert measure_seconds(recipe, fields, str(path)) == pytest.approx(first) and len(known) > 3
    assert first > sum(known.values())  # some are there several times
    deeper = measure_seconds(recipe, fields | {"model.fields.stage_sizes": [3, 1]}, str(path))
    assert deeper > first
    measure_seconds(recipe, fields | {"model.fields.features": 8}, str(path))
    grown = json.loads(path.read_text())["seconds"]
    assert len(grown) > len(known) and grown.items() >= known.items()


def test_a_loss_that_is_not_finite_is_no_failure_and_all_else_is(train, tmp_path):
    diverged = train({}, rows=ROWS[:1], status=1, says="train.py: error: the loss was not finite at step 3")
    assert (diverged.reward, diverged.cost) == (-math.inf, 2 * 16) and "macs" in diverged.metrics
    for status, says in ((1, "IndexError: 3"), (2, "train.py: error: no such field")):
        (tmp_path / "trials").rename(tmp_path / f"before{status}")
        with pytest.raises(RuntimeError, match=f"^train.py ended with status {status}: {says}$"):
            train({}, rows=ROWS, status=status, says=says)


def test_a_metric_that_is_not_there_is_one_line(train):
    with pytest.raises(RuntimeError, match=r"^config.metric=val/accuracy must be in the last row, which has step"):
        train({}, rows=ROWS[:1])


def test_what_is_counted_is_what_the_cell_costs():
    """A cell of identities has fewer parameters than one of 7x7 separable convolutions, in the same network."""
    costs = {}
    for operation in (0, 3):  # identity, sep_conv_7x7
        code = [operation if choices == 8 else 0 for choices in CELLS.choices]
        genotype = CELLS.to_json(CELLS.decode(code))
        costs[operation] = size(configure(RECIPE, {**SMALL, "model.fields.genotype": genotype}))
    assert costs[0]["params"] < costs[3]["params"] and costs[0]["macs"] < costs[3]["macs"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cost": "flops"}, "^config.reward.cost: unknown name 'flops'"),
        ({"kind": "firm"}, "^config.reward.kind: unknown name 'firm'"),
        ({"cost": "macs"}, r"^config.reward.limit=0.0 must be above 0, in macs"),
        ({"cost": "macs", "limit": math.nan}, "must be above 0"),
        ({"exponent": 0.07}, "^config.reward.exponent=0.07 must be below 0"),
        ({"cost": "predicted_seconds", "limit": 1.0}, "^config.reward.latency_table must be a file"),
    ],
)
def test_a_reward_out_of_range_is_one_line(fields, words):
    with pytest.raises(ValueError, match=words):
        Reward(**fields)


CONFIGS = [("cells", arg) for arg in ("", "smoke", "strategy=random,space=nasnet", "strategy=controller,space=nasnet")]
CONFIGS += [("fields", arg) for arg in ("", "smoke", "strategy=random", "strategy=random,smoke")]
CONFIGS += [("darts", f"strategy={arg}") for arg in ("random", "evolution", "random,smoke", "random,cifar10")]


def search_config(name, arg=""):
    return importlib.import_module(f"configs.search.{name}").get_config(arg)


@pytest.mark.parametrize(("name", "arg"), CONFIGS)
def test_every_search_has_the_default_fields_and_can_be_made(name, arg, tmp_path):
    config, usual = search_config(name, arg), default.get_config()
    assert config.is_locked and config.reward.keys() == usual.reward.keys()
    assert config.keys() == usual.keys() and config.space.keys() == usual.space.keys()
    setup = _search_setup.create(config, tmp_path)
    sample = setup.space.sample(np.random.default_rng(0))
    fields = {**config.overrides.to_dict(), **_search_training.fields_of(
        config.space.name, json.loads(json.dumps(setup.space.to_json(sample))))}  # fmt: skip
    recipe = configure(config.recipe, fields)
    assert count_params(abstract_variables(
        models.from_config(recipe.model, num_classes=10),
        jnp.zeros((1, recipe.data.image_size, recipe.data.image_size, recipe.data.num_channels)),
        train=False,
    )) > 1000  # fmt: skip


def test_what_darts_derives_can_be_searched_by_trials(tmp_path):
    """Of the cells that its supernet has, and the operations; the paper's cells where CIFAR-10 is."""
    for arg in ("", "smoke", "cifar10"):
        supernet = search_config("darts", arg).supernet
        space = _search_setup.create(
            search_config("darts", ",".join(filter(None, ("strategy=random", arg)))), tmp_path
        ).space
        assert space.num_nodes == supernet.num_nodes and set(supernet.operations) <= {"none", *space.operations}
    assert DARTS_V2.normal.concat == (2, 3, 4, 5) and space.encode(DARTS_V2)


def test_the_spaces_of_the_config_are_the_papers(tmp_path):
    for space, size_of_a_cell in (("amoebanet", 720**2 * 64**5), ("nasnet", 720**2 * 338**5)):
        setup = _search_setup.create(search_config("cells", f"space={space},strategy=random"), tmp_path)
        assert setup.space.cell_size == size_of_a_cell


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space.name": "cell"}, "^config.space.name: unknown name 'cell'; did you mean 'cells'"),
        ({"space.fields": {"num_node": 3}}, "^config.space.fields: .*num_node.*; see its class"),
        ({"space.fields": {"num_nodes": 0}}, "^CellSpace: num_nodes=0 must be at least 1"),
        ({"strategy.fields": {"sample": 3}}, "^config.strategy.fields: .*'sample'"),
        ({"recipe": "configs/shufflenet_v2.py"}, "genotype"),
        ({"reward.cost": "macs"}, "^config.reward.limit=0.0 must be above 0"),
        (
            {"reward.cost": "seconds", "reward.limit": 1.0, "executor": "processes", "num_parallel": 2},
            "^config.reward.cost=seconds is measured while other trials train; set config.num_parallel=2 to 1",
        ),
        ({"executor": "together"}, "^config.executor=together is for config.evaluator=one_program, not train"),
        ({"executor_fields": {"address": "auto"}}, "^config.executor_fields: .*takes no arguments; see its class"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(changes, words, tmp_path):
    config = search_config("cells", "strategy=random")
    for path, value in changes.items():
        group, _, name = path.rpartition(".")
        (config[group] if group else config)[name] = type(config)(value) if isinstance(value, dict) else value
    if changes.get("recipe"):
        config.overrides = type(config)()
    with pytest.raises(ValueError, match=words) as error:
        _search_setup.create(config, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arg", ["strategy=annealing", "space=pnasnet", "spaces=nasnet"])
def test_arguments_of_a_search_are_checked(arg):
    with pytest.raises(ValueError, match="unknown name"):
        search_config("cells", arg)
    with pytest.raises(ValueError, match="unknown name"):
        search_config("darts", arg)


def test_the_best_cell_is_written_as_a_recipe_and_as_a_picture(tmp_path):
    config = search_config("cells", "smoke")
    best = Trial(3, DARTS_V2.to_json(), seed=0, reward=0.75, cost=64.0, seconds=1.0)
    path = _search_report.write_best(config, tmp_path, best, 8)
    recipe = cli.load_recipe(str(path))
    assert resolve(recipe.model.fields.genotype) == DARTS_V2 and recipe.num_steps == 2
    assert "Trial 3" in path.read_text() and "0.7500" in path.read_text()
    assert (tmp_path / "best_cell.png").read_bytes().startswith(b"\x89PNG")


def test_searches_to_compare_have_trials(tmp_path):
    for folder in ("one/run", "two/run", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    trial = Trial(0, NASNET_A.to_json(), seed=0, reward=-math.inf, cost=0.0, seconds=1.0)
    for folder in ("one/run", "two/run"):
        trials.append(tmp_path / folder / "trials.jsonl", trial)
    folders = [str(tmp_path / "one/run"), str(tmp_path / "two/run")]
    found = _search_report.read_others(folders, "own")
    assert list(found) == ["run", folders[1]] and list(_search_report.read_others(folders, "run")) == folders
    for is_timed, width in ((True, 1200), (False, 600)):  # two panels, or one
        _search_report.plot(found, tmp_path / "search.png", "val/accuracy", "training examples", is_timed=is_timed)
        assert int.from_bytes((tmp_path / "search.png").read_bytes()[16:20], "big") == width
    for missing in ("empty", "nowhere"):
        with pytest.raises(ValueError, match=f"^--compare={tmp_path / missing} has no trials in a trials.jsonl"):
            _search_report.read_others([str(tmp_path / missing)], "own")


def test_the_figure_leaves_out_what_lies_far_below():
    """Of 0.79 to 0.83 around the median of 0.8, 0.1 is further below than twice the best is above."""
    assert _search_report.shown([0.81, 0.1, 0.8, 0.83, 0.79]) == pytest.approx((0.788, 0.832))
    assert _search_report.shown([0.7, 0.8, 0.9]) == pytest.approx((0.69, 0.91))
    climb = [0.1, 0.4, 0.8, 0.82, 0.84, 0.85, 0.86]  # two of seven are far below, and what it is about
    assert _search_report.shown(climb) == pytest.approx((0.062, 0.898))
    assert _search_report.shown([0.5]) == pytest.approx((0.45, 0.55))
