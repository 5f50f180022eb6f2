#!/usr/bin/env bash
# Makes every figure of docs/results.md, on two CPU cores in about three hours.
#   bash docs/results/photos.sh PHOTOS RESNET50 [OUT]
# PHOTOS holds train.json, test.json and images/; RESNET50 is an ImageNet
# checkpoint for MMPretrain's ResNet-50 with style='caffe'.
set -euo pipefail
photos=$(realpath "$1") weights=$(realpath "$2") out=${3:-work_dirs/results}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

images='scale=(128,128)'
network=(
  model.backbone.style=caffe model.backbone.init_cfg.prefix=backbone.
  model.backbone.init_cfg.checkpoint="$weights"
  "train_dataloader.dataset.dataset.pipeline.2.$images"
  "val_dataloader.dataset.pipeline.1.$images"
  "test_dataloader.dataset.pipeline.1.$images"
  default_hooks.checkpoint.interval=8 default_hooks.logger.interval=19
)
compare() { python tools/benchmarks/compare.py --jobs 2 "$@"; }
cached=(--data custom --images-per-step 32 --cache-trunk "$out/trunk")

# The rows of the paper's table, on the test photographs.
compare "${cached[@]}" --epoch-images 626 --out "$out/rows" \
  --title '626 photographs, 12 classes' \
  --rows erm rw rs focal cb_focal ldam db_focal asl uniform_branch \
  rebalanced_branch two_branches two_branches+{uniform,rebalanced,merged} \
  consistency consistency+{uniform,rebalanced,merged} ltml \
  ltml+{uniform,rebalanced,probs,flip,merged,merged_bn} --seeds 0 1 2 3 4 \
  --cfg-options data_root="$photos" data_prefix=images "${network[@]}"

# The choices that the paper leaves open, on a part of the training photographs.
python tools/dataset_converters/custom.py mmpretrain "$photos/train.json" \
  --images "$photos/images" --test-fraction 0.3 --out "$out/held_out" \
  --allow-outside
con=model.loss_consistency.type=CrossBranchConsistencyLoss
cls=model.loss_cls.type=LogitCompensatedBCELoss
compare "${cached[@]}" --epoch-images 436 --out "$out/choices" \
  --title 'Choices, on held-out training photographs' --seeds 0 1 \
  --rows ltml ltml+probs consistency \
  bn_separate=ltml,model.bn_streams=separate \
  con_sum=ltml,$con,model.loss_consistency.reduction=sum \
  con_probs=ltml,$con,model.loss_consistency.on=probs \
  con_detach=ltml,$con,model.loss_consistency.detach=True \
  comp_statistics=ltml,$cls,model.loss_cls.compensation=statistics \
  reinit=ltml,model.branch_init=reinit \
  class_max=ltml,train_dataloader.sampler.epoch_length=546 \
  --cfg-options data_root="$out/held_out" data_prefix="$photos/images" \
  allow_outside=True "${network[@]}"

# The demo, from scratch.
compare --data demo --rows erm rs ltml --seeds 0 1 --out "$out/demo"

# How far the branches agree, without and with the consistency loss.
python tools/analysis/plot_log.py --out "$out/agreement.png" \
  "without=$out/rows/two_branches/seed_0/work" \
  "with=$out/rows/consistency/seed_0/work"
