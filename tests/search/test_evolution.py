"""Aging evolution: the queue, its tournaments and mutations, and that it beats random search where it should."""

import functools
import math
import types

import numpy as np
import pytest

from arch.search import run, trials
from arch.search.space import CategoricalSpace, Choices
from arch.search.spaces.synthetic import NkLandscape, OneMax
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.random_search import RandomSearch
from arch.search.trials import Job, Trial
from tests.ranks import mann_whitney

SPACE = CategoricalSpace((4,) * 6)


def trial(number, reward):
    return Trial(number, None, 0, reward, 1.0, 0.0)


def told(strategy, rewards):
    """Proposals, told in turn with these rewards."""
    proposals = []
    for number, reward in enumerate(rewards):
        proposals.append(strategy.ask())
        strategy.tell(proposals[-1].architecture, trial(number, reward))
    return proposals


def test_the_oldest_dies_however_good_it_is():
    strategy = Evolution(SPACE, seed=0, population_size=3, sample_size=2)
    told(strategy, [9.0, 1.0, 2.0, 3.0])
    assert [one.id for one in strategy.population] == [1, 2, 3]


def test_children_are_of_the_best_of_the_sample_and_one_field_away():
    strategy = Evolution(SPACE, seed=1, population_size=20, sample_size=200, no_change_rate=0.0)
    proposals = told(strategy, [float(n == 7) for n in range(20)])
    assert all(one.parent is None for one in proposals)
    for _ in range(30):
        child = strategy.ask()
        assert child.parent == 7 and child.change == "mutation"
        distance = sum(a != b for a, b in zip(child.architecture.values, proposals[7].architecture.values, strict=True))
        assert distance == 1
    assert strategy.population[7].id == 7, "asking changes nothing"


def test_a_sample_is_drawn_as_the_field_says():
    """Without replacement a sample of all holds the best; with it, it misses one of 2 in a quarter of all cases."""
    found = {}
    for replace in (True, False):
        strategy = Evolution(SPACE, seed=2, population_size=2, sample_size=2, replace=replace, no_change_rate=1.0)
        told(strategy, [0.0, 1.0])
        found[replace] = np.mean([strategy.ask().parent == 1 for _ in range(2000)])
    assert found[False] == 1.0 and found[True] == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 2000))


def test_some_children_are_their_parents():
    strategy = Evolution(SPACE, seed=3, population_size=1, sample_size=1, no_change_rate=0.05)
    (first,) = told(strategy, [1.0])
    children = [strategy.ask() for _ in range(4000)]
    same = [child for child in children if child.architecture == first.architecture]
    assert {child.change for child in same} == {"none"}
    assert len(same) / 4000 == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 4000))


def test_a_literal_mutation_may_draw_what_is_there():
    """One choice of four is the current one."""
    space, rng = CategoricalSpace((4,), include_current=True), np.random.default_rng(0)
    same = np.mean([space.mutate(rng, Choices((2,))) == Choices((2,)) for _ in range(4000)])
    assert same == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


@pytest.mark.parametrize("drawn", [[1, 0, 1], [0, 1, 1], [2, 1, 0]])
def test_of_equal_ones_the_first_drawn_wins(drawn):
    strategy = Evolution(SPACE, seed=4, population_size=3, sample_size=3, no_change_rate=1.0)
    told(strategy, [1.0, 1.0, 0.5])
    strategy._rng = types.SimpleNamespace(integers=lambda *_, **__: np.array(drawn), random=lambda: 0.0)
    assert strategy.ask().parent == next(index for index in drawn if index < 2)


def test_without_aging_the_worst_of_the_sample_dies_and_never_the_child():
    """The sample is the one that the parent was the best of."""
    strategy = Evolution(SPACE, seed=0, population_size=3, sample_size=50, kill="worst")
    told(strategy, [9.0, 1.0, 2.0, 0.0])
    assert [one.id for one in strategy.population] == [0, 2, 3]
    strategy = Evolution(SPACE, seed=0, population_size=9, sample_size=1, kill="worst", no_change_rate=1.0)
    told(strategy, range(9))
    for number in range(9, 19):
        parent = strategy.ask()
        strategy.tell(parent.architecture, trial(number, 0.0))
        ids = [one.id for one in strategy.population]
        assert number in ids and parent.parent not in ids, "of a sample of one the parent is the worst, too"


def test_in_parallel_the_worst_of_all_dies_where_the_sample_is_dead():
    strategy = Evolution(SPACE, seed=0, population_size=1, sample_size=1, kill="worst")
    told(strategy, [1.0])
    children = [strategy.ask() for _ in range(2)]
    for number, child in enumerate(children, start=1):
        strategy.tell(child.architecture, trial(number, float(number)))
    assert [one.id for one in strategy.population] == [2]


@pytest.mark.parametrize("make", [Evolution, RandomSearch])
def test_the_seed_draws_the_architectures(make):
    drawn = [[make(SPACE, seed=seed).ask().architecture for _ in range(3)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_random_search_tries_so_often_to_find_something_new():
    space = CategoricalSpace((2, 3))

    def drawn(**fields):
        strategy = RandomSearch(space, seed=0, **fields)
        return [strategy.ask().architecture for _ in range(8)]

    assert len(set(drawn(distinct=True)[:6])) == 6 and len(drawn(distinct=True)) == 8, "more than there are"
    assert drawn(distinct=True, max_tries=1) == drawn() and len(set(drawn()[:6])) < 6


def test_noise_and_landscapes_follow_their_seeds():
    bits = [0, 1] * 10
    for make in (functools.partial(OneMax, 20), NkLandscape):
        noisy = [make(noise=0.5)(Job(0, bits, seed)).reward for seed in range(400)]
        true = make(noise=0.0)(Job(0, bits, 0)).reward
        assert np.std(noisy) == pytest.approx(0.5, rel=0.15) and np.mean(noisy) == pytest.approx(true, abs=0.1)
        assert make(noise=0.5)(Job(0, bits, 0)).reward == noisy[0]
        assert make(noise=0.0)(Job(0, bits, 1)).reward == true
    assert NkLandscape(seed=1)(Job(0, bits, 0)).reward != NkLandscape(seed=2)(Job(0, bits, 0)).reward


def test_what_failed_is_no_parent_while_there_is_another():
    strategy = Evolution(SPACE, seed=5, population_size=4, sample_size=60, no_change_rate=1.0)
    told(strategy, [-math.inf, 0.1, -math.inf, -math.inf])
    assert {strategy.ask().parent for _ in range(50)} == {1}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sample_size": 0}, "sample_size=0 must be from 1"),
        ({"replace": False, "sample_size": 200}, "sample_size=200 must be from 1 to population_size=100"),
        ({"no_change_rate": 1.5}, "no_change_rate=1.5"),
        ({"kill": "youngest"}, "kill='youngest' must be one of oldest, worst"),
    ],
)
def test_fields_out_of_range_are_one_line(fields, words):
    with pytest.raises(ValueError, match=words):
        Evolution(SPACE, seed=0, **fields)


def reported(make, task, num_trials, seed):
    """The value without noise of what a search reports: its best by noisy reward."""
    found = run.search(make(seed), task.space, task, num_trials=num_trials, path=None, seed=seed)
    return trials.best(found).metrics["value"]


@pytest.mark.slow
def test_evolution_beats_random_search_on_one_max():
    """The authors' toy problem at P=100, S=10, 1,000 evaluations, 20 seeds; values as the specification has them."""
    task = OneMax()
    evolution = [
        reported(lambda s: Evolution(task.space, seed=s, population_size=100, sample_size=10), task, 1000, seed)
        for seed in range(20)
    ]
    control = [reported(lambda s: RandomSearch(task.space, seed=s), task, 1000, seed) for seed in range(40)]
    assert np.mean(evolution) == pytest.approx(0.8945, abs=0.03) and np.mean(control) == pytest.approx(0.658, abs=0.02)
    assert mann_whitney(evolution, control[:20]) < 1e-6
    assert mann_whitney(control[:20], control[20:]) > 1e-3, "the control is no better than itself"


@pytest.mark.slow
def test_the_regret_on_a_rugged_landscape_is_below_that_of_random_search():
    """NK with N=20, K=4, whose best of all 2^20 is known."""
    task = NkLandscape()
    top = task.best_value()
    regrets = {}
    for name, make in {
        "evolution": lambda s: Evolution(task.space, seed=s, population_size=50, sample_size=10),
        "random": lambda s: RandomSearch(task.space, seed=s),
    }.items():
        regrets[name] = [top - reported(make, task, 500, seed) for seed in range(20)]
        assert min(regrets[name]) >= -1e-12
    assert mann_whitney(regrets["random"], regrets["evolution"]) < 1e-3


def test_a_landscape_is_what_its_formula_says():
    """N=5, K=2, every string, bit by bit."""
    task = NkLandscape(num_bits=5, num_others=2, seed=3)
    tables = task.tables()
    for number in range(32):
        bits = [number >> i & 1 for i in range(5)]
        expected = sum(tables[i, 4 * bits[i] + 2 * bits[(i + 1) % 5] + bits[(i + 2) % 5]] for i in range(5)) / 5
        assert task.values(np.array(bits)) == pytest.approx(expected, abs=1e-15)
    assert task.best_value() == pytest.approx(
        max(task.values(np.array([n >> i & 1 for i in range(5)])) for n in range(32))
    )
