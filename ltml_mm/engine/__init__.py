"""Hooks and helpers around the stock Runner."""

from ltml_mm.engine.hooks.checkpoint_hooks import (
    ResumeCheckHook,
    SafeCheckpointHook,
)
from ltml_mm.engine.hooks.class_hooks import (
    ClassReportHook,
    ClassStatisticsHook,
    PriorBiasHook,
)
from ltml_mm.engine.hooks.device_hook import DeviceHook
from ltml_mm.engine.hooks.exact_resume_hook import ExactResumeHook
from ltml_mm.engine.hooks.guard_hooks import (
    CompensationLimitHook,
    ConsistencyLimitHook,
    NumericsHook,
    ScheduleCheckHook,
)
from ltml_mm.engine.hooks.late_values import LateRuntimeInfoHook
from ltml_mm.engine.hooks.preemption_hook import (
    PreemptionHook,
    TrainingStopped,
)
from ltml_mm.engine.optimizers.few_groups import (
    FewGroupsOptimWrapperConstructor,
)
from ltml_mm.engine.optimizers.guarded_optim_wrapper import (
    GuardedAmpOptimWrapper,
    GuardedOptimWrapper,
    NonFiniteError,
)

__all__ = [
    'ClassReportHook', 'ClassStatisticsHook', 'CompensationLimitHook',
    'ConsistencyLimitHook', 'DeviceHook', 'ExactResumeHook',
    'FewGroupsOptimWrapperConstructor', 'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper', 'LateRuntimeInfoHook', 'NonFiniteError',
    'NumericsHook', 'PreemptionHook', 'PriorBiasHook', 'ResumeCheckHook',
    'SafeCheckpointHook', 'ScheduleCheckHook', 'TrainingStopped',
]  # fmt: skip
