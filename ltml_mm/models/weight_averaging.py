"""Averages the two branches of a trained network into one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ltml_mm.models.fork.branches import BRANCHES, plain_name
from ltml_mm.models.parts import evaluating

#: Above this :func:`branch_drift` the average of the copies is doubtful.
DRIFT_LIMIT = 0.5

# The first branch in a key, and what stands before it.
_BRANCH = re.compile(rf'^(.+?)\.({"|".join(BRANCHES)})\.')
# What only the training of the two branches needs.
_LOSSES = ('loss_cls.', 'loss_consistency.')
_HEADS = 'heads.'
_STATISTICS = ('.running_mean', '.running_var', '.num_batches_tracked')


def merge_branches(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Averages the branches of a two-branch network's weights.

    Both copies of the last stage start from the same weights and are held
    together by the consistency loss, so that their average is a network,
    too; the average of the linear heads gives the mean of their logits for
    equal features. Running means and variances are averaged like all else:
    exact for equal copies, and to first order in their difference;
    :func:`reestimate_norms` measures them anew.

    Args:
        state_dict: That of a :class:`CollaborativeTwoBranchClassifier`.

    Returns:
        dict[str, Tensor]: That of an ``ImageClassifier`` with the same
        backbone, neck and head. Floating-point weights are averaged in
        float64 and have their dtype again; counters are the uniform
        branch's. New tensors but for those that both branches share.

    Raises:
        ValueError: It is not of a two-branch network, a weight is there for
            one branch only, or the branches' weights cannot be averaged;
            names the weight.
    """
    merged = {}
    pairs = _pairs(state_dict)
    for key, value in state_dict.items():
        if key.startswith(_LOSSES):
            continue
        name = _plain_key(key)
        if name not in merged:
            pair = pairs.get(name)
            merged[name] = _average(name, *pair) if pair else value
    return merged


def merged_modules(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Names what :func:`merge_branches` averages, such as backbone.layer4."""
    found = (
        'head' if key.startswith(_HEADS) else match[1]
        for key in state_dict
        if not key.startswith(_LOSSES) and (match := _BRANCH.match(key))
    )
    return list(dict.fromkeys(found))


def branch_drift(state_dict: Mapping[str, Tensor]) -> float:
    """Measures how far the branches of a network have drifted apart.

    The norm of the difference of the forked stages' weights over the norm of
    their mean: 0 for equal copies, 2 for copies that have nothing to do with
    each other. The heads are left out: they start apart, and however far
    apart they are, the average of linear heads is exact for equal features.
    Running statistics are left out, too; their scale is the data's.

    Args:
        state_dict: That of a :class:`CollaborativeTwoBranchClassifier`.

    Returns:
        float: The drift, infinite where the copies are opposites.

    Raises:
        ValueError: As in :func:`merge_branches`.
    """
    apart = total = 0.0
    for name, (uniform, rebalanced) in _pairs(state_dict).items():
        aside = name.startswith('head.') or name.endswith(_STATISTICS)
        if uniform.is_floating_point() and not aside:
            first, second = uniform.double(), rebalanced.double()
            apart += (first - second).square().sum().item()
            total += ((first + second) / 2).square().sum().item()
    if total == 0:
        return float('inf') if apart else 0.0
    return float((apart / total) ** 0.5)


@torch.no_grad()
def reestimate_norms(
    model: Any, batches: Iterable[Any], modules: Sequence[str]
) -> int:
    """Measures the running statistics of some BatchNorms anew, in place.

    The statistics of each layer become the averages of those of the batches,
    weighted by their images; all else, the norms ahead of these modules
    included, stays as it is in evaluation.

    Args:
        model: An ``ImageClassifier``.
        batches: What a dataloader yields, or images (N, 3, H, W) that are
            normalised already, on the model's device.
        modules: Names of the modules whose norms are meant, such as those of
            :func:`merged_modules`.

    Returns:
        int: The number of images seen.

    Raises:
        ValueError: The modules have no BatchNorm with running statistics, or
            there is no batch; the model is as it was.
    """
    norms = norms_of(model, modules)
    if not norms:
        raise ValueError(
            f'{", ".join(modules) or "the model"}: no BatchNorm here whose '
            'statistics could be estimated anew'
        )
    seen = 0
    with _measuring(model, norms):
        for batch in batches:
            if not isinstance(batch, Tensor):
                batch = model.data_preprocessor(batch, False)['inputs']
            if not seen:
                for layer in norms:
                    layer.reset_running_stats()
            seen += len(batch)
            for layer in norms:
                layer.momentum = len(batch) / seen
            model(batch, mode='tensor')
    if not seen:
        raise ValueError('no images to estimate the statistics on')
    return seen


def trained_norms(model: nn.Module) -> list[str]:
    """Names the BatchNorms that a training of the model updates.

    Those of frozen stages, and of a backbone with ``norm_eval``, stay in
    evaluation mode.
    """
    with evaluating(model):
        model.train()
        return [
            name
            for name, layer in model.named_modules()
            if isinstance(layer, _BatchNorm)
            and layer.track_running_stats
            and layer.training
        ]


def norms_of(model: nn.Module, modules: Sequence[str]) -> list[_BatchNorm]:
    """Lists the BatchNorms that :func:`reestimate_norms` measures."""
    return [
        layer
        for name in modules
        for layer in model.get_submodule(name).modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]


@contextmanager
def _measuring(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Sets only these norms to training mode for a while."""
    momenta = [layer.momentum for layer in norms]
    with evaluating(model):
        for layer in norms:
            layer.train()
        try:
            yield
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer.momentum = momentum


def _plain_key(key: str) -> str:
    """Returns a key's name in the merged network."""
    name = plain_name(key)
    return f'head.{name[len(_HEADS) :]}' if key.startswith(_HEADS) else name


def _pairs(
    state_dict: Mapping[str, Tensor],
) -> dict[str, tuple[Tensor, Tensor]]:
    """Finds the weights of both branches, by their merged names."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state_dict.items():
        match = _BRANCH.match(key)
        if match and not key.startswith(_LOSSES):
            found.setdefault(_plain_key(key), {})[match[2]] = value
    if not any(name.startswith('head.') for name in found):
        first = next(iter(state_dict), 'nothing')
        raise ValueError(
            'there are no two branches to merge: no weight is named '
            f'"heads.{BRANCHES[0]}...", the first is "{first}"; give a '
            'checkpoint of a CollaborativeTwoBranchClassifier'
        )
    for name, pair in found.items():
        for branch in BRANCHES:
            if branch not in pair:
                raise ValueError(f'{name} is missing for branch "{branch}"')
        first_shape, second_shape = (tuple(pair[b].shape) for b in BRANCHES)
        if first_shape != second_shape:
            raise ValueError(
                f'{name} has other shapes in the branches, {first_shape} and '
                f'{second_shape}'
            )
    one, other = BRANCHES
    return {name: (pair[one], pair[other]) for name, pair in found.items()}


def _average(name: str, uniform: Tensor, rebalanced: Tensor) -> Tensor:
    if not uniform.is_floating_point():
        counter = name.endswith('.num_batches_tracked')
        if not counter and not torch.equal(uniform, rebalanced):
            raise ValueError(
                f'{name} holds integers that differ between the branches'
            )
        return uniform.clone()
    mean = (uniform.double() + rebalanced.double()) / 2
    if not mean.isfinite().all():
        raise ValueError(f'{name} holds values that are not finite')
    return mean.to(uniform.dtype)
