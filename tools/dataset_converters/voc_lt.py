"""Makes VOC-LT from the folder VOCdevkit: VOC2012 trainval, VOC2007 test."""

import argparse

from ltml_mm.apis.cli import run_tool
from ltml_mm.datasets.converters import convert_voc_lt
from ltml_mm.datasets.converters.convert import (
    add_output_options,
    output_options,
    print_summary,
)


def main() -> None:
    """Reads the command line and converts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('devkit', help='folder with VOC2007 and VOC2012')
    parser.add_argument(
        '--split-file',
        help='list of training ids, one a line, instead of the recipe',
    )
    add_output_options(parser, out='data/voc_lt')
    args = parser.parse_args()
    print_summary(
        lambda: convert_voc_lt(
            args.devkit, output_options(args), args.split_file
        )
    )


if __name__ == '__main__':
    run_tool(main)
