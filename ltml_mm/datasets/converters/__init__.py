"""Converts annotations of several formats to MMPretrain's JSON."""

from ltml_mm.datasets.converters.convert import (
    READERS,
    CustomOptions,
    OutputOptions,
    convert_coco_lt,
    convert_custom,
    convert_voc_lt,
)

__all__ = [
    'READERS',
    'CustomOptions',
    'OutputOptions',
    'convert_coco_lt',
    'convert_custom',
    'convert_voc_lt',
]
