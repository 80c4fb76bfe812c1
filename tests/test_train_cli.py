"""train.py as a person runs it: a process, killed, stopped, broken and misused."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from arch.training.checkpoint import digest
from arch.training.logbook import TIMING_FIELDS, read_rows
from arch.weights import files

ROOT = pathlib.Path(__file__).parents[1]
TINY = "--config=tests/recipes/tiny.py"


def command(*flags):
    return [sys.executable, "train.py", *flags, "--config.progress_every_seconds=0"]


def environment(devices=1):
    return os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


def run(*flags, devices=1, timeout=300):
    return subprocess.run(
        command(*flags), cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=timeout
    )


def start(*flags, devices=1):
    return subprocess.Popen(
        command(*flags), cwd=ROOT, env=environment(devices), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def final_state(workdir):
    """{path: array} of the newest checkpoint."""
    newest = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    with ocp.CheckpointManager((workdir / "checkpoints").absolute()) as manager:
        state = manager.restore(newest, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
    return newest, {name: np.asarray(value) for name, value in state.items()}


def rows(workdir):
    """Rows without what is measured by the clock."""
    return [{k: v for k, v in row.items() if k not in TIMING_FIELDS} for row in read_rows(workdir / "metrics.jsonl")]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return f"--config.data.dir={tmp_path_factory.mktemp('tfds')}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data_dir):
    """(workdir, digest of the last state, rows) of a run that nobody stopped."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    result = run(TINY, f"--workdir={workdir}", data_dir)
    assert result.returncode == 0, result.stderr
    step, state = final_state(workdir)
    assert step == 12
    return workdir, digest(state), rows(workdir)


def assert_same_run(workdir, undisturbed):
    step, state = final_state(workdir)
    assert step == 12
    assert digest(state) == undisturbed[1]
    assert rows(workdir) == undisturbed[2]


def test_a_run_leaves_all_that_it_promises(undisturbed):
    workdir, _, found = undisturbed
    assert [row["step"] for row in found] == [3, 6, 7, 9, 12]  # every 3 steps, and every 0.2 epochs of 35.9
    last = found[-1]
    for name in ("train/loss", "train/learning_rate", "val/accuracy", "test/loss", "test/accuracy", "test/ema_loss"):
        assert np.isfinite(last[name])
    assert json.loads((workdir / "config.json").read_text())["num_steps"] == 12
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").glob("events.*"))


def test_the_same_command_again_says_that_it_is_finished(undisturbed, data_dir):
    workdir, expected, found = undisturbed
    result = run(TINY, f"--workdir={workdir}", data_dir)
    assert result.returncode == 0
    assert "finished already: checkpoint of step 12" in result.stderr
    assert digest(final_state(workdir)[1]) == expected
    assert rows(workdir) == found


def wait_for(process, condition, timeout=240):
    """Polls until the condition holds; fails where the process ends before."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"train.py ended early: {process.stdout.read()}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.0005)


def saved_steps(workdir):
    folder = workdir / "checkpoints"
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


@pytest.mark.slow
def test_killed_twice_once_inside_a_save_it_ends_the_same(tmp_path, undisturbed, data_dir):
    workdir = tmp_path / "run"
    flags = (TINY, f"--workdir={workdir}", data_dir)
    process = start(*flags)
    wait_for(process, lambda: list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")))  # a save is under way
    process.kill()
    process.wait()
    assert list((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))  # killed before it was whole
    first = saved_steps(workdir)
    process = start(*flags)
    wait_for(process, lambda: any(step > max(first, default=0) for step in saved_steps(workdir)))
    time.sleep(float(np.random.default_rng().uniform(0, 0.5)))  # any moment will do
    process.kill()
    process.wait()
    assert max(saved_steps(workdir)) > 0
    result = run(*flags)
    assert result.returncode == 0, result.stderr
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_saves_and_asks_to_be_resumed(tmp_path, undisturbed, data_dir, number, status):
    workdir = tmp_path / "run"
    flags = (TINY, f"--workdir={workdir}", data_dir)
    process = start(*flags)
    wait_for(process, lambda: saved_steps(workdir))
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    stopped = int(re.search(r"stopped by SIG\w+ at step (\d+) and saved", output).group(1))
    assert max(saved_steps(workdir)) == stopped < 12
    result = run(*flags)
    assert result.returncode == 0, result.stderr
    assert f"resuming: checkpoint of step {stopped}" in result.stderr
    assert_same_run(workdir, undisturbed)


@pytest.mark.slow
def test_a_truncated_newest_checkpoint_falls_back(tmp_path, undisturbed, data_dir):
    workdir = tmp_path / "run"
    flags = (TINY, f"--workdir={workdir}", data_dir)
    process = start(*flags)
    wait_for(process, lambda: len(saved_steps(workdir)) > 1)
    process.send_signal(signal.SIGTERM)
    process.wait()
    newest = workdir / "checkpoints" / str(max(saved_steps(workdir)))
    for path in newest.rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)
    result = run(*flags)
    assert result.returncode == 0, result.stderr
    assert f"checkpoint {newest} is broken" in result.stderr
    assert_same_run(workdir, undisturbed)


def test_eval_only_repeats_the_numbers_of_the_best_checkpoint(undisturbed, data_dir):
    workdir, _, found = undisturbed
    result = run(TINY, f"--workdir={workdir}", data_dir, "--eval_only")
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout)
    row = next(row for row in found if row["step"] == numbers["step"])
    assert row["val/accuracy"] == max(r.get("val/accuracy", -1) for r in found)
    for name, value in numbers.items():
        assert value == pytest.approx(row[name], rel=1e-6), name


def test_another_config_is_refused_with_its_fields_and_a_fresh_folder(undisturbed, data_dir):
    workdir, expected, _ = undisturbed
    result = run(TINY, f"--workdir={workdir}", data_dir, "--config.optimizer.momentum=0.8")
    assert result.returncode == 2
    line = one_line(result)
    assert "optimizer.momentum is 0.9 there and 0.8 here" in line
    assert f"--workdir={workdir}-2" in line
    assert digest(final_state(workdir)[1]) == expected


@pytest.mark.slow
def test_a_non_finite_loss_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path, data_dir):
    workdir = tmp_path / "run"
    flags = (TINY, f"--workdir={workdir}", data_dir, "--config.schedule.base_learning_rate=1e12")
    result = run(*flags, "--config.checkpoint_every_steps=1")
    assert result.returncode == 1
    line = one_line(result)
    step = int(re.search(r"was not finite at step (\d+), and training stopped", line).group(1))
    assert max(saved_steps(workdir)) == step, line  # the state before that step: `step` updates
    assert f"the checkpoint of step {step} is kept" in line
    _, state = final_state(workdir)
    assert all(np.isfinite(value).all() for value in state.values())


@pytest.mark.slow
def test_open_fields_reach_their_class(tmp_path, data_dir):
    flags = ("--config.num_steps=1", "--config.model.norm.name=group_norm", "--config.model.fields.variant=torchvision")
    # Of two recipes the last one, as in a sweep whose points have their own.
    result = run(
        "--config=configs/xception.py",
        TINY,
        f"--workdir={tmp_path / 'run'}",
        data_dir,
        *flags,
        "--config.model.norm.fields.num_groups=2",
    )
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["norm"]["fields"] == {"num_groups": 2}
    assert config["model"]["fields"]["variant"] == "torchvision"
    assert final_state(tmp_path / "run")[1]["params/stage2_unit1/shortcut_pointwise/kernel"].shape == (1, 1, 4, 4)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, data_dir):
    (tmp_path / "file").write_text("")
    result = run(TINY, f"--workdir={tmp_path / 'file' / 'run'}", data_dir)
    assert result.returncode == 2
    assert "Not a directory" in one_line(result)


def one_line(result):
    """The error; nothing else but lines of the log, and no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("train.py: error: ")]
    assert "Traceback" not in result.stderr, result.stderr
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--config is required, for example --config=configs/shufflenet_v2.py"),
        (("--config=configs/shufflenet_v9.py",), "did you mean configs/shufflenet_v"),
        (("--config=configs/shufflenet_v2.py:widht=1.5",), "unknown name 'widht' in 'widht=1.5'; did you mean 'width'"),
        (("--config=configs/shufflenet_v2.py:width=0.7",), "width=0.7"),
        ((TINY, "--confg=x"), "Unknown command line flag 'confg'. Did you mean: config"),
        ((TINY, "--config.optimizr.name=lars"), "config has no field 'optimizr'; did you mean optimizer"),
        ((TINY, "--config.optimizer.name=larz"), "unknown name 'larz'; did you mean 'lars'"),
        ((TINY, "--config.seed=many"), "invalid literal for int() with base 10: 'many'"),
        ((TINY, "--config.model.fields.head_features=0.5"), "head_features"),
        ((TINY, "--config.model.name=shufflenet_v3"), "did you mean 'shufflenet_v"),
        ((TINY, "--config.model.norm.name=batchnorm"), "did you mean 'batch_norm'"),
        ((TINY, "--config.model.dtype=float16"), "unknown name 'float16'; did you mean 'bfloat16' or 'float"),
        (
            (TINY, "--config.global_batch_size=30"),
            "must be a positive multiple of 4 devices x num_micro_batches=1; use 32",
        ),
        ((TINY, "--config.data.name=imagenet2012"), "python scripts/prepare_data.py --name=imagenet2012"),
        (("--config=configs/shufflenet_v2.py:imagenet",), "python scripts/prepare_data.py --name=imagenet2012"),
        ((TINY, "--config.model.norm.fields.momentun=0.8"), "unknown name 'momentun'; did you mean 'momentum'"),
        ((TINY, "--config.data.crop_area=('a',1)"), "data.crop_area=('a', 1) must be 2 numbers"),
        ((TINY, "--process_id=0"), "--coordinator and --num_processes must be given too"),
        ((TINY, "extra"), "unexpected argument 'extra'"),
    ],
)
def test_misuse_is_one_line_that_names_the_fix(tmp_path, flags, words):
    flags = list(flags)
    if flags and flags[0].startswith("--config="):
        flags.append(f"--config.data.dir={tmp_path / 'tfds'}")
    result = run(*flags, f"--workdir={tmp_path / 'run'}", devices=4)
    assert result.returncode == 2, result.stderr
    assert words in one_line(result)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weight_norm_starts_from_the_first_batch_of_all_devices(tmp_path, data_dir):
    """At rate 0 the last parameters are the first; those of two devices are those of one, in float64."""
    flags = (
        "--config=tests/recipes/tiny.py:dtype=float64,norm=none", data_dir, "--config.model.conv.name=weight_norm",
        "--config.num_steps=1", "--config.schedule.base_learning_rate=1e-300", "--config.model.fields.dropout_rate=0.0",
    )  # fmt: skip
    states = {}
    for name, devices, given in (("plain", 1, False), ("one", 1, True), ("two", 2, True)):
        init = f"--config.model.conv.data_dependent_init={given}"
        result = run(*flags, init, f"--workdir={tmp_path / name}", devices=devices)
        assert result.returncode == 0, result.stderr
        states[name] = final_state(tmp_path / name)[1]
    lengths = [name for name in states["one"] if name.startswith("params") and name.endswith("g")]
    assert len(lengths) > 10
    for name in lengths:
        np.testing.assert_allclose(states["two"][name], states["one"][name], rtol=1e-7)
        assert not np.allclose(states["one"][name], states["plain"][name], rtol=1e-2), name


@pytest.mark.slow
def test_the_noise_of_the_gradient_is_logged_or_refused(tmp_path, data_dir):
    flags = (TINY, data_dir, "--config.measure_noise", "--config.num_steps=3", "--config.model.norm.name=group_norm")
    result = run(*flags, f"--workdir={tmp_path / 'one'}")
    assert result.returncode == 2 and "set config.num_micro_batches=2" in one_line(result)
    result = run(*flags, f"--workdir={tmp_path / 'two'}", "--config.num_micro_batches=2")
    assert result.returncode == 0, result.stderr
    row = rows(tmp_path / "two")[-1]
    assert np.isfinite(row["train/gradient_noise_scale"])
    # lr / (1 - m) (N / B - 1): 1,150 images in batches of 32.
    assert row["train/noise_scale"] == pytest.approx(row["train/learning_rate"] / 0.1 * (1150 / 32 - 1))


def test_weights_and_activations_are_normalized_in_their_own_places(tmp_path, data_dir):
    result = run(TINY, f"--workdir={tmp_path}", data_dir, "--config.model.norm.name=weight_norm")
    assert result.returncode == 2
    assert "set model.conv.name=weight_norm" in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def weights(tmp_path_factory, undisturbed):
    """The weights that the undisturbed run left, as a file of our own."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    _, state = final_state(undisturbed[0])
    tensors = {name: value for name, value in state.items() if name.startswith(("params/", "batch_stats/"))}
    files.write(str(path), tensors, {})
    return path, tensors


def one_small_step(workdir, data_dir, path, *flags):
    """A run of one step that moves nothing but the statistics, from the weights of a file."""
    still = ("--config.num_steps=1", "--config.schedule.base_learning_rate=0.0", f"--config.init_from={path}")
    return run(TINY, f"--workdir={workdir}", data_dir, *still, *flags)


def test_training_starts_from_the_weights_of_a_file(tmp_path, data_dir, weights):
    path, tensors = weights
    workdir = tmp_path / "run"
    result = one_small_step(workdir, data_dir, path)
    assert result.returncode == 0, result.stderr
    assert f"weights of {path}; new: none" in result.stderr
    _, state = final_state(workdir)
    for name, value in tensors.items():
        if name.startswith("params/"):
            np.testing.assert_array_equal(state[name], value, err_msg=name)
            np.testing.assert_array_equal(state["ema_" + name], value, err_msg=name)
    # The file is not looked at again.
    path = path.rename(path.with_suffix(".away"))
    try:
        result = one_small_step(workdir, data_dir, weights[0])
        assert result.returncode == 0 and "finished already" in result.stderr
    finally:
        path.rename(weights[0])


@pytest.mark.slow
def test_weights_of_other_classes_leave_the_classifier_new(tmp_path, data_dir, weights):
    path, tensors = tmp_path / "seven.safetensors", dict(weights[1])
    for name in ("params/classifier/kernel", "params/classifier/bias"):
        tensors[name] = tensors[name][..., :7]
    files.write(str(path), tensors, {})
    result = one_small_step(tmp_path / "run", data_dir, path)
    assert result.returncode == 0, result.stderr
    assert f"weights of {path}; new: params/classifier/bias, params/classifier/kernel" in result.stderr
    _, state = final_state(tmp_path / "run")
    np.testing.assert_array_equal(state["params/stem_conv/kernel"], tensors["params/stem_conv/kernel"])
    assert state["params/classifier/kernel"].shape[1] == 10
    assert np.abs(state["params/classifier/kernel"][:, :7] - tensors["params/classifier/kernel"]).max() > 1e-3


def test_weights_that_do_not_fit_are_one_line_and_leave_no_folder(tmp_path, data_dir, weights):
    path, workdir = weights[0], tmp_path / "run"
    result = one_small_step(workdir, data_dir, path, "--config.model.fields.head_features=16")
    assert result.returncode == 2
    assert f"{path}: not the weights of this network; of another shape: batch_stats/head_norm/mean" in one_line(result)
    result = one_small_step(workdir, data_dir, tmp_path / "none.pth")
    assert result.returncode == 2 and "No such file" in one_line(result)
    assert not workdir.exists()
