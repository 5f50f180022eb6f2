"""The parts around the forked backbone: options, neck, heads and losses.

``'auto'`` necks and the width of the heads are found by running the plain
backbone once on a blank image.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from mmengine.model import ModuleDict
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ltml_mm.models.fork.branches import BRANCHES

#: The options of the fork and their defaults.
FORK_DEFAULTS = dict(at='auto', init='copy', bn_streams='joint', fuse='logits')
FORK_CHOICES = dict(
    init=('copy', 'reinit'),
    bn_streams=('joint', 'separate'),
    fuse=('logits', 'probs'),
)
#: Their spellings as keywords of the two-branch network.
FORK_SPELLINGS = dict(
    fork_at='at', branch_init='init', bn_streams='bn_streams', fuse='fuse'
)
#: What a part is where its config names no type.
DEFAULT_HEAD = dict(type='MultiLabelLinearClsHead')
DEFAULT_LOSS = dict(type='LogitCompensatedBCELoss')
DEFAULT_CONSISTENCY = dict(type='CrossBranchConsistencyLoss')
#: The side of the blank image where the backbone names none, in pixels.
PROBE_SIDE = 224


def check_keywords(
    owner: str, given: Iterable[str], known: Sequence[str]
) -> None:
    """Checks the names of options.

    Args:
        owner: What takes them, for the message.
        given: The names that are given.
        known: The names that exist.

    Raises:
        TypeError: One does not exist; names it and those like it.
    """
    for name in given:
        if name not in known:
            near = get_close_matches(name, known)
            hint = (
                f'did you mean {" or ".join(near)}?'
                if near
                else f'it has {", ".join(known)}'
            )
            raise TypeError(f'{owner} has no option {name!r}; {hint}')


def fork_options(
    fork: Mapping[str, Any] | None, keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Completes and checks the options of the fork.

    Args:
        fork: Options by the names in ``FORK_DEFAULTS``.
        keywords: Keywords of the two-branch network, among them those in
            ``FORK_SPELLINGS``.

    Returns:
        dict: Every option by its name.

    Raises:
        TypeError: ``fork`` is no dict, holds an unknown name, or an option
            is given in both spellings.
        ValueError: An option has an unknown value.
    """
    if not isinstance(fork, Mapping | None):
        raise TypeError(
            f"fork must be a dict such as dict(at=['layer4']), got {fork!r}"
        )
    options = dict(fork or {})
    check_keywords('fork', options, [*FORK_DEFAULTS])
    for spelling, name in FORK_SPELLINGS.items():
        if spelling in keywords and name in options:
            raise TypeError(
                f'{spelling}={keywords[spelling]!r} and fork=dict({name}='
                f'{options[name]!r}) set the same option: leave one out'
            )
        if spelling in keywords:
            options[name] = keywords[spelling]
    options = {**FORK_DEFAULTS, **options}
    for name, choices in FORK_CHOICES.items():
        if options[name] not in choices:
            raise ValueError(
                f'fork.{name} must be one of {choices}, got {options[name]!r}'
            )
    return options


@torch.no_grad()
def probe_features(backbone: nn.Module, neck: nn.Module | None = None) -> Any:
    """Runs a backbone, and a neck behind it, on one blank image.

    Args:
        backbone: A backbone of MMPretrain.
        neck: A neck for its features.

    Returns:
        Any: The features for a batch of one, a tensor or a tuple of them.

    Raises:
        ValueError: They do not run on an image of the backbone's size.
    """
    height, width = _image_size(backbone)
    image = torch.zeros(1, 3, height, width)
    network = nn.Sequential(backbone, *([] if neck is None else [neck]))
    with _eval_mode(network):
        try:
            return network(image)
        except (RuntimeError, AssertionError) as error:
            kinds = ' and '.join(type(module).__name__ for module in network)
            raise ValueError(
                f'{kinds} do not run on a blank image of {height} x {width}: '
                f'{error}'
            ) from error


def last_shape(features: Any) -> tuple[int, ...]:
    """Returns the shape of the last feature, the batch first.

    Args:
        features: A tensor, or a list or tuple of them.
    """
    while not isinstance(features, Tensor):
        features = features[-1]
    return tuple(features.shape)


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
    """Builds a neck that is not forked yet; see :func:`neck_config`."""
    config = neck_config(config, backbone)
    return None if config is None else MODELS.build(config)


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


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _image_size(backbone: nn.Module) -> tuple[int, int]:
    size: Any = getattr(backbone, 'img_size', None)
    size = size or getattr(backbone, 'img_resolution', None)
    for module in backbone.modules():  # timm keeps it in the patch embedding
        size = size or getattr(module, 'img_size', None)
    size = size or PROBE_SIDE
    if isinstance(size, Sequence):
        return int(size[0]), int(size[-1])
    return int(size), int(size)
