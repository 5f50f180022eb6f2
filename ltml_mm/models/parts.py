"""The parts around the forked backbone: options, neck, heads and losses.

``'auto'`` necks and the width of the heads are found by running the plain
backbone once on a blank image.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from math import gcd
from typing import Any

import torch
from mmengine.model import ModuleDict
from mmengine.registry import MODELS as ROOT_MODELS
from mmpretrain.models.backbones import HRNet
from mmpretrain.models.heads import CSRAClsHead, MultiLabelLinearClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import linear

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
MAP_POOLING = dict(type='GlobalAveragePooling')
DEFAULT_LOSS = dict(type='LogitCompensatedBCELoss')
DEFAULT_CONSISTENCY = dict(type='CrossBranchConsistencyLoss')
#: Where networks keep the side of their images: ViT and timm, Swin's patch
#: embedding, Hugging Face's.
SIZES = ('img_size', 'img_resolution', 'init_input_size', 'image_size')
#: Under what names networks keep their class token.
CLASS_TOKENS = {'cls_token', 'class_token', 'class_embedding'}
#: The side of the blank image where the backbone names none, in pixels.
PROBE_SIDE = 224
#: What a backbone raises that does not run as it is asked to.
FAULTS = (
    RuntimeError, ValueError, TypeError, AssertionError, AttributeError,
    LookupError,
)  # fmt: skip


@ROOT_MODELS.register_module()
class TokenPooling(nn.Module):
    """Takes the class token, or the mean of the tokens where there is none.

    For backbones that return all tokens, such as the vision transformers of
    timm in MMPretrain's ``TIMMBackbone``, or maps with their channels last,
    such as timm's Swin. Several vectors of an image, such as DeiT's class and
    distillation tokens, are put side by side.

    Args:
        num_prefix_tokens (int): Tokens ahead of the patches; the first of
            them is the class token. Defaults to 0: none.
        mean (bool): Whether to average the patches even where there is a
            class token. Defaults to False.
    """

    def __init__(self, num_prefix_tokens: int = 0, mean: bool = False) -> None:
        super().__init__()
        self.num_prefix_tokens = num_prefix_tokens
        self.mean = mean

    def forward(self, feats: Tensor | tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pools the last of the features to (N, C).

        Args:
            feats (Tensor | tuple): Tokens (N, L, C), maps (N, H, W, C), or
                a list of vectors (N, C).
        """
        tokens = feats if isinstance(feats, Tensor) else feats[-1]
        if not isinstance(tokens, Tensor):
            return (torch.cat([*tokens], 1),)
        if self.num_prefix_tokens and not self.mean:
            return (tokens[:, 0],)
        return (tokens.flatten(1, -2)[:, self.num_prefix_tokens :].mean(1),)


@ROOT_MODELS.register_module()
class AttentionAtTestHead(MultiLabelLinearClsHead):
    """A linear head on feature maps that looks closer at test.

    In training its logits are those of average pooling and a linear layer. At
    test each class adds ``lam`` times the average of its scores over the
    positions, weighted by their softmax: the residual attention of `CSRA
    (ICCV 2021) <https://arxiv.org/abs/2108.02456>`_, without training.

    With ``neck='auto'`` it gets the maps that would be averaged. Where the
    neck pools tokens or maps with their channels last, or the backbone returns
    vectors, there are no positions left and it is the linear head.

    Args:
        *args: Those of ``MultiLabelLinearClsHead``.
        lam (float): The weight of the attention. Defaults to 0.3.
        **kwargs: As ``args``.
    """

    def __init__(self, *args: Any, lam: float = 0.3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lam = lam

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Computes logits (N, K) of the last of the features.

        Args:
            feats (tuple[Tensor]): Maps (N, C, h, w), or vectors (N, C).
        """
        features = self.pre_logits(feats)
        if features.ndim == 2:
            return self.fc(features)
        positions = features.flatten(2)
        logits = self.fc(positions.mean(2))
        if self.training:
            return logits
        # Not weight @ positions: onnxruntime cannot quantise a weight that is
        # the first factor here and has a bias above.
        scores = linear(positions.transpose(1, 2), self.fc.weight)
        return logits + self.lam * (scores.softmax(1) * scores).sum(1)


#: What takes the maps that a neck would average.
MAP_HEADS = (AttentionAtTestHead, CSRAClsHead)


def check_keywords(
    owner: str, given: Iterable[str], known: Sequence[str]
) -> None:
    """Raises a TypeError for a name that is not known, with those like it."""
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
    """Completes and checks options of the fork, old spellings among them."""
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
def run(network: nn.Module, images: Tensor) -> Any:
    """Returns a network's features of some images, in eval mode."""
    with evaluating(network):
        return network(images)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Sets a network to eval mode for a while."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def probe_features(backbone: nn.Module, neck: nn.Module | None = None) -> Any:
    """Returns the features of one blank image, behind the neck if given.

    Raises:
        ValueError: They do not run on a blank image.
    """
    network = nn.Sequential(backbone, *([] if neck is None else [neck]))
    try:
        features = run(network, torch.zeros(1, *image_shape(network)))
        if not last_feature(features).is_floating_point():
            raise TypeError('the last output holds whole numbers')
        return features
    except FAULTS as error:
        kinds = ' and '.join(type(module).__name__ for module in network)
        channels, height, width = image_shape(backbone)
        raise ValueError(
            f'{kinds} do not run on a blank image of {height} x {width} with '
            f'{channels} channels: {str(error) or type(error).__name__}. '
            'With the neck and head.in_channels given none is needed'
        ) from error


def last_feature(features: Any) -> Tensor:
    """Returns the last of the features."""
    while not isinstance(features, Tensor):
        features = features[-1]
    return features


def last_shape(features: Any) -> tuple[int, ...]:
    """Returns the shape of the last of the features, the batch first."""
    return tuple(last_feature(features).shape)


def neck_config(
    config: dict | list | str | None,
    backbone: nn.Module,
    head: Mapping[str, Any] | None = None,
) -> Any:
    """Returns the config of a neck for a backbone that is not forked yet.

    ``'auto'`` becomes global average pooling of feature maps, behind a fusion
    of scales for HRNet, :class:`TokenPooling` of tokens or of several vectors,
    none for one vector or for a ``head`` that takes maps.
    """
    if config != 'auto':
        return config
    config = _auto_neck(backbone)
    kind = (head or {}).get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    maps = isinstance(kind, type) and issubclass(kind, MAP_HEADS)
    return None if maps and config == MAP_POOLING else config


def _auto_neck(backbone: nn.Module) -> Any:
    features = probe_features(backbone)
    shape = last_shape(features)
    if isinstance(backbone, HRNet) and len(features) > 1:
        # Its weights end in several features; a pooling would use the last.
        widths = [feature.shape[1] for feature in features]
        return [
            dict(type='HRFuseScales', in_channels=widths),
            dict(MAP_POOLING),
        ]
    if isinstance(features, tuple) and isinstance(features[-1], tuple | list):
        return dict(type='TokenPooling')
    if len(shape) == 3:
        return _token_pooling(backbone, *shape[1:])
    if len(shape) == 4:
        sides = image_shape(backbone)[1:]
        # A map with its channels last, as timm's Swin gives.
        last = is_map(shape[1:3], sides) and not is_map(shape[2:4], sides)
        return dict(type='TokenPooling') if last else dict(MAP_POOLING)
    return None


def is_map(sides: Sequence[int], image: Sequence[int]) -> bool:
    """Whether two axes of features have the proportions of an image."""
    return abs(sides[0] - sides[1] * image[0] / image[1]) < 1


def _token_pooling(backbone: nn.Module, length: int, width: int) -> dict:
    """Returns the config of the pooling of features (N, length, width)."""
    model = getattr(backbone, 'timm_model', backbone)
    prefix = getattr(model, 'num_prefix_tokens', None)
    if prefix is None:
        prefix = getattr(model, 'num_extra_tokens', None)
    # The patches tile the image.
    image = image_shape(backbone)[1:]
    sides = [n for n in range(1, gcd(*image) + 1) if gcd(n, *image) == n]
    tiles = [image[0] * image[1] // side**2 for side in sides]
    if prefix is None:
        names = {n.rpartition('.')[2] for n, _ in model.named_parameters()}
        patches = max([n for n in tiles if n <= length], default=0)
        prefix = length - patches if names & CLASS_TOKENS else 0
    if not prefix and length not in tiles and width in tiles:
        # Channels ahead of the positions, as EfficientFormer gives.
        return dict(type='GlobalAveragePooling', dim=1)
    # timm's networks with a norm behind the pooling pool by the mean.
    norm = getattr(model, 'fc_norm', None)
    mean = norm is not None and not isinstance(norm, nn.Identity)
    config = dict(type='TokenPooling', num_prefix_tokens=prefix)
    return {**config, 'mean': True} if prefix and mean else config


def build_neck(
    config: dict | list | str | None,
    backbone: nn.Module,
    head: Mapping[str, Any] | None = None,
) -> nn.Module | None:
    """Builds a neck that is not forked yet; see :func:`neck_config`."""
    config = neck_config(config, backbone, head)
    return None if config is None else MODELS.build(config)


def head_config(
    config: dict | None,
    num_classes: int,
    backbone: nn.Module,
    neck: nn.Module | None,
) -> dict:
    """Returns the whole config of one head, ahead of the fork.

    Its type, ``num_classes`` and ``in_channels``, the width behind the neck,
    are filled in where missing. A loss of its own is an error: none uses it.
    """
    config = {**DEFAULT_HEAD, **(config or {})}
    if 'loss' in config:
        raise ValueError(
            "the branches do not use their heads' losses: move head.loss to "
            f'loss_cls, got {config["loss"]}'
        )
    config.setdefault('num_classes', num_classes)
    if 'in_channels' not in config:
        config['in_channels'] = last_shape(probe_features(backbone, neck))[1]
    return config


def free_batch(network: Any) -> Any:
    """Lets a network be traced or exported for any number of images.

    MMPretrain's window attention (Swin, SwinV2, MixMIM) computes the number
    of images as a Python int, which tracing and exporting freeze without a
    word. The layers are changed in place and compute the same; a network
    without such layers stays as it is.
    """
    for module in network.modules():
        reverse = getattr(module, 'window_reverse', None)
        if getattr(reverse, '__module__', '').startswith('mmpretrain.'):
            module.window_reverse = _window_reverse
    return network


def _window_reverse(windows: Tensor, H: int, W: int, size: int) -> Tensor:
    """Puts windows (N * H * W / size^2, size, size, C) into (N, H, W, C)."""
    rows = windows.view(-1, H // size, W // size, size, size, windows.shape[3])
    return rows.transpose(2, 3).reshape(-1, H, W, windows.shape[3])


def build_losses(config: dict | None, num_classes: int) -> ModuleDict:
    """Builds a classification loss for each branch, with its defaults."""
    config = {**DEFAULT_LOSS, **(config or {})}
    loss = MODELS.get(config['type'])
    if loss and 'num_classes' in inspect.signature(loss).parameters:
        config.setdefault('num_classes', num_classes)
    return ModuleDict({name: MODELS.build(config) for name in BRANCHES})


def image_shape(network: nn.Module) -> tuple[int, int, int]:
    """Returns the channels, height and width that a network takes."""
    channels, size = 0, None
    facts: dict = {}
    module: Any
    for module in network.modules():
        for name in SIZES:
            size = size or getattr(module, name, None)
        facts = facts or getattr(module, 'pretrained_cfg', None) or {}
        # timm's, whose first convolution may see other channels.
        channels = channels or getattr(module, 'in_chans', None) or 0
        if isinstance(module, nn.Conv2d):
            channels = channels or module.in_channels
    if size is None:
        # timm's networks that take one size, or none below another.
        fixed = facts.get('fixed_input_size') and facts.get('input_size')
        size = (fixed or facts.get('min_input_size') or [PROBE_SIDE])[-2:]
    sides = size if isinstance(size, Sequence) else (size, size)
    return channels or 3, int(sides[0]), int(sides[-1])
