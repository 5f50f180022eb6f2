"""Compares rows over seeds: ``tools/benchmarks/compare.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config

from ltml_mm.apis.cli import add_cfg_options
from ltml_mm.experiments import runs
from ltml_mm.experiments.comparison_report import write_report
from ltml_mm.experiments.rows import (
    DATA_SETS,
    PUBLISHED,
    ROWS,
    VARIANTS,
    build_config,
    parse_line,
    parse_rows,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description='Train and test rows of the tables with several seeds. '
        'Runs what is missing under --out, then writes runs.csv, table.md '
        'and groups.png there. Start it again after it was killed.'
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
        help=f'{", ".join(ROWS)}; ROW+VARIANT '
        f'({", ".join([*VARIANTS][1:])}) adds another test of the row; '
        'NAME=ROW,KEY=VALUE[,KEY=VALUE...] trains a changed row',
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4]
    )
    parser.add_argument(
        '--jobs', type=_positive, default=1, help='runs at a time (default: 1)'
    )
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument(
        '--reference',
        help='row that the others are compared with (default: the first)',
    )
    parser.add_argument(
        '--title', default='Comparison', help='of the table and picture'
    )
    parser.add_argument(
        '--images-per-step',
        type=_positive,
        help="images of a step, over all streams (default: the configs', 64)",
    )
    parser.add_argument(
        '--epoch-images',
        type=_positive,
        help='images of an epoch, over all streams (default: as configured; '
        'a row that overrides its epoch length keeps it)',
    )
    parser.add_argument(
        '--keep-checkpoints',
        action='store_true',
        help='keep the last checkpoint of every run',
    )
    add_cfg_options(parser)
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only list the runs; for demo and custom also write the config '
        'of each',
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be positive, got {text}')
    return int(text)


def main(
    argv: Sequence[str] | None = None,
    change: Callable[[dict[str, Config]], None] | None = None,
) -> None:
    """Trains what is missing and writes the report.

    Args:
        argv: The command line.
        change: Changes the complete configs of the rows, by their names, in
            place, before anything is trained.
    """
    args = parse_args(argv)
    lines, rows = parse_rows(args.rows)
    reference = parse_line(args.reference) if args.reference else lines[0]
    if reference not in lines:  # ahead of all the training
        raise ValueError(
            f'--reference {reference} is not among the rows of the table: '
            f'{", ".join(map(str, lines))}'
        )
    configs = {row.name: build_config(row, args) for row in rows}
    if args.dry_run:
        for run in plan_runs(args, configs):
            path = configs[run.row].filename
            if args.data not in PUBLISHED:
                path = run.folder / runs.CONFIG
                if not (run.folder / runs.RUN).exists():
                    runs.write_config(run, configs[run.row])
            print(run.folder, path)
        return
    if change is not None:
        change(configs)
    status = 130
    with suppress(KeyboardInterrupt):
        failed = runs.make_runs(plan_runs(args, configs), configs, args.jobs)
        status = 1 if failed else 0
    write_report(args.out, lines, args.seeds, reference, args.title)
    if status:
        sys.exit(status)


def plan_runs(
    args: argparse.Namespace, configs: dict[str, Config]
) -> list[runs.Run]:
    """Lists the runs, seed by seed, so that every row has some early."""
    hashes = {row: runs.config_hash(cfg) for row, cfg in configs.items()}
    return [
        runs.Run(
            folder=runs.run_folder(args.out, row, seed),
            row=row,
            seed=seed,
            set=args.data,
            keep_checkpoints=args.keep_checkpoints,
            config_hash=found,
        )
        for seed in args.seeds
        for row, found in hashes.items()
    ]
