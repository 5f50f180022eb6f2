"""The config of a run, and the hash of all that its result depends on."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ltml_mm._stack import find_stack
from ltml_mm.apis.cli import prepare_config
from ltml_mm.apis.config import (
    complete_config,
    dataset_configs,
    override,
)
from ltml_mm.experiments.rows import Row, row_config
from ltml_mm.files import file_sha256, write_json, write_text
from ltml_mm.version import __version__

#: What a run's folder holds: the run, its config, and at the end the result.
RUN, CONFIG, RESULT = 'run.json', 'config.py', 'result.json'
BATCH_SIZE = 'train_dataloader.batch_size'
EPOCH_LENGTH = 'train_dataloader.sampler.epoch_length'
#: What the comparison itself sets.
TAKEN = ('randomness.seed', 'work_dir', 'resume')
#: Entries that change where a run lies and how it is loaded, not its result.
NOT_HASHED = (
    'allow_outside',
    'data_prefix',
    'data_root',
    'default_hooks',
    'experiment_name',
    'launcher',
    'log_level',
    'num_workers',
    'persistent_workers',
    'pin_memory',
    'prefetch_factor',
    'randomness',
    'vis_backends',
    'visualizer',
    'work_dir',
)
#: Entries that name a file, which counts by its content.
WEIGHTS = ('checkpoint', 'load_from')


@dataclass(frozen=True)
class Run:
    """A row trained with one seed.

    Attributes:
        folder: See :func:`run_folder`.
        row: Name of the row.
        seed: Seed of the weights, the samplers and the augmentation.
        set: Name of the data set.
        keep_checkpoints: Whether the last checkpoint stays.
        config_hash: See :func:`config_hash`.
    """

    folder: Path
    row: str
    seed: int
    set: str
    keep_checkpoints: bool
    config_hash: str


def run_folder(out: Path, row: str, seed: int) -> Path:
    """Returns the folder of a run."""
    return out / row / f'seed_{seed}'


def build_config(
    row: Row,
    data: str,
    cfg_options: Mapping[str, Any],
    images_per_step: int | None = None,
    epoch_images: int | None = None,
) -> Config:
    """Builds the config of a row's trainings, complete but for the seed.

    Args:
        row: The row.
        data: Name of the data set.
        cfg_options: Overrides of all rows.
        images_per_step: Images of a step, over all streams; None leaves the
            config's. A row that overrides its batch size keeps its own.
        epoch_images: Images of an epoch, likewise.

    Returns:
        Config: The config, without a validation.

    Raises:
        FileNotFoundError: A config or a file of the data does not exist.
        ValueError: A config or an override is broken, an override sets what
            the comparison sets, or the streams cannot share the images.
    """
    cfg = row_config(row.base, data)
    for key, value in {**cfg_options, **row.overrides}.items():
        if key in TAKEN:
            raise ValueError(
                f'--cfg-options {key}: the comparison sets it; see --seeds '
                'and --out'
            )
        override(cfg, key, value)
    complete_config(cfg)
    streams = len(cfg.train_dataloader.sampler.streams)
    for flag, images, key in (
        ('images-per-step', images_per_step, BATCH_SIZE),
        ('epoch-images', epoch_images, EPOCH_LENGTH),
    ):
        if images is None or key in row.overrides:
            continue
        if images % streams:
            raise ValueError(
                f'--{flag} {images} must be a multiple of {streams}, the '
                f'streams of row {row.name}'
            )
        cfg.merge_from_dict({key: images // streams})
    # The last epoch is the result, and is tested on its own.
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def config_hash(cfg: Config) -> str:
    """Hashes the config of a run, its annotations and its initial weights.

    Files count by their content. Folders, workers, hooks and the seed do not
    count.

    Args:
        cfg: The complete config of a training.

    Returns:
        str: The first 16 hexadecimal digits of the SHA-256.
    """
    content = _hashed(cfg.to_dict())
    content['files'] = [
        _content(Path(dataset.get('data_root', ''), dataset.ann_file))
        for dataset in dataset_configs(cfg)
        if dataset.get('ann_file')
    ]
    content['versions'] = [__version__, find_stack()]
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _hashed(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _content(value)
            if key in WEIGHTS and isinstance(value, str)
            else _hashed(value)
            for key, value in node.items()
            if key not in NOT_HASHED
        }
    if isinstance(node, (list, tuple)):
        return [_hashed(value) for value in node]
    return node


def _content(path: str | Path) -> str:
    """Returns a file's SHA-256, or the name of what is no file here."""
    if not Path(path).is_file():
        return str(path)
    return file_sha256(path)


def write_config(run: Run, cfg: Config) -> None:
    """Writes the ``config.py`` of a run, which stock tools train too.

    Args:
        run: The run.
        cfg: The config of its row.
    """
    cfg = deepcopy(cfg)
    args = dict(work_dir=str(run.folder / 'work'), launcher='none')
    prepare_config(cfg, argparse.Namespace(**args, local_rank=0))
    cfg.merge_from_dict({'randomness.seed': run.seed})
    cfg.experiment_name = f'{run.row} {run.seed}'
    write_text(run.folder / CONFIG, cfg.pretty_text)


def write_run(run: Run, cfg: Config) -> None:
    """Writes ``config.py`` and ``run.json``, all that a run needs."""
    write_config(run, cfg)
    write_json(run.folder / RUN, {**asdict(run), 'folder': str(run.folder)})


def read_run(folder: Path) -> Run:
    """Reads ``run.json``."""
    content = json.loads((folder / RUN).read_text())
    return Run(**{**content, 'folder': folder})
