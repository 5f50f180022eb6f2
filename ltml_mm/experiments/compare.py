"""The logic of ``tools/benchmarks/compare.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.registry import init_default_scope

from ltml_mm.experiments.cache_checks import check_rows
from ltml_mm.experiments.cached_trunk import make_cache
from ltml_mm.experiments.comparison_report import parse_table, write_report
from ltml_mm.experiments.rows import (
    DATA_SETS,
    ONE_BRANCH_VARIANTS,
    ROWS,
    Row,
    label_of,
    parse_row,
    write_config,
)
from ltml_mm.experiments.run_config import Plan, planned_config
from ltml_mm.experiments.runs import make_runs, plan_runs, run_folder

#: The rows in the picture of the classes, where the table has them.
PICTURED = ('ltml', 'erm', 'rs')
CONFIGS = Path(__file__).parents[2] / 'configs'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Train and test rows of the tables with several seeds. '
        'Runs what is missing under --out, then writes runs.csv, table.md '
        'and pictures there. Start it again after it was killed.'
    )
    parser.add_argument(
        '--data',
        choices=DATA_SETS,
        required=True,
        help='which set of configs; custom is any JSON set, with '
        '--cfg-options data_root=FOLDER',
    )
    parser.add_argument(
        '--rows',
        nargs='+',
        default=list(ROWS),
        metavar='ROW',
        help=f'{", ".join(ROWS)}; ROW+VARIANT (flip, probs, uniform, '
        'rebalanced, merged, merged_bn) adds another test of the row; '
        'NAME=ROW,KEY=VALUE[,KEY=VALUE...] trains a changed row',
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4]
    )
    parser.add_argument(
        '--jobs', type=int, default=1, help='runs at a time (default: 1)'
    )
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--reference',
        help='row that the others are compared with (default: the first)',
    )
    parser.add_argument(
        '--title', default='Comparison', help='of the table and pictures'
    )
    parser.add_argument(
        '--images-per-step',
        type=int,
        help="images of a step, over all streams (default: the configs', 64)",
    )
    parser.add_argument(
        '--epoch-images',
        type=int,
        help='images of an epoch, over all streams (default: as configured; '
        'a row that overrides its epoch length keeps it)',
    )
    parser.add_argument(
        '--cache-trunk',
        type=Path,
        metavar='FOLDER',
        help='freeze all stages but the last of a ResNet and train from '
        'features that are computed once, into this folder',
    )
    parser.add_argument(
        '--views',
        type=int,
        default=6,
        help='augmented views of a training image in the cache (default: 6)',
    )
    parser.add_argument(
        '--keep-checkpoints',
        action='store_true',
        help='keep the last checkpoint of every run',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='overrides of the configs of all rows',
    )
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only list the runs; configs of rows that the set has no file of '
        'are written',
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f'--jobs must be positive, got {args.jobs}')
    for name in ('views', 'images_per_step', 'epoch_images'):
        value = getattr(args, name)
        if value is not None and value < 1:
            flag = name.replace('_', '-')
            parser.error(f'--{flag} must be positive, got {value}')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Compares."""
    args = parse_args(argv)
    specs, rows = parse_rows(args.rows, args.data)
    reference = args.reference or specs[0]
    parse_table(specs, reference)  # ahead of all the training
    rows = [write_config(row, args.data, args.out) for row in rows]
    plans = plan_runs(rows, args.seeds, base_plan(args))
    if args.dry_run:
        for plan in plans:
            print(run_folder(args.out, plan), plan.config, *plan.overrides)
        return
    if args.cache_trunk is not None:
        share_cache(plans, args.cache_trunk, args.views)
    status = 0
    try:
        if make_runs(args.out, plans, args.jobs):
            status = 1
    except KeyboardInterrupt:
        status = 130
    write_report(
        args.out,
        specs,
        args.seeds,
        reference,
        title=args.title,
        labels={spec: label_of(spec) for spec in specs},
        pictured=[row for row in PICTURED if row in specs],
    )
    if status:
        sys.exit(status)


def share_cache(plans: Sequence[Plan], folder: Path, views: int) -> None:
    """Computes the features that all rows train from, or checks them.

    Args:
        plans: The runs.
        folder: The cache.
        views: Augmented views of a training image.

    Raises:
        ValueError: The rows need different features, or the folder holds
            others.
    """
    by_row = {plan.row: plan for plan in plans}
    configs = {row: planned_config(plan) for row, plan in by_row.items()}
    cfg = configs[plans[0].row]
    init_default_scope(cfg.default_scope)
    check_rows(configs, views)
    make_cache(cfg, folder, views)


def parse_rows(texts: Sequence[str], data: str) -> tuple[list[str], list[Row]]:
    """Reads ``--rows``.

    Args:
        texts: As given: ``ROW``, ``NAME=ROW,KEY=VALUE...``, or either's name
            with ``+VARIANT``.
        data: The set of configs.

    Returns:
        tuple: The lines of the table, and the rows to train.

    Raises:
        ValueError: A row is unknown, broken or given twice, or has no such
            variant.
    """
    specs: list[str] = []
    rows: dict[str, Row] = {}
    for text in texts:
        spec, changed, _ = text.partition('=')
        name, _, variant = spec.partition('+')
        if spec in specs:
            raise ValueError(f'--rows names {spec} twice')
        specs.append(spec)
        if changed or name not in rows:
            rows[name] = parse_row(text if changed else name, data, CONFIGS)
        if not rows[name].two_branches and variant not in ONE_BRANCH_VARIANTS:
            raise ValueError(
                f'--rows {text}: {name} has one branch, and no {variant}'
            )
    return specs, [*rows.values()]


def base_plan(args: argparse.Namespace) -> Plan:
    """What all runs have in common."""
    cache = args.cache_trunk
    return Plan(
        row='',
        seed=0,
        set=args.data,
        config='',
        options=list(args.cfg_options),
        overrides=[],
        images_per_step=args.images_per_step,
        epoch_images=args.epoch_images,
        cache=None if cache is None else str(cache.resolve()),
        views=args.views,
        keep_checkpoints=args.keep_checkpoints,
        config_digest='',
    )
