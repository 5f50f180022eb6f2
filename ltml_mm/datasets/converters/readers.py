"""Reads labels from CSV files, folders and MMPretrain's JSON.

Every reader takes the path of its source. Image paths refer to the folder of
a file, or to the folder that is the source. A ValueError names the lines or
entries of all faults.
"""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Collection

from ltml_mm.datasets.annotations import read_annotations
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems
from ltml_mm.datasets.images import EXTENSIONS

# Cells of a column of labels, as pandas and spreadsheets write them.
YES, NO = ('1', '1.0', 'true'), ('0', '0.0', 'false')
# What separates labels in other tables.
MARKS = ',|/+& '
SYSTEM_FILES = ('.', 'thumbs.db', 'desktop.ini')


def read_text(path: str) -> str:
    """Reads a UTF-8 text file, with or without a byte order mark.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not UTF-8 text, but a pickle, say.
    """
    with open(path, 'rb') as file:
        data = file.read()
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ValueError(
            f'{path}:{line}: not UTF-8 text (byte '
            f'0x{data[error.start]:02x}); save it as plain text in UTF-8'
        ) from error


def read_ids(path: str, known: Collection[str] | None = None) -> list[str]:
    """Reads a text file with one image id a line.

    The published splits are such files, although they are named
    ``img_id.pkl``; a real pickle is refused.

    Args:
        path: The file.
        known: The ids that may stand there. Defaults to any that can be a
            file name: letters, digits, underscores and hyphens.

    Returns:
        list[str]: The ids in the order of the file; line i + 1 holds id i.

    Raises:
        ValueError: An id is empty, repeats, or is not known.
    """
    ids = [line.strip() for line in read_text(path).split('\n')]
    if not ids[-1]:  # after the last newline
        ids.pop()
    if not ids:
        raise ValueError(f'{path}: the file is empty')
    problems = Problems()
    first: dict[str, int] = {}
    allowed = set(known or ids)
    for line, image_id in enumerate(ids, 1):
        place = f'{path}:{line}'
        is_name = all(c.isalnum() or c in '_-' for c in image_id)
        if not image_id or not is_name or image_id not in allowed:
            problems.add('empty, bad or unknown ids', place, repr(image_id))
        elif first.setdefault(image_id, line) != line:
            earlier = f'{image_id!r}, first on line {first[image_id]}'
            problems.add('ids that repeat', place, earlier)
    problems.check()
    return ids


def read_csv(path: str, separator: str | None = None) -> ImageSet:
    """Reads a CSV file with a header, in one of two forms.

    The header ``path,labels`` announces a path and its labels; rows of one
    image are united. Any other announces a column of 0 and 1 for each class:

    .. code-block:: none

        path,labels              path,cat,dog,person
        a.jpg,cat;person         a.jpg,1,0,1
        b.jpg,                   b.jpg,0,0,0

    Args:
        path: The CSV file, comma-separated, UTF-8.
        separator: Separates the labels. Defaults to a semicolon, and then
            labels that seem to be separated otherwise are refused.

    Returns:
        ImageSet: The images in the order of the file.
    """
    rows = _csv_rows(path)
    place, header = rows[0]
    while not header[-1]:  # a column that a spreadsheet left empty
        header.pop()
    if len(header) < 2 or header[0] != 'path':
        raise ValueError(
            f'{place}: the header must be "path,labels", or "path" and one '
            f'column a class, separated by commas; got {",".join(header)!r}'
        )
    lists = header[1] == 'labels'
    if lists and len(header) > 2:
        raise ValueError(
            f'{place}: the column {header[2]!r} cannot stand beside '
            '"path,labels"; remove it'
        )
    problems = Problems()
    examples = []
    for place, cells in rows[1:]:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            count = f'{len(cells)} in place of {len(header)}'
            problems.add('wrong numbers of columns', place, count)
            continue
        if lists:
            names = _split(cells[1], separator or ';', place, problems)
        else:
            names = _marked(header, cells, place, problems)
        examples.append(Example(cells[0], names, place))
    if lists:
        examples = _unite_rows(path, examples, problems)
        if separator is None:
            _check_separator(examples, problems)
    problems.check()
    classes = () if lists else tuple(header[1:])
    return ImageSet(examples, classes, os.path.dirname(path) or '.', path)


def _csv_rows(path: str) -> list[tuple[str, list[str]]]:
    """Returns the rows that are not empty, each with its file and line."""
    reader = csv.reader(io.StringIO(read_text(path), newline=''), strict=True)
    rows = []
    line = 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((f'{path}:{line}', cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f'{path}:{line}: not valid CSV: {error}') from error
    if not rows:
        raise ValueError(f'{path}: the file is empty')
    return rows


def _split(
    text: str, separator: str, place: str, problems: Problems
) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(separator))
    if names == ('',):
        return ()
    if '' in names:
        problems.add('empty labels', place, repr(text))
    if len(set(names)) != len(names):
        problems.add('labels that repeat', place, repr(text))
    return names


def _marked(
    header: list[str], cells: list[str], place: str, problems: Problems
) -> tuple[str, ...]:
    columns = list(zip(header[1:], cells[1:], strict=True))
    for name, cell in columns:
        if cell.lower() not in YES + NO:
            problems.add(
                'values that are not 0 or 1 (class names need the header '
                '"path,labels"; unknown or soft labels are not supported)',
                place,
                f'{cell!r} in the column {name!r}',
            )
    return tuple(name for name, cell in columns if cell.lower() in YES)


def _unite_rows(
    path: str, examples: list[Example], problems: Problems
) -> list[Example]:
    """Unites the rows of each image: some tables have one for each label."""
    united: dict[str, Example] = {}
    for example in examples:
        first = united.setdefault(example.path, example)
        if bool(first.names) != bool(example.names):
            both = f'{example.path} stands at {first.place}, too'
            kind = 'images with a label and without one'
            problems.add(kind, example.place, both)
        names = tuple(dict.fromkeys(first.names + example.names))
        united[example.path] = first._replace(names=names)
    if len(united) < len(examples):
        told = f'{len(examples)} rows list {len(united)} images'
        warnings.warn(f'{path}: {told}, whose labels are united', stacklevel=3)
    return list(united.values())


def _check_separator(examples: list[Example], problems: Problems) -> None:
    """Looks for labels that seem to be several labels, or none."""
    first: dict[str, str] = {}
    for example in examples:
        for name in filter(None, example.names):
            first.setdefault(name, example.place)
    for name, place in first.items():
        cuts = [name.split(mark) for mark in MARKS if mark in name]
        joined = any(all(part.strip() in first for part in c) for c in cuts)
        is_list = name[0] + name[-1] in ('[]', '{}')
        if joined or is_list or name.lower() in ('nan', 'none', 'null'):
            problems.add(
                'labels that seem to be several, or none (write cat;dog, and '
                'nothing for none; or give the separator: --separator "|"; '
                'or take them as they are: --separator ";")',
                place,
                repr(name),
            )


def read_folders(path: str) -> ImageSet:
    """Reads a folder whose sub-folders are named after label sets.

    .. code-block:: none

        images
        ├── cat
        │   └── a.jpg
        └── cat+dog
            └── b.jpg

    Hidden files and those that Windows makes are left aside; anything else
    that is not an image is an error.
    """
    problems = Problems()
    examples = []
    for folder in list_folder(path):
        if not folder.is_dir():
            fault = 'belongs in a folder named after its labels'
            problems.add('files outside label folders', folder.path, fault)
            continue
        names = _split(folder.name, '+', folder.path, problems)
        for file in list_folder(folder.path):
            if not file.name.lower().endswith(EXTENSIONS) or file.is_dir():
                fault = f'not a file in {", ".join(EXTENSIONS)}'
                problems.add('entries that are not images', file.path, fault)
            image = f'{folder.name}/{file.name}'
            examples.append(Example(image, names, file.path))
    problems.check()
    return ImageSet(examples, (), path, path)


def list_folder(path: str) -> list[os.DirEntry]:
    """Returns the entries of a folder but the system's own, by name."""
    with os.scandir(path) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    return [
        entry
        for entry in entries
        if not entry.name.lower().startswith(SYSTEM_FILES)
    ]


def read_mmpretrain(path: str) -> ImageSet:
    """Reads MMPretrain's multi-label JSON as the dataset reads it."""
    # Paths that leave the folder are judged with those of all formats.
    metainfo, entries = read_annotations(path, allow_outside=True)
    classes = tuple(metainfo['classes'])
    examples = []
    for index, entry in enumerate(entries):
        names = tuple(classes[k] for k in entry['gt_label'])
        place = f'{path}: entry {index} of "data_list"'
        examples.append(Example(entry['img_path'], names, place))
    return ImageSet(examples, classes, os.path.dirname(path) or '.', path)
