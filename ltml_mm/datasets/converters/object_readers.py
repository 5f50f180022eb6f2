"""Reads the formats that annotate objects: COCO's JSON and VOC's XML.

An image is positive for every class that it has an object of, those marked
as crowds or as difficult included. The readers keep the contract of
:mod:`~ltml_mm.datasets.converters.readers`.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Container, Iterator
from typing import Any
from xml.etree import ElementTree

from pycocotools.coco import COCO
from tqdm import tqdm

from ltml_mm.datasets.annotations import load_json
from ltml_mm.datasets.converters.readers import list_folder, read_ids
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems
from ltml_mm.datasets.images import EXTENSIONS

# The keys of COCO's JSON that are read. The rest, most of all the outlines
# of the objects, is dropped while the file is parsed.
COCO_KEYS = {'images', 'file_name', 'coco_url', 'categories', 'name', 'id'}
COCO_KEYS |= {'annotations', 'image_id', 'category_id'}


def read_coco(path: str) -> ImageSet:
    """Reads COCO's instances JSON; the classes are sorted by their ids.

    Ids are integers or texts. Where images have no ``file_name``, as in
    LVIS, the last two parts of ``coco_url`` are the path, or else the last.
    """
    content = load_json(path, COCO_KEYS)
    problems = Problems()
    images = _coco_names(path, content, 'images', 'file_name', problems)
    categories = _coco_names(path, content, 'categories', 'name', problems)
    problems.check()
    for place, entry in _coco_entries(path, content, 'annotations'):
        fault = _unknown(entry, 'image_id', images)
        fault = fault or _unknown(entry, 'category_id', categories)
        if fault:
            problems.add('unknown ids', place, fault)
    problems.check()
    objects = _index(content).imgToAnns
    examples = []
    for image_id, image in images.items():
        found = (entry['category_id'] for entry in objects[image_id])
        names = dict.fromkeys(categories[key].path for key in found)
        examples.append(image._replace(names=tuple(names)))
    order = sorted(categories, key=lambda key: (isinstance(key, str), key))
    classes = tuple(categories[key].path for key in order)
    return ImageSet(examples, classes, os.path.dirname(path) or '.', path)


def _index(content: dict[str, Any]) -> COCO:
    """Returns pycocotools' index of a checked file."""
    for number, entry in enumerate(content['annotations']):
        # It asks for the ids of objects, which no label needs.
        entry['id'] = number
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco.createIndex()
    return coco


def _coco_entries(
    path: str, content: Any, key: str
) -> Iterator[tuple[str, dict]]:
    """Yields the place and the fields of the entries of a list."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path}: "{key}" must be a list')
    for index, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        yield f'{path}: {key}[{index}]', fields


def _coco_names(
    path: str, content: Any, key: str, field: str, problems: Problems
) -> dict[int | str, Example]:
    """Returns the entries of a list by their ids, each with its name."""
    found: dict[int | str, Example] = {}
    for place, entry in _coco_entries(path, content, key):
        name = entry.get(field)
        others: tuple[str, ...] = ()
        if name is None and isinstance(entry.get('coco_url'), str):
            parts = entry['coco_url'].split('/')
            name, others = '/'.join(parts[-2:]), (parts[-1],)
        if type(entry.get('id')) not in (int, str):
            fault = '"id" is missing or neither an integer nor a text'
        elif entry['id'] in found:
            fault = f'the id {entry["id"]!r} repeats'
        elif not isinstance(name, str):
            fault = f'"{field}" is missing or no text'
        else:
            found[entry['id']] = Example(name, (), place, others)
            continue
        problems.add('bad entries', place, fault)
    return found


def _unknown(entry: dict, field: str, known: Container) -> str | None:
    """Says what is wrong with an id of another list, None if nothing is."""
    value: Any = entry.get(field)
    if type(value) in (int, str) and value in known:
        return None
    try:
        twin = str(value) if type(value) is int else int(value)
    except (TypeError, ValueError, OverflowError):
        twin = None
    if twin not in known:
        return f'{field} {value!r}'
    told, known_as = (
        f'the {"text" if isinstance(v, str) else "number"} {v!r}'
        for v in (value, twin)
    )
    return f'{field} is {told}, its list has {known_as}'


def read_voc(path: str, listing: str | None = None) -> ImageSet:
    """Reads VOC's XML files, whose element ``filename`` names the image.

    Where that image is missing, the one named like the XML file is taken.
    The folder holds either ``Annotations`` and ``JPEGImages``, to which the
    names refer, or the XML files themselves and the images beside them.

    Args:
        path: The folder.
        listing: A file with the ids of the images to read, None for all.

    Returns:
        ImageSet: The images in the order of the listing, or by name.
    """
    nested = os.path.isdir(os.path.join(path, 'Annotations'))
    folder = os.path.join(path, 'Annotations') if nested else path
    if listing is None:
        names = [
            e.name for e in list_folder(folder) if e.name.endswith('.xml')
        ]
    else:
        names = [f'{image_id}.xml' for image_id in read_ids(listing)]
    if not names:
        raise ValueError(f'{folder}: no file ends in .xml')
    problems = Problems()
    examples = []
    for name in tqdm(names, desc=folder):
        file = os.path.join(folder, name)
        try:
            image, classes = _read_xml(file)
        except OSError as error:
            problems.add('missing annotations', file, str(error.strerror))
        # An encoding can be unknown, which is a LookupError.
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            fault = f'not an annotation of VOC: {error}'
            problems.add('broken annotations', file, fault)
        else:
            stem = os.path.splitext(name)[0]
            ends = (*EXTENSIONS, *map(str.upper, EXTENSIONS))
            others = tuple(stem + end for end in ends)
            examples.append(Example(image, classes, file, others))
    problems.check()
    root = os.path.join(path, 'JPEGImages') if nested else path
    return ImageSet(examples, (), root, path)


class _Builder(ElementTree.TreeBuilder):
    """Refuses document types: their entities can expand without bound."""

    def doctype(self, *_details: object) -> None:
        raise ValueError(
            'declares a document type, whose entities are not expanded; '
            'remove the declaration'
        )


def _read_xml(file: str) -> tuple[str, tuple[str, ...]]:
    """Returns the name of the image and the classes of the objects."""
    parser = ElementTree.XMLParser(target=_Builder())
    root = ElementTree.parse(file, parser).getroot()
    if root.tag != 'annotation':
        raise ValueError(f'the root is "{root.tag}", not VOC\'s "annotation"')
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
