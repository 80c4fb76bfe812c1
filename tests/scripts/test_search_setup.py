"""What the config of a search stands for, and what is refused before anything is trained."""

import math

import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from arch.ops.activation import ACTIVATIONS
from arch.search import trials
from arch.search.space import Choices
from arch.search.spaces.nas_bench_201 import NASBench201Space
from configs import cli
from configs.search import default
from scripts import _search_setup
from scripts._devices import Devices
from scripts._search_setup import check_devices, check_machine, create

CELLS = "configs/search/nas_bench_201.py"


def config(recipe=CELLS, **fields):
    made = cli.load_recipe(recipe)
    with made.unlocked():
        for name, value in fields.items():
            node = made
            *groups, last = name.split("__")
            for group in groups:
                node = node[group]
            node[last] = default.fields(value) if isinstance(value, dict) else value
    return made


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"metric": "val/acuracy"}, "config.metric: unknown name 'val/acuracy'; did you mean 'val/accuracy'"),
        ({"metric": "val/ema_accuracy"}, "config.metric: unknown name 'val/ema_accuracy'"),
        ({"metric": "val/loss"}, "config.metric: unknown name 'val/loss'"),
        (
            {"overrides": {"data.val_split": "", "data.test_split": ""}},
            r"config\.recipe must evaluate something; set config\.overrides\.data\.val_split",
        ),
        ({"overrides": {"model.dtype": "float64"}}, r"model\.dtype=float64 must be another one for evaluator=one_pro"),
        ({"overrides": {"ema_decay": 0.9}}, r"ema_decay=0\.9 must be 0\.0 for evaluator=one_program"),
        ({"space__fields": {"include_current": 1}}, r"space\.fields\.include_current=1 must be of type bool"),
        (
            {"space__name": "graphs", "space__fields": {"act": "relu"}},
            r"config\.space\.fields\.act is the recipe's; set config\.overrides\.model\.fields\.act",
        ),
        (
            {"space__name": "graphs", "space__fields": {"image_shape": (28, 28, 1)}},
            r"config\.space\.fields\.image_shape is the recipe's; set config\.overrides\.data\.image_size",
        ),
        ({"strategy__fields": {"sample_size": 2.5}}, r"strategy\.fields\.sample_size=2\.5 must be of type int, as 25"),
        ({"strategy__fields": {"no_change_rate": "a"}}, r"no_change_rate='a' must be of type float, as 0\.05"),
        ({"strategy__fields": {"replace": 1}}, "replace=1 must be of type bool, as True"),
        ({"strategy__fields": {"sample": 2}}, r"config\.strategy\.fields: .*sample"),
        ({"overrides": {"seed": 3}}, "seed=3 must not be a field of trials, which have their own"),
        ({"evaluator": "table"}, r"config\.table must be the trials\.jsonl of a search for config\.evaluator=table"),
        (
            {"executor": "ray", "executor_fields": {"resources": {"num_gpus": 1}}},
            "config.evaluator=one_program compiles anew for every trial where Ray gives it a GPU",
        ),
        (
            {"reward__cost": "seconds", "reward__limit": 1.0, "executor": "ray", "num_parallel": 2},
            r"config\.reward\.cost=seconds is measured while other trials train; set config\.num_parallel=2 to 1",
        ),
    ],
)
def test_what_cannot_be_searched_is_one_line(tmp_path, fields, words):
    with pytest.raises(ValueError, match=words) as error:
        create(config(**fields), tmp_path)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_real_ones_too(tmp_path):
    assert create(config(strategy__fields={"no_change_rate": 0}), tmp_path).strategy
    assert create(config(metric="test/top5_accuracy"), tmp_path).evaluate.metric == "test/top5_accuracy"


def test_a_table_of_another_space_is_one_line(tmp_path):
    path = tmp_path / "trials.jsonl"
    trials.append(path, trials.Trial(0, {"rate": 0.1}, 0, 0.5, 1.0, 1.0, metrics={"val/accuracy": 0.5}))
    with pytest.raises(ValueError, match=r"architecture of trial 0 must be of this space, not {'rate': 0\.1}"):
        create(config(evaluator="table", table=str(path)), tmp_path)


def test_data_that_trials_would_miss_are_one_line(tmp_path):
    missing = config("configs/search/fields.py:smoke", overrides={"data.name": "fashion_mnist", "data.dir": "none"})
    with pytest.raises(FileNotFoundError, match=r"data\.name=fashion_mnist: not found in data\.dir=none; prepare it"):
        check_machine(missing, create(missing, tmp_path), tmp_path)
    for name in ("train/cat", "train/dog"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / name / "0.png")
    splits = {"data.train_split": "train", "data.val_split": "train", "data.test_split": ""}
    few = {"data.name": "folder", "data.dir": str(tmp_path), **splits}
    top5 = config("configs/search/fields.py:smoke", overrides=few, metric="val/top5_accuracy")
    with pytest.raises(ValueError, match=r"config\.metric: unknown name 'val/top5_accuracy'"):
        check_machine(top5, create(top5, tmp_path), tmp_path)
    there = config("configs/search/fields.py:smoke")
    check_machine(there, create(there, tmp_path), tmp_path)


def test_every_value_that_is_searched_can_be_split_over_the_devices_of_a_trial():
    """Unless each has one of its own, or all are of one program."""

    def of(**fields):
        return config("configs/search/fields.py:smoke", **fields)

    four = Devices("cuda,cpu", 4)
    good, bad = [{"global_batch_size": 16, "eval_batch_size": 8}], [{"global_batch_size": 16, "num_micro_batches": 8}]
    check_devices(of(), four, good)
    check_devices(of(), Devices("cuda,cpu", 1), good + bad)
    with pytest.raises(ValueError, match=r"=16 of a trial must be a multiple of its 4 devices x num_micro_batches=8;"):
        check_devices(of(), four, good + bad)
    with pytest.raises(ValueError, match=r"eval_batch_size=6 of a trial must be a multiple of its 4 devices; set"):
        check_devices(of(), four, [{"eval_batch_size": 6}])
    own = {"executor_fields": {"device_variable": "CUDA_VISIBLE_DEVICES"}}
    check_devices(of(executor="processes", num_parallel=4, **own), four, bad)
    with pytest.raises(ValueError, match=r"config\.num_parallel=5 must be at most the 4 devices of this machine"):
        check_devices(of(executor="processes", num_parallel=5, **own), four, good)
    check_devices(of(evaluator="one_program"), four, bad)


def test_a_search_does_not_go_on_with_another_table(tmp_path):
    """As its file may have been made anew between two stops; a trial that failed says nothing of it."""
    cells = [NASBench201Space(("none",)).to_json(Choices((0,) * 6))]
    table = tmp_path / "table.jsonl"
    for number, reward in enumerate((0.5, 0.6)):
        trials.append(table, trials.Trial(number, cells[0], 0, reward, 1.0, 1.0, metrics={"val/accuracy": reward}))
    looked_up = config(evaluator="table", table=str(table), space__fields={"operations": ("none",)})
    setup = create(looked_up, tmp_path)
    check_machine(looked_up, setup, tmp_path)  # no trials yet
    path = tmp_path / "trials.jsonl"
    trials.append(path, trials.Trial(0, cells[0], 3, 0.6, 1.0, 1.0))
    trials.append(path, trials.Trial(1, cells[0], 3, -math.inf, 0.0, 0.0, error="OSError: x"))
    check_machine(looked_up, setup, tmp_path)
    trials.append(path, trials.Trial(2, cells[0], 2, 0.6, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"config\.table gives trial 2 a reward of 0\.5, and .* has 0\.6 of another"):
        check_machine(looked_up, setup, tmp_path)


@pytest.mark.parametrize(("act", "deepens"), [(None, True), ("swish", False)])
def test_graphs_change_as_the_activation_of_the_recipe_allows(tmp_path, act, deepens):
    fields = {"overrides": {"num_steps": 2} | ({"model.fields.act": act} if act else {})}
    space = create(config("configs/search/morphisms.py:smoke", **fields), tmp_path).space
    rng = np.random.default_rng(0)
    kinds = {space.morph(rng, space.start)[1]["morphism"] for _ in range(40)}
    assert ("deepen" in kinds) == deepens and "widen" in kinds
    assert space._options["act"] is (ACTIVATIONS[act] if act else nn.relu)


def test_graphs_cost_what_they_do_on_the_images_of_the_recipe(tmp_path):
    """Convolutions of 16, 32 and 64 features on maps of 140, 70 and 35 pixels, and a classifier."""
    recipe = "configs/search/morphisms.py"
    assert create(config(recipe), tmp_path).space.start  # at 28 pixels it is within the limit
    macs = 9 * (140**2 * 16 + 70**2 * 16 * 32 + 35**2 * 32 * 64) + 64 * 10
    with pytest.raises(ValueError, match=f"GraphSpace: the start has params=24058 and macs={macs}, which must be at m"):
        create(config(recipe, overrides={"data.image_size": 140}), tmp_path)


@pytest.mark.parametrize("name", _search_setup.STRATEGIES)
def test_every_strategy_can_be_named(tmp_path, name):
    recipe = "configs/search/morphisms.py" if name == "hill_climbing" else CELLS
    made = create(config(recipe, strategy__name=name, strategy__fields={}), tmp_path)
    assert type(made.strategy) is _search_setup.STRATEGIES[name]
    assert type(made.space) is _search_setup.SPACES["graphs" if name == "hill_climbing" else "nas_bench_201"]


@pytest.mark.parametrize("name", ["fields", "cells", "darts"])
def test_every_space_can_be_named(tmp_path, name):
    made = create(config(f"configs/search/{name}.py:smoke,strategy=random"), tmp_path)
    assert type(made.space) is _search_setup.SPACES[name]
