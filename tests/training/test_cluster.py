"""The parent of one process of a cluster: what it makes of the child's end, and that both end together.

The messages are those that JAX 0.10.2 and 0.12.0 printed when processes of a cluster were killed, or did not come.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from arch.training.cluster import is_one_of_several, last_value, verdict

ROOT = pathlib.Path(__file__).parents[2]
FATAL = (
    "F1127 06:32:03.605653   31558 client.h:80] Terminating process because the JAX distributed service detected fatal "
    "errors. This most likely indicates that another task died; see the other task logs. absl::Status: "
)
SILENT = (
    "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n"
    "The tasks have crashed. Check the task logs for an earlier error, or scheduler events\n"
)
TWO_SILENT = SILENT.replace("\n1\n", "\n3\n12\n")
SHUTDOWN = (
    "INTERNAL: Barrier failed because: task is set to ERROR: UNAVAILABLE: Task 2 heartbeat timeout. This indicates"
)
LEADER = (
    "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted/died/restarted\n"
    ':UNKNOWN:Error received from peer  {grpc_status:14, grpc_message:"Socket closed"}\n'
)
JOIN = "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/RegisterTask\n"
POLLED = (
    "E1127 06:28:47.214102   30042 coordination_service_agent.cc:288] Polled an error from coordination service.\n"
    "=== Source Location Trace: ===\n"
)
TRACE = (
    "*** Check failure stack trace: ***\n    @     0x7f8d94e40634  absl::log_internal::LogMessage::Flush()\n"
    "06:23:46 a word of another thread\nFatal Python error: Aborted\n\nCurrent thread (most recent call first):\n"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SILENT, "process 1 gave no sign of life for 30 s"),
        (TWO_SILENT, "processes 3, 12 gave no sign of life"),
        (SHUTDOWN, "process 2 gave no sign of life"),
        (LEADER, "process 0, which coordinates them, is gone"),
        ("ABORTED: something new", "the contact with another one was lost"),
    ],
)
def test_the_line_names_the_lost_process_and_the_remedy(text, words):
    line = verdict(FATAL + text, [], {})
    assert words in line and line.startswith("cluster: ") and "\n" not in line
    assert line.endswith("run the same command on all hosts again, it goes on from the newest checkpoint")


def test_the_line_of_processes_that_did_not_come_says_where_and_how_long():
    flags = ["--coordinator=a:1", "--num_processes", "4", "--join_seconds=7"]
    assert "all 4 processes must meet at a:1 within --join_seconds=7, and some did not come" in verdict(JOIN, flags, {})
    assert "all 3 processes must meet at b:2 within --join_seconds=120" in verdict(
        JOIN, [], {"JAX_COORDINATOR_ADDRESS": "b:2", "JAX_NUM_PROCESSES": "3"}
    )
    assert "all processes must meet at the coordinator that JAX found" in verdict(JOIN, ["--distributed"], {})


def test_flags_and_variables_that_ask_for_a_cluster():
    assert last_value(["--a=1", "-a", "2", "--b"], "a") == "2"
    assert last_value(["--a=1", "--b"], "b") == "" and last_value(["--b", "--a=1"], "b") == ""
    assert last_value(["--config=a", "a"], "a") is None
    assert is_one_of_several(["--distributed"], {}) and is_one_of_several(["--process_id", "1"], {})
    assert is_one_of_several([], {"JAX_COORDINATOR_ADDRESS": "a:1"})
    assert not is_one_of_several(["--config=configs/x.py", "--workdir=distributed"], {"PATH": "/bin"})


@pytest.fixture
def start(tmp_path):
    """Starts code as one process of several; what it says on stderr is that of the parent."""

    def start(code, *flags):
        program = tmp_path / "program.py"
        program.write_text(
            f"import os, signal, sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from arch.training.cluster import supervise\nsupervise()\n{code}"
        )
        return subprocess.Popen(
            [sys.executable, str(program), *(flags or ("--distributed",))], stderr=subprocess.PIPE, text=True
        )

    return start


def test_the_abort_of_a_lost_process_is_one_line_and_asks_for_another_run(start):
    said = "06:23:46 step 3\n" + POLLED + "06:23:47 step 4\n" + FATAL + SILENT + TRACE
    process = start(f"sys.stderr.write({said!r}); sys.stderr.flush(); os.abort()")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    *log, line = errors.splitlines()
    assert log == ["06:23:46 step 3", "06:23:47 step 4"]
    assert line.startswith("program.py: error: cluster: every process must stay, but process 1 gave no sign of life")


def test_another_abort_is_shown_as_it_is(start):
    process = start(f"sys.stderr.write({'a bug' + chr(10) + TRACE!r}); sys.stderr.flush(); os.abort()")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGABRT
    assert errors == "a bug\n" + TRACE


@pytest.mark.parametrize("status", [0, 1, 2, 75])
def test_its_own_words_and_exit_status_are_those_of_the_child(start, status):
    process = start(f"print('Traceback of its own', file=sys.stderr); sys.exit({status})")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "Traceback of its own\n")


def test_without_a_cluster_there_is_no_child(start):
    process = start("print(os.getpid(), file=sys.stderr)", "--config=x")
    _, errors = process.communicate(timeout=60)
    assert int(errors) == process.pid


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_child_once_as_sigterm(start, number, status):
    code = (
        "got = []\nsignal.signal(signal.SIGTERM, lambda *_: got.append(1))\n"
        "print('ready', file=sys.stderr, flush=True)\nwhile not got: time.sleep(0.01)\n"
        "time.sleep(0.3)\nprint(len(got), file=sys.stderr)\nsys.exit(75)"
    )
    process = start(code)
    assert process.stderr.readline() == "ready\n"
    for _ in range(3):
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, "1\n")


def test_killed_before_it_could_save_it_is_to_be_run_again(start):
    process = start("print('ready', file=sys.stderr, flush=True); time.sleep(60)")
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75


@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="only the kernel of Linux ends a child with its parent (PR_SET_PDEATHSIG)",
)
def test_the_child_does_not_outlive_its_parent(start):
    process = start("print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)")
    child = int(process.stderr.readline())
    assert child != process.pid
    process.kill()
    process.wait()
    end = time.monotonic() + 30
    while os.path.exists(f"/proc/{child}/stat"):  # a zombie, where nobody collects orphans, is dead too
        if pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_an_aborted_child_leaves_behind_ends_with_it(start):
    """Workers that load data; they hold stderr open."""
    code = "os.fork() or time.sleep(60)\nos.kill(os.getpid(), signal.SIGKILL)"
    process = start(code)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert errors.startswith(
        "program.py: error: cluster: killed, as the system does where memory runs out; run the same"
    )
