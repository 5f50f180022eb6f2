"""The rows of a comparison: which config, with what changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

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
    'ltml': '+ compensation (LTML)',
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
DATA_SETS = ('voc', 'coco', 'demo', 'custom')


@dataclass(frozen=True)
class Row:
    """A row to train.

    Attributes:
        name: What the row is called, and its folder.
        config: The config file.
        overrides: Its own overrides, ``KEY=VALUE``.
        plain: The config of the same set with one stock branch, to which
            merged branches are tested; None for rows of one branch.
    """

    name: str
    config: Path
    overrides: tuple[str, ...] = ()
    plain: Path | None = None


def parse_row(text: str, data: str, configs: Path) -> Row:
    """Reads one of ``--rows``.

    Args:
        text: ``ROW``, a name of :data:`ROWS`, or a changed row:
            ``NAME=ROW,KEY=VALUE[,KEY=VALUE...]``. ``+VARIANT`` behind a
            name, as in tables, is read over: variants share a training.
        data: One of :data:`DATA_SETS`.
        configs: The folder of the configs.

    Returns:
        Row: The row.

    Raises:
        ValueError: The row is unknown or its name cannot be a folder's.

    Examples:
        >>> row = parse_row('sum=ltml,model.fuse=probs', 'voc', Path('c'))
        >>> row.name, row.config.as_posix(), row.overrides
        ('sum', 'c/ltml_voc.py', ('model.fuse=probs',))
    """
    name, separator, rest = text.partition('=')
    name = name.partition('+')[0]
    base, *overrides = rest.split(',') if separator else [name]
    if base not in ROWS:
        raise ValueError(
            f'--rows {text}: {base!r} is none of {", ".join(ROWS)}'
        )
    if not re.fullmatch(r'\w[\w-]*', name):
        raise ValueError(
            f'--rows {text}: a name has letters, digits, _ and -, got {name!r}'
        )
    broken = [item for item in overrides if '=' not in item]
    if broken or (separator and not overrides):
        raise ValueError(
            f'--rows {text}: a changed row is NAME=ROW,KEY=VALUE[,KEY=VALUE]'
        )
    row = Row(name, _config(base, data, configs), tuple(overrides))
    if base in TWO_BRANCH_ROWS:
        row = replace(row, plain=_config('erm', data, configs))
    return row


def label_of(spec: str) -> str:
    """Names a line of a table.

    Args:
        spec: ``ROW`` or ``ROW+VARIANT``; rows of one's own keep their name.

    Returns:
        str: Its name.

    Examples:
        >>> label_of('focal+flip'), label_of('mine')
        ('Focal, flip test', 'mine')
    """
    row, plus, variant = spec.partition('+')
    name = LABELS.get(row, row)
    if not plus:
        return name
    return f'{name}, {VARIANT_LABELS.get(variant, variant)}'


def _config(row: str, data: str, configs: Path) -> Path:
    return configs / ROWS[row].format(data=data)
