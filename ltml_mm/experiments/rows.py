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
VARIANT_LABELS = {
    'flip': 'flip test',
    'probs': 'probabilities fused',
    'uniform': 'its uniform branch',
    'rebalanced': 'its re-balanced branch',
    'merged': 'merged',
    'merged_bn': 'merged, BatchNorm anew',
}
TWO_BRANCH_ROWS = ('two_branches', 'consistency', 'ltml')
#: The tests of a row of two branches; a row of one branch has the first two.
VARIANTS = (
    'fused',
    'flip',
    'probs',
    'uniform',
    'rebalanced',
    'merged',
    'merged_bn',
)
ONE_BRANCH_VARIANTS = VARIANTS[:2]
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
    variant: str = VARIANTS[0]

    def __str__(self) -> str:
        plain = self.variant == VARIANTS[0]
        return self.row if plain else f'{self.row}+{self.variant}'

    @property
    def label(self) -> str:
        """What the line is called; rows of one's own keep their name."""
        name = LABELS.get(self.row, self.row)
        if self.variant == VARIANTS[0]:
            return name
        return f'{name.partition(" (")[0]}, {VARIANT_LABELS[self.variant]}'


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
    """
    lines: list[Line] = []
    rows: dict[str, Row] = {}
    for text in texts:
        line = parse_line(text.partition('=')[0])
        if line in lines:
            raise ValueError(f'--rows names {line} twice')
        lines.append(line)
        if '=' in text or line.row not in rows:
            rows[line.row] = parse_row(text if '=' in text else line.row)
        two_branches = rows[line.row].base in TWO_BRANCH_ROWS
        if not two_branches and line.variant not in ONE_BRANCH_VARIANTS:
            raise ValueError(
                f'--rows {text}: {line.row} has one branch, and no '
                f'{line.variant}'
            )
    return lines, [*rows.values()]


def parse_line(text: str) -> Line:
    """Reads the name of a line.

    Args:
        text: ``ROW`` or ``ROW+VARIANT``.

    Returns:
        Line: The line.

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
    return Line(row, variant or VARIANTS[0])


def parse_row(text: str) -> Row:
    """Reads a row.

    Args:
        text: ``ROW`` or ``NAME=ROW,KEY=VALUE[,KEY=VALUE...]``.

    Returns:
        Row: The row.

    Raises:
        ValueError: The row is unknown, or a changed row has no overrides or
            the name of another.

    Examples:
        >>> parse_row('sum=ltml,model.fuse=probs')
        Row(name='sum', base='ltml', overrides={'model.fuse': 'probs'})
    """
    name, changed, rest = text.partition('=')
    # Commas in lists stand ahead of no KEY=.
    base, *overrides = re.split(r',(?=[\w.]+=)', rest) if changed else [name]
    if base not in ROWS:
        raise ValueError(
            f'--rows {text}: {base!r} is none of {", ".join(ROWS)}; a '
            'changed row is NAME=ROW,KEY=VALUE[,KEY=VALUE...]'
        )
    if changed and not overrides:
        raise ValueError(
            f'--rows {text}: a changed row is NAME=ROW,KEY=VALUE[,KEY=VALUE]'
        )
    if changed and name in ROWS:
        raise ValueError(
            f'--rows {text}: a changed row needs a name of its own, none of '
            f'{", ".join(ROWS)}'
        )
    return Row(name, base, parse_cfg_options(overrides))


def row_files(base: str, data: str) -> list[Path]:
    """Names the config files that a row is made of.

    Args:
        base: One of :data:`ROWS`.
        data: One of :data:`DATA_SETS`.

    Returns:
        list[Path]: The row's own file, or LTML's file for the data set and
        the row's file for VOC-LT.
    """
    if base == 'ltml' or data in PUBLISHED:
        return [CONFIGS / ROWS[base].format(data=data)]
    return [
        CONFIGS / ROWS['ltml'].format(data=data),
        CONFIGS / ROWS[base].format(data='voc'),
    ]


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
    cfg, *row = map(read_config, row_files(base, data))
    if not row:
        return cfg
    own, cfg.model = cfg.model, row[0].model
    cfg.model.backbone = own.backbone
    _set_num_classes(cfg.model, own.num_classes)
    if data == 'demo' and 'head' in cfg.model:
        cfg.model.head.in_channels = DEMO_CHANNELS
    for key in ('tta_model', 'auto_scale_lr'):
        cfg[key] = row[0][key]
    for key in ('batch_size', 'sampler'):
        cfg.train_dataloader[key] = row[0].train_dataloader[key]
    return cfg


def _set_num_classes(node: Any, num_classes: int | None) -> None:
    if 'num_classes' in node:
        node['num_classes'] = num_classes
    for value in node.values():
        if isinstance(value, Mapping):
            _set_num_classes(value, num_classes)
