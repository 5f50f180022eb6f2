"""The rows of a comparison: which config, with what changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
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
#: The tests that a row of one branch has.
ONE_BRANCH_VARIANTS = ('', 'flip')
DATA_SETS = ('voc', 'coco', 'demo', 'custom')


@dataclass(frozen=True)
class Row:
    """A row to train.

    Attributes:
        name: What the row is called, and its folder.
        config: The config file.
        overrides: Its own overrides, ``KEY=VALUE``.
        two_branches: Whether it has two.
    """

    name: str
    config: Path
    overrides: tuple[str, ...] = ()
    two_branches: bool = False


def parse_row(text: str, data: str, configs: Path) -> Row:
    """Reads one of ``--rows``.

    Args:
        text: ``ROW``, a name of :data:`ROWS`, or a changed row:
            ``NAME=ROW,KEY=VALUE[,KEY=VALUE...]``.
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
    if not re.fullmatch(r'\w[\w-]*', name) or (changed and name in ROWS):
        raise ValueError(
            f'--rows {text}: the name of a changed row has letters, digits, _ '
            f'and -, and is none of {", ".join(ROWS)}; got {name!r}'
        )
    config = configs / ROWS[base].format(data=data)
    return Row(name, config, tuple(overrides), base in TWO_BRANCH_ROWS)


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
    short = name.partition(' (')[0]
    return f'{short}, {VARIANT_LABELS.get(variant, variant)}'
