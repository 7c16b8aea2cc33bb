#!/usr/bin/env bash
#SBATCH --job-name=merge
#SBATCH --cpus-per-task=8
#SBATCH --requeue
# The job behind that array: sbatch --dependency=afterok:ARRAY_JOB slurm_merge.sh PARTS COUNT OUT
set -euo pipefail
parts=$1 count=$2 out=$3
paths=()
for number in $(seq "$count"); do
  paths+=("$parts/$number")
done
exec tokenstore merge "$out" "${paths[@]}" --resume
