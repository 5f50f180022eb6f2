#!/usr/bin/env bash
# Trains the three rows of the README's table and draws its picture.
#   bash docs/results/photos.sh PHOTOS RESNET50 [WORK_DIR]
# PHOTOS holds train.json, test.json and images/; RESNET50 is an ImageNet
# checkpoint for MMPretrain's ResNet-50 with style='caffe'.
set -euo pipefail
photos=$1 weights=$2 work=${3:-work_dirs/photos}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

train() {
  local row=$1 name=$2
  shift 2
  python tools/train.py "configs/$row.py" --work-dir "$work/$name" \
    --cfg-options data_root="$photos" data_prefix=images \
    model.backbone.style=caffe model.backbone.frozen_stages=2 \
    model.backbone.init_cfg.checkpoint="$weights" \
    model.backbone.init_cfg.prefix=backbone. \
    'train_dataloader.dataset.dataset.pipeline.2.scale=(160,160)' \
    'val_dataloader.dataset.pipeline.1.scale=(160,160)' "$@"
}

train ltml_custom ltml train_dataloader.batch_size=16 \
  train_dataloader.sampler.epoch_length=400
for row in uniform class_aware; do
  train "baselines/custom_${row}_bce" "$row" train_dataloader.batch_size=32 \
    train_dataloader.sampler.epoch_length=800
done
python tools/analysis/plot_groups.py --out "$work/gain.png" \
  --title '626 photographs, 12 classes, ResNet-50, one seed' \
  "plain BCE, uniform=$work/uniform/val_class_report.json" \
  "plain BCE, class-aware=$work/class_aware/val_class_report.json" \
  "LTML=$work/ltml/val_class_report.json"
