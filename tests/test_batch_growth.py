"""train.py with a batch that grows: the stages it says, the same on several devices, and resumed at any stage."""

import signal

import numpy as np
import pytest

from arch.training.checkpoint import digest
from tests.test_train_cli import final_state, rows, run, saved_steps, start, wait_for

# 1,150 images: 5 steps of 32, 2 of 64, and 5 of 128.
GROWTH = (
    "--config.schedule.name=step",
    "--config.schedule.step_epochs=(0.15, 0.25)",
    "--config.schedule.step_factor=0.5",
    "--config.schedule.max_batch_size=128",
    "--config.log_every_steps=1",
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return f"--config.data.dir={tmp_path_factory.mktemp('tfds')}"


def command(workdir, data_dir, arg=":dtype=float64"):
    return (f"--config=tests/recipes/tiny.py{arg}", f"--workdir={workdir}", data_dir, *GROWTH)


@pytest.fixture(scope="module")
def grown(tmp_path_factory, data_dir):
    """The folder of a run on one device."""
    workdir = tmp_path_factory.mktemp("grown") / "run"
    result = run(*command(workdir, data_dir))
    assert result.returncode == 0, result.stderr
    assert "12 steps of 32 to 64 to 128 images" in result.stderr
    return workdir


@pytest.mark.slow
def test_the_batch_grows_and_the_rate_stays(grown):
    found = rows(grown)
    sizes = [row["train/global_batch_size"] for row in found]
    assert sizes[:12] == [32] * 5 + [64] * 2 + [128] * 5
    assert {row["train/learning_rate"] for row in found} == {np.float32(0.2)}
    scales = [row["train/noise_scale"] for row in found]
    assert scales[0] == pytest.approx(0.2 / 0.1 * (1150 / 32 - 1)) and scales[-1] == pytest.approx(2 * (1150 / 128 - 1))


@pytest.mark.slow
def test_on_two_devices_it_is_the_run_on_one(tmp_path, data_dir, grown):
    result = run(*command(tmp_path / "run", data_dir), devices=2)
    assert result.returncode == 0, result.stderr
    expected = final_state(grown)[1]
    for name, value in final_state(tmp_path / "run")[1].items():
        if "_reduction_counter" not in name:  # counts merges over devices
            np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_stopped_in_a_later_stage_it_ends_the_same(tmp_path, data_dir, grown):
    flags = command(tmp_path / "run", data_dir)
    process = start(*flags)
    wait_for(process, lambda: max(saved_steps(tmp_path / "run"), default=0) >= 6)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    result = run(*flags)
    assert result.returncode == 0, result.stderr
    assert digest(final_state(tmp_path / "run")[1]) == digest(final_state(grown)[1])
    assert rows(tmp_path / "run") == rows(grown)


def test_a_batch_that_cannot_grow_is_one_line(tmp_path, data_dir):
    result = run("--config=tests/recipes/tiny.py", data_dir, "--config.schedule.max_batch_size=64")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("train.py: error: schedule: max_batch_size=64 must be 0 with")
