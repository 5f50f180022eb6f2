"""Builds the parts of the two-branch network around its backbone."""

from __future__ import annotations

import copy
import inspect

from mmengine.model import ModuleDict
from mmpretrain.registry import MODELS
from torch import nn

from ltml_mm.models.branches import BRANCHES, ForkedTail
from ltml_mm.models.probe import last_shape, probe_features
from ltml_mm.models.token_pooling import TokenPooling


def build_neck(
    config: dict | list | str | None, backbone: nn.Module
) -> nn.Module | None:
    """Builds a neck that is not forked yet.

    Args:
        config: Config of the neck, None for no neck, or ``'auto'``: global
            average pooling of feature maps, :class:`TokenPooling` of tokens,
            none for vectors.
        backbone: The backbone, not forked yet.

    Returns:
        nn.Module | None: The neck.
    """
    if config is None:
        return None
    if config != 'auto':
        return MODELS.build(config)
    axes = len(last_shape(probe_features(backbone)))
    if axes == 4:
        return MODELS.build(dict(type='GlobalAveragePooling'))
    if axes == 3:
        model = getattr(backbone, 'timm_model', backbone)
        return TokenPooling(getattr(model, 'num_prefix_tokens', 0))
    return None


def fork_neck(neck: nn.Module | None, branch_init: str) -> nn.Module | None:
    """Copies a neck for each branch where it has parameters.

    Args:
        neck: The neck of :func:`build_neck`.
        branch_init: See :class:`~ltml_mm.models.branches.Branches`.

    Returns:
        nn.Module | None: The neck behind the fork.
    """
    if neck is None or not any(True for _ in neck.parameters()):
        return neck
    return ForkedTail(neck, copy.deepcopy(neck), branch_init)


def build_heads(
    config: dict,
    num_classes: int,
    backbone: nn.Module,
    neck: nn.Module | None,
) -> ModuleDict:
    """Builds a head for each branch.

    Args:
        config: Config of one head; ``num_classes`` and ``in_channels``, the
            width behind the neck, are filled in where missing.
        num_classes: K.
        backbone: The backbone, not forked yet.
        neck: The neck, not forked yet.

    Returns:
        ModuleDict: The heads by branch.
    """
    config = dict(config)
    config.setdefault('num_classes', num_classes)
    if 'in_channels' not in config:
        shape = last_shape(probe_features(backbone, neck))
        config['in_channels'] = shape[1]
    return ModuleDict({name: MODELS.build(config) for name in BRANCHES})


def build_losses(config: dict, num_classes: int) -> ModuleDict:
    """Builds a classification loss for each branch.

    Args:
        config: Config of one loss; ``num_classes`` is filled in where the
            loss takes it and it is missing.
        num_classes: K.

    Returns:
        ModuleDict: The losses by branch.
    """
    config = dict(config)
    loss = MODELS.get(config['type'])
    if loss and 'num_classes' in inspect.signature(loss).parameters:
        config.setdefault('num_classes', num_classes)
    return ModuleDict({name: MODELS.build(config) for name in BRANCHES})
