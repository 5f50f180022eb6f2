"""Converts annotations of several formats to MMPretrain's JSON."""

from ltml_mm.datasets.converters.convert import (
    READERS,
    CustomOptions,
    OutputOptions,
    convert_custom,
    convert_published,
    run_converter,
)

__all__ = [
    'READERS',
    'CustomOptions',
    'OutputOptions',
    'convert_custom',
    'convert_published',
    'run_converter',
]
