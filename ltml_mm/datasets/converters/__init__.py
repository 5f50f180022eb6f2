"""Converts annotations of several formats to MMPretrain's JSON."""

from ltml_mm.datasets.converters.custom import (
    READERS,
    CustomOptions,
    convert_custom,
)
from ltml_mm.datasets.converters.errors import ConversionError
from ltml_mm.datasets.converters.pipeline import OutputOptions
from ltml_mm.datasets.converters.published import (
    convert_coco_lt,
    convert_voc_lt,
)

__all__ = [
    'READERS',
    'ConversionError',
    'CustomOptions',
    'OutputOptions',
    'convert_coco_lt',
    'convert_custom',
    'convert_voc_lt',
]
