"""A table of trials, and the search that makes it."""

import itertools
import math

import pytest

from arch.models.classification.nas_bench_201 import EDGES, cell_operations
from arch.search import run, trials
from arch.search.space import CategoricalSpace
from arch.search.spaces.nas_bench_201 import CONNECT, NASBench201Space, canonical
from arch.search.strategies.exhaustive import Exhaustive
from arch.search.strategies.random_search import RandomSearch
from arch.search.tabular import Table
from arch.search.trials import Evaluation, Job

SPACE = CategoricalSpace((2, 3))
ALL = list(itertools.product(range(2), range(3)))


def measure(job):
    """Another value each time: the 10 of the first digit, the 1 of the second, and a tenth of the trial's number."""
    first, second = job.architecture
    if job.id == 7:
        return Evaluation(-math.inf)
    return Evaluation(10 * first + second + job.id / 10, metrics={"test/accuracy": float(first)})


@pytest.fixture
def path(tmp_path):
    run.search(Exhaustive(SPACE), SPACE, measure, num_trials=12, path=tmp_path / "trials.jsonl", seed=0)
    return tmp_path / "trials.jsonl"


def test_every_architecture_is_tried_in_turn(path):
    tried = [tuple(trial.architecture) for trial in trials.read(path).values()]
    assert tried == ALL * 2
    assert len({trial.seed for trial in trials.read(path).values()}) == 12


def test_the_table_gives_what_was_measured(path):
    table = Table.read(path)
    assert {table(Job(0, [1, 2], seed)).reward for seed in range(8)} == {12.5, 13.1}
    assert table.value([1, 2]) == pytest.approx(12.8) and table.best_value() == pytest.approx(12.8)
    assert table.value([0, 1]) == pytest.approx(1.1 / 2)  # trial 7 diverged: 0
    assert table.repeats() == [[0.0, 1.1, 2.2, 10.3, 11.4, 12.5], [0.6, 0.0, 2.8, 10.9, 12.0, 13.1]]
    assert Table.read(path, "test/accuracy").value([1, 0]) == 1.0


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
