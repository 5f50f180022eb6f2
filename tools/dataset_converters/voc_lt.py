"""Makes VOC-LT from the folder VOCdevkit: VOC2012 trainval, VOC2007 test."""

import argparse

from ltml_mm.apis.cli import run_tool
from ltml_mm.datasets.converters.convert import (
    convert_published,
    run_converter,
)


def main() -> None:
    """Reads the command line and converts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('devkit', help='folder with VOC2007 and VOC2012')
    parser.add_argument(
        '--split-file',
        help='list of training ids, one a line, instead of the recipe',
    )
    run_converter(
        parser,
        lambda args, output: convert_published(
            'voc', args.devkit, output, args.split_file
        ),
        out='data/voc_lt',
    )


if __name__ == '__main__':
    run_tool(main)
