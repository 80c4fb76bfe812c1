"""A search over fields of a recipe, or for cells, as a person runs it: trials, files, stopped, resumed and misused."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from arch.models.genotypes import resolve
from arch.search import trials
from arch.search.spaces.cells import CellSpace
from arch.search.spaces.fields import FieldSpace
from configs import cli
from scripts._search_cost import configure, size

ROOT = pathlib.Path(__file__).parents[2]
SMOKE = "--config=configs/search/fields.py:smoke"
CELLS_OF_ONE_PROGRAM = "--config=configs/search/nas_bench_201.py:smoke,strategy=random"
CELLS = "--config=configs/search/cells.py:smoke,strategy=random"


def command(workdir, *flags, config=SMOKE):
    return [sys.executable, "scripts/search.py", config, f"--workdir={workdir}", *flags]


def run(workdir, *flags, **fields):
    return subprocess.run(command(workdir, *flags, **fields), cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a search that nobody stopped."""
    workdir = tmp_path_factory.mktemp("search") / "run"
    result = run(workdir)
    assert result.returncode == 0, result.stderr
    assert "[2/2]" in result.stderr and "ETA 0:00" in result.stderr
    return workdir


def without_clock(workdir):
    return [{**vars(trial), "seconds": None} for trial in trials.read(workdir / "trials.jsonl").values()]


@pytest.mark.slow
def test_a_search_trains_its_trials_and_writes_the_best_as_a_recipe(finished, tmp_path):
    found = trials.read(finished / "trials.jsonl")
    assert sorted(found) == [0, 1] and all(trial.succeeded for trial in found.values())
    for trial in found.values():
        assert trial.cost == 2 * 16 and trial.metrics["val/accuracy"] == trial.reward
        config = json.loads((finished / "trials" / f"{trial.id:04d}" / "config.json").read_text())
        assert config["seed"] == trial.seed and config["num_steps"] == 2
        assert config["label_smoothing"] == trial.architecture["label_smoothing"]
    assert (finished / "search.png").read_bytes().startswith(b"\x89PNG")
    best = trials.best(list(found.values()))
    result = subprocess.run(
        [sys.executable, "train.py", f"--config={finished / 'best.py'}", f"--workdir={tmp_path / 'best'}"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert config["model"]["fields"]["stage_sizes"] == best.architecture["model.fields.stage_sizes"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_in_a_trial_it_goes_on_to_the_same(finished, tmp_path, number, status):
    process = subprocess.Popen(command(tmp_path / "run"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path / "run" / "trials" / "0001.txt").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert len(trials.read(tmp_path / "run" / "trials.jsonl")) == 1
    assert run(tmp_path / "run").returncode == 0
    assert without_clock(tmp_path / "run") == without_clock(finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "number", "status"),
    [
        ([], signal.SIGINT, 130),
        (["--config.executor=processes", "--config.num_parallel=2"], signal.SIGINT, 130),
        (["--config.executor=processes", "--config.num_parallel=2"], signal.SIGTERM, 75),
    ],
)
def test_a_signal_lets_the_trials_of_one_program_come_to_their_end(tmp_path, flags, number, status):
    """Sent to all processes, as a terminal or a scheduler does; none fails, and the same command goes on."""
    flags, cells = [*flags, "--config.num_trials=6"], {"config": CELLS_OF_ONE_PROGRAM}
    process = subprocess.Popen(
        command(tmp_path / "run", *flags, **cells), cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + 240
    while not trials.read(tmp_path / "run" / "trials.jsonl"):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status and "stopped; the same command goes on" in errors, errors
    found = trials.read(tmp_path / "run" / "trials.jsonl")
    assert 1 <= len(found) < 6 and all(trial.succeeded for trial in found.values())
    assert run(tmp_path / "run", *flags, **cells).returncode == 0
    again = trials.read(tmp_path / "run" / "trials.jsonl")
    assert sorted(again) == list(range(6)) and all(again[number] == found[number] for number in found)


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_another_config_is_refused(finished):
    before = os.stat(finished / "trials.jsonl").st_mtime
    assert run(finished).returncode == 0
    assert os.stat(finished / "trials.jsonl").st_mtime == before
    result = run(finished, "--config.seed=1")
    assert result.returncode == 2 and "holds a run of another config: seed is 0 there and 1 here" in result.stderr


@pytest.mark.slow
def test_a_finished_search_may_be_given_more_trials(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    result = run(tmp_path / "run", "--config.num_trials=3")
    assert result.returncode == 0 and "1 of 3 trials" in result.stderr, result.stderr
    assert without_clock(tmp_path / "run")[:2] == without_clock(finished)


@pytest.mark.slow
def test_flags_set_options_of_a_strategy_and_fields_of_the_recipe(tmp_path):
    """Options that the config does not name, and names with dots."""
    flags = ["--config.strategy.fields.method=reinforce", "--config.overrides.num_steps=1"]
    flags += ["--config.overrides.schedule.base_learning_rate=0.5", "--config.num_trials=1"]
    config = CELLS_OF_ONE_PROGRAM.replace("random", "controller")
    result = run(tmp_path / "run", *flags, config=config)
    assert result.returncode == 0, result.stderr
    (found,) = trials.read(tmp_path / "run" / "trials.jsonl").values()
    assert found.cost == configure("configs/nas_bench_201.py:smoke", {}).global_batch_size  # of one step
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["strategy"]["fields"]["method"] == "reinforce"
    assert kept["overrides"]["schedule.base_learning_rate"] == 0.5
    assert (tmp_path / "run" / "best_cell.png").exists()
    for flag, words in {
        "--config.strategy.fields.method=qlearning": "unknown name 'qlearning'",
        "--config.strategy.fields.metod=ppo": "config.strategy.fields: ",
        "--config.overrides.schedule.rate=0.5": "has no field 'rate'",
    }.items():
        result = run(tmp_path / "other", flag, config=config)
        assert result.returncode == 2 and words in result.stderr.splitlines()[-1], result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (
            "--config.strategy.name=evolutoin",
            "config.strategy.name: unknown name 'evolutoin'; did you mean 'evolution'",
        ),
        ("--config.executor=threads", "config.executor: unknown name 'threads'"),
        ("--config.recipe=configs/shufflenet_v3.py", "did you mean configs/shufflenet_v2.py"),
        ("--config.num_trials=0", "num_trials=0 must be at least 1"),
        ("--config.strategy.fields.sample_size=0", "Evolution: sample_size=0 must be from 1"),
        ("--config.space.name=celsl", "config.space.name: unknown name 'celsl'; did you mean 'cells'"),
        ("--config.reward.cost=flops", "config.reward.cost: unknown name 'flops'"),
        ("--compare=runs/no-such-search", "--compare=runs/no-such-search has no trials in a trials.jsonl"),
    ],
)
def test_misuse_is_one_line(tmp_path, flag, words):
    result = run(tmp_path / "run", flag)
    assert result.returncode == 2
    assert words in result.stderr.splitlines()[-1], result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_search_for_cells_keeps_to_its_limit_and_draws_the_best(tmp_path):
    """Of 2 trials whose sizes are known beforehand the limit lets the smaller be trained, and no other."""
    space = CellSpace(num_nodes=2)  # is compiled sooner
    rng = np.random.default_rng(0)  # of RandomSearch
    sampled = [space.to_json(space.sample(rng)) for _ in range(2)]
    shared = {"model.fields.stage_sizes": (1, 1), "model.fields.features": 8}
    sizes = [size(configure("configs/nasnet.py:smoke", {**shared, "model.fields.genotype": one})) for one in sampled]
    params = [one["params"] for one in sizes]
    assert params[0] != params[1]
    limit = ("--config.reward.cost=params", f"--config.reward.limit={min(params)}")
    folder = tmp_path / "run"
    result = run(folder, *limit, "--config.space.fields.num_nodes=2", config=CELLS)
    assert result.returncode == 0, result.stderr
    found = trials.read(folder / "trials.jsonl")
    assert [found[i].architecture for i in (0, 1)] == sampled
    assert [found[i].metrics["params"] for i in (0, 1)] == params
    smaller, larger = sorted(found.values(), key=lambda trial: trial.metrics["params"])
    assert smaller.succeeded and smaller.cost == 2 * 16 and smaller.reward == smaller.metrics["val/accuracy"]
    assert not larger.succeeded and larger.cost == 0.0 and not larger.error
    assert [path.name for path in (folder / "trials").glob("*.txt")] == [f"{smaller.id:04d}.txt"]
    for picture in ("search.png", "best_cell.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    best = cli.load_recipe(str(folder / "best.py"))
    assert space.to_json(resolve(best.model.fields.genotype)) == smaller.architecture


@pytest.mark.slow
def test_a_search_of_morphisms_ends_with_a_recipe_and_its_weights(tmp_path):
    """Children begin with the weights of their parents; train.py goes on with those of the best."""
    folder = tmp_path / "run"
    result = run(folder, config="--config=configs/search/morphisms.py:smoke")
    assert result.returncode == 0, result.stderr
    found = trials.read(folder / "trials.jsonl")
    assert [found[i].parent for i in range(3)] == [None, 0, 0] and [len(found[i].change) for i in (1, 2)] == [0, 2]
    for child in (1, 2):
        config = json.loads((folder / "trials" / f"{child:04d}" / "config.json").read_text())
        assert config["init_from"] == str(folder / "trials" / f"{child:04d}.safetensors")
        assert config["model"]["fields"]["graph"] == found[child].architecture["model.fields.graph"]
    best = trials.best(list(found.values()))
    recipe = cli.load_recipe(str(folder / "best.py"))
    assert recipe.init_from == str(folder / "best.safetensors")
    assert recipe.model.fields.graph == best.architecture["model.fields.graph"]
    command = [sys.executable, "train.py", f"--config={folder / 'best.py'}", f"--workdir={tmp_path / 'best'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_search_without_a_reward_says_so(tmp_path):
    result = run(tmp_path / "run", "--config.reward.cost=params", "--config.reward.limit=1")
    assert result.returncode == 1
    assert "no trial has a reward: none was finite or within its limit" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "best.py").exists() and "Traceback" not in result.stderr


def test_a_space_of_fields_is_written_as_its_values():
    space = FieldSpace({"rate": (0.1, 0.2), "sizes": ((1, 2), (2, 3), (3, 4))})
    assert space.size == 6 and space.choices == (2, 3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        one = space.sample(rng)
        assert space.from_json(json.loads(json.dumps(space.to_json(one)))) == one
        assert space.decode(space.encode(one)) == one
        assert sum(a != b for a, b in zip(space.mutate(rng, one).values, one.values, strict=True)) == 1
    assert space.to_json(space.decode((1, 0))) == {"rate": 0.2, "sizes": [1, 2]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, r"fields={} must not be empty"),
        ({"a": ()}, r"a=\[\] must be different values"),
        ({"a": (1, 1)}, "different"),
    ],
)
def test_a_space_without_a_choice_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        FieldSpace(fields)


def test_values_of_no_space_are_refused():
    space = FieldSpace({"rate": (0.1, 0.2)})
    for values in ({"rate": 0.3}, {}, {"rate": 0.1, "other": 1}):
        with pytest.raises(ValueError, match="must have a value of each of"):
            space.from_json(values)
