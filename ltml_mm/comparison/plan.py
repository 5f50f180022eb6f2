"""What a run of a comparison is."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mmengine.config import Config

from ltml_mm.utils import write_json


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


def set_steps(cfg: Config, plan: Plan) -> None:
    """Gives all rows as many images a step and an epoch, in place.

    A row that overrides its batch size or epoch length keeps its own.

    Args:
        cfg: The config of a training.
        plan: Holds the images, which are shared out over the streams.

    Raises:
        ValueError: They do not divide by the streams.
    """
    loader = cfg.train_dataloader
    streams = len(loader.sampler.streams)
    own = {override.partition('=')[0] for override in plan.overrides}
    for name, section, key in (
        ('images_per_step', loader, 'batch_size'),
        ('epoch_images', loader.sampler, 'epoch_length'),
    ):
        images = getattr(plan, name)
        path = 'train_dataloader.' + ('sampler.' if key[0] == 'e' else '')
        if images is None or path + key in own:
            continue
        if images % streams:
            raise ValueError(
                f'{name} = {images} cannot be shared by {streams} streams'
            )
        section[key] = images // streams
