#!/usr/bin/env bash
# Chooses and tests the rows on 80 classes of COCO photographs; what is there
# already is not made again.
#
#   [DRY_RUN=1] bash docs/results/coco80.sh COCO80 RESNET50 [OUT]
#
# COCO80 holds images/, train.json, val.json to choose on and, where it is at
# hand, test.json; RESNET50 is an ImageNet checkpoint for MMPretrain's ResNet-50
# with style='caffe'. With a GPU the whole network is trained at 224 x 224 in
# mixed precision, without one the last stage, on cached features at 128 x 128.
# Every table leaves OUT/NAME.md, NAME.csv and NAME_groups.png; with DRY_RUN
# the runs are only listed.
set -euo pipefail
photos=$(realpath -e "$1")
weights=$(realpath -e "$2")
out=$(realpath -m "${3:-work_dirs/coco80}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

network=(
  data_root="$photos" data_prefix=images
  model.backbone.style=caffe model.backbone.init_cfg.prefix=backbone.
  model.backbone.init_cfg.checkpoint="$weights"
  default_hooks.checkpoint.interval=8 default_hooks.logger.interval=59
)
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if ((gpus > 0)); then
  tool=(python tools/benchmarks/compare.py --jobs "$gpus")
  network+=(
    optim_wrapper.type=GuardedAmpOptimWrapper optim_wrapper.loss_scale=dynamic
  )
else
  tool=(python docs/results/frozen_trunk.py --jobs 2)
  network+=(
    optim_wrapper.type=GuardedAmpOptimWrapper optim_wrapper.dtype=bfloat16
  )
  for step in train_dataloader.dataset.dataset.pipeline.2 \
    {val,test}_dataloader.dataset.pipeline.1; do
    network+=("$step.scale=(128,128)")
  done
fi

# compare NAME RUNS ARGUMENTS: the runs lie in OUT/RUNS. An epoch has 59 steps
# of 64 images, 8 of them 472 steps.
compare() {
  local name=$1 runs=$out/$2 cache=()
  shift 2
  ((gpus > 0)) || cache=(--cache-trunk "${runs}_trunk")
  "${tool[@]}" ${cache+"${cache[@]}"} --data custom --out "$runs" \
    --images-per-step 64 --epoch-images 3776 --reference erm \
    ${DRY_RUN:+--dry-run} "$@"
  [[ -z ${DRY_RUN:-} ]] || return 0
  cp "$runs/table.md" "$out/$name.md"
  cp "$runs/runs.csv" "$out/$name.csv"
  cp "$runs/groups.png" "$out/${name}_groups.png"
}
on_val=(test_dataloader.dataset.ann_file=val.json)

# A row with another learning rate.
lr=optim_wrapper.optimizer.lr
rate() { echo "$1-lr${2/./_}=$1,$lr=$2"; }

# What the rule says, 0.16 for 80 classes, and other rates.
rates=(erm ltml)
for row in erm ltml; do
  for value in 0.01 0.04 0.08 0.32 0.64; do
    rates+=("$(rate "$row" "$value")")
  done
done
# The training without what steadies it, and at greater weights of consistency.
bare=custom_hooks=[]
bare+=,optim_wrapper.paramwise_cfg.custom_keys.loss_cls.lr_mult=1.0
weight=model.loss_consistency.loss_weight
steady=(erm ltml "bare=ltml,$bare" "bare-lr0_32=ltml,$bare,$lr=0.32")
for value in 0.3 1.0; do
  steady+=("w${value/./_}=ltml,$weight=$value"
    "w${value/./_}_bare=ltml,$bare,$weight=$value")
done
# Candidates for the recipe, each alone.
csra=model.head.type=CSRAClsHead,model.head.num_heads=1,model.head.lam=0.1
decay=optim_wrapper.optimizer.weight_decay=0.001
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
  compare "$table" choose --seeds 0 --title "Chosen on: $table" \
    --rows "${rows[@]}" --cfg-options "${network[@]}" "${on_val[@]}"
done

# Every row at its own rate, on the test photographs.
if [[ -e $photos/test.json ]]; then
  compare rows rows --seeds 0 1 2 --title '1889 photographs, 80 classes' \
    --tune "$lr=0.04,0.08,0.16,0.32" --tune-on "$photos/val.json" \
    --rows erm{,+bn,+flip} "erm-decay=erm,$decay" erm-decay+bn \
    rs asl {uniform,rebalanced}_branch two_branches consistency \
    ltml{,+flip,+merged,+merged_bn} ltml_plus{,+merged,+merged_bn} \
    --cfg-options "${network[@]}"
else
  echo "no $photos/test.json: nothing is tested"
fi
