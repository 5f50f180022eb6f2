"""One branch for deployment: ``tools/model_converters/merge_branches.py``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from warnings import warn

import torch
from mmengine.config import Config
from mmpretrain.models.heads import MultiLabelLinearClsHead

from ltml_cli import parse
from ltml_cli.run_parsers import SAFETENSORS
from ltml_mm.apis.checkpoint import (
    CheckpointError,
    checkpoint_meta,
    load_weights,
    read_checkpoint,
)
from ltml_mm.apis.config import load_config
from ltml_mm.apis.model import build_model, pick_device
from ltml_mm.apis.norm_statistics import training_batches
from ltml_mm.apis.stock_config import plugin_types, stock_config
from ltml_mm.decisions.model_card import share
from ltml_mm.files import (
    AtomicFileBackend,
    checksum_path,
    flush_folder,
    write_text,
)
from ltml_mm.models import weight_averaging


def merge_checkpoint(
    config: str | Path,
    path: str | Path,
    cfg_options: Mapping[str, Any] | None = None,
    bn_images: int = 0,
) -> tuple[Config, dict[str, Any]]:
    """Merges the two branches of a checkpoint.

    Of a run with MMEngine's ``EMAHook`` these are the averaged weights.

    Args:
        config: The config file of the training.
        path: The checkpoint.
        cfg_options: Overrides of the config.
        bn_images: Training images to measure the BatchNorm statistics of the
            merged modules on, 0 to average those of the branches.

    Returns:
        tuple: The config of the stock network; and its checkpoint, whose
        ``meta`` holds the classes, the ``branch_drift`` and ``bn_images``,
        how many the norms were measured on.

    Raises:
        FileNotFoundError: The config does not exist.
        CheckpointError: The checkpoint cannot be read, has no two branches,
            or does not fit the config.
        ValueError: See :func:`stock_config`; or no BatchNorm to measure.
    """
    checkpoint = read_checkpoint(path)
    meta = checkpoint_meta(checkpoint, path)
    state_dict = checkpoint['state_dict']
    try:
        merged = weight_averaging.merge_branches(state_dict)
        drift = weight_averaging.branch_drift(state_dict)
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from error
    cfg = load_config(config, cfg_options, meta)
    stock = stock_config(cfg, meta)
    model = build_model(stock)
    load_weights(model, merged, path)
    if not isinstance(model.head, MultiLabelLinearClsHead):
        warn(
            f'the average of two {type(model.head).__name__} is not the mean '
            'of their logits: compare the merged with the two-branch network',
            stacklevel=2,
        )
    if bn_images:
        model.to(pick_device())
        batches = training_batches(cfg, bn_images)
        modules = weight_averaging.merged_modules(state_dict)
        bn_images = weight_averaging.reestimate_norms(model, batches, modules)
    facts: dict[str, Any] = {'dataset_meta': meta} if meta else {}
    facts.update(
        merged_from=Path(path).name, branch_drift=drift, bn_images=bn_images
    )
    weights = {k: v.cpu() for k, v in model.state_dict().items()}
    return stock, {'state_dict': weights, 'meta': facts}


def write_merged(
    config: Config, checkpoint: Mapping[str, Any], out: Path
) -> None:
    """Writes a checkpoint ``*.pth`` and its config ``*.py``, each whole."""
    content = BytesIO()
    torch.save(checkpoint, content)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix='.merge_', dir=out.parent) as folder:
        whole = Path(folder, out.name)
        AtomicFileBackend().put(content.getvalue(), whole)
        write_text(whole.with_suffix('.py'), config.pretty_text)
        # That of an older checkpoint would tell the new one is damaged.
        checksum_path(out).unlink(missing_ok=True)
        for path in (whole.with_suffix('.py'), whole, checksum_path(whole)):
            os.replace(path, out.with_name(path.name))
    flush_folder(out.parent)


def main(argv: Sequence[str] | None = None) -> None:
    """Merges the branches, and warns where that may lose accuracy."""
    args = parse('merge', argv)
    config, checkpoint = merge_checkpoint(
        args.config, args.checkpoint, args.cfg_options, args.bn_images
    )
    write_merged(config, checkpoint, Path(args.out))
    out = Path(args.out)
    print(f'{out} and {out.with_suffix(".py")} written')
    if args.safetensors:
        weights, card = share(
            out.with_suffix('.py'), out, out.with_suffix(SAFETENSORS)
        )
        print(f'{weights} and {card} written')
    drift = checkpoint['meta']['branch_drift']
    print(f'drift of the branches: {drift:.3f}')
    if number := checkpoint['meta']['bn_images']:
        print(f'BatchNorm measured on {number} training images')
    if drift > weight_averaging.DRIFT_LIMIT:
        print(
            'WARNING: the branches have drifted apart (drift '
            f'{drift:.3f}, above {weight_averaging.DRIFT_LIMIT}): their '
            'average may be far from both; compare it with the two-branch '
            'network before using it (docs/deployment.md)',
            file=sys.stderr,
        )
    if own := plugin_types(config.to_dict()):
        print(
            f'WARNING: MMPretrain has no counterpart of {", ".join(own)}: the '
            'config still imports ltml_mm',
            file=sys.stderr,
        )
