#!/usr/bin/env bash
#SBATCH --job-name=tokens
#SBATCH --array=1-100
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
# A Slurm array that converts SRC in parts: sbatch slurm_parts.sh SRC PARTS [OPTIONS of tokenstore convert]
# A task that is requeued goes on where it stood.
set -euo pipefail
src=$1 parts=$2
shift 2
part=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
exec tokenstore convert "$src" "$parts/$SLURM_ARRAY_TASK_ID" --part "$part" --resume "$@"
