"""Hill climbing: whose child each proposal is, alone and in parallel, and that it only goes up."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest
from flax import linen as nn

from arch.efficiency.complexity import count
from arch.models.classification.graph_net import GraphNet
from arch.models.graphs import NASH, chain, resolve
from arch.search import morphism, run, trials
from arch.search.space import CategoricalSpace
from arch.search.spaces.graphs import GraphSpace
from arch.search.spaces.synthetic import NkLandscape, OneMax
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.hill_climbing import HillClimbing, Morphing
from arch.search.strategies.random_search import RandomSearch
from arch.search.trials import Evaluation, Trial
from tests.models import graph_oracle
from tests.models.checks import random_variables
from tests.models.families.graph_net import CASES
from tests.ranks import mann_whitney

SPACE = CategoricalSpace((4,) * 12)
GRAPHS = GraphSpace("2,3", image_shape=(4, 4, 1), factors=(2,))


def trial(number, reward):
    return Trial(number, None, 0, reward, 1.0, 0.0)


def told(strategy, rewards):
    """Proposals, told in turn with these rewards."""
    proposals = []
    for number, reward in enumerate(rewards):
        proposals.append(strategy.ask())
        strategy.tell(proposals[-1].architecture, trial(number, reward))
    return proposals


def climb(evaluate, *, space=GRAPHS, num_trials=21, seed=0, path=None, num_parallel=1, **fields):
    strategy = HillClimbing(space, seed=seed, **{"num_children": 4, "num_changes": 2, **fields})
    return run.search(strategy, space, evaluate, num_trials=num_trials, path=path, seed=seed, num_parallel=num_parallel)


def noisy(job):
    return Evaluation(float(np.random.default_rng(job.seed).normal()))


def without_clock(found):
    return [{**vars(one), "seconds": None} for one in found]


def test_the_best_of_a_step_is_the_parent_of_the_next():
    """What is told within a step changes nothing in it."""
    proposals = told(
        HillClimbing(GRAPHS, seed=0, num_children=3, num_changes=2), [0.1, 0.2, 0.9, 0.3, 0.4, 0.8, 0.5, 0]
    )
    assert proposals[0].architecture == GRAPHS.start and proposals[0].parent is None and proposals[0].change is None
    assert [one.parent for one in proposals[1:]] == [0, 0, 0, 2, 2, 2, 2], "0.8 is less than 0.9"
    for number, one in enumerate(proposals[1:]):
        assert len(one.change) == (0 if number % 3 == 0 else 2)
        graph = proposals[one.parent].architecture
        for change in json.loads(json.dumps(one.change)):
            graph = morphism.grow(graph, change)
        assert graph == one.architecture, "the change is all that was changed"


@pytest.mark.parametrize(("rewards", "parent"), [([0.5, 0.5, 0.5, 0.5], 1), ([0.5, 0.4, 0.5, 0.5], 2)])
def test_of_equal_ones_the_latest_step_wins_and_in_it_the_first(rewards, parent):
    """The parent that was trained on, before those that cost more."""
    strategy = HillClimbing(GRAPHS, seed=0, num_children=3)
    told(strategy, rewards)
    assert strategy.ask().parent == parent


def test_options_show():
    for fields, sizes in (({}, [0] + [5] * 7 + [0]), ({"num_children": 2, "num_changes": 3}, [0, 3, 0, 3, 0])):
        strategy = HillClimbing(GRAPHS, seed=0, **fields)
        proposals = told(strategy, [1.0] + [0.0] * len(sizes))
        assert [len(one.change) for one in proposals[1:]] == sizes
    one, other = (told(HillClimbing(GRAPHS, seed=seed), [0.0] * 3)[2] for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("num_parallel", [1, 3, 7])
@pytest.mark.parametrize("space", [GRAPHS, SPACE])
def test_it_only_goes_up_whatever_the_noise(space, num_parallel):
    """A parent is never worse than the one of a step before, and the best that could be known."""
    found = climb(noisy, space=space, num_parallel=num_parallel, num_trials=30)
    starts = [one for one in found if one.parent is None]
    assert [one.id for one in starts] == list(range(num_parallel)), "as long as nothing has been told"
    children = found[num_parallel:]
    parents = [found[one.parent].reward for one in children]
    assert len(children) > 20 and parents[0] < parents[-1]
    for place, one in enumerate(children):
        # Trials of the steps before, as far as they had been told of.
        known = [other for other in found if other.id < num_parallel + place - place % 4 and
                 other.id <= one.id - num_parallel]  # fmt: skip
        assert found[one.parent].reward == max(other.reward for other in known)
        assert place % 4 or one.architecture == found[one.parent].architecture
    by_step = parents[3::4]
    assert by_step == sorted(by_step)


@pytest.mark.parametrize("num_parallel", [1, 3])
def test_killed_and_resumed_it_is_the_search_that_was_not(tmp_path, num_parallel):
    expected = climb(noisy, path=tmp_path / "whole", num_parallel=num_parallel)
    assert without_clock(expected) == without_clock(climb(noisy, num_parallel=num_parallel))
    assert without_clock(expected) != without_clock(climb(noisy, num_parallel=num_parallel, seed=1))
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    for killed_after in (1, 4, 10):
        path = tmp_path / f"cut{killed_after}"
        path.write_text("".join(lines[:killed_after]))
        evaluated = []
        found = climb(lambda job, to=evaluated: to.append(job.id) or noisy(job), path=path, num_parallel=num_parallel)
        assert evaluated == list(range(killed_after, 21))
        assert without_clock(found) == without_clock(expected)


def test_what_failed_is_nobodys_parent_and_without_a_success_it_starts_again():
    strategy = HillClimbing(GRAPHS, seed=0, num_children=2)
    proposals = told(strategy, [-math.inf, -math.inf, 0.1, -math.inf, -math.inf, 0.0])
    assert [one.parent for one in proposals] == [None, None, None, 2, 2, 2]
    assert [one.architecture for one in proposals[:3]] == [GRAPHS.start] * 3
    assert strategy.ask().parent == 2


def test_a_space_without_morphisms_is_climbed_too():
    """Bits, one change a child: after 15 steps of 8 children most of 20 are right, and no step goes down."""
    task = OneMax(num_bits=20, noise=0.0)
    assert isinstance(GRAPHS, Morphing) and not isinstance(task.space, Morphing)
    found = climb(task, space=task.space, num_trials=121, num_children=8, num_changes=1)
    assert {one.change for one in found[1:]} == {"none", "mutation"}
    assert trials.best(found).reward >= 0.95
    for one in found[1:]:
        distance = sum(a != b for a, b in zip(one.architecture, found[one.parent].architecture, strict=True))
        assert distance == (one.change == "mutation")


@pytest.mark.slow
def test_it_beats_random_search_on_a_rugged_landscape():
    """NK with N=20, K=4, 20 seeds of 200 trials each, and random search does not beat itself."""
    task = NkLandscape()

    def best(make, seed):
        return trials.best(run.search(make(seed), task.space, task, num_trials=200, path=None, seed=seed)).reward

    ours = [best(lambda s: HillClimbing(task.space, seed=s, num_changes=2), seed) for seed in range(20)]
    control = [best(lambda s: RandomSearch(task.space, seed=s), seed) for seed in range(40)]
    assert mann_whitney(ours, control[:20]) < 1e-3 < mann_whitney(control[:20], control[20:])


class Untrained:
    """Keeps the weights of every trial, changed from its parent's, and trains none."""

    def __init__(self, reward):
        rng = np.random.default_rng(0)
        self.x, self.reward = rng.standard_normal((8, *self.shape)), reward
        self.kept, self.logits = {}, []

    shape = (4, 4, 1)

    def __call__(self, job):
        graph = GRAPHS.from_json(job.architecture)
        if job.parent is None:
            variables = start_weights()
        else:
            before, variables = self.kept[job.parent]
            for change in job.change:
                before, variables = morphism.apply(before, variables, change)
            assert before == graph
        self.kept[job.id] = graph, variables
        self.logits.append(graph_oracle.logits(graph, variables, self.x))
        return Evaluation(self.reward(job))


@functools.cache
def start_weights():
    variables = random_variables(GraphNet(10, GRAPHS.start), np.zeros((1, *Untrained.shape)))
    return {name: dict(tree) for name, tree in variables.items()}


def test_without_training_the_score_is_constant():
    """However the chain of morphisms goes: here the latest is always the best, so that it is as long as can be."""
    evaluate = Untrained(lambda job: float(job.id))
    found = climb(evaluate, num_trials=13)
    assert found[-1].parent == 8 and found[8].parent == 4, "the last of each step"
    assert len(GRAPHS.from_json(found[-1].architecture).nodes) > len(GRAPHS.start.nodes)
    first = evaluate.logits[0]
    for logits in evaluate.logits:
        np.testing.assert_allclose(logits, first, rtol=0, atol=1e-12 * np.abs(first).max())


def test_a_cap_on_cost_is_kept_and_reached():
    """Of parameters, or of multiply-adds; where nothing fits, nothing changes."""
    rng = np.random.default_rng(0)
    for index, fields in enumerate(({"max_params": 400}, {"max_macs": 6000})):
        space = GraphSpace("2,3", image_shape=(4, 4, 1), factors=(2,), **fields)
        (most,) = fields.values()
        graph, costs = space.start, []
        for _ in range(12):
            graph, change = space.morph(rng, graph)
            costs.append(graph_oracle.cost(graph, (4, 4, 1), 10)[index])
            if change is None:
                break
        assert max(costs) <= most < 1.7 * max(costs)
    full = GraphSpace("2,3", image_shape=(4, 4, 1), max_params=graph_oracle.cost(chain((2, 3)), (4, 4, 1), 10)[0])
    assert full.morph(rng, full.start) == (full.start, None)
    (_, child) = told(HillClimbing(full, seed=0, num_children=2), [0.0, 0.0, 0.0])[1:]
    assert child.change == [] and child.architecture == full.start


@pytest.mark.parametrize("head", ["mean", "flatten"])
def test_a_cost_is_what_tracing_finds(head):
    """Every kind of node, and sizes that do not divide."""
    graph = dataclasses.replace(resolve(CASES[1].fields["graph"]), head=head)
    counted = count(GraphNet(7, graph), (1, 9, 5, 2), train=False)
    assert GraphSpace(graph, image_shape=(9, 5, 2), num_classes=7).cost(graph) == (counted.params, counted.macs)


def test_a_graph_is_written_as_a_field_of_a_recipe():
    space = GraphSpace(NASH, field="model.fields.other")
    rng = np.random.default_rng(0)
    graph = space.mutate(rng, space.mutate(rng, space.sample(rng)))
    written = json.loads(json.dumps(space.to_json(graph)))
    assert set(written) == {"model.fields.other"} and space.from_json(written) == graph != NASH
    with pytest.raises(ValueError, match=r"must have the field model\.fields\.other alone"):
        space.from_json({"graph": "2,3"})


def test_other_strategies_search_graphs_too():
    for strategy in (Evolution(GRAPHS, seed=0, population_size=2, sample_size=1), RandomSearch(GRAPHS, seed=0)):
        found = run.search(strategy, GRAPHS, noisy, num_trials=6, path=None, seed=0)
        assert all(GRAPHS.from_json(one.architecture) for one in found)
    assert f"{GRAPHS.size:.4g}" == "inf", "as scripts/search.py tells it"
    for call in (lambda: GRAPHS.encode(GRAPHS.start), lambda: GRAPHS.decode((0,))):
        with pytest.raises(ValueError, match="a graph has no code of fixed length"):
            call()


def test_a_sample_is_the_start_after_as_many_morphisms_as_there_may_be():
    """The control of hill climbing: every number of them, within the limit, and not the start alone."""
    rng = np.random.default_rng(0)
    assert GRAPHS.sample(rng) == GRAPHS.start
    space = GraphSpace("2,3", sample_changes=3, image_shape=(4, 4, 1), factors=(2,), max_params=400)
    graphs = [space.sample(rng) for _ in range(60)]
    assert max(graph_oracle.cost(graph, (4, 4, 1), 10)[0] for graph in graphs) <= 400
    unchanged = sum(graph == space.start for graph in graphs)
    assert 5 <= unchanged <= 27, "a quarter of them: within three standard deviations"
    assert len({graph.to_text() for graph in graphs}) > 10


def test_options_of_the_space_reach_the_morphisms():
    space = GraphSpace("2,3,3", kernel_sizes=(4,), factors=(3,), forms=("copy",), uneven=0.25)
    rng = np.random.default_rng(0)
    changes = [space.morph(rng, space.start)[1] for _ in range(60)]
    assert {change["kernel_size"] for change in changes if "kernel_size" in change} == {4}
    widened = [change for change in changes if change["morphism"] == "widen"]
    assert {(change["features"], change["form"], change["uneven"]) for change in widened} == {
        (6, "copy", 0.25),
        (9, "copy", 0.25),
    }


@pytest.mark.parametrize(("act", "deepens"), [(nn.relu, True), (nn.relu6, True), (nn.swish, False)])
def test_a_layer_is_put_in_where_the_activation_allows_it(act, deepens):
    rng = np.random.default_rng(0)
    space = GraphSpace("2,3,3", act=act)
    changes = [space.morph(rng, space.start)[1] for _ in range(60)]
    assert any(change["morphism"] == "deepen" for change in changes) == deepens


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: HillClimbing(GRAPHS, seed=0, num_children=1), "num_children=1 must be at least 2"),
        (lambda: HillClimbing(GRAPHS, seed=0, num_changes=0), "num_changes=0 at least 1"),
        (
            lambda: GraphSpace("2,3", image_shape=(4, 4, 1), max_params=100),
            "the start has params=.* at most max_params=100",
        ),
        (lambda: GraphSpace("2;3"), "the text is no JSON"),
        (lambda: GraphSpace("2,3", sample_changes=-1), "sample_changes=-1 must not be negative"),
        (lambda: GraphSpace("2,3", kernel_sizes=(3, 0)), r"kernel_sizes=\(3, 0\) must be whole numbers from 1 up"),
        (lambda: GraphSpace("2,3", factors=(1.5,)), r"factors=\(1.5,\) must be whole numbers from 2 up"),
        (lambda: GraphSpace("2,3", forms=("copi",)), "GraphSpace: forms: unknown name 'copi'; did you mean 'copy'"),
        (lambda: GraphSpace("2,3", uneven=1.0), "uneven=1.0 must be in"),
        (lambda: GraphSpace("2,3", act="swish"), "act=swish must be a function; arch.ops.activation has many"),
    ],
)
def test_fields_out_of_range_are_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
