"""Command lines of the tools that make pages about a model."""

from __future__ import annotations

from argparse import Namespace

from ltml_cli import options
from ltml_cli.run_parsers import add_thresholds


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
