"""One parameter group for all parameters that are stepped alike."""

from __future__ import annotations

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FewGroupsOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which makes as few groups as it can.

    With ``paramwise_cfg`` MMEngine makes a group of every parameter, and the
    step starts kernels for each. Here those of equal settings are one group.
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        **kw: Any,
    ) -> None:
        """Adds a module's parameters to the group of their settings."""
        found: list[dict] = []
        super().add_params(params if prefix else found, module, prefix, **kw)
        for own in found:
            for group in params:
                if {**group, 'params': 0} == {**own, 'params': 0}:
                    group['params'] += own['params']
                    break
            else:
                params.append(own)
