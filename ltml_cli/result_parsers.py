"""Command lines of the tools that make and read results, and of pages."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path

from ltml_cli import options
from ltml_cli.run_parsers import add_thresholds

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
#: Rows of a recipe: of ``--data custom`` alone, and trained where named.
RECIPES = {'ltml_plus': ('recipes/ltml_plus_{}', 'LTML, the recipe')}
#: The images that thresholds may be chosen on, and maps of scores.
VALIDATION, TRAINING = 'val', 'train-fraction'
CALIBRATIONS = ('platt', 'temperature')
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


def compare_parser() -> options.Parser:
    """Builds the parser of ``compare.py``."""
    parser = options.Parser(
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
        help=f'{", ".join([*ROWS, *RECIPES])}; ROW+VARIANT '
        f'({", ".join([*VARIANTS][1:])}) adds another test of the row; '
        'NAME=ROW,KEY=VALUE[,KEY=VALUE...] trains a changed row',
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2, 3, 4]
    )
    parser.add_argument(
        '--jobs',
        type=options.positive,
        default=1,
        help='runs at a time (default: 1)',
    )
    parser.add_argument('--out', type=options.output_folder, required=True)
    parser.add_argument(
        '--reference',
        help='row that the others are compared with (default: the first)',
    )
    parser.add_argument(
        '--title', default='Comparison', help='of the table and picture'
    )
    parser.add_argument(
        '--images-per-step',
        type=options.positive,
        help="images of a step, over all streams (default: the configs', 64)",
    )
    parser.add_argument(
        '--epoch-images',
        type=options.positive,
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
    options.add_cfg_options(parser)
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='only list the runs; for demo and custom also write the config '
        'of each, but with --tune',
    )
    return parser


def check_compare(parser: options.Parser, args: Namespace) -> None:
    """Checks that the options of the tuning fit together."""
    args.out = Path(args.out)
    if not args.tune and (args.tune_fraction or args.tune_on):
        raise ValueError('--tune-fraction and --tune-on need --tune KEY=...')
    if args.tune_fraction is not None and not 0 < args.tune_fraction < 1:
        raise ValueError(
            '--tune-fraction must lie between 0 and 1, got '
            f'{args.tune_fraction}'
        )


def plot_log_parser() -> options.Parser:
    """Builds the parser of ``plot_log.py``."""
    parser = options.Parser(
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
    parser.add_argument(
        '--out',
        type=options.output_file,
        required=True,
        help='PNG file to write',
    )
    return parser


def thresholds_parser() -> options.Parser:
    """Builds the parser of ``thresholds.py``."""
    parser = options.Parser(
        description='Choose one threshold a class, and calibrate the scores',
        epilog='The test set is refused: figures on it would no longer be '
        'those of unseen images.',
    )
    options.add_model(parser)
    parser.add_argument(
        '--on',
        metavar=f'{VALIDATION}|{TRAINING}|FILE.json',
        help='the images to choose on: the validation set of the config; '
        'training images, each scored by a network that is trained without '
        'it; or those of another annotation file (default: the validation '
        'set, training images where there is none)',
    )
    parser.add_argument(
        '--metric',
        default='f1',
        help='f1, f2, precision=0.9, recall=0.8, or cost=FP:FN, the costs '
        'of a false positive and of a miss (default: f1)',
    )
    parser.add_argument(
        '--calibration',
        choices=(*CALIBRATIONS, 'none'),
        default='platt',
        help='how scores are mapped to frequencies (default: platt)',
    )
    parser.add_argument(
        '--folds',
        type=int,
        default=3,
        help=f'networks that {TRAINING} trains (default: 3)',
    )
    parser.add_argument(
        '--out',
        type=options.output_file,
        metavar='FILE.json',
        help='the file to write (default: thresholds.json beside the '
        'checkpoint, where predict.py finds it)',
    )
    parser.add_argument(
        '--figure',
        type=options.output_file,
        metavar='FILE.png',
        help='draw the reliability diagram by group',
    )
    options.add_device(parser)
    options.add_cfg_options(parser)
    return parser


def check_thresholds(parser: options.Parser, args: Namespace) -> None:
    """Checks what is asked for, and the files that are read."""
    try:
        parse_metric_words(args.metric)
    except ValueError as error:
        parser.error(str(error))
    if args.folds < 2:
        parser.error(f'--folds must be at least 2, got {args.folds}')
    if args.figure is not None and args.calibration == 'none':
        parser.error('--figure shows calibrated scores: name a --calibration')
    if args.on not in (None, VALIDATION, TRAINING):
        if not args.on.endswith('.json'):
            parser.error(
                f'--on must be {VALIDATION}, {TRAINING} or a .json file, got '
                f'{args.on}'
            )
        if not Path(args.on).is_file():
            raise FileNotFoundError(f'no such annotation file: {args.on}')
    options.check_model(args)
    options.check_data_root(args.cfg_options)


def parse_metric_words(text: str) -> tuple[str, tuple[float, ...]]:
    """Reads what a threshold is to reach.

    Returns:
        tuple: ``'f'`` and beta, ``'precision'`` or ``'recall'`` and the
        least value, or ``'cost'`` and those of a false positive and a miss.

    Raises:
        ValueError: It is none of these, or out of range.
    """
    number = r'(\d+(?:\.\d+)?|\.\d+)'
    found = re.fullmatch(
        rf'(?:(f){number}|(precision|recall)={number}'
        rf'|(cost)={number}:{number})',
        text,
    )
    words = [word for word in found.groups() if word] if found else ['']
    values = tuple(float(word) for word in words[1:])
    below = 1 if words[0] in ('precision', 'recall') else float('inf')
    if not values or min(values) <= 0 or max(values) > below:
        raise ValueError(
            'the metric must be f1, f2, precision=0.9, recall=0.8 or '
            f'cost=FP:FN (two costs above 0), got {text!r}'
        )
    return words[0], values


def model_report_parser() -> options.Parser:
    """Builds the parser of ``model_report.py``."""
    parser = options.Parser(
        description='Write a page about a model. It shows figures by group '
        'and class, errors as pictures, where the model looks, and which '
        'errors other classes explain.'
    )
    options.add_model(parser)
    parser.add_argument(
        '--out',
        type=options.output_folder,
        required=True,
        metavar='DIR',
        help='where report.html goes',
    )
    parser.add_argument(
        '--compare',
        nargs=2,
        metavar=('CONFIG2', 'CKPT2'),
        help='a second model to set beside it, tested on the same pictures',
    )
    add_thresholds(parser)
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
    options.add_device(parser)
    options.add_cfg_options(parser)
    return parser


def check_model_report(parser: options.Parser, args: Namespace) -> None:
    """Checks the arguments of ``model_report.py``."""
    _check_model(parser, args)
    if args.compare:
        args.compare[0] = options.find_config(args.compare[0])
        options.check_checkpoint(args.compare[1])


def demo_page_parser() -> options.Parser:
    """Builds the parser of ``demo_page.py``."""
    parser = options.Parser(
        description='Serve a page to try a model on pictures. It shows '
        'labels by group, both branches, where they look, and the nearest '
        'training pictures. Nothing leaves this machine.'
    )
    options.add_model(parser)
    add_thresholds(parser)
    parser.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to serve on; 0.0.0.0 lets other machines in, without a '
        'password (default: 127.0.0.1)',
    )
    parser.add_argument(
        '--port', type=options.positive, default=7860, help='default: 7860'
    )
    parser.add_argument(
        '--train-images',
        type=int,
        default=2000,
        metavar='N',
        help='training pictures among which the nearest are looked for, 0 '
        'for none (default: 2000)',
    )
    options.add_device(parser)
    options.add_cfg_options(parser)
    return parser


def check_demo_page(parser: options.Parser, args: Namespace) -> None:
    """Checks the arguments of ``demo_page.py``."""
    _check_model(parser, args)


def _check_model(parser: options.Parser, args: Namespace) -> None:
    if args.train_images < 0:
        parser.error(f'--train-images must be at least 0: {args.train_images}')
    options.check_model(args)
