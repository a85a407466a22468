#!/usr/bin/env bash
# Twenty seeds, one job each: sbatch experiments/launch/slurm_seeds.sh
#SBATCH --job-name=lthjax-seeds
#SBATCH --array=0-19
#SBATCH --gpus=1
#SBATCH --time=02:00:00
#SBATCH --signal=B:TERM@90
#SBATCH --requeue
#SBATCH --output=runs/slurm-%A_%a.txt
set -euo pipefail
# Each has a folder of its own, named by its options. SIGTERM saves, exit is 0.
exec python experiments/lottery_ticket.py --preset resnet20 --seeds 1 \
  --first-seed "$SLURM_ARRAY_TASK_ID" --output runs
