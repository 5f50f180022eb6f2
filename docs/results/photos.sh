#!/usr/bin/env bash
# Makes the runs, tables and pictures behind docs/results.md, from "All rows at
# one learning rate" on; what is there already is not made again. On two CPU cores it takes about eight hours.
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
# compare on the cached features of the photographs.
compare_cached() {
  compare docs/results/frozen_trunk.py "$@" --cache-trunk "$out/trunk" \
    --data custom --images-per-step 32
}
test_set=(data_root="$photos" data_prefix=images "${network[@]}")

# A row with another learning rate.
rate() { echo "$1-lr${2/./_}=$1,optim_wrapper.optimizer.lr=$2"; }

# The rows of the paper's table, on the test photographs.
rows() {
  compare_cached "$@" --epoch-images 626 --seeds 0 1 2 3 4 \
    --title '626 photographs, 12 classes' --cfg-options "${test_set[@]}"
}
rows rows rows erm --rows erm rw rs focal cb_focal ldam db_focal asl \
  {uniform,rebalanced}_branch two_branches consistency ltml ltml+flip
rows gain rows erm --rows erm rs {uniform,rebalanced}_branch two_branches \
  consistency ltml
rows tuned rows erm --rows erm "$(rate erm 0.03)" ltml
rows branches rows two_branches \
  --rows {two_branches,consistency,ltml}{,+uniform,+rebalanced}
rows merged rows ltml --rows {two_branches,consistency,ltml}{,+merged,+merged_bn}

# Twice the steps.
compare_cached longer longer erm --epoch-images 626 --seeds 0 1 2 \
  --title '626 photographs, 304 steps' \
  --rows erm rs uniform_branch consistency ltml \
  --cfg-options "${test_set[@]}" train_cfg.max_epochs=16 \
  'param_scheduler.1.milestones=[10,14]'

# What is chosen is chosen on a part of the training photographs.
if [[ ! -e $out/held_out/train.json ]]; then
  python tools/dataset_converters/custom.py mmpretrain "$photos/train.json" \
    --images "$photos/images" --test-fraction 0.3 --out "$out/held_out" \
    --allow-outside
fi
held_out() {
  compare_cached "$@" --epoch-images 436 \
    --cfg-options data_root="$out/held_out" data_prefix="$photos/images" \
    allow_outside=True "${network[@]}"
}
# The choices that the paper leaves open.
held_out choices choices ltml --seeds 0 1 2 --title 'Choices' \
  --rows ltml{,+probs,+merged,+merged_bn} consistency \
  bn_separate=ltml,model.bn_streams=separate \
  con_sum=ltml,model.loss_consistency.reduction=sum \
  con_probs=ltml,model.loss_consistency.on=probs \
  con_detach=ltml,model.loss_consistency.detach=True \
  comp_statistics=ltml,model.loss_cls.compensation=statistics \
  reinit=ltml,model.branch_init=reinit reinit+merged{,_bn} \
  class_max=ltml,train_dataloader.sampler.epoch_length=546
# The learning rate of the rows.
rates=("$(rate cb_focal 0.1)" "$(rate ldam 0.003)")
for row in erm rs cb_focal ldam db_focal asl ltml; do
  rates+=("$row" "$(rate "$row" 0.03)")
done
held_out rates rates erm --seeds 0 --title 'Learning rates' \
  --rows "${rates[@]}"

# The demo, from scratch, and on the pictures that it was trained on.
compare tools/benchmarks/compare.py demo demo erm --data demo \
  --rows erm rs ltml --seeds 0 1 2 --title 'The demo, from scratch' \
  --keep-checkpoints
for row in erm rs ltml; do
  run=$out/demo/$row/seed_0
  python tools/test.py "$run/config.py" "$run/work/epoch_5.pth" \
    --work-dir "$out/demo_training/$row" \
    --cfg-options test_dataloader.dataset.split=train
done

# How the terms of the loss share the gradient.
python docs/results/gradient_shares.py --steps 152 --interval 8 \
  --out "$out/shares.json" "$out/rows/ltml/seed_0/config.py"
python docs/results/gradient_shares.py --steps 605 --interval 40 \
  --out "$out/shares_demo.json" configs/ltml_demo.py \
  --cfg-options randomness.seed=0

# How far the branches agree, without and with the consistency loss.
python tools/analysis/plot_log.py --out "$out/agreement.png" \
  "without=$out/rows/two_branches/seed_0/work" \
  "with=$out/rows/consistency/seed_0/work"
