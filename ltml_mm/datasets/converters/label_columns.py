"""Reads labels in tables: which columns hold them, and how."""

from __future__ import annotations

import ast
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ltml_mm.datasets.converters import tables
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems
from ltml_mm.datasets.images import EXTENSIONS

#: What separates labels where nothing is said; others must be asked for.
SEPARATORS = (';', '|', '\n', '、', '；', '，', ',')
# Cells of a column of labels, as pandas, R and spreadsheets write them.
YES = ('1', '1.0', 'true', 'yes', 'y', 't')
NO = ('0', '0.0', 'false', 'no', 'n', 'f')
NOTHING = ('nan', 'none', 'null', 'n/a', '#n/a', '<na>', 'nil')
#: Images to evaluate on, in a column that tells the parts of a set.
HELD_OUT = ('test', 'val', 'valid', 'validation', 'dev')
#: Names of columns of yes and no that part a set, such as fastai's.
PARTING = ('isvalid', 'isval', 'istest', 'istrain')
# Headers in lower case without blanks and marks, the surest first.
PATH_NAMES = (
    'path', 'imgpath', 'imagepath', 'filepath', 'filename', 'imgname',
    'imagename', 'file', 'image', 'img', 'imagefile', 'imagefilename',
    'imageid', 'imgid', 'photo', 'picture',
)  # fmt: skip
WEAK_PATH_NAMES = ('name', 'id', 'url', 'imageurl', 'index')
LABEL_NAMES = (
    'labels', 'label', 'tags', 'tag', 'classes', 'class', 'categories',
    'category', 'classnames', 'classname', 'labelnames', 'labelname',
    'choices', 'choice', 'targets', 'target', 'species',
)  # fmt: skip
LABEL_ENDS = ('labels', 'label', 'tags', 'classes', 'categories', 'category')
# What Label Studio adds to its tables.
ADMINISTRATION = {
    'agreement', 'annotation_id', 'annotator', 'created_at', 'history',
    'lead_time', 'updated_at',
}  # fmt: skip
NO_MARK = (
    'values that are not 0 or 1 (unknown or soft labels are not supported; '
    '--ignore-columns leaves out a column that is no class)'
)
REPEATS = 'labels that are empty or repeat'
NO_LABEL = (
    'labels that seem to be none (leave the cell empty; or take them as they '
    'are: --separator ";")'
)
CONTRADICTION = 'images with a label and without one'


class TableOptions(NamedTuple):
    """What the user says of a table; the rest is found.

    Attributes:
        separator: Separates the labels in a cell; they are taken as they
            are.
        path_column: The column of the images.
        label_columns: The column of the labels, or one for each class.
        ignore_columns: Columns to leave out.
    """

    separator: str | None = None
    path_column: str | None = None
    label_columns: tuple[str, ...] = ()
    ignore_columns: tuple[str, ...] = ()


FIND_ALL = TableOptions()


def read_csv(path: str, options: TableOptions = FIND_ALL) -> ImageSet:
    """Reads a table of text with a header, in one of two forms.

    Labels stand in one column, or in one column of 0 and 1 for each class:

    .. code-block:: none

        path,labels              path,cat,dog,person
        a.jpg,cat;person         a.jpg,1,0,1
        b.jpg,                   b.jpg,0,0,0

    The delimiter, the columns and the separator of the labels are found
    where the options do not give them; the notes say which. Rows of one
    image are united in the first form.
    """
    table, delimiter = tables.csv_table(path)
    images = read_table(table, options)
    found = f'delimiter {_shown(delimiter)}'
    return images._replace(notes=(f'{found}, {images.notes[0]}',))


def read_huggingface(path: str, options: TableOptions = FIND_ALL) -> ImageSet:
    """Reads an image folder of Hugging Face, or its metadata file.

    ``metadata.csv`` or ``metadata.jsonl`` names the images, relative to
    itself, in ``file_name`` or in a column that ends so; the labels stand in
    the forms of :func:`read_csv`.
    """
    file = path
    if os.path.isdir(path):
        names = ('metadata.csv', 'metadata.jsonl')
        found = [n for n in names if os.path.isfile(os.path.join(path, n))]
        if len(found) != 1:
            below = sorted(map(str, Path(path).glob('*/metadata.*')))
            told = f'; there are {", ".join(below)}' if below else ''
            raise ValueError(
                f'{path}: needs one of {" and ".join(names)}{told}'
            )
        file = os.path.join(path, found[0])
    is_jsonl = file.endswith('.jsonl')
    table = tables.jsonl_table(file) if is_jsonl else tables.csv_table(file)[0]
    if options.path_column is None:
        ends = [n for n in table.header if n.endswith('file_name')]
        ends.sort(key=len)
        options = options._replace(path_column=(ends or ['file_name'])[0])
    return read_table(table, options)


def _shown(mark: str) -> str:
    return {'\t': 'tab', '\n': 'line break', ' ': 'blank'}.get(
        mark, repr(mark)
    )


def read_table(table: tables.Table, options: TableOptions) -> ImageSet:
    """Reads the images and labels of a table, see :func:`read_csv`.

    Raises:
        ValueError: Columns cannot be told, or a cell is broken; names the
            lines of all faults.
    """
    path = _path_column(table, options)
    labels, are_classes = _label_columns(table, options, path)
    problems = Problems()
    if are_classes:
        examples = _read_classes(table, path, labels, problems)
        told = f'{len(labels)} columns of 0 and 1'
        classes = tuple(table.header[k] for k in labels)
    else:
        found = _read_lists(table, path, labels, options, problems)
        examples, told = _unite_rows(table, found[0], problems), found[1]
        classes = ()
    problems.check()
    used = {path, *labels}
    left = [n for i, n in enumerate(table.header) if n and i not in used]
    left = [name for name in left if name not in options.ignore_columns]
    for name in left:
        parts = {c.lower() for c in table.column(table.find(name))} - {''}
        parting = _plain(name) in PARTING
        if parting or (parts & {*HELD_OUT} and len(parts) <= 4):
            warnings.warn(
                f'{table.source}: the column {name!r} is left out: rows of '
                f'{" and ".join(sorted(parts))} come into one set',
                stacklevel=4,
            )
    note = f'images in the column {table.header[path]!r}, {told}'
    if left:
        note += f'; columns left out: {", ".join(left)}'
    root = os.path.dirname(table.source) or '.'
    return ImageSet(examples, classes, root, table.source, (note,))


def _plain(name: str) -> str:
    return re.sub(r'[\W_]', '', name).lower()


def _usable(table: tables.Table, options: TableOptions) -> list[int]:
    """Returns the columns with a name, but for those of an index."""
    ignored = {table.find(name) for name in options.ignore_columns}
    return [
        i
        for i, name in enumerate(table.header)
        if name and i not in ignored and not name.startswith('Unnamed:')
    ]


def _named(
    table: tables.Table, columns: Iterable[int], names: Iterable[str]
) -> list[int]:
    """Returns the columns of these plain names, in the order of the names."""
    plain = [(_plain(table.header[i]), i) for i in columns]
    return [i for name in names for found, i in plain if found == name]


def _path_column(table: tables.Table, options: TableOptions) -> int:
    if options.path_column is not None:
        return table.find(options.path_column)
    if any(name.lower().endswith(EXTENSIONS) for name in table.header):
        raise ValueError(
            f'{table.place}: the header names an image, as if it were data: '
            f'{", ".join(table.header)}; write "path,labels" above it'
        )
    usable = _usable(table, options)

    def holds_images(index: int) -> bool:
        cells = table.column(index)[:100]
        ends = (cell.lower().endswith(EXTENSIONS) for cell in cells)
        return sum(ends) * 2 > len(cells)

    images = list(filter(holds_images, usable))
    found = _named(table, usable, PATH_NAMES)
    found += images if len(images) == 1 else []
    found += _named(table, usable, WEAK_PATH_NAMES)
    if not found:
        named = ', '.join(filter(None, table.header))
        raise ValueError(
            f'{table.place}: the header names no column of images (path, '
            f'image, file_name, ...): {named}; name it: --path-column NAME'
        )
    return found[0]


def _label_columns(
    table: tables.Table, options: TableOptions, path: int
) -> tuple[list[int], bool]:
    """Returns the columns of the labels, and whether each is a class."""

    def has_marks(index: int) -> bool:
        return any(c.lower() in YES + NO for c in table.column(index))

    if options.label_columns:
        asked = [table.find(name) for name in options.label_columns]
        is_list = bool(_named(table, asked, LABEL_NAMES))
        return asked, not is_list and any(map(has_marks, asked))
    weak = _named(table, _usable(table, options), WEAK_PATH_NAMES)
    others = [
        i
        for i in _usable(table, options)
        if i not in {path, *weak} and _plain(table.header[i]) not in PARTING
    ]
    if {'annotation_id', 'lead_time'} <= {*table.header}:
        kept = ADMINISTRATION | {'id'}
        others = [i for i in others if table.header[i] not in kept]
    named = _named(table, others, LABEL_NAMES)
    ends = [
        i
        for i in others
        if _plain(table.header[i]).endswith(LABEL_ENDS) and not has_marks(i)
    ]
    if named or len(ends) == 1:
        name = table.header[(named or ends)[0]]
        return [i for i in others if table.header[i] == name], False
    marked = list(filter(has_marks, others))
    if len(marked) > 1 or (marked and marked == others):
        return marked, True
    lists = [i for i in others if any(map(parse_list, table.column(i)))]
    for alone in (others, lists):
        if len(alone) == 1:
            return alone, False
    told = ', '.join(table.header[i] for i in others) or 'none'
    raise ValueError(
        f'{table.place}: the header does not tell the column of the labels '
        f'among: {told}; name it, or one column of 0 and 1 for each class: '
        '--label-column NAME [NAME ...]'
    )


def _read_classes(
    table: tables.Table, path: int, columns: list[int], problems: Problems
) -> list[Example]:
    examples = []
    for place, cells in table.rows:
        names = []
        for column in columns:
            name, mark = table.header[column], cells[column]
            names += [name] * (mark.lower() in YES)
            if mark.lower() not in YES + NO:
                fault = f'{mark!r} in the column {name!r}'
                problems.add(NO_MARK, place, fault)
        examples.append(Example(cells[path], tuple(names), place))
    return examples


def _read_lists(
    table: tables.Table,
    path: int,
    columns: list[int],
    options: TableOptions,
    problems: Problems,
) -> tuple[list[Example], str]:
    """Reads cells with labels; tells how they are written."""
    plain = options.separator is not None
    confirmed = _confirmed(table, options, problems)
    cells = [
        (place, row[column]) for place, row in confirmed for column in columns
    ]
    lists = {} if plain else _parsed_lists(cells, problems)
    texts = Counter(cell for _, cell in cells if cell and cell not in lists)
    separator = options.separator or _find_separator(texts)

    def split(cell: str, place: str) -> tuple[str, ...]:
        if cell in lists:
            return lists[cell]
        if separator is None:
            return (cell,) * bool(cell)
        return split_labels(cell, separator, place, problems)

    examples = []
    for place, row in confirmed:
        names = tuple(n for k in columns for n in split(row[k], place))
        for name in names:
            if name.lower() in NOTHING and not plain:
                problems.add(NO_LABEL, place, repr(name))
        examples.append(Example(row[path], names, place))
    shown = {example.path for example in examples}
    examples += [
        Example(row[path], (), place)
        for place, row in table.rows
        if row[path] not in shown
    ]
    forms = []
    if texts or not lists:
        forms.append(
            f'separated by {_shown(separator)}' if separator else 'one a cell'
        )
    forms += ['as lists'] * bool(lists)
    named = ', '.join(repr(table.header[k]) for k in columns)
    return examples, f'labels in {named}, {" and ".join(forms)}'


def _confirmed(
    table: tables.Table, options: TableOptions, problems: Problems
) -> list[tuple[str, list[str]]]:
    """Leaves out the rows that say that a label is absent.

    Open Images writes a row for each label that was looked for, with a
    confidence of 0 or 1.
    """
    plain = [_plain(name) for name in table.header]
    column = plain.index('confidence') if 'confidence' in plain else None
    if column is None or table.header[column] in options.ignore_columns:
        return table.rows
    marks = {cell.lower() for cell in table.column(column)}
    if not marks & {*NO}:
        return table.rows
    if not marks <= {*YES, *NO}:
        problems.add(
            'confidences that are not 0 or 1 (soft labels are not '
            'supported; --ignore-columns takes all rows for labels)',
            table.place,
            table.header[column],
        )
    return [row for row in table.rows if row[1][column].lower() not in NO]


def _parsed_lists(
    found: Iterable[tuple[str, str]], problems: Problems
) -> dict[str, tuple[str, ...]]:
    """Reads the cells that are lists, by their text."""
    lists: dict[str, tuple[str, ...]] = {}
    for place, cell in found:
        if cell in lists or (value := parse_list(cell)) is None:
            continue
        with problems.caught('lists that are not of labels', place):
            names = lists[cell] = tuple(map(str, labels_in(value)))
            # Objects are regions, of which several may have one label.
            parts = value if isinstance(value, list) else [value]
            regions = any(isinstance(part, (dict, list)) for part in parts)
            if not regions and len({*names}) < len(names):
                problems.add(REPEATS, place, repr(cell))
    return lists


def parse_list(text: str) -> Any:
    """Parses a list or object of JSON, Python or NumPy; None for others."""
    if text[:1] + text[-1:] not in ('[]', '{}', '()'):
        return None
    quoted = r"""(?:'[^']*'|"[^"]*")"""
    # Python would join texts that no comma separates.
    if re.fullmatch(rf'\[\s*{quoted}(\s+{quoted})+\s*\]', text):
        return [part[1:-1] for part in re.findall(quoted, text)]
    for load in (json.loads, ast.literal_eval):
        try:
            value = load(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, (set, tuple)):
            return sorted(value, key=str)
        return value if isinstance(value, (list, dict)) else None
    if re.fullmatch(r'\[[^][{}"\']*\]', text):
        return [part.strip() for part in text[1:-1].split(',')]
    return None


def labels_in(value: Any) -> list[str | int]:
    """Collects the labels of what an annotation tool wrote.

    These are texts and whole numbers, lists of them, and objects whose keys
    name labels: ``choices``, ``label``, ``rectanglelabels``, ``taxonomy``.

    Raises:
        ValueError: There is something else.
    """
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    if type(value) is int:
        return [value]
    if isinstance(value, list):
        return [name for item in value for name in labels_in(item)]
    if isinstance(value, dict):
        keys = [
            key
            for key in value
            if str(key).endswith(('label', 'labels'))
            or key in ('choices', 'categories', 'category', 'taxonomy')
        ]
        return [name for key in keys for name in labels_in(value[key])]
    if value is None:
        return []
    raise ValueError(f'not a label: {value!r}')


def _find_separator(texts: Counter[str]) -> str | None:
    """Returns the mark that separates labels in most cells, if any does."""
    counts = {
        mark: sum(mark in text for text in texts)
        for mark in SEPARATORS
        if mark != ',' or _separates(mark, texts)
    }
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else None


def _separates(mark: str, texts: Counter[str]) -> bool:
    """Tells whether a mark stands between labels, not within one.

    Within a name a blank follows it. Between labels most parts are found
    elsewhere, by themselves or with others.
    """
    joined = [text for text in texts if mark in text]
    if not any(f'{mark} ' in text for text in joined):
        return True
    parts = {t: {p.strip() for p in t.split(mark)} - {''} for t in texts}
    seen = Counter(part for found in parts.values() for part in found)
    known = [
        any(part in texts for part in parts[text])
        or all(seen[part] > 1 for part in parts[text])
        for text in joined
    ]
    return 2 * sum(known) >= len(known)


def split_labels(
    text: str, separator: str, place: str, problems: Problems
) -> tuple[str, ...]:
    """Splits labels; separators at either end are left out."""
    names = tables.trimmed([name.strip() for name in text.split(separator)])
    names = tables.trimmed(names[::-1])[::-1]
    if '' in names or len(set(names)) != len(names):
        problems.add(REPEATS, place, repr(text))
    return tuple(names)


def _unite_rows(
    table: tables.Table, examples: list[Example], problems: Problems
) -> list[Example]:
    """Unites the rows of each image: many tables have one for each label."""
    united: dict[str, Example] = {}
    for example in examples:
        first = united.setdefault(example.path, example)
        if bool(first.names) != bool(example.names):
            both = f'{example.path} stands at {first.place}, too'
            problems.add(CONTRADICTION, example.place, both)
        united[example.path] = first._replace(
            names=first.names + example.names
        )
    if len(united) < len(examples):
        told = f'{len(examples)} rows list {len(united)} images'
        warnings.warn(
            f'{table.source}: {told}, whose labels are united', stacklevel=4
        )
    return list(united.values())
