"""One parameter group for all parameters that are stepped alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ltml_mm.models.fork.backbone import trunk_parameters


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FewGroupsOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's constructor, which makes as few groups as it can.

    With ``paramwise_cfg`` MMEngine makes a group of every parameter, and the
    step starts kernels for each. Here those of equal settings are one group.

    ``paramwise_cfg`` takes ``trunk_lr_mult``, too: the factor of the learning
    rate of what both branches share, see :func:`trunk_parameters`.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Builds the optimizer wrapper of a model."""
        wrapper = super().__call__(model)
        groups = wrapper.optimizer.param_groups
        # MMEngine's are ConfigDicts, which PyTorch reads for every weight.
        groups[:] = [{**group} for group in groups]
        return wrapper

    def add_params(
        self, params: list, module: nn.Module, prefix: str = '', **kw: Any
    ) -> None:
        """Adds a module's parameters to the group of their settings."""
        found: list[dict] = []
        super().add_params(params if prefix else found, module, prefix, **kw)
        factor = self.paramwise_cfg.get('trunk_lr_mult', 1)
        trunk = trunk_parameters(module) if found and factor != 1 else ()
        for own in found:
            if own['params'][0] in trunk:
                own['lr'] = factor * own.get('lr', self.base_lr)
            for group in params:
                if {**group, 'params': 0} == {**own, 'params': 0}:
                    group['params'] += own['params']
                    break
            else:
                params.append(own)


def check_trunk_rate(wrapper: Mapping[str, Any]) -> None:
    """Raises a ValueError where nothing reads ``trunk_lr_mult``."""
    rates = wrapper.get('paramwise_cfg') or {}
    name = wrapper.get('constructor', 'DefaultOptimWrapperConstructor')
    kind = OPTIM_WRAPPER_CONSTRUCTORS.get(name)
    reads = FewGroupsOptimWrapperConstructor in getattr(kind, '__mro__', ())
    if rates.get('trunk_lr_mult', 1) != 1 and not reads:
        raise ValueError(
            f'optim_wrapper.constructor={name} does not read paramwise_cfg.'
            f'trunk_lr_mult={rates["trunk_lr_mult"]}: set that to 1, or take '
            'FewGroupsOptimWrapperConstructor'
        )
