"""The scripts that start train.py on pods and clusters, with stand-ins for gcloud, srun, squeue and scontrol."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
POD, SLURM = SCRIPTS / "launch_tpu_pod.sh", SCRIPTS / "launch_slurm.sh"
FLAGS = ("--config=configs/x.py:imagenet,width=1.5", "--config.data.crop_area=(0.1, 1)", "--workdir=/shared/it's $HOME")
# Writes down its arguments, and ends with the next of the exit statuses that it is given.
STAND_IN = """#!/bin/bash
printf '%s\\x1f' "${0##*/}" "$@" >> "$RECORD/calls"; echo >> "$RECORD/calls"
[[ ! -e $RECORD/${0##*/} ]] || source "$RECORD/${0##*/}"
statuses=($STATUSES) number=$(grep -c "^${0##*/}" "$RECORD/calls")
[[ ${0##*/} =~ gcloud|srun ]] || exit 0
exit "${statuses[number - 1]:-0}"
"""


class Machine:
    """A folder of stand-ins that are first on the PATH, and what they were asked."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "bin").mkdir()
        for name in ("gcloud", "srun", "squeue", "scontrol", "sleep"):
            (folder / "bin" / name).write_text(STAND_IN)
            (folder / "bin" / name).chmod(0o755)
        (folder / "train.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
        self.answer("squeue", "echo RUNNING")

    def answer(self, name, code):
        """What a stand-in does first."""
        (self.folder / name).write_text(code)

    def environment(self, statuses=(), **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_"))}
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        ours = {"PATH": path, "RECORD": str(self.folder), "STATUSES": " ".join(map(str, statuses))}
        return kept | ours | {"HOME": str(self.folder)} | more

    def run(self, script, *arguments, statuses=(), **more):
        return subprocess.run(
            ["bash", str(script), *arguments], cwd=self.folder, env=self.environment(statuses, **more),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def calls(self, name):
        """The arguments of each call of a stand-in."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split("\x1f")[1:-1] for line in lines if line.startswith(name + "\x1f")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def one_line(result):
    assert result.returncode == 2, result
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("script", [POD, SLURM])
def test_bash_reads_them_and_they_can_be_run(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text().splitlines()


def test_every_host_of_the_pod_gets_the_command_as_it_was_typed(machine):
    """By a shell, in the home folder of the host, as ssh has it."""
    (machine.folder / "the project").mkdir()
    (machine.folder / "train.py").rename(machine.folder / "the project" / "train.py")
    machine.answer("gcloud", 'cd; for item; do [[ $item != --command=* ]] || bash -c "${item#--command=}"; done')
    options = ("--tpu=pod", "--zone=us-central2-b", "--project=lab", "--directory=the project")
    result = machine.run(POD, *options, *FLAGS)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == ["--distributed", *FLAGS]
    (call,) = machine.calls("gcloud")
    assert call[:5] == ["compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert call[5:-1] == ["--worker=all", "--zone=us-central2-b", "--project=lab"]


def test_a_dry_run_prints_what_would_be_run(machine):
    result = machine.run(POD, "--tpu=pod", "--copy", "--dry_run", *FLAGS)
    assert result.returncode == 0 and not machine.calls("gcloud")
    copied, unpacked, trained = result.stdout.splitlines()
    assert copied.startswith("gcloud compute tpus tpu-vm scp ") and copied.rstrip().endswith("--worker=all")
    assert "tar" in unpacked and "train.py" in trained and "--distributed" in trained


@pytest.mark.parametrize("repository", [True, False])
def test_the_project_is_brought_to_the_pod(machine, repository):
    """The files that there are, but none that git ignores; with and without a repository."""
    project = machine.folder / "the project"
    files = {"train.py", "a file", "scripts/launch_tpu_pod.sh"}
    for name in (*files, "gone.py", "runs/a run/metrics.jsonl", ".venv/bin/python"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    shutil.copy(POD, project / "scripts")
    (project / ".gitignore").write_text("runs/\n.venv/\n")
    if repository:
        subprocess.run("git init -q && git add train.py gone.py", shell=True, cwd=project, check=True)
    (project / "gone.py").unlink()
    machine.answer("gcloud", '[[ $4 != scp ]] || tar -tzf "$5" > "$RECORD/files"')
    result = machine.run(project / "scripts" / POD.name, "--tpu=pod", "--copy", *FLAGS)
    assert result.returncode == 0, result.stderr
    assert set((machine.folder / "files").read_text().splitlines()) == files | {".gitignore"}
    assert [call[3] for call in machine.calls("gcloud")] == ["scp", "ssh", "ssh"]


@pytest.mark.parametrize(
    ("statuses", "expected", "calls"),
    [
        ((75, 255, 137, 0), 0, 4),  # stopped, connection lost, killed
        ((2,), 2, 1), ((75, 1), 1, 2),
        ((75,) * 9, 75, 4),
    ],
)  # fmt: skip
def test_the_pod_starts_again_where_the_same_command_goes_on(machine, statuses, expected, calls):
    result = machine.run(POD, "--tpu=pod", "--max_restarts=3", *FLAGS, statuses=statuses)
    assert result.returncode == expected
    assert len(machine.calls("gcloud")) == calls and len({tuple(call) for call in machine.calls("gcloud")}) == 1
    if calls == 4 and expected:
        assert "after 3 restarts, of --max_restarts=3; run the command again" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_the_run_on_the_pod_and_nothing_starts_again(machine, number, status):
    (machine.folder / "project").mkdir()
    (machine.folder / "project" / "train.py").write_text(
        "import pathlib, signal, sys, time\n"
        "got = []\nsignal.signal(signal.SIGTERM, lambda *_: got.append(1))\npathlib.Path('ready').touch()\n"
        "while not got: time.sleep(0.01)\npathlib.Path('saved').touch()\nsys.exit(75)\n"
    )
    machine.answer("gcloud", 'cd; for item; do [[ $item != --command=* ]] || exec bash -c "${item#--command=}"; done')
    command = ["bash", str(POD), "--tpu=pod", "--directory=project", *FLAGS]
    process = subprocess.Popen(command, env=machine.environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (machine.folder / "project" / "ready").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    assert (machine.folder / "project" / "saved").exists() and "stopping the run on pod" in errors
    assert len(machine.calls("gcloud")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (FLAGS, "give --tpu=NAME"),
        (("--tpu", "pod", *FLAGS), "--tpu has no value; write it behind an equals sign"),
        (("--tpu=pod",), "nothing to train; give the flags of train.py"),
        (("--tpu=pod", "--max_restarts=many", *FLAGS), "--max_restarts=many must be a whole number"),
    ],
)
def test_a_wrong_command_for_a_pod_is_one_line(machine, arguments, words):
    assert words in one_line(machine.run(POD, *arguments)) and not machine.calls("gcloud")


JOB = {"SLURM_JOB_ID": "7", "PYTHON": sys.executable}


def test_srun_gets_the_command_as_it_was_typed(machine):
    result = machine.run(SLURM, *FLAGS, **JOB)
    assert result.returncode == 0, result.stderr
    expected = ["--kill-on-bad-exit=0", sys.executable, "train.py", "--distributed", *FLAGS]
    assert machine.calls("srun") == [expected] and not machine.calls("scontrol")


@pytest.mark.parametrize("status", [75, 137])
def test_a_job_that_was_stopped_goes_back_into_the_queue(machine, status):
    result = machine.run(SLURM, *FLAGS, statuses=[status], SLURM_RESTART_COUNT="2", **JOB)
    assert machine.calls("scontrol") == [["requeue", "7"]], result.stderr
    assert "restart 3 of 50 at most" in result.stderr


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_job_that_has_ended_does_not(machine, status):
    assert machine.run(SLURM, *FLAGS, statuses=[status], **JOB).returncode == status
    assert not machine.calls("scontrol")


def test_a_job_that_is_cancelled_or_restarted_too_often_does_not(machine):
    result = machine.run(SLURM, "--max_restarts=2", *FLAGS, statuses=[75], SLURM_RESTART_COUNT="2", **JOB)
    assert result.returncode == 75 and "after 2 restarts, of --max_restarts=2; submit again" in result.stderr
    machine.answer("squeue", "echo COMPLETING")
    (machine.folder / "calls").unlink()
    assert machine.run(SLURM, *FLAGS, statuses=[75], **JOB).returncode == 75
    assert not machine.calls("scontrol")


def test_sigterm_to_the_whole_job_lets_its_tasks_save(machine):
    """The script waits for srun, and then asks for another turn."""
    machine.answer("srun", 'trap "got=yes" TERM; touch "$RECORD/ready"; while [[ -z $got ]]; do /bin/sleep 0.05; done')
    process = subprocess.Popen(
        ["bash", str(SLURM), *FLAGS], cwd=machine.folder, env=machine.environment([75], **JOB), process_group=0
    )
    end = time.monotonic() + 60
    while not (machine.folder / "ready").exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert machine.calls("scontrol") == [["requeue", "7"]]


@pytest.mark.parametrize(
    ("tasks", "gpus", "devices"), [("1", "4", "0,1,2,3"), ("4", "4", ""), ("1", "1", ""), ("2", "", "")]
)
def test_a_task_has_the_gpus_that_are_its_own(machine, tasks, gpus, devices):
    """JAX gives every task of Slurm one GPU, unless it is told otherwise."""
    machine.answer("srun", 'echo "devices ${JAX_LOCAL_DEVICE_IDS:-} cores $SRUN_CPUS_PER_TASK"')
    gpus = {"SLURM_GPUS_ON_NODE": gpus} if gpus else {}
    result = machine.run(SLURM, *FLAGS, SLURM_NTASKS_PER_NODE=tasks, SLURM_CPUS_PER_TASK="6", **gpus, **JOB)
    assert result.stdout == f"devices {devices} cores 6\n", result.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (FLAGS, {}, "not in a job; submit it: sbatch"),
        ((), JOB, "nothing to train; give the flags of train.py"),
        (("--max_restarts=-1", *FLAGS), JOB, "--max_restarts=-1 must be a whole number"),
        (FLAGS, {**JOB, "SLURM_NTASKS_PER_NODE": "2", "SLURM_GPUS_ON_NODE": "8"}, "use --ntasks-per-node=1, or"),
    ],
)
def test_a_wrong_job_is_one_line(machine, arguments, environment, words):
    assert words in one_line(machine.run(SLURM, *arguments, **environment)) and not machine.calls("srun")


def test_a_job_submitted_from_elsewhere_is_one_line(machine):
    (machine.folder / "train.py").unlink()
    assert "submit from the project's folder" in one_line(machine.run(SLURM, *FLAGS, **JOB))
