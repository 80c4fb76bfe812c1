"""A table of trials, and the search that makes it."""

import itertools
import math

import numpy as np
import pytest

from arch.models.classification.nas_bench_201 import EDGES, cell_operations
from arch.search import run, trials
from arch.search.space import CategoricalSpace
from arch.search.spaces.cells import CellSpace
from arch.search.spaces.graphs import GraphSpace
from arch.search.spaces.nas_bench_201 import CONNECT, CONVOLUTIONS, NASBench201Space, canonical
from arch.search.strategies.exhaustive import Exhaustive
from arch.search.strategies.random_search import RandomSearch
from arch.search.tabular import Table
from arch.search.trials import Evaluation, Job

SPACE = CategoricalSpace((2, 3))
ALL = list(itertools.product(range(2), range(3)))


def measure(job):
    """Another value each time: the 10 of the first digit, the 1 of the second, and 0.1 when all have had their turn."""
    first, second = job.architecture
    if job.id < 6 and (first, second) == (0, 1):
        return Evaluation(-math.inf)
    return Evaluation(10 * first + second + 0.1 * (job.id >= 6), metrics={"test/accuracy": float(first)})


@pytest.fixture
def path(tmp_path):
    run.search(Exhaustive(SPACE, seed=0), SPACE, measure, num_trials=12, path=tmp_path / "trials.jsonl", seed=0)
    return tmp_path / "trials.jsonl"


def test_every_architecture_is_tried_in_turn(path):
    tried = [tuple(trial.architecture) for trial in trials.read(path).values()]
    assert tried[:6] == tried[6:] and sorted(tried[:6]) == ALL
    assert len({trial.seed for trial in trials.read(path).values()}) == 12
    orders = [[one.ask().architecture for _ in range(6)] for one in (Exhaustive(SPACE, seed=s) for s in (0, 0, 1))]
    assert orders[0] == orders[1] != orders[2]


def test_the_table_gives_what_was_measured(path):
    table = Table.read(path)
    assert {round(table(Job(0, [1, 2], seed)).reward, 9) for seed in range(8)} == {12.0, 12.1}
    assert table.value([1, 2]) == pytest.approx(12.05) and table.best_value() == pytest.approx(12.05)
    assert table.value([0, 1]) == pytest.approx(1.1 / 2)  # it diverged once: 0
    first, second = map(sorted, table.repeats())
    assert first == [0, 0, 2, 10, 11, 12] and second == pytest.approx([0.1, 1.1, 2.1, 10.1, 11.1, 12.1])
    assert Table.read(path, "test/accuracy").value([1, 0]) == 1.0


def test_architectures_with_one_key_share_their_trials(path):
    """Of those whose digits have one sum: 1 is (0, 1) and (1, 0), 2 is (0, 2) and (1, 1)."""
    table = Table.read(path, key=lambda digits: str(sum(digits)))
    assert {name: len(group) for name, group in table.rows.items()} == {"0": 2, "1": 4, "2": 4, "3": 2}
    assert table.value([0, 1]) == table.value([1, 0]) == pytest.approx((0 + 1.1 + 10 + 10.1) / 4)
    table.check(SPACE)


def test_a_search_of_the_table(path):
    table = Table.read(path)
    found = run.search(RandomSearch(SPACE, seed=0, distinct=True), SPACE, table, num_trials=6, path=None, seed=0)
    assert trials.best(found).architecture == [1, 2]


def test_what_is_no_table(path, tmp_path):
    with pytest.raises(ValueError, match="has no trials"):
        Table.read(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="metric=val/accuracy must be one of trial 0's"):
        Table.read(path, "val/accuracy")
    with pytest.raises(ValueError, match=r"architecture=\[2, 0\] must be one of the table's"):
        Table.read(path)(Job(0, [2, 0], 0))
    Table.read(path).check(SPACE)
    with pytest.raises(ValueError, match=r"architecture=\[0, 3\] must be one of the table's"):
        Table.read(path).check(CategoricalSpace((2, 4)))
    with pytest.raises(ValueError, match=r"architecture of trial 0 must be of this space, not \["):
        Table.read(path, key=canonical)


def test_the_cells_of_nas_bench_201():
    assert NASBench201Space().size == 15_625 and NASBench201Space(CONNECT).size == 729
    space = NASBench201Space(CONNECT)
    text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|nor_conv_3x3~1|skip_connect~2|"
    assert space.from_json(text).values == (2, 0, 1, 0, 2, 1)
    assert space.to_json(space.from_json(text)) == text
    for wrong, message in (
        (text.replace("none", "avg_pool_3x3"), "operation of the cell: unknown name 'avg_pool_3x3'"),
        (text.replace("~2", "~1"), "must have the form of"),
        (text + "|none~0|", "must have the form of"),
        (text.replace("none", "non"), "unknown name 'non'; did you mean 'none'"),
    ):
        with pytest.raises(ValueError, match=message):
            space.from_json(wrong)
    with pytest.raises(ValueError, match=r"operations=.* must be one or more, each once"):
        NASBench201Space(("none", "none"))


def test_a_space_knows_the_simplest_cell_of_each_network():
    space = NASBench201Space(("none", "skip_connect", "nor_conv_3x3"))
    every = [space.to_json(space.decode(code)) for code in itertools.product(range(3), repeat=6)]
    found = [space.to_json(architecture) for architecture in space.distinct()]
    assert len(found) == 78 and {canonical(text) for text in found} == {canonical(text) for text in every}
    for text in found:
        same = [other for other in every if canonical(other) == canonical(text)]
        assert text.count("conv") == min(other.count("conv") for other in same)
    tried = Exhaustive(space, seed=1, distinct=True)
    assert sorted(space.to_json(tried.ask().architecture) for _ in range(78)) == sorted(found)
    assert len(NASBench201Space(CONVOLUTIONS).distinct()) == 871 and NASBench201Space(CONVOLUTIONS).size == 4096
    with pytest.raises(ValueError, match=r"^Exhaustive: distinct=True must be False for CategoricalSpace; "):
        Exhaustive(SPACE, seed=0, distinct=True)
    for large in (CellSpace(), GraphSpace("2,3"), CategoricalSpace((2,) * 2000)):
        with pytest.raises(ValueError, match=r"^Exhaustive: .*Space has more than 1,000,000 architectures; take "):
            Exhaustive(large, seed=0)


def test_a_mutation_of_a_cell_may_draw_what_is_there():
    """Of four operations one is the current one."""
    rng, same = np.random.default_rng(0), {}
    for included in (False, True):
        space = NASBench201Space(CONVOLUTIONS, include_current=included)
        cell = space.decode((0, 1, 2, 3, 0, 1))
        same[included] = np.mean([space.mutate(rng, cell) == cell for _ in range(4000)])
    assert same[False] == 0.0 and same[True] == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def test_cells_that_compute_the_same_have_one_canonical_text():
    """As numbers do tell: every operation as a function of a number, nothing of nothing; all 15,625 cells."""
    functions = {
        "none": lambda x: 0.0,
        "skip_connect": lambda x: x,
        "nor_conv_1x1": lambda x: math.sin(3 * x),
        "nor_conv_3x3": lambda x: math.sin(5 * x) - x,
        "avg_pool_3x3": lambda x: math.tanh(x),
    }
    space, found = NASBench201Space(), {}
    for code in itertools.product(range(5), repeat=6):
        text = space.to_json(space.decode(code))
        states = [0.7, 0.0, 0.0, 0.0]
        for (source, node), operation in zip(EDGES, cell_operations(text), strict=True):
            states[node] += functions[operation](states[source])
        found.setdefault(canonical(text), set()).add(round(states[3], 9))
    assert all(len(values) == 1 for values in found.values())
    assert len(set.union(*found.values())) == len(found)
    assert canonical("|skip_connect~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|") == (
        "nor_conv_3x3(x) + x"
    )
