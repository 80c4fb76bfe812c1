"""A search repeats itself, goes on where it was killed, and survives what it evaluates."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from arch.search import run, trials
from arch.search.executors import Processes, Ray, Together
from arch.search.reward import hard_limit, soft_limit
from arch.search.space import CategoricalSpace
from arch.search.spaces.synthetic import OneMax
from arch.search.strategies.evolution import Evolution
from arch.search.strategies.random_search import RandomSearch
from arch.search.trials import Evaluation
from arch.training.host import PREALLOCATE

TASK = OneMax(num_bits=12)


def search(path=None, *, num_trials=40, evaluate=TASK, seed=0, **options):
    strategy = Evolution(TASK.space, seed=seed, population_size=8, sample_size=3)
    return run.search(strategy, TASK.space, evaluate, num_trials=num_trials, path=path, seed=seed, **options)


def without_clock(found):
    return [{**vars(trial), "seconds": None} for trial in found]


def late(job):
    """Later ones are faster, so that results come out of their order."""
    time.sleep(0.02 * (3 - job.id % 4))
    return TASK(job)


def dying(job):
    if job.id == 3:
        os._exit(1)
    return TASK(job)


def failing(job):
    if job.id % 5 == 2:
        raise MemoryError("no room\nfor this")
    return TASK(job)


@pytest.mark.parametrize("killed_after", [1, 7, 8, 23])
def test_killed_and_resumed_it_is_the_search_that_was_not(tmp_path, killed_after):
    expected = search(tmp_path / "whole.jsonl")
    search(tmp_path / "cut.jsonl", num_trials=killed_after)
    with open(tmp_path / "cut.jsonl", "a") as file:
        file.write('{"id": 99, "archit')  # died while it wrote
    evaluated = []
    found = search(tmp_path / "cut.jsonl", evaluate=lambda job: evaluated.append(job.id) or TASK(job))
    assert evaluated == list(range(killed_after, 40))
    assert without_clock(found) == without_clock(expected)
    assert without_clock(trials.read(tmp_path / "cut.jsonl").values()) == without_clock(expected)


def test_the_sequence_depends_on_the_seed_and_on_how_many_run_at_a_time():
    assert without_clock(search(seed=1)) == without_clock(search(seed=1))
    assert without_clock(search(seed=1)) != without_clock(search(seed=2))
    assert without_clock(search(num_parallel=4)) != without_clock(search())


@pytest.mark.slow
def test_in_processes_that_end_out_of_order_it_is_the_same_search(tmp_path):
    expected = search(num_parallel=4, num_trials=24)
    path = tmp_path / "trials.jsonl"
    found = search(path, num_parallel=4, num_trials=24, evaluate=late, executor=Processes(4))
    assert without_clock(found) == without_clock(expected)
    written = [json.loads(line)["id"] for line in path.read_text().splitlines()]
    assert sorted(written) == list(range(24)) and written != sorted(written)


class AsGroups:
    """An evaluation of one job, for several at a time."""

    def __init__(self, evaluate):
        self.evaluate = evaluate

    def together(self, jobs):
        return list(map(self.evaluate, jobs))


class Grouped:
    """The task, for several jobs at a time."""

    def __init__(self, broken=()):
        self.groups, self._broken = [], broken

    def __call__(self, job):
        raise AssertionError("they are evaluated together")

    def together(self, jobs):
        self.groups.append([job.id for job in jobs])
        if any(job.id in self._broken for job in jobs):
            raise MemoryError("no room")
        return [TASK(job) for job in jobs]


def test_together_it_is_the_same_search_by_groups(tmp_path):
    """As many as run at a time, what is left at the end, and what had not been written when it was killed."""
    expected, whole = search(num_parallel=4, num_trials=22), Grouped()
    assert without_clock(search(num_parallel=4, num_trials=22, evaluate=whole, executor=Together())) == without_clock(
        expected
    )
    assert whole.groups == [[*range(start, min(start + 4, 22))] for start in range(0, 22, 4)]
    path, cut = tmp_path / "trials.jsonl", Grouped()
    search(path, num_parallel=4, num_trials=7)
    found = search(path, num_parallel=4, num_trials=22, evaluate=cut, executor=Together())
    assert without_clock(found) == without_clock(expected)
    assert [number for group in cut.groups for number in group] == list(range(7, 22))


def test_what_fails_together_has_failed(tmp_path):
    found = search(num_parallel=3, num_trials=9, evaluate=Grouped(broken=[4]), executor=Together())
    assert [trial.id for trial in found if trial.error] == [3, 4, 5] and found[3].error == "MemoryError: no room"


class Slow:
    """Prepares for long, and evaluates at once."""

    def __init__(self):
        self.count = 0

    def prepare(self):
        self.count += 1
        time.sleep(1.0 if self.count == 1 else 0.0)

    def __call__(self, job):
        return TASK(job)


def test_preparing_is_not_timed():
    found = search(num_trials=2, evaluate=Slow())
    assert max(trial.seconds for trial in found) < 0.5


def process_id():
    return os.getpid()


def device():
    time.sleep(0.5)
    return os.environ["SOME_DEVICES"]


def preallocates():
    return os.environ.get(PREALLOCATE)


@pytest.mark.slow
def test_workers_that_share_a_gpu_do_not_take_all_of_its_memory(monkeypatch):
    """By JAX's default the first would have three quarters; what a person has set stays."""
    monkeypatch.delenv(PREALLOCATE, raising=False)
    for executor, expected in ((Processes(2), "false"), (Processes(1), None), (Processes(2, "SOME_DEVICES"), None)):
        assert executor.submit(preallocates).result() == expected
        executor.close()
    monkeypatch.setenv(PREALLOCATE, "true")
    executor = Processes(2)
    assert executor.submit(preallocates).result() == "true"
    executor.close()


@pytest.mark.slow
def test_every_worker_sees_a_device_of_its_own(monkeypatch):
    for listed, expected in (("", {"0", "1"}), ("5,7", {"5", "7"})):
        monkeypatch.setenv("SOME_DEVICES", listed)
        executor = Processes(2, device_variable="SOME_DEVICES")
        try:
            for _ in range(2):  # new ones, and the same again
                futures = [executor.submit(device) for _ in range(2)]
                assert {future.result() for future in futures} == expected
        finally:
            executor.close()
    with pytest.raises(
        ValueError, match="3 processes at a time must be at most the 2 devices of SOME_DEVICES=5,7; lower it"
    ):
        Processes(3, device_variable="SOME_DEVICES")


def cores():
    time.sleep(0.5)
    return frozenset(os.sched_getaffinity(0))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells a process its cores")
def test_workers_share_the_cores_out():
    executor, own = Processes(2), sorted(os.sched_getaffinity(0))
    half = len(own) // 2
    try:
        futures = [executor.submit(cores) for _ in range(2)]
        expected = [set(own[:half]), set(own[half : 2 * half])] if half else [set(own)] * 2
        assert sorted(map(sorted, (future.result() for future in futures))) == list(map(sorted, expected))
    finally:
        executor.close()


@pytest.mark.slow
def test_a_worker_that_dies_while_it_has_nothing_to_do_costs_nothing():
    executor = Processes(1)
    try:
        first = executor.submit(process_id).result()
        os.kill(first, signal.SIGKILL)
        time.sleep(1.0)
        assert executor.submit(process_id).result() != first
    finally:
        executor.close()


KILLED = """
import os, signal, sys
from arch.search.executors import Processes
from tests.search.test_run import process_id
if __name__ == "__main__":
    print(Processes(1).submit(process_id).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only the kernel of Linux ends a child with its parent")
def test_workers_do_not_outlive_a_search_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    result = subprocess.run(
        [sys.executable, tmp_path / "killed.py"], env=environment, stdout=subprocess.PIPE, text=True, timeout=120
    )
    worker, end = int(result.stdout), time.monotonic() + 20
    while (status := pathlib.Path(f"/proc/{worker}/status")).exists() and "Z (zombie)" not in status.read_text():
        assert time.monotonic() < end, "the worker lives on"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_trial_alone():
    assert search(num_trials=4, num_parallel=2, evaluate=dying, executor=Processes(2))[3].error, "the last"
    found = search(num_trials=10, num_parallel=2, evaluate=dying, executor=Processes(2))
    assert [trial.id for trial in found if trial.error] == [3]
    assert found[3].reward == -math.inf and "BrokenProcessPool" in found[3].error
    assert all(trial.succeeded for trial in found if trial.id != 3)


def test_a_trial_that_fails_is_written_with_its_reason(tmp_path):
    path = tmp_path / "trials.jsonl"
    found = search(path, evaluate=failing, num_trials=10)
    assert [trial.id for trial in found if trial.error] == [2, 7]
    assert json.loads(path.read_text().splitlines()[2])["reward"] is None
    assert trials.read(path)[2].error == "MemoryError: no room for this"
    assert without_clock(search(path, num_trials=10)) == without_clock(found)
    assert trials.best(found).reward == max(trial.reward for trial in found)
    assert trials.best([found[2]]) is None


def test_a_search_of_failures_alone_ends():
    def broken(job):
        raise TypeError("x")

    with pytest.raises(RuntimeError, match=r"the last 10 trials failed; that of trial 9: TypeError: x"):
        search(evaluate=broken)


@pytest.mark.parametrize("num_before", [0, 13])
def test_what_failed_because_of_its_surroundings_is_made_again(tmp_path, num_before):
    """A full disk, say: once there is room, the search is the one that would have been."""

    def broken(job):
        if job.id < num_before:
            return TASK(job)
        raise OSError("no space left")

    path = tmp_path / "trials.jsonl"
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"trial {num_before + 9}: OSError: no space left"):
            search(path, evaluate=broken)
    found = search(path)
    assert without_clock(found) == without_clock(search())
    assert without_clock(trials.read(path).values()) == without_clock(found)


def test_a_short_search_in_which_all_failed_is_made_again(tmp_path):
    """Once all of its trials are there; one that was killed before keeps what has failed, as it would have."""

    def broken(job):
        raise OSError("no space left")

    path = tmp_path / "trials.jsonl"
    assert [one.error for one in search(path, evaluate=broken, num_trials=3)] == ["OSError: no space left"] * 3
    assert [bool(one.error) for one in search(path, num_trials=4)] == [True] * 3 + [False]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))

    def killed(job):
        if job.id == 1:
            raise KeyboardInterrupt
        return TASK(job)

    with pytest.raises(KeyboardInterrupt):
        search(path, evaluate=killed, num_trials=3)
    assert list(trials.read(path)) == [0], "what failed is forgotten, or it would be kept now"
    assert without_clock(search(path, num_trials=3)) == without_clock(search(num_trials=3))


@pytest.mark.parametrize("executor", [None, "together"])
def test_numbers_of_other_libraries_are_written_as_such_of_python(tmp_path, executor):
    def evaluate(job):
        return Evaluation(np.float32(0.5), cost=jnp.float32(2), metrics={"params": 3, "macs": np.int64(4)})

    found = search(tmp_path / "trials.jsonl", evaluate=AsGroups(evaluate) if executor else evaluate, num_trials=2,
                   executor=Together() if executor else None)  # fmt: skip
    assert [(one.reward, one.cost, one.metrics) for one in found] == [(0.5, 2.0, {"params": 3, "macs": 4.0})] * 2
    assert without_clock(trials.read(tmp_path / "trials.jsonl").values()) == without_clock(found)


@pytest.mark.parametrize(("result", "error"), [(None, "AttributeError"), (Evaluation("good"), "ValueError")])
def test_an_evaluation_that_is_none_fails_its_trial(result, error):
    found = search(evaluate=lambda job: TASK(job) if job.id else result, num_trials=2)
    assert found[0].error.startswith(error) and found[1].succeeded


def test_reading_leaves_the_line_alone_that_another_process_is_writing(tmp_path):
    path = tmp_path / "trials.jsonl"
    search(path, num_trials=3)
    with open(path, "a") as file:
        file.write('{"id": 3, "archit')
    before = path.read_text()
    assert sorted(trials.read(path)) == [0, 1, 2] and path.read_text() == before


def test_a_reward_that_is_not_a_number_is_a_failure_without_an_error():
    found = search(evaluate=lambda job: Evaluation(math.nan), num_trials=3)
    assert [trial.reward for trial in found] == [-math.inf] * 3 and not found[0].error


def test_stopped_it_writes_what_it_has(tmp_path):
    done = []
    search(tmp_path / "t.jsonl", on_trial=lambda trial, told: done.append(trial.id), stop=lambda: len(done) >= 5)
    assert sorted(trials.read(tmp_path / "t.jsonl")) == [0, 1, 2, 3, 4]


def test_a_file_of_another_search_is_refused(tmp_path):
    path = tmp_path / "trials.jsonl"
    search(path, num_trials=5)
    with pytest.raises(ValueError, match="trial 0 is not what this search proposes"):
        search(path, seed=1)
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no trial"):
        search(path)


@pytest.mark.parametrize("name", ["num_trials", "num_parallel"])
def test_none_at_all_is_refused(name):
    with pytest.raises(ValueError, match=f"search: {name}=0 must be at least 1"):
        search(**{name: 0})


def test_seeds_of_evaluations_differ():
    seeds = [trial.seed for trial in search()]
    assert len(set(seeds)) == 40 and max(seeds) < 2**31


def test_a_space_of_categories_counts_mutates_and_refuses():
    space = CategoricalSpace((2, 3, 1))
    rng = np.random.default_rng(0)
    assert space.size == 6 and len({space.sample(rng) for _ in range(200)}) == 6
    start = space.decode([1, 2, 0])
    children = [space.mutate(rng, start) for _ in range(400)]
    changed = [[a != b for a, b in zip(child.values, start.values, strict=True)] for child in children]
    assert all(sum(one) == 1 for one in changed) and not any(one[2] for one in changed)
    counts = np.array([len([c for c in children if c.values[1] == v]) for v in (0, 1)])
    assert np.abs(counts - 100).max() < 40  # half of the mutations, two choices each: four standard deviations
    assert space.from_json(space.to_json(start)) == start and space.encode(start) == (1, 2, 0)
    for code in ([1, 3, 0], [1, 2], [-1, 0, 0]):
        with pytest.raises(ValueError, match="must have a number below each of"):
            space.decode(code)


def test_random_search_may_leave_out_what_it_had():
    space = CategoricalSpace((2, 2))
    strategy = RandomSearch(space, seed=0, distinct=True)
    assert len({strategy.ask().architecture for _ in range(4)}) == 4


def test_rewards_with_a_limit():
    """MnasNet: at the target the accuracy itself; at twice the cost about five per cent less."""
    assert soft_limit(0.8, 100.0, 100.0) == 0.8
    assert soft_limit(0.8, 200.0, 100.0) == pytest.approx(0.8 * 0.953, rel=1e-3)
    assert hard_limit(0.8, 100.0, 100.0) == 0.8 and hard_limit(0.8, 100.1, 100.0) == -math.inf
    with pytest.raises(ValueError, match=r"cost=0.0 and target=1.0 must be above 0"):
        soft_limit(0.8, 0.0, 1.0)


@pytest.mark.slow
def test_on_a_ray_cluster_it_is_the_same_search_and_a_worker_that_dies_costs_its_trial_alone(monkeypatch):
    """A cluster of this machine, two workers, whatever other one the environment names."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    expected = search(num_parallel=2, num_trials=10)
    cluster = Ray(resources={"num_cpus": 1}, num_cpus=2)
    assert without_clock(search(num_parallel=2, num_trials=10, executor=cluster)) == without_clock(expected)
    found = search(num_parallel=2, num_trials=10, evaluate=dying, executor=Ray(num_cpus=2))
    assert [trial.id for trial in found if trial.error] == [3]
    import ray

    with monkeypatch.context() as patch:  # of a machine with GPUs
        patch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
        with pytest.raises(ValueError, match="resources must say how many of the cluster's GPUs a task takes; add"):
            Ray(num_cpus=2)
        assert not ray.is_initialized()
        Ray(resources={"num_gpus": 0}, num_cpus=2).close()
