"""Converts one's own multi-label data to MMPretrain's JSON.

The formats: csv (path,labels or one 0/1 column a class), coco (instances
JSON), voc (folder of XML), folders (one per label set, cat+dog), mmpretrain
(multi-label JSON).
"""

import argparse

from ltml_mm.apis.cli import run_tool
from ltml_mm.datasets.converters.convert import (
    READERS,
    convert_custom,
    run_converter,
)
from ltml_mm.datasets.converters.records import OutputOptions
from ltml_mm.datasets.splits import ParetoRecipe


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('format', choices=READERS)
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
        help='what separates the labels in a CSV file (default: ;)',
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
    return parser


def convert(args: argparse.Namespace, output: OutputOptions) -> str:
    """Converts by the arguments; returns a summary."""
    recipe = None
    steepness = {
        name: value
        for name in ('min_count', 'shape')
        if (value := getattr(args, name)) is not None
    }
    if args.max_count is not None:
        recipe = ParetoRecipe(args.max_count, **steepness, seed=args.seed)
    elif steepness:
        raise ValueError('--min-count and --shape need --max-count')
    return convert_custom(
        args.format,
        args.source,
        output,
        args.images,
        args.classes,
        args.test,
        recipe,
        args.seed,
        args.separator,
        args.val,
    )


def main() -> None:
    """Reads the command line and converts."""
    run_converter(build_parser(), convert)


if __name__ == '__main__':
    run_tool(main)
