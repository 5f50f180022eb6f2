"""Reads text files into tables: CSV and JSON lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ltml_mm.datasets.converters.records import Problems, check_names

DELIMITERS = (',', ';', '\t', '|')


class Table(NamedTuple):
    """A table as it was read.

    Attributes:
        source: The file.
        place: Where the header stands.
        header: The names of the columns, empty where they have none.
        rows: The place and the cells of each row.
    """

    source: str
    place: str
    header: list[str]
    rows: list[tuple[str, list[str]]]

    def column(self, index: int) -> list[str]:
        """Returns the cells of a column that are not empty."""
        return [cells[index] for _, cells in self.rows if cells[index]]

    def find(self, name: str) -> int:
        """Returns a column's index; ValueError where there is none."""
        if name not in self.header:
            named = ', '.join(filter(None, self.header))
            raise ValueError(
                f'{self.place}: no column {name!r}; there are: {named}'
            )
        return self.header.index(name)


def read_text(path: str) -> str:
    """Reads text: UTF-8, UTF-16, or Windows-1252 with a warning.

    Line ends become those of Unix.

    Raises:
        ValueError: It is an archive or workbook, or no text.
    """
    data = Path(path).read_bytes()
    if data.startswith((b'PK\3\4', b'\xd0\xcf\x11\xe0')):
        raise ValueError(f'{path}: an archive or a workbook; save it as CSV')
    try:
        text = data.decode(_encoding(path, data))
    except UnicodeDecodeError as error:
        told = f'{path}: not text; save it as UTF-8: {error}'
        raise ValueError(told) from error
    return text.replace('\r\n', '\n').replace('\r', '\n')


def _encoding(path: str, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return 'utf-16'
    # Latin text in UTF-16 has a zero for every letter.
    if data.count(0) * 4 > len(data):
        return 'utf-16-le' if data[1:2] == b'\0' else 'utf-16-be'
    try:
        data.decode('utf-8')
        return 'utf-8-sig'
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        found = data.splitlines()[line - 1] if data.splitlines() else data
    shown = found.decode('latin-1')[:60]
    warnings.warn(
        f'{path}:{line}: not UTF-8, read as Windows-1252: {shown!r}; save '
        'the file as UTF-8 if this is wrong',
        stacklevel=3,
    )
    try:
        data.decode('cp1252')
        return 'cp1252'
    except UnicodeDecodeError:
        return 'latin-1'


def read_names(path: str, known: Container[str] | None = None) -> list[str]:
    """Reads a text file with one name a line: of classes, or ids of images.

    The published splits are such files, although they are named
    ``img_id.pkl``; a real pickle is refused.

    Raises:
        ValueError: A name is empty, unusable, none of ``known``, or repeats.
    """
    names = [line.strip() for line in read_text(path).rstrip().split('\n')]
    places = [f'{path}:{line}' for line in range(1, len(names) + 1)]
    check_names(names, places, known)
    return names


def csv_table(path: str) -> tuple[Table, str]:
    """Returns the table and its delimiter."""
    text = read_text(path)
    start = 1
    # Excel's word for the delimiter, in a line of its own.
    if declared := re.match(r'"?sep=(.)"?[;,\t ]*(?:\n|$)', text):
        text, start = text[declared.end() :], 2
    delimiter = declared[1] if declared else _find_delimiter(text)
    reader = csv.reader(
        io.StringIO(text, newline=''),
        delimiter=delimiter,
        skipinitialspace=delimiter != ' ',
        strict=True,
    )
    rows = []
    line = start
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((f'{path}:{line}', cells))
            line = reader.line_num + start
    except csv.Error as error:
        raise ValueError(f'{path}:{line}: not valid CSV: {error}') from error
    if not rows:
        raise ValueError(f'{path}: the file is empty')
    place, header = rows[0]
    header = trimmed(header)
    if len(header) < 2:
        raise ValueError(
            f'{place}: the header must name a column of images and one of '
            f'labels, separated by a comma, a semicolon or a tab; got '
            f'{delimiter.join(header)!r}'
        )
    return _even_table(path, place, header, rows[1:]), delimiter


def trimmed(cells: list[str]) -> list[str]:
    """Leaves out empty cells at the end, as spreadsheets write them."""
    size = len(cells)
    while size and not cells[size - 1].strip():
        size -= 1
    return cells[:size]


def _find_delimiter(text: str) -> str:
    """Returns the mark by which most rows have the columns of the header."""

    def fitting(mark: str) -> tuple[float, int]:
        sample = io.StringIO(text[:65536])
        reader = csv.reader(sample, delimiter=mark, skipinitialspace=True)
        rows: list[list[str]] = []
        # The whole is read again, with an error that names a line.
        with suppress(csv.Error):
            rows.extend(islice(filter(any, reader), 50))
        size = len(trimmed(rows[0])) if rows else 0
        fit = [len(trimmed(row)) <= size <= len(row) for row in rows]
        return (sum(fit) / len(fit), size) if size > 1 else (0, size)

    return max(DELIMITERS, key=fitting)


def _even_table(
    source: str,
    place: str,
    header: list[str],
    rows: Iterable[tuple[str, list[str]]],
) -> Table:
    """Makes a table whose rows are as long as its header."""
    problems = Problems()
    even = []
    size = len(header)
    for row_place, cells in rows:
        row = cells[:size] + trimmed(cells[size:])
        if len(row) != size:
            count = f'{len(row)} in place of {size}'
            problems.add('wrong numbers of columns', row_place, count)
        even.append((row_place, row))
    problems.check('quotes keep a cell together: a.jpg,"cat,dog"')
    return Table(source, place, header, even)


def jsonl_table(path: str) -> Table:
    """Reads JSON lines, objects, as a table of text."""
    problems = Problems()
    records = []
    for number, line in enumerate(read_text(path).split('\n'), 1):
        if not line.strip():
            continue
        place = f'{path}:{number}'
        with problems.caught(
            'lines that are no JSON objects', place, RecursionError
        ):
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(line[:60])
            records.append((place, record))
    problems.check()
    return table_of(path, records)


def table_of(
    source: str, records: Sequence[tuple[str, dict[str, Any]]]
) -> Table:
    """Makes a table of objects; a value that is no text becomes JSON."""
    if not records:
        raise ValueError(f'{source}: the file is empty')
    header = list(
        dict.fromkeys(key for _, record in records for key in record)
    )

    def cell(value: Any) -> str:
        if isinstance(value, str):
            return value.strip()
        return '' if value is None else json.dumps(value, ensure_ascii=False)

    rows = [
        (place, [cell(record.get(key)) for key in header])
        for place, record in records
    ]
    return Table(source, records[0][0], header, rows)
