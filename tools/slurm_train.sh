#!/usr/bin/env bash
# Trains on a Slurm cluster.
#
#   [GPUS=8] bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG [WORK_DIR] \
#       [arguments of train.py]
#
# GPUS counts the processes, one for each GPU, over all machines;
# GPUS_PER_NODE those of one machine, CPUS_PER_TASK the cores of one process.
# SRUN_ARGS goes to srun as it is: SRUN_ARGS=--gres=none for processes on
# CPUs. PORT is where the processes meet; jobs that share a machine need
# different ones.
set -euo pipefail

if (($# < 3)); then
    echo "usage: bash $0 PARTITION JOB_NAME CONFIG [WORK_DIR]" \
        "[arguments of train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
work_dir=()
if (($# > 0)) && [[ $1 != -* ]]; then
    work_dir=(--work-dir "$1")
    shift
fi
tools=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
read -ra srun_args <<<"${SRUN_ARGS:-}"

export MASTER_PORT=${PORT:-29500}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
# MMEngine writes configs by yapf. Its first import leaves a cache, which one
# process would read while another writes it.
python -c 'import yapf'
exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    "${srun_args[@]}" \
    python -u "$tools/train.py" "$config" --launcher slurm \
    "${work_dir[@]}" "$@"
