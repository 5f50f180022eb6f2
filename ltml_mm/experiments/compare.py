"""Compares rows over seeds: ``tools/benchmarks/compare.py``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from functools import partial

from mmengine.config import Config

from ltml_cli import parse
from ltml_cli.result_parsers import PUBLISHED
from ltml_mm.experiments import runs, tuning
from ltml_mm.experiments.comparison_report import write_report
from ltml_mm.experiments.rows import Line, build_config, parse_line, parse_rows


def main(
    argv: Sequence[str] | None = None,
    change: Callable[[dict[str, Config]], None] | None = None,
) -> None:
    """Trains what is missing and writes the report.

    ``change`` changes the complete configs of the rows, by their names, in
    place, before anything is trained.
    """
    args = parse('compare', argv)
    lines, rows = parse_rows(args.rows)
    reference = parse_line(args.reference) if args.reference else lines[0]
    if reference not in lines:  # ahead of all the training
        raise ValueError(
            f'--reference {reference} is not among the rows of the table: '
            f'{", ".join(map(str, lines))}'
        )
    variants: dict[str, list[str]] = {}
    for line in lines:
        variants.setdefault(line.row, []).append(line.variant)
    configs = {row.name: build_config(row, args) for row in rows}
    searches = tuning.plan_searches(args, rows) if args.tune else []
    if args.dry_run:
        planned = runs.plan_runs(args, configs, args.seeds, variants)
        print_plan(args, planned, configs, searches)
        return
    make = partial(runs.make_runs, jobs=args.jobs)
    status, chosen = 130, not searches
    with suppress(KeyboardInterrupt):
        if searches:
            if change is not None:  # Of all images, as the rows' own are.
                change(deepcopy(configs))
            print(f'choosing {searches[0].key} of {len(rows)} rows')
            tuning.tune_rows(args, searches, make, change)
            tuned = [s.tuned() for s in searches if s.best is not None]
            configs = {row.name: build_config(row, args) for row in tuned}
        chosen = True
        if change is not None and configs:
            change(configs)
        planned = runs.plan_runs(args, configs, args.seeds, variants)
        failed = make(planned, configs)
        status = 1 if failed or len(configs) < len(rows) else 0
    if chosen:
        report(args, lines, reference, searches)
    else:  # What lies in --out may have been made with other values.
        tuning.write_tuning(args, searches)
        print(f'stopped while it chose: {args.out / "tuning.csv"}')
    if status:
        sys.exit(status)


def report(
    args: argparse.Namespace,
    lines: list[Line],
    reference: Line,
    searches: list[tuning.Search],
) -> None:
    """Writes what is there, and prints the table and where it lies."""
    chosen = {search.row.name: search.best for search in searches}
    notes = ''
    if searches:
        tuning.write_tuning(args, searches)
        notes = tuning.render_choices(args, searches)
    written = write_report(
        args.out, lines, args.seeds, reference, args.title, chosen, notes
    )
    print((args.out / 'table.md').read_text(encoding='utf-8'))
    if searches:
        written.append(args.out / 'tuning.csv')
    print(f'written: {", ".join(map(str, written))}')


def print_plan(
    args: argparse.Namespace,
    planned: list[runs.Run],
    configs: dict[str, Config],
    searches: list[tuning.Search],
) -> None:
    """Lists runs and their configs; writes those that no file holds."""
    for search in searches:
        for value in search.given:
            name = search.row_of(value).name
            for seed in args.tune_seeds:
                folder = runs.run_folder(args.out / tuning.FOLDER, name, seed)
                print(folder, f'{search.key}={value}')
    for run in planned:
        path = configs[run.row].filename
        if searches:
            path = f'{searches[0].key} as chosen'
        elif args.data not in PUBLISHED:
            path = run.folder / runs.CONFIG
            if not (run.folder / runs.RUN).exists():
                runs.write_config(run, configs[run.row])
        print(run.folder, path)
