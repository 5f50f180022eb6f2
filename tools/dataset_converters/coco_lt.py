"""Makes COCO-LT from the folder of COCO: train2017, val2017, annotations."""

import argparse

from ltml_mm.apis.cli import run_tool
from ltml_mm.datasets.converters.convert import (
    convert_published,
    run_converter,
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
    run_converter(
        parser,
        lambda args, output: convert_published(
            'coco', args.coco, output, args.split_file
        ),
        out='data/coco_lt',
    )


if __name__ == '__main__':
    run_tool(main)
