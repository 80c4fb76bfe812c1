"""train.py on several devices and hosts: the same run, to rounding in float64."""

import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from tests.test_train_cli import final_state, rows, run, saved_steps, start, wait_for

pytestmark = pytest.mark.slow  # each starts several processes, which all compile

FLOAT64 = "--config=tests/recipes/tiny.py:dtype=float64"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return f"--config.data.dir={tmp_path_factory.mktemp('tfds')}"


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, data_dir):
    """(state, rows) of a run on one device."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    result = run(FLOAT64, f"--workdir={workdir}", data_dir)
    assert result.returncode == 0, result.stderr
    return final_state(workdir)[1], rows(workdir)


def assert_same(workdir, one_device, tolerance=1e-7):
    step, state = final_state(workdir)
    assert step == 12
    expected, expected_rows = one_device
    for name, value in expected.items():
        if "_reduction_counter" not in name:  # counts merges over devices
            np.testing.assert_allclose(state[name], value, rtol=0, atol=tolerance, err_msg=name)
    got = rows(workdir)
    assert [row["step"] for row in got] == [row["step"] for row in expected_rows]
    for row, other in zip(got, expected_rows, strict=True):
        assert row == pytest.approx(other, abs=1e-7)


def test_restored_on_four_devices_it_goes_on_as_on_one(tmp_path, data_dir, one_device):
    workdir = tmp_path / "run"
    flags = (FLOAT64, f"--workdir={workdir}", data_dir)
    process = start(*flags)
    wait_for(process, lambda: saved_steps(workdir))
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert max(saved_steps(workdir)) <= 9  # so that three further steps are taken at least
    result = run(*flags, devices=4)
    assert result.returncode == 0, result.stderr
    assert_same(workdir, one_device)


def start_hosts(workdir, data_dir):
    """Two processes of two devices each, joined over a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = (FLOAT64, f"--workdir={workdir}", data_dir, f"--coordinator=localhost:{port}", "--num_processes=2")
    return [start(*flags, f"--process_id={i}", devices=2) for i in range(2)]


def finish(hosts, timeout=300):
    """Outputs; a host that hangs is killed, and shows as -9."""
    end = time.monotonic() + timeout
    outputs = []
    for host in hosts:
        try:
            outputs.append(host.communicate(timeout=max(1, end - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            host.kill()
            outputs.append(host.communicate()[0])
    return outputs


def test_two_hosts_train_to_the_parameters_of_one(tmp_path, data_dir, one_device):
    hosts = start_hosts(tmp_path / "run", data_dir)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert "finished: " in outputs[0]
    assert "step " not in outputs[1]  # one host speaks
    assert_same(tmp_path / "run", one_device)


def test_two_hosts_agree_on_where_to_stop(tmp_path, data_dir, one_device):
    workdir = tmp_path / "run"
    hosts = start_hosts(workdir, data_dir)
    wait_for(hosts[0], lambda: saved_steps(workdir))
    hosts[1].send_signal(signal.SIGTERM)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [75, 75], outputs
    assert max(saved_steps(workdir)) < 12
    hosts = start_hosts(workdir, data_dir)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert_same(workdir, one_device)
