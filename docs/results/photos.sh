#!/usr/bin/env bash
# Makes the runs, tables and pictures of docs/results.md on the photographs of
# VOC2012, all rows at their own learning rates; what is there already is not made
# again. bfloat16 is for a CPU that multiplies in it (amx_bf16 in lscpu); there
# the runs take about two hours of one core.
#
#   bash docs/results/photos.sh PHOTOS RESNET50 [OUT]
#
# PHOTOS holds train.json, test.json and images/; RESNET50 is an ImageNet
# checkpoint for MMPretrain's ResNet-50 with style='caffe'. Every table leaves
# OUT/NAME.md, NAME.csv and NAME_groups.png.
set -euo pipefail
photos=$(realpath -e "$1")
weights=$(realpath -e "$2")
out=$(realpath -m "${3:-work_dirs/results}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# compare TOOL NAME RUNS REFERENCE ARGUMENTS: the runs lie in OUT/RUNS.
compare() {
  local tool=$1 name=$2 runs=$out/$3 reference=$4
  shift 4
  python "$tool" --jobs 2 --out "$runs" --reference "$reference" "$@"
  cp "$runs/table.md" "$out/$name.md"
  cp "$runs/runs.csv" "$out/$name.csv"
  cp "$runs/groups.png" "$out/${name}_groups.png"
}

images='scale=(128,128)'
network=(
  model.backbone.style=caffe model.backbone.init_cfg.prefix=backbone.
  model.backbone.init_cfg.checkpoint="$weights"
  "train_dataloader.dataset.dataset.pipeline.2.$images"
  "val_dataloader.dataset.pipeline.1.$images"
  "test_dataloader.dataset.pipeline.1.$images"
  default_hooks.checkpoint.interval=8 default_hooks.logger.interval=19
)
amp=(optim_wrapper.type=GuardedAmpOptimWrapper optim_wrapper.dtype=bfloat16)
# compare on the cached features of the photographs.
compare_cached() {
  compare docs/results/frozen_trunk.py "$@" --cache-trunk "$out/trunk" \
    --data custom --images-per-step 32
}
float32=(data_root="$photos" data_prefix=images "${network[@]}")
test_set=("${float32[@]}" "${amp[@]}")
lr=optim_wrapper.optimizer.lr

# Every row at the best of its own learning rates, chosen on 30 % of the training
# photographs, then tested with three seeds.
compare_cached photos rows erm --epoch-images 626 --seeds 0 1 2 \
  --title '626 photographs, 12 classes' \
  --rows {erm,rs,rw,focal,cb_focal,ldam,db_focal,asl}{,+bn} \
  {uniform,rebalanced}_branch{,+bn} \
  {two_branches,consistency,ltml}{,+bn,+merged,+merged_bn} ltml+flip \
  --tune "$lr=0.01,0.03" --tune-fraction 0.3 \
  --cfg-options "${test_set[@]}"
cp "$out/rows/tuning.csv" "$out/photos_rates.csv"

# The recipe, at the rate that it fills in, and its attention over plain BCE.
compare_cached recipe recipe ltml_plus --epoch-images 626 --seeds 0 1 2 \
  --title 'The recipe' --rows ltml_plus{,+merged,+merged_bn} \
  "erm-attention=erm,model.head.type=AttentionAtTestHead,model.neck=None,$lr=0.01" \
  --cfg-options "${test_set[@]}"

# Two of them in float32.
compare_cached precision precision erm-float32 --epoch-images 626 --seeds 0 1 2 \
  --title 'In float32' \
  --rows "erm-float32=erm,$lr=0.01" "ltml-float32=ltml,$lr=0.09" \
  --cfg-options "${float32[@]}"

# The demo, from scratch.
compare tools/benchmarks/compare.py demo demo ltml --data demo \
  --rows ltml --seeds 0 1 --title 'The demo, from scratch'

# How far the branches agree, without and with the consistency loss, at one rate.
compare_cached agreement agreement two_branches --epoch-images 626 --seeds 0 \
  --rows two_branches consistency \
  --cfg-options "${test_set[@]}" "$lr=0.01"
python tools/analysis/plot_log.py --out "$out/agreement.png" \
  "without=$out/agreement/two_branches/seed_0/work" \
  "with=$out/agreement/consistency/seed_0/work"

# How the terms of the loss share the gradient, in the second of these.
python docs/results/gradient_shares.py --steps 152 --interval 8 \
  --out "$out/shares.json" "$out/agreement/consistency/seed_0/config.py"
