#!/usr/bin/env bash
#SBATCH --job-name=study
#SBATCH --array=1-4
#SBATCH --gpus-per-task=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
# One study by an array of jobs: the first brings it to its end, the others search beside it.
#
#   sbatch --array=1-8 scripts/slurm.sh NAME postgresql+psycopg://USER@HOST/DATABASE --data IMAGES --trials 200 --set runs=FOLDER
#
# `study` must be on the PATH (activate its environment before). FOLDER is one that all nodes see. A job that is pre-empted, or
# comes to the end of its time, gives its trial back and is queued again; whoever is free goes on with the trial.
set -euo pipefail
if [ "$#" -lt 2 ]; then
  echo "usage: sbatch [--array=1-N] scripts/slurm.sh NAME STORAGE [options of study run]" >&2
  exit 2
fi
name=$1 storage=$2
shift 2
child=""

again() {
  trap '' TERM
  if [ -n "$child" ]; then
    kill -TERM "$child" 2>/dev/null || true
    wait "$child" || true
  fi
  scontrol requeue "${SLURM_JOB_ID:?}" || true # where Slurm pre-empts, it may do so itself
  exit 0
}
trap again TERM

if [ "${SLURM_ARRAY_TASK_ID:-1}" = "${SLURM_ARRAY_TASK_MIN:-1}" ]; then
  study run --name "$name" --storage "$storage" "$@" &
else
  # The first job makes the study; until then there is nothing to work on. It waits in a queue, too: an hour at most.
  until reason=$(study status "$name" --storage "$storage" 2>&1 > /dev/null); do
    if [ "$SECONDS" -gt 3600 ]; then # since this script began
      echo "slurm: no study to work on after an hour: $reason" >&2
      exit 2
    fi
    sleep 5 &
    wait "$!"
  done
  study worker "$name" --storage "$storage" &
fi
child=$!
wait "$child"
