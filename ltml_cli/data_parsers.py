"""Command lines of the converters and of the report on a training set."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ltml_cli import options

#: The formats that are converted, as in ``converters.convert.READERS``.
FORMATS = (
    'csv', 'coco', 'voc', 'folders', 'mmpretrain', 'huggingface',
    'label_studio', 'fiftyone', 'cvat', 'datumaro',
)  # fmt: skip


class _ConvertParser(options.Parser):
    """Takes a positional that may be left out between options, too."""

    def parse_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parses the options first, then what is left."""
        return self.parse_intermixed_args(args, namespace)


def convert_parser() -> options.Parser:
    """Builds the parser of ``custom.py``."""
    parser = _ConvertParser(
        description="""Convert one's own multi-label data to MMPretrain's JSON.

The formats: csv (a table with a column of labels, or one of 0 and 1 for each
class), coco (instances JSON), voc (folder of XML), folders (one per label
set, cat+dog), mmpretrain (multi-label JSON), huggingface (folder with
metadata.csv or .jsonl), label_studio (JSON, JSON-MIN), fiftyone
(labels.json), cvat (XML for images), datumaro (JSON).""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'format',
        nargs='?',
        choices=FORMATS,
        metavar='FORMAT',
        help=f'{", ".join(FORMATS)} (default: found from the source)',
    )
    parser.add_argument('source', help='file or folder of the annotations')
    parser.add_argument(
        '--images',
        help="folder to which image paths refer (default: the source's own)",
    )
    parser.add_argument(
        '--classes', help='file that fixes the classes, one name a line'
    )
    parser.add_argument(
        '--separator',
        help='what separates the labels in a cell of a table (default: ; | '
        'or , where the cells tell it)',
    )
    parser.add_argument(
        '--path-column', metavar='NAME', help='the column of the images'
    )
    parser.add_argument(
        '--label-column',
        nargs='+',
        default=[],
        metavar='NAME',
        help='the column of the labels, or one of 0 and 1 for each class',
    )
    parser.add_argument(
        '--ignore-columns',
        nargs='+',
        default=[],
        metavar='NAME',
        help='columns that are no classes',
    )
    test = parser.add_mutually_exclusive_group()
    test.add_argument('--test', help='source of the test set')
    test.add_argument(
        '--test-fraction',
        dest='test',
        type=float,
        help='share of the images to hold out, stratified by class',
    )
    val = parser.add_mutually_exclusive_group()
    val.add_argument('--val', help='source of a validation set')
    val.add_argument(
        '--val-fraction',
        dest='val',
        type=float,
        help='share of the images to hold out for validation; training then '
        'validates on val.json, and test.py alone reads test.json',
    )
    parser.add_argument(
        '--max-count',
        type=int,
        help='draw a long-tailed training set: images of the largest class',
    )
    parser.add_argument(
        '--min-count', type=int, help='and of the smallest (default: 1)'
    )
    parser.add_argument(
        '--shape', type=float, help='larger is steeper (default: 6)'
    )
    parser.add_argument('--seed', type=int, default=0)
    for option, text in (
        ('--skip-missing', 'leave out and list the images that are missing'),
        ('--skip-bad', 'leave out and list the images that do not decode'),
    ):
        parser.add_argument(option, action='store_true', help=text)
    _add_output(parser)
    return parser


def check_convert(parser: options.Parser, args: argparse.Namespace) -> None:
    """Checks that the sources are there and the options fit together."""
    if args.max_count is None and (args.min_count, args.shape) != (None, None):
        raise ValueError('--min-count and --shape need --max-count')
    missing = args.format is None and not os.path.exists(args.source)
    if missing and args.source in FORMATS:
        parser.error(f'{args.source} is a format; name the source, too')
    for path in (args.source, args.images, args.classes, args.test, args.val):
        if isinstance(path, str):
            options.check_source(path, 'file or folder')


def voc_lt_parser() -> options.Parser:
    """Builds the parser of ``voc_lt.py``."""
    parser = options.Parser(
        description='Make VOC-LT from the folder VOCdevkit: VOC2012 trainval, '
        'VOC2007 test.'
    )
    _add_published(parser, 'devkit', 'VOC2007 and VOC2012', 'data/voc_lt')
    return parser


def coco_lt_parser() -> options.Parser:
    """Builds the parser of ``coco_lt.py``."""
    parser = options.Parser(
        description='Make COCO-LT from the folder of COCO: train2017, '
        'val2017, annotations.'
    )
    held = 'annotations, train2017 and val2017'
    _add_published(parser, 'coco', held, 'data/coco_lt')
    return parser


def dataset_report_parser() -> options.Parser:
    """Builds the parser of ``dataset_report.py``."""
    parser = options.Parser(
        description='Report on the training set of a config, or on an '
        'annotation file: class counts, co-occurrence, and how often its '
        'samplers draw every class. No image is read.'
    )
    parser.add_argument(
        'source',
        metavar='CONFIG|JSON',
        help="config, or annotation file in MMPretrain's multi-label format",
    )
    parser.add_argument(
        '--out',
        type=options.output_folder,
        required=True,
        metavar='DIR',
        help='where report.md, report.json and the picture go; those of an '
        'earlier report are replaced',
    )
    options.add_cfg_options(parser)
    return parser


def check_dataset_report(
    parser: options.Parser, args: argparse.Namespace
) -> None:
    """Checks the source and where the report goes."""
    if args.source.endswith('.json'):
        options.check_source(args.source, 'file')
    else:
        args.source = options.find_config(args.source)
    options.check_data_root(args.cfg_options)


def _add_published(
    parser: options.Parser, name: str, held: str, out: str
) -> None:
    parser.add_argument('source', metavar=name, help=f'folder with {held}')
    parser.add_argument(
        '--split-file',
        help='list of training ids, one a line, instead of the recipe',
    )
    _add_output(parser, out)


def _add_output(parser: options.Parser, out: str | None = None) -> None:
    """Adds the options that all converters share."""
    parser.add_argument(
        '--out',
        type=options.output_folder,
        default=out,
        required=out is None,
        help='folder to write train.json, test.json, split.json and, where '
        'there is a validation set, val.json to',
    )
    for option, text in (
        ('--force', 'overwrite existing output'),
        ('--check-images', 'decode every image and list the broken ones'),
        ('--allow-outside', "let paths and links leave the images' folder"),
    ):
        parser.add_argument(option, action='store_true', help=text)
