"""What the command lines of the converters share."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable

from ltml_mm.datasets.converters.errors import ConversionError
from ltml_mm.datasets.converters.pipeline import OutputOptions


def add_output_options(
    parser: argparse.ArgumentParser, out: str | None = None
) -> None:
    """Adds the options that all converters have.

    Args:
        parser: The parser.
        out: The default of ``--out``, None to require it.
    """
    parser.add_argument(
        '--out',
        default=out,
        required=out is None,
        help='folder to write train.json, test.json and split.json to'
        + (f' (default: {out})' if out else ''),
    )
    parser.add_argument(
        '--force', action='store_true', help='overwrite existing output'
    )
    parser.add_argument(
        '--check-images',
        action='store_true',
        help='decode every image and list those that are broken',
    )
    parser.add_argument(
        '--allow-outside',
        action='store_true',
        help='let image paths and links leave the folder of the images',
    )


def output_options(args: argparse.Namespace) -> OutputOptions:
    """Takes those options from the parsed arguments."""
    return OutputOptions(
        args.out, args.force, args.check_images, args.allow_outside
    )


def run(convert: Callable[[], str]) -> int:
    """Runs a conversion and reports in plain words.

    Args:
        convert: Returns a summary to print.

    Returns:
        int: The exit status: 0, or 1 where the data was refused.
    """
    status = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        try:
            report = convert()
        except ConversionError as error:
            report = f'error: {error}\nnothing was written'
            status = 1
    for warning in caught:
        print(f'WARNING: {warning.message}', file=sys.stderr)
    print(report, file=sys.stderr if status else sys.stdout)
    return status
