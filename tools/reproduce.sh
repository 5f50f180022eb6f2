#!/usr/bin/env bash
# Reproduces the paper's table on VOC-LT or COCO-LT: every row with five seeds,
# as many runs at a time as there are GPUs, then the table and its picture.
#
#   bash tools/reproduce.sh voc|coco [arguments of compare.py]
#
# The sets are made first, see docs/data.md. Start it again after it was
# stopped: it goes on. With --dry-run it only lists the runs.
set -euo pipefail

data=${1:-}
if [[ $data != voc && $data != coco ]]; then
    echo "usage: bash $0 voc|coco [arguments of compare.py]" >&2
    exit 2
fi
tools=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$tools/.."
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')

exec python tools/benchmarks/compare.py \
    --data "$data" \
    --rows erm rw rs focal cb_focal ldam db_focal asl \
    uniform_branch rebalanced_branch ltml+flip ltml+probs \
    {two_branches,consistency,ltml}{,+uniform,+rebalanced,+merged,+merged_bn} \
    --seeds 0 1 2 3 4 \
    --reference erm \
    --jobs "$((gpus > 0 ? gpus : 1))" \
    --out "work_dirs/${data}_table" \
    "${@:2}"
