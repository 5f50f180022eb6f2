"""Reads labels from a CSV file."""

from __future__ import annotations

import csv
import io
import os

from ltml_mm.datasets.converters.errors import ConversionError, Problems
from ltml_mm.datasets.converters.records import Example, Source
from ltml_mm.datasets.converters.text import read_text

LABEL_LISTS = ['path', 'labels']
SEPARATOR = ';'


def read_csv(path: str) -> Source:
    """Reads a CSV file with a header, in one of two forms.

    The header ``path,labels`` announces a path and its classes, separated by
    semicolons; any other one column of 0 and 1 for each class:

    .. code-block:: none

        path,labels              path,cat,dog,person
        a.jpg,cat;person         a.jpg,1,0,1
        b.jpg,                   b.jpg,0,0,0

    Args:
        path: The CSV file, comma-separated, UTF-8.

    Returns:
        Source: The images; their paths refer to the folder of the file.

    Raises:
        ConversionError: The file is not such a CSV; names the lines.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=''), strict=True)
    problems = Problems()
    examples = []
    header: list[str] | None = None
    line = 1
    try:
        for row in reader:
            place, line = line, reader.line_num + 1
            if not row:
                continue
            if header is None:
                header = _check_header(path, place, row)
            elif len(row) != len(header):
                problems.add(
                    'rows with the wrong number of columns',
                    f'{path}:{place}: {len(row)} columns where the header '
                    f'has {len(header)}',
                )
            else:
                names = _names(row, header, f'{path}:{place}', problems)
                examples.append(Example(row[0].strip(), names, path, place))
    except csv.Error as error:
        raise ConversionError(f'{path}:{line}: not valid CSV: {error}') from (
            error
        )
    if header is None:
        raise ConversionError(f'{path}: the file is empty')
    problems.check()
    classes = None if header == LABEL_LISTS else tuple(header[1:])
    return Source(examples, classes, os.path.dirname(path) or '.', path)


def _check_header(path: str, line: int, row: list[str]) -> list[str]:
    header = [name.strip() for name in row]
    if len(header) < 2 or header[0] != 'path':
        raise ConversionError(
            f'{path}:{line}: the header must be "path,labels", or "path" and '
            f'one column a class, separated by commas; got {",".join(row)!r}'
        )
    return header


def _names(
    row: list[str], header: list[str], place: str, problems: Problems
) -> tuple[str, ...]:
    if header != LABEL_LISTS:
        for name, value in zip(header[1:], row[1:], strict=True):
            if value.strip() not in ('0', '1'):
                problems.add(
                    'values that are not 0 or 1 (class names need the '
                    'header "path,labels")',
                    f'{place}: {value!r} in the column {name!r}',
                )
        marked = zip(header[1:], row[1:], strict=True)
        return tuple(name for name, value in marked if value.strip() == '1')
    if not row[1].strip():
        return ()
    names = tuple(name.strip() for name in row[1].split(SEPARATOR))
    if '' in names:
        problems.add('empty labels', f'{place}: {row[1]!r}')
    if len(set(names)) != len(names):
        problems.add('labels that repeat', f'{place}: {row[1]!r}')
    return names
