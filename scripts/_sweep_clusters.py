"""The runs of a sweep on clusters: in the queue of Slurm, and on a TPU pod."""

import dataclasses
import hashlib
import logging
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from scripts._sweep_job import Job
from scripts._sweep_launchers import run_locally

SCRIPTS = pathlib.Path(__file__).resolve().parent

logger = logging.getLogger("sweep")


def submit(jobs: Sequence[Job], options: Sequence[str]) -> int:
    """Submits every point that is neither finished nor in the queue, and returns at once.

    One sbatch a point: each is then preempted, goes back into the queue and is left out for itself, and squeue shows
    its name. An array would take one sbatch, and somebody to keep its indices apart from one sweep to the next.

    Args:
      jobs: all points, of runs in folders that this machine and the cluster share.
      options: of sbatch: nodes, GPUs, time, partition.

    Returns:
      0, or 1 where sbatch refused a point.

    Raises:
      ValueError: this is no place to submit from.
    """
    for program in ("sbatch", "squeue"):
        if shutil.which(program) is None:
            raise ValueError(f"--launcher=slurm: there is no {program} on the PATH; run this where jobs are submitted")
    if not pathlib.Path("train.py").is_file():
        raise ValueError(
            f"--launcher=slurm: there is no train.py in {pathlib.Path.cwd()}; run this in {SCRIPTS.parent}"
        )
    for job in jobs:
        job.keep_result()  # of what ended since the last time
    left = [job for job in jobs if not job.is_finished()]
    queue = queued_names()
    new = [job for job in left if job_name(job) not in queue]
    refused = [job for job in new if not submit_one(job, options)]
    logger.info(
        "%d points: %d finished, %d in the queue already, %d submitted",
        *(len(jobs), len(jobs) - len(left), len(left) - len(new), len(new) - len(refused)),
    )
    if left:
        logger.info("squeue --me shows them; their logs: %s", log_folder(left[0]))
        logger.info("the same command again submits what was lost; with --launcher=print it lists what is not finished")
    return 1 if refused else 0


def job_name(job: Job) -> str:
    """Of the point, and of where its run is: another sweep may have a point of that name."""
    place = hashlib.sha256(str(job.folder.absolute()).encode()).hexdigest()[:8]
    return f"{job.name}@{place}"


def queued_names() -> set[str]:
    """Of the jobs of this user that wait or run.

    Raises:
      ValueError: Slurm does not say.
    """
    command = ["squeue", "--me", "--noheader", "--format=%j"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"--launcher=slurm: squeue failed ({result.stderr.strip()}); try again when Slurm answers")
    return set(result.stdout.splitlines())


def log_folder(job: Job) -> pathlib.Path:
    """Beside the runs: the folder of a run that has not begun must be empty."""
    return job.folder.parent / "slurm"


def submit_one(job: Job, options: Sequence[str]) -> bool:
    """Whether sbatch took it."""
    log_folder(job).mkdir(parents=True, exist_ok=True)
    name = job_name(job)
    _, _, *flags = job.command  # without Python and train.py
    command = ["sbatch", f"--job-name={name}", f"--output={log_folder(job) / name}.%j.txt", *options]
    result = subprocess.run([*command, str(SCRIPTS / "launch_slurm.sh"), *flags], capture_output=True, text=True)
    if result.returncode:
        logger.error("%s: sbatch refused it: %s", job.name, " ".join(result.stderr.split()))
    else:
        logger.info("%s: %s", job.name, result.stdout.strip())
    return result.returncode == 0


def run_on_pod(jobs: Sequence[Job], options: Sequence[str]) -> int:
    """Trains what is not finished on a TPU pod, one after the other; returns the exit status of the sweep.

    Args:
      jobs: all points, of runs in folders that this machine and the hosts of the pod share.
      options: of scripts/launch_tpu_pod.sh: --tpu=NAME, and zone, project and directory.

    Raises:
      ValueError: no pod, or a folder that cannot be the same there.
    """
    if not any(option.startswith("--tpu=") for option in options):
        raise ValueError(
            "--launcher=tpu: which pod? give --cluster_flags=--tpu=NAME, as scripts/launch_tpu_pod.sh has it"
        )
    for job in jobs:
        if not job.folder.is_absolute():
            raise ValueError(
                f"--launcher=tpu: --workdir={job.folder.parent} must be the whole path of a folder that this machine "
                "and the pod share; begin it with a slash"
            )
    script = str(SCRIPTS / "launch_tpu_pod.sh")
    return run_locally([dataclasses.replace(job, command=[script, *options, *job.command[2:]]) for job in jobs])
