"""Trains every point of a grid: `python scripts/sweep.py --config=configs/x.py --sweep=configs/sweeps/y.py`.

The sweep file has a `get_sweep()` that returns a list of overrides, see configs/sweeps/grid.py. Before anything starts,
each is applied to the locked recipe and its training step is traced. Points whose configs are the same run once.

--launcher=local trains one point after the other, each in a folder of --workdir (default: runs/CONFIG-SWEEP) that is
named by the fields that tell it from the others; with --parallel=N, N at a time, each on its share of the CPU cores
(small networks gain most by one core each). The same command again skips what is finished and resumes what is not; a
point that fails is reported and the sweep goes on. --results=FILE.jsonl keeps the evaluations of every finished point
in one small file, read by scripts/plot.py; a point that is there counts as finished, on another machine too.
--launcher=print prints the commands of what is not finished. --launcher=slurm submits it, each point as a job of
scripts/launch_slurm.sh, and ends: what is in the queue already is left alone. --launcher=tpu trains it on a pod, one
point after the other, by scripts/launch_tpu_pod.sh. --cluster_flags="..." are those of sbatch and of that script. Both
see what is finished in --workdir, which must be a folder that this machine and the cluster share.

All other flags go to train.py; a --config.FIELD=VALUE among them wins over the sweep. Exit status: 0 when all points
are finished, 1 when some failed, 2 for a command or sweep that cannot be run, 75 after SIGTERM, 130 after Ctrl-C: the
point at work has been saved; run the command again. With --launcher=slurm 0 when all that is not finished is in the
queue, 1 when some was refused.
"""

import json
import logging
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run from a checkout

import jax
from absl import flags

import train
from arch.errors import unknown_name
from arch.training import workdir
from configs import cli, default
from scripts import _devices
from scripts._sweep_clusters import run_on_pod, submit
from scripts._sweep_job import Job
from scripts._sweep_launchers import print_commands, run_locally
from scripts._sweep_points import Point, check, expand, load
from scripts._sweep_results import Results, telling_fields

SWEEP = flags.DEFINE_string("sweep", None, "Grid: configs/sweeps/NAME.py.", required=True)
LAUNCHER = flags.DEFINE_string(
    "launcher",
    "local",
    "local: trains them here; slurm: submits them; tpu: trains them on a pod; print: their commands.",
)
CLUSTER_FLAGS = flags.DEFINE_string("cluster_flags", "", "Of sbatch for slurm; of scripts/launch_tpu_pod.sh for tpu.")
RESULTS = flags.DEFINE_string("results", None, "File that keeps the evaluations of finished points.")
PARALLEL = flags.DEFINE_integer(
    "parallel", 1, "Points that --launcher=local trains at a time; on a GPU they share its memory.", lower_bound=1
)
DEVICE_VARIABLE = flags.DEFINE_string(
    "device_variable", "", "CUDA_VISIBLE_DEVICES gives each point that --parallel trains at a time a GPU of its own."
)

OWN_FLAGS = ("sweep", "launcher", "cluster_flags", "workdir", "parallel", "device_variable", "results")
# A launcher takes the jobs, finished ones among them, and returns the exit status of this program.
LAUNCHERS: dict[str, Callable[[Sequence[Job]], int]] = {
    "local": lambda jobs: run_here(jobs, PARALLEL.value, DEVICE_VARIABLE.value),
    "slurm": lambda jobs: submit(jobs, shlex.split(CLUSTER_FLAGS.value)),
    "tpu": lambda jobs: run_on_pod(jobs, shlex.split(CLUSTER_FLAGS.value)),
    "print": print_commands,
}
RECORD = "sweep.json"  # what the folder of a sweep holds beside its runs; read by scripts/plot.py

logger = logging.getLogger("sweep")


def main(arguments: Sequence[str]) -> int:
    """Expands, checks and launches; `arguments` are those of the command line."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger().setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    # The devices are for the runs; nothing here computes, and a TPU admits one process.
    jax.config.update("jax_platforms", "cpu")
    if LAUNCHER.value not in LAUNCHERS:
        raise unknown_name("--launcher", LAUNCHER.value, LAUNCHERS)
    if DEVICE_VARIABLE.value and LAUNCHER.value != "local":
        raise ValueError(
            f"--device_variable={DEVICE_VARIABLE.value} is of --launcher=local; leave it out with {LAUNCHER.value}"
        )
    if PARALLEL.value > 1 and LAUNCHER.value in ("slurm", "tpu"):
        raise ValueError(f"--parallel={PARALLEL.value} is of --launcher=local; leave it out with {LAUNCHER.value}")
    workdir.check_place(train.WORKDIR.value or "")
    folder = pathlib.Path(train.WORKDIR.value or f"runs/{cli.config_name()}-{pathlib.Path(SWEEP.value).stem}")
    points = expand(train.CONFIG.value, load(SWEEP.value), given=given_fields(arguments))
    logger.info("checking %d points", len(points))
    shared = passed_on(arguments)
    jobs, results, defaults = [], Results(RESULTS.value), default.get_config().to_dict()
    for point, num_steps in zip(points, check(points, train.check_config), strict=True):
        place = folder / point.name
        config = point.config.to_dict()
        workdir.check(str(place), config, defaults)
        given = cli.with_one_recipe([*shared, *point.flags])  # a point may have a recipe of its own
        command = [sys.executable, str(ROOT / "train.py"), *given, f"--workdir={place}"]
        identity = workdir.identity(config, defaults)
        jobs.append(Job(point.name, place, command, num_steps, identity, point.overrides, results))
    write_record(folder, points, jobs)
    return LAUNCHERS[LAUNCHER.value](jobs)


def run_here(jobs: Sequence[Job], num_parallel: int, device_variable: str) -> int:
    """As `run_locally`, once it is known what there is to compute on."""
    if all(job.is_finished() for job in jobs):
        return run_locally(jobs)
    devices = _devices.find()
    _devices.check_shares("--parallel", num_parallel, device_variable, devices)
    _devices.promise(devices)
    return run_locally(jobs, num_parallel, device_variable)


def given_fields(arguments: Iterable[str]) -> set[str]:
    """The fields that the command line sets."""
    names = (item.lstrip("-").partition("=")[0] for item in arguments if item.startswith("-"))
    return {name.removeprefix("config.") for name in names if name.startswith("config.")}


def passed_on(arguments: Sequence[str]) -> list[str]:
    """The flags without those of this program."""
    kept, is_value = [], False
    for item in arguments:
        name, equals, _ = item.lstrip("-").partition("=")
        if is_value:
            is_value = False
        elif item.startswith("-") and name in OWN_FLAGS:
            is_value = not equals
        else:
            kept.append(item)
    return kept


def write_record(folder: pathlib.Path, points: Sequence[Point], jobs: Sequence[Job]) -> None:
    """Says in the folder of the sweep which runs belong to it."""
    if (folder / "config.json").exists():
        raise ValueError(f"--workdir={folder} is the folder of a run; use --workdir={workdir.fresh(str(folder))}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"name": point.name, "num_steps": job.num_steps, "overrides": dict(point.overrides)}
        for point, job in zip(points, jobs, strict=True)
    ]
    record = {"fields": telling_fields([point.overrides for point in points]), "points": rows}
    workdir.write_atomically(folder / RECORD, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    ARGUMENTS = tuple(sys.argv[1:])  # before flags of open groups are taken out
    cli.run(lambda: main(ARGUMENTS))
