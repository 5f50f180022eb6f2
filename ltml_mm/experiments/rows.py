"""The rows of a comparison: their configs, and the lines of the tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ltml_mm.apis.cli import parse_cfg_options
from ltml_mm.apis.config import read_config

CONFIGS = Path(__file__).parents[2] / 'configs'
#: The paper's rows, in the order of its tables, by the name of their config.
ROWS = {
    'erm': 'baselines/{data}_uniform_bce.py',
    'rs': 'baselines/{data}_class_aware_bce.py',
    'rw': 'baselines/{data}_reweighted_bce.py',
    'focal': 'baselines/{data}_focal.py',
    'cb_focal': 'baselines/{data}_class_balanced_focal.py',
    'ldam': 'baselines/{data}_ldam.py',
    'db_focal': 'baselines/{data}_distribution_balanced_focal.py',
    'asl': 'baselines/{data}_asymmetric.py',
    'uniform_branch': 'ablations/{data}_uniform_branch.py',
    'rebalanced_branch': 'ablations/{data}_rebalanced_branch.py',
    'two_branches': 'ablations/{data}_two_branches.py',
    'consistency': 'ablations/{data}_two_branches_consistency.py',
    'ltml': 'ltml_{data}.py',
}
#: What they are called in tables.
LABELS = {
    'erm': 'ERM (BCE, uniform)',
    'rs': 'RS (BCE, class-aware)',
    'rw': 'RW (re-weighted BCE)',
    'focal': 'Focal',
    'cb_focal': 'CB-Focal',
    'ldam': 'LDAM',
    'db_focal': 'DB-Focal',
    'asl': 'ASL',
    'uniform_branch': 'uniform branch alone',
    'rebalanced_branch': 're-balanced branch alone',
    'two_branches': 'both branches',
    'consistency': '+ consistency',
    'ltml': 'LTML (+ compensation)',
}
TWO_BRANCH_ROWS = ('two_branches', 'consistency', 'ltml')
PLAIN = 'fused'
#: The tests of a row, and what they are called in tables.
VARIANTS = {
    PLAIN: '',
    'flip': 'flip test',
    'probs': 'probabilities fused',
    'uniform': 'its uniform branch',
    'rebalanced': 'its re-balanced branch',
    'merged': 'merged',
    'merged_bn': 'merged, BatchNorm anew',
}
#: The tests that a row of one branch has, too.
ONE_BRANCH_VARIANTS = (PLAIN, 'flip')
#: The data sets that have a config of every row; the others have LTML's alone.
PUBLISHED = ('voc', 'coco')
DATA_SETS = (*PUBLISHED, 'demo', 'custom')
#: Features of the demo's backbone.
DEMO_CHANNELS = 256


@dataclass(frozen=True)
class Row:
    """A method that is trained.

    Attributes:
        name: What the row is called, and its folder.
        base: The name in :data:`ROWS`.
        overrides: What this row changes in the config of its base.
    """

    name: str
    base: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of the tables: a row, and one of its tests.

    Attributes:
        row: Name of the row.
        variant: One of :data:`VARIANTS`.
    """

    row: str
    variant: str = PLAIN

    def __str__(self) -> str:
        plain = self.variant == PLAIN
        return self.row if plain else f'{self.row}+{self.variant}'

    @property
    def label(self) -> str:
        """What the line is called; rows of one's own keep their name."""
        name = LABELS.get(self.row, self.row)
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
        ValueError: A row is unknown, broken or given twice, or has no such
            variant.

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
        if changed or line.row not in rows:
            rows[line.row] = _parse_row(line.row, text if changed else '')
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
    base, *overrides = re.split(r',(?=[\w.]+=)', rest) if changed else [name]
    if base not in ROWS or (changed and (not overrides or name in ROWS)):
        raise ValueError(
            f'--rows {text or name}: expected one of {", ".join(ROWS)}, or a '
            'changed row with a name of its own, '
            'NAME=ROW,KEY=VALUE[,KEY=VALUE...]'
        )
    return Row(name, base, parse_cfg_options(overrides))


def row_config(base: str, data: str) -> Config:
    """Reads the config of a row.

    Only the published sets have a file for every row. Elsewhere data,
    schedule and backbone are those of the set's LTML config, and all that
    makes the row is that of its VOC-LT config.

    Args:
        base: One of :data:`ROWS`.
        data: One of :data:`DATA_SETS`.

    Returns:
        Config: The config as it stands, not yet completed from the data.
    """
    if base == 'ltml' or data in PUBLISHED:
        return _read(base, data)
    cfg, row = _read('ltml', data), _read(base, 'voc')
    own, cfg.model = cfg.model, row.model
    cfg.model.backbone = own.backbone
    _set_num_classes(cfg.model, own.num_classes)
    if data == 'demo' and 'head' in cfg.model:
        cfg.model.head.in_channels = DEMO_CHANNELS
    for key in ('tta_model', 'auto_scale_lr'):
        cfg[key] = row[key]
    for key in ('batch_size', 'sampler'):
        cfg.train_dataloader[key] = row.train_dataloader[key]
    return cfg


def _read(base: str, data: str) -> Config:
    return read_config(CONFIGS / ROWS[base].format(data=data))


def _set_num_classes(node: Any, num_classes: int | None) -> None:
    if 'num_classes' in node:
        node['num_classes'] = num_classes
    for value in node.values():
        if isinstance(value, Mapping):
            _set_num_classes(value, num_classes)
