#!/usr/bin/env bash
# Trains with several processes: one for each GPU, or on CPUs (gloo) where
# there is no GPU.
#
#   bash tools/dist_train.sh CONFIG NUM_PROCESSES [arguments of train.py]
#
# On several machines, run it on each with the same NNODES, MASTER_ADDR (the
# address of machine 0) and PORT, and with NODE_RANK=0, 1, ...;
# NUM_PROCESSES counts those of one machine. OMP_NUM_THREADS, the threads of
# one process, is 1 unless set.
set -euo pipefail

if (($# < 2)); then
    echo "usage: bash $0 CONFIG NUM_PROCESSES [arguments of train.py]" >&2
    exit 2
fi
config=$1
processes=$2
tools=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
nnodes=${NNODES:-1}
node_rank=${NODE_RANK:-0}
port=${PORT:-29500}

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"
# MMEngine writes configs by yapf. Its first import leaves a cache, which one
# process would read while another writes it.
python -c 'import yapf'
exec python -m torch.distributed.run \
    --nnodes="$nnodes" \
    --node-rank="$node_rank" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="$port" \
    --nproc-per-node="$processes" \
    "$tools/train.py" "$config" --launcher pytorch "${@:3}"
