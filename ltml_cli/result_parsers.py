"""Command lines of the tools that make and read results."""

from __future__ import annotations

import argparse
from pathlib import Path

from ltml_cli.options import (
    Parser,
    add_cfg_options,
    add_config,
    check_checkpoint,
    find_config,
    positive,
)

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


def model_report_parser() -> Parser:
    """Builds the parser of ``model_report.py``."""
    parser = Parser(
        description='Write a page about a model. It shows figures by group '
        'and class, errors as pictures, where the model looks, and which '
        'errors other classes explain.'
    )
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', required=True, metavar='DIR', help='where report.html goes'
    )
    parser.add_argument(
        '--compare',
        nargs=2,
        metavar=('CONFIG2', 'CKPT2'),
        help='a second model to set beside it, tested on the same pictures',
    )
    _add_thresholds(parser)
    parser.add_argument(
        '--train-images',
        type=int,
        default=20_000,
        metavar='N',
        help='training pictures to search for copies of test pictures, 0 '
        'for none (default: 20000)',
    )
    parser.add_argument(
        '--no-cam', action='store_true', help='leave out Grad-CAM'
    )
    _add_device(parser)
    add_cfg_options(parser)
    return parser


def check_model_report(parser: Parser, args: argparse.Namespace) -> None:
    """Checks the arguments of ``model_report.py``."""
    if args.train_images < 0:
        parser.error(f'--train-images must be at least 0: {args.train_images}')
    models = [[args.config, args.checkpoint]]
    models += [args.compare] if args.compare else []
    for model in models:
        model[0] = find_config(model[0])
        check_checkpoint(model[1])
    args.config = models[0][0]
    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise ValueError(f'--out {args.out} is not a folder')


def demo_page_parser() -> Parser:
    """Builds the parser of ``demo_page.py``."""
    parser = Parser(
        description='Serve a page to try a model on pictures. It shows '
        'labels by group, both branches, where they look, and the nearest '
        'training pictures. Nothing leaves this machine.'
    )
    add_config(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    _add_thresholds(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to serve on; 0.0.0.0 lets other machines in, without a '
        'password (default: 127.0.0.1)',
    )
    parser.add_argument(
        '--port', type=positive, default=7860, help='default: 7860'
    )
    parser.add_argument(
        '--train-images',
        type=int,
        default=2000,
        metavar='N',
        help='training pictures among which the nearest are looked for, 0 '
        'for none (default: 2000)',
    )
    _add_device(parser)
    add_cfg_options(parser)
    return parser


def check_demo_page(parser: Parser, args: argparse.Namespace) -> None:
    """Checks the arguments of ``demo_page.py``."""
    if args.train_images < 0:
        parser.error(f'--train-images must be at least 0: {args.train_images}')
    args.config = find_config(args.config)
    check_checkpoint(args.checkpoint)


def _add_thresholds(parser: Parser) -> None:
    parser.add_argument(
        '--thresholds',
        metavar='JSON',
        help='thresholds of the model (default: the file beside the '
        'checkpoint, else 0.5)',
    )


def _add_device(parser: Parser) -> None:
    parser.add_argument(
        '--device', help='cpu, cuda, cuda:1 (default: a GPU if there is one)'
    )
