"""train.py on several devices and hosts: the same run, to rounding in float64; and the loss of one of them."""

import os
import pathlib
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


STARTED = []


@pytest.fixture(autouse=True)
def no_host_is_left():
    """Where a test fails, others would wait for the cores."""
    yield
    while STARTED:
        STARTED.pop().kill()


def start_hosts(workdir, data_dir, count=2, devices=2, only=None, flags=()):
    """`count` processes of so many devices each, or the `only` one, joined over a free port."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = (FLOAT64, f"--workdir={workdir}", data_dir, *flags, f"--coordinator=localhost:{port}")
    hosts = [
        start(*flags, f"--num_processes={count}", f"--process_id={index}", devices=devices)
        for index in (range(count) if only is None else [only])
    ]
    STARTED.extend(hosts)
    return hosts


def finish(hosts, timeout=600):
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


def test_four_hosts_of_one_device_train_to_the_parameters_of_one(tmp_path, data_dir, one_device):
    hosts = start_hosts(tmp_path / "run", data_dir, count=4, devices=1)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0, 0, 0], outputs
    assert_same(tmp_path / "run", one_device)


def test_two_hosts_agree_on_where_to_stop(tmp_path, data_dir, one_device):
    workdir = tmp_path / "run"
    flags = ("--config.checkpoint_every_steps=1",)  # slows them down: the signal must come well before the last step
    hosts = start_hosts(workdir, data_dir, flags=flags)
    wait_for(hosts[0], lambda: saved_steps(workdir), timeout=600)
    hosts[1].send_signal(signal.SIGTERM)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [75, 75], outputs
    assert max(saved_steps(workdir)) < 12
    hosts = start_hosts(workdir, data_dir, flags=flags)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert_same(workdir, one_device)


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory, data_dir):
    """(state, rows) of two processes that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    hosts = start_hosts(workdir, data_dir, devices=1)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], outputs
    return final_state(workdir)[1], rows(workdir)


def one_line(output):
    """The error of a host; no stack trace of Python or C++ beside it."""
    assert not any(words in output for words in ("Traceback", "stack trace", "Fatal", "@     0x")), output
    (line,) = (line for line in output.splitlines() if line.startswith("train.py: error: "))
    return line


@pytest.mark.parametrize(
    ("lost", "words"), [(0, "process 0, which coordinates them, is gone"), (1, "process 1 gave no")]
)
def test_killed_on_one_host_the_others_end_and_both_go_on(tmp_path, data_dir, two_hosts, lost, words):
    """Bit for bit as two that nobody killed."""
    workdir = tmp_path / "run"
    hosts = start_hosts(workdir, data_dir, devices=1)
    wait_for(hosts[0], lambda: saved_steps(workdir), timeout=600)
    hosts[lost].kill()
    output = finish([hosts[1 - lost]], timeout=60)[0]
    finish(hosts)
    assert hosts[1 - lost].returncode == 75, output
    assert words in (line := one_line(output)) and "run the same command on all hosts again" in line
    assert 0 < max(saved_steps(workdir)) < 12
    hosts = start_hosts(workdir, data_dir, devices=1)
    outputs = finish(hosts)
    assert [host.returncode for host in hosts] == [0, 0], outputs
    assert "resuming: checkpoint of step" in outputs[0]
    step, state = final_state(workdir)
    assert step == 12 and state.keys() == two_hosts[0].keys()
    for name, value in two_hosts[0].items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    assert rows(workdir) == two_hosts[1]


def test_a_host_that_hangs_ends_the_others(tmp_path, data_dir):
    """As where a machine or its network is lost: its connections stay open, and a collective waits for it."""
    workdir = tmp_path / "run"
    hosts = start_hosts(workdir, data_dir, devices=1, flags=("--config.num_steps=100000",))
    wait_for(hosts[0], lambda: saved_steps(workdir), timeout=600)
    (child,) = pathlib.Path(f"/proc/{hosts[1].pid}/task/{hosts[1].pid}/children").read_text().split()
    os.kill(int(child), signal.SIGSTOP)
    output = finish(hosts[:1], timeout=60)[0]
    hosts[1].kill()
    finish(hosts)
    assert hosts[0].returncode == 75, output
    assert "process 1 gave no sign of life for 30 s" in one_line(output)


@pytest.mark.parametrize("only", [0, 1])
def test_a_host_that_waits_alone_says_so_and_ends(tmp_path, data_dir, only):
    hosts = start_hosts(tmp_path / "run", data_dir, only=only, flags=("--join_seconds=2",))
    output = finish(hosts, timeout=120)[0]  # with the imports
    assert hosts[0].returncode == 75, output
    line = one_line(output)
    assert (
        "all 2 processes must meet at localhost:" in line and "within --join_seconds=2, and some did not come" in line
    )


def test_a_folder_that_is_refused_ends_all_hosts_with_one_line(tmp_path, data_dir):
    (tmp_path / "other").write_text("")
    hosts = start_hosts(tmp_path, data_dir, devices=1)
    outputs = finish(hosts, timeout=120)
    assert [host.returncode for host in hosts] == [2, 2], outputs
    assert "is not empty and holds no config.json" in one_line(outputs[0])
    assert "error" not in outputs[1]


@pytest.mark.parametrize("flags", [("--distributed",), ("--coordinator=a:1", "--num_processes=2", "--process_id=2")])
def test_a_cluster_that_is_none_is_one_line(tmp_path, data_dir, flags):
    process = start(FLOAT64, f"--workdir={tmp_path / 'run'}", data_dir, *flags)
    (output,) = finish([process], timeout=120)
    assert process.returncode == 2, output
    assert "cannot be joined" in one_line(output) and "give all three" in one_line(output)
