"""The rows of a comparison: which config, with what changed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from pprint import pformat
from typing import Any

from mmengine.config import Config

from ltml_mm.files import write_text

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
#: The channels of the last feature, where a set has LTML's config alone.
CHANNELS = {'demo': 256, 'custom': 2048}


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


def write_config(row: Row, data: str, out: Path) -> Row:
    """Writes the config of a row, where the set has no file of it.

    The demo set and custom ones have LTML's config alone. Another row takes
    data, schedule and backbone from there, and model, loss and samples from
    its config for VOC-LT.

    Args:
        row: The row.
        data: One of :data:`DATA_SETS`.
        out: The comparison's folder; the config goes into ``ROW`` in it.

    Returns:
        Row: The same one, with a config file that exists.
    """
    if row.config.is_file():
        return row
    path = (out / row.name / row.config.name).resolve()
    published = row.config.with_name(path.name.replace(data, 'voc', 1))
    found = Config.fromfile(published)
    cfg = Config.fromfile(row.config.parents[1] / f'ltml_{data}.py')
    model = found.model
    model.backbone = cfg.model.backbone
    _set_everywhere(model, 'num_classes', cfg.model.num_classes)
    _set_everywhere(model, 'in_channels', CHANNELS[data])
    for key in ('model', 'tta_model', 'auto_scale_lr'):
        cfg[key] = found[key]
    for key in ('batch_size', 'sampler'):
        cfg.train_dataloader[key] = found.train_dataloader[key]
    about = f'# {published.name} on the data of ltml_{data}.py, by compare.py.'
    entries = [
        f'{key} = {pformat(value, sort_dicts=False)}'
        for key, value in cfg.to_dict().items()
    ]
    write_text(path, '\n'.join([about, *entries, '']))
    return replace(row, config=path)


def _set_everywhere(node: Any, key: str, value: Any) -> None:
    """Replaces the values that a config and those within it have of a key."""
    if isinstance(node, dict):
        if key in node:
            node[key] = value
        for child in node.values():
            _set_everywhere(child, key, value)


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
