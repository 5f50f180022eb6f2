#!/usr/bin/env bash
# Reproduces the paper's table on VOC-LT or COCO-LT: every row with five seeds,
# as many runs at a time as there are GPUs, then the table and its picture.
#
#   bash tools/reproduce.sh voc|coco [--fast] [arguments of compare.py]
#
# With --fast in a twelfth of the steps, those of configs/recipes/ltml_SET_fast.py,
# and every row at the best of its own rates, chosen on 30 % of the training
# images: half, once and twice the one that fits the classes, or further.
#
# The sets are made first, see docs/data.md. Start it again after it was
# stopped: it goes on. With --dry-run it only lists the runs.
set -euo pipefail

data=${1:-}
if [[ $data != voc && $data != coco ]]; then
    echo "usage: bash $0 voc|coco [--fast] [arguments of compare.py]" >&2
    exit 2
fi
shift
rows=(
    erm rw rs focal cb_focal ldam db_focal asl
    uniform_branch rebalanced_branch ltml+flip ltml+probs
    {two_branches,consistency,ltml}{,+uniform,+rebalanced,+merged,+merged_bn}
)
name=table
protocol=()
if [[ ${1:-} == --fast ]]; then
    shift
    name=fast
    rows+=({erm,rs,asl,uniform_branch,rebalanced_branch,ltml}+bn)
    # Images of an epoch: of both streams of the recipe.
    declare -A images=([voc]=646 [coco]=3760)
    rate=optim_wrapper.optimizer.lr
    hooks="dict(type='PriorBiasHook'), dict(type='ConsistencyLimitHook')"
    hooks+=", dict(type='CompensationLimitHook')"
    protocol=(
        --epoch-images "${images[$data]}"
        --tune "$rate=x0.5,x1,x2" --tune-fraction 0.3
        --cfg-options "$rate=None" "custom_hooks=[$hooks]"
    )
fi
tools=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$tools/.."
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')

exec python tools/benchmarks/compare.py \
    --data "$data" \
    --rows "${rows[@]}" \
    --seeds 0 1 2 3 4 \
    --reference erm \
    --jobs "$((gpus > 0 ? gpus : 1))" \
    --out "work_dirs/${data}_$name" \
    "${protocol[@]}" "$@"
