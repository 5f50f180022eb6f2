"""Makes COCO-LT from the folder of COCO: train2017, val2017, annotations."""

import argparse

from ltml_mm.apis.cli import run_tool
from ltml_mm.datasets.converters import convert_coco_lt
from ltml_mm.datasets.converters.convert import (
    add_output_options,
    output_options,
    print_summary,
)


def main() -> None:
    """Reads the command line and converts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'coco', help='folder with annotations, train2017 and val2017'
    )
    parser.add_argument(
        '--split-file',
        help='list of training ids, one a line, instead of the recipe',
    )
    add_output_options(parser, out='data/coco_lt')
    args = parser.parse_args()
    print_summary(
        lambda: convert_coco_lt(
            args.coco, output_options(args), args.split_file
        )
    )


if __name__ == '__main__':
    run_tool(main)
