#!/usr/bin/env bash
#SBATCH --job-name=train
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
# Trains on a Slurm cluster: the same train.py command, with --distributed, in every task of the job.
#
#   sbatch --nodes=4 --gpus-per-node=8 --time=24:00:00 scripts/launch_slurm.sh [--max_restarts=N]
#       --config=configs/shufflenet_v2.py:imagenet --workdir=/shared/run ...
#
# From the project's folder, in an environment in which `python` has it installed, or with PYTHON=... before sbatch. One
# task a node has all its GPUs; --ntasks-per-node=8 beside --gpus-per-node=8 gives each a task of its own.
#
# Two minutes before the time is up, and where the job is preempted, train.py saves and ends with exit status 75; then,
# and where a task was killed, the job goes back into the queue, at most --max_restarts times (default 50), and goes on
# from the newest checkpoint. All other arguments go to train.py as they are.
set -euo pipefail

fail() {
  echo "launch_slurm.sh: error: $*" >&2
  exit 2
}

max_restarts=50 config=''
flags=(--distributed)
for argument in "$@"; do
  case $argument in
    --max_restarts=*) max_restarts=${argument#*=} ;;
    *)
      [[ $argument != --config?(=*) ]] || config=yes
      flags+=("$argument")
      ;;
  esac
done
[[ -n ${SLURM_JOB_ID:-} ]] || fail "not in a job; submit it: sbatch --nodes=1 --gpus-per-node=8 scripts/launch_slurm.sh ..."
[[ -n $config ]] || fail "nothing to train; give the flags of train.py, --config=configs/shufflenet_v2.py:imagenet say"
[[ $max_restarts =~ ^(0|[1-9][0-9]*)$ ]] || fail "--max_restarts=$max_restarts must be a whole number"
[[ -f train.py ]] || fail "there is no train.py in $PWD; submit from the project's folder"

tasks=${SLURM_NTASKS_PER_NODE:-1} gpus=${SLURM_GPUS_ON_NODE:-0}
if ((tasks == 1 && gpus > 1)); then # JAX gives a task of Slurm one GPU, unless it is told
  export JAX_LOCAL_DEVICE_IDS=0
  for ((gpu = 1; gpu < gpus; gpu++)); do JAX_LOCAL_DEVICE_IDS+=,$gpu; done
elif ((gpus > 0 && tasks != gpus && tasks != 1)); then
  fail "$tasks tasks on a node of $gpus GPUs; use --ntasks-per-node=1, or --ntasks-per-node=$gpus"
fi
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not inherit it

trap : TERM # of the job: its tasks save and end, and this script waits for them
status=0
srun --kill-on-bad-exit=0 "${PYTHON:-python}" train.py "${flags[@]}" || status=$?
case $status in
  75 | 137) ;; # stopped or another task was lost; killed
  *) exit "$status" ;;
esac
# Not where the job is being cancelled: then it is completing.
[[ $(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) == RUNNING ]] || exit "$status"
restarts=${SLURM_RESTART_COUNT:-0}
if ((restarts >= max_restarts)); then
  echo "launch_slurm.sh: error: exit status $status after $restarts restarts, of --max_restarts=$max_restarts; submit again" >&2
  exit "$status"
fi
echo "launch_slurm.sh: exit status $status; back into the queue, restart $((restarts + 1)) of $max_restarts at most" >&2
scontrol requeue "$SLURM_JOB_ID"
