#!/usr/bin/env bash
# Trains on a TPU pod slice: the same train.py command, with --distributed, on every host.
#
#   scripts/launch_tpu_pod.sh --tpu=NAME [--zone=ZONE] [--project=PROJECT] [--directory=DIR] [--copy]
#       [--max_restarts=N] [--dry_run] --config=configs/shufflenet_v2.py:imagenet --workdir=/shared/run ...
#
# --directory: of the project on the hosts, default: the name of this one, in the home folder; its .venv is used where
#   it has one. --copy brings this working tree there first.
# --max_restarts: times that the command starts again, default 50, where train.py was stopped, where a host was lost and
#   where the connection broke: it goes on from the newest checkpoint. A pod that is gone must be made anew by you.
# --dry_run: prints the commands.
#
# All other arguments go to train.py as they are. Ctrl-C and SIGTERM reach the run on the pod: it saves and ends. Exit
# status: that of train.py; 130 or 75 after such a stop, and 75 where the restarts are used up: run it again.
set -euo pipefail

# Of the hosts, in the home folder there.
readonly lock='~/.launch_tpu_pod.lock' pid='~/.launch_tpu_pod.pid' resume_me=75

note() { echo "launch_tpu_pod.sh: $*" >&2; }
fail() {
  note "error: $*"
  exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tpu='' directory=$(basename "$root") max_restarts=50 copy='' dry_run='' config=''
on_all=(--worker=all)
flags=(--distributed)
for argument in "$@"; do
  case $argument in
    --tpu=?*) tpu=${argument#*=} ;;
    --zone=?* | --project=?*) on_all+=("$argument") ;;
    --directory=?*) directory=${argument#*=} ;;
    --max_restarts=*) max_restarts=${argument#*=} ;;
    --copy) copy=yes ;;
    --dry_run) dry_run=yes ;;
    --tpu | --zone | --project | --directory | --max_restarts | --tpu= | --zone= | --project= | --directory=)
      fail "$argument has no value; write it behind an equals sign, as in --tpu=NAME"
      ;;
    *)
      [[ $argument != --config?(=*) ]] || config=yes
      flags+=("$argument")
      ;;
  esac
done
[[ -n $tpu ]] || fail "which pod? give --tpu=NAME; 'gcloud compute tpus tpu-vm list' has the names"
[[ -n $config ]] || fail "nothing to train; give the flags of train.py, --config=configs/shufflenet_v2.py:imagenet say"
[[ $max_restarts =~ ^(0|[1-9][0-9]*)$ ]] || fail "--max_restarts=$max_restarts must be a whole number"

# Prints the command, or runs it.
run() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_pod() { run gcloud compute tpus tpu-vm ssh "$tpu" "${on_all[@]}" --command="$1"; }

# gcloud itself runs the command again on a host to which the connection broke; the run that may still be at work there
# keeps the chips, and the lock, until it has ended.
printf -v command 'cd %q && PATH=$PWD/.venv/bin:$PATH exec flock --wait 120 --conflict-exit-code %d %s' \
  "$directory" "$resume_me" "$lock"
printf -v quoted ' %q' "${flags[@]}"
command+=" sh -c 'echo \$\$ > $pid; exec \"\$@\"' sh python3 train.py$quoted"

[[ -n $dry_run ]] || command -v gcloud > /dev/null || fail "there is no gcloud on the PATH; install the Google Cloud CLI"

if [[ -n $copy ]]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  archive=$scratch/project.tgz
  # All that .gitignore does not name; an empty repository tells, so that the tree need not be one.
  git init -q --bare "$scratch/git"
  git --git-dir="$scratch/git" --work-tree="$root" -C "$root" ls-files -z --others --exclude-standard |
    tar -C "$root" -czf "$archive" --null -T -
  run gcloud compute tpus tpu-vm scp "$archive" "$tpu:/tmp/launch_tpu_pod.tgz" "${on_all[@]}"
  on_pod "mkdir -p $(printf %q "$directory") && tar -xzf /tmp/launch_tpu_pod.tgz -C $(printf %q "$directory")"
fi
if [[ -n $dry_run ]]; then
  on_pod "$command"
  exit 0
fi

stopped=''
stop() {
  stopped=$1
  note "stopping the run on $tpu as soon as it has saved"
  on_pod "number=\$(cat $pid) && grep -q train.py /proc/\$number/cmdline && kill -TERM \$number" < /dev/null || true
}
trap 'stop 130' INT
trap 'stop 75' TERM

for ((restart = 0; ; restart++)); do
  on_pod "$command" & # in the background, where a Ctrl-C on the terminal does not end it
  child=$!
  status=0
  wait "$child" || status=$?
  if [[ -n $stopped ]]; then
    wait "$child" || true # the signal ended the first wait
    exit "$stopped"
  fi
  case $status in
    "$resume_me" | 137 | 255) ;; # stopped or another host was lost; killed; the connection broke
    *) exit "$status" ;;
  esac
  if ((restart >= max_restarts)); then
    note "error: exit status $status after $restart restarts, of --max_restarts=$max_restarts; run the command again"
    exit "$resume_me"
  fi
  note "exit status $status; restart $((restart + 1)) of $max_restarts at most"
  sleep 10
  [[ -z $stopped ]] || exit "$stopped"
done
