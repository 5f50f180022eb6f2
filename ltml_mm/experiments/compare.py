"""Compares rows over seeds: ``tools/benchmarks/compare.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from mmengine.config import Config

from ltml_cli import parse
from ltml_cli.result_parsers import PUBLISHED
from ltml_mm.experiments import runs
from ltml_mm.experiments.comparison_report import write_report
from ltml_mm.experiments.rows import (
    build_config,
    parse_line,
    parse_rows,
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    return parse('compare', argv)


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
