"""What a run of a comparison is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.config import Config

from ltml_mm.apis.cli import parse_cfg_options
from ltml_mm.apis.config import load_config
from ltml_mm.experiments.digest import digest
from ltml_mm.files import write_json

#: What the images of a step and of an epoch set in a config.
BATCH_SIZE = 'train_dataloader.batch_size'
EPOCH_LENGTH = 'train_dataloader.sampler.epoch_length'


@dataclass(frozen=True)
class Plan:
    """What a run is.

    Attributes:
        row: Name of the row.
        seed: Seed of the weights, the samplers and the augmentation.
        set: Name of the data set.
        config: The config file.
        options: Overrides of every row, ``KEY=VALUE``.
        overrides: Overrides of this row.
        images_per_step: Images of a step, over all streams; None leaves the
            config's.
        epoch_images: Images of an epoch, likewise.
        cache: Folder of the cached features, or None.
        views: Cached views of a training image.
        keep_checkpoints: Whether the last checkpoint stays.
        config_digest: Stands for all of the above but seed and folders.
    """

    row: str
    seed: int
    set: str
    config: str
    options: list[str]
    overrides: list[str]
    images_per_step: int | None
    epoch_images: int | None
    cache: str | None
    views: int
    keep_checkpoints: bool
    config_digest: str


def write_plan(folder: Path, plan: Plan) -> None:
    """Writes ``run.json``.

    Args:
        folder: Of the run.
        plan: What it is.
    """
    write_json(folder / 'run.json', asdict(plan))


def read_plan(folder: Path) -> Plan:
    """Reads ``run.json``.

    Args:
        folder: Of the run.

    Returns:
        Plan: What it is.
    """
    return Plan(**json.loads((folder / 'run.json').read_text()))


def planned_config(plan: Plan) -> Config:
    """Reads the config of a run, with all that the plan changes in it.

    Args:
        plan: The run.

    Returns:
        Config: That of its training.

    Raises:
        FileNotFoundError: The config or a file of the data does not exist.
        ValueError: The config or an override is broken, or the streams
            cannot share the images.
    """
    options = parse_cfg_options([*plan.options, *plan.overrides])
    cfg = load_config(plan.config, options)
    set_steps(cfg, plan)
    return cfg


def planned_digest(plan: Plan) -> str:
    """Stands for what a run depends on, as the files are now.

    Args:
        plan: The run; its ``config_digest`` is not looked at.

    Returns:
        str: See :func:`~ltml_mm.experiments.digest.digest`.

    Raises:
        FileNotFoundError: See :func:`planned_config`.
        ValueError: Likewise.
    """
    views = None if plan.cache is None else plan.views
    return digest(planned_config(plan), views)


def set_steps(cfg: Config, plan: Plan) -> None:
    """Gives all rows as many images a step and an epoch, in place.

    A row that overrides its batch size or epoch length keeps its own.

    Args:
        cfg: The config of a training.
        plan: Holds the images, which are shared out over the streams.

    Raises:
        ValueError: They do not divide by the streams.
    """
    streams = len(cfg.train_dataloader.sampler.streams)
    own = {override.partition('=')[0] for override in plan.overrides}
    for flag, images, path in (
        ('images-per-step', plan.images_per_step, BATCH_SIZE),
        ('epoch-images', plan.epoch_images, EPOCH_LENGTH),
    ):
        if images is None or path in own:
            continue
        if images % streams:
            raise ValueError(
                f'--{flag} {images} must be a multiple of {streams}, the '
                f'streams of row {plan.row}'
            )
        cfg.merge_from_dict({path: images // streams})
