"""Trials that start from their parent's weights: read from its checkpoint, changed, trained on by train.py."""

import contextlib
import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest

from arch.efficiency.complexity import abstract_variables
from arch.models.classification.graph_net import GraphNet
from arch.models.graphs import chain, resolve
from arch.search import morphism, run
from arch.search.spaces.graphs import GraphSpace
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.hill_climbing import HillClimbing
from arch.search.strategies.random_search import RandomSearch
from arch.search.trials import Evaluation, Job
from arch.training.checkpoint import Checkpointer, flatten
from arch.weights.convert import from_ours
from arch.weights.files import read
from configs import cli
from scripts._search_morphing import Morphing, read_variables, write_start
from scripts._search_training import Training
from tests.models import graph_oracle
from tests.models.checks import random_variables

CHANGES = [
    {"morphism": "deepen", "after": "conv2", "kernel_size": 3},
    {"morphism": "widen", "node": "conv1", "features": 5, "form": "copy", "uneven": 0.5, "seed": 1},
    {"morphism": "blend", "node": "conv3", "source": "conv2"},
]


@pytest.fixture
def parent(tmp_path):
    """The folder of a run of another epsilon, with two checkpoints, and the weights of the newer one."""
    graph, folder = chain((2, 3), head="flatten"), tmp_path / "0003"
    variables = [random_variables(GraphNet(4, graph), np.zeros((1, 6, 6, 1)), seed) for seed in (0, 1)]
    folder.mkdir()
    model = {"name": "graph_net", "fields": {"graph": graph.to_text()}, "norm": {"fields": {"epsilon": 0.5}}}
    (folder / "config.json").write_text(json.dumps({"model": model}))
    with contextlib.closing(Checkpointer(str(folder / "checkpoints"))) as checkpoints:
        for step, tree in enumerate(variables, start=1):
            checkpoints.save(step, {**tree, "step": np.int32(step), "opt_state": {"params": np.zeros(3)}})
    return folder, graph, variables[1]


def test_a_start_computes_what_the_parents_last_checkpoint_does(x64, parent, tmp_path):
    """From the file alone, in its own graph, with the parent's epsilon; complete for train.py's init_from."""
    folder, graph, variables = parent
    np.testing.assert_equal(flatten(read_variables(folder)), flatten(variables))
    path = tmp_path / "start.safetensors"
    grown = write_start(folder, CHANGES, path)
    x = np.random.default_rng(2).standard_normal((5, 6, 6, 1))
    expected = graph_oracle.logits(graph, variables, x, epsilon=0.5)
    for change in CHANGES:
        graph = morphism.grow(graph, change)
    shapes = abstract_variables(GraphNet(4, graph), jax.ShapeDtypeStruct(x.shape, x.dtype), train=False)
    loaded = from_ours("start", shapes, read(str(path)))
    assert grown == graph and loaded.new == ()
    found = graph_oracle.logits(grown, loaded.variables, x, epsilon=0.5)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_a_parent_without_a_checkpoint_is_told(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model": {"fields": {"graph": "2,3"}}}))
    with pytest.raises(RuntimeError, match="must hold a checkpoint, for a child to start from"):
        write_start(tmp_path, [], tmp_path / "start.safetensors")
    assert not (tmp_path / "start.safetensors").exists()


def test_what_has_no_morphisms_begins_anew_and_the_others_from_a_file(monkeypatch, parent):
    """The start of a trial that was stopped is not made again."""
    folder, graph, _ = parent
    seen = []
    monkeypatch.setattr(Training, "__call__", lambda self, job: seen.append(job) or Evaluation(0.0))
    evaluate = Morphing("recipe", {}, "val/accuracy", str(folder.parent))
    field = {"model.fields.graph": graph.to_text()}
    for parent_id, change in ((None, None), (3, "mutation"), (3, [])):
        evaluate(Job(7, field, 0, parent_id, change))
    assert [job.architecture for job in seen[:2]] == [field] * 2
    start = folder.parent / "0007.safetensors"
    assert seen[2].architecture == {**field, "init_from": str(start)} and seen[2].id == 7
    before = start.stat().st_mtime_ns
    evaluate(Job(7, field, 0, 3, []))
    assert start.stat().st_mtime_ns == before


def climb(folder, evaluate):
    space = GraphSpace("3,4", image_shape=(16, 16, 1), factors=(2,))
    strategy = HillClimbing(space, seed=0, num_children=2, num_changes=3)
    return run.search(strategy, space, evaluate, num_trials=3, path=folder / "trials.jsonl", seed=0)


@pytest.mark.slow
def test_trained_without_a_rate_children_score_what_their_parent_does(tmp_path):
    """By train.py, with norms that keep their statistics: what is evaluated is what the parent was, to the last digit.

    So all of it is handed on: parameters and statistics, through file, flag and graph; their seeds differ.
    """
    still = {"num_steps": 1, "schedule.base_learning_rate": 0.0, "model.norm.fields.momentum": 1.0}
    evaluate = Morphing("configs/graph_net.py:smoke", still, "val/accuracy", str(tmp_path / "trials"))
    found = climb(tmp_path, evaluate)
    assert [one.error for one in found] == [None] * 3 and [one.parent for one in found] == [None, 0, 0]
    assert found[1].change == [] and len(found[2].change) == 3
    assert found[2].architecture != found[0].architecture
    for one in found[1:]:
        assert one.metrics["val/loss"] == pytest.approx(found[0].metrics["val/loss"], rel=1e-5)
        assert one.reward == found[0].reward

    def never(job):
        raise AssertionError("all trials are known")

    again = climb(tmp_path, never)
    assert [dataclasses.replace(one, seconds=0.0) for one in again] == [
        dataclasses.replace(one, seconds=0.0) for one in found
    ]


@pytest.mark.parametrize("arg", ["", "smoke", "strategy=evolution", "strategy=random", "strategy=random,smoke"])
def test_the_recipe_of_a_search_fits_its_space_and_strategies(arg):
    """Its fields are those of what they are for; each trial follows a cosine from 0.05 to 0."""
    config = importlib.import_module("configs.search.morphisms").get_config(arg)
    assert config.is_locked
    space = GraphSpace(**config.space.fields)
    strategies = {"hill_climbing": HillClimbing, "evolution": Evolution, "random": RandomSearch}
    strategy = strategies[config.strategy.name](space, seed=config.seed, **config.strategy.fields)
    proposal = strategy.ask()
    fields = {**config.overrides.to_dict(), **space.to_json(proposal.architecture)}
    recipe = cli.override(cli.load_recipe(config.recipe), fields, "test")
    assert resolve(recipe.model.fields.graph) == proposal.architecture
    others = [strategy.ask().architecture for _ in range(9)]
    assert any(graph != space.start for graph in others) == ("random" in arg), "others are told of the start first"
    assert recipe.data.val_split and (recipe.schedule.name, recipe.schedule.end_learning_rate) == ("cosine", 0.0)
    if "smoke" not in arg:
        assert (recipe.schedule.base_learning_rate, recipe.schedule.warmup_epochs) == (0.05, 0.0)
        assert not recipe.data.test_split, "nothing is selected on the test split"


def test_the_recipe_of_a_search_names_its_strategies():
    with pytest.raises(ValueError, match="strategy: unknown name 'climb'; did you mean 'hill_climbing'"):
        importlib.import_module("configs.search.morphisms").get_config("strategy=climb")


def test_the_activation_of_the_network_is_that_of_the_morphisms(parent, tmp_path):
    """swish(swish(x)) is another function: a layer behind it would not be the identity; where it is wider, it is."""
    folder, _, _ = parent
    config = json.loads((folder / "config.json").read_text())
    config["model"]["fields"]["act"] = "swish"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="deepen: act=swish must be the same when it is applied twice"):
        write_start(folder, CHANGES[:1], tmp_path / "start.safetensors")
    write_start(folder, CHANGES[1:2], tmp_path / "start.safetensors")
