"""Initial weights of a backbone: from a local file, or to be downloaded."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader, get_torchvision_models
from mmpretrain.registry import MODELS
from torch import Tensor

from ltml_mm.datasets.images import first_line
from ltml_mm.files import allow_mmengine_checkpoints, write_bytes

#: Keys under which other trainers keep the weights.
CONTAINERS = ('state_dict', 'model', 'model_state', 'model_ema', 'teacher')
#: Words in the name of a file whose ResNet strides in the 1 x 1 convolution.
CAFFE = re.compile(r'caffe|keras|msra|detectron', re.I)
#: The share of the backbone's tensors that a file has to hold.
ENOUGH = 0.9


def set_weights(cfg: Config, path: str) -> None:
    """Makes the backbone start from a file, in place.

    The file may be a checkpoint of MMPretrain, torchvision or timm, or
    safetensors; what stands ahead of the backbone's keys is found by itself.

    Raises:
        ValueError: The file cannot be read, or holds too little of the
            backbone; names what is missing.
    """
    backbone = cfg.model.backbone
    built = MODELS.build({**backbone, 'init_cfg': None})
    own, style = built.state_dict(), getattr(built, 'style', None)
    found, is_flat = _read(path)
    named = partial(_named, found, own)
    strip, add = max(
        _prefixes(found, own),
        key=lambda one: (
            sum(v.shape == own[k].shape for k, v in named(*one).items()),
            -len(''.join(one)),
        ),
    )
    wanted = [k for k in own if not k.endswith('num_batches_tracked')]
    there = named(strip, add)
    learned = dict(built.named_parameters())
    # What a network computes for its size, such as tables, is no weight.
    missing = [
        k
        for k in wanted
        if k not in there or (k in learned and there[k].shape != own[k].shape)
    ]
    if len(missing) > (1 - ENOUGH) * len(wanted):
        raise ValueError(
            f'--weights {path}: it holds {len(wanted) - len(missing)} of the '
            f'{len(wanted)} tensors of {backbone.get("type")}; missing, or of '
            f'another shape: {", ".join(missing[:3])}; there: '
            f'{", ".join([*found][:3])}. '
            "MMPretrain's tools/model_converters rename those of others"
        )
    stored = path
    if add or not is_flat:
        # Other shapes, too: backbones resize position embeddings themselves.
        stored, strip = _store(there), ''
    init = dict(type='Pretrained', checkpoint=os.path.abspath(stored))
    if strip:
        init['prefix'] = strip.rstrip('.')
    backbone.init_cfg = init
    words = f'Weights: {path}' + (f', keys {strip}*' if strip else '')
    if style and CAFFE.search(Path(path).name):
        backbone.style = 'caffe'
        words += ", style='caffe' after the file's name"
    elif style:
        words += (
            f', style={style!r}; weights of Caffe or Keras need '
            '--cfg-options model.backbone.style=caffe'
        )
    _tell(words)


def _read(path: str) -> tuple[dict[str, Tensor], bool]:
    """Reads weights; and whether MMEngine finds them in the file, too."""
    try:
        if path.endswith('.safetensors'):
            from safetensors.torch import load_file

            return load_file(path), False
        allow_mmengine_checkpoints()  # A loader of MMEngine may have ended it.
        content = torch.load(path, map_location='cpu', weights_only=True)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'--weights {path} is refused: it holds pickled objects beside '
            'weights; save its state_dict alone to a new file'
        ) from error
    except Exception as error:
        raise ValueError(
            f'--weights {path} cannot be read ({first_line(error)})'
        ) from error
    is_flat = True
    for name in CONTAINERS:
        inner = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(inner, Mapping):
            is_flat &= name == 'state_dict'
            content = inner
    items = content.items() if isinstance(content, Mapping) else ()
    tensors = {k: v for k, v in items if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f'--weights {path} holds no weights')
    return tensors, is_flat


def _prefixes(
    found: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yields what may stand ahead of the file's keys, and of one's own."""

    def ahead(keys: Mapping[str, Any]) -> set[str]:
        parts = (key.split('.') for key in keys)
        return {'.'.join([*p[:n], '']) for p in parts for n in (1, 2, 3)}

    yield '', ''
    yield from ((prefix, '') for prefix in sorted(ahead(found)))
    yield from (('', prefix) for prefix in sorted(ahead(own)))


def _named(
    found: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    strip: str,
    add: str,
) -> dict[str, Tensor]:
    """Returns the tensors that the backbone has, of any shape, by its keys."""
    return {
        key: value
        for name, value in found.items()
        if name.startswith(strip)
        and (key := add + name.removeprefix(strip)) in own
    }


def _store(weights: Mapping[str, Tensor]) -> str:
    """Writes weights as MMEngine reads them, into the cache of torch."""
    content = BytesIO()
    torch.save({'state_dict': dict(weights)}, content)
    name = hashlib.sha256(content.getvalue()).hexdigest()[:16]
    path = Path(torch.hub.get_dir(), 'checkpoints', f'ltml_{name}.pth')
    if not path.is_file():
        write_bytes(path, content.getvalue())
    return str(path)


def fetch_weights(cfg: Config) -> None:
    """Says which weights are downloaded, or are missing, and fetches them.

    Raises:
        ValueError: The download fails; says how a local file is given.
    """
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    init = backbone.get('init_cfg') or {}
    rates = (cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}
    keys = ('init_cfg', 'pretrained', 'checkpoint_path')
    given = [part.get(key) for part in (model, backbone) for key in keys]
    if rates.get('trunk_lr_mult', 1) < 1 and not any(given):
        _tell(
            'Weights: none are named for the backbone, which learns at '
            f'{rates["trunk_lr_mult"]} of the rate, as pretrained ones do; '
            'optim_wrapper.paramwise_cfg.trunk_lr_mult=1 trains all at one'
        )
    source = init.get('checkpoint') if isinstance(init, Mapping) else None
    if not isinstance(source, str) or '://' not in source:
        return
    name = source.removeprefix('torchvision://')
    url = get_torchvision_models().get(name, source)
    name = os.path.basename(urlparse(url).path)
    cached = Path(torch.hub.get_dir(), 'checkpoints', name)
    if cached.is_file() or int(os.environ.get('RANK', 0)):
        return
    _tell(
        f'Weights: the config starts from {source}; {name} is downloaded from '
        f'{urlparse(url).netloc} to {cached.parent}. A local file is given by '
        '--weights FILE'
    )
    try:
        with redirect_stdout(StringIO()):  # It would say the same again.
            CheckpointLoader.load_checkpoint(source, map_location='cpu')
    except Exception as error:
        raise ValueError(
            f'{url} cannot be downloaded ({first_line(error)}): fetch it '
            f'elsewhere and pass --weights FILE, put it at {cached}, or start '
            'from random weights with --cfg-options '
            'model.backbone.init_cfg=None'
        ) from error


def _tell(words: str) -> None:
    if not int(os.environ.get('RANK', 0)):
        print(words, flush=True)
