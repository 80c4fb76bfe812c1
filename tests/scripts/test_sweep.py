"""scripts/sweep.py: grids, what is checked before anything starts, and what becomes of runs that end, fail and stop."""

import ast
import dataclasses
import importlib
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from arch.training.logbook import read_rows
from configs import cli, default, shufflenet_v2
from configs.sweeps import grid
from scripts import plot
from scripts._sweep_job import Job
from scripts._sweep_launchers import LocalRuns, print_commands, run_locally
from scripts._sweep_points import check_point, expand, load
from scripts._sweep_results import Results, evaluations, read

ROOT = pathlib.Path(__file__).parents[2]
NOT_SWEEPS = {"__init__", "grid"}
SWEEPS = sorted(path.stem for path in (ROOT / "configs" / "sweeps").glob("*.py") if path.stem not in NOT_SWEEPS)
NUM_POINTS = {
    "search_finals": 24,
    "normalization": 72,
    "normalization_rates": 34,
    "normalization_devices": 2,
    "architectures": 35,
    "large_batch": 69,
    "large_batch_rates": 10,
}


def points_of(name):
    """A sweep over the recipe that its header names."""
    sweep = load(str(ROOT / "configs" / "sweeps" / f"{name}.py"))
    return expand(shufflenet_v2.get_config("fashion_mnist"), sweep)


def test_grids():
    a, b, c = grid.each("a", (1, 2)), grid.each("b", "xy"), grid.point({"c": 0})
    assert grid.product(a, c, b) == [
        {"a": 1, "c": 0, "b": "x"}, {"a": 1, "c": 0, "b": "y"}, {"a": 2, "c": 0, "b": "x"}, {"a": 2, "c": 0, "b": "y"},
    ]  # fmt: skip
    assert grid.zip(a, b) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert grid.chain(a, c, grid.each("a", (2, 3))) == [{"a": 1}, {"a": 2}, {"c": 0}, {"a": 3}]
    assert grid.product() == [{}]
    assert grid.zip() == grid.chain() == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grid.product(grid.each("a", (1, 2)), grid.point({"a": 3, "b": 4})), r"product: a must be set by one"),
        (lambda: grid.zip(grid.each("a", (1,)), grid.each("a", (2,))), r"zip: a must be set by one"),
        (lambda: grid.zip(grid.each("a", (1, 2)), grid.each("b", (1,))), r"zip: grids of 2, 1 points"),
    ],
)
def test_grids_that_do_not_fit(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_point_is_the_recipe_with_its_overrides():
    base = default.get_config()
    overrides = {"optimizer.momentum": 0.5, "model.fields.stage_sizes": (1, 1), "model.norm.name": "group_norm"}
    (point,) = expand(base, [overrides])
    assert point.config.is_locked and point.config.model.fields.is_locked
    assert point.config.optimizer.momentum == 0.5
    assert point.config.model.fields.to_dict() == {"stage_sizes": (1, 1)}
    assert base.to_dict() == default.get_config().to_dict()
    assert point.flags == [
        "--config.optimizer.momentum=0.5",
        "--config.model.fields.stage_sizes=(1, 1)",
        "--config.model.norm.name=group_norm",
    ]


def test_a_point_may_have_a_recipe_of_its_own():
    """Its flags come after those of the command line, of which absl takes the last."""
    recipe = "configs/mobilenet_v2.py:fashion_mnist"
    sweep = grid.product(grid.point({"config": recipe}), grid.each("seed", (0, 1)))
    points = expand(default.get_config(), sweep)
    assert [point.config.model.name for point in points] == ["mobilenet_v2"] * 2
    assert [point.flags for point in points] == [[f"--config={recipe}", f"--config.seed={seed}"] for seed in (0, 1)]
    assert points[1].name == "seed=1"
    base = default.get_config()
    base.seed, base.num_epochs, base.model.fields = 7, 3.0, type(base)({"head_features": 64})
    (point,) = expand(base, sweep, given={"seed", "num_epochs", "model.fields.head_features"})
    assert (point.config.seed, point.config.num_epochs, point.config.model.fields.head_features) == (7, 3.0, 64)
    assert (point.config.model.name, point.config.data.name) == ("mobilenet_v2", "fashion_mnist")
    with pytest.raises(ValueError, match=r"no file configs/mobilenet_v3\.py; did you mean configs/mobilenet_v2"):
        expand(default.get_config(), [{"config": "configs/mobilenet_v3.py"}])
    command = ["--config", "configs/xception.py", "--debug", *points[1].flags]
    assert cli.with_one_recipe(command) == [f"--config={recipe}", "--debug", "--config.seed=1"]
    # config_flags takes no field before the recipe, which may be the point's last.
    (point, _) = expand(default.get_config(), grid.product(grid.each("seed", (5, 6)), grid.point({"config": recipe})))
    assert point.flags == ["--config.seed=5", f"--config={recipe}"]
    assert cli.with_one_recipe([*command[:2], *point.flags]) == [f"--config={recipe}", "--config.seed=5"]
    assert cli.with_one_recipe(command[:3]) == command[:3]


def test_points_of_one_config_run_once_and_the_command_line_wins():
    base = default.get_config()
    sweep = grid.product(grid.each("seed", (0, 1)), grid.each("optimizer.momentum", (0.9, 0.8)))
    assert len(expand(base, [{}, *sweep])) == 4  # seed 0 and momentum 0.9 are those of the recipe
    base.seed = 5
    seeds = [(point.config.seed, point.config.optimizer.momentum) for point in expand(base, sweep, given={"seed"})]
    assert seeds == [(5, 0.9), (5, 0.8)]


def test_folders_are_named_by_what_tells_points_apart():
    """num_epochs is one for all; the rate follows from the batch; the fields of a norm from its name."""
    cells = [
        {"global_batch_size": size, "schedule.base_learning_rate": size / 100, "model.norm.name": name} | more
        for size in (8, 16)
        for name, more in (("group_norm", {"model.norm.fields.num_groups": 2}), ("batch_norm", {}))
    ]
    points = expand(default.get_config(), grid.product(grid.point({"num_epochs": 2.0}), cells))
    assert [point.name for point in points] == [
        "global_batch_size=8,model.norm.name=group_norm",
        "global_batch_size=8,model.norm.name=batch_norm",
        "global_batch_size=16,model.norm.name=group_norm",
        "global_batch_size=16,model.norm.name=batch_norm",
    ]
    sizes = expand(default.get_config(), grid.each("model.fields.stage_sizes", ((1, 2), (2, 1))))
    assert [point.name for point in sizes] == [f"model.fields.stage_sizes=_{text}_" for text in ("1-2", "2-1")]
    assert expand(default.get_config(), [{"seed": 3}])[0].name == "default"


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ([{"optimizer.momentun": 0.8}], "config.optimizer has no field 'momentun'; did you mean momentum"),
        ([{"optimizr.momentum": 0.8}], "config has no field 'optimizr'; did you mean optimizer"),
        ([{"seed.x": 1}], "config.seed is a value and has no fields"),
        ([{"seed": "many"}], "sweep: seed='many' is of a wrong type"),
        ([{"data.name": "a/b"}, {"data.name": "a:b"}], "two points would share the folder data.name=a_b"),
        ([{"data.dir": "x" * 300}, {}], "characters, over 200"),
    ],
)
def test_a_wrong_point_is_one_line_with_its_remedy(sweep, words):
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as error:
        expand(default.get_config(), sweep)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "unknown name"), ("x = 1", "has no get_sweep()"), ("def get_sweep(): return []", "has no points")],
)
def test_a_file_that_is_no_sweep(tmp_path, text, words):
    path = tmp_path / "sweep.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=r"^--sweep: ") as error:
        load(str(path))
    assert words in str(error.value)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_applies_to_its_recipe(name):
    assert len(points_of(name)) == NUM_POINTS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_of_every_sweep_builds_and_steps(name):
    traced = set()
    num_devices = 8 if name == "normalization_devices" else 1
    for point in points_of(name):
        assert check_point(point.config, 57_000, num_classes=10, num_devices=num_devices, traced=traced) > 50
    assert len(traced) > 1


def test_a_point_that_does_not_build_is_found_by_tracing():
    config = importlib.import_module("tests.recipes.tiny").get_config()
    norm = {"model.norm.name": "ghost_batch_norm", "model.norm.fields.ghost_batch_size": 5}
    (point,) = expand(config, [{"global_batch_size": 64, **norm}])
    with pytest.raises(ValueError, match=r"ghost_batch_size=5 must divide the device's batch of 8"):
        check_point(point.config, 1437, num_classes=10, num_devices=8, traced=set())
    (point,) = expand(config, [{"schedule.name": "cosin"}])
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        check_point(point.config, 1437, num_classes=10, num_devices=8, traced=set())


def test_the_study_is_eight_devices_on_one():
    """Per replica: ghosts of the device's batch; over devices: the whole batch; the rate linear in it."""
    found = set()
    for point in points_of("normalization"):
        config = point.config
        batch, norm = config.global_batch_size, config.model.norm
        if norm.name == "ghost_batch_norm":
            assert norm.fields.to_dict() == {"ghost_batch_size": batch // 8, "running_rule": "mean"}
        elif norm.name != "batch_renorm":
            assert norm.fields.to_dict() == {}
        assert config.num_micro_batches == (8 if norm.name == "batch_renorm" else 1)
        assert config.schedule.base_batch_size == 256
        found.add((batch, norm.name, config.seed))
    names = ("ghost_batch_norm", "batch_norm", "batch_renorm", "group_norm", "layer_norm_hwc", "none")
    assert found == {(8 * size, name, seed) for size in (2, 4, 8, 32) for name in names for seed in range(3)}


def job(folder, code="", num_steps=3):
    """A run that is this code; `finish()` leaves what train.py leaves at its end."""
    finish = (
        "import pathlib, json, sys, os, signal, time\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "def finish(row=True, checkpoint=True):\n"
        f"    (folder / 'checkpoints' / '{num_steps}').mkdir(parents=True) if checkpoint else folder.mkdir()\n"
        f"    row and (folder / 'metrics.jsonl').write_text('{{\"step\": {num_steps}, \"val/accuracy\": 0.5}}\\n')\n"
    )
    return Job(folder.name, folder, [sys.executable, "-S", "-c", finish + code], num_steps)


def test_a_failed_run_is_reported_and_the_sweep_goes_on(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    jobs = [job(tmp_path / "a", "sys.exit(3)"), job(tmp_path / "b", "finish()"), job(tmp_path / "c", "finish()")]
    assert run_locally(jobs) == 1
    assert [job.is_finished() for job in jobs] == [False, True, True]
    assert "[1/3] failed with exit status 3, in 0:0" in caplog.text
    assert "[3/3] finished, val/accuracy 0.5000, in 0:0" in caplog.text and "; ETA 0:00" in caplog.text
    assert "failed: a, exit status 3" in caplog.text
    assert "2 of 3 points are finished" in caplog.text


def test_finished_runs_are_skipped_and_broken_ones_are_not(tmp_path, capsys):
    """Finished is: the last row and the last checkpoint; a kill between the two leaves one of them."""
    again = "import shutil; shutil.rmtree(folder); finish(); (folder / 'again').write_text('')"
    jobs = [job(tmp_path / name, again) for name in ("whole", "no_row", "no_checkpoint")]
    endings = {"whole": "finish()", "no_row": "finish(row=False)", "no_checkpoint": "finish(checkpoint=False)"}
    for name, ending in endings.items():
        subprocess.run(job(tmp_path / name, ending).command, check=True)
    assert print_commands(jobs) == 0
    assert capsys.readouterr().out.count(sys.executable) == 2
    assert run_locally(jobs) == 0
    assert [(tmp_path / name / "again").exists() for name in endings] == [False, True, True]


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 75)])
def test_a_signal_goes_to_the_run_once_and_stops_the_sweep(tmp_path, name, status):
    """The run sends it to the sweep, waits for what it is sent, and saves."""
    code = (
        "got = []\n"
        f"signal.signal(signal.{name}, lambda *_: got.append(1))\n"
        f"os.kill(os.getppid(), signal.{name})\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "folder.mkdir()\n"
        "(folder / 'saved').write_text(str(len(got)))\n"
        f"sys.exit({status})"
    )
    assert run_locally([job(tmp_path / "a", code), job(tmp_path / "b", "finish()")]) == status
    assert (tmp_path / "a" / "saved").read_text() == "1"
    assert not (tmp_path / "b").exists()


def test_a_run_that_was_stopped_by_others_stops_the_sweep(tmp_path):
    assert run_locally([job(tmp_path / "a", "sys.exit(75)"), job(tmp_path / "b", "finish()")]) == 75
    assert not (tmp_path / "b").exists()


def test_a_run_that_leaves_without_an_end_has_failed(tmp_path, caplog):
    caplog.set_level(logging.INFO, "sweep")
    assert run_locally([job(tmp_path / "a", "finish(checkpoint=False)")]) == 1
    assert "failed: a, exit status 0, but it has not ended" in caplog.text


def test_a_signal_between_two_runs_ends_the_sweep(tmp_path, monkeypatch):
    """It comes after the question whether one more may start, when nothing runs."""
    asked = []

    def has_room(runs):
        asked.append(1)
        os.kill(os.getpid(), signal.SIGTERM)
        return runs.signal is None

    monkeypatch.setattr(LocalRuns, "has_room", has_room)
    assert run_locally([job(tmp_path / "a", "finish()")]) == 75
    assert asked and not (tmp_path / "a").exists()


def test_ctrl_c_before_the_first_run_ends_any_program_with_one_line():
    """Also in a callback of the garbage collector, as JAX has one while it traces: there an exception is swallowed."""
    code = (
        "import gc, signal\n"
        "from configs import cli\n"
        "cli.define_config_flag()\n"
        "def main():\n"
        "    gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))\n"
        "    gc.collect()\n"
        "    print('goes on', flush=True)\n"
        "cli.run(main)"
    )
    command = [sys.executable, "-c", code, "--config=configs/shufflenet_v2.py:smoke"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (130, ""), result.stderr
    assert result.stderr.endswith("error: interrupted\n") and result.stderr.count("\n") == 1


def test_two_at_a_time_each_on_its_own_cores_and_device(tmp_path):
    """Each of the first two waits for the other; the third starts when one of them has ended."""
    code = (
        "folder.mkdir()\n"
        "(folder / 'device').write_text(os.environ['SOME_DEVICES'])\n"
        "(folder / 'cores').write_text(repr(sorted(os.sched_getaffinity(0))))\n"
        "end = time.monotonic() + 60\n"
        "while len(list(folder.parent.glob('?/cores'))) < 2: assert time.monotonic() < end\n"
        "finish()"
    )
    assert run_locally([job(tmp_path / name, code) for name in "abc"], 2, "SOME_DEVICES") == 0
    devices = [(tmp_path / name / "device").read_text() for name in "abc"]
    assert set(devices[:2]) == {"0", "1"} and devices[2] in "01" and "SOME_DEVICES" not in os.environ
    cores = [set(ast.literal_eval((tmp_path / name / "cores").read_text())) for name in "ab"]
    available = os.sched_getaffinity(0)
    if len(available) > 1:
        assert not cores[0] & cores[1] and len(cores[0]) == len(cores[1]) == len(available) // 2
    assert cores[0] | cores[1] <= available == os.sched_getaffinity(0)


def test_a_signal_goes_to_all_runs(tmp_path):
    """Each waits for what it is sent, and saves; the first sends it to the sweep once both are at work."""
    code = (
        "got = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "folder.mkdir()\n"
        "end = time.monotonic() + 60\n"
        "while len(list(folder.parent.glob('?'))) < 2: assert time.monotonic() < end\n"
        "if folder.name == 'a': os.kill(os.getppid(), signal.SIGTERM)\n"
        "while not got: assert time.monotonic() < end\n"
        "(folder / 'saved').write_text('')\n"
        "sys.exit(75)"
    )
    assert run_locally([job(tmp_path / name, code) for name in "abc"], 2) == 75
    assert [(tmp_path / name / "saved").exists() for name in "abc"] == [True, True, False]


def test_results_outlive_the_folders(tmp_path):
    """The file alone says what is finished, for the same config; the plot reads it as it reads the folder."""
    file, evaluation = tmp_path / "results.jsonl", {"step": 3, "val/accuracy": 0.5}

    def with_results(name, identity="a"):
        fields = {"identity": identity, "overrides": {"seed": ord(name)}, "results": Results(str(file))}
        return dataclasses.replace(job(tmp_path / name, "finish()"), **fields)

    assert run_locally([with_results(name) for name in "xy"]) == 0
    assert [(result.name, result.overrides, result.rows) for result in read(file)] == [
        ("x", {"seed": 120}, [evaluation]), ("y", {"seed": 121}, [evaluation]),
    ]  # fmt: skip
    for name in "xy":
        shutil.rmtree(tmp_path / name)
    assert all(with_results(name).is_finished() for name in "xy")
    assert run_locally([with_results(name) for name in "xy"]) == 0 and not (tmp_path / "x").exists()
    assert not with_results("x", identity="b").is_finished()
    assert run_locally([with_results("x", identity="b")]) == 0
    assert [(result.name, result.identity) for result in read(file)] == [("x", "b"), ("y", "a")]
    assert plot.main([str(file)]) == 0
    assert "| 2 | 0.5000 ± 0.0000 |" in (tmp_path / "results.md").read_text()


def test_an_evaluation_keeps_the_training_metrics_logged_last():
    rows = [
        {"step": 1, "train/loss": 3.0, "train/noise_scale": 8.0},
        {"step": 2, "train/loss": 2.0},
        {"step": 3, "val/loss": 2.5},
        {"step": 4, "train/loss": 1.0, "test/loss": 1.5},
    ]
    assert evaluations(rows) == [
        {"step": 3, "val/loss": 2.5, "train/loss": 2.0, "train/noise_scale": 8.0},
        {"step": 4, "test/loss": 1.5, "train/loss": 1.0, "train/noise_scale": 8.0},
    ]


def test_a_file_of_other_things_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl is no file of --results of scripts/sweep\.py; give another one"):
        Results(str(tmp_path / "a.jsonl"))


SWEEP_FILE = """
from configs.sweeps import grid


def get_sweep():
    good = grid.product(grid.point({"num_steps": 6, "model.fields.stage_sizes": (1, 1, 1)}), grid.each("seed", (0, 1)))
    return grid.chain(good, grid.point({"schedule.base_learning_rate": 1e12}))
"""


@pytest.fixture
def sweep(tmp_path):
    """The flags of a sweep of two points and one that diverges, on the digits."""
    (tmp_path / "three.py").write_text(SWEEP_FILE)
    return (
        "--config=tests/recipes/tiny.py", f"--sweep={tmp_path / 'three.py'}", f"--workdir={tmp_path / 'runs'}",
        f"--config.data.dir={tmp_path / 'tfds'}", "--config.progress_every_seconds=0",
    )  # fmt: skip


def command(*flags):
    return [sys.executable, "scripts/sweep.py", *flags]


def environment():
    return os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}


def run(*flags):
    return subprocess.run(command(*flags), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_sweep_from_end_to_end(sweep, tmp_path, capsys):
    folder = tmp_path / "runs"
    result = run(*sweep)
    assert result.returncode == 1, result.stderr
    assert "was not finite at step" in result.stderr
    assert "2 of 3 points are finished" in result.stderr
    recipe = importlib.import_module("tests.recipes.tiny").get_config()
    recipe.data.dir, recipe.progress_every_seconds = str(tmp_path / "tfds"), 0.0
    points = expand(recipe, load(str(tmp_path / "three.py")))
    assert [point.name for point in points][:2] == ["num_steps=6,seed=0", "num_steps=6,seed=1"]
    for point in points:  # what ran is what was checked
        assert json.loads((folder / point.name / "config.json").read_text()) == json.loads(
            json.dumps(point.config.to_dict())
        )
    rows = [read_rows(folder / point.name / "metrics.jsonl")[-1] for point in points[:2]]
    assert [row["step"] for row in rows] == [6, 6]

    result = run(*sweep, "--launcher=print")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1 and "base_learning_rate=1000000000000.0" in result.stdout

    assert plot.main([str(folder)]) == 0
    table = (folder / "summary.md").read_text()
    mean = sum(row["test/accuracy"] for row in rows) / 2
    assert "| 6 | 2 | " in table and f"{mean:.4f} ± " in table
    assert "1 of 3 runs are not finished" in table


@pytest.mark.slow
def test_ctrl_c_saves_the_run_at_work_and_the_same_command_goes_on(sweep, tmp_path):
    only = (
        *sweep,
        "--config.schedule.base_learning_rate=0.2",
        "--config.num_steps=40",
    )  # seeds 0 and 1, one point each
    first = tmp_path / "runs" / "seed=0"
    process = subprocess.Popen(command(*only), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 240
    while not read_rows(first / "metrics.jsonl"):
        assert process.poll() is None and time.monotonic() < end, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "stopped by SIGINT at step" in errors and "[1/2] stopped; the same command goes on" in errors
    assert max(int(path.name) for path in (first / "checkpoints").iterdir() if path.name.isdigit()) < 40
    result = run(*only)
    assert result.returncode == 0, result.stderr
    assert "resuming: checkpoint of step" in result.stderr
    assert "2 of 2 points are finished" in result.stderr


def test_a_typo_is_one_line_and_nothing_starts(tmp_path):
    (tmp_path / "typo.py").write_text('def get_sweep(): return [{"seed": 1}, {"optimizer.momentun": 0.8}]\n')
    flags = ("--config=tests/recipes/tiny.py", f"--sweep={tmp_path / 'typo.py'}", f"--workdir={tmp_path / 'runs'}")
    result = run(*flags)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("sweep.py: error: ")]
    assert len(lines) == 1 and "did you mean momentum" in lines[0] and "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()
