"""Reads the formats that annotate objects: COCO's JSON and VOC's XML.

An image is positive for every class that it has an object of, those marked
as crowds or as difficult included. The readers keep the contract of
:mod:`~ltml_mm.datasets.converters.readers`.
"""

from __future__ import annotations

import os
from typing import Any
from xml.etree import ElementTree

from tqdm import tqdm

from ltml_mm.datasets.annotations import load_json
from ltml_mm.datasets.converters.readers import list_folder, read_ids
from ltml_mm.datasets.converters.records import Example, ImageSet, Problems

# The fields of each list of COCO's JSON that are read. The rest, most of all
# the outlines of the objects, is dropped while the file is parsed.
COCO_FIELDS: dict[str, dict[str, type]] = {
    'images': {'id': int, 'file_name': str},
    'categories': {'id': int, 'name': str},
    'annotations': {'id': int, 'image_id': int, 'category_id': int},
}


def read_coco(path: str) -> ImageSet:
    """Reads COCO's instances JSON; the classes are sorted by their ids."""
    content = load_json(path, set(COCO_FIELDS).union(*COCO_FIELDS.values()))
    problems = Problems()
    images, categories, annotations = (
        _coco_entries(path, content, key, problems) for key in COCO_FIELDS
    )
    problems.check()
    labels: dict[int, set[int]] = {image_id: set() for image_id in images}
    for place, entry in annotations.values():
        for field, known in (
            ('image_id', images),
            ('category_id', categories),
        ):
            if entry[field] not in known:
                problems.add('unknown ids', f'{place}: {field} {entry[field]}')
        labels.get(entry['image_id'], set()).add(entry['category_id'])
    problems.check()
    name_of = {k: categories[k][1]['name'] for k in sorted(categories)}
    examples = []
    for image_id, (place, image) in images.items():
        names = tuple(name_of[k] for k in sorted(labels[image_id]))
        examples.append(Example(image['file_name'], names, place))
    classes = tuple(name_of.values())
    return ImageSet(examples, classes, os.path.dirname(path) or '.', path)


def _coco_entries(
    path: str, content: Any, key: str, problems: Problems
) -> dict[int, tuple[str, dict]]:
    """Returns the place and the fields of the entries of a list, by id."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path}: "{key}" must be a list')
    found: dict[int, tuple[str, dict]] = {}
    for index, entry in enumerate(entries):
        place = f'{path}: {key}[{index}]'
        if not isinstance(entry, dict):
            problems.add('bad entries', f'{place}: must be an object')
            continue
        wrong = [
            f'"{field}" is missing or not of type {kind.__name__}'
            for field, kind in COCO_FIELDS[key].items()
            if type(entry.get(field)) is not kind
        ]
        if not wrong and entry['id'] in found:
            wrong = [f'the id {entry["id"]} repeats']
        if wrong:
            problems.add('bad entries', f'{place}: {wrong[0]}')
        else:
            found[entry['id']] = (place, entry)
    return found


def read_voc(path: str, listing: str | None = None) -> ImageSet:
    """Reads VOC's XML files, whose element ``filename`` names the image.

    The folder holds either ``Annotations`` and ``JPEGImages``, or the XML
    files themselves and the images beside them.

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
            problems.add('missing annotations', f'{file}: {error.strerror}')
        # An encoding can be unknown, which is a LookupError.
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            fault = f'not an annotation of VOC: {error}'
            problems.add('broken annotations', f'{file}: {fault}')
        else:
            image = f'JPEGImages/{image}' if nested else image
            examples.append(Example(image, classes, file))
    problems.check()
    return ImageSet(examples, (), path, path)


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
