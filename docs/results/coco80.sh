#!/usr/bin/env bash
# Tests and chooses the rows on 80 classes of COCO photographs; what is there
# already is not made again.
#
#   [DRY_RUN=1] bash docs/results/coco80.sh COCO80 RESNET50 [OUT]
#
# COCO80 holds images/, train.json, val.json to choose on and, where it is at
# hand, test.json; RESNET50 is an ImageNet checkpoint for MMPretrain's ResNet-50
# with style='caffe'. With a GPU the whole network is trained, without one its
# last stage. Every table leaves OUT/NAME.md, NAME.csv and NAME_groups.png; with
# DRY_RUN the runs are only listed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/whole_or_cached.sh"
# 59 steps an epoch, 8 epochs, 472 steps.
step=64 epoch=3776

decay=optim_wrapper.optimizer.weight_decay=0.001
# A run that fails is told; the others are made.
failed=0
# Every row at its own rate, on the test photographs.
if [[ -e $photos/test.json ]]; then
  compare rows rows --reference erm --seeds 0 1 2 --title '1889 photographs, 80 classes' \
    --tune "$lr=0.04,0.08,0.16,0.32" --tune-on "$photos/val.json" \
    --rows erm{,+bn,+flip} "erm-decay=erm,$decay" erm-decay+bn \
    rs asl {uniform,rebalanced}_branch two_branches consistency \
    ltml{,+flip,+merged,+merged_bn} ltml_plus{,+merged,+merged_bn} \
    --cfg-options "${network[@]}" || failed=1
  [[ -n ${DRY_RUN:-} ]] || cp "$out/rows/tuning.csv" "$out/coco80_rates.csv" || failed=1
else
  echo "no $photos/test.json: nothing is tested"
fi

# What the rule says, 0.16 for 80 classes, and other rates.
rates=(erm ltml)
for row in erm ltml; do
  for value in 0.01 0.04 0.08 0.32 0.64; do
    rates+=("$(rate "$row" "$value")")
  done
done
# The training without what steadies it, and at greater weights of consistency.
bare=custom_hooks=[] weight=model.loss_consistency.loss_weight
steady=(erm ltml "bare=ltml,$bare" "bare-lr0_32=ltml,$bare,$lr=0.32")
for value in 0.3 1.0; do
  steady+=("w${value/./_}=ltml,$weight=$value"
    "w${value/./_}_bare=ltml,$bare,$weight=$value")
done
# Candidates for the recipe, each alone.
csra=model.head.type=CSRAClsHead,model.head.num_heads=1,model.head.lam=0.1
choices=(
  erm{,+bn} ltml{,+merged_bn} ltml_plus{,+merged_bn}
  "csra=ltml,$csra"
  asl2=ltml,model.loss_cls.type=AsymmetricLoss
  "decay=ltml,$decay" "erm-decay=erm,$decay"
  heads=ltml,optim_wrapper.paramwise_cfg.custom_keys.heads.lr_mult=3
  probs=ltml,model.loss_consistency.on=probs
)
for table in rates steady choices; do
  declare -n rows=$table
  compare "$table" choose --reference erm --seeds 0 --title "Chosen on: $table" \
    --rows "${rows[@]}" --cfg-options "${network[@]}" "${on_val[@]}" || failed=1
done
exit "$failed"
