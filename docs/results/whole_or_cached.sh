# For scripts that compare rows on photographs; to be sourced with PHOTOS
# RESNET50 [OUT]. With a GPU the whole network is trained at 224 x 224 in mixed
# precision, without one the last stage, on cached features at 128 x 128. JOBS
# runs go on at once, where it is given; an H100 has room for four.
photos=$(realpath -e "$1")
weights=$(realpath -e "$2")
out=$(realpath -m "${3:-work_dirs/$(basename "$0" .sh)}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

network=(
  data_root="$photos" data_prefix=images
  model.backbone.style=caffe model.backbone.init_cfg.prefix=backbone.
  model.backbone.init_cfg.checkpoint="$weights"
  default_hooks.checkpoint.interval=8 default_hooks.logger.interval=59
)
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if ((gpus > 0)); then
  tool=(python tools/benchmarks/compare.py --jobs "${JOBS:-$gpus}")
  network+=(
    optim_wrapper.type=GuardedAmpOptimWrapper optim_wrapper.loss_scale=dynamic
  )
else
  tool=(python docs/results/frozen_trunk.py --jobs "${JOBS:-2}")
  network+=(
    optim_wrapper.type=GuardedAmpOptimWrapper optim_wrapper.dtype=bfloat16
  )
  for part in train_dataloader.dataset.dataset.pipeline.2 \
    {val,test}_dataloader.dataset.pipeline.1; do
    network+=("$part.scale=(128,128)")
  done
fi
on_val=(test_dataloader.dataset.ann_file=val.json)

# compare NAME RUNS ARGUMENTS: the runs lie in OUT/RUNS; $step images a step,
# $epoch an epoch. Of what did not fail the tables are made, too.
compare() {
  local name=$1 runs=$out/$2 cache=() status=0
  shift 2
  ((gpus > 0)) || cache=(--cache-trunk "${runs}_trunk")
  "${tool[@]}" ${cache+"${cache[@]}"} --data custom --out "$runs" \
    --images-per-step "$step" --epoch-images "$epoch" \
    ${DRY_RUN:+--dry-run} "$@" || status=$?
  ((status < 128)) || exit "$status" # Ctrl-C
  [[ -z ${DRY_RUN:-} ]] || return "$status"
  cp "$runs/table.md" "$out/$name.md"
  cp "$runs/runs.csv" "$out/$name.csv"
  cp "$runs/groups.png" "$out/${name}_groups.png"
  return "$status"
}

# rate ROW RATE: a row of the same name with another learning rate.
lr=optim_wrapper.optimizer.lr
rate() { echo "$1-lr${2/./_}=$1,$lr=$2"; }
