"""Sweeps on Slurm and on a TPU pod, with stand-ins for sbatch, squeue and gcloud."""

import logging
import os
import pathlib
import subprocess
import sys

import pytest

from scripts._sweep_clusters import job_name, run_on_pod, submit
from scripts._sweep_job import Job

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = ["--nodes=2", "--gpus-per-node=8"]
# A queue of names; sbatch refuses those that begin with "bad": their digits may well contain it.
SBATCH = """#!/bin/bash
printf '%s\\x1f' "$@" >> "$RECORD/sbatch"; echo >> "$RECORD/sbatch"
[[ $1 != --job-name=bad* ]] || { echo "sbatch: error: invalid partition" >&2; exit 1; }
echo "${1#--job-name=}" >> "$RECORD/queue"; echo "Submitted batch job 7"
"""
SQUEUE = """#!/bin/bash
[[ "$*" == "--me --noheader --format=%j" && ! -e $RECORD/down ]] || { echo "slurm is down" >&2; exit 1; }
touch "$RECORD/queue"; cat "$RECORD/queue"
"""
# Trains in no time: what it is told to leave is what train.py leaves at its end.
GCLOUD = """#!/bin/bash
for item; do [[ $item != --command=* ]] || command=$item; done
echo "$command" >> "$RECORD/gcloud"
[[ $command =~ --workdir=([^ ]+) ]]; folder=${BASH_REMATCH[1]}
[[ $folder != */bad ]] || exit 2
[[ $folder != */stopped ]] || exit 75
mkdir -p "$folder/checkpoints/3"; echo '{"step": 3, "val/accuracy": 0.5}' > "$folder/metrics.jsonl"
"""


@pytest.fixture(autouse=True)
def stand_ins(tmp_path, monkeypatch):
    """The folder of what they write down."""
    (tmp_path / "bin").mkdir()
    texts = {"sbatch": SBATCH, "squeue": SQUEUE, "gcloud": GCLOUD, "sleep": "#!/bin/bash\n"}
    for name, text in texts.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("RECORD", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


def job(folder):
    return Job(folder.name, folder, [sys.executable, "train.py", "--config=a.py:x", f"--workdir={folder}"], num_steps=3)


def finish(folder):
    (folder / "checkpoints" / "3").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 3}\n')


def submissions(folder):
    path = folder / "sbatch"
    return [line.split("\x1f")[:-1] for line in path.read_text().splitlines()] if path.exists() else []


def test_every_point_is_submitted_once_and_finished_ones_are_not(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    jobs = [job(tmp_path / "runs" / name) for name in ("a=1,b=2", "a=2,b=2", "done")]
    finish(jobs[2].folder)
    assert submit(jobs, OPTIONS) == 0
    assert submissions(tmp_path) == [
        [
            f"--job-name={job_name(point)}", f"--output={tmp_path / 'runs' / 'slurm' / job_name(point)}.%j.txt",
            *OPTIONS, str(ROOT / "scripts" / "launch_slurm.sh"), "--config=a.py:x", f"--workdir={point.folder}",
        ]
        for point in jobs[:2]
    ]  # fmt: skip
    assert "3 points: 1 finished, 0 in the queue already, 2 submitted" in caplog.text and "squeue --me" in caplog.text
    assert not (tmp_path / "runs" / "a=1,b=2").exists()  # train.py refuses a folder of other things
    assert submit(jobs, OPTIONS) == 0
    assert len(submissions(tmp_path)) == 2 and "1 finished, 2 in the queue already, 0 submitted" in caplog.text
    finish(jobs[0].folder)
    (tmp_path / "queue").write_text("")  # the second was lost
    assert submit(jobs, OPTIONS) == 0
    assert [call[0] for call in submissions(tmp_path)[2:]] == [f"--job-name={job_name(jobs[1])}"]


def test_jobs_are_named_by_point_and_folder(tmp_path):
    names = {job_name(job(tmp_path / folder / name)) for folder in "xy" for name in "ab"}
    assert len(names) == 4 and {name.partition("@")[0] for name in names} == {"a", "b"}


def test_a_point_that_is_refused_is_reported_and_the_others_are_submitted(tmp_path, caplog):
    assert submit([job(tmp_path / "runs" / name) for name in ("bad", "good")], OPTIONS) == 1
    assert "bad: sbatch refused it: sbatch: error: invalid partition" in caplog.text
    assert len((tmp_path / "queue").read_text().splitlines()) == 1


def test_where_nothing_can_be_submitted_is_one_line(tmp_path, monkeypatch):
    jobs = [job(tmp_path / "runs" / "a")]
    (tmp_path / "down").touch()
    with pytest.raises(ValueError, match=r"squeue failed \(slurm is down\); try again"):
        submit(jobs, [])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no train\.py in"):
        submit(jobs, [])
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="there is no sbatch on the PATH"):
        submit(jobs, [])
    assert not submissions(tmp_path)


def test_a_pod_trains_the_points_one_after_the_other(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    jobs = [job(tmp_path / "runs" / name) for name in ("done", "a", "bad", "b")]
    finish(jobs[0].folder)
    assert run_on_pod(jobs, ["--tpu=pod", "--zone=z"]) == 1
    assert [point.is_finished() for point in jobs] == [True, True, False, True]
    commands = (tmp_path / "gcloud").read_text().splitlines()
    assert [command.rpartition("/")[2] for command in commands] == ["a", "bad", "b"]
    assert all("train.py --distributed --config=a.py:x --workdir=" in command for command in commands)
    assert "failed: bad, exit status 2" in caplog.text and "3 of 4 points are finished" in caplog.text


def test_a_point_that_was_stopped_stops_the_sweep_on_a_pod(tmp_path):
    jobs = [job(tmp_path / "runs" / name) for name in ("stopped", "a")]
    assert run_on_pod(jobs, ["--tpu=pod", "--max_restarts=1"]) == 75
    assert not jobs[1].is_finished()


def test_a_pod_without_a_name_or_a_shared_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="which pod"):
        run_on_pod([job(tmp_path / "a")], ["--zone=z"])
    with pytest.raises(ValueError, match="--workdir=runs must be the whole path"):
        run_on_pod([job(pathlib.Path("runs/a"))], ["--tpu=pod"])


def sweep(*flags):
    command = [sys.executable, "scripts/sweep.py", "--config=tests/recipes/tiny.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_sweep_is_submitted_from_the_command_line(tmp_path):
    (tmp_path / "two.py").write_text('def get_sweep(): return [{"seed": 1}, {"seed": 2}]\n')
    flags = (f"--sweep={tmp_path / 'two.py'}", f"--workdir={tmp_path / 'runs'}", "--launcher=slurm")
    result = sweep(*flags, "--cluster_flags=--nodes=2 --comment='a b'", f"--config.data.dir={tmp_path / 'tfds'}")
    assert result.returncode == 0, result.stderr
    calls = submissions(tmp_path)
    assert [call[2:5] for call in calls] == [["--nodes=2", "--comment=a b", str(ROOT / "scripts/launch_slurm.sh")]] * 2
    assert [call[-2:] for call in calls] == [
        [f"--config.seed={seed}", f"--workdir={tmp_path / 'runs' / f'seed={seed}'}"] for seed in (1, 2)
    ]
    assert not any("launcher" in item or "cluster_flags" in item for call in calls for item in call)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--workdir=gs://bucket/runs", "--launcher=tpu"), "--workdir=gs://bucket/runs must be a folder"),
        (("--launcher=slurm", "--parallel=2"), "--parallel=2 is of --launcher=local; leave it out with slurm"),
        (("--launcher=slrum",), "did you mean 'slurm'"),
    ],
)
def test_a_wrong_launch_is_one_line_before_anything_is_checked(tmp_path, flags, words):
    result = sweep("--sweep=configs/sweeps/normalization.py", *flags)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert words in line and not (tmp_path / "sbatch").exists()
