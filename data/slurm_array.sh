#!/bin/bash
# Index a large folder in 16 shares, each a task on one GPU, at most 4 at a time:
#
#   VIDEOS=/data/films GALLERY=/data/gallery sbatch data/slurm_array.sh
#
# Videos and gallery lie on a disk that all machines share. The first task to begin lists the videos, each encodes a
# sixteenth of them, and the last to end joins all; until then a search sees the gallery as it was. A minute before the
# time is up Slurm signals a task, which keeps what it has encoded. Tasks that did not come to their end go on by number:
#
#   VIDEOS=/data/films GALLERY=/data/gallery sbatch --array=3,7 data/slurm_array.sh
#SBATCH --job-name=glscl-index
#SBATCH --array=1-16%4
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append

SHARES=16  # the last number of the array above; it stays so where some tasks alone are started again
export OMP_NUM_THREADS=1  # the workers, one a core, decode

# openai: open_clip's tag. Without a network on the machines, name a file of weights.
srun python -m glscl index "$VIDEOS" --out "$GALLERY" --share "$SLURM_ARRAY_TASK_ID/$SHARES" \
    --workers "$SLURM_CPUS_PER_TASK" --clip ViT-B-32 --pretrained openai
