"""Reads labels: CSV, folders, COCO's and MMPretrain's JSON, VOC's XML.

Image paths refer to the folder of a file, or to the folder that is read. A
ValueError names the lines or entries of all faults.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import warnings
from collections.abc import Container
from pathlib import Path
from xml.etree import ElementTree

from pycocotools.coco import COCO
from tqdm import tqdm

from ltml_mm.datasets.annotations import load_json, read_annotations
from ltml_mm.datasets.converters.records import (
    Example,
    ImageSet,
    Problems,
    check_names,
)
from ltml_mm.datasets.images import EXTENSIONS

# Cells of a column of labels, as pandas and spreadsheets write them.
YES, NO = ('1', '1.0', 'true'), ('0', '0.0', 'false')
# What separates labels in other tables.
MARKS = ',|/+& '
NO_MARK = (
    'values that are not 0 or 1 (class names need the header "path,labels"; '
    'unknown or soft labels are not supported)'
)
SYSTEM_FILES = ('.', 'thumbs.db', 'desktop.ini')
# The keys of COCO's JSON that are read. The rest, most of all the outlines
# of the objects, is dropped while the file is parsed.
COCO_KEYS = {'images', 'file_name', 'coco_url', 'categories', 'name', 'id'}
COCO_KEYS |= {'annotations', 'image_id', 'category_id'}


def read_text(path: str) -> str:
    """Reads UTF-8 text, with or without a byte order mark."""
    try:
        return Path(path).read_text('utf-8-sig')
    except UnicodeDecodeError as error:
        told = f'{path}: not UTF-8 text; save it as such: {error}'
        raise ValueError(told) from error


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
    lists = header == ['path', 'labels']
    columns = header[0] == 'path' and header[1:2] not in ([], ['labels'])
    if not lists and not columns:
        raise ValueError(
            f'{place}: the header must be "path,labels" and no more, or '
            '"path" and one column a class, separated by commas; got '
            f'{",".join(header)!r}'
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
            marks = dict(zip(header[1:], cells[1:], strict=True))
            names = tuple(k for k in marks if marks[k].lower() in YES)
            for name, mark in marks.items():
                if mark.lower() not in YES + NO:
                    fault = f'{mark!r} in the column {name!r}'
                    problems.add(NO_MARK, place, fault)
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
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
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
    if '' in names or len(set(names)) != len(names):
        problems.add('labels that are empty or repeat', place, repr(text))
    return names


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
    first = {name: e.place for e in examples[::-1] for name in e.names if name}
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

    ``cat+dog/b.jpg`` is an image with two labels. Hidden files and those
    that Windows makes are left aside; anything else that is not an image is
    an error.
    """
    problems = Problems()
    examples = []
    for folder in _list_folder(path):
        if not folder.is_dir():
            fault = 'belongs in a folder named after its labels'
            problems.add('files outside label folders', str(folder), fault)
            continue
        names = _split(folder.name, '+', str(folder), problems)
        for file in _list_folder(folder):
            if file.suffix.lower() not in EXTENSIONS or file.is_dir():
                fault = f'not a file in {", ".join(EXTENSIONS)}'
                problems.add('entries that are not images', str(file), fault)
            image = f'{folder.name}/{file.name}'
            examples.append(Example(image, names, str(file)))
    problems.check()
    return ImageSet(examples, (), path, path)


def _list_folder(path: str | Path) -> list[Path]:
    paths = sorted(Path(path).iterdir())
    return [p for p in paths if not p.name.lower().startswith(SYSTEM_FILES)]


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


def read_coco(path: str) -> ImageSet:
    """Reads COCO's instances JSON; the classes are sorted by their ids.

    An image is positive for every class that it has an object of, crowds
    included. Ids are integers or texts. Where images have no ``file_name``,
    as in LVIS, the last two parts of ``coco_url`` are the path, or else the
    last.
    """
    content = load_json(path, COCO_KEYS)
    for key in ('images', 'categories', 'annotations'):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise ValueError(f'{path}: "{key}" must be a list')
        content[key] = [e if isinstance(e, dict) else {} for e in entries]
    images = _coco_names(path, content, 'images', 'file_name')
    categories = _coco_names(path, content, 'categories', 'name')
    problems = Problems()
    for number, entry in enumerate(content['annotations']):
        for field, ids in (('image_id', images), ('category_id', categories)):
            value = entry.get(field)
            if type(value) not in (int, str) or value not in ids:
                kind = 'ids that their list lacks (the text "7" is not 7)'
                place = f'{path}: annotations[{number}]'
                problems.add(kind, place, f'{field} {json.dumps(value)}')
        # The index asks for the ids of objects, which no label needs.
        entry['id'] = number
    problems.check()
    index = COCO()
    index.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        index.createIndex()
    examples = []
    for image_id, image in images.items():
        found = (entry['category_id'] for entry in index.imgToAnns[image_id])
        names = dict.fromkeys(categories[key].path for key in found)
        examples.append(image._replace(names=tuple(names)))
    order = sorted(categories, key=lambda key: (isinstance(key, str), key))
    classes = tuple(categories[key].path for key in order)
    return ImageSet(examples, classes, os.path.dirname(path) or '.', path)


def _coco_names(
    path: str, content: dict, key: str, field: str
) -> dict[int | str, Example]:
    """Returns the entries of a list by their ids, each with its name."""
    problems = Problems()
    found: dict[int | str, Example] = {}
    for index, entry in enumerate(content[key]):
        place = f'{path}: {key}[{index}]'
        name, number, url = map(entry.get, (field, 'id', 'coco_url'))
        others: tuple[str, ...] = ()
        if name is None and isinstance(url, str):
            parts = url.split('/')
            name, others = '/'.join(parts[-2:]), (parts[-1],)
        if type(number) not in (int, str) or not isinstance(name, str):
            fault = f'needs an "id", a number or a text, and a text "{field}"'
            problems.add('bad entries', place, fault)
        elif number in found:
            problems.add('ids that repeat', place, repr(number))
        else:
            found[number] = Example(name, (), place, others)
    problems.check()
    return found


def read_voc(path: str, listing: str | None = None) -> ImageSet:
    """Reads VOC's XML files, whose element ``filename`` names the image.

    Objects marked difficult count. Where the image is missing, the one named
    like the XML file is taken; with a listing, that one comes first. The
    folder holds either ``Annotations`` and ``JPEGImages``, to which the names
    refer, or XML files and images.

    Args:
        path: The folder.
        listing: A file with the ids of the images, in their order. Defaults
            to all, by name.
    """
    nested = os.path.isdir(os.path.join(path, 'Annotations'))
    folder = os.path.join(path, 'Annotations') if nested else path
    if listing is None:
        names = [p.name for p in _list_folder(folder) if p.suffix == '.xml']
    else:
        names = [f'{image_id}.xml' for image_id in read_names(listing)]
    problems = Problems()
    examples = []
    ends = (*EXTENSIONS, *map(str.upper, EXTENSIONS))
    for name in tqdm(names, desc=folder):
        file = os.path.join(folder, name)
        others = tuple(os.path.splitext(name)[0] + end for end in ends)
        try:
            image, classes = _read_xml(file)
            if listing is not None:  # an id names the image, too
                image, others = others[0], (*others[1:], image)
            examples.append(Example(image, classes, file, others))
        # A ParseError is a SyntaxError, an unknown encoding a LookupError.
        except (LookupError, OSError, SyntaxError, ValueError) as error:
            fault = f'not an annotation of VOC: {error}'
            problems.add('missing or broken annotations', file, fault)
    problems.check()
    root = os.path.join(path, 'JPEGImages') if nested else path
    return ImageSet(examples, (), root, path)


class _Builder(ElementTree.TreeBuilder):
    """Refuses document types: their entities can expand without bound."""

    def doctype(self, *_details: object) -> None:
        raise ValueError('declares a document type; remove the declaration')


def _read_xml(file: str) -> tuple[str, tuple[str, ...]]:
    """Returns the name of the image and the classes of the objects."""
    parser = ElementTree.XMLParser(target=_Builder())
    root = ElementTree.parse(file, parser).getroot()
    image = (root.findtext('filename') or '').strip()
    if not image:
        raise ValueError('names no image: no text in the element "filename"')
    classes = set()
    for index, item in enumerate(root.iterfind('object')):
        texts = [(name.text or '').strip() for name in item.iterfind('name')]
        if len(texts) != 1 or not texts[0]:
            raise ValueError(f'object[{index}] needs one "name" with a text')
        classes.update(texts)
    return image, tuple(sorted(classes))
