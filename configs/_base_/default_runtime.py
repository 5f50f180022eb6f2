# Registers the package's modules into MMEngine's root registries.
custom_imports = dict(imports=['ltml_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'
# Fills in what the data say, under MMPretrain's tools too (apis/config.py).
runner_type = 'RunnerFromData'

# The order comes from each hook's priority: statistics and checks first, then
# exact_resume (80), checkpoint (90), preemption (100).
default_hooks = dict(
    runtime_info=dict(type='LateRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False),
    device=dict(type='DeviceHook'),
    class_statistics=dict(type='ClassStatisticsHook'),
    resume_check=dict(type='ResumeCheckHook'),
    schedule_check=dict(type='ScheduleCheckHook'),
    exact_resume=dict(type='ExactResumeHook'),
    numerics=dict(type='NumericsHook'),
    class_report=dict(type='ClassReportHook'),
    preemption=dict(type='PreemptionHook'),
)

env_cfg = dict(
    # All images of a config have one size. deterministic=True turns it off.
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Seconds, not the ten minutes of nccl: at the end the first process alone
    # draws, chooses thresholds and measures BatchNorm anew.
    dist_cfg=dict(backend='nccl', timeout=3600),
)

vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
# The agreement of the branches is smoothed over the last steps, as losses are.
log_processor = dict(
    mean_pattern=r'.*(loss|agreement|time|data_time|grad_norm).*'
)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
