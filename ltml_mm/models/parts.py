"""Builds the parts of the two-branch network around its backbone."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from mmengine.model import ModuleDict
from mmpretrain.registry import MODELS
from torch import nn

from ltml_mm.models.fork.branches import BRANCHES, ForkedTail
from ltml_mm.models.fork.probe import last_shape, probe_features

#: What a part is where its config names no type.
DEFAULT_HEAD = dict(type='MultiLabelLinearClsHead')
DEFAULT_LOSS = dict(type='LogitCompensatedBCELoss')
DEFAULT_CONSISTENCY = dict(type='CrossBranchConsistencyLoss')


def neck_config(config: dict | list | str | None, backbone: nn.Module) -> Any:
    """Returns the config of a neck, with ``'auto'`` resolved.

    Args:
        config: Config of the neck, None for no neck, or ``'auto'``: global
            average pooling of feature maps, :class:`TokenPooling` of tokens,
            none for vectors.
        backbone: The backbone, not forked yet.

    Returns:
        dict | list | None: The config.
    """
    if config != 'auto':
        return config
    axes = len(last_shape(probe_features(backbone)))
    if axes == 4:
        return dict(type='GlobalAveragePooling')
    if axes == 3:
        model = getattr(backbone, 'timm_model', backbone)
        prefix = getattr(model, 'num_prefix_tokens', 0)
        return dict(type='TokenPooling', num_prefix_tokens=prefix)
    return None


def build_neck(
    config: dict | list | str | None, backbone: nn.Module
) -> nn.Module | None:
    """Builds a neck that is not forked yet.

    Args:
        config: See :func:`neck_config`.
        backbone: The backbone, not forked yet.

    Returns:
        nn.Module | None: The neck.
    """
    config = neck_config(config, backbone)
    return None if config is None else MODELS.build(config)


def fork_neck(neck: nn.Module | None, branch_init: str) -> nn.Module | None:
    """Copies a neck for each branch where it has parameters.

    Args:
        neck: The neck of :func:`build_neck`.
        branch_init: See :class:`~ltml_mm.models.fork.branches.Branches`.

    Returns:
        nn.Module | None: The neck behind the fork.
    """
    if neck is None or not any(True for _ in neck.parameters()):
        return neck
    return ForkedTail(neck, copy.deepcopy(neck), branch_init)


def head_config(
    config: dict | None,
    num_classes: int,
    backbone: nn.Module,
    neck: nn.Module | None,
) -> dict:
    """Returns the whole config of one head.

    Args:
        config: Config of one head; its type, ``num_classes`` and
            ``in_channels``, the width behind the neck, are filled in where
            missing.
        num_classes: K.
        backbone: The backbone, not forked yet.
        neck: The neck, not forked yet.

    Returns:
        dict: The config.

    Raises:
        ValueError: It has a loss, which would never be used.
    """
    config = {**DEFAULT_HEAD, **(config or {})}
    if 'loss' in config:
        raise ValueError(
            "the branches do not use their heads' losses: move head.loss to "
            f'loss_cls, got {config["loss"]}'
        )
    config.setdefault('num_classes', num_classes)
    if 'in_channels' not in config:
        shape = last_shape(probe_features(backbone, neck))
        config['in_channels'] = shape[1]
    return config


def build_heads(
    config: dict | None,
    num_classes: int,
    backbone: nn.Module,
    neck: nn.Module | None,
) -> ModuleDict:
    """Builds a head for each branch.

    Args:
        config: See :func:`head_config`.
        num_classes: K.
        backbone: The backbone, not forked yet.
        neck: The neck, not forked yet.

    Returns:
        ModuleDict: The heads by branch.

    Raises:
        ValueError: See :func:`head_config`.
    """
    config = head_config(config, num_classes, backbone, neck)
    return ModuleDict({name: MODELS.build(config) for name in BRANCHES})


def build_losses(config: dict | None, num_classes: int) -> ModuleDict:
    """Builds a classification loss for each branch.

    Args:
        config: Config of one loss; its type is filled in where missing, and
            ``num_classes`` where the loss takes it, too.
        num_classes: K.

    Returns:
        ModuleDict: The losses by branch.
    """
    config = {**DEFAULT_LOSS, **(config or {})}
    loss = MODELS.get(config['type'])
    if loss and 'num_classes' in inspect.signature(loss).parameters:
        config.setdefault('num_classes', num_classes)
    return ModuleDict({name: MODELS.build(config) for name in BRANCHES})


def build_consistency(config: dict | None) -> nn.Module:
    """Builds the loss between the branches.

    Args:
        config: Its config; its type is filled in where missing.

    Returns:
        nn.Module: The loss.
    """
    return MODELS.build({**DEFAULT_CONSISTENCY, **(config or {})})
