#!/bin/bash
# Train on 2 machines with 4 GPUs each:   MSRVTT=/data/msrvtt sbatch data/slurm.sh
#
# Five minutes before the time is up Slurm signals this script. It passes SIGTERM on, the run saves at the end of its step
# (torchrun waits 30 s for that), the job goes back into the queue and then on from last.pt. An error does not requeue.
#SBATCH --job-name=glscl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

GPUS=4
RUN=runs/msrvtt  # on a disk that all machines share
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / GPUS))
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID"' TERM  # to srun's steps, not to this script
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node=$GPUS --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d \
    --rdzv-endpoint="$FIRST:29500" -m glscl train --recipe msrvtt --data-dir "$MSRVTT" --run-dir "$RUN" &
wait $!; status=$?
if [ "$again" ]; then
    wait
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
