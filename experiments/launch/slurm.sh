#!/usr/bin/env bash
# One process per GPU on two hosts: sbatch experiments/launch/slurm.sh
#SBATCH --job-name=lthjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@90
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.txt
set -euo pipefail
# Saved at SIGTERM, 90 seconds before the end; the job is then queued again.
srun --kill-on-bad-exit=1 python experiments/launch/train.py \
  --distributed --fsdp 8 --output runs "$@"
if ! grep -q '^done: ' "runs/slurm-$SLURM_JOB_ID.txt"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
