"""Command lines of the tools that make and read results."""

from __future__ import annotations

import argparse
from pathlib import Path

from ltml_cli.options import Parser, add_cfg_options, positive

#: The paper's rows in the order of its tables: config, and name in tables.
ROWS = {
    'erm': ('baselines/{}_uniform_bce', 'ERM (BCE, uniform)'),
    'rs': ('baselines/{}_class_aware_bce', 'RS (BCE, class-aware)'),
    'rw': ('baselines/{}_reweighted_bce', 'RW (re-weighted BCE)'),
    'focal': ('baselines/{}_focal', 'Focal'),
    'cb_focal': ('baselines/{}_class_balanced_focal', 'CB-Focal'),
    'ldam': ('baselines/{}_ldam', 'LDAM'),
    'db_focal': ('baselines/{}_distribution_balanced_focal', 'DB-Focal'),
    'asl': ('baselines/{}_asymmetric', 'ASL'),
    'uniform_branch': ('ablations/{}_uniform_branch', 'uniform branch alone'),
    'rebalanced_branch': (
        'ablations/{}_rebalanced_branch',
        're-balanced branch alone',
    ),
    'two_branches': ('ablations/{}_two_branches', 'both branches'),
    'consistency': ('ablations/{}_two_branches_consistency', '+ consistency'),
    'ltml': ('ltml_{}', 'LTML (+ compensation)'),
}
#: The plain test; of one branch, too: the CSVs of all runs have this word.
PLAIN = 'fused'
#: The tests of a row, and what they are called in tables.
VARIANTS = {
    PLAIN: '',
    'flip': 'flip test',
    'bn': 'BatchNorm anew',
    'probs': 'probabilities fused',
    'uniform': 'its uniform branch',
    'rebalanced': 'its re-balanced branch',
    'merged': 'merged',
    'merged_bn': 'merged, BatchNorm anew',
}
#: The data sets that have a config of every row; the others have LTML's alone.
PUBLISHED = ('voc', 'coco')
DATA_SETS = (*PUBLISHED, 'demo', 'custom')


def compare_parser() -> Parser:
    """Builds the parser of ``compare.py``."""
    parser = Parser(
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
        '--jobs', type=positive, default=1, help='runs at a time (default: 1)'
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
        type=positive,
        help="images of a step, over all streams (default: the configs', 64)",
    )
    parser.add_argument(
        '--epoch-images',
        type=positive,
        help='images of an epoch, over all streams (default: as configured; '
        'a row that overrides its epoch length keeps it)',
    )
    parser.add_argument(
        '--tune',
        action='append',
        metavar='KEY=V1,V2,...',
        help='choose the value of an entry of the config for every row, by '
        'total mAP on images that are held out, never on the test set, and '
        'past an edge of the values; x0.5,x1,x2 are factors of what the row '
        'has. Writes tuning.csv, too',
    )
    held = parser.add_mutually_exclusive_group()
    held.add_argument(
        '--tune-fraction',
        type=float,
        help='share of the training images to hold out for --tune, '
        'stratified by class (default: 0.3, or val.json where the set has it)',
    )
    held.add_argument(
        '--tune-on',
        metavar='val.json',
        help='annotation file to choose on in place of training images',
    )
    parser.add_argument(
        '--tune-seeds',
        nargs='+',
        type=int,
        default=[0],
        help='seeds of the runs that choose (default: 0)',
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
    return parser


def check_compare(parser: Parser, args: argparse.Namespace) -> None:
    """Checks that the options of the tuning fit together."""
    if not args.tune and (args.tune_fraction or args.tune_on):
        raise ValueError('--tune-fraction and --tune-on need --tune KEY=...')
    if args.tune_fraction is not None and not 0 < args.tune_fraction < 1:
        raise ValueError(
            '--tune-fraction must lie between 0 and 1, got '
            f'{args.tune_fraction}'
        )


def plot_log_parser() -> Parser:
    """Builds the parser of ``plot_log.py``."""
    parser = Parser(
        description='Draw the terms of the loss, the agreement of the '
        'branches and the mAP of the groups over a training'
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='[NAME=]DIR',
        help='work directory of a training; several are told apart by the '
        'style of their lines',
    )
    parser.add_argument('--out', required=True, help='PNG file to write')
    return parser
