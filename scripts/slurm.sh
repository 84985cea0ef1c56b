#!/bin/bash
# Train or search in a SLURM job, one process per GPU. A minute before the time limit, fit saves and puts the job back
# into the queue; started again, it resumes its run.
#
#   sbatch scripts/slurm.sh fit --config configs/x.yaml
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 scripts/slurm.sh fit --config configs/x.yaml --config configs/presets/ddp.yaml
#   sbatch --array=1-8 scripts/slurm.sh search --config configs/x.yaml --config S.yaml
#
# The tasks of an array join one study. Options of sbatch win over those below.
#SBATCH --job-name=train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

case "${1:-}" in
    fit) set -- "$@" --trainer.devices="${SLURM_NTASKS_PER_NODE:-1}" --trainer.num_nodes="${SLURM_NNODES:-1}" ;;
    search) ;;
    *) echo "usage: sbatch [OPTIONS] scripts/slurm.sh fit|search --config FILE ..." >&2; exit 2 ;;
esac
exec srun --kill-on-bad-exit=0 "${PYTHON:-.venv/bin/python}" -m src.cli "$@"
