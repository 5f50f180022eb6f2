#!/usr/bin/env bash
# Compares what was tried for the recipe with it, each at every rate given, on
# photographs to choose on; what is there already is not made again.
#
#   [DRY_RUN=1] [SEEDS="0 1 2"] bash docs/results/candidates.sh \
#       PHOTOS RESNET50 OUT STEP EPOCH RATE...
#
# PHOTOS holds images/, train.json and val.json; RESNET50 is an ImageNet
# checkpoint for MMPretrain's ResNet-50 with style='caffe'; a step has STEP
# images, an epoch EPOCH. For 80 classes of COCO photographs 64 3776 0.08 0.16
# 0.32. With a GPU the whole network is trained, without one its last stage.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/whole_or_cached.sh"
step=$4 epoch=$5
shift 5
export PYTHONPATH=$PWD/docs/results${PYTHONPATH:+:$PYTHONPATH}

hooks="{'type':'PriorBiasHook'},{'type':'ConsistencyLimitHook'},\
{'type':'CompensationLimitHook'}"
# Over a tenth of the run.
momentum=$(python -c "print(10 / (8 * $epoch // $step))")
loss=model.loss_cls.type
rates=optim_wrapper.paramwise_cfg
heads="$rates.custom_keys={'heads.uniform':{'lr_mult':3},\
'heads.rebalanced':{'lr_mult':3}}"
pairs="$loss=PairwiseCompensatedBCELoss,model.loss_cls.pairs"
stream=train_dataloader.sampler.streams.rebalanced
schedule="{'type':'LinearLR','start_factor':0.04,'by_epoch':True,'end':2,\
'convert_to_iter_based':True},{'type':'CosineAnnealingLR','T_max':6,\
'by_epoch':True,'begin':2,'end':8,'convert_to_iter_based':True}"
candidates=(
  "recipe=ltml_plus"
  "ema=custom_hooks=[$hooks,{'type':'EMAHook','momentum':$momentum}]"
  "asl=$loss=WeightedAsymmetricLoss"
  "two_way=$pairs=two_way"
  "dr=$pairs=dr"
  "csra=model.head.type=CSRAClsHead,model.head.num_heads=1,model.head.lam=0.1"
  "one_cycle=param_scheduler=[$schedule]"
  "decay_1e-4=optim_wrapper.optimizer.weight_decay=0.0001"
  "heads_x3=$heads"
  "full_rate=$rates=None"
  "class_aware=$stream.type=ClassAwareMultiLabelSampler"
  "merged_epochs=custom_hooks=[$hooks,{'type':'MergeEveryEpochHook'}]"
  "fused_target=model.loss_consistency.type=FusedTargetConsistencyLoss"
  "ema_teacher=model.type=EMATeacherClassifier,model.momentum=$momentum"
)
if ((gpus > 0)); then
  # Other images, and other cached features. The whole pipeline, since what
  # stands in a list is merged and not replaced.
  candidates+=("crops=train_dataloader.dataset.dataset.pipeline=[\
{'type':'LoadCheckedImage'},\
{'type':'RandomResizedCrop','scale':224,'crop_ratio_range':(0.35,1.0)},\
{'type':'PhotoMetricDistortion'},{'type':'RandomMirror','prob':0.5},\
{'type':'PackImage'}]")
fi
rows=()
for candidate in "${candidates[@]}"; do
  name=${candidate%%=*} change=,${candidate#*=}
  [[ $name != recipe ]] || change=
  for value in "$@"; do
    row=$name-lr${value/./_}
    rows+=("$row=ltml_plus$change,$lr=$value" "$row+merged_bn")
  done
done
compare candidates candidates --seeds ${SEEDS:-0} --title Candidates \
  --rows "${rows[@]}" --cfg-options "${network[@]}" "${on_val[@]}" \
  'custom_imports.imports=[ltml_mm,recipe_candidates]'
