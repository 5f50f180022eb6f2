"""The rows of a comparison, their configs, and the lines of the tables."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ltml_cli.options import config_folder, parse_cfg_options
from ltml_cli.result_parsers import PLAIN, PUBLISHED, RECIPES, ROWS, VARIANTS
from ltml_mm.apis import config
from ltml_mm.apis.learning_rate import fill_learning_rate
from ltml_mm.apis.overrides import apply_overrides

#: The rows of the two-branch network.
TWO_BRANCH_ROWS = ('two_branches', 'consistency', 'ltml', *RECIPES)
ALL_ROWS = {**ROWS, **RECIPES}
#: The tests that a row of one branch has, too.
ONE_BRANCH_VARIANTS = (PLAIN, 'flip', 'bn')
#: Arguments that count the images of all streams, and their entries.
IMAGE_OPTIONS = {
    'images_per_step': 'train_dataloader.batch_size',
    'epoch_images': 'train_dataloader.sampler.epoch_length',
}
#: What the comparison itself sets.
RESERVED_KEYS = ('randomness.seed', 'work_dir', 'resume')


@dataclass(frozen=True)
class Row:
    """A method that is trained: one of :data:`ROWS` with overrides."""

    name: str
    base: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of the tables: a row, and which of :data:`VARIANTS`."""

    row: str
    variant: str = PLAIN

    def __str__(self) -> str:
        return f'{self.row}+{self.variant}'.removesuffix(f'+{PLAIN}')

    @property
    def label(self) -> str:
        """What the line is called; rows of one's own keep their name."""
        _, name = ALL_ROWS.get(self.row, ('', self.row))
        if self.variant == PLAIN:
            return name
        return f'{name.partition(" (")[0]}, {VARIANTS[self.variant]}'


def parse_rows(texts: Sequence[str]) -> tuple[list[Line], list[Row]]:
    """Reads ``--rows``.

    Args:
        texts: ``ROW``, a name of :data:`ROWS`; a changed row,
            ``NAME=ROW,KEY=VALUE[,KEY=VALUE...]``; or either's name with
            ``+VARIANT``.

    Returns:
        tuple: The lines of the table, and the rows to train.

    Raises:
        ValueError: A row is unknown, broken, given twice or lacks a variant.

    Examples:
        >>> parse_rows(['sum=ltml,model.fuse=probs'])[1]
        [Row(name='sum', base='ltml', overrides={'model.fuse': 'probs'})]
    """
    lines: list[Line] = []
    rows: dict[str, Row] = {}
    for text in texts:
        name, changed, _ = text.partition('=')
        line = parse_line(name)
        if line in lines or (changed and line.row in rows):
            raise ValueError(f'--rows names {line} twice')
        lines.append(line)
        if line.row not in rows:
            rows[line.row] = _parse_row(line.row, text)
        two_branches = rows[line.row].base in TWO_BRANCH_ROWS
        if not two_branches and line.variant not in ONE_BRANCH_VARIANTS:
            raise ValueError(
                f'--rows {text}: {line.row} has one branch, and no '
                f'{line.variant}'
            )
    return lines, [*rows.values()]


def parse_line(text: str) -> Line:
    """Reads the name of a line, ``ROW`` or ``ROW+VARIANT``.

    Raises:
        ValueError: The row's name cannot be a folder's, or there is no such
            variant.

    Examples:
        >>> parse_line('ltml+flip'), parse_line('focal+flip').label
        (Line(row='ltml', variant='flip'), 'Focal, flip test')
    """
    row, plus, variant = text.partition('+')
    if not re.fullmatch(r'\w[\w-]*', row):
        raise ValueError(
            f'--rows {text}: the name of a row has letters, digits, _ and -; '
            f'got {row!r}'
        )
    if plus and variant not in VARIANTS:
        raise ValueError(
            f'--rows {text}: no variant {variant!r}; there are '
            f'{", ".join(VARIANTS)}'
        )
    return Line(row, variant or PLAIN)


def _parse_row(name: str, text: str) -> Row:
    """Reads a row, or a changed one from ``NAME=ROW,KEY=VALUE...``."""
    _, changed, rest = text.partition('=')
    # Commas in lists stand ahead of no KEY=.
    base, *overrides = re.split(r',(?=[\w.]+=)', rest if changed else name)
    if base not in ALL_ROWS or (
        changed and (not overrides or name in ALL_ROWS)
    ):
        raise ValueError(
            f'--rows {text}: expected one of {", ".join(ALL_ROWS)}, or a '
            'changed row with a name of its own, '
            'NAME=ROW,KEY=VALUE[,KEY=VALUE...]'
        )
    return Row(name, base, parse_cfg_options(overrides))


def row_config(base: str, data: str) -> Config:
    """Reads the config of a row, not yet completed from the data.

    Only the published sets have a file for every row. Elsewhere data,
    schedule and backbone come from the set's LTML config, all else from the
    row's VOC-LT config.
    """
    if base in RECIPES and data != 'custom':
        raise ValueError(
            f'row {base} is of --data custom alone: give the set there, as '
            'data_root'
        )
    if base in RECIPES or base == 'ltml' or data in PUBLISHED:
        return config.read_config(config_file(base, data))
    cfg = config.read_config(config_file('ltml', data))
    row = config.read_config(config_file(base, 'voc'))
    own, cfg.model = cfg.model, row.model
    cfg.model.backbone = own.backbone
    for part in config.config_parts(cfg.model):
        if 'num_classes' in part:
            part.num_classes = own.num_classes
    if data == 'demo' and 'head' in cfg.model:
        # The features of a ResNet-18.
        cfg.model.head.in_channels = 8 * own.backbone.base_channels
    for key in ('tta_model', 'auto_scale_lr'):
        cfg[key] = row[key]
    for key in ('batch_size', 'sampler'):
        cfg.train_dataloader[key] = row.train_dataloader[key]
    return cfg


def config_file(base: str, data: str) -> Path:
    """Returns the config file of a row; most sets have that of LTML alone."""
    return config_folder() / f'{ALL_ROWS[base][0].format(data)}.py'


def build_config(row: Row, args: argparse.Namespace) -> Config:
    """Builds the config of a row's trainings, complete but for the seed.

    An entry that the row overrides stays its own. There is no validation
    unless that decides.

    Raises:
        FileNotFoundError: A config or a file of the data does not exist.
        ValueError: A config or an override is broken, an override sets what
            the comparison sets, or the streams cannot share the images.
    """
    cfg = row_config(row.base, args.data)
    options = {**(args.cfg_options or {}), **row.overrides}
    for key in options:
        if key in RESERVED_KEYS:
            raise ValueError(
                f'--cfg-options {key}: the comparison sets it; see --seeds '
                'and --out'
            )
    for name, key in IMAGE_OPTIONS.items():
        if key in (args.cfg_options or {}):
            raise ValueError(
                f'--cfg-options {key} counts pairs in some rows and images in '
                f'others: give --{name.replace("_", "-")}, in images'
            )
    apply_overrides(cfg, options)
    # Ahead of what follows from the data and the images of a step.
    streams = len(cfg.train_dataloader.sampler.streams)
    for name, key in IMAGE_OPTIONS.items():
        images = getattr(args, name)
        if images is None or key in row.overrides:
            continue
        if images % streams:
            raise ValueError(
                f'--{name.replace("_", "-")} {images} must be a multiple of '
                f'{streams}, the streams of row {row.name}'
            )
        cfg.merge_from_dict({key: images // streams})
    config.complete_config(cfg)
    if args.data == 'custom':
        config.fit_to_data(cfg)  # As train.py does, ahead of the rate.
    # Named in the config, so that the hash of the run depends on it.
    fill_learning_rate(cfg)
    if not chooses(cfg):
        # The last epoch is the result, and is tested on its own.
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def chooses(cfg: Config) -> bool:
    """Whether a validation decides which checkpoint is the result."""
    default = cfg.get('default_hooks') or {}
    hooks = [*default.values(), *(cfg.get('custom_hooks') or ())]
    return any(
        hook.get('save_best') or hook.get('type') == 'EarlyStoppingHook'
        for hook in hooks
        if isinstance(hook, Mapping)
    )
